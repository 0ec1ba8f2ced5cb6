//! Flags -> the request the pipeline takes: defaults filled in, names made. Whether files exist and fit is the pipeline's to say.

use std::path::{Component, Path, PathBuf};

use super::args::{self, ExportArgs, Form, Format, Ops, PreprocessArgs, RunArgs, Runtime, Store};
use super::error::CliError;
use crate::export::gguf::GgufOptions;
use crate::export::onnx::{self, MsqForm, OnnxOptions, OpSet};
use crate::pipeline::{self, ExportRequest, PreprocessRequest, RunRequest, SampleFile};
use crate::quantize::recipe::{Method, Recipe};
use crate::verify::runner::RunnerKind;
use crate::verify::select::{SelectOptions, Wanted};

/// What the flags of an export ask for.
///
/// # Errors
/// [`CliError::Recipe`] when the recipe cannot be loaded, [`CliError::Flag`] and [`CliError::Form`] when flags exclude each other.
pub fn resolve(args: &ExportArgs) -> Result<ExportRequest, CliError> {
    let format = match args.format.unwrap_or(Format::Onnx) {
        Format::Onnx => pipeline::Format::Onnx(onnx_options(args)?),
        Format::Gguf => pipeline::Format::Gguf(gguf_options(args)?),
    };
    let recipe = recipe(args, &format)?;
    let out = args.out.clone().unwrap_or_else(|| default_out(&args.model, &recipe.name, &format));
    let calibration = args.calibration.as_ref().map(|path| SampleFile {
        path: path.clone(),
        allow_outside: args.allow_outside,
        limit: args.calibration_samples,
    });
    Ok(ExportRequest {
        model: args.model.clone(),
        out,
        force: args.force,
        recipe,
        calibration,
        family_file: args.family_file.clone(),
        format,
        activation_memory: args.activation_memory,
    })
}

/// What the flags of `preprocess` ask for.
pub fn preprocess(args: &PreprocessArgs) -> PreprocessRequest {
    PreprocessRequest {
        model: args.folder.clone(),
        images: args.images.clone(),
        prompt: args.prompt.clone(),
        system: args.system.clone(),
        family_file: args.family_file.clone(),
        out: args.out.clone(),
        force: args.force,
    }
}

/// The runtime that a flag asks for.
pub fn wanted(runtime: Runtime) -> Wanted {
    match runtime {
        Runtime::Auto => Wanted::Auto,
        Runtime::Onnxruntime => Wanted::Kind(RunnerKind::OnnxRuntime),
        Runtime::LlamaCpp => Wanted::Kind(RunnerKind::LlamaCpp),
        Runtime::Embedded => Wanted::Kind(RunnerKind::Embedded),
    }
}

/// What the flags of `run` ask for.
pub fn run(args: &RunArgs) -> RunRequest {
    RunRequest {
        artifact: args.artifact.clone(),
        images: args.images.clone(),
        prompt: args.prompt.clone(),
        system: args.system.clone(),
        max_new_tokens: args.max_new_tokens,
        runtime: wanted(args.runtime),
        options: SelectOptions {
            provider: args.provider.clone(),
            server: args.server.clone(),
            threads: args.threads,
            ..SelectOptions::default()
        },
        family_file: args.family_file.clone(),
    }
}

/// The recipe named, or the default of the format.
fn recipe(args: &ExportArgs, format: &pipeline::Format) -> Result<Recipe, CliError> {
    let default = match format {
        pipeline::Format::Onnx(_) => "w4a8",
        pipeline::Format::Gguf(_) => "q4_k_m",
    };
    let recipe = Recipe::load(args.recipe.as_deref().unwrap_or(default)).map_err(CliError::Recipe)?;
    let method = match args.method {
        None => return Ok(recipe),
        Some(args::Method::Gptq) => Method::Gptq,
        Some(args::Method::Importance) => Method::Importance,
        Some(args::Method::Nearest) => Method::Nearest,
    };
    recipe.with_method(method).map_err(CliError::Recipe)
}

