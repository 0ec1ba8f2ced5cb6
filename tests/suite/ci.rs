//! The action and the examples of `docs/ci.md`: they parse, their shell is shell, and the flags they pass exist.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_norway::Value;

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// Blocks of a document in one language.
fn blocks(document: &str, language: &str) -> Vec<String> {
    let fence = format!("```{language}\n");
    document.split(&fence).skip(1).map(|b| b.split("```").next().unwrap().to_string()).collect()
}

fn strings(value: &Value) -> Vec<String> {
    let list = value.as_sequence().unwrap();
    list.iter().map(|v| v.as_str().unwrap().to_string()).collect()
}

fn action() -> Value {
    serde_norway::from_str(&read("action.yml")).unwrap()
}

/// The shell of the action, step by step.
fn steps(action: &Value) -> Vec<String> {
    let steps = action["runs"]["steps"].as_sequence().unwrap();
    steps.iter().filter_map(|s| Some(s.get("run")?.as_str()?.to_string())).collect()
}

/// All shell: of the action and of the examples.
fn scripts() -> Vec<String> {
    let document = read("docs/ci.md");
    let yaml = blocks(&document, "yaml");
    assert_eq!(yaml.len(), 2, "docs/ci.md has an example for GitHub and one for GitLab");
    let gitlab: Value = serde_norway::from_str(&yaml[1]).unwrap();
    let jobs = ["before_script", "script"].into_iter().flat_map(|key| strings(&gitlab["verify"][key]));
    steps(&action()).into_iter().chain(jobs).chain(blocks(&document, "sh")).collect()
}

/// Flags that a script passes to the program, by the convention that they stand in its command or in an array `flags`.
fn flags(script: &str) -> BTreeSet<String> {
    let commands = script.replace("\\\n", " ");
    let ours = |line: &&str| line.trim_start().starts_with("mquant-export ") || line.contains("flags+=(");
    let words = commands
        .lines()
        .filter(ours)
        .flat_map(|l| l.split(|c: char| c.is_whitespace() || "()\"".contains(c)));
    words.filter(|w| w.starts_with("--")).map(String::from).collect()
}

