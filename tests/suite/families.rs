//! Every fixture with goldens, exported and run in unmodified ONNX Runtime: float equals the goldens, W8A8 runs as integer kernels and is what
//! the executor simulates.

use mquant_export::exec::ops::Rounded;
use mquant_export::exec::{DecoderState, Executor};
use mquant_export::export::onnx::MsqForm;
use mquant_export::family::CheckpointWeights;
use mquant_export::graph::ops::Linear;
use mquant_export::graph::{Dim, Graph, Model, Node, Sym, ValueId, WeightData, WeightSource};
use mquant_export::numeric::gemm::matmul_nt;
use mquant_export::passes::order_by_modality;
use mquant_export::passes::rewrite::RewrittenWeights;
use mquant_export::pipeline::{Manifest, preparer};
use mquant_export::quantize::recipe::{Activations, Recipe};
use mquant_export::quantize::{Decision, QuantizedWeights, Target, plan};
use serde_json::Value as Json;

use crate::common::eval::{Made, bundle, generation, load_samples, quantize};
use crate::common::golden::for_each_fixture;
use crate::common::judge::{export_fixture, judge, text};
use crate::common::{Goldens, distance, fixture, open, relative_error};

/// Float files, fed with what our own preprocessing makes of the samples' images and texts.
fn float_equals_the_goldens(name: &str, ops: &str) {
    let dir = tempfile::tempdir().unwrap();
    let artifact = export_fixture(dir.path(), name, &["--recipe", "float", "--ops", ops]);
    let (checkpoint, resolved) = open(name);
    let samples = load_samples(&fixture(name).join("samples.jsonl"));
    let (prompts, out) = (dir.path().join("prompts.safetensors"), dir.path().join("out.safetensors"));
    bundle(&preparer(checkpoint.files(), &resolved.description).unwrap(), &samples).write(&prompts);
    let args = [&text(&artifact), &text(&prompts), &text(&out), "--max-new", "12", "--logits", "--batch-law"];
    judge("onnx_generate.py", &args);
    let (golden, found) = (Goldens::of(name), Goldens::read(&out));
    for s in 0..samples.len() {
        for tensor in ["image_features", "logits"] {
            let key = format!("s{s}.{tensor}");
            if !golden.has(&key) {
                continue;
            }
            let e = relative_error(found.floats(&key).data(), golden.floats(&key).data());
            println!("{name} --ops {ops}, sample {s}: {tensor} differ by {e:.1e} of the largest");
            // The issue allows 1e-3; f32 rounding in another order of sums stays near 2e-6, so anything larger is a fault.
            assert!(e <= 2e-5, "{name} sample {s} {tensor}: {e:e}");
        }
        let key = format!("s{s}.generated");
        assert_eq!(found.ints(&key).data(), golden.ints(&key).data(), "{name} sample {s}");
    }
    for i in 0..2 {
        let logits = golden.floats(&format!("s{i}.logits"));
        let e = relative_error(found.floats(&format!("batch.{i}")).data(), logits.row(logits.rows() - 1));
        assert!(e <= 2e-5, "{name}: prompt {i} of a batch padded on the left: {e:e}");
    }
    if ops == "standard" {
        judge("onnx_check.py", &[&text(&artifact)]);
    }
}

/// Operators of all graphs as ONNX Runtime optimised them.
pub fn count(report: &Json, op: &str) -> u64 {
    ["vision", "embedding", "model"].iter().filter_map(|g| report[g]["operators"][op].as_u64()).sum()
}

fn w8a8() -> Recipe {
    Recipe::load("w8a8").unwrap()
}

fn w4a8() -> Recipe {
    Recipe::load("w4a8").unwrap()
}

/// The default recipe with a scale per row everywhere.
fn dynamic() -> Recipe {
    let mut recipe = w4a8();
    let c = &mut recipe.components;
    for precision in [&mut c.vision, &mut c.projector, &mut c.decoder] {
        precision.activations = Activations::Dynamic;
    }
    recipe
}

/// Integer products of the quantized model: one for each linear, two where rows in the order by modality have two scales.
pub fn integer_products(model: &Model) -> u64 {
    let quantized = model.linears().filter(|(_, _, l)| l.act.is_some());
    let pieces = |(g, n, _): (&Graph, &Node, &Linear)| match n.inputs.get(1) {
        Some(modality) if g.value(*modality).shape[1] == Dim::Sym(Sym::ByModality) => 2,
        _ => 1,
    };
    quantized.map(pieces).sum()
}

