//! Exported ONNX folders in unmodified ONNX Runtime, judged by golden outputs, by the executor and by task accuracy.

use std::path::Path;

use mquant_export::exec::{DecoderState, Executor};
use mquant_export::family::CheckpointWeights;
use mquant_export::passes::rewrite::RewrittenWeights;
use mquant_export::pipeline::{Manifest, preparer};
use mquant_export::quantize::QuantizedWeights;
use mquant_export::quantize::recipe::Recipe;
use serde_json::Value as Json;

use super::trained::w8a8::quantize;
use crate::common::eval::{Made, Score, TINY, answers, bundle, generation, samples};
use crate::common::judge::{export_fixture, judge, text};
use crate::common::{Goldens, distance, fixture, open};

fn calibration() -> String {
    text(&fixture(TINY).join("calibration.tsv"))
}

#[test]
fn float_standard_passes_the_checker_and_an_independent_reader_sees_the_same_file() {
    use onnx_protobuf::{Message, ModelProto};
    let dir = tempfile::tempdir().unwrap();
    let artifact = export_fixture(dir.path(), "qwen2_vl", &["--recipe", "float", "--ops", "standard"]);
    judge("onnx_check.py", &[&text(&artifact)]);
    for name in ["vision.onnx", "embedding.onnx", "model.onnx"] {
        let path = artifact.join(name);
        let ours = mquant_export::export::onnx::inspect::inspect(&path).unwrap();
        let theirs = ModelProto::parse_from_bytes(&std::fs::read(&path).unwrap()).unwrap();
        assert_eq!(theirs.ir_version, ours.ir_version);
        assert_eq!(theirs.graph.node.len(), ours.operators.values().sum::<usize>(), "{name}");
        assert_eq!(theirs.graph.input.len(), ours.inputs.len(), "{name}");
        // Page-aligned plain names, nothing external that shape inference needs.
        for tensor in &theirs.graph.initializer {
            let entry =
                |key: &str| tensor.external_data.iter().find(|e| e.key == key).map(|e| e.value.clone());
            let elements: i64 = tensor.dims.iter().product();
            assert_eq!(entry("offset").is_some(), elements * 4 > 1024, "{name}, {}", tensor.name);
            if let Some(offset) = entry("offset") {
                assert_eq!(offset.parse::<u64>().unwrap() % 4096, 0);
                assert_eq!(entry("location").unwrap(), format!("{name}.data"));
            }
        }
    }
}

/// Integer kernels and leftover Q/DQ nodes of all graphs as ONNX Runtime optimised them.
fn integer_kernels(report: &Json) -> (u64, u64) {
    let count = |op: &str| -> u64 {
        ["vision", "embedding", "model"].iter().filter_map(|g| report[g]["operators"][op].as_u64()).sum()
    };
    (count("MatMulIntegerToFloat"), count("DequantizeLinear"))
}

fn recipe_is_fused_and_exact(recipe: &str, ops: &str) {
    let dir = tempfile::tempdir().unwrap();
    let artifact = export_fixture(
        dir.path(),
        TINY,
        &["--recipe", recipe, "--calibration", &calibration(), "--ops", ops],
    );
    let mut args = vec![text(&artifact)];
    if ops == "ort" {
        args.push("--no-checker".into());
    }
    let report = judge("onnx_check.py", &args.iter().map(String::as_str).collect::<Vec<_>>());
    let report: Json = serde_json::from_str(&report).unwrap();
    let manifest = Manifest::read(&artifact).unwrap();
    // q, k, v and gate, up of each block are merged: 7 linears are 4 products in the decoder, 6 are 4 in the tower.
    let (_, resolved) = open(TINY);
    let spec = &resolved.model.spec;
    let (tower, decoder) = (spec.vision.depth, spec.decoder.layers);
    assert_eq!(manifest.linears.len(), 1 + 6 * tower + 2 + 7 * decoder + 1);
    let products = (1 + 4 * tower + 2 + 4 * decoder + 1) as u64;
    assert_eq!(integer_kernels(&report), (products, 0), "integer kernels and Q/DQ pairs left over: {report}");
    for graph in ["vision", "embedding", "model"] {
        assert_eq!(report[graph]["ir_version"], 10);
        assert_eq!(report[graph]["opsets"][""], 21);
        let microsoft = report[graph]["opsets"].get("com.microsoft").is_some();
        assert_eq!(microsoft, ops == "ort", "{graph}");
    }
    accuracy(dir.path(), &artifact, &format!("{recipe} --ops {ops}"));
}

/// Task accuracy through ONNX Runtime on all evaluation samples: at most one point under float.
fn accuracy(dir: &Path, artifact: &Path, what: &str) {
    let (checkpoint, resolved) = open(TINY);
    let preparer = preparer(checkpoint.files(), &resolved.description).unwrap();
    let weights = CheckpointWeights::new(&checkpoint, &resolved.bindings);
    let float = Executor::<f32>::keeping(&resolved.model, &weights);
    let samples = samples("evaluation.tsv");
    let mut float_score = Score::default();
    let float_answers = answers(&float, &preparer, &resolved, &samples);
    samples.iter().zip(&float_answers).for_each(|(s, a)| float_score.add(s, a));
    let (prompts, out) = (dir.join("prompts.safetensors"), dir.join("out.safetensors"));
    bundle(&preparer, &samples).write(&prompts);
    let stop: Vec<String> = resolved.description.prompt.eos_token_ids.iter().map(i64::to_string).collect();
    let args = [&text(artifact), &text(&prompts), &text(&out), "--max-new", "12", "--stop", &stop.join(",")];
    judge("onnx_generate.py", &args);
    let found = Goldens::read(&out);
    let mut score = Score::default();
    for (i, sample) in samples.iter().enumerate() {
        let mut ids = found.ints(&format!("s{i}.generated")).into_data();
        ids.retain(|id| !resolved.description.prompt.eos_token_ids.contains(id));
        score.add(sample, &preparer.tokenizer().decode(&ids, true).unwrap());
    }
    println!("{what} in ONNX Runtime {score}float executor {float_score}");
    assert!(score.of("all") >= float_score.of("all") - 0.01, "{score}");
}

