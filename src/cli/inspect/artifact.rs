//! An exported folder: its manifest, whether the files are still those that were written, and its graphs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::gguf::{self, GgufSeen};
use super::onnx::{self, OnnxSeen};
use crate::cli::SCHEMA_VERSION;
use crate::cli::error::CliError;
use crate::cli::format::{bytes, count, plural, property, rotations, table};
use crate::export::gguf::is_later_shard;
use crate::graph::Component;
use crate::pipeline::{Manifest, OnnxForm, QuantizedLinear};
use crate::quantize::WeightOutcome;

/// An artifact as seen.
#[derive(Debug, Serialize)]
pub struct ArtifactSeen {
    schema_version: u32,
    kind: &'static str,
    path: PathBuf,
    /// Bytes of all files of the manifest.
    bytes: u64,
    components: Vec<ComponentSeen>,
    /// `ok`, or `changed` also when the file is gone.
    files: Vec<FileSeen>,
    graphs: Vec<GraphSeen>,
    /// GGUF models, named by their first file.
    models: Vec<ModelSeen>,
    /// The manifest as it stands, scales included.
    manifest: Manifest,
}

/// Quantized linears of one component.
#[derive(Debug, Serialize)]
struct ComponentSeen {
    name: &'static str,
    /// Their number by grid of the weights.
    linears: BTreeMap<String, usize>,
    /// Those that are integer products.
    integer_linears: usize,
    /// Those in other forms, by name: their inputs are floats.
    other_linears: BTreeMap<String, usize>,
    /// Those with a scale per modality.
    two_scales: usize,
}

#[derive(Debug, Serialize)]
struct FileSeen {
    name: String,
    bytes: u64,
    state: &'static str,
}

/// A graph file; unreadable ones are told, not fatal: the other files are still worth seeing.
#[derive(Debug, Serialize)]
struct GraphSeen {
    name: String,
    #[serde(flatten)]
    graph: Option<OnnxSeen>,
    error: Option<String>,
}

/// A GGUF model; unreadable ones are told, not fatal.
#[derive(Debug, Serialize)]
struct ModelSeen {
    name: String,
    #[serde(flatten)]
    model: Option<GgufSeen>,
    error: Option<String>,
}

/// Looks at the artifact in `path`. Reads every file to hash it.
///
/// # Errors
/// [`CliError`] when the manifest or a file cannot be read.
pub fn inspect(path: &Path) -> Result<ArtifactSeen, CliError> {
    let manifest = Manifest::read(path)?;
    let changed = manifest.changed_files(path)?;
    let files = manifest.files.iter().map(|f| FileSeen {
        name: f.name.clone(),
        bytes: f.bytes,
        state: if changed.contains(&f.name) { "changed" } else { "ok" },
    });
    let files: Vec<FileSeen> = files.collect();
    let graphs = files.iter().filter(|f| f.name.ends_with(".onnx")).map(|f| graph(path, &f.name));
    let names = files.iter().map(|f| f.name.as_str());
    let models = names.filter(|n| n.ends_with(".gguf") && !is_later_shard(n)).map(|n| model(path, n));
    Ok(ArtifactSeen {
        schema_version: SCHEMA_VERSION,
        kind: "artifact",
        path: path.to_path_buf(),
        bytes: files.iter().map(|f| f.bytes).sum(),
        components: components(&manifest),
        graphs: graphs.collect(),
        models: models.collect(),
        files,
        manifest,
    })
}

fn graph(dir: &Path, name: &str) -> GraphSeen {
    let (graph, error) = match onnx::inspect(&dir.join(name)) {
        Ok(graph) => (Some(graph), None),
        Err(e) => (None, Some(e.to_string())),
    };
    GraphSeen { name: name.to_string(), graph, error }
}

fn model(dir: &Path, name: &str) -> ModelSeen {
    let (model, error) = match gguf::inspect(&dir.join(name)) {
        Ok(model) => (Some(model), None),
        Err(e) => (None, Some(e.to_string())),
    };
    ModelSeen { name: name.to_string(), model, error }
}

fn components(manifest: &Manifest) -> Vec<ComponentSeen> {
    let int8 = |l: &&QuantizedLinear| l.form == "int8-gemm";
    let seen = Component::ALL.into_iter().map(|component| {
        let own = || manifest.linears.iter().filter(move |l| Component::of_role(&l.role) == Some(component));
        let mut other: BTreeMap<String, usize> = BTreeMap::new();
        own().filter(|l| !int8(l)).for_each(|l| *other.entry(l.form.clone()).or_default() += 1);
        ComponentSeen {
            name: component.name(),
            linears: own().fold(BTreeMap::new(), |mut grids, l| {
                *grids.entry(l.weights.to_string()).or_default() += 1;
                grids
            }),
            integer_linears: own().filter(int8).count(),
            other_linears: other,
            two_scales: own().filter(int8).filter(|l| l.visual_scale != l.text_scale).count(),
        }
    });
    seen.filter(|c| !c.linears.is_empty()).collect()
}