fn recipe_is_fused_and_simulated(name: &str, recipe: &Recipe, ops: &str, msq: MsqForm) {
    let dir = tempfile::tempdir().unwrap();
    let data = fixture(name).join("samples.jsonl");
    let file = dir.path().join("recipe.yaml");
    std::fs::write(&file, serde_json::to_string(recipe).unwrap()).unwrap();
    let flags =
        ["--recipe", &text(&file), "--calibration", &text(&data), "--ops", ops, "--msq-form", msq.name()];
    let artifact = export_fixture(dir.path(), name, &flags);
    let (checkpoint, resolved) = open(name);
    let weights = CheckpointWeights::new(&checkpoint, &resolved.bindings);
    let Made { decided, mut quantized } = quantize(&checkpoint, &resolved, &data, &weights, recipe);
    if msq == MsqForm::Split {
        let linears = integer_products(&quantized.model);
        quantized.model = order_by_modality(quantized.model).unwrap();
        assert!(integer_products(&quantized.model) > linears, "{name}: nothing to split");
    }
    let weights = RewrittenWeights::new(&weights, &decided.rewrites);

    let linears = plan(&resolved.model, recipe, Target::Onnx).unwrap().linears;
    let constant = linears.iter().filter(|l| l.decided_by == Decision::ConstantInput).count();
    assert_eq!(Manifest::read(&artifact).unwrap().linears.len(), linears.len() - constant);
    let report: Json =
        serde_json::from_str(&judge("onnx_check.py", &[&text(&artifact), "--no-checker"])).unwrap();
    let products = integer_products(&quantized.model);
    println!(
        "{name} --ops {ops}: {} linears, {constant} constant, {products} integer products",
        linears.len()
    );
    assert_eq!(count(&report, "MatMulIntegerToFloat"), products, "{name}: {report}");
    assert_eq!(count(&report, "DequantizeLinear"), 0, "{name}: Q/DQ pairs are left: {report}");

    let samples = load_samples(&data);
    let preparer = preparer(checkpoint.files(), &resolved.description).unwrap();
    let (prompts, out) = (dir.path().join("prompts.safetensors"), dir.path().join("out.safetensors"));
    bundle(&preparer, &samples).write(&prompts);
    let values = tapped_values(&quantized.model).join(",");
    judge("onnx_taps.py", &[&text(&artifact), &text(&prompts), &text(&out), "--values", &values]);
    let found = Goldens::read(&out);
    let source = QuantizedWeights::new(&quantized.codes, &weights);
    every_linear_is_simulated(&quantized.model, (&weights, &source), &found, samples.len());

    let stored = CheckpointWeights::new(&checkpoint, &resolved.bindings);
    let float = Executor::<f32>::keeping(&resolved.model, &stored);
    let simulated = Executor::<f32>::keeping(&quantized.model, &source);
    let mut least = f64::INFINITY;
    for (i, sample) in samples.iter().enumerate() {
        let p = preparer.prepare_sample(sample).unwrap();
        let logits = |exec| DecoderState::prefill(exec, &generation(&p)).unwrap().logits;
        let (simulated, float) = (logits(&simulated), logits(&float));
        let runtime = found.floats(&format!("s{i}.logits"));
        let share = distance(runtime.data(), simulated.data()) / distance(runtime.data(), float.data());
        println!("{name} --ops {ops}, sample {i}: {:.2}% of the way from simulation to float", 100.0 * share);
        least = least.min(share);
    }
    // A code on a rounding tie can fall to the other side, and in these random networks its effect grows until it is as large as that of
    // quantization itself: the f32 and the f64 executor, too, then differ by 80% of the gap (second fixture with a resampler). So every linear is
    // compared on its own above, and of whole prompts one without a tie has to be the same.
    assert!(least < 0.02, "{name}: {least}");
}

/// Operands and results of the integer products, and the logits.
pub fn tapped_values(model: &Model) -> Vec<String> {
    let quantized = model.linears().filter(|(_, _, l)| l.act.is_some());
    let of = |(g, n, _): (&Graph, &Node, &Linear)| {
        n.inputs.iter().chain(&n.outputs).map(|v| g.value(*v).name.clone()).collect::<Vec<_>>()
    };
    let mut values: Vec<String> = quantized.flat_map(of).chain(["logits".to_string()]).collect();
    values.sort();
    values.dedup();
    values
}

