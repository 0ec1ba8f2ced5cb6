//! `verify`: how close an exported folder is to its checkpoint, told, written as reports, and turned into the exit code.

use std::io::Write;
use std::path::Path;

use super::args::{self, VerifyArgs, VerifyFlags};
use super::error::{CliError, ExitStatus};
use super::export::start_threads;
use super::format::{count, property, table};
use super::printer::Printer;
use super::resolve::wanted;
use crate::pipeline::{self, CalibrationData, VerifyRequest};
use crate::quantize::recipe::Thresholds;
use crate::verify::report::{Interval, VerifyReport};
use crate::verify::score::Metric;
use crate::verify::select::{SelectOptions, Wanted};

/// Verifies, writes the reports asked for, and says whether every check passed.
///
/// # Errors
/// [`CliError`] when the verification came to no result or a report cannot be written.
pub fn run(args: &VerifyArgs, printer: &mut Printer) -> Result<ExitStatus, CliError> {
    start_threads(args.threads)?;
    let request = request(args)?;
    let report = pipeline::verify(&request, printer)?;
    let json = serde_json::to_string_pretty(&report).map_err(CliError::Json)? + "\n";
    if let Some(path) = args.json.as_deref().filter(|p| *p != Path::new("-")) {
        write(path, json.as_bytes())?;
    }
    printer.result(&report, lines)?;
    Ok(if report.passed { ExitStatus::Success } else { ExitStatus::VerificationFailed })
}

/// What the flags ask for.
fn request(args: &VerifyArgs) -> Result<VerifyRequest, CliError> {
    let how = &args.how;
    Ok(VerifyRequest {
        artifact: args.artifact.clone(),
        reference: args.reference.clone(),
        family_file: args.family_file.clone(),
        data: CalibrationData {
            path: args.data.clone(),
            allow_outside: args.allow_outside,
            limit: how.samples,
        },
        runtime: how.runtime.map_or(Wanted::Auto, wanted),
        thresholds: thresholds(how)?,
        metric: how.metric.map(metric),
        max_new_tokens: how.max_new_tokens,
        attribution: how.attribution_samples,
        options: SelectOptions {
            provider: how.provider.clone(),
            server: how.server.clone(),
            threads: args.threads,
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

/// For people, the verdict last.
fn lines(r: &VerifyReport) -> Vec<String> {
    let share =
        |i: &Interval| format!("{:.2} % ({:.2} - {:.2})", 100.0 * i.value, 100.0 * i.low, 100.0 * i.high);
    let nats = |i: &Interval| format!("{:.1e} ({:.1e} - {:.1e})", i.value, i.low, i.high);
    let m = &r.measured;
    let runtime = match r.runtime.runtime_checked {
        true => format!("{} {}", r.runtime.runner.name(), r.runtime.version),
        false => format!("none; {}", r.runtime.detail),
    };
    let mut lines = vec![
        property("artifact", format!("{} ({}, {})", r.artifact.name, r.artifact.format, r.artifact.recipe)),
        property("runtime", runtime),
        property(
            "samples",
            format!("{}, {} with images", count(r.data.samples as u64), count(r.data.with_images as u64)),
        ),
        property(
            "divergence",
            format!(
                "{} nats; median {:.1e}, 99 % {:.1e}",
                nats(&m.kld_mean),
                m.kld_median.value,
                m.kld_p99.value
            ),
        ),
        property("best token", format!("{} the same", share(&m.top1))),
        property("answers", format!("{} changed", share(&m.flips))),
    ];
    if let (Some(float), Some(own)) = (&m.accuracy_float, &m.accuracy) {
        lines.push(property(
            &format!("{} score", r.data.metric),
            format!("{}, float {}", share(own), share(float)),
        ));
    }
    if let Some(a) = &r.attribution {
        lines.push(String::new());
        let rows: Vec<Vec<String>> = a
            .causes
            .iter()
            .map(|c| vec![c.name.clone(), c.kld.map_or("-".into(), |k| format!("{k:.1e}")), c.text.clone()])
            .collect();
        lines.extend(table(&rows, &[1]));
        for c in &a.components {
            lines.push(property(&c.component, format!("{:.1e} nats alone", c.kld)));
        }
        for l in &a.linears {
            lines.push(format!(
                "{}: error {:.2} %{}. {}",
                l.role,
                100.0 * l.error,
                l.expected.map_or(String::new(), |e| format!(", expected {:.2} %", 100.0 * e)),
                l.advice
            ));
        }
    }
    lines.push(String::new());
    for c in &r.checks {
        lines.push(format!("{} {}: {}", if c.passed { "pass" } else { "FAIL" }, c.name, c.text));
    }
    for text in &r.runtime.not_checked {
        lines.push(format!("not checked: {text}"));
    }
    lines.push(if r.passed { "PASSED".into() } else { "FAILED".into() });
    lines
}
