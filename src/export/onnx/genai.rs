//! The two files ONNX Runtime GenAI reads beside the graphs: `genai_config.json` and `processor_config.json`, in the form of its model type
//! `qwen2_5_vl` as understood by GenAI 0.18. Its parsers refuse unknown keys, and its processor numbers of the wrong JSON kind.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::error::OnnxError;
use super::file::write_bytes;
use crate::family::inputs::ImagePlan;

/// With one buffer for past and present, GenAI allocates the whole cache at `search.max_length` when generation starts, so a long context
/// would cost gigabytes at once (28 layers x 2 x 2 heads x 32768 x 128 x 4 bytes = 1.9 GB). Users may raise it per run.
const SHARED_BUFFER_LENGTH: usize = 4096;

/// What the configuration files say.
#[derive(Clone, Debug, PartialEq)]
pub struct GenaiInput {
    /// GenAI's name for this kind of model.
    pub model_type: String,
    /// GenAI's name for its image processor.
    pub processor: String,
    /// Id of the placeholder token of image rows; positions depend on it.
    pub image_token_id: i64,
    /// Id of the token before an image; without it GenAI computes wrong positions silently.
    pub vision_start_token_id: i64,
    /// Id of the placeholder token of video rows, if the model has one.
    pub video_token_id: Option<i64>,
    /// Ids that end generation.
    pub eos_token_ids: Vec<i64>,
    /// Id of the token that begins a text, if the model has one.
    pub bos_token_id: Option<i64>,
    /// Id GenAI masks wherever it occurs in a prompt; -1 masks nothing. Left out it would be 0, an ordinary token in many vocabularies.
    pub pad_token_id: i64,
    /// Rows of the logits.
    pub vocab_size: usize,
    /// Longest sequence in tokens.
    pub context_length: usize,
    /// Channels of `inputs_embeds` and `image_features`, the modality channel included.
    pub hidden_size: usize,
    /// Channels per head.
    pub head_size: usize,
    /// Query heads.
    pub num_attention_heads: usize,
    /// Key and value heads.
    pub num_key_value_heads: usize,
    /// Decoder layers.
    pub num_hidden_layers: usize,
    /// Patch side in pixels.
    pub patch_size: usize,
    /// Merge block side in patches.
    pub merge_size: usize,
    /// Frames per patch.
    pub temporal_patch_size: usize,
    /// How images are preprocessed.
    pub image: ImagePlan,
    /// Whether past and present are one buffer; see [`super::shares_cache_buffer`].
    pub share_buffer: bool,
}

/// What GenAI reads of a model.
pub const CONFIG_FILE: &str = "genai_config.json";

/// What GenAI reads of its image processor.
pub const PROCESSOR_FILE: &str = "processor_config.json";

/// Writes `genai_config.json` and `processor_config.json` into `dir`; returns their paths.
///
/// # Errors
/// [`OnnxError`] naming the file that could not be written.
pub fn write(input: &GenaiInput, dir: &Path) -> Result<Vec<PathBuf>, OnnxError> {
    let files = [(CONFIG_FILE, genai_config(input)), (PROCESSOR_FILE, processor_config(input))];
    let mut written = Vec::with_capacity(files.len());
    for (name, value) in files {
        let path = dir.join(name);
        let json = |source| OnnxError::Json { path: path.clone(), source };
        let mut bytes = serde_json::to_vec_pretty(&value).map_err(json)?;
        bytes.push(b'\n');
        write_bytes(&path, &bytes)?;
        written.push(path);
    }
    Ok(written)
}

/// The content of `genai_config.json`.
pub fn genai_config(i: &GenaiInput) -> Value {
    let mut model = json!({ "type": i.model_type });
    // Absent ids are left out: the parser takes no null.
    for (key, id) in [("bos_token_id", i.bos_token_id), ("video_token_id", i.video_token_id)] {
        if let Some(id) = id {
            model[key] = json!(id);
        }
    }
    let fixed = json!({
        "pad_token_id": i.pad_token_id,
        "eos_token_id": i.eos_token_ids,
        "image_token_id": i.image_token_id,
        "vision_start_token_id": i.vision_start_token_id,
        "vocab_size": i.vocab_size,
        "context_length": i.context_length,
        "vision": vision(i),
        "embedding": {
            "filename": super::file_name(crate::graph::Part::Embedding),
            "inputs": { "input_ids": "input_ids", "image_features": "image_features" },
            "outputs": { "inputs_embeds": "inputs_embeds" },
        },
        "decoder": decoder(i),
    });
    if let (Some(model), Value::Object(fixed)) = (model.as_object_mut(), fixed) {
        model.extend(fixed);
    }
    json!({ "model": model, "search": search(i) })
}

fn vision(i: &GenaiInput) -> Value {
    json!({
        "filename": super::file_name(crate::graph::Part::Vision),
        "config_filename": PROCESSOR_FILE,
        "spatial_merge_size": i.merge_size,
        "patch_size": i.patch_size,
        // Positions of a still image do not depend on it; it scales the time axis of videos.
        "tokens_per_second": 2.0,
        "inputs": { "pixel_values": "pixel_values", "image_grid_thw": "image_grid_thw" },
        "outputs": { "image_features": "image_features" },
    })
}

