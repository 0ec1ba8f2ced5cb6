//! Online rotations, suppressed channels and baked means change no model, on every fixture, in the executor and in ONNX Runtime; mistakes planted in them are
//! found; what cannot be done is refused by name.

use mquant_export::checkpoint::Checkpoint;
use mquant_export::exec::{DecoderState, Executor};
use mquant_export::export::onnx::{OnnxOptions, OpSet, write};
use mquant_export::family::{CheckpointWeights, Resolved};
use mquant_export::graph::{Model, Op, Stream, WeightSource};
use mquant_export::numeric::hadamard::blocks;
use mquant_export::numeric::rotation::Rotation;
use mquant_export::passes::rewrite::{Change, Rewrites, RewrittenWeights};
use mquant_export::passes::{
    PassError, bake_mean, fold_norms, merge_linears, rotate_online, rotate_stream, stream_width, suppress,
    suppressed_channels,
};
use mquant_export::pipeline::{SampleFile, calibration_samples, preparer};
use mquant_export::quantize::recipe::{Recipe, RotationRule, VisionRotation};
use mquant_export::quantize::{
    Decided, Decision, Proof, QuantizeError, QuantizedWeights, Target, plan, prove, transform,
};
use serde_json::Value as Json;

use super::families::{count, every_linear_is_simulated, integer_products, tapped_values};
use super::rotation::{found, samples};
use crate::common::eval::{bundle, generation, load_samples, quantize_decided};
use crate::common::golden::for_each_fixture;
use crate::common::judge::{judge, text};
use crate::common::{Goldens, fixture, open, relative_error};

/// Largest gaps of a proof. Measured over all tests here: 3.0e-6 and 6.6e-15.
const BOUND: Proof = Proof { single: 1e-5, double: 1e-12 };

fn rule(vision: VisionRotation) -> RotationRule {
    RotationRule { decoder: true, vision, heads: true, seed: 7, ..RotationRule::default() }
}

/// A fixture with norms folded and everything rotated, to which more is done.
struct Changed {
    name: String,
    checkpoint: Checkpoint,
    resolved: Resolved,
    model: Model,
    rewrites: Rewrites,
}

impl Changed {
    fn new(name: &str, rule: &RotationRule) -> Self {
        let (checkpoint, resolved) = open(name);
        let transformed = transform(&resolved.model, rule, Target::Onnx).unwrap();
        let (model, rewrites) = (transformed.model, transformed.rewrites);
        Self { name: name.into(), checkpoint, resolved, model, rewrites }
    }

    /// Down projections with their input channels, in graph order.
    fn downs(&self) -> Vec<(String, usize)> {
        let downs = self.model.linears().filter(|(_, n, _)| n.name.ends_with(".down"));
        downs.map(|(_, n, l)| (n.name.clone(), self.model.weight(l.weight).shape[1])).collect()
    }

    fn rotate(&mut self, linear: &str, block: usize) -> Result<(), PassError> {
        self.model = rotate_online(self.model.clone(), &mut self.rewrites, linear, block)?;
        Ok(())
    }

    fn suppress(&mut self, linear: &str, channel: usize) -> Result<(), PassError> {
        self.model = suppress(self.model.clone(), &mut self.rewrites, linear, channel)?;
        Ok(())
    }

    /// Rotates the inputs of all down projections, in blocks that `pick` picks of the possible ones, and then suppresses a channel of each if
    /// asked to: the first of one, the last of the next, one in the middle of the third.
    fn rotate_downs(&mut self, pick: impl Fn(&[usize]) -> usize, suppressed: bool) -> usize {
        let mut count = 0;
        for (i, (down, channels)) in self.downs().into_iter().enumerate() {
            let possible = blocks(channels);
            if possible.is_empty() {
                let e = self.rotate(&down, channels).unwrap_err().to_string();
                assert!(e.contains("rotation order impossible") && e.contains("no block is possible"), "{e}");
                continue;
            }
            self.rotate(&down, pick(&possible)).unwrap();
            if suppressed {
                self.suppress(&down, [0, channels - 1, channels / 2][i % 3]).unwrap();
            }
            count += 1;
        }
        count
    }

    /// The proof of a prompt with images and of one without, whatever they say: the larger gaps.
    fn proof(&self, model: &Model, rewrites: &Rewrites) -> Proof {
        let stored = CheckpointWeights::new(&self.checkpoint, &self.resolved.bindings);
        let rewritten = RewrittenWeights::new(&stored, rewrites);
        let mut worst = Proof { single: 0.0, double: 0.0 };
        for sample in samples(&self.name, &self.resolved) {
            let proof = match prove((&self.resolved.model, &stored), (model, &rewritten), &sample) {
                Ok(proof) | Err(QuantizeError::NotProven { proof }) => proof,
                Err(e) => panic!("{}: {e}", self.name),
            };
            worst.single = worst.single.max(proof.single);
            worst.double = worst.double.max(proof.double);
        }
        worst
    }

