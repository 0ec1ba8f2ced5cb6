//! Presets and types of ggml on the fixtures: what they plan, what importance and nearest rounding give, which rotations pass the gate, and that nothing
//! depends on the number of threads.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use mquant_export::exec::{Keep, LockstepTap, Value, run_lockstep, vision_inputs};
use mquant_export::family::CheckpointWeights;
use mquant_export::graph::{Graph, Node, Op, Part, WeightData, WeightError, WeightFormat, WeightSource};
use mquant_export::numeric::Tensor;
use mquant_export::numeric::ggml::{BlockType, reference};
use mquant_export::passes::rewrite::RewrittenWeights;
use mquant_export::pipeline::{SampleFile, calibration_samples};
use mquant_export::quantize::recipe::{Method, Mix, Override, Recipe, TiedHead, Weights};
use mquant_export::quantize::{
    CalibrationSample, Decision, GgufGraph, LinearPlan, Plan, QuantizeError, Target, plan, prove, transform,
};

use crate::common::case::Case;
use crate::common::eval::{Made, TINY, quantize_for, samples};
use crate::common::planted::PLANTED;
use crate::common::{fixture, open};

fn preset(name: &str) -> Recipe {
    Recipe::load(name).unwrap()
}

fn by(name: &str, method: Method) -> Recipe {
    preset(name).with_method(method).unwrap()
}

/// Calibration samples of the trained fixture as inputs.
fn calibration(case: &Case, limit: usize) -> Vec<CalibrationSample> {
    let path = fixture(TINY).join("calibration.tsv");
    let data = SampleFile { path, allow_outside: false, limit: Some(limit) };
    calibration_samples(&data, &case.checkpoint, &case.resolved).unwrap()
}

static TRAINED: LazyLock<Case> = LazyLock::new(|| Case::open(&fixture(TINY)));
static SAMPLES: LazyLock<Vec<CalibrationSample>> = LazyLock::new(|| calibration(&TRAINED, 16));

fn gguf(recipe: &Recipe, samples: &[CalibrationSample]) -> Made {
    quantize_for(Target::GGUF, &TRAINED.resolved, samples, &TRAINED.weights(), recipe)
}

fn planned(recipe: &Recipe) -> Plan {
    plan(&TRAINED.resolved.model, recipe, Target::GGUF).unwrap()
}

fn of<'a>(plan: &'a Plan, role: &str) -> &'a LinearPlan {
    plan.linears.iter().find(|l| l.role == role).unwrap()
}

fn weights(plan: &Plan, role: &str) -> String {
    of(plan, role).precision.weights.to_string()
}

#[test]
fn a_preset_plans_llama_cpps_types() {
    let plan = planned(&preset("q4_k_m"));
    // Three layers: the last has more bits. The model has 256 channels and a head of its own.
    let want = [("0.attn.v", "q4_k"), ("2.attn.v", "q6_k"), ("1.mlp.down", "q4_k"), ("2.mlp.down", "q6_k")];
    for (role, kind) in want {
        assert_eq!(weights(&plan, &format!("decoder.layers.{role}")), kind, "{role}");
        assert_eq!(of(&plan, &format!("decoder.layers.{role}")).decided_by, Decision::Mix);
    }
    assert_eq!(weights(&plan, "decoder.head"), "q6_k");
    assert_eq!((plan.table.precision.weights.to_string(), plan.shares_head), ("q4_k".into(), false));
    assert_eq!(weights(&plan, "vision.blocks.0.mlp.up"), "q8_0");
    let patch = of(&plan, "vision.patch");
    assert_eq!(
        (patch.precision.weights.to_string().as_str(), &patch.decided_by),
        ("f16", &Decision::ImagePatches)
    );
    assert!(!patch.precision.is_integer());
}

#[test]
fn one_tensor_of_queries_keys_and_values_has_the_type_of_values() {
    let target = Target::Gguf(GgufGraph { fused_qkv: true, is_70b: false });
    let plan = plan(&TRAINED.resolved.model, &preset("q4_k_m"), target).unwrap();
    for (layer, kind) in [(1, "q4_k"), (2, "q6_k")] {
        for name in ["q", "k", "v"] {
            assert_eq!(weights(&plan, &format!("decoder.layers.{layer}.attn.{name}")), kind);
        }
    }
}

#[test]
fn floats_are_stored_in_half_precision_but_for_patches_in_bfloat16() {
    for (name, patch) in [("f16", "f16"), ("bf16", "float"), ("f32", "float")] {
        let plan = planned(&preset(name));
        assert_eq!(weights(&plan, "vision.patch"), patch, "{name}");
        let other = Weights::of(Mix::of_name(name).unwrap().base());
        let others = plan.linears.iter().filter(|l| l.role != "vision.patch").chain([&plan.table]);
        assert!(others.into_iter().all(|l| l.precision.weights == other), "{name}");
        assert_eq!(plan.quantized(), 0);
        assert!(!preset(name).needs_calibration() && !preset(name).changes_weights());
    }
}

