//! Models of other sizes than the fixtures: random configurations of every family, with random weights. Shapes, the cache, f32 against f64, and
//! ONNX Runtime against the executor. A seed fixes configuration, weights and prompts; failures print it with the sizes.

use std::path::Path;

use mquant_export::exec::{
    DecoderState, Executor, Generation, Inputs, Outputs, Value, empty_cache, position_inputs, vision_inputs,
};
use mquant_export::export::onnx::{OnnxOptions, OpSet, write};
use mquant_export::family::{CheckpointWeights, Resolved};
use mquant_export::graph::Part;
use mquant_export::graph::ops::RopeScaling;
use mquant_export::graph::spec::{KeyPositions, ModelSpec, ProjectorSpec, VisionPositions};
use mquant_export::numeric::{Real, Tensor};
use tempfile::TempDir;

use crate::common::golden::{FIXTURES, for_each_fixture};
use crate::common::judge::{Bundle, judge};
use crate::common::synthetic::{self, Draw};
use crate::common::{Goldens, relative_error};

/// A random prompt in the form the graphs take.
pub(super) struct Prompt {
    ids: Vec<i64>,
    pixels: Tensor<f32>,
    grids: Vec<[usize; 3]>,
    positions: Vec<Vec<i64>>,
}

/// Tokens of text at the end of every prompt, which can be fed one by one.
const TAIL: usize = 5;

impl Prompt {
    pub(super) fn random(spec: &ModelSpec, draw: &mut Draw, tiles: usize) -> Self {
        let grids: Vec<_> = (0..tiles).map(|_| grid(spec, draw)).collect();
        let mut ids = vec![];
        for &grid in &grids {
            text(spec, draw, &mut ids, 3);
            ids.extend(std::iter::repeat_n(spec.image_token_id, image_rows(spec, grid)));
        }
        text(spec, draw, &mut ids, 4);
        while ids.len() < 2 {
            text(spec, draw, &mut ids, 1);
        }
        let last = ids.len() + TAIL;
        while ids.len() < last {
            text(spec, draw, &mut ids, 1);
        }
        let rows = grids.iter().map(|g| g.iter().product::<usize>()).sum();
        let shape = vec![rows, spec.vision.patch_features];
        let pixels = (0..rows * spec.vision.patch_features).map(|_| draw.normal()).collect();
        let axes = spec.decoder.position_axes();
        let positions = match axes {
            1 => vec![(0..ids.len() as i64).collect()],
            _ => (0..axes).map(|_| uneven_positions(draw, ids.len())).collect(),
        };
        Self { ids, pixels: Tensor::new(shape, pixels).unwrap(), grids, positions }
    }

    pub(super) fn generation(&self) -> Generation<'_> {
        Generation {
            input_ids: &self.ids,
            pixel_values: &self.pixels,
            grids: &self.grids,
            position_ids: &self.positions,
        }
    }
}

/// Up to `most` text tokens.
fn text(spec: &ModelSpec, draw: &mut Draw, ids: &mut Vec<i64>, most: usize) {
    for _ in 0..draw.range(0, most) {
        let id = draw.range(0, spec.decoder.vocab - 1) as i64;
        ids.extend(Some(id).filter(|id| *id != spec.image_token_id));
    }
}

/// Positions that stand still or advance by one, as those of image rows do.
fn uneven_positions(draw: &mut Draw, count: usize) -> Vec<i64> {
    let steps = (0..count).map(|_| draw.range(0, 1) as i64);
    steps.scan(0, |at, step| Some(std::mem::replace(at, *at + step))).collect()
}

/// The grid of a tile: of the one size that a position table fixes, or of any.
fn grid(spec: &ModelSpec, draw: &mut Draw) -> [usize; 3] {
    let any_size = match (&spec.vision.positions, &spec.projector) {
        (VisionPositions::Rotary { .. }, _) => true,
        (_, ProjectorSpec::Resampler { key_positions, .. }) => {
            matches!(key_positions, KeyPositions::SinCos { .. })
        }
        _ => false,
    };
    match spec.vision.positions {
        VisionPositions::Table { side } if !any_size => [1, side, side],
        _ => [1, spec.vision.merge * draw.range(1, 4), spec.vision.merge * draw.range(1, 4)],
    }
}

/// Rows of the decoder that a tile becomes.
fn image_rows(spec: &ModelSpec, [frames, height, width]: [usize; 3]) -> usize {
    let merged = frames * height * width / (spec.vision.merge * spec.vision.merge);
    match spec.projector {
        ProjectorSpec::MergeMlp { .. } => merged,
        ProjectorSpec::MergeGlu { boundary_rows, .. } => merged + 2 * usize::from(boundary_rows),
        ProjectorSpec::Resampler { queries, .. } => queries,
    }
}