/// Refuses flags of another format; `given` pairs names with whether they were typed.
fn refuse(given: &[(&'static str, bool)], format: &'static str, other: &'static str) -> Result<(), CliError> {
    match given.iter().find(|(_, given)| *given) {
        Some((flag, _)) => Err(CliError::Flag { flag, format, other }),
        None => Ok(()),
    }
}

fn gguf_options(args: &ExportArgs) -> Result<GgufOptions, CliError> {
    let of_onnx = [
        ("ops", args.ops.is_some()),
        ("msq-form", args.msq_form.is_some()),
        ("form", args.form.is_some()),
        ("store", args.store.is_some()),
    ];
    refuse(&of_onnx, "gguf", "onnx")?;
    Ok(GgufOptions { split: args.split_size })
}

fn onnx_options(args: &ExportArgs) -> Result<OnnxOptions, CliError> {
    let of_gguf = [("method", args.method.is_some()), ("split-size", args.split_size.is_some())];
    refuse(&of_gguf, "onnx", "gguf")?;
    let form = args.form.map(|form| match form {
        Form::Int8Gemm => onnx::Form::Int8Gemm,
        Form::MatMulNBits => onnx::Form::MatMulNBits,
        Form::Portable => onnx::Form::Portable,
    });
    let store = match args.store {
        None | Some(Store::Auto) => None,
        Some(Store::Int4) => Some(onnx::Store::Int4),
        Some(Store::Int8) => Some(onnx::Store::Int8),
    };
    let ops = args.ops.map_or(OpSet::Ort, op_set);
    let options = OnnxOptions { ops, form, store, msq: args.msq_form.map_or(MsqForm::default(), msq_form) };
    options.valid().map_err(CliError::Form)?;
    Ok(options)
}

fn op_set(ops: Ops) -> OpSet {
    match ops {
        Ops::Ort => OpSet::Ort,
        Ops::Standard => OpSet::Standard,
    }
}

fn msq_form(form: args::MsqForm) -> MsqForm {
    match form {
        args::MsqForm::RowScale => MsqForm::RowScale,
        args::MsqForm::Split => MsqForm::Split,
    }
}

/// `<model>-<recipe>-<format>` in the current folder, never inside the checkpoint.
fn default_out(model: &Path, recipe: &str, format: &pipeline::Format) -> PathBuf {
    PathBuf::from(format!("{}-{recipe}-{}", model_name(model), format.name()))
}

/// What a user would call the model in this folder.
fn model_name(model: &Path) -> String {
    // `.` and `dir/..` have no name of their own; a path that does not exist keeps the one it was given.
    let named =
        !matches!(model.components().next_back(), None | Some(Component::CurDir | Component::ParentDir));
    let path = if named { model.to_path_buf() } else { model.canonicalize().unwrap_or_default() };
    let name = |p: &Path| p.file_name().map(|n| n.to_string_lossy().into_owned());
    // A snapshot of the hub cache, `models--Qwen--Qwen2-VL-2B-Instruct/snapshots/<revision>`, is named by a hash.
    let snapshots = path.parent().filter(|p| p.file_name().is_some_and(|n| n == "snapshots"));
    let repository = snapshots.and_then(Path::parent).and_then(name);
    let hub =
        repository.as_deref().and_then(|r| r.strip_prefix("models--")).and_then(|r| r.rsplit("--").next());
    hub.map(String::from).or_else(|| name(&path)).unwrap_or_else(|| "model".into())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::args::Args;

    fn request(line: &str) -> Result<ExportRequest, CliError> {
        let args = Args::try_parse_from(line.split_whitespace()).unwrap();
        resolve(&args.export.unwrap())
    }

    #[test]
    fn defaults() {
        let r = request("x models/Qwen2-VL-2B/ --format onnx").unwrap();
        assert_eq!(r.out, Path::new("Qwen2-VL-2B-w4a8-onnx"));
        let onnx = r.format.onnx().unwrap();
        assert_eq!((r.recipe.name.as_str(), onnx.ops), ("w4a8", OpSet::Ort));
        assert_eq!(onnx.msq, MsqForm::RowScale);
        assert!(r.calibration.is_none() && !r.force && r.family_file.is_none());
    }

    #[test]
    fn flags_arrive_where_they_belong() {
        let line = "x m --format onnx --recipe float --calibration c.tsv --calibration-samples 3 --allow-outside -o o \
                    --force --ops standard --msq-form split --family-file f.yaml";
        let r = request(line).unwrap();
        let c = r.calibration.unwrap();
        assert_eq!((c.path.as_path(), c.limit, c.allow_outside), (Path::new("c.tsv"), Some(3), true));
        let onnx = r.format.onnx().unwrap();
        assert_eq!((r.out.as_path(), r.force, onnx.ops), (Path::new("o"), true, OpSet::Standard));
        assert_eq!(onnx.msq, MsqForm::Split);
        assert_eq!(r.family_file.as_deref(), Some(Path::new("f.yaml")));
    }

    #[test]
    fn forms_and_what_is_stored() {
        let onnx =
            |flags: &str| request(&format!("x m --format onnx {flags}")).map(|r| *r.format.onnx().unwrap());
        assert_eq!(onnx("").unwrap(), OnnxOptions::new(OpSet::Ort));
        let asked = onnx("--form int8-gemm --store int4 --ops standard").unwrap();
        assert_eq!((asked.form, asked.store), (Some(onnx::Form::Int8Gemm), Some(onnx::Store::Int4)));
        assert_eq!(onnx("--form portable --ops standard").unwrap().form, Some(onnx::Form::Portable));
        assert_eq!(onnx("--form matmulnbits").unwrap().form, Some(onnx::Form::MatMulNBits));
        assert_eq!(onnx("--store int8").unwrap().store, Some(onnx::Store::Int8));
        for (flags, word) in [
            ("--form matmulnbits --ops standard", "--ops standard"),
            ("--form portable --store int4", "--store int4"),
            ("--form matmulnbits --store int8", "--store int8"),
        ] {
            let e = onnx(flags).unwrap_err();
            assert_eq!(e.status(), crate::cli::ExitStatus::UserError);
            assert!(e.to_string().contains(word), "{e}");
        }
    }

    #[test]
    fn flags_belong_to_a_format() {
        let r = request("x models/m --format gguf --split-size 2GB").unwrap();
        assert_eq!((r.out.as_path(), r.recipe.name.as_str()), (Path::new("m-q4_k_m-gguf"), "q4_k_m"));
        assert_eq!(r.format, pipeline::Format::Gguf(GgufOptions { split: Some(2_000_000_000) }));
        assert!(!request("x m --format gguf --method nearest").unwrap().recipe.needs_calibration());
        for (line, flag) in [
            ("--format gguf --ops ort", "--ops"),
            ("--format gguf --store auto", "--store"),
            ("--format gguf --form portable", "--form"),
            ("--format gguf --msq-form split", "--msq-form"),
            ("--format onnx --method gptq", "--method"),
            ("--format onnx --split-size 1GB", "--split-size"),
        ] {
            let e = request(&format!("x m {line}")).unwrap_err();
            assert_eq!(e.status(), crate::cli::ExitStatus::UserError);
            assert!(e.to_string().starts_with(flag), "{e}");
        }
    }

    #[test]
    fn an_unknown_recipe_is_the_users_to_mend() {
        let e = request("x m --format onnx --recipe w3a3").unwrap_err();
        assert_eq!(e.status(), crate::cli::ExitStatus::UserError);
        assert!(e.to_string().contains("w3a3"), "{e}");
    }

    #[test]
    fn models_are_named_after_their_folder_or_repository() {
        let snapshot =
            "hub/models--Qwen--Qwen2-VL-2B-Instruct/snapshots/895c3a49bc3fa70a340399125c650a463535e71c";
        let names = [snapshot, "/a/b", "b/", "x/snapshots/y", "a/./b"].map(|p| model_name(Path::new(p)));
        assert_eq!(names, ["Qwen2-VL-2B-Instruct", "b", "b", "y", "b"]);
        let here = std::env::current_dir().unwrap();
        assert_eq!(model_name(Path::new(".")), here.file_name().unwrap().to_string_lossy());
        assert_eq!(model_name(Path::new("/")), "model");
    }
}