/// What is special about ONNX graphs.
fn operators(onnx: &OnnxForm) -> String {
    let modality = if onnx.modality_channel { ", modality as one more channel of inputs_embeds" } else { "" };
    let form = onnx.msq_form.as_ref().map_or(String::new(), |f| format!(", two scales by {f}"));
    format!(", operators {}{form}{modality}", onnx.ops)
}

impl ArtifactSeen {
    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let m = &self.manifest;
        let samples = m.calibration.as_ref().map_or(0, |c| c.samples.len());
        let form = m.onnx.as_ref().map_or(String::new(), operators);
        let mut lines = vec![
            property("artifact", self.path.display().to_string()),
            property("made by", format!("{} {}", m.tool.name, m.tool.version)),
            property("family", &m.family),
            property("recipe", format!("{}  {}", m.recipe.name, m.recipe.description)),
            property("format", format!("{}{form}", m.format)),
            property("size", format!("{} in {}", bytes(self.bytes), plural(self.files.len(), "file"))),
            property("calibration", if samples == 0 { "none".into() } else { plural(samples, "sample") }),
        ];
        lines.extend(rotations(&m.rotations));
        lines.extend(self.component_lines());
        lines.extend(self.graph_lines());
        lines.extend(self.file_lines());
        lines.extend(self.scale_lines());
        lines
    }

    fn component_lines(&self) -> Vec<String> {
        let line = |c: &ComponentSeen| {
            let grids: Vec<String> = c.linears.iter().map(|(grid, n)| format!("{n} {grid}")).collect();
            let (integer, two) = (count(c.integer_linears as u64), count(c.two_scales as u64));
            let integer = format!("{integer} as integer products, {two} of them with a scale per modality");
            let integer = Some(integer).filter(|_| c.integer_linears > 0);
            let other = c.other_linears.iter().map(|(form, n)| format!("{n} by {form}"));
            let forms = integer.into_iter().chain(other).collect::<Vec<_>>().join(", ");
            property(c.name, format!("{} linears: {forms}", grids.join(", ")))
        };
        self.components.iter().map(line).collect()
    }

    fn graph_lines(&self) -> Vec<String> {
        let seen = |name: &String, lines: Option<Vec<String>>, error: &Option<String>| {
            let error = || vec![format!("cannot be read: {}", error.as_deref().unwrap_or_default())];
            let lines =
                lines.unwrap_or_else(error).into_iter().map(|l| format!("  {l}").trim_end().to_string());
            [String::new(), name.clone()].into_iter().chain(lines).collect::<Vec<_>>()
        };
        let graphs =
            self.graphs.iter().flat_map(|g| seen(&g.name, g.graph.as_ref().map(OnnxSeen::lines), &g.error));
        let models =
            self.models.iter().flat_map(|m| seen(&m.name, m.model.as_ref().map(GgufSeen::lines), &m.error));
        graphs.chain(models).collect()
    }

    fn file_lines(&self) -> Vec<String> {
        let changed = self.files.iter().filter(|f| f.state != "ok").count();
        let state = match changed {
            0 => "files (all as written)".to_string(),
            n => format!("files ({} changed or missing since the export)", count(n as u64)),
        };
        let rows: Vec<_> =
            self.files.iter().map(|f| vec![f.name.clone(), bytes(f.bytes), f.state.to_string()]).collect();
        [String::new(), state].into_iter().chain(table(&rows, &[1])).collect()
    }

    fn scale_lines(&self) -> Vec<String> {
        if self.manifest.linears.is_empty() {
            return vec![];
        }
        let head = [
            "linear",
            "weights",
            "visual",
            "text",
            "largest visual",
            "largest text",
            "weight error",
            "nearest",
        ];
        let rows = self.manifest.linears.iter().map(|l| {
            let scale = |s: Option<f32>| s.map_or_else(String::new, |x| format!("{x:.4e}"));
            let scales = [l.visual_scale, l.text_scale, Some(l.visual_max), Some(l.text_max)].map(scale);
            let error = |of: fn(&WeightOutcome) -> f64| {
                l.rounding.as_ref().map_or_else(String::new, |r| format!("{:.2} %", 100.0 * of(r)))
            };
            let errors = [error(|r| r.error), error(|r| r.nearest_error)];
            [l.role.clone(), l.weights.to_string()].into_iter().chain(scales).chain(errors).collect()
        });
        let rows: Vec<Vec<String>> = std::iter::once(head.map(String::from).to_vec()).chain(rows).collect();
        let title = "quantized linears: static scales, largest inputs in calibration, error of the outputs by rounding weights as done, and to the \
                     nearest code";
        [String::new(), title.to_string()].into_iter().chain(table(&rows, &[2, 3, 4, 5, 6, 7])).collect()
    }
}
