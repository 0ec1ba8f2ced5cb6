//! The program as users run it: arguments in, exit code, stdout and stderr out. What a command computes is tested elsewhere.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::{Goldens, fixture};

/// How one run ended.
struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn expect(self, code: i32) -> Self {
        assert_eq!(self.code, code, "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    /// Stdout as the one JSON object it must be.
    fn json(&self) -> Value {
        let value: Value = serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {}", self.out));
        assert_eq!(value["schema_version"], 1, "{value}");
        value
    }
}

fn program(dir: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mquant-export"));
    command.args(args).current_dir(dir).stdin(Stdio::null());
    command.env_remove("CI").env_remove("CLICOLOR_FORCE").env("NO_COLOR", "1");
    command
}

fn run_in(dir: &Path, args: &[&str]) -> Ran {
    let output = program(dir, args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

fn run(args: &[&str]) -> Ran {
    run_in(&std::env::temp_dir(), args)
}

fn model() -> String {
    fixture("qwen2_vl").display().to_string()
}

fn samples() -> String {
    fixture("qwen2_vl").join("samples.jsonl").display().to_string()
}

/// Names in a folder, hidden ones too.
fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn help_shows_the_flags_an_example_and_the_exit_codes() {
    for flag in ["--help", "-h"] {
        let ran = run(&[flag]).expect(0);
        for part in ["MODEL", "--format", "--calibration", "inspect", "Examples:", "Exit status"] {
            assert!(ran.out.contains(part), "{part}: {}", ran.out);
        }
        assert_eq!(ran.err, "");
    }
    assert!(run(&["preprocess", "--help"]).expect(0).out.contains("FOLDER"));
    assert!(run(&["inspect", "--help"]).expect(0).out.contains("PATH"));
    assert!(run(&["--version"]).expect(0).out.contains(env!("CARGO_PKG_VERSION")));
}

#[test]
fn wrong_arguments_exit_2_and_name_what_is_wrong() {
    let ran = run(&[&model()]).expect(2);
    assert!(ran.out.is_empty() && ran.err.contains("--format"), "{}", ran.err);
    assert!(run(&[]).expect(2).err.contains("MODEL"));
    assert!(run(&[&model(), "--format", "gguf"]).expect(2).err.contains("onnx"));
    let ran = run(&[&model(), "--format", "onnx", "--calibratoin", "x", "--json"]).expect(2);
    let error = &ran.json()["error"];
    assert_eq!(error["kind"], "user");
    assert!(error["message"].as_str().unwrap().contains("--calibratoin"), "{error}");
    assert!(ran.err.contains("--calibration"), "{}", ran.err);
}

#[test]
fn inspect_shows_a_checkpoint() {
    let ran = run(&["inspect", &model()]).expect(0);
    for part in ["qwen2_vl", "vision", "projector", "embedding", "decoder", "BF16"] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    let json = run(&["inspect", &model(), "--json"]).expect(0).json();
    assert_eq!((&json["kind"], &json["family"]), (&"checkpoint".into(), &"qwen2_vl".into()));
    let parameters = |c: &Value| c["parameters"].as_u64().unwrap();
    let components = json["components"].as_array().unwrap();
    assert_eq!(components.iter().map(parameters).sum::<u64>(), parameters(&json));
}

#[test]
fn inspect_refuses_what_it_does_not_know() {
    let weights = fixture("qwen2_vl").join("model-00001-of-00002.safetensors");
    let ran = run(&["inspect", &weights.display().to_string()]).expect(2);
    assert!(ran.err.starts_with("error: ") && ran.err.contains("\nhint: pass the folder"), "{}", ran.err);
    let ran = run(&["inspect", "no/such/thing", "--json"]).expect(2);
    let error = &ran.json()["error"];
    assert!(error["message"].as_str().unwrap().contains("no/such/thing"), "{error}");
    assert_eq!(error["causes"].as_array().unwrap().len(), 1, "{error}");
}

#[test]
fn the_graph_is_printed_without_an_export() {
    let dir = tempfile::tempdir().unwrap();
    let ran = run_in(dir.path(), &[&model(), "--dump-ir"]).expect(0);
    // The signature of the decoder graph: a change of it changes every artifact.
    let golden = "graph decoder {\n  input %inputs_embeds: float[batch_size, sequence_length, 128]";
    assert!(ran.out.contains(golden), "{}", ran.out);
    for part in ["graph vision {", "graph embedding {", "  output %logits\n", "\nweights {\n"] {
        assert!(ran.out.contains(part), "{part}");
    }
    let json = run_in(dir.path(), &[&model(), "--dump-ir", "--json"]).expect(0).json();
    assert_eq!(json["ir"].as_str().unwrap(), ran.out);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn a_dry_run_plans_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (model, samples) = (model(), samples());
    let args = [&model, "--format", "onnx", "--calibration", &samples, "--dry-run"];
    let ran = run_in(dir.path(), &args).expect(0);
    for part in ["qwen2_vl-w4a8-onnx", "samples.jsonl", "decoder.layers.*.mlp.down", "int4/128"] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    let json = run_in(dir.path(), &[&args[..], &["--json"]].concat()).expect(0).json();
    assert_eq!(json["recipe"], "w4a8");
    assert!(json["linears"].as_array().unwrap().len() > 10, "{json}");
    assert!(names(dir.path()).is_empty());
}

#[test]
fn explain_shows_what_was_weighed_and_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (model, samples) = (model(), samples());
    let args = |linear| [&model, "--format", "onnx", "--calibration", &samples, "-q", "--explain", linear];
    let ran = run_in(dir.path(), &args("decoder.layers.0.mlp.down")).expect(0);
    for part in ["int4/128", "smooth", "expected error", "least"] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    let json =
        run_in(dir.path(), &[&args("decoder.layers.0.mlp.down")[..], &["--json"]].concat()).expect(0).json();
    let candidates = json["decision"]["candidates"].as_array().unwrap();
    assert_eq!(candidates.len(), 2, "{json}");
    let ran = run_in(dir.path(), &args("decoder.layers.0.mlp.dawn")).expect(2);
    assert!(ran.err.contains("decoder.layers.0.mlp.down"), "{}", ran.err);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn an_unknown_recipe_names_the_known_ones() {
    let ran = run(&[&model(), "--format", "onnx", "--recipe", "w3a3"]).expect(2);
    assert!(ran.err.contains("w3a3") && ran.err.contains("float") && ran.err.contains("w8a8"), "{}", ran.err);
}

#[test]
fn static_scales_need_calibration_data() {
    let dir = tempfile::tempdir().unwrap();
    let ran = run_in(dir.path(), &[&model(), "--format", "onnx", "--recipe", "w8a8", "-o", "out"]).expect(2);
    assert!(ran.err.contains("error: the recipe w8a8"), "{}", ran.err);
    assert!(ran.err.contains("\nhint: pass --calibration FILE"), "{}", ran.err);
    assert!(names(dir.path()).is_empty(), "{:?}", names(dir.path()));
}

#[test]
fn a_broken_checkpoint_is_the_users_to_mend() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().display().to_string();
    let ran =
        run_in(dir.path(), &[&model, "--format", "onnx", "--recipe", "float", "-o", "out", "-q"]).expect(2);
    assert!(ran.err.starts_with("error: ") && ran.err.contains("config.json"), "{}", ran.err);
    assert!(names(dir.path()).is_empty());
}

#[test]
fn a_float_export_reports_and_does_not_overwrite() {
    let dir = tempfile::tempdir().unwrap();
    let model = model();
    let export = [model.as_str(), "--format", "onnx", "--recipe", "float", "--threads", "1"];
    let ran = run_in(dir.path(), &export).expect(0);
    assert!(ran.out.starts_with("artifact     qwen2_vl-float-onnx\n"), "{}", ran.out);
    assert!(ran.err.starts_with("[1/8] read\n") && ran.err.contains("[8/8] finish: done in "), "{}", ran.err);
    assert_eq!(names(dir.path()), ["qwen2_vl-float-onnx"]);

    let ran = run_in(dir.path(), &[&export[..], &["--json"]].concat()).expect(2);
    assert!(ran.json()["error"]["message"].as_str().unwrap().contains("--force"), "{}", ran.out);

    let ran = run_in(dir.path(), &[&export[..], &["--force", "--json", "--quiet"]].concat()).expect(0);
    let report = ran.json();
    assert_eq!((&report["family"], &report["recipe"]), (&"qwen2_vl".into(), &"float".into()));
    assert_eq!((&report["linears_quantized"], ran.err.as_str()), (&0.into(), ""));
    assert_eq!(names(dir.path()), ["qwen2_vl-float-onnx"]);
}

#[test]
fn inspect_shows_an_artifact_and_what_changed_in_it() {
    let dir = tempfile::tempdir().unwrap();
    let (model, samples) = (model(), samples());
    let mut export = vec![model.as_str(), "--format", "onnx", "--calibration", &samples, "-o", "out"];
    let few = run_in(dir.path(), &[&export[..], &["--calibration-samples", "2"]].concat()).expect(2);
    assert!(
        few.err.contains("the linear projector.up saw") && few.err.contains("\nhint: add"),
        "{}",
        few.err
    );
    export.push("-q");
    run_in(dir.path(), &export).expect(0);
    let ran = run_in(dir.path(), &["inspect", "out"]).expect(0);
    for part in ["w4a8", "all as written", "model.onnx", "decoder.layers.0.mlp.down", "5 samples"] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    assert!(run_in(dir.path(), &["inspect", "out/model.onnx"]).expect(0).out.contains("inputs_embeds"));

    std::fs::write(dir.path().join("out/genai_config.json"), "{}").unwrap();
    let json = run_in(dir.path(), &["inspect", "out", "--json"]).expect(0).json();
    let changed: Vec<&Value> =
        json["files"].as_array().unwrap().iter().filter(|f| f["state"] != "ok").map(|f| &f["name"]).collect();
    assert_eq!(changed, ["genai_config.json"]);
    assert_eq!(json["manifest"]["recipe"]["name"], "w4a8");
}

#[test]
fn preprocess_writes_the_tensors_of_a_prompt() {
    let dir = tempfile::tempdir().unwrap();
    let (model, image) = (model(), fixture("qwen2_vl").join("images/ab.png").display().to_string());
    let args = ["preprocess", &model, "--image", &image, "--prompt", "Hi", "-o", "p.safetensors"];
    let ran = run_in(dir.path(), &args).expect(0);
    for part in ["file         p.safetensors\n", "family       qwen2_vl\n", "images       1, 1 tile, "] {
        assert!(ran.out.contains(part), "{part}: {}", ran.out);
    }
    let found = Goldens::read(&dir.path().join("p.safetensors"));
    let (ids, grid) = (found.ints("input_ids"), found.ints("image_grid_thw"));
    let tokens = ids.data().len();
    assert_eq!((ids.shape(), grid.shape()), (&[1, tokens][..], &[1, 3][..]));
    assert_eq!(found.ints("position_ids").shape(), [3, 1, tokens]);
    assert_eq!(found.ints("prompt_length").data(), [tokens as i64]);
    assert_eq!(found.floats("pixel_values").shape()[0], grid.data().iter().product::<i64>() as usize);

    let ran = run_in(dir.path(), &args).expect(2);
    assert!(ran.err.contains("p.safetensors") && ran.err.contains("--force"), "{}", ran.err);
    let text_only = ["preprocess", &model, "--prompt", "Hi", "--system", "Be brief.", "-o", "p.safetensors"];
    let json = run_in(dir.path(), &[&text_only[..], &["--force", "--json"]].concat()).expect(0).json();
    assert_eq!((&json["file"], &json["tiles"]), (&"p.safetensors".into(), &serde_json::json!([])));
    assert_eq!(json["image_tokens"], 0);
    let found = Goldens::read(&dir.path().join("p.safetensors"));
    assert_eq!(found.ints("input_ids").data().len() as u64, json["tokens"].as_u64().unwrap());
    assert_eq!((found.ints("image_grid_thw").shape(), found.floats("pixel_values").rows()), (&[0, 3][..], 0));
    assert_eq!(names(dir.path()), ["p.safetensors"]);
}

#[test]
fn preprocess_names_what_it_cannot_use_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let model = model();
    let (bare, unknown) = (dir.path().join("bare"), dir.path().join("unknown"));
    std::fs::create_dir(&bare).unwrap();
    std::fs::create_dir(&unknown).unwrap();
    std::fs::write(unknown.join("config.json"), r#"{"model_type": "bert"}"#).unwrap();
    let refused = |folder: &str, more: &[&str], parts: &[&str]| {
        let args = [&["preprocess", folder, "-o", "p.safetensors"], more].concat();
        let ran = run_in(dir.path(), &args).expect(2);
        for part in parts {
            assert!(ran.err.contains(part), "{part}: {}", ran.err);
        }
        assert!(ran.out.is_empty() && ran.err.starts_with("error: "), "{}{}", ran.out, ran.err);
    };
    let ask = ["--prompt", "Hi"];
    refused(&model, &[&ask[..], &["--image", "no/such.png"]].concat(), &["image 0", "no/such.png"]);
    let config = fixture("qwen2_vl").join("config.json").display().to_string();
    refused(&model, &[&ask[..], &["--image", &config]].concat(), &["config.json", "cannot decode"]);
    refused(&model, &["--prompt", "What is <|image_pad|>?"], &["1 image placeholders for 0 images"]);
    refused("bare", &ask, &["bare", "config.json", "hint: "]);
    refused("absent", &ask, &["absent"]);
    refused("unknown", &ask, &["bert", "known families", "--family-file"]);
    let args = ["preprocess", &model, "--prompt", "Hi", "-o", "no/such/p", "--json"];
    let error = run_in(dir.path(), &args).expect(2).json();
    assert!(error["error"]["message"].as_str().unwrap().contains("output file no/such/p"), "{error}");
    let args = ["preprocess", &model, "--prompt", "Hi", "-o", "bare", "--force"];
    assert!(run_in(dir.path(), &args).expect(2).err.contains("bare: is a folder"));
    assert_eq!(names(dir.path()), ["bare", "unknown"]);
}

#[test]
fn completions_are_a_script() {
    let ran = run(&["completions", "bash"]).expect(0);
    assert!(ran.out.contains("complete -F") && ran.out.contains("--calibration-samples"), "{}", ran.out);
    assert!(ran.out.contains("preprocess") && ran.out.contains("--system"), "{}", ran.out);
    assert!(run(&["completions", "tcsh"]).expect(2).err.contains("bash"));
}

/// `mquant-export ... | head -1` ends quietly.
#[cfg(unix)]
#[test]
fn a_closed_pipe_leaves_no_trace() {
    let mut child = program(&std::env::temp_dir(), &[&model(), "--dump-ir"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(String::from_utf8(output.stderr).unwrap(), "");
}
