//! `verify`: how close an exported folder is to its checkpoint, told, written as reports, and turned into the exit code.

use std::io::Write;
use std::path::{Path, PathBuf};

use super::args::{self, ExportArgs, VerifyArgs, VerifyFlags};
use super::error::{CliError, ExitStatus};
use super::export::start_threads;
use super::printer::Printer;
use super::resolve::wanted;
use super::verify_text;
use crate::pipeline::{self, SampleFile, VerifyRequest};
use crate::quantize::recipe::Thresholds;
use crate::verify::markdown::markdown;
use crate::verify::page;
use crate::verify::report::VerifyReport;
use crate::verify::score::Metric;
use crate::verify::select::{SelectOptions, Wanted};

/// Verifies, writes the reports asked for, and says whether every check passed.
///
/// # Errors
/// [`CliError`] when the verification came to no result or a report cannot be written.
pub fn run(args: &VerifyArgs, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    start_threads(args.threads)?;
    let request = VerifyRequest {
        artifact: args.artifact.clone(),
        reference: args.reference.clone(),
        family_file: args.family_file.clone(),
        data: SampleFile {
            path: args.data.clone(),
            allow_outside: args.allow_outside,
            limit: args.how.samples,
        },
        ..request(&args.how, args.threads)?
    };
    let report = verified(&request, &args.how, printer)?;
    if let Some(path) = args.json.as_deref().filter(|p| *p != Path::new("-")) {
        let json = serde_json::to_string_pretty(&report).map_err(CliError::Json)? + "\n";
        write(path, json.as_bytes())?;
    }
    printer.result(&report, verify_text::lines)?;
    Ok(status(&report))
}

/// Verifies what `export` made of a checkpoint, by the flags of the export.
///
/// # Errors
/// As [`run`].
pub fn behind_export(
    args: &ExportArgs,
    how: &VerifyFlags,
    (artifact, data): (&Path, &Path),
    printer: &mut Printer,
) -> Result<VerifyReport, CliError> {
    let request = VerifyRequest {
        artifact: artifact.to_path_buf(),
        reference: args.model.clone(),
        family_file: args.family_file.clone(),
        data: SampleFile { path: data.to_path_buf(), allow_outside: args.allow_outside, limit: how.samples },
        ..request(how, args.threads)?
    };
    verified(&request, how, printer)
}

/// Flags of a verification that were given to an export without one are a mistake.
///
/// # Errors
/// [`CliError::WithoutVerify`].
pub fn refuse_without(args: &ExportArgs, how: &VerifyFlags) -> Result<(), CliError> {
    let given = [
        ("runtime", how.runtime.is_some()),
        ("provider", how.provider.is_some()),
        ("server", how.server.is_some()),
        ("max-kld", how.max_kld.is_some()),
        ("min-top1", how.min_top1.is_some()),
        ("max-flips", how.max_flips.is_some()),
        ("max-accuracy-drop", how.max_accuracy_drop.is_some()),
        ("metric", how.metric.is_some()),
        ("samples", how.samples.is_some()),
        ("max-new-tokens", how.max_new_tokens.is_some()),
        ("attribution-samples", how.attribution_samples.is_some()),
        ("html", how.html.is_some()),
        ("markdown", how.markdown.is_some()),
    ];
    match given.into_iter().find(|(_, given)| *given && !args.verify) {
        Some((flag, _)) => Err(CliError::WithoutVerify { flag }),
        None => Ok(()),
    }
}

/// The exit code of a verification that came to a result.
pub fn status(report: &VerifyReport) -> ExitStatus {
    if report.passed { ExitStatus::Success } else { ExitStatus::VerificationFailed }
}

/// Verifies and writes the reports that both commands can be asked for.
fn verified(
    request: &VerifyRequest,
    how: &VerifyFlags,
    printer: &mut Printer,
) -> Result<VerifyReport, CliError> {
    let report = pipeline::verify(request, printer)?;
    if let Some(path) = &how.html {
        write(path, page::html(&report).map_err(CliError::Page)?.as_bytes())?;
    }
    if let Some(path) = &how.markdown {
        write(path, markdown(&report).as_bytes())?;
    }
    Ok(report)
}

/// Most tokens of an answer, where no flag says so.
const MAX_NEW_TOKENS: usize = 64;

/// Samples on which the difference is attributed, where no flag says so.
const ATTRIBUTION: usize = 16;

/// What the flags that both commands have ask for; what is verified is still empty.
fn request(how: &VerifyFlags, threads: Option<usize>) -> Result<VerifyRequest, CliError> {
    Ok(VerifyRequest {
        artifact: PathBuf::new(),
        reference: PathBuf::new(),
        family_file: None,
        data: SampleFile { path: PathBuf::new(), allow_outside: false, limit: None },
        runtime: how.runtime.map_or(Wanted::Auto, wanted),
        thresholds: thresholds(how)?,
        metric: how.metric.map(metric),
        max_new_tokens: how.max_new_tokens.unwrap_or(MAX_NEW_TOKENS),
        attribution: how.attribution_samples.unwrap_or(ATTRIBUTION),
        options: SelectOptions {
            provider: how.provider.clone(),
            server: how.server.clone(),
            threads,
            ..SelectOptions::default()
        },
    })
}

fn metric(metric: args::Metric) -> Metric {
    match metric {
        args::Metric::Exact => Metric::Exact,
        args::Metric::Vqa => Metric::Vqa,
        args::Metric::Anls => Metric::Anls,
        args::Metric::YesNo => Metric::YesNo,
        args::Metric::RelaxedNumber => Metric::RelaxedNumber,
    }
}

fn thresholds(flags: &VerifyFlags) -> Result<Thresholds, CliError> {
    let limits = Thresholds {
        max_kld: flags.max_kld,
        min_top1: flags.min_top1,
        max_flips: flags.max_flips,
        max_accuracy_drop: flags.max_accuracy_drop,
    };
    match limits.problem() {
        None => Ok(limits),
        Some(problem) => Err(CliError::Threshold { problem: problem.replace('_', "-") }),
    }
}

/// Writes a report beside its final name and renames it.
fn write(path: &Path, bytes: &[u8]) -> Result<(), CliError> {
    let failed = |source| CliError::Report { path: path.to_path_buf(), source };
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(parent).map_err(failed)?;
    file.write_all(bytes).map_err(failed)?;
    share(file.path());
    file.persist(path).map_err(|e| failed(e.error))?;
    Ok(())
}

/// A temporary file is its owner's alone; a report is as readable as any file.
fn share(path: &Path) {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let _ = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644));
    }
    #[cfg(not(unix))]
    let _ = path;
}