fn decoder(i: &GenaiInput) -> Value {
    json!({
        "filename": super::file_name(crate::graph::Part::Decoder),
        "hidden_size": i.hidden_size,
        "head_size": i.head_size,
        "num_attention_heads": i.num_attention_heads,
        "num_key_value_heads": i.num_key_value_heads,
        "num_hidden_layers": i.num_hidden_layers,
        "session_options": { "log_id": "onnxruntime-genai", "provider_options": [] },
        "inputs": {
            "inputs_embeds": "inputs_embeds",
            "attention_mask": "attention_mask",
            "position_ids": "position_ids",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    })
}

fn search(i: &GenaiInput) -> Value {
    let longest = if i.share_buffer { SHARED_BUFFER_LENGTH } else { usize::MAX };
    json!({
        "do_sample": false,
        "max_length": i.context_length.min(longest),
        "min_length": 0,
        "num_beams": 1,
        "num_return_sequences": 1,
        "repetition_penalty": 1.0,
        "temperature": 1.0,
        "top_k": 1,
        "top_p": 1.0,
        "past_present_share_buffer": i.share_buffer,
        "early_stopping": true,
        "length_penalty": 1.0,
        "no_repeat_ngram_size": 0,
        "diversity_penalty": 0.0,
    })
}

/// The content of `processor_config.json`: the pipeline of onnxruntime-extensions. ConvertRGB swaps red and blue and Normalize with
/// `qwen2_5_vl` swaps them back, so they stay together.
pub fn processor_config(i: &GenaiInput) -> Value {
    // A family with other views than smart cannot name this processor: resolving its file fails.
    let (min_pixels, max_pixels) = i.image.views.pixel_limits().unwrap_or_default();
    let op = |name: &str, kind: &str, attrs: Value| match attrs {
        Value::Null => json!({ "operation": { "name": name, "type": kind } }),
        attrs => json!({ "operation": { "name": name, "type": kind, "attrs": attrs } }),
    };
    let resize = json!({
        // Ignored with smart_resize, but the attributes are not optional everywhere.
        "width": 540,
        "height": 360,
        "smart_resize": 1,
        "min_pixels": min_pixels,
        "max_pixels": max_pixels,
        "patch_size": i.patch_size,
        "merge_size": i.merge_size,
    });
    let normalize = json!({ "mean": decimal(i.image.mean), "std": decimal(i.image.std), "qwen2_5_vl": 1 });
    let patch = json!({
        "patch_size": i.patch_size,
        "temporal_patch_size": i.temporal_patch_size,
        "merge_size": i.merge_size,
    });
    json!({ "processor": { "name": i.processor, "transforms": [
        op("decode_image", "DecodeImage", json!({ "color_space": "RGB" })),
        op("convert_to_rgb", "ConvertRGB", Value::Null),
        op("resize", "Resize", resize),
        op("rescale", "Rescale", json!({ "rescale_factor": i.image.rescale })),
        op("normalize", "Normalize", normalize),
        op("patch_image", "PatchImage", patch),
    ] } })
}

/// The shortest decimals that name these f32 numbers; widened to f64 first, they would show digits nobody wrote.
fn decimal(values: [f32; 3]) -> Vec<f64> {
    values.iter().map(|v| v.to_string().parse().unwrap_or(f64::from(*v))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::family::inputs::{PatchRows, Views};

    pub(super) fn input() -> GenaiInput {
        GenaiInput {
            model_type: "m".into(),
            processor: "p".into(),
            image_token_id: 340,
            vision_start_token_id: 337,
            video_token_id: None,
            eos_token_ids: vec![330, 328],
            bos_token_id: Some(328),
            pad_token_id: -1,
            vocab_size: 352,
            context_length: 32768,
            hidden_size: 129,
            head_size: 32,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            num_hidden_layers: 3,
            patch_size: 14,
            merge_size: 2,
            temporal_patch_size: 2,
            image: ImagePlan {
                views: Views::Smart { factor: 28, min_pixels: 3136, max_pixels: 12_845_056 },
                mean: [0.48145466, 0.5, 1.0],
                std: [0.26862955, 0.2613026, 1.0],
                rescale: 1.0 / 255.0,
                rows: PatchRows { patch: 14, merge: 2, temporal: 2, channels: 3 },
            },
            share_buffer: true,
        }
    }

    #[test]
    fn absent_ids_are_left_out_and_a_shared_buffer_is_short() {
        let c = genai_config(&input());
        assert_eq!(c["model"]["bos_token_id"], 328);
        assert!(c["model"].get("video_token_id").is_none());
        assert_eq!(c["search"]["max_length"], 4096);
        let c = genai_config(&GenaiInput { share_buffer: false, ..input() });
        assert_eq!(c["search"]["max_length"], 32768);
    }

    #[test]
    fn processor_numbers_have_the_json_kind_the_parser_wants() {
        let text = processor_config(&input()).to_string();
        // The shortest text of the f32 nearest to 0.48145466.
        assert!(text.contains(r#""mean":[0.48145467,0.5,1.0]"#), "{text}");
        assert!(text.contains(r#""min_pixels":3136,"#), "{text}");
        assert!(text.contains(r#""rescale_factor":0.00392156862745098"#), "{text}");
    }

    #[test]
    fn both_files_are_written() {
        let dir = tempfile::tempdir().unwrap();
        let paths = write(&input(), dir.path()).unwrap();
        assert_eq!(paths.len(), 2);
        for p in paths {
            let v: Value = serde_json::from_slice(&std::fs::read(p).unwrap()).unwrap();
            assert!(v.is_object());
        }
        assert!(matches!(write(&input(), &dir.path().join("none")), Err(OnnxError::Io { .. })));
    }
}