    fn is_the_same(&self, what: &str) {
        let proof = self.proof(&self.model, &self.rewrites);
        println!("{}, {what}: gap {:.1e} in f32, {:.1e} in f64", self.name, proof.single, proof.double);
        assert!(proof.single <= BOUND.single && proof.double <= BOUND.double, "{what}: {proof:?}");
    }
}

/// Picks a block of the possible ones.
type Pick = fn(&[usize]) -> usize;

fn online_rotations_change_no_model(name: &str) {
    let picks: [(&str, Pick); 2] =
        [("largest blocks", |b| b[b.len() - 1]), ("blocks in the middle", |b| b[b.len() / 2])];
    for (what, pick) in picks {
        for suppressed in [false, true] {
            let mut changed = Changed::new(name, &rule(VisionRotation::KeepMean));
            let count = changed.rotate_downs(pick, suppressed);
            assert!(count >= changed.model.spec.decoder.layers);
            let suppressed = if suppressed { ", one channel of each suppressed" } else { "" };
            changed.is_the_same(&format!("{count} inputs rotated in {what}{suppressed}"));
        }
    }
}

/// The reader because of which the mean of a fixture's vision stream cannot be baked into its writers.
fn reader_of_the_mean(name: &str) -> Option<&'static str> {
    match name {
        "glm_4v" => Some("vision.blocks.0.attn.q"),
        "internvl2" | "internvl2_qwen2" => Some("projector.norm"),
        "internvl2_vit6b" => Some("vision.blocks.0.norm1"),
        "qwen_vl" => Some("projector.kv"),
        _ => None,
    }
}

fn a_baked_mean_changes_no_model_or_is_refused(name: &str) {
    let (_, resolved) = open(name);
    let mut rewrites = Rewrites::default();
    let folded = fold_norms(resolved.model.clone(), &mut rewrites).unwrap();
    let before = format!("{rewrites:?}");
    let baked = bake_mean(folded, &mut rewrites, Stream::Vision);
    let notes = transform(&resolved.model, &rule(VisionRotation::BakeMean), Target::Onnx).unwrap().notes;
    let note = notes.into_iter().find(|n| n.what == "vision stream").unwrap();
    if let Some(wanted) = reader_of_the_mean(name) {
        match baked.unwrap_err() {
            PassError::MeanIsRead { reader, .. } => assert_eq!(reader, wanted, "{name}"),
            e => panic!("{name}: {e}"),
        }
        assert_eq!(format!("{rewrites:?}"), before, "{name}: a refusal leaves changes behind");
        assert!(note.matrix.is_none() && note.reason.is_some(), "{name}: {note:?}");
    } else {
        let layer_norms =
            |m: &Model| m.graphs[0].nodes.iter().filter(|n| matches!(n.op, Op::LayerNorm(_))).count();
        let depth = resolved.model.spec.vision.depth;
        assert!(layer_norms(&resolved.model) - layer_norms(&baked.unwrap()) > 2 * depth, "{name}");
        assert!(
            note.matrix.as_ref().unwrap().starts_with("mean baked into the writers, hadamard"),
            "{note:?}"
        );
    }
    Changed::new(name, &rule(VisionRotation::BakeMean)).is_the_same("mean baked where it can be");
}