fn float<T: Real>(out: &Outputs<T>, name: &str) -> Tensor<T> {
    out[name].as_float().unwrap().clone()
}

fn features<T: Real>(exec: &Executor<'_, T>, p: &Prompt) -> Tensor<T> {
    let none = Tensor::full(vec![0, exec.model().spec.decoder.width], T::ZERO);
    if p.grids.is_empty() {
        return none;
    }
    let inputs = vision_inputs(&p.pixels, &p.grids).unwrap();
    float(&exec.run(Part::Vision, inputs, &mut ()).unwrap(), "image_features")
}

/// Feeds the tokens of a prompt from `range` on top of a cache; the length of the whole prompt is known all along.
fn feed<T: Real>(
    exec: &Executor<'_, T>,
    p: &Prompt,
    range: std::ops::Range<usize>,
    features: Tensor<T>,
    cache: Outputs<T>,
) -> Outputs<T> {
    let ids = Tensor::new(vec![1, range.len()], p.ids[range.clone()].to_vec()).unwrap();
    let inputs = Inputs::from([
        ("input_ids".to_string(), Value::Int(ids)),
        ("image_features".to_string(), Value::Float(features)),
    ]);
    let embeds = exec.run(Part::Embedding, inputs, &mut ()).unwrap();
    let positions: Vec<Vec<i64>> = p.positions.iter().map(|axis| axis[range.clone()].to_vec()).collect();
    let mut inputs: Inputs<T> = position_inputs(exec.model(), &positions, p.ids.len()).unwrap();
    inputs.extend(embeds);
    inputs.insert("attention_mask".into(), Value::Int(Tensor::full(vec![1, range.end], 1)));
    let past = cache.into_iter().filter(|(name, _)| name != "logits");
    inputs.extend(past.map(|(name, value)| (name.replace("present.", "past_key_values."), value)));
    exec.run(Part::Decoder, inputs, &mut ()).unwrap()
}

/// Largest difference over the largest value of `b`.
fn gap<T: Real, U: Real>(a: &[T], b: &[U]) -> f64 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0.0f64, |m, x| m.max(x.to_f64().abs()));
    a.iter().zip(b).fold(0.0f64, |m, (a, b)| m.max((a.to_f64() - b.to_f64()).abs())) / largest
}

/// Whether keys in the cache were rotated by another base than a run over the whole text would use: the original code does so, and then
/// feeding tokens one by one is another function than feeding them together.
fn base_moves(spec: &ModelSpec, length: usize) -> bool {
    matches!(spec.decoder.rope_scaling, Some(RopeScaling::Dynamic { max_positions, .. }) if length > max_positions)
}

/// Tiles do not see each other: each alone gives the same rows.
fn tiles_are_apart(exec: &Executor<'_, f64>, p: &Prompt, together: &Tensor<f64>) {
    let (mut patch, mut alone) = (0, vec![]);
    for &grid in &p.grids {
        let (count, cols) = (grid.iter().product::<usize>(), p.pixels.cols());
        let pixels = p.pixels.data()[patch * cols..(patch + count) * cols].to_vec();
        let pixels = Tensor::new(vec![count, cols], pixels).unwrap();
        let one = Prompt { ids: vec![], pixels, grids: vec![grid], positions: vec![] };
        alone.extend(features(exec, &one).into_data());
        patch += count;
    }
    if !alone.is_empty() {
        let e = gap(&alone, together.data());
        assert!(e <= 1e-12, "image rows of tiles run together differ by {e:e} from those of each alone");
    }
}

fn shapes<T: Real>(resolved: &Resolved, p: &Prompt, features: &Tensor<T>, out: &Outputs<T>) {
    let (spec, n) = (&resolved.model.spec, p.ids.len());
    let rows: usize = p.grids.iter().map(|g| image_rows(spec, *g)).sum();
    assert_eq!(features.shape(), [rows, spec.decoder.width], "image features");
    assert_eq!(out["logits"].shape(), [1, n, spec.decoder.vocab], "logits");
    assert_eq!(out.len(), 1 + 2 * spec.decoder.layers, "outputs");
    for i in 0..spec.decoder.layers {
        for kind in ["key", "value"] {
            let cache = &out[&format!("present.{i}.{kind}")];
            assert_eq!(
                cache.shape(),
                [1, spec.decoder.kv_heads, n, spec.decoder.head_dim],
                "{kind} of layer {i}"
            );
        }
    }
}