#[test]
fn w4a8_ort_runs_as_integer_kernels_and_keeps_accuracy() {
    recipe_is_fused_and_exact("w4a8", "ort");
}

#[test]
fn w4a8_standard_fuses_to_integer_kernels_and_keeps_accuracy() {
    recipe_is_fused_and_exact("w4a8", "standard");
}

#[test]
fn w8a8_standard_fuses_to_integer_kernels_and_keeps_accuracy() {
    recipe_is_fused_and_exact("w8a8", "standard");
}

#[test]
fn w8a8_in_onnx_runtime_is_what_the_executor_simulates() {
    const SAMPLES: usize = 16;
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, resolved) = open(TINY);
    let preparer = preparer(checkpoint.files(), &resolved.description).unwrap();
    let weights = CheckpointWeights::new(&checkpoint, &resolved.bindings);
    let float = Executor::<f32>::keeping(&resolved.model, &weights);
    let Made { decided, quantized } = quantize(&weights, &Recipe::load("w8a8").unwrap());
    let rewritten = RewrittenWeights::new(&weights, &decided.rewrites);
    let source = QuantizedWeights::new(&quantized.codes, &rewritten);
    let simulated = Executor::<f32>::keeping(&quantized.model, &source);
    let samples = &samples("evaluation.tsv")[..SAMPLES];
    let prompts = dir.path().join("prompts.safetensors");
    bundle(&preparer, samples).write(&prompts);
    for ops in ["ort", "standard"] {
        let place = dir.path().join(ops);
        std::fs::create_dir(&place).unwrap();
        let flags = ["--recipe", "w8a8", "--calibration", &calibration(), "--ops", ops];
        let artifact = export_fixture(&place, TINY, &flags);
        let out = place.join("out.safetensors");
        let args = [&text(&artifact), &text(&prompts), &text(&out), "--max-new", "1", "--logits"];
        judge("onnx_generate.py", &args);
        let found = Goldens::read(&out);
        let mut equal = 0;
        for (i, sample) in samples.iter().enumerate() {
            let p = preparer.prepare_sample(sample).unwrap();
            let prompt = generation(&p);
            let logits = |exec| DecoderState::prefill(exec, &prompt).unwrap().logits;
            let runtime = found.floats(&format!("s{i}.logits"));
            let to_simulation = distance(runtime.data(), logits(&simulated).data());
            let share = to_simulation / distance(runtime.data(), logits(&float).data());
            println!("--ops {ops}, sample {i}: {:.2}% of the way from simulation to float", 100.0 * share);
            equal += usize::from(share < 0.02);
        }
        // Both round the same numbers at the same scales. A float that lies on a tie may fall to either side, and what follows from one code grows
        // to a good part of the quantization error; most prompts have no such float (12 of 16 here, equal to the last bit).
        assert!(2 * equal > SAMPLES, "{equal} of {SAMPLES}");
    }
}

#[test]
fn genai_answers_as_the_executor_does() {
    genai_answers("row-scale");
}

#[test]
fn genai_answers_as_the_executor_does_with_rows_by_modality() {
    genai_answers("split");
}

fn genai_answers(msq_form: &str) {
    const SAMPLES: usize = 24;
    let dir = tempfile::tempdir().unwrap();
    let flags = ["--calibration", &calibration(), "--msq-form", msq_form];
    let artifact = export_fixture(dir.path(), TINY, &flags);
    let (checkpoint, resolved) = open(TINY);
    let preparer = preparer(checkpoint.files(), &resolved.description).unwrap();
    let weights = CheckpointWeights::new(&checkpoint, &resolved.bindings);
    let exec = Executor::<f32>::keeping(&resolved.model, &weights);
    let samples = &samples("evaluation.tsv")[..SAMPLES];
    let want = answers(&exec, &preparer, &resolved, samples);
    let (prompts, out) = (dir.path().join("prompts.safetensors"), dir.path().join("out.json"));
    bundle(&preparer, samples).write(&prompts);
    let questions = text(&fixture(TINY).join("evaluation.tsv"));
    let n = SAMPLES.to_string();
    let args =
        [&text(&artifact), &questions, &text(&prompts), &text(&out), "--samples", &n, "--max-new", "12"];
    judge("genai_generate.py", &args);
    let found: Vec<Json> = serde_json::from_str(&std::fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!(found.len(), SAMPLES);
    for ((row, sample), want) in found.iter().zip(samples).zip(&want) {
        // No image of this fixture is resized, so GenAI's own pixels are ours and both ways must agree.
        for way in ["own", "ours"] {
            let mut ids: Vec<i64> =
                row[way].as_array().unwrap().iter().map(|v| v.as_i64().unwrap()).collect();
            ids.retain(|id| !resolved.description.prompt.eos_token_ids.contains(id));
            let answer = preparer.tokenizer().decode(&ids, true).unwrap();
            assert_eq!(&answer, want, "sample {} through GenAI, {way} pixels", sample.id);
        }
    }
}
