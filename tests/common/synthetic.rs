//! Small random checkpoints: the configuration of a fixture with its sizes changed, and random weights for every tensor that the family file
//! then asks for. Nothing about the sizes of a fixture may be assumed anywhere.

use std::collections::BTreeMap;
use std::path::Path;

use half::bf16;
use mquant_export::checkpoint::Checkpoint;
use mquant_export::family::{FamilyError, FamilyProblem, Library, Resolved, resolve};
use safetensors::Dtype;
use safetensors::tensor::TensorView;
use serde_json::Value as Json;

use super::folder;

/// Random numbers by splitmix64: the same for one seed on every machine.
pub struct Draw(u64);

impl Draw {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bf0_3635)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from `low` to `high`, both included.
    pub fn range(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() % (high - low + 1) as u64) as usize
    }

    pub fn one_of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.range(0, choices.len() - 1)]
    }

    pub fn coin(&mut self) -> bool {
        self.one_of(&[false, true])
    }

    /// Between 0 and 1, neither included.
    fn unit(&mut self) -> f64 {
        ((self.next() >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Normally distributed with deviation 1 (Box and Muller).
    pub fn normal(&mut self) -> f32 {
        let (a, b) = (self.unit(), self.unit());
        ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
    }
}

/// A divisor of `n`.
fn divisor(draw: &mut Draw, n: usize) -> usize {
    let divisors: Vec<usize> = (1..=n).filter(|d| n.is_multiple_of(*d)).collect();
    draw.one_of(&divisors)
}

/// Sizes of a decoder: `(heads, key heads, channels per head)`. ONNX Runtime's own attention takes head sizes that are multiples of 8; the
/// others are written another way. Heads are `step` channels or a multiple.
fn heads(draw: &mut Draw, step: usize) -> (usize, usize, usize) {
    let heads = draw.range(1, 6);
    let head_dim = if draw.coin() { 8 * draw.range(1, 4) } else { step * draw.range(2, 7) };
    (heads, divisor(draw, heads), head_dim)
}

/// `count` whole numbers above 0 with this sum.
fn parts(draw: &mut Draw, sum: usize, count: usize) -> Vec<usize> {
    let mut parts = vec![1; count];
    (count..sum).for_each(|_| parts[draw.range(0, count - 1)] += 1);
    parts
}

/// Sizes by JSON pointer into `config.json`.
type Sizes = Vec<(&'static str, Json)>;

/// Sizes of a tower in the order width, heads, depth, MLP width; heads of a multiple of `step` channels.
fn tower(draw: &mut Draw, at: [&'static str; 4], step: usize) -> Sizes {
    let (heads, head_dim) = (draw.range(1, 4), step * draw.range(1, 12 / step + 2));
    let values = [heads * head_dim, heads, draw.range(1, 3), draw.range(3, 70)];
    at.into_iter().zip(values.map(Json::from)).collect()
}

fn qwen2_vl(draw: &mut Draw) -> Sizes {
    let (heads, kv_heads, head_dim) = heads(draw, 2);
    let head_dim = head_dim.max(6);
    let mut sizes = tower(
        draw,
        [
            "/vision_config/embed_dim",
            "/vision_config/num_heads",
            "/vision_config/depth",
            "/vision_config/mlp_ratio",
        ],
        4,
    );
    sizes[3].1 = draw.one_of(&[1.0, 2.0, 3.0, 4.0, 2.5]).into();
    sizes.extend([
        ("/hidden_size", (heads * head_dim).into()),
        ("/vision_config/hidden_size", (heads * head_dim).into()),
        ("/num_attention_heads", heads.into()),
        ("/num_key_value_heads", kv_heads.into()),
        ("/rope_scaling/mrope_section", parts(draw, head_dim / 2, 3).into()),
        ("/num_hidden_layers", draw.range(1, 3).into()),
        ("/intermediate_size", draw.range(5, 90).into()),
        ("/vocab_size", draw.range(342, 371).into()),
        ("/tie_word_embeddings", draw.coin().into()),
        ("/rope_theta", draw.one_of(&[1e4, 1e6, 5e5]).into()),
        ("/vision_config/patch_size", draw.range(2, 5).into()),
        ("/vision_config/spatial_merge_size", draw.range(1, 3).into()),
        ("/vision_config/temporal_patch_size", draw.range(1, 2).into()),
    ]);
    sizes
}

fn internvl2(draw: &mut Draw) -> Sizes {
    let (heads, kv_heads, head_dim) = heads(draw, 2);
    let mut sizes = tower(
        draw,
        [
            "/vision_config/hidden_size",
            "/vision_config/num_attention_heads",
            "/vision_config/num_hidden_layers",
            "/vision_config/intermediate_size",
        ],
        1,
    );
    let (patch, merge) = (draw.range(2, 5), draw.range(1, 3));
    let rms = draw.coin();
    let scaling = match draw.coin() {
        true => serde_json::json!({"type": "dynamic", "factor": draw.one_of(&[1.0, 1.5, 2.0, 4.0])}),
        false => Json::Null,
    };
    sizes.extend([
        ("/llm_config/hidden_size", (heads * head_dim).into()),
        ("/llm_config/num_attention_heads", heads.into()),
        ("/llm_config/num_key_value_heads", kv_heads.into()),
        ("/llm_config/num_hidden_layers", draw.range(1, 3).into()),
        ("/llm_config/intermediate_size", draw.range(5, 90).into()),
        ("/llm_config/vocab_size", draw.range(409, 440).into()),
        ("/llm_config/rope_theta", draw.one_of(&[1e4, 1e6, 5e5]).into()),
        ("/llm_config/rope_scaling", scaling),
        ("/llm_config/max_position_embeddings", draw.one_of(&[4, 10, 25, 4096]).into()),
        ("/vision_config/patch_size", patch.into()),
        ("/vision_config/image_size", (patch * draw.range(1, 7)).into()),
        ("/force_image_size", (patch * merge * draw.range(1, 3)).into()),
        ("/downsample_ratio", (1.0 / merge as f64).into()),
        ("/vision_config/norm_type", if rms { "rms_norm" } else { "layer_norm" }.into()),
        ("/vision_config/qkv_bias", draw.coin().into()),
        ("/vision_config/qk_normalization", draw.coin().into()),
    ]);
    sizes
}

fn minicpm_v_2_6(draw: &mut Draw) -> Sizes {
    // The resampler is as wide as the decoder and has heads of 128 channels, one at least.
    let (hidden, heads) =
        draw.one_of(&[(128, 4), (144, 9), (144, 4), (160, 5), (192, 6), (192, 16), (256, 8)]);
    let mut sizes = tower(
        draw,
        [
            "/vision_config/hidden_size",
            "/vision_config/num_attention_heads",
            "/vision_config/num_hidden_layers",
            "/vision_config/intermediate_size",
        ],
        1,
    );
    let patch = draw.range(2, 5);
    sizes.extend([
        ("/hidden_size", hidden.into()),
        ("/num_attention_heads", heads.into()),
        ("/num_key_value_heads", divisor(draw, heads).into()),
        ("/num_hidden_layers", draw.range(1, 3).into()),
        ("/intermediate_size", draw.range(5, 90).into()),
        ("/vocab_size", draw.range(340, 371).into()),
        ("/tie_word_embeddings", draw.coin().into()),
        ("/rope_theta", draw.one_of(&[1e4, 1e6, 5e5]).into()),
        ("/patch_size", patch.into()),
        ("/slice_config/patch_size", patch.into()),
        ("/query_num", draw.range(1, 9).into()),
        ("/vision_config/patch_size", patch.into()),
        // The table need not be a whole number of patches.
        ("/vision_config/image_size", (patch * draw.range(2, 9) + draw.range(0, patch - 1)).into()),
    ]);
    sizes
}

fn qwen_vl(draw: &mut Draw) -> Sizes {
    let (hidden, heads) =
        draw.one_of(&[(128, 4), (144, 9), (144, 4), (144, 12), (160, 5), (180, 10), (192, 6), (256, 8)]);
    let mut sizes = tower(draw, ["/visual/width", "/visual/heads", "/visual/layers", "/visual/mlp_ratio"], 1);
    sizes[3].1 = draw.one_of(&[1.0, 2.0, 4.9231, 3.3]).into();
    let patch = draw.range(2, 5);
    sizes.extend([
        ("/hidden_size", hidden.into()),
        ("/visual/output_dim", hidden.into()),
        ("/num_attention_heads", heads.into()),
        ("/kv_channels", (hidden / heads).into()),
        ("/num_hidden_layers", draw.range(1, 2).into()),
        ("/intermediate_size", (2 * draw.range(5, 60)).into()),
        ("/vocab_size", draw.range(504, 530).into()),
        ("/tie_word_embeddings", draw.coin().into()),
        ("/rotary_emb_base", draw.one_of(&[1e4, 1e6]).into()),
        ("/seq_length", draw.one_of(&[40, 150, 270, 2048]).into()),
        ("/use_dynamic_ntk", draw.coin().into()),
        ("/use_logn_attn", draw.coin().into()),
        ("/visual/patch_size", patch.into()),
        ("/visual/image_size", (patch * draw.range(2, 9) + draw.range(0, patch - 1)).into()),
    ]);
    sizes
}

fn glm_4v(draw: &mut Draw) -> Sizes {
    let (heads, kv_heads, head_dim) = heads(draw, 4);
    let mut sizes = tower(
        draw,
        [
            "/vision_config/hidden_size",
            "/vision_config/num_heads",
            "/vision_config/num_hidden_layers",
            "/vision_config/intermediate_size",
        ],
        1,
    );
    let (patch, side) = (draw.range(2, 5), 2 * draw.range(1, 4));
    sizes.extend([
        // Not bound to the heads.
        ("/hidden_size", draw.range(9, 90).into()),
        ("/num_attention_heads", heads.into()),
        ("/multi_query_group_num", kv_heads.into()),
        ("/kv_channels", head_dim.into()),
        ("/num_layers", draw.range(1, 3).into()),
        ("/ffn_hidden_size", draw.range(5, 90).into()),
        ("/padded_vocab_size", draw.range(336, 371).into()),
        ("/rope_ratio", draw.one_of(&[1, 10, 500]).into()),
        ("/vision_config/patch_size", patch.into()),
        ("/vision_config/image_size", (patch * side).into()),
        ("/vision_config/num_positions", (side * side + 1).into()),
        ("/vision_config/scaling_factor", draw.range(1, 8).into()),
    ]);
    sizes
}

/// A random configuration of the family of a fixture, and what was changed, for messages.
pub fn random_config(base: &str, draw: &mut Draw) -> (Json, String) {
    let sizes = match base {
        "glm_4v" => glm_4v(draw),
        "minicpm_v_2_6" => minicpm_v_2_6(draw),
        "qwen2_vl" => qwen2_vl(draw),
        "qwen_vl" => qwen_vl(draw),
        _ => internvl2(draw),
    };
    let mut config = folder::config(base);
    let mut told = String::new();
    for (at, value) in sizes {
        told += &format!(" {at}={value}");
        folder::set(&mut config, at, value);
    }
    (config, told)
}

/// Names, roles and shapes of the tensors that the family file asks for: a checkpoint without any is refused with a list of them.
///
/// # Errors
/// What else is wrong with the configuration.
fn wanted(dir: &Path, library: &Library) -> Result<Vec<(String, String, Vec<usize>)>, FamilyError> {
    write_tensors(dir, [("nothing".to_string(), Dtype::F32, vec![1], vec![0; 4])]);
    let refused = resolve(library, &Checkpoint::open(dir).unwrap()).unwrap_err();
    let FamilyError::Misfit { family, problems } = refused else { return Err(refused) };
    let (mut wanted, mut others) = (vec![], vec![]);
    for problem in problems {
        match problem {
            FamilyProblem::MissingTensor { tensor, role, shape } => wanted.push((tensor, role, shape)),
            FamilyProblem::Unclaimed { tensor, .. } if tensor == "nothing" => {}
            other => others.push(other),
        }
    }
    if others.is_empty() { Ok(wanted) } else { Err(FamilyError::Misfit { family, problems: others }) }
}

/// Writes `model.safetensors` from names, types, shapes and little-endian bytes.
pub fn write_tensors(dir: &Path, tensors: impl IntoIterator<Item = (String, Dtype, Vec<usize>, Vec<u8>)>) {
    let tensors: BTreeMap<_, _> = tensors.into_iter().map(|(n, d, s, b)| (n, (d, s, b))).collect();
    let views = tensors.iter().map(|(n, (d, s, b))| (n, TensorView::new(*d, s.clone(), b).unwrap()));
    std::fs::write(dir.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
}

/// Random values that keep activations near 1: gains around 1, rows of matrices of length 1.
fn values(draw: &mut Draw, role: &str, shape: &[usize]) -> Vec<f32> {
    let fan_in: usize = shape.iter().skip(1).product();
    let gain = role.ends_with("norm.weight") || role.ends_with(".scale.weight") || role.contains(".norm");
    let table = ["embedding", "position", "query.", "class", "row"].iter().any(|t| role.contains(t));
    let (middle, deviation) = match shape.len() {
        1 if gain && role.ends_with(".weight") => (1.0, 0.3),
        1 => (0.0, 0.2),
        _ if table => (0.0, 1.0),
        _ => (0.0, (fan_in as f32).sqrt().recip()),
    };
    (0..shape.iter().product()).map(|_| middle + deviation * draw.normal()).collect()
}

/// Writes a checkpoint of the fixture's family with this configuration and random weights, some in F32, some in BF16, into `dir`.
pub fn write(base: &str, config: &Json, draw: &mut Draw, dir: &Path) -> (Checkpoint, Resolved) {
    try_write(&Library::built_in().unwrap(), base, config, draw, dir)
        .unwrap_or_else(|e| panic!("a configuration that should work: {e}: {e:?}"))
}

/// [`write`] of a configuration that may be refused. Tensors of more than a million values are never written: that, too, is refused here.
///
/// # Errors
/// Why the library refuses it.
pub fn try_write(
    library: &Library,
    base: &str,
    config: &Json,
    draw: &mut Draw,
    dir: &Path,
) -> Result<(Checkpoint, Resolved), FamilyError> {
    folder::copy(base, dir, |file| !folder::is_weights(file));
    folder::write_config(dir, config);
    let wanted = wanted(dir, library)?;
    let elements = |shape: &[usize]| shape.iter().try_fold(1usize, |n, d| n.checked_mul(*d));
    let large = |(_, _, shape): &(_, _, Vec<usize>)| elements(shape).is_none_or(|n| n > 1_000_000);
    if wanted.len() > 1000 || wanted.iter().any(large) {
        return Err(FamilyError::Misfit { family: "too large for a test".into(), problems: vec![] });
    }
    let tensor = |(name, role, shape): (String, String, Vec<usize>)| {
        let values = values(draw, &role, &shape);
        let (dtype, bytes) = match draw.coin() {
            true => (Dtype::F32, values.iter().flat_map(|x| x.to_le_bytes()).collect()),
            false => (Dtype::BF16, values.iter().flat_map(|x| bf16::from_f32(*x).to_le_bytes()).collect()),
        };
        (name, dtype, shape, bytes)
    };
    write_tensors(dir, wanted.into_iter().map(tensor).collect::<Vec<_>>());
    let checkpoint = Checkpoint::open(dir).unwrap();
    let resolved = resolve(library, &checkpoint)?;
    Ok((checkpoint, resolved))
}