#[test]
fn rows_that_are_no_whole_blocks_fall_back_as_in_llama_cpp() {
    let mut recipe = by("q4_k_m", Method::Nearest);
    recipe.components.vision.weights = Weights::Blocks(BlockType::Q4K);
    let plan = planned(&recipe);
    // 128 input channels are no whole block of 256, 512 are.
    let up = of(&plan, "vision.blocks.0.mlp.up");
    let wanted = Weights::Blocks(BlockType::Q4K);
    assert_eq!(
        (up.precision.weights, &up.decided_by),
        (Weights::Blocks(BlockType::Q5_0), &Decision::Fallback { wanted })
    );
    assert_eq!(weights(&plan, "vision.blocks.0.mlp.down"), "q4_k");
}

fn exception(pattern: &str, weights: &str) -> Override {
    let text = serde_json::json!({"match": pattern, "weights": weights, "activations": "float"});
    serde_json::from_value(text).unwrap()
}

#[test]
fn overrides_win_over_the_mix_also_for_the_token_table() {
    let mut recipe = preset("q4_k_m");
    recipe.overrides = vec![exception("decoder.layers.2.*", "q5_k"), exception("embedding", "q8_0")];
    let plan = planned(&recipe);
    assert_eq!(weights(&plan, "decoder.layers.2.attn.v"), "q5_k");
    assert_eq!(weights(&plan, "decoder.layers.1.attn.v"), "q4_k");
    assert_eq!(plan.table.precision.weights.to_string(), "q8_0");
    recipe.overrides.push(exception("embeddings", "q8_0"));
    let e = mquant_export::quantize::plan(&TRAINED.resolved.model, &recipe, Target::GGUF).unwrap_err();
    assert!(matches!(&e, QuantizeError::Unmatched { pattern, .. } if pattern == "embeddings"), "{e}");
}

#[test]
fn nearest_rounding_is_ggmls_of_the_stored_weights_and_needs_no_sample() {
    let recipe = by("q4_k_m", Method::Nearest);
    assert!(!recipe.needs_calibration() && !recipe.changes_weights());
    let made = gguf(&recipe, &[]);
    let stored = TRAINED.weights();
    let mut seen = 0;
    made.with_weights(&stored, |source| {
        for decl in &made.quantized.model.weights {
            let found = source.load(decl).unwrap();
            let WeightData::Float(w) = stored.load(decl).unwrap() else { panic!() };
            match decl.format {
                WeightFormat::Blocks(kind) => {
                    let want = reference(w.data(), (w.rows(), w.cols()), kind, None).unwrap();
                    assert!(found == WeightData::Blocks(want), "{}", decl.name);
                    seen += 1;
                }
                _ => assert!(found == WeightData::Float(w), "{}", decl.name),
            }
        }
    });
    assert_eq!(seen, made.decided.plan.linears.len() + 1);
    // The graph is the runtime's: no linear is merged and none rounds its input.
    assert_eq!(made.quantized.model.linears().count(), TRAINED.resolved.model.linears().count());
    assert!(made.quantized.model.linears().all(|(_, _, l)| l.act.is_none()));
    assert_eq!(made.quantized.outcomes.len(), made.decided.plan.quantized());
}

