//! The default recipe on the trained model and on its twin with planted outliers, in the executor and in ONNX Runtime; what naive 4-bit weights lose; what the
//! quantizer refuses by name.

use mquant_export::exec::{DecoderState, Executor};
use mquant_export::family::CheckpointWeights;
use mquant_export::graph::{WeightData, WeightError, WeightSource};
use mquant_export::numeric::grid::Grid;
use mquant_export::numeric::rounding::{self, quantize_matrix};
use mquant_export::numeric::{Factor, FactorOptions, Hessian};
use mquant_export::passes::rewrite::RewrittenWeights;
use mquant_export::pipeline::{SampleFile, calibration_samples, preparer};
use mquant_export::quantize::recipe::{
    Activations, Budget, DownProjections, Precision, Recipe, Remedy, RotationRule, Weights,
};
use mquant_export::quantize::{
    CalibrationSample, MINIMUM_ROWS, QuantizeError, QuantizedWeights, Reason, Target, Workspace, decide,
    quantize,
};

use crate::common::case::Case;
use crate::common::eval::{Made, TINY, bundle, generation, plain, quantize_on, samples};
use crate::common::judge::{export_fixture, judge, text};
use crate::common::planted::{PLANTED, Planting};
use crate::common::{Goldens, distance, fixture, open};

fn w4a8() -> Recipe {
    Recipe::load("w4a8").unwrap()
}

fn calibration(limit: Option<usize>) -> SampleFile {
    SampleFile { path: fixture(TINY).join("calibration.tsv"), allow_outside: false, limit }
}

/// Nearest rounding at one scale per channel and one static scale for all rows, nothing rotated.
fn naive() -> Recipe {
    let weights: Weights = "int4".parse().unwrap();
    let mut recipe = Recipe { name: "naive".into(), gptq: None, search: false, ..plain("w4a8") };
    recipe.components.decoder = Precision { weights, activations: Activations::Static };
    recipe.components.vision.weights = weights;
    recipe.components.projector.weights = weights;
    recipe
}

#[test]
fn w4a8_keeps_every_answer_of_the_trained_model_and_of_its_twin() {
    let samples = &samples("evaluation.tsv")[..128];
    let dir = tempfile::tempdir().unwrap();
    let natural = Case::open(&fixture(TINY));
    let float = natural.float(samples);
    let twin = Case::twin(dir.path(), &PLANTED);
    let mut kld = [0.0; 2];
    // The divergence is a ten-millionth, and where single codes fall moves it by a third; the mean over rotations does not hide a method that fails.
    for seed in 0..3 {
        let recipe = Recipe { rotation: RotationRule { seed, ..w4a8().rotation }, ..w4a8() };
        for (i, case) in [&natural, &twin].into_iter().enumerate() {
            let agreement = case.by(&recipe, samples).against(&float);
            println!("{}, seed {seed}: {agreement}", ["natural", "twin"][i]);
            assert!(agreement.accuracy >= 0.99 * float.accuracy(), "{agreement}");
            assert!(agreement.top1 >= 0.98, "{agreement}");
            kld[i] += agreement.kld / 3.0;
        }
    }
    println!("mean KLD: natural {:.2e}, twin {:.2e}", kld[0], kld[1]);
    // Measured 1.2 (0.97 for seed 0); processors that sum in other orders give other codes on ties.
    assert!(kld[1] <= 1.5 * kld[0], "{kld:?}");
    // A power of two is divided away without a rounding, so what is planted is gone to the last bit but for powers in f64.
    let exact = Case::twin(dir.path(), &Planting { factor: 64.0, ..PLANTED });
    let [on_natural, on_exact] = [&natural, &exact].map(|case| case.by(&w4a8(), samples).against(&float));
    println!("factor 64: natural {on_natural}; twin {on_exact}");
    assert!(on_exact.kld <= 1.2 * on_natural.kld, "{on_exact}; {on_natural}");
    let lost = twin.by(&naive(), samples).against(&float);
    println!("twin, naive: {lost}");
    assert!(lost.accuracy <= 0.92 * float.accuracy() && lost.kld > 0.1, "the twin is too easy: {lost}");
}

