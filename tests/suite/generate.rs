//! Exported folders as their users run them: `preprocess` makes the inputs of a prompt from the folder's own files, `generate.py` answers
//! with ONNX Runtime. The answers are the goldens'.

use std::path::{Path, PathBuf};

use mquant_export::calibrate::{Content, ImageSource, Sample};
use mquant_export::checkpoint::SideFiles;
use mquant_export::export::onnx::{self, ElementType, Extent, GraphSignature, TensorSignature};
use mquant_export::family::{Library, describe};
use mquant_export::pipeline::Manifest;
use mquant_export::tokenizer::Tokenizer;

use crate::common::eval::{TINY, load_samples, samples};
use crate::common::golden::for_each_fixture;
use crate::common::judge::{export_fixture, mquant, python};
use crate::common::{Goldens, fixture};

const NEW_TOKENS: usize = 12;

/// Image files and text of a sample that is one message of a user, images before text; `None` for others.
fn question(sample: &Sample) -> Option<(Vec<&Path>, &str)> {
    let [message] = sample.messages.as_slice() else { return None };
    let (Content::Text(text), images) = message.content.split_last()? else { return None };
    let file = |content| match content {
        &Content::Image(ImageSource::File(ref path)) => Some(path.as_path()),
        _ => None,
    };
    Some((images.iter().map(file).collect::<Option<_>>()?, text))
}

/// What the folder's program prints for a question.
fn answer(artifact: &Path, (images, text): (&[&Path], &str), flags: &[&str]) -> String {
    let prompt = artifact.with_extension("safetensors");
    let (folder, file) = (artifact.display().to_string(), prompt.display().to_string());
    let images: Vec<String> = images.iter().map(|path| path.display().to_string()).collect();
    let mut args = vec!["preprocess", &folder, "--prompt", text, "-o", &file, "--force"];
    images.iter().for_each(|image| args.extend(["--image", image]));
    mquant(&args);
    let new = NEW_TOKENS.to_string();
    python(&artifact.join(onnx::GENERATE_FILE), &[&[file.as_str(), "--max-new-tokens", &new], flags].concat())
}

/// A float artifact of a fixture, with the program. Families that GenAI runs get none from the export; it works for them all the same.
fn artifact(dir: &Path, name: &str) -> PathBuf {
    let artifact = export_fixture(dir, name, &["--recipe", "float"]);
    let program = artifact.join(onnx::GENERATE_FILE);
    let genai = artifact.join("genai_config.json").exists();
    assert_ne!(genai, program.exists(), "{name}");
    let card = std::fs::read_to_string(artifact.join("README.md")).unwrap();
    assert_eq!(card.contains("mquant-export preprocess ."), !genai, "{name}: {card}");
    if genai {
        std::fs::write(&program, onnx::GENERATE).unwrap();
    }
    artifact
}

fn the_folder_answers_as_the_goldens(name: &str) {
    let dir = tempfile::tempdir().unwrap();
    let artifact = artifact(dir.path(), name);
    let description = describe(&Library::built_in().unwrap(), &SideFiles::open(&artifact).unwrap()).unwrap();
    let goldens = Goldens::of(name);
    let samples = load_samples(&fixture(name).join("samples.jsonl"));
    let mut asked = 0;
    for (s, sample) in samples.iter().enumerate() {
        let Some((images, text)) = question(sample) else { continue };
        let golden = goldens.ints(&format!("s{s}.generated")).into_data();
        let printed = answer(&artifact, (&images, text), &["--ids"]);
        let ids: Vec<i64> = printed.split_whitespace().map(|id| id.parse().unwrap()).collect();
        assert_eq!(ids, golden[..NEW_TOKENS.min(golden.len())], "{name} sample {s}");
        if asked == 0 {
            let end = golden.iter().position(|id| description.prompt.eos_token_ids.contains(id));
            let expected = streamed(&description.tokenizer, &golden[..end.unwrap_or(golden.len())]);
            assert_eq!(answer(&artifact, (&images, text), &[]), expected + "\n", "{name} sample {s}");
        }
        asked += 1;
    }
    println!("{name}: {asked} of {} samples are one message", samples.len());
    assert!(asked >= 2, "{name}");
}