/// Everything at once, written and run in ONNX Runtime: in float it is what the executor computes, quantized every planned linear is one integer
/// product.
fn transformed_files_run_in_onnx_runtime(name: &str, ops: OpSet) {
    let mut changed = Changed::new(name, &rule(VisionRotation::BakeMean));
    let suppressed = changed.rotate_downs(|b| b[b.len() - 1], true);
    let stored = CheckpointWeights::new(&changed.checkpoint, &changed.resolved.bindings);
    let weights = RewrittenWeights::new(&stored, &changed.rewrites);
    let data = fixture(name).join("samples.jsonl");
    let given = load_samples(&data);
    let preparer = preparer(changed.checkpoint.files(), &changed.resolved.description).unwrap();
    let run = |model: &Model, source: &dyn WeightSource, values: &str| {
        let dir = tempfile::tempdir().unwrap();
        write(model, source, dir.path(), &OnnxOptions::new(ops), &mut |_, _, _| ()).unwrap();
        let (prompts, out) = (dir.path().join("prompts.safetensors"), dir.path().join("out.safetensors"));
        bundle(&preparer, &given).write(&prompts);
        let report = judge("onnx_check.py", &[&text(dir.path()), "--no-checker"]);
        judge("onnx_taps.py", &[&text(dir.path()), &text(&prompts), &text(&out), "--values", values]);
        (Goldens::read(&out), serde_json::from_str::<Json>(&report).unwrap())
    };

    let (found, _) = run(&changed.model, &weights, "logits");
    let exec = Executor::<f32>::keeping(&changed.model, &weights);
    for (i, sample) in given.iter().enumerate() {
        let p = preparer.prepare_sample(sample).unwrap();
        let want = DecoderState::prefill(&exec, &generation(&p)).unwrap().logits;
        let e = relative_error(found.floats(&format!("s{i}.logits")).data(), want.data());
        println!("{name} --ops {}, sample {i}: logits differ by {e:.1e} of the largest", ops.name());
        // As for float files that are not changed: f32 sums in another order, measured at most 5.1e-6.
        assert!(e <= 2e-5, "{name} sample {i}: {e:e}");
    }

    let recipe = Recipe::load("w8a8").unwrap();
    let plan = plan(&changed.model, &recipe, Target::Onnx).unwrap();
    let left = plan.linears.iter().filter(|l| l.decided_by == Decision::Suppressed);
    assert!(left.clone().all(|l| l.role.ends_with(".suppressed") && !l.precision.is_quantized()));
    assert_eq!(left.count(), suppressed);
    let samples = SampleFile { path: data, allow_outside: false, limit: None };
    let samples = calibration_samples(&samples, &changed.checkpoint, &changed.resolved).unwrap();
    let (model, rewrites) = (changed.model.clone(), changed.rewrites.clone());
    let (decisions, rotations) = (vec![], vec![]);
    let decided = Decided { model, rewrites, plan, decisions, rotations, target: Target::Onnx };
    let quantized = quantize_decided(&decided, &samples, &weights, &recipe);
    let channels = suppressed_channels(&changed.model);
    assert_eq!(suppressed_channels(&quantized.model), channels, "merging keeps the names");
    let source = QuantizedWeights::new(&quantized.codes, &weights);
    let (found, report) = run(&quantized.model, &source, &tapped_values(&quantized.model).join(","));
    let products = integer_products(&quantized.model);
    assert_eq!(count(&report, "MatMulIntegerToFloat"), products, "{name}: {report}");
    assert_eq!(count(&report, "DequantizeLinear"), 0, "{name}: Q/DQ pairs are left: {report}");
    every_linear_is_simulated(&quantized.model, (&weights, &source), &found, given.len());
}

macro_rules! fixtures {
    ($($name:ident,)*) => {
        $(mod $name {
            use mquant_export::export::onnx::OpSet;

            #[test]
            fn online_rotations_change_no_model() {
                super::online_rotations_change_no_model(stringify!($name));
            }

            #[test]
            fn a_baked_mean_changes_no_model_or_is_refused() {
                super::a_baked_mean_changes_no_model_or_is_refused(stringify!($name));
            }

            #[test]
            fn transformed_files_run_in_onnx_runtime() {
                super::transformed_files_run_in_onnx_runtime(stringify!($name), OpSet::Ort);
            }

            #[test]
            fn transformed_files_of_standard_operators_run_in_onnx_runtime() {
                super::transformed_files_run_in_onnx_runtime(stringify!($name), OpSet::Standard);
            }
        })*
    };
}
for_each_fixture!(fixtures);

const DOWN: &str = "decoder.layers.0.mlp.down";

/// The small Qwen2-VL with one input rotated in blocks of 64 and its last channel suppressed.
fn planted() -> Changed {
    let mut changed = Changed::new("qwen2_vl", &rule(VisionRotation::BakeMean));
    changed.rotate(DOWN, 64).unwrap();
    changed.suppress(DOWN, 319).unwrap();
    changed.is_the_same("nothing planted");
    changed
}

#[test]
fn a_column_that_is_not_zeroed_is_found() {
    let changed = planted();
    let (matrix, side) = (format!("{DOWN}.weight"), format!("{DOWN}.suppressed.weight"));
    let mut wrong = Rewrites::default();
    wrong.rotations.clone_from(&changed.rewrites.rotations);
    for weight in &changed.model.weights {
        for change in changed.rewrites.of(&weight.name) {
            match change {
                Change::ZeroColumn { column } => wrong.add_column(&side, &matrix, *column),
                change => wrong.push(&weight.name, change.clone()),
            }
        }
    }
    found("a column not zeroed", changed.proof(&changed.model, &wrong));
}