#[test]
fn w4a8_in_onnx_runtime_answers_as_the_executor_does() {
    const SAMPLES: usize = 128;
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, resolved) = open(TINY);
    let preparer = preparer(checkpoint.files(), &resolved.description).unwrap();
    let weights = CheckpointWeights::new(&checkpoint, &resolved.bindings);
    let float = Executor::<f32>::keeping(&resolved.model, &weights);
    let given = calibration_samples(&calibration(None), &checkpoint, &resolved).unwrap();
    let Made { decided, quantized } = quantize_on(&resolved, &given, &weights, &w4a8());
    let rewritten = RewrittenWeights::new(&weights, &decided.rewrites);
    let source = QuantizedWeights::new(&quantized.codes, &rewritten);
    let simulated = Executor::<f32>::keeping(&quantized.model, &source);
    let samples = &samples("evaluation.tsv")[..SAMPLES];
    let prompts = dir.path().join("prompts.safetensors");
    bundle(&preparer, samples).write(&prompts);
    let data = text(&calibration(None).path);
    let artifact = export_fixture(dir.path(), TINY, &["--calibration", &data]);
    let out = dir.path().join("out.safetensors");
    judge(
        "onnx_generate.py",
        &[&text(&artifact), &text(&prompts), &text(&out), "--max-new", "1", "--logits"],
    );
    let found = Goldens::read(&out);
    let (mut near, mut same) = (0, 0);
    for (i, sample) in samples.iter().enumerate() {
        let p = preparer.prepare_sample(sample).unwrap();
        let prompt = generation(&p);
        let logits = |exec| DecoderState::prefill(exec, &prompt).unwrap().logits;
        let runtime = found.floats(&format!("s{i}.logits"));
        let simulated = logits(&simulated);
        let share =
            distance(runtime.data(), simulated.data()) / distance(runtime.data(), logits(&float).data());
        near += usize::from(share < 0.02);
        let last = |t: &[f32]| {
            let row = &t[t.len() - simulated.cols()..];
            (0..row.len()).fold(0, |b, j| if row[j] > row[b] { j } else { b })
        };
        same += usize::from(last(runtime.data()) == last(simulated.data()));
    }
    println!("{near} of {SAMPLES} prompts within 2% of the gap, {same} with the same next token");
    // As for W8A8: where no float lies on a rounding tie, nothing differs; where one does, the other side is a step of quantization.
    assert!(2 * near > SAMPLES, "{near} of {SAMPLES}");
    assert!(same * 100 >= SAMPLES * 99, "{same} of {SAMPLES}");
}

/// The first linear sees pixels, which nothing before it changes: its codes must be GPTQ's on those rows.
#[test]
fn the_loop_gives_gptq_on_what_a_linear_sees() {
    let (checkpoint, resolved) = open(TINY);
    let stored = CheckpointWeights::new(&checkpoint, &resolved.bindings);
    let given = calibration_samples(&calibration(Some(8)), &checkpoint, &resolved).unwrap();
    let mut recipe = w4a8();
    recipe.components.vision.weights = "int4/32".parse().unwrap();
    let made = quantize_on(&resolved, &given, &stored, &recipe);
    let rewritten = RewrittenWeights::new(&stored, &made.decided.rewrites);
    let WeightData::Float(w) = rewritten.role("vision.patch.weight").unwrap() else { panic!() };
    let mut hessian = Hessian::new(w.cols());
    given.iter().for_each(|s| hessian.add(s.pixels.data(), 1.0));
    let factor = Factor::new(&hessian, &FactorOptions::default()).unwrap();
    let how = rounding::Options { rounding: rounding::Rounding::Gptq, search: true };
    let grid = Grid { bits: 4, block: Some(32) };
    let want = quantize_matrix(w.data(), (w.rows(), w.cols()), grid, how, Some(&factor)).unwrap();
    let found = made.with_weights(&stored, |weights| weights.role("vision.patch.weight").unwrap());
    assert_eq!(found, WeightData::Grid(want.matrix));
}