/// Text shown as soon as it is whole. It is the text of all tokens, unless a model that is not trained, as these, writes bytes that never
/// become a character: they may turn characters that have been shown into replacement characters.
fn streamed(tokenizer: &Tokenizer, ids: &[i64]) -> String {
    let (mut shown, mut text) = (String::new(), String::new());
    for n in 1..=ids.len() {
        text = tokenizer.decode(&ids[..n], true).unwrap();
        if !text.ends_with(char::REPLACEMENT_CHARACTER) {
            shown.extend(text.chars().skip(shown.chars().count()).collect::<Vec<_>>());
        }
    }
    shown.extend(text.chars().skip(shown.chars().count()).collect::<Vec<_>>());
    shown
}

#[test]
fn the_trained_model_answers_in_text() {
    let dir = tempfile::tempdir().unwrap();
    let artifact = artifact(dir.path(), TINY);
    let image = dir.path().join("image.png");
    for sample in &samples("evaluation.tsv")[..4] {
        let [Content::Image(ImageSource::Bytes { bytes, .. }), Content::Text(text)] =
            sample.messages[0].content.as_slice()
        else {
            panic!("{sample:?}")
        };
        std::fs::write(&image, bytes).unwrap();
        let printed = answer(&artifact, (&[&image], text), &[]);
        assert_eq!(printed.trim_end_matches('\n'), sample.answer.as_deref().unwrap(), "{text}");
    }
}

/// The manifest says of each file what the file says of itself, with a sentence for everything.
fn the_manifest_describes_the_graphs(name: &str) {
    let dir = tempfile::tempdir().unwrap();
    for ops in ["ort", "standard"] {
        let place = dir.path().join(ops);
        std::fs::create_dir(&place).unwrap();
        let artifact = export_fixture(&place, name, &["--recipe", "float", "--ops", ops]);
        let manifest = Manifest::read(&artifact).unwrap();
        let files: Vec<&str> = manifest.graphs.iter().map(|g| g.file.as_str()).collect();
        assert_eq!(files, ["vision.onnx", "embedding.onnx", "model.onnx"]);
        for GraphSignature { file, inputs, outputs } in &manifest.graphs {
            let found = onnx::inspect::inspect(&artifact.join(file)).unwrap();
            let lines = |tensors: &[TensorSignature]| tensors.iter().map(line).collect::<Vec<_>>();
            assert_eq!((lines(inputs), lines(outputs)), (found.inputs, found.outputs), "{name} {file}");
            let silent = inputs.iter().chain(outputs).find(|t| t.meaning.is_empty());
            assert!(silent.is_none(), "{name} {file}: {silent:?}");
        }
        assert!(manifest.changed_files(&artifact).unwrap().is_empty());
        let hashed = |file: &str| manifest.files.iter().any(|f| f.name == file);
        assert!(hashed("tokenizer.json") && (hashed("genai_config.json") || hashed(onnx::GENERATE_FILE)));
        assert!(!manifest.eos_token_ids.is_empty() && !manifest.placeholder.image_token.is_empty());
    }
}

/// A signature as `inspect` prints it.
fn line(tensor: &TensorSignature) -> String {
    let axis = |e: &Extent| match e {
        Extent::Fixed(n) => n.to_string(),
        Extent::Named(name) => name.clone(),
    };
    let axes: Vec<String> = tensor.shape.iter().map(axis).collect();
    let dtype = match tensor.dtype {
        ElementType::Float32 => "float",
        ElementType::Int64 => "int64",
    };
    format!("{}: {dtype}[{}]", tensor.name, axes.join(", "))
}

macro_rules! fixtures {
    ($($name:ident,)*) => {
        $(mod $name {
            #[test]
            fn the_folder_answers_as_the_goldens() {
                super::the_folder_answers_as_the_goldens(stringify!($name));
            }

            #[test]
            fn the_manifest_describes_the_graphs() {
                super::the_manifest_describes_the_graphs(stringify!($name));
            }
        })*
    };
}
for_each_fixture!(fixtures);
