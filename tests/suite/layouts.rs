//! Layouts of one family in the wild: single file and shards, hub names and transformers 5 names, nested configuration, tied and untied heads.

use std::collections::BTreeMap;
use std::path::Path;

use mquant_export::checkpoint::Checkpoint;
use mquant_export::exec::{DecoderState, Executor};
use mquant_export::family::{CheckpointWeights, Library, resolve};
use safetensors::tensor::TensorView;
use serde_json::Value as Json;

use crate::common::golden::GoldenPrompt;
use crate::common::judge::mquant;
use crate::common::{Goldens, fixture};

const FIXTURE: &str = "qwen2_vl";

/// Writes the fixture into `dir` as one file with names changed by `rename`, and more tensors.
fn rewrite(dir: &Path, rename: impl Fn(&str) -> String, extra: &[(&str, &str)]) {
    let checkpoint = Checkpoint::open(&fixture(FIXTURE)).unwrap();
    let mut tensors = BTreeMap::new();
    for t in checkpoint.tensors() {
        assert_eq!(t.dtype().name(), "BF16");
        let bytes: Vec<u8> =
            t.to_f32().unwrap().iter().flat_map(|x| half::bf16::from_f32(*x).to_le_bytes()).collect();
        let copies = extra.iter().filter(|(of, _)| *of == t.name()).map(|(_, copy)| copy.to_string());
        for name in copies.chain([rename(t.name())]) {
            tensors.insert(name, (t.shape().to_vec(), bytes.clone()));
        }
    }
    let views = tensors.iter().map(|(name, (shape, bytes))| {
        (name, TensorView::new(safetensors::Dtype::BF16, shape.clone(), bytes).unwrap())
    });
    std::fs::write(dir.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    for file in checkpoint.input_files() {
        let name = file.file_name().unwrap().to_str().unwrap();
        if !name.contains("safetensors") {
            std::fs::copy(&file, dir.join(name)).unwrap();
        }
    }
}

fn edit_config(dir: &Path, edit: impl FnOnce(&mut serde_json::Map<String, Json>)) {
    let path = dir.join("config.json");
    let mut config: Json = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    edit(config.as_object_mut().unwrap());
    std::fs::write(path, config.to_string()).unwrap();
}

/// Logits of the last prompt row of sample 0.
fn last_logits(dir: &Path) -> Vec<f32> {
    let checkpoint = Checkpoint::open(dir).unwrap();
    let resolved = resolve(&Library::built_in().unwrap(), &checkpoint).unwrap();
    let weights = CheckpointWeights::new(&checkpoint, &resolved.bindings);
    let exec = Executor::<f32>::keeping(&resolved.model, &weights);
    let prompt = GoldenPrompt::read(FIXTURE, &resolved, &Goldens::of(FIXTURE), 0);
    let logits = DecoderState::prefill(&exec, &prompt.generation()).unwrap().logits;
    logits.row(logits.rows() - 1).to_vec()
}

#[test]
fn transformers_5_names_and_nested_configuration_are_the_same_model() {
    let dir = tempfile::tempdir().unwrap();
    let rename = |name: &str| match name.strip_prefix("model.") {
        Some(rest) => format!("model.language_model.{rest}"),
        None => name.replacen("visual.", "model.visual.", 1),
    };
    rewrite(dir.path(), rename, &[]);
    edit_config(dir.path(), |config| {
        let keys = [
            "hidden_size",
            "intermediate_size",
            "num_hidden_layers",
            "num_attention_heads",
            "num_key_value_heads",
            "vocab_size",
            "max_position_embeddings",
            "rms_norm_eps",
        ];
        let mut nested: serde_json::Map<String, Json> =
            keys.iter().map(|k| (k.to_string(), config.remove(*k).unwrap())).collect();
        let mut rope = config.remove("rope_scaling").unwrap();
        rope["rope_theta"] = config.remove("rope_theta").unwrap();
        nested.insert("rope_parameters".into(), rope);
        config.insert("text_config".into(), nested.into());
    });
    assert_eq!(last_logits(dir.path()), last_logits(&fixture(FIXTURE)));
}

#[test]
fn an_untied_head_is_read_and_a_tied_copy_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    rewrite(dir.path(), str::to_string, &[("model.embed_tokens.weight", "lm_head.weight")]);
    let tied = last_logits(&fixture(FIXTURE));
    let resolved = |dir: &Path| {
        let checkpoint = Checkpoint::open(dir).unwrap();
        resolve(&Library::built_in().unwrap(), &checkpoint).unwrap()
    };
    let with_copy = resolved(dir.path());
    assert_eq!(with_copy.ignored.len(), 1);
    assert!(with_copy.ignored[0].reason.contains("tied"), "{:?}", with_copy.ignored);
    assert_eq!(last_logits(dir.path()), tied);
    edit_config(dir.path(), |config| {
        config.insert("tie_word_embeddings".into(), false.into());
    });
    let untied = resolved(dir.path());
    assert!(untied.ignored.is_empty());
    assert_eq!(untied.bindings["decoder.head.weight"].tensor, "lm_head.weight");
    assert_eq!(last_logits(dir.path()), tied);
}

#[test]
fn a_processor_config_of_the_checkpoint_does_not_replace_the_one_genai_reads() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    std::fs::create_dir(&model).unwrap();
    rewrite(&model, str::to_string, &[]);
    std::fs::write(model.join("processor_config.json"), r#"{"processor_class": "Qwen2VLProcessor"}"#)
        .unwrap();
    let out = dir.path().join("out");
    let [model, target] = [&model, &out].map(|p| p.display().to_string());
    mquant(&[&model, "--format", "onnx", "--recipe", "float", "-o", &target]);
    let config: Json =
        serde_json::from_slice(&std::fs::read(out.join("processor_config.json")).unwrap()).unwrap();
    assert!(config["processor"]["transforms"].is_array(), "{config}");
}

#[test]
fn every_tensor_has_one_role_or_a_reason() {
    let checkpoint = Checkpoint::open(&fixture(FIXTURE)).unwrap();
    let resolved = resolve(&Library::built_in().unwrap(), &checkpoint).unwrap();
    let mut elements: BTreeMap<&str, usize> = BTreeMap::new();
    for (role, b) in &resolved.bindings {
        // The head of a tied model is the token table under a second role.
        if role != "decoder.head.weight" {
            *elements.entry(&b.tensor).or_default() += b.shape.iter().product::<usize>();
        }
    }
    for t in checkpoint.tensors() {
        assert_eq!(elements.get(t.name()), Some(&t.elements()), "{}", t.name());
    }
    assert_eq!(elements.len(), checkpoint.tensors().len());
}