#[test]
fn every_outcome_is_better_than_nearest_rounding() {
    let (checkpoint, resolved) = open(TINY);
    let stored = CheckpointWeights::new(&checkpoint, &resolved.bindings);
    let given = calibration_samples(&calibration(Some(32)), &checkpoint, &resolved).unwrap();
    let made = quantize_on(&resolved, &given, &stored, &w4a8());
    assert_eq!(made.quantized.outcomes.len(), 43);
    for outcome in &made.quantized.outcomes {
        let weight = outcome.weight.unwrap();
        // Rounding of the sums: relative 2e-5.
        assert!(weight.error <= 1.00002 * weight.nearest_error, "{outcome:?}");
        assert!(weight.error < 0.6 * weight.nearest_error, "GPTQ does next to nothing: {outcome:?}");
    }
}

/// Quantizes the trained model with some samples.
fn refused(recipe: &Recipe, samples: &[CalibrationSample]) -> QuantizeError {
    let (checkpoint, resolved) = open(TINY);
    let stored = CheckpointWeights::new(&checkpoint, &resolved.bindings);
    let decided = match decide(&resolved.model, &stored, recipe, Target::Onnx, samples, &mut |_, _, _| {}) {
        Ok(decided) => decided,
        Err(e) => return e,
    };
    let rewritten = RewrittenWeights::new(&stored, &decided.rewrites);
    let dir = tempfile::tempdir().unwrap();
    let space = Workspace { dir: dir.path(), activation_memory: 0 };
    quantize(&decided, &rewritten, recipe, samples, space, &mut |_, _, _| {}).unwrap_err()
}

#[test]
fn too_few_rows_and_no_rows_are_refused_with_the_linear() {
    let (checkpoint, resolved) = open(TINY);
    let mut given = calibration_samples(&calibration(Some(1)), &checkpoint, &resolved).unwrap();
    let (image, recipe) = (resolved.description.prompt.image_token_id, w4a8());
    // One image has fewer patches than a Hessian needs rows.
    let rows = given[0].pixels.rows() as u64;
    assert!(rows < MINIMUM_ROWS);
    let e = refused(&recipe, &given);
    assert!(
        matches!(&e, QuantizeError::FewRows { linear, rows: found } if linear == "vision.patch" && *found == rows),
        "{e}"
    );
    assert!(e.to_string().contains("vision.patch") && e.is_user_error(), "{e}");
    given[0].grids.clear();
    given[0].ids.retain(|id| *id != image);
    let n = given[0].ids.len();
    given[0].positions.iter_mut().for_each(|p| p.truncate(n));
    let e = refused(&recipe, &given).to_string();
    assert!(e.contains("vision.") && e.contains("samples with images"), "{e}");
}

#[test]
fn budgets_move_bits_where_the_error_is() {
    let (checkpoint, resolved) = open(TINY);
    let stored = CheckpointWeights::new(&checkpoint, &resolved.bindings);
    let given = calibration_samples(&calibration(Some(16)), &checkpoint, &resolved).unwrap();
    let grids: Vec<Weights> = ["int4/128", "int4/32", "int8"].map(|g| g.parse().unwrap()).to_vec();
    let decided = |budget: Budget| {
        let recipe = Recipe { budget: Some(budget), ..w4a8() };
        decide(&resolved.model, &stored, &recipe, Target::Onnx, &given, &mut |_, _, _| {}).unwrap()
    };
    let within = decided(Budget { grids: grids.clone(), error: Some(0.06), bits: None });
    let mut seen = std::collections::BTreeSet::new();
    for d in within.decisions.iter().filter(|d| d.role.starts_with("decoder.")) {
        let chosen = &d.candidates[d.chosen];
        seen.insert(chosen.weights.to_string());
        assert!(chosen.error <= 0.06 || d.reason == Reason::NoneWithinBudget, "{d:?}");
        // Nothing cheaper would have done.
        assert!(d.candidates[..d.chosen].iter().all(|c| c.error > 0.06), "{d:?}");
    }
    assert!(seen.len() > 1, "the budget tells no linears apart: {seen:?}");
    let spent = decided(Budget { grids, error: None, bits: Some(5.0) });
    let (mut bits, mut weights) = (0.0, 0.0);
    for d in spent.decisions.iter().filter(|d| d.role.starts_with("decoder.")) {
        let linear = spent.plan.linears.iter().find(|l| l.role == d.role).unwrap();
        let size = (linear.out * linear.input) as f64;
        assert_eq!(linear.precision.weights, d.candidates[d.chosen].weights);
        bits += size * d.candidates[d.chosen].bits;
        weights += size;
    }
    let average = bits / weights;
    println!("{average:.3} bits per weight");
    assert!(average <= 5.0 && average > 4.6, "{average}");
}

