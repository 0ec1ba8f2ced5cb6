//! Single ops: the executor in both precisions against formulas written anew, and both lowerings in ONNX Runtime against the executor.

mod attention;
mod case;
mod channels;
mod order;
mod pointwise;
mod rotary;
mod rows;

use std::path::Path;

use mquant_export::exec::{Executor, Outputs, Value};
use mquant_export::export::onnx::{OnnxOptions, OpSet, write};
use mquant_export::graph::Part;
use mquant_export::numeric::{Real, Tensor};

use crate::common::Goldens;
use crate::common::judge::{Bundle, judge};
use case::{Case, Want};

/// Largest difference of ONNX Runtime from the executor in f32, relative to the largest value: both round the same numbers, sums in another order.
const RUNTIME: f64 = 3e-6;
/// Largest difference of the executor in f64 from a formula in f64.
const EXACT: f64 = 1e-12;

fn outputs<T: Real>(case: &Case) -> Outputs<T> {
    let inputs = case.inputs.iter().map(|(name, value)| {
        let value = match value {
            Value::Float(t) => Value::Float(t.cast::<T>()),
            Value::Int(t) => Value::Int(t.clone()),
        };
        (name.clone(), value)
    });
    let exec = Executor::<T>::streaming(&case.model, &case.weights);
    exec.run(Part::Vision, inputs.collect(), &mut ()).unwrap_or_else(|e| panic!("{}: {e}", case.name))
}

/// Largest difference over the largest wanted value.
fn error<A: Real, B: Real>(found: &[A], want: &[B]) -> f64 {
    assert_eq!(found.len(), want.len());
    let max = want.iter().fold(0.0f64, |m, x| m.max(x.to_f64().abs()));
    let difference = |(a, b): (&A, &B)| (a.to_f64() - b.to_f64()).abs();
    found.iter().zip(want).map(difference).fold(0.0, f64::max) / max
}

/// The executor against the formula.
fn formula(case: &Case) {
    let (double, single) = (outputs::<f64>(case), outputs::<f32>(case));
    for (i, want) in case.want.iter().enumerate() {
        let key = format!("y{i}");
        match want {
            Want::Ints(shape, data) => {
                let found = double[&key].as_int().unwrap();
                assert_eq!((found.shape(), found.data()), (&shape[..], &data[..]), "{}, {key}", case.name);
                assert_eq!(single[&key].as_int().unwrap(), found, "{}, {key}", case.name);
            }
            Want::Floats(shape, data) => {
                let found = double[&key].as_float().unwrap();
                assert_eq!(found.shape(), shape, "{}, {key}", case.name);
                let e = error(found.data(), data);
                assert!(e <= case.tolerance.max(EXACT), "{}, {key}: {e:e} from the formula", case.name);
                let e = error(single[&key].as_float().unwrap().data(), found.data());
                assert!(e <= RUNTIME, "{}, {key}: f32 and f64 differ by {e:e}", case.name);
            }
        }
    }
}

/// Writes the model and its inputs for the judge.
fn lay_out(case: &Case, ops: OpSet, folder: &Path) {
    std::fs::create_dir(folder).unwrap();
    write(&case.model, &case.weights, folder, &OnnxOptions::new(ops), &mut |_, _, _| ()).unwrap();
    let mut bundle = Bundle::default();
    for (name, value) in &case.inputs {
        match value {
            Value::Float(t) => bundle.floats(name.clone(), t),
            Value::Int(t) => bundle.ints(name.clone(), t.shape().to_vec(), t.data()),
        }
    }
    bundle.write(&folder.join("in.safetensors"));
}

fn compare(case: &Case, ops: OpSet, folder: &Path) {
    let found = Goldens::read(&folder.join("out.safetensors"));
    for (key, want) in outputs::<f32>(case) {
        let subject = format!("{} in {} operators, {key}", case.name, ops.name());
        match want {
            Value::Int(want) => assert_eq!(found.ints(&key), want, "{subject}"),
            Value::Float(want) => {
                let found: Tensor<f32> = found.floats(&key);
                assert_eq!(found.shape(), want.shape(), "{subject}");
                let e = error(found.data(), want.data());
                println!("{subject}: {e:.1e}");
                assert!(e <= RUNTIME, "{subject}: {e:e}");
            }
        }
    }
}

/// All of it for a list of cases; the runtime is started once.
fn check(cases: &[Case]) {
    cases.iter().for_each(formula);
    let dir = tempfile::tempdir().unwrap();
    let forms = [OpSet::Ort, OpSet::Standard].map(|ops| {
        let folder = |i| dir.path().join(format!("{}-{i}", ops.name()));
        (ops, (0..cases.len()).map(folder).collect::<Vec<_>>())
    });
    let mut args = vec![];
    for (ops, folders) in &forms {
        for (case, folder) in cases.iter().zip(folders) {
            lay_out(case, *ops, folder);
            args.push(folder.display().to_string());
        }
    }
    judge("onnx_run.py", &args.iter().map(String::as_str).collect::<Vec<_>>());
    for (ops, folders) in &forms {
        cases.iter().zip(folders).for_each(|(case, folder)| compare(case, *ops, folder));
    }
}
