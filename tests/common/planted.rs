//! The twin of the trained fixture with planted outliers: the same function, but a few channels of many activations are far larger than the
//! rest, as in large language models. What is planted is exact algebra: a producer is multiplied, its consumers' columns are divided.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, SafeTensors};

use super::eval::TINY;
use super::synthetic::{Draw, write_tensors};
use super::{fixture, folder};

/// Where a channel can be made larger without a change of the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Site {
    /// Gains (and biases) of every norm; the linears that read the norm are divided.
    Norms,
    /// Rows of `v`; the columns of `o` are divided. Softmax weights sum rows of `v`, so a factor goes through attention.
    Values,
    /// Rows of `up_proj`; the columns of `down_proj` are divided. The gate is left alone, it passes a non-linear function. So does `fc1` of the
    /// vision tower: nothing can be planted there.
    Up,
}

/// What is planted.
///
/// The defaults leave plain static W8A8 (recipe `w8a8`) far from both ends: it still answers, and it is clearly worse. Exact match / divergence from
/// the float model on 128 evaluation samples, seed 1, all sites; the natural model has 100% / 2.2e-7 and logits off by 2.8e-2:
///
/// | factor | 1 channel | 2 | 4 | 8 |
/// |---|---|---|---|---|
/// | 8 | 100% / 8.0e-7 | 100% / 2.7e-6 | 100% / 5.2e-6 | 100% / 3.7e-6 |
/// | 16 | 100% / 2.3e-5 | 100% / 1.2e-5 | 100% / 3.2e-5 | 100% / 1.6e-5 |
/// | 32 | 100% / 2.2e-5 | 100% / 1.9e-4 | 97.7% / 0.12 | 93.8% / 0.18 |
/// | 64 | 97.7% / 0.028 | 94.5% / 0.062 | 61.7% / 1.4 | 39.8% / 3.5 |
/// | 128 | 17.2% / 4.7 | 0% / 8.5 | 0% / 6.8 | 0% / 15 |
///
/// Folding the gains into the linears behind the norms undoes [`Site::Norms`] exactly; a rotation within heads spreads [`Site::Values`], one in
/// front of `down_proj` spreads [`Site::Up`]; scaling by channel can undo all three.
#[derive(Clone, Debug)]
pub struct Planting {
    /// Factor of a planted channel. Powers of two lose no bit: then the twin's logits are equal to the last bit.
    pub factor: f32,
    /// Planted channels per place (one norm, one `v`, one `up_proj`).
    pub channels: usize,
    /// Seed of their draw.
    pub seed: u64,
    /// Kinds of places.
    pub sites: &'static [Site],
}

/// The twin of `docs/accuracy.md`: channels 40 times larger, eight in each place.
pub const PLANTED: Planting = Planting { factor: 40.0, channels: 8, seed: 1, sites: &ALL };

const ALL: [Site; 3] = [Site::Norms, Site::Values, Site::Up];

impl Default for Planting {
    fn default() -> Self {
        Self { factor: 64.0, channels: 4, seed: 1, sites: &ALL }
    }
}

/// Tensors by name, as `f32`.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<f32>)>;

/// Writes the twin into a new folder of `dir` (one per planting) and returns the folder: F32 weights in one file, side files copied.
pub fn planted(dir: &Path, how: &Planting) -> PathBuf {
    let sites: Vec<String> = how.sites.iter().map(|s| format!("{s:?}")).collect();
    let name = format!("planted-{}-{}-{}-{}", how.factor, how.channels, how.seed, sites.join("-"));
    let dir = dir.join(name.to_lowercase());
    std::fs::create_dir(&dir).unwrap();
    folder::copy(TINY, &dir, |file| !folder::is_weights(file));
    let mut twin = Twin { tensors: read(), how, draw: Draw::new(how.seed) };
    twin.plant(&folder::config(TINY));
    let bytes = |v: Vec<f32>| v.iter().flat_map(|x| x.to_le_bytes()).collect();
    write_tensors(
        &dir,
        twin.tensors.into_iter().map(|(name, (shape, v))| (name, Dtype::F32, shape, bytes(v))),
    );
    dir
}

/// The weights of the trained fixture.
fn read() -> Tensors {
    let mut tensors = Tensors::new();
    for shard in ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"] {
        let bytes = std::fs::read(fixture(TINY).join(shard)).unwrap();
        for (name, t) in SafeTensors::deserialize(&bytes).unwrap().tensors() {
            assert_eq!(t.dtype(), Dtype::BF16, "{name}");
            let float = |b: &[u8]| half::bf16::from_le_bytes([b[0], b[1]]).to_f32();
            tensors.insert(name, (t.shape().to_vec(), t.data().chunks_exact(2).map(float).collect()));
        }
    }
    tensors
}