#[test]
fn a_channel_from_before_the_rotation_is_found() {
    let changed = planted();
    let mut model = changed.model.clone();
    let nodes = &mut model.graphs.iter_mut().find(|g| g.nodes.iter().any(|n| n.name == DOWN)).unwrap().nodes;
    let before = nodes.iter().find(|n| n.name == format!("{DOWN}.hadamard")).unwrap().inputs.clone();
    let taken = nodes.iter_mut().find(|n| n.name == format!("{DOWN}.suppressed.channel")).unwrap();
    taken.inputs = before;
    found("a channel from before the rotation", changed.proof(&model, &changed.rewrites));
}

#[test]
fn another_block_in_the_weight_is_found() {
    let changed = planted();
    let mut wrong = changed.rewrites.clone();
    let online = wrong.rotations.iter_mut().find(|r| r.online_factors().is_some()).unwrap();
    *online = Rotation::online(1, 32).unwrap();
    found("blocks of 32 in the weight, of 64 in the graph", changed.proof(&changed.model, &wrong));
}

#[test]
fn a_mean_left_in_a_bias_is_found() {
    let changed = Changed::new("qwen2_vl", &rule(VisionRotation::BakeMean));
    let mut wrong = Rewrites::default();
    wrong.rotations.clone_from(&changed.rewrites.rotations);
    for weight in &changed.model.weights {
        for change in changed.rewrites.of(&weight.name) {
            let skip =
                weight.name == "vision.blocks.0.attn.o.bias" && matches!(change, Change::CenterRows { .. });
            if !skip {
                wrong.push(&weight.name, change.clone());
            }
        }
    }
    found("a mean left in a bias", changed.proof(&changed.model, &wrong));
}

#[test]
fn a_stream_may_be_rotated_after_channels_were_suppressed() {
    let (checkpoint, resolved) = open("qwen2_vl");
    let mut rewrites = Rewrites::default();
    let model = fold_norms(resolved.model.clone(), &mut rewrites).unwrap();
    let mut changed = Changed { name: "qwen2_vl".into(), checkpoint, resolved, model, rewrites };
    changed.rotate_downs(|b| b[b.len() - 1], true);
    let width = stream_width(&changed.model, Stream::Decoder).unwrap();
    let rotation = Rotation::hadamard(width, 3).unwrap();
    rotate_stream(&changed.model, &mut changed.rewrites, Stream::Decoder, rotation).unwrap();
    changed.is_the_same("decoder stream rotated behind suppressed channels");
}

#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let mut changed = Changed::new("minicpm_v_2_6", &rule(VisionRotation::KeepMean));
    let e = changed.suppress(DOWN, 0).unwrap_err();
    assert!(matches!(&e, PassError::NotRotated { linear } if linear == DOWN), "{e}");
    assert!(e.to_string().contains("RMS asked for without online rotation"), "{e}");
    // 232 = 8 x 29: 58 divides it and has no matrix, 16 does not divide it.
    for (block, nearest) in [(58, "8 and 116"), (16, "8 and 116"), (0, "2"), (1, "2"), (464, "232")] {
        let e = changed.rotate(DOWN, block).unwrap_err();
        assert!(matches!(e, PassError::ImpossibleOrder { .. }), "{e}");
        let e = e.to_string();
        assert!(e.contains("rotation order impossible") && e.ends_with(&format!(": {nearest}")), "{e}");
    }
    let refused = |e: Result<(), PassError>, word: &str| {
        let e = e.unwrap_err().to_string();
        assert!(e.contains(word), "{e}");
    };
    refused(changed.rotate("decoder.layers.0.attn.q", 64), "coordinates of a stream");
    refused(changed.rotate("decoder.layers.9.mlp.down", 64), "no linear decoder.layers.9.mlp.down");
    refused(changed.rotate("decoder.layers.0.mlp.act", 64), "is no linear");
    changed.rotate(DOWN, 232).unwrap();
    refused(changed.rotate(DOWN, 232), "rotated already");
    refused(changed.suppress(DOWN, 232), "no channel 232");
    changed.suppress(DOWN, 0).unwrap();
    refused(changed.suppress(DOWN, 1), "channel 0 of decoder.layers.0.mlp.down is suppressed already");
    changed.is_the_same("after refusals");
    changed.model = merge_linears(changed.model).unwrap();
    changed.is_the_same("linears merged afterwards");
    refused(changed.rotate("decoder.layers.0.attn.q_k_v", 64), "merged from 3 linears");
}