/// Sums of squares of what a linear reads.
struct Energy(&'static str, Vec<f64>, usize);

impl LockstepTap<f32> for Energy {
    fn node(&mut self, _: usize, _: &Graph, node: &Node, inputs: &[&Value<f32>], _: &[Value<f32>]) {
        let (Op::Linear(_), true, Some(x)) = (&node.op, node.name == self.0, inputs[0].as_float()) else {
            return;
        };
        self.1.resize(x.cols(), 0.0);
        for r in 0..x.rows() {
            self.1.iter_mut().zip(x.row(r)).for_each(|(e, x)| *e += f64::from(*x).powi(2));
            self.2 += 1;
        }
    }
}

#[test]
fn importance_is_the_mean_square_of_what_a_linear_reads() {
    const ROLE: &str = "vision.blocks.0.attn.q";
    let mut recipe = by("q4_0", Method::Importance);
    assert!(recipe.needs_calibration() && !recipe.changes_weights());
    recipe.components.vision.weights = Weights::Blocks(BlockType::Q4_0);
    // What the first block reads is then that of the float model.
    recipe.overrides = vec![exception("vision.patch", "float")];
    let made = gguf(&recipe, &SAMPLES);
    let stored = TRAINED.weights();
    let inputs = SAMPLES.iter().map(|s| vision_inputs(&s.pixels, &s.grids).unwrap()).collect();
    let mut seen = Energy(ROLE, vec![], 0);
    let model = &TRAINED.resolved.model;
    run_lockstep(model, &stored, Part::Vision, inputs, &mut seen, Keep::Nothing, &mut |_| ()).unwrap();
    let importance: Vec<f32> = seen.1.iter().map(|e| (e / seen.2 as f64) as f32).collect();
    let role = format!("{ROLE}.weight");
    let WeightData::Float(w) = stored.role(&role).unwrap() else { panic!() };
    let WeightData::Blocks(found) = made.with_weights(&stored, |source| source.role(&role).unwrap()) else {
        panic!()
    };
    let same = |importance: Option<&[f32]>| {
        let want = reference(w.data(), (w.rows(), w.cols()), BlockType::Q4_0, importance).unwrap();
        let same = want.bytes.iter().zip(&found.bytes).filter(|(a, b)| a == b).count();
        same as f64 / want.bytes.len() as f64
    };
    let (important, nearest) = (same(Some(&importance)), same(None));
    println!("{important} of the bytes are those by importance, {nearest} those by nearest rounding");
    // The loop keeps the residual in bfloat16 between blocks, which moves a few scales by one step.
    assert!(important > 0.99 && nearest < 0.8, "{important} {nearest}");
    let mut better = 0;
    for outcome in &made.quantized.outcomes {
        let weight = outcome.weight.unwrap();
        better += usize::from(weight.error < weight.nearest_error);
        assert!(outcome.precision.activations.are_static() == outcome.rounding.is_some(), "{}", outcome.role);
    }
    println!("{better} of {} linears are better than by nearest rounding", made.quantized.outcomes.len());
    // Not so where a head has Q8_0, which does not look at importance; all others were when this was written.
    assert!(better * 10 >= made.quantized.outcomes.len() * 9);
}

/// Weights that lie in blocks of the types of a plan already.
struct Snapped<'a>(CheckpointWeights<'a>, BTreeMap<String, BlockType>);

impl<'a> Snapped<'a> {
    fn new(base: CheckpointWeights<'a>, plan: &Plan) -> Self {
        let all = plan.linears.iter().chain([&plan.table]);
        let kinds = all.filter_map(|l| Some((format!("{}.weight", l.role), l.precision.weights.blocks()?)));
        Self(base, kinds.collect())
    }
}

impl WeightSource for Snapped<'_> {
    fn role(&self, role: &str) -> Result<WeightData, WeightError> {
        match (self.0.role(role)?, self.1.get(role)) {
            (WeightData::Float(w), Some(kind)) => {
                let values = reference(w.data(), (w.rows(), w.cols()), *kind, None).unwrap().dequantize();
                Ok(WeightData::Float(Tensor::new(w.shape().to_vec(), values).unwrap()))
            }
            (data, _) => Ok(data),
        }
    }
}

#[test]
fn a_rotation_that_hurts_is_dropped_and_says_by_how_much() {
    let recipe = preset("q4_0");
    let snapped = Snapped::new(TRAINED.weights(), &planned(&recipe));
    let made = quantize_for(Target::GGUF, &TRAINED.resolved, &SAMPLES[..8], &snapped, &recipe);
    let notes = &made.decided.rotations;
    assert_eq!(notes.len(), 4, "{notes:?}");
    for note in notes {
        let gate = note.gate.unwrap();
        println!("{}: {gate:?}", note.what);
        assert!(gate.left < 0.5 * gate.rotated, "{note:?}");
        // Weights on the values of their blocks stay there, once nothing else is rotated either; heads are weighed last.
        assert!(gate.left == 0.0 || !note.what.starts_with("heads"), "{note:?}");
        let reason = note.reason.as_deref().unwrap();
        assert!(
            note.matrix.is_none() && reason.contains("with it") && reason.contains("without"),
            "{note:?}"
        );
    }
    assert!(made.decided.rewrites.rotations.is_empty());
}

#[test]
fn a_rotation_that_spreads_outliers_stays_and_the_model_is_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let twin = Case::twin(dir.path(), &PLANTED);
    let given = calibration(&twin, 8);
    let made = quantize_for(Target::GGUF, &twin.resolved, &given, &twin.weights(), &preset("q4_0"));
    for note in &made.decided.rotations {
        let gate = note.gate.unwrap();
        println!("{}: {gate:?}, {:?}", note.what, note.matrix);
        assert_eq!(note.matrix.is_some(), gate.rotated < gate.left);
    }
    let decoder = made.decided.rotations.iter().find(|n| n.what == "decoder stream").unwrap();
    assert!(decoder.matrix.is_some(), "{decoder:?}");
    let stored = twin.weights();
    let rewritten = RewrittenWeights::new(&stored, &made.decided.rewrites);
    prove((&twin.resolved.model, &stored), (&made.decided.model, &rewritten), &given[0]).unwrap();
}