/// The laws on one prompt; returns how far f32 is from f64.
fn laws(resolved: &Resolved, weights: &CheckpointWeights<'_>, p: &Prompt) -> f64 {
    let double = Executor::<f64>::keeping(&resolved.model, weights);
    let single = Executor::<f32>::keeping(&resolved.model, weights);
    let (spec, n) = (&resolved.model.spec, p.ids.len());
    let rows = features(&double, p);
    let whole = feed(&double, p, 0..n, rows.clone(), empty_cache(&resolved.model));
    shapes(resolved, p, &rows, &whole);
    tiles_are_apart(&double, p, &rows);
    if !base_moves(spec, n) {
        let mut out = feed(&double, p, 0..n - TAIL, rows, empty_cache(&resolved.model));
        for i in n - TAIL..n {
            let none = Tensor::full(vec![0, spec.decoder.width], 0.0);
            out = feed(&double, p, i..i + 1, none, out);
            let e = gap(float(&out, "logits").row(0), float(&whole, "logits").row(i));
            assert!(e <= 1e-10, "token {i} of {n}, fed alone: logits differ by {e:e} of the largest");
        }
        for (name, cache) in out.iter().filter(|(name, _)| *name != "logits") {
            let e = gap(cache.as_float().unwrap().data(), float(&whole, name).data());
            assert!(e <= 1e-10, "{name} built token by token differs by {e:e}");
        }
    }
    let rows = features(&single, p);
    let narrow = feed(&single, p, 0..n, rows.clone(), empty_cache(&resolved.model));
    shapes(resolved, p, &rows, &narrow);
    gap(float(&narrow, "logits").data(), float(&whole, "logits").data())
}

/// A random model of a fixture's family.
fn model(base: &str, seed: u64, dir: &Path) -> (mquant_export::checkpoint::Checkpoint, Resolved, Draw) {
    // Fixtures of one family are not given the same sizes.
    let mut draw =
        Draw::new(base.bytes().fold(seed, |hash, b| hash.wrapping_mul(131).wrapping_add(b.into())));
    let (config, told) = synthetic::random_config(base, &mut draw);
    // Shown when the test fails; the last one is the culprit.
    println!("{base}, seed {seed}:{told}");
    let (checkpoint, resolved) = synthetic::write(base, &config, &mut draw, dir);
    (checkpoint, resolved, draw)
}

/// Most tiles of one prompt: those of a family with many rows per tile are long enough.
pub(super) fn most_tiles(spec: &ModelSpec) -> usize {
    if matches!(spec.projector, ProjectorSpec::Resampler { queries, .. } if queries > 100) { 1 } else { 3 }
}

/// f32 against f64: rounding of 2^-24 in sums of a few hundred products, and a few layers of it.
const SINGLE: f64 = 2e-5;

/// Seeds of a test: `usual` of them, or as many as the variable `MQUANT_SEEDS` says.
fn seeds(usual: u64) -> std::ops::Range<u64> {
    0..std::env::var("MQUANT_SEEDS").map_or(usual, |n| n.parse().unwrap())
}

fn random_sizes_keep_the_laws(base: &str) {
    let mut worst = 0.0f64;
    for seed in seeds(6) {
        let dir = tempfile::tempdir().unwrap();
        let (checkpoint, resolved, mut draw) = model(base, seed, dir.path());
        let weights = CheckpointWeights::new(&checkpoint, &resolved.bindings);
        let spec = &resolved.model.spec;
        for tiles in [0, draw.range(1, most_tiles(spec))] {
            let prompt = Prompt::random(spec, &mut draw, tiles);
            println!("  grids {:?}, {} tokens", prompt.grids, prompt.ids.len());
            let e = laws(&resolved, &weights, &prompt);
            println!("  f32 differs from f64 by {e:.1e} of the largest");
            assert!(e <= SINGLE, "f32 differs from f64 by {e:e} of the largest logit");
            worst = worst.max(e);
        }
    }
    println!("{base}: f32 differs from f64 by {worst:.1e} at most");
}

macro_rules! fixtures {
    ($($name:ident,)*) => {
        $(#[test]
        fn $name() {
            random_sizes_keep_the_laws(stringify!($name));
        })*
    };
}
for_each_fixture!(fixtures);

/// Tokens fed after each prompt in ONNX Runtime.
const STEPS: usize = 3;

/// One exported model with what the executor says.
struct Exported {
    dir: TempDir,
    name: String,
    /// Per prompt: logits of the prompt, then the row after each token fed.
    expected: Vec<[Vec<f32>; 2]>,
    vocab: usize,
    /// Whether both prompts run as one batch, padded on the left, are as each alone. Not where the rotary base depends on a length, which
    /// counts the padding.
    batches: bool,
}

impl Exported {
    fn file(&self, name: &str) -> String {
        self.dir.path().join(name).display().to_string()
    }

