//! `run` as users type it: the answer on stdout, figures on stderr, mistakes with their remedy.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use mquant_export::calibrate::{Content, ImageSource};
use serde_json::Value as Json;

use crate::common::eval::{TINY, samples};
use crate::common::fixture;
use crate::common::judge::{export_fixture, mquant, text};
use crate::common::runtimes::{llama_server, onnxruntime_library};

/// The program without anything that leads to a runtime.
fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mquant-export"));
    for variable in ["ORT_DYLIB_PATH", "VIRTUAL_ENV", "CONDA_PREFIX", "LLAMA_SERVER", "LD_LIBRARY_PATH", "CI"]
    {
        command.env_remove(variable);
    }
    command.arg("run").args(args).env("NO_COLOR", "1").env("PATH", "/nowhere").stdin(Stdio::null());
    command
}

fn ended(command: &mut Command, code: i32) -> (String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let (out, err) = (String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap());
    assert_eq!(status.code(), Some(code), "stdout: {out}\nstderr: {err}");
    (out, err)
}

/// Image, question and answer of the first evaluation sample, whose prompt has 31 tokens.
struct Asked {
    image: String,
    question: String,
    answer: String,
}

fn asked(dir: &Path) -> Asked {
    let sample = &samples("evaluation.tsv")[0];
    let [Content::Image(ImageSource::Bytes { bytes, .. }), Content::Text(question)] =
        sample.messages[0].content.as_slice()
    else {
        panic!("{sample:?}")
    };
    let image = dir.join("image.png");
    std::fs::write(&image, bytes).unwrap();
    Asked { image: text(&image), question: question.clone(), answer: sample.answer.clone().unwrap() }
}

fn exported_gguf(dir: &Path) -> PathBuf {
    let out = dir.join("gguf");
    mquant(&[&text(&fixture(TINY)), "--format", "gguf", "--recipe", "f16", "-o", &text(&out), "--quiet"]);
    out
}

/// Asks with `env` in lines for people and in JSON, and compares both with the expected answer.
fn answers(artifact: &Path, asked: &Asked, env: (&str, &Path), runtime: &str) {
    let place = text(artifact);
    let args = [place.as_str(), "--image", &asked.image, "--prompt", &asked.question, "--threads", "2"];
    let (out, err) = ended(program(&args).env(env.0, env.1), 0);
    assert_eq!(out, format!("{}\n", asked.answer));
    assert!(err.starts_with(runtime) && err.contains("31 tokens in the prompt"), "{err}");
    assert_eq!(err.lines().count(), 1, "{err}");
    let more = ["--json", "--max-new-tokens", "1", "--runtime", runtime];
    let (out, err) = ended(program(&[&args[..], &more].concat()).env(env.0, env.1), 0);
    let told: Json = serde_json::from_str(&out).unwrap();
    let first: String = asked.answer.chars().take(1).collect();
    assert_eq!(
        (told["text"].as_str(), told["stop"].as_str()),
        (Some(first.as_str()), Some("limit")),
        "{told}"
    );
    assert_eq!(
        (told["runtime"].as_str(), told["prompt_tokens"].as_u64()),
        (Some(runtime), Some(31)),
        "{told}"
    );
    assert_eq!((told["new_tokens"].as_u64(), err.as_str()), (Some(1), ""));
    let (_, err) = ended(program(&[&args[..], &["--quiet"]].concat()).env(env.0, env.1), 0);
    assert_eq!(err, "");
}

#[test]
fn onnx_answers_in_onnxruntime() {
    let dir = tempfile::tempdir().unwrap();
    let artifact = export_fixture(dir.path(), TINY, &["--recipe", "float", "--quiet"]);
    let asked = asked(dir.path());
    let library = onnxruntime_library();
    answers(&artifact, &asked, ("ORT_DYLIB_PATH", &library), "onnxruntime");
    let place = text(&artifact);
    let args = [place.as_str(), "--image", &asked.image, "--prompt", &asked.question];
    let fails = |more: &[&str], env: (&str, &Path), words: &[&str]| {
        let (out, err) = ended(program(&[&args[..], more].concat()).env(env.0, env.1), 2);
        assert_eq!(out, "");
        words.iter().for_each(|word| assert!(err.contains(word), "{word}: {err}"));
    };
    let there = ("ORT_DYLIB_PATH", library.as_path());
    let gone = dir.path().join("gone.so");
    fails(
        &[],
        ("ORT_DYLIB_PATH", &gone),
        &["onnxruntime is not available", "gone.so, which is not a file", "pip install onnxruntime"],
    );
    let text_file = artifact.join("README.md");
    fails(&[], ("ORT_DYLIB_PATH", &text_file), &["onnxruntime is not available", "README.md"]);
    fails(
        &["--provider", "cuda"],
        there,
        &["\"cuda\", which this library does not have", "available here: cpu"],
    );
    fails(&["--runtime", "llama.cpp"], there, &["llama.cpp cannot run ONNX files", "--runtime onnxruntime"]);
    fails(&["--server", "http://x"], there, &["cannot run with --server", "it is for llama.cpp"]);
    fails(&["--image", &text(&gone)], there, &["gone.so"]);
    std::fs::remove_file(artifact.join("model.onnx")).unwrap();
    fails(&[], there, &["model.onnx is missing"]);
}

#[test]
fn gguf_answers_in_a_server_that_is_ended() {
    let dir = tempfile::tempdir().unwrap();
    let artifact = exported_gguf(dir.path());
    let asked = asked(dir.path());
    let server = llama_server(dir.path());
    answers(&artifact, &asked, ("LLAMA_SERVER", &server), "llama.cpp");
    let place = text(&artifact);
    let fails = |args: &[&str], words: &[&str]| {
        let mut command = program(&[&[place.as_str(), "--prompt", &asked.question], args].concat());
        let (out, err) = ended(command.env("LLAMA_SERVER", &server), 2);
        assert_eq!(out, "");
        words.iter().for_each(|word| assert!(err.contains(word), "{word}: {err}"));
    };
    // Ended after an answer, and after a question that the server refuses.
    let is_running = || {
        let pid = std::fs::read_to_string(dir.path().join("pid")).unwrap();
        Path::new("/proc").join(pid.trim()).exists()
    };
    assert!(!is_running());
    let not_an_image = text(&artifact.join("README.md"));
    fails(&["--image", &not_an_image], &["README.md"]);
    assert!(!is_running());
    fails(&["--server", "http://127.0.0.1:1"], &["llama.cpp is not available", "127.0.0.1:1"]);
    fails(&["--provider", "cuda"], &["cannot run with --provider", "it is for onnxruntime"]);
    let (_, err) = ended(&mut program(&[&place, "--prompt", "x"]), 2);
    assert!(err.contains("LLAMA_SERVER is not set") && err.contains("hint: get llama.cpp"), "{err}");
}
