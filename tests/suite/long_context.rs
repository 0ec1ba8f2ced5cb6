//! Texts longer than a model was trained for: the rotary base, and the scale of queries where there is one, depend on lengths. Goldens are of
//! the original code with the limit lowered to 48 tokens; how they were made stands beside them (`make_long.py`, `NOTES.md`).

use std::path::Path;

use mquant_export::checkpoint::Checkpoint;
use mquant_export::exec::{DecoderState, Executor, Generation};
use mquant_export::family::{CheckpointWeights, Library, resolve};
use mquant_export::numeric::{Real, Tensor};

use crate::common::judge::{Bundle, judge, mquant};
use crate::common::{Goldens, fixture, folder, relative_error};

/// The limit the goldens were made with.
const LIMIT: usize = 48;

/// An f32 run in another order of sums; a wrong rule is off by 1.7e-2 at least (`NOTES.md` of the fixtures).
const TOLERANCE: f32 = 1e-5;

/// One golden text.
struct Case {
    name: char,
    ids: Vec<i64>,
    /// Greedy tokens; the last one was not fed.
    generated: Vec<i64>,
    /// Of the prompt, `[tokens, vocab]`.
    logits: Tensor<f32>,
    /// Rows that chose each greedy token.
    step_logits: Tensor<f32>,
}

fn cases(name: &str) -> Vec<Case> {
    let goldens = Goldens::read(&fixture(name).join("long.safetensors"));
    let names = ('a'..='z').take_while(|c| goldens.has(&format!("{c}.input_ids")));
    let case = |name| Case {
        name,
        ids: goldens.ints(&format!("{name}.input_ids")).into_data(),
        generated: goldens.ints(&format!("{name}.generated")).into_data(),
        logits: goldens.floats(&format!("{name}.logits")),
        step_logits: goldens.floats(&format!("{name}.step_logits")),
    };
    names.map(case).collect()
}

/// The fixture in `dir`, with the limit at the JSON pointer `at` lowered.
fn shortened(name: &str, at: &str, dir: &Path) {
    folder::copy(name, dir, |_| true);
    let mut config = folder::config(name);
    folder::set(&mut config, at, LIMIT);
    folder::write_config(dir, &config);
}

fn check(what: &str, found: &[f32], golden: &Tensor<f32>) {
    let e = relative_error(found, golden.data());
    println!("{what}: {e:.1e} of the largest");
    assert!(e <= TOLERANCE, "{what} differs by {e:e} of the largest golden value");
}

fn narrow<T: Real>(values: &[T]) -> impl Iterator<Item = f32> {
    values.iter().map(|x| x.to_f64() as f32)
}

fn executor_equals<T: Real>(name: &str, at: &str, count: usize) {
    let dir = tempfile::tempdir().unwrap();
    shortened(name, at, dir.path());
    let checkpoint = Checkpoint::open(dir.path()).unwrap();
    let resolved = resolve(&Library::built_in().unwrap(), &checkpoint).unwrap();
    let weights = CheckpointWeights::new(&checkpoint, &resolved.bindings);
    let exec = Executor::<T>::keeping(&resolved.model, &weights);
    let none = Tensor::full(vec![0, resolved.model.spec.vision.patch_features], 0.0);
    let cases = cases(name);
    assert_eq!(cases.len(), count, "cases were lost");
    for case in cases {
        let positions = [(0..case.ids.len() as i64).collect()];
        let prompt =
            Generation { input_ids: &case.ids, pixel_values: &none, grids: &[], position_ids: &positions };
        let mut state = DecoderState::prefill(&exec, &prompt).unwrap();
        let what = |stage: &str| format!("case {} of {} tokens, {stage}", case.name, case.ids.len());
        check(&what("prefill"), &narrow(state.logits.data()).collect::<Vec<_>>(), &case.logits);
        let mut rows: Vec<f32> = narrow(state.logits.row(case.ids.len() - 1)).collect();
        let fed = case.generated.len() - 1;
        for &token in &case.generated[..fed] {
            assert_eq!(state.best(), token, "{}", what("greedy token"));
            state.step(&exec, token).unwrap();
            rows.extend(narrow(state.logits.data()));
        }
        assert_eq!(state.best(), case.generated[fed], "{}", what("greedy token"));
        check(&what("decoding with the cache"), &rows, &case.step_logits);
    }
}

fn onnx_runtime_equals(name: &str, at: &str) {
    let dir = tempfile::tempdir().unwrap();
    let path = |file: &str| dir.path().join(file).display().to_string();
    std::fs::create_dir(dir.path().join("model")).unwrap();
    shortened(name, at, &dir.path().join("model"));
    let cases = cases(name);
    let longest = cases.iter().map(|c| c.generated.len()).max().unwrap();
    let mut bundle = Bundle::default();
    for (i, case) in cases.iter().enumerate() {
        let n = case.ids.len();
        bundle.ints(format!("s{i}.input_ids"), vec![n], &case.ids);
        bundle.ints(format!("s{i}.position_ids"), vec![n], &(0..n as i64).collect::<Vec<_>>());
        // All cases run as long as the longest: what follows a case's own tokens is not looked at.
        let mut forced = case.generated.clone();
        forced.resize(longest, 0);
        bundle.ints(format!("s{i}.forced"), vec![longest], &forced);
    }
    bundle.write(&dir.path().join("prompts"));
    let mut args = vec![];
    for ops in ["ort", "standard"] {
        let flags = ["--format", "onnx", "--recipe", "float", "--ops", ops, "-o"];
        mquant(&[&[path("model").as_str()], flags.as_slice(), &[path(ops).as_str()]].concat());
        args.extend([path(ops), path("prompts"), path(&format!("{ops}.out"))]);
    }
    args.extend(["--max-new".into(), longest.to_string(), "--logits".into()]);
    judge("onnx_generate.py", &args.iter().map(String::as_str).collect::<Vec<_>>());
    for ops in ["ort", "standard"] {
        let found = Goldens::read(&dir.path().join(format!("{ops}.out")));
        for (i, case) in cases.iter().enumerate() {
            let what = |stage: &str| {
                format!("--ops {ops}, case {} of {} tokens, {stage}", case.name, case.ids.len())
            };
            check(&what("prefill"), found.floats(&format!("s{i}.logits")).data(), &case.logits);
            let rows = found.floats(&format!("s{i}.step_logits"));
            let rows = &rows.data()[..case.step_logits.data().len()];
            check(&what("decoding with the cache"), rows, &case.step_logits);
        }
    }
}

macro_rules! fixtures {
    ($($name:ident: $at:literal, $cases:literal;)*) => {
        $(mod $name {
            #[test]
            fn executor_in_f32_equals_the_goldens() {
                super::executor_equals::<f32>(stringify!($name), $at, $cases);
            }

            #[test]
            fn executor_in_f64_equals_the_goldens() {
                super::executor_equals::<f64>(stringify!($name), $at, $cases);
            }

            #[test]
            fn onnx_runtime_equals_the_goldens() {
                super::onnx_runtime_equals(stringify!($name), $at);
            }
        })*
    };
}
fixtures! {
    internvl2: "/llm_config/max_position_embeddings", 4;
    qwen_vl: "/seq_length", 6;
}
