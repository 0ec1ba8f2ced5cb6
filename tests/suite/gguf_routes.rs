//! What families say of llama.cpp's files, against the lists of what its own converter writes (`fixtures/gguf/README.md`): tensors by name, sizes, type
//! and bytes, and metadata. Every difference is listed here with its reason; the list fails when a difference is gone.

use std::collections::{BTreeMap, BTreeSet};

use mquant_export::export::gguf::emit::{Emission, EmitError, FileKind, FloatType, Options, lower};
use mquant_export::export::gguf::{Array, Value};
use mquant_export::family::inputs::gguf::{GgufFile, KeyValue, Provenance, TensorSource};
use mquant_export::family::{CheckpointWeights, Resolved, provenance, vocabulary_keys};
use mquant_export::graph::{Model, WeightFormat};
use mquant_export::numeric::ggml::BlockType;
use mquant_export::passes::rewrite::Rewrites;
use mquant_export::passes::{fold_norms, merge_linears, rotate_online};
use serde_json::{Value as Json, json};
use sha2::{Digest, Sha256};

use crate::common::{fixture, open};

fn plan(resolved: &Resolved, kind: FileKind) -> &GgufFile {
    let plan = resolved.description.gguf.as_ref().unwrap();
    match kind {
        FileKind::Text => &plan.text,
        FileKind::Vision => plan.vision.as_ref().unwrap(),
    }
}

/// The file of a fixture, its weights as they are.
fn emitted(name: &str, kind: FileKind, float: FloatType, file_type: u32) -> BTreeMap<String, Json> {
    let (checkpoint, resolved) = open(name);
    let provenance = provenance(&resolved.description, checkpoint.files()).unwrap();
    let vocabulary = match kind {
        FileKind::Text => vocabulary_keys(&resolved.description, checkpoint.files()).unwrap(),
        FileKind::Vision => vec![],
    };
    let tied_head = resolved.description.spec.decoder.tied_head;
    let options =
        Options { float, file_type, provenance: &provenance, vocabulary: &vocabulary, extra: &[], tied_head };
    let file = lower(&resolved.model, plan(&resolved, kind), kind, &options).unwrap();
    let source = CheckpointWeights::new(&checkpoint, &resolved.bindings);
    listed(&file, |i| file.bytes(i, &source).unwrap())
}

/// Keys with type and value, tensors with type, sizes and hash, as the lists have them.
fn listed(file: &Emission, bytes: impl Fn(usize) -> Vec<u8>) -> BTreeMap<String, Json> {
    let mut all: BTreeMap<String, Json> =
        file.metadata.iter().map(|(key, value)| (key.clone(), value_of(value))).collect();
    for (i, tensor) in file.tensors.iter().enumerate() {
        let bytes = bytes(i);
        assert_eq!(
            bytes.len(),
            tensor.kind.size_of(tensor.dims.iter().product::<u64>() as usize),
            "{}",
            tensor.name
        );
        let hash = format!("{:x}", Sha256::digest(&bytes));
        let kind = tensor.kind.name().to_uppercase();
        assert!(all.insert(tensor.name.clone(), json!([kind, tensor.dims, hash])).is_none());
    }
    all
}

fn value_of(value: &Value) -> Json {
    match value {
        Value::U32(x) => json!(["UINT32", x]),
        Value::I32(x) => json!(["INT32", x]),
        Value::F32(x) => json!(["FLOAT32", f64::from(*x)]),
        Value::Bool(x) => json!(["BOOL", x]),
        Value::String(x) => json!(["STRING", x]),
        Value::Array(Array::F32(x)) => {
            let values = x.iter().map(|v| json!(f64::from(*v))).collect();
            array("FLOAT32", values, x.iter().flat_map(|v| v.to_le_bytes()).collect())
        }
        Value::Array(Array::I32(x)) => array(
            "INT32",
            x.iter().map(|v| json!(v)).collect(),
            x.iter().flat_map(|v| v.to_le_bytes()).collect(),
        ),
        Value::Array(Array::String(x)) => {
            let stored = x.iter().flat_map(|v| [&(v.len() as u64).to_le_bytes()[..], v.as_bytes()].concat());
            array("STRING", x.iter().map(|v| json!(v)).collect(), stored.collect())
        }
        other => panic!("no file has {other:?}"),
    }
}

