//! GGUF files of the trained fixture and of its twin, made by the program.

use std::path::{Path, PathBuf};

use mquant_export::calibrate::Sample;

use super::agreement::Said;
use super::case::Case;
use super::eval::TINY;
use super::fixture;
use super::judge::{mquant, text};
use super::llama::{Arithmetic, Files, said};

/// Ways to find weights, as `--method` names them.
pub const METHODS: [&str; 3] = ["nearest", "importance", "gptq"];

/// Recipes whose accuracy is measured.
pub const TEXT_RECIPES: [&str; 3] = ["q4_0", "q4_k_m", "q8_0"];

/// The folder of a model's files, made into `dir` with the trained fixture's calibration data.
pub fn exported(dir: &Path, name: &str, model: &Path, recipe: &str, method: Option<&str>) -> PathBuf {
    let out = dir.join(format!("{name}-{recipe}-{}", method.unwrap_or("as-is")));
    let (model, target) = (text(model), text(&out));
    let data = text(&fixture(TINY).join("calibration.tsv"));
    let mut flags = vec![model.as_str(), "--format", "gguf", "--recipe", recipe, "-o", &target, "--quiet"];
    if let Some(method) = method {
        flags.extend(["--method", method, "--calibration", &data]);
    }
    mquant(&flags);
    out
}

/// What the files of a folder say in llama.cpp on the answers of samples.
pub fn said_by(case: &Case, folder: &Path, samples: &[Sample]) -> Said {
    let prompts = (&case.preparer, case.resolved.model.spec.image_token_id);
    let stop = &case.resolved.description.prompt.eos_token_ids;
    said(&Files::of(folder), Arithmetic::Default, prompts, stop, samples)
}