/// The trained model with other numbers in some weights.
struct Filled<'a> {
    base: &'a dyn WeightSource,
    roles: &'a [&'a str],
    with: f32,
}

impl WeightSource for Filled<'_> {
    fn role(&self, role: &str) -> Result<WeightData, WeightError> {
        let mut data = self.base.role(role)?;
        if let (true, WeightData::Float(t)) = (self.roles.contains(&role), &mut data) {
            t.data_mut().fill(self.with);
        }
        Ok(data)
    }
}

#[test]
fn hessians_that_cannot_be_used_are_refused_with_the_linear() {
    let (checkpoint, resolved) = open(TINY);
    let stored = CheckpointWeights::new(&checkpoint, &resolved.bindings);
    let given = calibration_samples(&calibration(Some(8)), &checkpoint, &resolved).unwrap();
    // Nothing rotated and nothing weighed before, so that the block loop is the first to see the values.
    let recipe = plain("w4a8");
    let decided = decide(&resolved.model, &stored, &recipe, Target::Onnx, &given, &mut |_, _, _| {}).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let fails = |roles: &[&str], with: f32| {
        let filled = Filled { base: &stored, roles, with };
        let space = Workspace { dir: dir.path(), activation_memory: 0 };
        let e = quantize(&decided, &filled, &recipe, &given, space, &mut |_, _, _| {}).unwrap_err();
        let cause = std::error::Error::source(&e).map(ToString::to_string).unwrap_or_default();
        assert!(e.is_user_error(), "{e}");
        format!("{e}: {cause}")
    };
    // Zeros in, zeros out: nothing in the tower differs from zero.
    let zero = fails(&["vision.patch.weight", "vision.blocks.0.norm1.bias"], 0.0);
    assert!(zero.contains("vision.blocks.0.attn.q") && zero.contains("not positive definite"), "{zero}");
    let huge = fails(&["vision.blocks.0.norm1.weight"], 1e30);
    assert!(huge.contains("vision.blocks.0.attn.q") && huge.contains("not finite"), "{huge}");
}

#[test]
fn remedies_that_are_not_possible_are_reported() {
    let (checkpoint, resolved) = open(TINY);
    let stored = CheckpointWeights::new(&checkpoint, &resolved.bindings);
    let given = calibration_samples(&calibration(Some(8)), &checkpoint, &resolved).unwrap();
    let candidates = vec![Remedy::Smooth, Remedy::Hadamard(3), Remedy::HadamardRms(0)];
    let recipe = Recipe { down_projections: DownProjections { candidates, always: false }, ..w4a8() };
    let decided = decide(&resolved.model, &stored, &recipe, Target::Onnx, &given, &mut |_, _, _| {}).unwrap();
    let of = |role: &str| decided.decisions.iter().find(|d| d.role == role).unwrap().impossible.join("; ");
    let decoder = of("decoder.layers.0.mlp.down");
    assert!(
        decoder.contains("hadamard 3: rotation order impossible") && !decoder.contains("smooth"),
        "{decoder}"
    );
    let vision = of("vision.blocks.0.mlp.down");
    assert!(vision.contains("smooth: an activation stands"), "{vision}");
    assert_eq!(of("decoder.layers.0.attn.q"), "");
}