fn array(kind: &str, values: Vec<Json>, stored: Vec<u8>) -> Json {
    let long = || json!({"length": values.len(), "sha256": format!("{:x}", Sha256::digest(&stored))});
    let shown = if values.len() > 16 { long() } else { json!(values) };
    json!([format!("ARRAY[{kind}]"), shown])
}

/// The converter's file, in the same form. Axes of one element at the end are not written by this program.
fn reference(name: &str, file: &str) -> BTreeMap<String, Json> {
    let text = std::fs::read_to_string(fixture("gguf").join(format!("{name}.json"))).unwrap();
    let json: Json = serde_json::from_str(&text).unwrap();
    let lists = &json["files"][file];
    let keys = lists["metadata"].as_array().unwrap().iter();
    let keys = keys.map(|k| (k[0].as_str().unwrap().to_string(), json!([k[1], single(&k[1], &k[2])])));
    let tensors = lists["tensors"].as_array().unwrap().iter().map(|t| {
        let mut sizes = t[2].as_array().unwrap().clone();
        while sizes.len() > 1 && sizes.last() == Some(&json!(1)) {
            sizes.pop();
        }
        (t[0].as_str().unwrap().to_string(), json!([t[1], sizes, t[3]]))
    });
    keys.chain(tensors).collect()
}

/// Numbers in single precision: the reader of JSON may miss the last bit of a double.
fn single(kind: &Json, value: &Json) -> Json {
    let one = |x: &Json| x.as_f64().map_or_else(|| x.clone(), |v| json!(f64::from(v as f32)));
    match value {
        Json::Array(list) if kind == "ARRAY[FLOAT32]" => list.iter().map(one).collect(),
        x if kind == "FLOAT32" => one(x),
        x => x.clone(),
    }
}

/// Keys of the model's origin: names are those of the hub, not made up from the folder's name; the projector file does not repeat the sampling.
fn of_origin(name: &str) -> bool {
    let checked = ["architecture", "type", "file_type", "quantization_version", "size_label"];
    name.strip_prefix("general.").is_some_and(|key| !checked.contains(&key))
}