/// Compares each integer product of ONNX Runtime with the definition, on the operands that ONNX Runtime computed: codes of the rows at their
/// modality's scale times codes of the weight, then scales and bias.
pub fn every_linear_is_simulated(
    model: &Model,
    (weights, codes): (&dyn WeightSource, &dyn WeightSource),
    found: &Goldens,
    samples: usize,
) {
    let (mut worst, mut compared) = (0.0f64, 0);
    for (graph, node, linear) in model.linears() {
        let Some(act) = linear.act else { continue };
        let decl = model.weight(linear.weight);
        let WeightData::Grid(w) = codes.load(decl).unwrap() else { panic!("{} is not on a grid", node.name) };
        let WeightData::Float(exact) = weights.load(decl).unwrap() else { panic!("{}", node.name) };
        let bias = linear.bias.map(|b| match weights.load(model.weight(b)).unwrap() {
            WeightData::Float(b) => b.into_data(),
            WeightData::Grid(_) | WeightData::Blocks(_) => panic!("{}", node.name),
        });
        let int8: Vec<f32> = w.int8().iter().map(|c| f32::from(*c)).collect();
        for s in 0..samples {
            let value = |v: ValueId| format!("s{s}.{}", graph.value(v).name);
            if !found.has(&value(node.outputs[0])) {
                continue; // a prompt without images does not run the tower
            }
            let x = found.floats(&value(node.inputs[0]));
            let modality = node.inputs.get(1).map(|m| found.floats(&value(*m)));
            let rounded = Rounded::of(act, &x, |r| modality.as_ref().is_some_and(|m| m.data()[r] > 0.0));
            let (n, k, m) = (x.rows(), x.cols(), w.scales.len());
            let (mut integer, mut float) = (vec![0.0f32; n * m], vec![0.0f32; n * m]);
            matmul_nt(&mut integer, &rounded.codes, &int8, (n, k, m));
            matmul_nt(&mut float, x.data(), exact.data(), (n, k, m));
            for (i, (a, b)) in integer.iter_mut().zip(&mut float).enumerate() {
                *a *= w.scales[i % m] * rounded.scales[i / m];
                if let Some(bias) = &bias {
                    *a += bias[i % m];
                    *b += bias[i % m];
                }
            }
            let runtime = found.floats(&value(node.outputs[0]));
            let share = distance(runtime.data(), &integer) / distance(&integer, &float);
            assert!(share < 0.02, "{} sample {s}: {share:e} of the way to float", node.name);
            (worst, compared) = (worst.max(share), compared + 1);
        }
    }
    println!("{compared} products on ONNX Runtime's own operands: at most {worst:.1e} of the way to float");
    assert!(compared > 0);
}

macro_rules! fixtures {
    ($($name:ident,)*) => {
        $(mod $name {
            #[test]
            fn float_ort_equals_the_goldens() {
                super::float_equals_the_goldens(stringify!($name), "ort");
            }

            #[test]
            fn float_standard_equals_the_goldens() {
                super::float_equals_the_goldens(stringify!($name), "standard");
            }

            #[test]
            fn w8a8_ort_is_fused_and_what_the_executor_simulates() {
                super::recipe_is_fused_and_simulated(stringify!($name), &super::w8a8(), "ort", super::MsqForm::RowScale);
            }

            #[test]
            fn w4a8_ort_is_fused_and_what_the_executor_simulates() {
                super::recipe_is_fused_and_simulated(stringify!($name), &super::w4a8(), "ort", super::MsqForm::RowScale);
            }

            #[test]
            fn w4a8_standard_fuses_and_is_what_the_executor_simulates() {
                super::recipe_is_fused_and_simulated(stringify!($name), &super::w4a8(), "standard", super::MsqForm::RowScale);
            }

            #[test]
            fn dynamic_w4a8_is_fused_and_what_the_executor_simulates() {
                super::recipe_is_fused_and_simulated(stringify!($name), &super::dynamic(), "ort", super::MsqForm::RowScale);
            }

            #[test]
            fn w8a8_split_ort_is_fused_and_what_the_executor_simulates() {
                super::recipe_is_fused_and_simulated(stringify!($name), &super::w8a8(), "ort", super::MsqForm::Split);
            }

            #[test]
            fn w8a8_split_standard_fuses_and_is_what_the_executor_simulates() {
                super::recipe_is_fused_and_simulated(stringify!($name), &super::w8a8(), "standard", super::MsqForm::Split);
            }

            #[test]
            fn w8a8_standard_fuses_and_is_what_the_executor_simulates() {
                super::recipe_is_fused_and_simulated(stringify!($name), &super::w8a8(), "standard", super::MsqForm::RowScale);
            }
        })*
    };
}
for_each_fixture!(fixtures);