fn help(args: &[&str]) -> String {
    let out = Command::new(env!("CARGO_BIN_EXE_mquant-export")).args(args).arg("--help").output().unwrap();
    assert!(out.status.success(), "{args:?}");
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn every_flag_exists() {
    let known = [&[][..], &["verify"], &["inspect"]].map(help).join("\n");
    let known: BTreeSet<&str> = known.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-')).collect();
    let used: BTreeSet<String> = scripts().iter().flat_map(|s| flags(s)).collect();
    assert!(used.len() > 12 && used.contains("--max-kld"), "{used:?}");
    for flag in &used {
        assert!(known.contains(flag.as_str()), "the program has no {flag}");
    }
}

/// The steps that export and verify, as GitHub runs them, with the program of this repository.
#[test]
fn the_steps_of_the_action_export_and_verify() {
    let dir = tempfile::tempdir().unwrap();
    let action = action();
    let steps = action["runs"]["steps"].as_sequence().unwrap();
    let script = |name: &str| {
        let step = steps.iter().find(|s| s["name"].as_str() == Some(name)).unwrap();
        step["run"].as_str().unwrap().to_string()
    };
    let program = Path::new(env!("CARGO_BIN_EXE_mquant-export")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/qwen2_vl_tiny");
    let run = |name: &str, max_kld: &str| {
        let mut bash = Command::new("bash");
        bash.args(["--noprofile", "--norc", "-e", "-o", "pipefail", "-c", &script(name)]).current_dir(&dir);
        for empty in ["CALIBRATION", "MIN_TOP1", "MAX_FLIPS", "MAX_ACCURACY_DROP"] {
            bash.env(empty, "");
        }
        bash.env("PATH", &path).env("MODEL", &model).env("DATA", model.join("evaluation.tsv"));
        bash.env("FORMAT", "onnx").env("RECIPE", "float").env("RUNTIME", "embedded").env("SAMPLES", "2");
        bash.env("ARTIFACT", "made").env("REPORT", "report").env("MAX_KLD", max_kld);
        bash.env("GITHUB_OUTPUT", dir.path().join("output"))
            .env("GITHUB_STEP_SUMMARY", dir.path().join("summary"));
        bash.output().unwrap()
    };
    let told = |out: &std::process::Output| String::from_utf8_lossy(&out.stderr).into_owned();
    let export = run("Export", "");
    assert!(export.status.success(), "{}", told(&export));
    assert!(fs::read_to_string(dir.path().join("output")).unwrap().starts_with("manifest-sha256="));
    let passed = run("Verify", "0.01");
    assert_eq!(passed.status.code(), Some(0), "{}", told(&passed));
    let failed = run("Verify", "0");
    assert_eq!(failed.status.code(), Some(1), "{}", told(&failed));
    for file in ["verify.json", "verify.html", "verify.md"] {
        assert!(dir.path().join("report").join(file).is_file(), "{file}");
    }
    let summary = fs::read_to_string(dir.path().join("summary")).unwrap();
    assert!(summary.contains("PASS") && summary.contains("FAIL"), "{summary}");
}

#[test]
fn shell_is_shell() {
    let scripts = scripts();
    assert!(scripts.len() >= 12, "{} scripts", scripts.len());
    for script in scripts {
        let mut bash =
            Command::new("bash").arg("-n").stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        bash.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
        let out = bash.wait_with_output().unwrap();
        assert!(out.status.success(), "{script}\n{}", String::from_utf8_lossy(&out.stderr));
        // Inputs come in by the environment: pasted into a script they would be run.
        assert!(!script.contains("${{"), "{script}");
    }
}

#[test]
fn inputs_and_outputs_of_the_action_are_used() {
    let (action, text) = (action(), read("action.yml"));
    let inputs: Vec<&str> =
        action["inputs"].as_mapping().unwrap().keys().map(|k| k.as_str().unwrap()).collect();
    for input in &inputs {
        assert!(text.contains(&format!("inputs.{input}")), "nothing reads the input {input}");
        assert!(action["inputs"][*input].get("description").is_some(), "{input}");
    }
    for named in text.split("inputs.").skip(1) {
        let name: String = named.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        assert!(inputs.contains(&name.as_str()), "there is no input {name}");
    }
    assert_eq!(action["runs"]["using"].as_str(), Some("composite"));
    let github: Value = serde_norway::from_str(&blocks(&read("docs/ci.md"), "yaml")[0]).unwrap();
    let with = github["jobs"]["verify"]["steps"][1]["with"].as_mapping().unwrap().clone();
    for key in with.keys() {
        assert!(
            inputs.contains(&key.as_str().unwrap()),
            "docs/ci.md passes {key:?}, which the action does not have"
        );
    }
}

/// The script of a step with programs in its way that write down what they are called with.
fn run_step(name: &str, variables: &[(&str, &str)], status: i32) -> (Option<i32>, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let program = dir.path().join("mquant-export");
    let body = format!(
        "#!/bin/bash\nprintf '%s\\n' \"$@\" >calls\necho summary >\"$REPORT/verify.md\"\nexit {status}\n"
    );
    fs::write(&program, body).unwrap();
    assert!(Command::new("chmod").arg("+x").arg(&program).status().unwrap().success());
    let action = action();
    let steps = action["runs"]["steps"].as_sequence().unwrap();
    let step = steps.iter().find(|s| s["name"].as_str() == Some(name)).unwrap();
    let mut bash = Command::new("bash");
    // As GitHub runs `shell: bash`.
    bash.args(["--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"].as_str().unwrap()]);
    for key in step["env"].as_mapping().unwrap().keys() {
        bash.env(key.as_str().unwrap(), "");
    }
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    bash.current_dir(dir.path()).env("PATH", path).env("GITHUB_STEP_SUMMARY", dir.path().join("summary"));
    let out = bash.envs(variables.iter().copied()).output().unwrap();
    let read = |name: &str| fs::read_to_string(dir.path().join(name)).unwrap_or_default();
    (out.status.code(), read("calls"), read("summary"))
}

#[test]
fn the_step_of_verification_keeps_exit_code_and_summary() {
    let variables = [
        ("ARTIFACT", "out; touch hacked"),
        ("MODEL", "m"),
        ("DATA", "d.tsv"),
        ("RUNTIME", "auto"),
        ("REPORT", "r p"),
        ("MAX_KLD", "0.05"),
    ];
    for status in [0, 1, 2, 3] {
        let (found, calls, summary) = run_step("Verify", &variables, status);
        assert_eq!((found, summary.as_str()), (Some(status), "summary\n"));
        let expected = [
            "verify",
            "out; touch hacked",
            "--reference",
            "m",
            "--data",
            "d.tsv",
            "--runtime",
            "auto",
            "--json",
            "r p/verify.json",
            "--html",
            "r p/verify.html",
            "--markdown",
            "r p/verify.md",
            "--max-kld",
            "0.05",
        ];
        assert_eq!(calls.lines().collect::<Vec<_>>(), expected);
    }
}
