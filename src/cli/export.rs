//! The export and its previews: the plan (`--dry-run`) and the graphs (`--dump-ir`).

use std::path::Path;

use serde::Serialize;

use super::SCHEMA_VERSION;
use super::args::{ExportArgs, VerifyFlags};
use super::error::{CliError, ExitStatus};
use super::explain;
use super::format::{bytes, count, percent, plural, property};
use super::plan::PlanSeen;
use super::printer::Printer;
use super::resolve::resolve;
use super::verify;
use super::verify_text;
use crate::checkpoint::Checkpoint;
use crate::family::{self, Library, Resolved};
use crate::graph;
use crate::pipeline::{self, ExportReport};
use crate::verify::report::VerifyReport;

/// Runs the export, or the preview asked for.
///
/// # Errors
/// [`CliError`] of the step that fails.
pub fn run(args: &ExportArgs, how: &VerifyFlags, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    verify::refuse_without(args, how)?;
    start_threads(args.threads)?;
    if args.dump_ir {
        return dump_ir(args, printer).map(|()| ExitStatus::Success);
    }
    let request = resolve(args)?;
    if args.dry_run {
        let plan = pipeline::plan(&request)?;
        printer.result(&PlanSeen::new(&request, plan), PlanSeen::lines)?;
        return Ok(ExitStatus::Success);
    }
    if let Some(role) = &args.explain {
        let explanation = pipeline::explain(&request, role, printer)?;
        printer.result(&explanation, explain::lines)?;
        return Ok(ExitStatus::Success);
    }
    let export = pipeline::export(&request, printer)?;
    let verification = match &args.data {
        Some(data) => Some(verify::behind_export(args, how, (&export.artifact, data), printer)?),
        None => None,
    };
    printer.finish_warnings();
    let made = Made { export, verification };
    printer.result(&made, Made::lines)?;
    Ok(made.verification.as_ref().map_or(ExitStatus::Success, verify::status))
}

/// What was made, and how close it is where that was asked for.
#[derive(Serialize)]
struct Made {
    #[serde(flatten)]
    export: ExportReport,
    #[serde(skip_serializing_if = "Option::is_none")]
    verification: Option<VerifyReport>,
}

impl Made {
    fn lines(&self) -> Vec<String> {
        let mut lines = report_lines(&self.export);
        if let Some(report) = &self.verification {
            lines.push(String::new());
            lines.extend(verify_text::lines(report));
        }
        lines
    }
}

/// Opens and describes a checkpoint for showing it.
///
/// # Errors
/// [`CliError::Checkpoint`] or [`CliError::Family`].
pub fn describe(dir: &Path, family_file: Option<&Path>) -> Result<(Checkpoint, Resolved), CliError> {
    let checkpoint = Checkpoint::open(dir)?;
    let library = family_file.map_or_else(Library::built_in, Library::from_file)?;
    let resolved = family::resolve(&library, &checkpoint)?;
    Ok((checkpoint, resolved))
}

/// Starts as many worker threads as were asked for.
///
/// # Errors
/// [`CliError::Threads`].
pub fn start_threads(threads: Option<usize>) -> Result<(), CliError> {
    let Some(threads) = threads else { return Ok(()) };
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build_global();
    pool.map_err(|source| CliError::Threads { threads, source })
}

fn dump_ir(args: &ExportArgs, printer: &mut Printer) -> Result<(), CliError> {
    let (_, resolved) = describe(&args.model, args.family_file.as_deref())?;
    let ir = graph::dump(&resolved.model);
    if args.json {
        return printer.result(
            &IrObject { schema_version: SCHEMA_VERSION, family: resolved.description.family, ir },
            |_| vec![],
        );
    }
    printer.text(&ir)
}

#[derive(Serialize)]
struct IrObject {
    schema_version: u32,
    family: String,
    ir: String,
}

fn report_lines(r: &ExportReport) -> Vec<String> {
    let linears = match r.linears_quantized {
        0 => format!("{}, all float", count(r.linears as u64)),
        n => format!("{} of {} quantized", count(n as u64), count(r.linears as u64)),
    };
    let relative = match percent(r.artifact_bytes, r.source_bytes) {
        p if p.is_empty() => p,
        p => format!(", {p} of the checkpoint's {}", bytes(r.source_bytes)),
    };
    let mut lines = vec![
        property("artifact", r.artifact.display().to_string()),
        property("family", &r.family),
        property("recipe", &r.recipe),
        property("parameters", count(r.parameters)),
        property("linears", linears),
        property("size", format!("{}{relative}", bytes(r.artifact_bytes))),
    ];
    if r.calibration_samples > 0 {
        lines.push(property("calibration", plural(r.calibration_samples, "sample")));
    }
    if !r.tensors_ignored.is_empty() {
        let ignored = plural(r.tensors_ignored.len(), "tensor");
        lines.push(property(
            "not used",
            format!("{ignored} of the checkpoint (inspect lists them with reasons)"),
        ));
    }
    if !r.warnings.is_empty() {
        lines.push(property("warnings", count(r.warnings.len() as u64)));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> ExportReport {
        ExportReport {
            schema_version: pipeline::REPORT_VERSION,
            artifact: "out".into(),
            family: "qwen2_vl".into(),
            recipe: "w8a8".into(),
            parameters: 2_208_985_600,
            tensors_used: 729,
            tensors_ignored: vec![],
            linears_quantized: 0,
            linears: 329,
            calibration_samples: 0,
            source_bytes: 4_417_971_200,
            artifact_bytes: 2_600_000_000,
            warnings: vec![],
            decisions: vec![],
        }
    }

    #[test]
    fn a_quiet_report_says_what_was_made() {
        let expected = [
            "artifact     out",
            "family       qwen2_vl",
            "recipe       w8a8",
            "parameters   2,208,985,600",
            "linears      329, all float",
            "size         2.60 GB, 59 % of the checkpoint's 4.42 GB",
        ];
        assert_eq!(report_lines(&report()), expected);
    }

    #[test]
    fn what_there_is_to_know_more_is_said() {
        let mut r = report();
        (r.linears_quantized, r.calibration_samples, r.source_bytes) = (320, 1, 0);
        r.tensors_ignored.push(("a".into(), "b".into()));
        r.warnings.push("w".into());
        let text = report_lines(&r).join("\n");
        for part in
            ["320 of 329 quantized", "1 sample", "1 tensor of", "warnings     1", "size         2.60 GB\n"]
        {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}