#[test]
fn rotated_weights_by_gptq_lose_less_than_half_of_what_nearest_rounding_loses() {
    let dir = tempfile::tempdir().unwrap();
    let evaluation = &samples("evaluation.tsv")[..64];
    for case in [Case::open(&fixture(TINY)), Case::twin(dir.path(), &PLANTED)] {
        let float = case.float(evaluation);
        let given = calibration(&case, usize::MAX);
        for name in ["q4_0", "q4_k_m"] {
            let [ours, nearest] = [Method::Gptq, Method::Nearest].map(|method| {
                let made =
                    quantize_for(Target::GGUF, &case.resolved, &given, &case.weights(), &by(name, method));
                case.quantized(&made, evaluation).against(&float)
            });
            println!("{name}: ours {ours}; nearest {nearest}");
            assert!(ours.kld <= 0.5 * nearest.kld, "{name}: {ours}; {nearest}");
        }
    }
}

#[test]
fn a_tied_head_stays_tied_unless_the_recipe_unties_it() {
    let (checkpoint, resolved) = open("qwen2_vl");
    let stored = CheckpointWeights::new(&checkpoint, &resolved.bindings);
    let mut recipe = by("q4_0", Method::Nearest);
    recipe.rotation = preset("q4_0").rotation;
    let kept = plan(&resolved.model, &recipe, Target::GGUF).unwrap();
    let head = of(&kept, "decoder.head");
    assert!(kept.shares_head && kept.table.decided_by == Decision::SharedWithHead);
    assert_eq!(kept.table.precision.weights, head.precision.weights);
    let notes = transform(&resolved.model, &recipe.rotation, Target::GGUF).unwrap().notes;
    assert!(notes[0].matrix.is_none() && notes[0].reason.as_deref().unwrap().contains("untie"), "{notes:?}");
    recipe.rotation.tied = TiedHead::Untie;
    let untied = plan(&resolved.model, &recipe, Target::GGUF).unwrap();
    assert!(!untied.shares_head);
    let notes = transform(&resolved.model, &recipe.rotation, Target::GGUF).unwrap().notes;
    assert!(notes[0].matrix.is_some(), "{notes:?}");
    // ONNX graphs have both tensors anyway.
    assert!(transform(&resolved.model, &recipe.rotation, Target::Onnx).unwrap().notes[0].matrix.is_some());

    let recipe = by("q4_0", Method::Nearest);
    let made = quantize_for(Target::GGUF, &resolved, &[], &stored, &recipe);
    made.with_weights(&stored, |source| {
        let [table, head] =
            ["embedding", "decoder.head"].map(|r| source.role(&format!("{r}.weight")).unwrap());
        assert!(table == head && matches!(table, WeightData::Blocks(_)));
    });
}

#[test]
fn nothing_depends_on_the_number_of_threads() {
    let run = |threads| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| gguf(&preset("q4_k_m"), &SAMPLES[..8]))
    };
    let [one, two] = [1, 2].map(run);
    assert_eq!(one.decided.rotations, two.decided.rotations);
    assert_eq!(one.quantized.outcomes, two.quantized.outcomes);
    let stored = TRAINED.weights();
    for decl in &one.quantized.model.weights {
        let of = |made: &Made| made.with_weights(&stored, |source| source.load(decl).unwrap());
        assert!(of(&one) == of(&two), "{}", decl.name);
    }
}

#[test]
fn what_a_format_cannot_hold_is_refused_with_what_to_use() {
    let refused = |recipe: &Recipe, target| {
        let e = plan(&TRAINED.resolved.model, recipe, target).unwrap_err();
        assert!(e.is_user_error());
        e.to_string()
    };
    let told = refused(&preset("w4a8"), Target::GGUF);
    assert!(told.contains("int8") && told.contains("q4_k") && told.contains("--format onnx"), "{told}");
    let told = refused(&preset("q4_k_m"), Target::Onnx);
    assert!(told.contains("mix q4_k_m") && told.contains("--format gguf"), "{told}");
    let mut recipe = preset("q5_k_m");
    recipe.mix = None;
    let told = refused(&recipe, Target::Onnx);
    assert!(told.contains("components.decoder") && told.contains("q5_k") && told.contains("q4_0"), "{told}");
    let mut recipe = preset("q4_0");
    recipe.rotation.vision = mquant_export::quantize::recipe::VisionRotation::BakeMean;
    assert!(refused(&recipe, Target::GGUF).contains("keep-mean"));
    let mut recipe = preset("q4_0");
    recipe.down_projections.candidates.push(mquant_export::quantize::recipe::Remedy::Hadamard(32));
    assert!(refused(&recipe, Target::GGUF).contains("down_projections"));
}