/// Names of keys and tensors that differ between the converter's file and ours: `-` is missing here, `+` there, `~` differs.
fn differences(ours: &BTreeMap<String, Json>, theirs: &BTreeMap<String, Json>) -> BTreeSet<String> {
    let names: BTreeSet<&String> = ours.keys().chain(theirs.keys()).collect();
    let one = |name: &&String| match (ours.get(*name), theirs.get(*name)) {
        (Some(a), Some(b)) if a == b => None,
        (Some(_), Some(_)) => Some(format!("~{name}")),
        (Some(_), None) => Some(format!("+{name}")),
        _ => Some(format!("-{name}")),
    };
    names.iter().filter(|n| !of_origin(n)).filter_map(one).collect()
}
/// `~x` differs, `+x` is in our file alone, `-x` in the converter's.
type Expected = (&'static str, FileKind, &'static [&'static str]);

const EXPECTED: [Expected; 10] = [
    ("qwen2_vl", FileKind::Text, &[]),
    ("qwen2_vl", FileKind::Vision, &[]),
    ("qwen2_vl_tiny", FileKind::Text, &[]),
    ("qwen2_vl_tiny", FileKind::Vision, &[]),
    // The converter reads special ids from the top of config.json alone, where this family has none.
    ("internvl2", FileKind::Text, &["+tokenizer.ggml.unknown_token_id"]),
    // The row of the class token stands where the graph puts the token.
    ("internvl2", FileKind::Vision, &["~v.position_embd.weight"]),
    (
        "internvl2_qwen2",
        FileKind::Text,
        &[
            "+tokenizer.ggml.add_bos_token",
            "+tokenizer.ggml.add_eos_token",
            "+tokenizer.ggml.bos_token_id",
            "+tokenizer.ggml.eos_token_id",
            "+tokenizer.ggml.padding_token_id",
        ],
    ),
    ("internvl2_qwen2", FileKind::Vision, &["~v.position_embd.weight"]),
    ("minicpm_v_2_6", FileKind::Text, &[]),
    // The list is made with the tokenizer left out, which is remote code.
    (
        "glm_4v",
        FileKind::Text,
        &[
            "+tokenizer.ggml.add_eos_token",
            "+tokenizer.ggml.eos_token_id",
            "+tokenizer.ggml.eot_token_id",
            "+tokenizer.ggml.merges",
            "+tokenizer.ggml.padding_token_id",
            "+tokenizer.ggml.pre",
            "+tokenizer.ggml.token_type",
            "+tokenizer.ggml.tokens",
            "+tokenizer.ggml.unknown_token_id",
            "~tokenizer.ggml.model",
        ],
    ),
];

const FLOATS: [(FloatType, &str, u32); 3] =
    [(FloatType::F16, "f16", 1), (FloatType::Bf16, "bf16", 32), (FloatType::F32, "f32", 0)];

#[test]
fn files_are_those_of_the_converter() {
    for (name, kind, expected) in EXPECTED {
        let word = if kind == FileKind::Text { "text" } else { "mmproj" };
        for (float, suffix, number) in FLOATS {
            let theirs = reference(name, &format!("{word}-{suffix}"));
            let found = differences(&emitted(name, kind, float, number), &theirs);
            let expected: BTreeSet<String> = expected.iter().map(ToString::to_string).collect();
            assert_eq!(found, expected, "{name} {word} {suffix}");
        }
    }
}

#[test]
fn the_resamplers_file_is_that_of_the_old_script() {
    let found = |float, suffix, number| {
        let ours = emitted("minicpm_v_2_6", FileKind::Vision, float, number);
        differences(&ours, &reference("minicpm_v_2_6", &format!("mmproj-{suffix}")))
    };
    // Keys that no program reads are left out. Slices are cut to `scale_resolution` of the preprocessor, which in released models equals the
    // `image_size` that the script writes. The constant table is not used; its sines are rounded otherwise than numpy's.
    let mut expected: BTreeSet<String> = [
        "+general.quantization_version",
        "+general.size_label",
        "+general.type",
        "-clip.has_minicpmv_projector",
        "-clip.has_text_encoder",
        "~clip.vision.image_size",
        "~resampler.pos_embed_k",
    ]
    .map(String::from)
    .into();
    // The script always stores kernels in half precision.
    let mut single = expected.clone();
    single.insert("~v.patch_embd.weight".into());
    assert_eq!(found(FloatType::F32, "f32", 0), single);
    // Positions are added to single precision, so they are stored in it.
    expected.insert("~v.position_embd.weight".into());
    assert_eq!(found(FloatType::F16, "f16", 1), expected);
}

/// The bytes of some tensors of a file in f32, one after the other.
fn bytes_of(name: &str, kind: FileKind, tensors: &[&str]) -> Vec<u8> {
    let (checkpoint, resolved) = open(name);
    let file = lowered(&resolved.model, plan(&resolved, kind), kind).unwrap();
    let source = CheckpointWeights::new(&checkpoint, &resolved.bindings);
    let index = |name: &&str| file.tensors.iter().position(|t| t.name == **name).unwrap();
    tensors.iter().flat_map(|t| file.bytes(index(t), &source).unwrap()).collect()
}

/// A file in f32 without tokenizer and origin.
fn lowered(model: &Model, plan: &GgufFile, kind: FileKind) -> Result<Emission, EmitError> {
    let tied_head = model.spec.decoder.tied_head;
    let provenance = Provenance::default();
    let (float, extra, vocabulary) = (FloatType::F32, &[][..], &[][..]);
    lower(
        model,
        plan,
        kind,
        &Options { float, file_type: 0, provenance: &provenance, vocabulary, extra, tied_head },
    )
}

#[test]
fn the_class_tokens_position_stands_last() {
    let bytes = bytes_of("internvl2", FileKind::Vision, &["v.position_embd.weight"]);
    let (patches, class) = bytes.split_at(bytes.len() - 64 * 4);
    let rolled = format!("{:x}", Sha256::digest([class, patches].concat()));
    assert_eq!(reference("internvl2", "mmproj-f32")["v.position_embd.weight"][2], rolled);
}

#[test]
fn qwen_vls_decoder_is_the_converters_with_its_linears_apart() {
    let theirs = reference("qwen_vl", "text-f32");
    let ours = emitted("qwen_vl", FileKind::Text, FloatType::F32, 0);
    for layer in 0..2 {
        for end in ["weight", "bias"] {
            let names = ["q", "k", "v"].map(|n| format!("blk.{layer}.attn_{n}.{end}"));
            let bytes = bytes_of("qwen_vl", FileKind::Text, &names.each_ref().map(String::as_str));
            let fused = format!("{:x}", Sha256::digest(bytes));
            assert_eq!(theirs[&format!("blk.{layer}.attn_qkv.{end}")][2], fused);
        }
    }
    let other: BTreeSet<String> = differences(&ours, &theirs);
    let tensors = other.iter().filter(|n| n.contains("weight") || n.contains("bias"));
    assert!(tensors.clone().count() > 0 && tensors.clone().all(|n| n.contains(".attn_")), "{other:?}");
    let resolved = open("qwen_vl").1;
    let gguf = resolved.description.gguf.unwrap();
    assert!(gguf.vision.unwrap_err().contains("ONNX") && gguf.limits[0].contains("2048"));
    assert!(gguf.text.keys.contains(&("qwen2.context_length".into(), KeyValue::U32(2048))));
}

#[test]
fn a_tower_that_the_graph_does_not_compute_has_no_file() {
    let gguf = open("internvl2_vit6b").1.description.gguf.unwrap();
    let reason = gguf.vision.unwrap_err();
    assert!(reason.contains("3200") && reason.contains("64") && reason.contains("ONNX"), "{reason}");
    assert_eq!(gguf.text.architecture, "internlm2");
    let reason = open("glm_4v").1.description.gguf.unwrap().vision.unwrap_err();
    assert!(reason.contains("llama.cpp") && reason.contains("ONNX"), "{reason}");
}

fn refusal(model: &Model, plan: &GgufFile, kind: FileKind) -> String {
    lowered(model, plan, kind).unwrap_err().to_string()
}

#[test]
fn gains_behind_linears_may_be_folded_and_new_biases_may_not() {
    let resolved = open("internvl2").1;
    let model = fold_norms(resolved.model.clone(), &mut Rewrites::default()).unwrap();
    let file = lowered(&model, plan(&resolved, FileKind::Vision), FileKind::Vision).unwrap();
    assert!(!file.tensors.iter().any(|t| t.name.contains(".ls1")));
    assert!(file.tensors.iter().any(|t| t.name == "v.blk.3.ln1.bias"));
    let resolved = open("minicpm_v_2_6").1;
    let model = fold_norms(resolved.model.clone(), &mut Rewrites::default()).unwrap();
    let e = refusal(&model, plan(&resolved, FileKind::Vision), FileKind::Vision);
    assert!(e.contains("llama.cpp has no place for 2 part"), "{e}");
    assert!(e.contains("projector.kv.bias [256]") && e.contains("projector.out.bias [256]"), "{e}");
}

#[test]
fn what_the_graph_does_not_compute_is_refused() {
    let resolved = open("qwen2_vl").1;
    let text = plan(&resolved, FileKind::Text);
    let down = "decoder.layers.1.mlp.down";
    let rotated = rotate_online(resolved.model.clone(), &mut Rewrites::default(), down, 64).unwrap();
    let e = refusal(&rotated, text, FileKind::Text);
    assert!(e.contains("Hadamard decoder.layers.1.mlp.down.hadamard") && e.contains("hint: "), "{e}");
    // The projector file is not concerned.
    lowered(&rotated, plan(&resolved, FileKind::Vision), FileKind::Vision).unwrap();
    let merged = merge_linears(resolved.model.clone()).unwrap();
    let e = refusal(&merged, text, FileKind::Text);
    assert!(e.contains("merged into one") && e.contains("Split"), "{e}");
}

/// The model with one weight in another format.
fn formatted(model: &Model, weight: &str, format: WeightFormat) -> Model {
    let mut model = model.clone();
    model.weights.iter_mut().find(|w| w.name == weight).unwrap().format = format;
    model
}

#[test]
fn types_that_do_not_fit_are_refused() {
    let resolved = open("glm_4v").1;
    let (text, q) = (plan(&resolved, FileKind::Text), "decoder.layers.0.attn.q.weight");
    let one = formatted(&resolved.model, q, WeightFormat::Blocks(BlockType::Q8_0));
    let e = refusal(&one, text, FileKind::Text);
    assert!(e.contains("blk.0.attn_qkv.weight has one type") && e.contains("Q8_0"), "{e}");
    let o = "decoder.layers.0.attn.o.weight";
    let file = formatted(&resolved.model, o, WeightFormat::Blocks(BlockType::Q8_0));
    let file = lowered(&file, text, FileKind::Text).unwrap();
    let info = file.tensors.iter().find(|t| t.name == "blk.0.attn_output.weight").unwrap();
    assert_eq!((info.kind, info.dims.as_slice()), (BlockType::Q8_0, &[128, 128][..]));
    let wide = formatted(&resolved.model, o, WeightFormat::Blocks(BlockType::Q4K));
    let e = refusal(&wide, text, FileKind::Text);
    assert!(e.contains("blk.0.attn_output.weight: rows of 128 are not whole blocks of q4_k"), "{e}");
}

#[test]
fn every_weight_is_written_once() {
    let resolved = open("qwen2_vl").1;
    let mut text = plan(&resolved, FileKind::Text).clone();
    text.tensors.retain(|t| t.name != "blk.2.attn_k.bias");
    let e = refusal(&resolved.model, &text, FileKind::Text);
    assert!(e.contains("the weight decoder.layers.2.attn.k.bias [64]"), "{e}");
    let mut again = plan(&resolved, FileKind::Text).clone();
    let mut copy = again.tensors[1].clone();
    copy.name = "again.weight".into();
    again.tensors.push(copy.clone());
    let e = refusal(&resolved.model, &again, FileKind::Text);
    assert!(e.contains("decoder.norm.weight is written twice"), "{e}");
    copy.source = TensorSource::Roles(vec!["decoder.nothing.weight".into()]);
    again.tensors.pop();
    again.tensors.push(copy);
    let e = refusal(&resolved.model, &again, FileKind::Text);
    assert!(e.contains("again.weight asks for the weight decoder.nothing.weight"), "{e}");
    // One of the two frames of the patches' kernel.
    let mut vision = plan(&resolved, FileKind::Vision).clone();
    vision.tensors.retain(|t| t.name != "v.patch_embd.weight.1");
    let e = refusal(&resolved.model, &vision, FileKind::Vision);
    assert!(e.contains("vision.patch.weight is written twice or in part"), "{e}");
}
