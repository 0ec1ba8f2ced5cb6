//! The plan of an export (`--dry-run`): what will be written where, and the precision of every linear.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::SCHEMA_VERSION;
use super::format::{count, plural, property, rotations, table};
use super::forms::{FormsSeen, form};
use crate::export::onnx::{LinearForm, OnnxOptions};
use crate::graph::Model;
use crate::pipeline::{ExportRequest, Plan};
use crate::quantize::recipe::{Activations, DownProjections, Remedy, Weights};
use crate::quantize::{Decision, LinearPlan, RotationNote};

/// A plan as shown.
#[derive(Debug, Serialize)]
pub struct PlanSeen {
    schema_version: u32,
    kind: &'static str,
    model: PathBuf,
    out: PathBuf,
    family: String,
    title: String,
    parameters: u64,
    recipe: String,
    format: &'static str,
    /// What ONNX graphs look like.
    #[serde(skip_serializing_if = "Option::is_none")]
    onnx: Option<OnnxSeen>,
    /// Data set file; absent when the recipe needs none.
    calibration: Option<PathBuf>,
    calibration_samples: Option<usize>,
    /// What is rotated before weights are quantized, and what is left.
    rotations: Vec<RotationNote>,
    down_projections: DownProjections,
    /// Elements of a head that the checkpoint ties to its token table and the export writes on its own.
    untied_head: Option<usize>,
    linears_quantized: usize,
    linears: Vec<LinearPlan>,
    /// The token table.
    table: LinearPlan,
}

/// Forms of ONNX graphs.
#[derive(Debug, Serialize)]
struct OnnxSeen {
    ops: &'static str,
    msq_form: &'static str,
    /// Forms of the linears.
    forms: FormsSeen,
    #[serde(skip)]
    options: OnnxOptions,
}

impl PlanSeen {
    /// The plan `plan` of `request`.
    pub fn new(request: &ExportRequest, plan: Plan) -> Self {
        let used = request.calibration.as_ref().filter(|_| request.recipe.needs_calibration());
        Self {
            schema_version: SCHEMA_VERSION,
            kind: "plan",
            model: request.model.clone(),
            out: request.out.clone(),
            family: plan.resolved().description.family.clone(),
            title: plan.resolved().description.title.clone(),
            parameters: plan.parameters(),
            recipe: request.recipe.name.clone(),
            format: request.format.name(),
            onnx: request.format.onnx().map(|options| OnnxSeen {
                ops: options.ops.name(),
                msq_form: options.msq.name(),
                forms: FormsSeen::new(options, &plan.linears.linears),
                options: *options,
            }),
            calibration: used.map(|c| c.path.clone()),
            calibration_samples: used.and_then(|c| c.limit),
            rotations: plan.rotations().to_vec(),
            down_projections: request.recipe.down_projections.clone(),
            untied_head: untied_head(&plan.resolved().model).filter(|_| !plan.linears.shares_head),
            linears_quantized: plan.linears.quantized(),
            linears: plan.linears.linears,
            table: plan.linears.table,
        }
    }

    /// For people: linears of one kind are one line.
    pub fn lines(&self) -> Vec<String> {
        let calibration = match (&self.calibration, self.calibration_samples) {
            (Some(file), Some(n)) => format!("{}, at most {}", file.display(), plural(n, "sample")),
            (Some(file), None) => file.display().to_string(),
            (None, _) => "not needed".into(),
        };
        let (quantized, all) = (count(self.linears_quantized as u64), count(self.linears.len() as u64));
        let mut lines = vec![
            property("model", self.model.display().to_string()),
            property("family", format!("{} ({})", self.family, self.title)),
            property("parameters", count(self.parameters)),
            property("recipe", &self.recipe),
            property("calibration", calibration),
            property("format", self.format),
            property("output", self.out.display().to_string()),
            property("linears", format!("{quantized} of {all} quantized")),
        ];
        if let Some(onnx) = &self.onnx {
            lines.push(property("operators", format!("{}, two scales by {}", onnx.ops, onnx.msq_form)));
            lines.extend(onnx.forms.lines());
        }
        lines.extend(rotations(&self.rotations));
        if !self.down_projections.is_none() {
            let remedies: Vec<String> = self.down_projections.candidates.iter().map(remedy).collect();
            lines.push(property(
                "outliers",
                format!("down projections: {}, by expected error", remedies.join(", ")),
            ));
        }
        if let Some(n) = self.untied_head {
            let n = count(n as u64);
            lines.push(property(
                "head",
                format!("tied to the token table in the checkpoint, {n} weights of its own here"),
            ));
        }
        lines.push(String::new());
        lines.extend(table(&self.rows(), &[1]));
        lines
    }

    fn rows(&self) -> Vec<Vec<String>> {
        // The key begins with the place of the first such linear, so that rows come in graph order.
        let mut first: BTreeMap<Vec<String>, usize> = BTreeMap::new();
        let mut groups: BTreeMap<(usize, Vec<String>), usize> = BTreeMap::new();
        // A float token table is what everyone expects.
        let table = Some(&self.table).filter(|t| t.precision.weights != Weights::Float);
        for (i, linear) in table.into_iter().chain(&self.linears).enumerate() {
            let form = self.onnx.as_ref().map(|onnx| form(&onnx.options, linear));
            let cells = cells(linear, form);
            let place = *first.entry(cells.clone()).or_insert(i);
            *groups.entry((place, cells)).or_default() += 1;
        }
        let head = ["linear", "number", "out x in", "precision", ""].map(String::from).to_vec();
        let rows = groups.into_iter().map(|((_, mut cells), n)| {
            cells.insert(1, n.to_string());
            cells
        });
        std::iter::once(head).chain(rows).collect()
    }
}