struct Twin<'a> {
    tensors: Tensors,
    how: &'a Planting,
    draw: Draw,
}

impl Twin<'_> {
    /// Goes through the places in a fixed order: tower blocks, merger, decoder layers, final norm; in a block norm1, v, norm2, up.
    fn plant(&mut self, config: &serde_json::Value) {
        let size = |at: &str| config.pointer(at).unwrap().as_u64().unwrap() as usize;
        let merge = size("/vision_config/spatial_merge_size");
        for i in 0..size("/vision_config/depth") {
            self.vision_block(&format!("visual.blocks.{i}"), size("/vision_config/embed_dim"));
        }
        self.norm("visual.merger.ln_q", &["visual.merger.mlp.0"], merge * merge);
        let (heads, groups) = (size("/num_attention_heads"), size("/num_key_value_heads"));
        for i in 0..size("/num_hidden_layers") {
            self.decoder_layer(&format!("model.layers.{i}"), size("/hidden_size") / heads, heads / groups);
        }
        self.norm("model.norm", &["lm_head"], 1);
    }

    fn vision_block(&mut self, block: &str, width: usize) {
        let (qkv, fc1) = (format!("{block}.attn.qkv"), format!("{block}.mlp.fc1"));
        self.norm(&format!("{block}.norm1"), &[&qkv], 1);
        // The last third of qkv is v, and channel c of v is channel c of what proj reads.
        for c in self.channels(Site::Values, width) {
            self.scale_rows(&qkv, 2 * width + c);
            self.divide_column(&format!("{block}.attn.proj"), c);
        }
        self.norm(&format!("{block}.norm2"), &[&fc1], 1);
    }

    /// `repeat` query heads of `head` channels read one key head.
    fn decoder_layer(&mut self, layer: &str, head: usize, repeat: usize) {
        let attn = |name: &str| format!("{layer}.self_attn.{name}_proj");
        let mlp = |name: &str| format!("{layer}.mlp.{name}_proj");
        self.norm(&format!("{layer}.input_layernorm"), &[&attn("q"), &attn("k"), &attn("v")], 1);
        for c in self.channels(Site::Values, self.rows(&attn("v"))) {
            self.scale_rows(&attn("v"), c);
            for query in (c / head * repeat)..(c / head + 1) * repeat {
                self.divide_column(&attn("o"), query * head + c % head);
            }
        }
        self.norm(&format!("{layer}.post_attention_layernorm"), &[&mlp("gate"), &mlp("up")], 1);
        for c in self.channels(Site::Up, self.rows(&mlp("up"))) {
            self.scale_rows(&mlp("up"), c);
            self.divide_column(&mlp("down"), c);
        }
    }

    /// A norm and its readers, which see `blocks` rows of it side by side.
    fn norm(&mut self, norm: &str, readers: &[&str], blocks: usize) {
        let width = self.rows(norm);
        for c in self.channels(Site::Norms, width) {
            self.scale_rows(norm, c);
            for reader in readers {
                (0..blocks).for_each(|b| self.divide_column(reader, b * width + c));
            }
        }
    }

    /// `how.channels` different channels below `n`, each equally likely: [`Draw`] continued from place to place. None where nothing is
    /// to be planted; the draw is made all the same, so that the other places keep their channels.
    fn channels(&mut self, site: Site, n: usize) -> Vec<usize> {
        let mut channels = vec![];
        while channels.len() < self.how.channels {
            let c = self.draw.range(0, n - 1);
            if !channels.contains(&c) {
                channels.push(c);
            }
        }
        if self.how.sites.contains(&site) { channels } else { vec![] }
    }

    fn rows(&self, module: &str) -> usize {
        self.tensors[&format!("{module}.weight")].0[0]
    }

    /// Row `c` of a linear, or gain `c` of a norm, and the bias if there is one.
    fn scale_rows(&mut self, module: &str, c: usize) {
        let names = [format!("{module}.weight"), format!("{module}.bias")];
        assert!(self.tensors.contains_key(&names[0]), "{module}");
        for name in names {
            if let Some((shape, values)) = self.tensors.get_mut(&name) {
                let cols = values.len() / shape[0];
                values[c * cols..][..cols].iter_mut().for_each(|x| *x *= self.how.factor);
            }
        }
    }

    fn divide_column(&mut self, linear: &str, c: usize) {
        let (shape, values) = self.tensors.get_mut(&format!("{linear}.weight")).unwrap();
        assert!(shape.len() == 2 && c < shape[1], "{linear} {shape:?}, column {c}");
        values.iter_mut().skip(c).step_by(shape[1]).for_each(|x| *x /= self.how.factor);
    }
}