    fn new(base: &str, seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("model")).unwrap();
        let (checkpoint, resolved, mut draw) = model(base, seed, &dir.path().join("model"));
        let weights = CheckpointWeights::new(&checkpoint, &resolved.bindings);
        for ops in [OpSet::Ort, OpSet::Standard] {
            let out = dir.path().join(ops.name());
            std::fs::create_dir(&out).unwrap();
            write(&resolved.model, &weights, &out, &OnnxOptions::new(ops), &mut |_, _, _| {}).unwrap();
        }
        let spec = &resolved.model.spec;
        let exec = Executor::<f64>::keeping(&resolved.model, &weights);
        let (mut bundle, mut expected) = (Bundle::default(), vec![]);
        for (i, tiles) in [draw.range(1, most_tiles(spec)), 0].into_iter().enumerate() {
            let prompt = Prompt::random(spec, &mut draw, tiles);
            let forced: Vec<i64> = (0..STEPS).map(|_| draw.range(0, 250) as i64).collect();
            add_prompt(&mut bundle, i, &prompt, &forced);
            expected.push(run_steps(&exec, &prompt, &forced));
        }
        bundle.write(&dir.path().join("prompts"));
        let d = &spec.decoder;
        let name = format!(
            "{base} seed {seed} ({} heads, {} key heads, {} channels per head, {:?})",
            d.heads, d.kv_heads, d.head_dim, d.rope_scaling
        );
        let (vocab, batches) = (d.vocab, d.rope_scaling.is_none());
        Self { dir, name, expected, vocab, batches }
    }

    /// Compares what ONNX Runtime wrote; returns the largest difference.
    fn compare(&self, ops: &str) -> f32 {
        let found = Goldens::read(&self.dir.path().join(format!("{ops}.out")));
        let mut worst = 0.0f32;
        for (i, expected) in self.expected.iter().enumerate() {
            for (key, expected) in ["logits", "step_logits"].into_iter().zip(expected) {
                let e = relative_error(found.floats(&format!("s{i}.{key}")).data(), expected);
                // f32 in another order of sums, as between f32 and f64 above.
                assert!(e <= SINGLE as f32, "{}, --ops {ops}, prompt {i}: {key} differ by {e:e}", self.name);
                worst = worst.max(e);
            }
            if self.batches {
                let [logits, _] = expected;
                let last = &logits[logits.len() - self.vocab..];
                let e = relative_error(found.floats(&format!("batch.{i}")).data(), last);
                assert!(
                    e <= SINGLE as f32,
                    "{}, --ops {ops}, prompt {i} of a batch differs by {e:e}",
                    self.name
                );
                worst = worst.max(e);
            }
        }
        worst
    }
}

fn add_prompt(bundle: &mut Bundle, i: usize, p: &Prompt, forced: &[i64]) {
    let n = p.ids.len();
    bundle.ints(format!("s{i}.input_ids"), vec![n], &p.ids);
    let shape = if p.positions.len() == 1 { vec![n] } else { vec![p.positions.len(), n] };
    bundle.ints(format!("s{i}.position_ids"), shape, &p.positions.concat());
    bundle.ints(format!("s{i}.forced"), vec![forced.len()], forced);
    if !p.grids.is_empty() {
        let grid: Vec<i64> = p.grids.iter().flatten().map(|&g| g as i64).collect();
        bundle.ints(format!("s{i}.image_grid_thw"), vec![p.grids.len(), 3], &grid);
        bundle.floats(format!("s{i}.pixel_values"), &p.pixels);
    }
}

/// Logits of the prompt, and the last row before each of the `forced` tokens is fed.
fn run_steps(exec: &Executor<'_, f64>, p: &Prompt, forced: &[i64]) -> [Vec<f32>; 2] {
    let mut state = DecoderState::prefill(exec, &p.generation()).unwrap();
    let all = state.logits.data().iter().map(|x| *x as f32).collect();
    let mut rows = vec![];
    for (i, &token) in forced.iter().enumerate() {
        let last = state.logits.rows() - 1;
        rows.extend(state.logits.row(last).iter().map(|x| *x as f32));
        if i + 1 < forced.len() {
            state.step(exec, token).unwrap();
        }
    }
    [all, rows]
}

#[test]
fn random_sizes_run_in_onnx_runtime_as_in_the_executor() {
    let of = |base: &'static str| seeds(3).map(move |seed| Exported::new(base, 1000 + seed));
    let models: Vec<Exported> = FIXTURES.iter().copied().flat_map(of).collect();
    let mut args = vec![];
    for m in &models {
        for ops in ["ort", "standard"] {
            args.extend([m.file(ops), m.file("prompts"), m.file(&format!("{ops}.out"))]);
        }
    }
    args.extend(["--max-new".into(), STEPS.to_string(), "--logits".into(), "--batch-law".into()]);
    judge("onnx_generate.py", &args.iter().map(String::as_str).collect::<Vec<_>>());
    for m in &models {
        let [ort, standard] = ["ort", "standard"].map(|ops| m.compare(ops));
        println!("{}: {ort:.1e} with --ops ort, {standard:.1e} with --ops standard", m.name);
    }
}