/// Role pattern, shape, precision, and the override that decided. `form`: that of the ONNX linear, if the format is ONNX and the weights are on a grid.
fn cells(linear: &LinearPlan, form: Option<Option<LinearForm>>) -> Vec<String> {
    let weights = linear.precision.weights;
    let integer = matches!(form, Some(None | Some(LinearForm::Int8Gemm)));
    let precision = match linear.precision.activations {
        a if form.is_none() => {
            let scales = if a == Activations::Float { "" } else { ", activation scales as metadata" };
            format!("{weights} weights{scales}")
        }
        a if a != Activations::Float && !integer => {
            format!("{weights} weights, float inputs: the form has no activation scales")
        }
        Activations::Float if !linear.precision.is_quantized() => "float".to_string(),
        Activations::Float => format!("{weights} weights, float inputs"),
        Activations::Static => format!("{weights} weights, int8 inputs at one static scale"),
        Activations::Msq => format!("{weights} weights, int8 inputs at a static scale per modality"),
        Activations::Dynamic => format!("{weights} weights, int8 inputs at a scale per row"),
    };
    let decided = match &linear.decided_by {
        Decision::Component => String::new(),
        Decision::Override(pattern) => format!("override {pattern}"),
        Decision::Budget => "budget".to_string(),
        Decision::Mix => "mix".to_string(),
        Decision::Fallback { wanted } => {
            format!("{wanted} does not fit: {} inputs are not whole blocks", linear.input)
        }
        Decision::ImagePatches => "image patches: a convolution, whose weights are floats".to_string(),
        Decision::SharedWithHead => "one tensor with the head".to_string(),
        Decision::Suppressed => "suppressed channel: added in float".to_string(),
        Decision::ConstantInput => "input is constant: computed once, at load".to_string(),
    };
    vec![pattern(&linear.role), format!("{} x {}", linear.out, linear.input), precision, decided]
}

/// Elements of the head, where the checkpoint has none but the token table.
fn untied_head(model: &Model) -> Option<usize> {
    let d = &model.spec.decoder;
    d.tied_head.then_some(d.vocab * d.width)
}

/// A remedy for people.
fn remedy(remedy: &Remedy) -> String {
    let block = |b: usize| if b == 0 { "of all channels".to_string() } else { format!("over blocks of {b}") };
    match *remedy {
        Remedy::Smooth => "smoothing".into(),
        Remedy::Hadamard(b) => format!("Hadamard product {}", block(b)),
        Remedy::HadamardRms(b) => format!("Hadamard product {} with RMS", block(b)),
    }
}

/// The role with `*` for layer numbers.
fn pattern(role: &str) -> String {
    let word = |w: &str| if w.bytes().all(|b| b.is_ascii_digit()) { "*".to_string() } else { w.to_string() };
    role.split('.').map(word).collect::<Vec<_>>().join(".")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::onnx::OpSet;
    use crate::quantize::recipe::Precision;

    fn linear(role: &str, activations: Activations, decided_by: Decision) -> LinearPlan {
        let weights = if activations == Activations::Float { Weights::Float } else { Weights::INT8 };
        let precision = Precision { weights, activations };
        LinearPlan { role: role.into(), out: 8, input: 4, precision, decided_by }
    }

    #[test]
    fn linears_of_one_kind_are_one_line_in_graph_order() {
        let seen = PlanSeen {
            schema_version: 1,
            kind: "plan",
            model: "m".into(),
            out: "o".into(),
            family: "f".into(),
            title: "F".into(),
            parameters: 1000,
            recipe: "w8a8".into(),
            format: "onnx",
            onnx: Some(OnnxSeen {
                ops: "ort",
                msq_form: "row-scale",
                forms: FormsSeen::new(&OnnxOptions::new(OpSet::Ort), &[]),
                options: OnnxOptions::new(OpSet::Ort),
            }),
            calibration: Some("c.tsv".into()),
            calibration_samples: Some(1),
            rotations: vec![],
            down_projections: DownProjections::default(),
            untied_head: Some(1234),
            linears_quantized: 3,
            linears: vec![
                linear("vision.blocks.0.mlp.up", Activations::Static, Decision::Component),
                linear("decoder.layers.0.attn.q", Activations::Msq, Decision::Component),
                linear("decoder.layers.1.attn.q", Activations::Msq, Decision::Component),
                linear("decoder.head", Activations::Float, Decision::Override("*.head".into())),
            ],
            table: linear("embedding", Activations::Float, Decision::Component),
        };
        let lines = seen.lines();
        assert!(lines.contains(&"calibration  c.tsv, at most 1 sample".to_string()), "{lines:?}");
        assert!(lines.iter().any(|l| l.starts_with("head ") && l.contains("1,234 weights")), "{lines:?}");
        let table: Vec<&str> = lines.iter().skip_while(|l| !l.is_empty()).skip(2).map(|l| l.trim()).collect();
        assert_eq!(table.len(), 3, "{table:?}");
        assert!(table[0].starts_with("vision.blocks.*.mlp.up") && table[0].contains("one static scale"));
        assert!(
            table[1].starts_with(
                "decoder.layers.*.attn.q       2  8 x 4     int8 weights, int8 inputs at a static"
            ),
            "{table:?}"
        );
        assert!(table[2].starts_with("decoder.head") && table[2].ends_with("override *.head"), "{table:?}");
        assert_eq!(serde_json::to_value(&seen).unwrap()["linears"][1]["role"], "decoder.layers.0.attn.q");
    }
}
