//! The trained fixture: the executor answers as PyTorch does, and static W8A8 keeps its accuracy.

use std::collections::BTreeSet;

use mquant_export::exec::Executor;
use mquant_export::family::CheckpointWeights;
use mquant_export::pipeline::preparer;

use crate::common::eval::{Score, TINY, answers, generation, samples};
use crate::common::{fixture, open};

#[test]
fn float_answers_are_right_and_those_of_pytorch() {
    let (checkpoint, resolved) = open(TINY);
    let weights = CheckpointWeights::new(&checkpoint, &resolved.bindings);
    let exec = Executor::<f32>::keeping(&resolved.model, &weights);
    let samples = samples("evaluation.tsv");
    assert_eq!(samples.len(), 512);
    let answers =
        answers(&exec, &preparer(checkpoint.files(), &resolved.description).unwrap(), &resolved, &samples);
    let mut score = Score::default();
    samples.iter().zip(&answers).for_each(|(s, a)| score.add(s, a));
    println!("float executor: {score}");
    for kind in score.kinds() {
        assert!(score.of(kind) >= 0.95, "{score}");
    }
    let golden = std::fs::read_to_string(fixture(TINY).join("golden_eval.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&golden).unwrap();
    let rows = golden["answers"].as_array().unwrap();
    assert_eq!(rows.len(), 64);
    for ((row, sample), answer) in rows.iter().zip(&samples).zip(&answers) {
        assert_eq!(row["text"].as_str().unwrap(), answer, "sample {}", sample.id);
    }
}

#[test]
fn calibration_and_evaluation_samples_are_disjoint() {
    let hashes = |table| samples(table).into_iter().map(|s| s.sha256).collect::<BTreeSet<_>>();
    let (calibration, evaluation) = (hashes("calibration.tsv"), hashes("evaluation.tsv"));
    assert_eq!(calibration.len(), 128);
    assert_eq!(evaluation.len(), 512);
    assert!(calibration.is_disjoint(&evaluation));
}

pub mod w8a8 {
    //! Fake-quantized W8A8 in the executor: what a runtime's integer kernels compute.

    use mquant_export::exec::DecoderState;
    use mquant_export::family::Resolved;
    use mquant_export::graph::WeightSource;
    use mquant_export::passes::rewrite::RewrittenWeights;
    use mquant_export::quantize::QuantizedWeights;
    use mquant_export::quantize::recipe::{Activations, Recipe};

    use super::*;
    use crate::common::eval::{Made, plain};

    /// The trained model by a recipe, calibrated on its own set.
    pub fn quantize(weights: &dyn WeightSource, recipe: &Recipe) -> Made {
        let (checkpoint, resolved) = open(TINY);
        let data = fixture(TINY).join("calibration.tsv");
        crate::common::eval::quantize(&checkpoint, &resolved, &data, weights, recipe)
    }

    /// Root mean square difference of the logits to the float model's, over text rows, relative to the float logits.
    fn text_row_error(
        exec: &Executor<'_, f32>,
        float: &Executor<'_, f32>,
        resolved: &Resolved,
        n: usize,
    ) -> f64 {
        let (checkpoint, _) = open(TINY);
        let preparer = preparer(checkpoint.files(), &resolved.description).unwrap();
        let (mut diff, mut norm) = (0.0, 0.0);
        for sample in &samples("evaluation.tsv")[..n] {
            let p = preparer.prepare_sample(sample).unwrap();
            let prompt = generation(&p);
            let a = DecoderState::prefill(exec, &prompt).unwrap().logits;
            let b = DecoderState::prefill(float, &prompt).unwrap().logits;
            for r in (0..a.rows()).filter(|&r| p.input_ids[r] != resolved.description.prompt.image_token_id) {
                for (x, y) in a.row(r).iter().zip(b.row(r)) {
                    diff += f64::from(x - y).powi(2);
                    norm += f64::from(*y).powi(2);
                }
            }
        }
        (diff / norm).sqrt()
    }

    #[test]
    fn msq_keeps_accuracy_and_is_closer_on_text_rows_than_one_scale() {
        let (checkpoint, resolved) = open(TINY);
        let weights = CheckpointWeights::new(&checkpoint, &resolved.bindings);
        let float = Executor::<f32>::keeping(&resolved.model, &weights);
        let msq = plain("w8a8");
        let mut shared = msq.clone();
        shared.components.decoder.activations = Activations::Static;
        let rotated = Recipe::load("w8a8").unwrap();
        let errors = [&msq, &shared, &rotated].map(|recipe| {
            let Made { decided, quantized } = quantize(&weights, recipe);
            let rewritten = RewrittenWeights::new(&weights, &decided.rewrites);
            let source = QuantizedWeights::new(&quantized.codes, &rewritten);
            let exec = Executor::<f32>::keeping(&quantized.model, &source);
            let samples = samples("evaluation.tsv");
            let answers = answers(
                &exec,
                &preparer(checkpoint.files(), &resolved.description).unwrap(),
                &resolved,
                &samples,
            );
            let mut score = Score::default();
            samples.iter().zip(&answers).for_each(|(s, a)| score.add(s, a));
            println!(
                "{} executor, decoder {:?}: {score}",
                recipe.name, recipe.components.decoder.activations
            );
            assert!(score.of("all") >= 0.99, "{score}");
            text_row_error(&exec, &float, &resolved, 64)
        });
        println!(
            "text-row logit error: MSQ {:.5}, one shared scale {:.5}, MSQ rotated and smoothed {:.5}",
            errors[0], errors[1], errors[2]
        );
        assert!(errors[0] < errors[1] && errors[2] < errors[0], "{errors:?}");
    }
}
