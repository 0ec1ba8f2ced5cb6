//! The prompt tensors of golden samples, as the original code made them, in the arrangement of our graphs: patch rows in merge-block order, one grid
//! per tile, one placeholder per image row.

use mquant_export::exec::Generation;
use mquant_export::family::Resolved;
use mquant_export::graph::spec::{ModelSpec, ProjectorSpec};
use mquant_export::numeric::Tensor;

use super::{Goldens, fixture};

/// Calls `$m!` with the names of all fixtures that have goldens of the original PyTorch code: every test over all of them begins here.
macro_rules! for_each_fixture {
    ($m:ident) => {
        $m! { glm_4v, internvl2, internvl2_qwen2, internvl2_vit6b, minicpm_v_2_6, qwen2_vl, qwen_vl, }
    };
}
#[allow(unused_imports, reason = "each test binary uses its part")]
pub(crate) use for_each_fixture;

macro_rules! names {
    ($($name:ident,)*) => {
        /// Their names.
        pub const FIXTURES: &[&str] = &[$(stringify!($name)),*];
    };
}
for_each_fixture!(names);

/// The prompt tensors of one sample.
#[derive(Clone)]
pub struct GoldenPrompt {
    pub ids: Vec<i64>,
    /// Absent where the goldens leave them out although the sample has images.
    pub pixels: Option<Tensor<f32>>,
    pub grids: Vec<[usize; 3]>,
    pub positions: Option<Vec<Vec<i64>>>,
}

/// Number of golden samples.
pub fn samples(goldens: &Goldens) -> usize {
    (0..).take_while(|s| goldens.has(&format!("s{s}.input_ids"))).count()
}

impl GoldenPrompt {
    pub fn read(name: &str, resolved: &Resolved, goldens: &Goldens, sample: usize) -> Self {
        let spec = &resolved.model.spec;
        let key = |tensor: &str| format!("s{sample}.{tensor}");
        let ints = |tensor: &str| goldens.has(&key(tensor)).then(|| goldens.ints(&key(tensor)));
        let has_images = goldens.has(&key("image_features"));
        let pixels = goldens.has(&key("pixel_values")).then(|| goldens.floats(&key("pixel_values")));
        let grids = match (ints("image_grid_thw"), ints("tgt_sizes"), &pixels) {
            (Some(g), ..) => {
                g.data().chunks(3).map(|g| [g[0] as usize, g[1] as usize, g[2] as usize]).collect()
            }
            (_, Some(g), _) => g.data().chunks(2).map(|g| [1, g[0] as usize, g[1] as usize]).collect(),
            (_, _, Some(p)) => {
                let side = patch_side(spec);
                vec![[1, p.shape()[2] / side, p.shape()[3] / side]; p.shape()[0]]
            }
            _ => vec![],
        };
        let positions = ints("position_ids").map(|p| {
            let length = *p.shape().last().unwrap();
            p.data().chunks(length).map(<[i64]>::to_vec).collect()
        });
        let features = if has_images { goldens.floats(&key("image_features")).rows() } else { 0 };
        let none = || (!has_images).then(|| Tensor::full(vec![0, spec.vision.patch_features], 0.0));
        Self {
            ids: expanded(name, spec, goldens.ints(&key("input_ids")).into_data(), features),
            pixels: pixels.map(|p| patch_rows(spec, &p, &grids)).or_else(none),
            grids,
            positions,
        }
    }

    pub fn generation(&self) -> Generation<'_> {
        Generation {
            input_ids: &self.ids,
            pixel_values: self.pixels.as_ref().unwrap(),
            grids: &self.grids,
            position_ids: self.positions.as_ref().unwrap(),
        }
    }
}

fn patch_side(spec: &ModelSpec) -> usize {
    (1..).find(|p| 3 * p * p == spec.vision.patch_features).unwrap()
}

/// Raster index of every patch of a grid in merge-block order.
pub fn block_order(merge: usize, [_, height, width]: [usize; 3]) -> Vec<usize> {
    let mut order = Vec::new();
    for top in (0..height).step_by(merge) {
        for left in (0..width).step_by(merge) {
            for inner in 0..merge * merge {
                order.push((top + inner / merge) * width + left + inner % merge);
            }
        }
    }
    order
}

/// Golden pixels in one of three arrangements as patch rows `[patches, channels * side * side]`.
fn patch_rows(spec: &ModelSpec, pixels: &Tensor<f32>, grids: &[[usize; 3]]) -> Tensor<f32> {
    if pixels.shape().len() == 2 {
        return pixels.clone();
    }
    let (side, shape) = (patch_side(spec), pixels.shape());
    let [channels, height, width] = [shape[1], shape[2], shape[3]];
    let mut rows = Vec::new();
    for (tile, &grid) in grids.iter().enumerate() {
        for patch in block_order(spec.vision.merge, grid) {
            // One line of patches side by side, or an image.
            let (top, left) = match height == side {
                true => (0, patch * side),
                false => (patch / grid[2] * side, patch % grid[2] * side),
            };
            for c in 0..channels {
                for y in top..top + side {
                    let at = ((tile * channels + c) * height + y) * width + left;
                    rows.extend_from_slice(&pixels.data()[at..at + side]);
                }
            }
        }
    }
    let count = grids.iter().map(|g| g.iter().product::<usize>()).sum();
    Tensor::new(vec![count, spec.vision.patch_features], rows).unwrap()
}

/// One placeholder per image row. Goldens of one family keep the ids as they were before the rows were put in; those of another hold the
/// bytes of the image's path, which nothing reads.
fn expanded(name: &str, spec: &ModelSpec, mut ids: Vec<i64>, features: usize) -> Vec<i64> {
    let token = spec.image_token_id;
    if matches!(spec.projector, ProjectorSpec::MergeGlu { boundary_rows: true, .. }) && features > 0 {
        let begin = ids.iter().position(|id| *id == token).unwrap();
        ids.splice(begin..begin + 3, std::iter::repeat_n(token, features));
    }
    let config: serde_json::Value =
        serde_json::from_slice(&std::fs::read(fixture(name).join("config.json")).unwrap()).unwrap();
    if let Some(start) = config.pointer("/visual/image_start_id").and_then(serde_json::Value::as_i64) {
        let mut inside = false;
        for id in &mut ids {
            match *id {
                x if x == start => inside = true,
                x if x == start + 1 => inside = false,
                _ if inside => *id = token,
                _ => {}
            }
        }
    }
    ids
}
