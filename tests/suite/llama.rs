//! Exported GGUF files in an unmodified llama.cpp: golden tokens, and the executor's numbers where it computes what llama.cpp computes.
//!
//! Images are taken that neither side resizes, because the two resize differently (`docs/gguf.md`).

use std::path::Path;
use std::process::Command;

use mquant_export::exec::{DecoderState, Executor, Generation, vision_inputs};
use mquant_export::family::CheckpointWeights;
use mquant_export::graph::Part;
use mquant_export::graph::build::build;
use mquant_export::graph::spec::{Activation, ModelSpec, ProjectorSpec};
use mquant_export::numeric::Tensor;

use crate::common::agreement::interval;
use crate::common::case::Case;
use crate::common::eval::{TINY, load_samples, samples};
use crate::common::golden::GoldenPrompt;
use crate::common::judge::{mquant, text};
use crate::common::llama::{Arithmetic, Continuation, Files, Prompt, Question, Run, ask, said};
use crate::common::{Goldens, fixture, open, relative_error};

/// Golden samples that llama.cpp shows the same pixels, text alone included.
const NATIVE: &[(&str, &[usize])] = &[
    ("qwen2_vl", &[0, 1, 2]),
    ("internvl2", &[0, 2, 4]),
    ("internvl2_qwen2", &[0, 2, 4]),
    ("minicpm_v_2_6", &[0, 2, 4]),
    // Text files alone, so prompts without images.
    ("internvl2_vit6b", &[2]),
    ("qwen_vl", &[1, 3]),
    ("glm_4v", &[2]),
];

/// The same for the converter's own files: it does not compensate InternVL's shifted position table, and takes MiniCPM-V's slices to be as large as the
/// released model's.
const NATIVE_CONVERTED: &[(&str, &[usize])] =
    &[("qwen2_vl", &[0, 1, 2]), ("internvl2", &[2]), ("internvl2_qwen2", &[2]), ("minicpm_v_2_6", &[2])];

/// The golden prompts of a fixture with their images.
struct Golden {
    prompts: Vec<GoldenPrompt>,
    tokens: Vec<Vec<i64>>,
    images: Vec<Vec<std::path::PathBuf>>,
}

fn golden(name: &str, chosen: &[usize]) -> Golden {
    let (_, resolved) = open(name);
    let goldens = Goldens::of(name);
    let samples = load_samples(&fixture(name).join("samples.jsonl"));
    let files = |i: &usize| {
        let file = |image: &mquant_export::calibrate::ImageSource| match image {
            mquant_export::calibrate::ImageSource::File(path) => path.clone(),
            other => panic!("golden samples name files, found {other:?}"),
        };
        samples[*i].images().map(file).collect()
    };
    Golden {
        prompts: chosen.iter().map(|s| GoldenPrompt::read(name, &resolved, &goldens, *s)).collect(),
        tokens: chosen.iter().map(|s| goldens.ints(&format!("s{s}.generated")).into_data()).collect(),
        images: chosen.iter().map(files).collect(),
    }
}

/// Golden prompts asked with `features` in place of what the projector file computes, where given.
fn asked(
    name: &str,
    files: &Files,
    golden: &Golden,
    features: &[Option<Tensor<f32>>],
    then: impl Fn(usize) -> Continuation,
) -> Run {
    let (_, resolved) = open(name);
    let image_token = resolved.model.spec.image_token_id;
    let question = |i: usize| Question {
        prompt: Prompt::Ids { ids: golden.prompts[i].ids.clone(), image_token },
        images: golden.images[i].clone(),
        features: features.get(i).cloned().flatten(),
        then: then(i),
    };
    let questions: Vec<Question> = (0..golden.prompts.len()).map(question).collect();
    ask(files, Arithmetic::F32, &[], &questions)
}

fn gives_golden_tokens(name: &str, files: &Files, chosen: &[usize]) -> Run {
    let golden = golden(name, chosen);
    let greedy = |_| Continuation::Greedy { max_new: 12, stop: vec![] };
    let run = asked(name, files, &golden, &[], greedy);
    for ((reply, tokens), sample) in run.replies.iter().zip(&golden.tokens).zip(chosen) {
        assert_eq!(reply.tokens, *tokens, "{name}, sample {sample}");
    }
    run
}

/// The model that llama.cpp computes where its definitions differ from the original's: the tanh form of GELU instead of erf in towers and
/// merging projectors, and no epsilon in the RMS norms of decoders with multimodal positions (it does not read the key there).
fn as_llama_cpp(mut spec: ModelSpec) -> ModelSpec {
    let tanh = |a: &mut Activation| {
        if *a == Activation::GeluErf {
            *a = Activation::GeluTanh;
        }
    };
    tanh(&mut spec.vision.activation);
    if let ProjectorSpec::MergeMlp { activation, .. } = &mut spec.projector {
        tanh(activation);
    }
    if !spec.decoder.rope_sections.is_empty() {
        spec.decoder.eps = 0.0;
    }
    spec
}

/// Largest relative errors over samples.
#[derive(Clone, Copy, Debug, Default)]
struct Gap {
    /// Of image features.
    features: f32,
    /// Of logits, image features being the executor's on both sides.
    logits: f32,
}

/// What the executor and llama.cpp have between them, golden tokens fed to both, with the executor's model changed by `change`.
fn gap(name: &str, files: &Files, chosen: &[usize], change: impl Fn(ModelSpec) -> ModelSpec) -> Gap {
    let (checkpoint, resolved) = open(name);
    let weights = CheckpointWeights::new(&checkpoint, &resolved.bindings);
    let model = build(change(resolved.model.spec.clone())).unwrap();
    let exec = Executor::<f32>::keeping(&model, &weights);
    let golden = golden(name, chosen);
    let ours: Vec<_> = golden.prompts.iter().map(|prompt| features(&exec, prompt)).collect();
    let first = |_| Continuation::Forced(vec![]);
    let theirs = asked(name, files, &golden, &[], first);
    let fed = |i: usize| Continuation::Forced(golden.tokens[i].clone());
    let run = asked(name, files, &golden, &ours, fed);
    let mut found = Gap::default();
    for (i, ours) in ours.iter().enumerate() {
        if let (Some(ours), Some(theirs)) = (ours, &theirs.replies[i].features) {
            found.features = found.features.max(relative_error(theirs.data(), ours.data()));
        }
        let logits = forced(&exec, &golden.prompts[i], &golden.tokens[i]);
        found.logits = found.logits.max(relative_error(run.replies[i].logits.data(), logits.data()));
    }
    found
}

/// Image rows of a prompt `[rows, width]`, if it has any.
fn features(exec: &Executor<'_, f32>, prompt: &GoldenPrompt) -> Option<Tensor<f32>> {
    let pixels = prompt.pixels.as_ref().filter(|_| !prompt.grids.is_empty())?;
    let inputs = vision_inputs(pixels, &prompt.grids).unwrap();
    let out = exec.run(Part::Vision, inputs, &mut ()).unwrap();
    Some(out["image_features"].as_float().unwrap().clone())
}

/// Logits `[tokens + 1, vocab]` of the row behind a prompt and behind each token fed after it.
fn forced(exec: &Executor<'_, f32>, prompt: &GoldenPrompt, tokens: &[i64]) -> Tensor<f32> {
    let none = Tensor::full(vec![0, exec.model().spec.vision.patch_features], 0.0);
    let positions = prompt.positions.clone().unwrap_or_else(|| vec![(0..prompt.ids.len() as i64).collect()]);
    let generation = Generation {
        input_ids: &prompt.ids,
        pixel_values: prompt.pixels.as_ref().unwrap_or(&none),
        grids: &prompt.grids,
        position_ids: &positions,
    };
    let mut state = DecoderState::prefill(exec, &generation).unwrap();
    let last = |state: &DecoderState<f32>| state.logits.row(state.logits.rows() - 1).to_vec();
    let mut rows = last(&state);
    for token in tokens {
        state.step(exec, *token).unwrap();
        rows.extend(last(&state));
    }
    Tensor::new(vec![tokens.len() + 1, rows.len() / (tokens.len() + 1)], rows).unwrap()
}

/// Exports a fixture as it is, in a float type.
fn exported(dir: &Path, name: &str, recipe: &str) -> Files {
    let out = dir.join(format!("{name}-{recipe}"));
    let (model, target) = (text(&fixture(name)), text(&out));
    mquant(&[&model, "--format", "gguf", "--recipe", recipe, "-o", &target]);
    Files::of(&out)
}

/// Bounds when the executor computes what llama.cpp defines, on F32 files. Features: its convolutions round patches to f16, and its GELUs look up
/// a table of f16 values (measured at most 7.0e-4). Logits: two f32 implementations that sum in another order (measured at most 1.9e-6).
const SAME: Gap = Gap { features: 1e-3, logits: 1e-5 };

/// What llama.cpp warns of with any file of these kinds: advice on the size of images for Qwen-VL, names that all files of MiniCPM-V have exchanged, the end
/// of a turn that its converter gives GLM-4V too, and the judge's context, which is larger than what some fixture was made for.
const EXPECTED: [&str; 4] = [
    "load_hparams: ",
    "load_tensors: ffn up/down are swapped",
    "load: special_eot_id is not in special_eog_ids",
    "llama_context: n_ctx_seq (4096) > n_ctx_train",
];

#[test]
fn float_files_give_the_golden_tokens() {
    let dir = tempfile::tempdir().unwrap();
    for (name, chosen) in NATIVE {
        for recipe in ["f16", "f32"] {
            let run = gives_golden_tokens(name, &exported(dir.path(), name, recipe), chosen);
            let said: Vec<&str> =
                run.warnings().into_iter().filter(|w| !EXPECTED.iter().any(|e| w.starts_with(e))).collect();
            assert_eq!(said, Vec::<&str>::new(), "{name}, {recipe}");
        }
    }
}

#[test]
fn the_executor_with_its_arithmetic_gives_its_numbers() {
    let dir = tempfile::tempdir().unwrap();
    for (name, chosen) in NATIVE {
        let files = exported(dir.path(), name, "f32");
        let (as_is, same) = (gap(name, &files, chosen, |s| s), gap(name, &files, chosen, as_llama_cpp));
        println!("{name}: {as_is:?}, with its arithmetic {same:?}");
        assert!(same.features <= SAME.features && same.logits <= SAME.logits, "{name}: {same:?}");
        // The epsilon that is not read shows, so the comparison would tell if it were read one day.
        assert!(name != &"qwen2_vl" || as_is.logits > 10.0 * SAME.logits, "{as_is:?}");
    }
}

/// The trained fixture's answers and how far llama.cpp is from the executor, as its programs compute by default.
fn trained_answers(files: &Files, count: usize) {
    let case = Case::open(&fixture(TINY));
    let samples = &samples("evaluation.tsv")[..count];
    let (token, stop) =
        (case.resolved.model.spec.image_token_id, &case.resolved.description.prompt.eos_token_ids);
    let theirs = said(files, Arithmetic::Default, (&case.preparer, token), stop, samples);
    let ours = case.float(samples);
    let (agreement, all) = (theirs.against(&ours), theirs.samples_against(&ours));
    let exact = interval(&all, |s| s.iter().filter(|s| s.exact).count() as f64 / s.len() as f64);
    println!("{agreement}, exact {exact:?}");
    assert!(exact.value >= 0.99, "{exact:?}");
    // Answers are decided by wide margins: f16 weights and cache move no best token (measured 4.8e-11 nats).
    assert!(agreement.top1 >= 0.99 && agreement.kld < 1e-4, "{agreement}");
}

#[test]
fn the_trained_model_answers_as_the_executor() {
    let dir = tempfile::tempdir().unwrap();
    trained_answers(&exported(dir.path(), TINY, "f16"), 128);
}

/// The judge itself, on files that are not ours: runs where a source tree of llama.cpp is given (`tests/judges/reference_gguf.py`).
#[test]
fn the_converters_own_files_answer_as_the_executor() {
    let variable = |name| std::env::var_os(name);
    let (Some(_), Some(python)) = (variable("MQUANT_LLAMA_CPP"), variable("MQUANT_TORCH_PYTHON")) else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/judges/reference_gguf.py");
    let mut command = Command::new(python);
    command.arg(script).arg(dir.path()).arg("--keep").arg(dir.path()).arg(TINY);
    let out = command.args(NATIVE_CONVERTED.iter().map(|c| c.0)).output().unwrap();
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let files = |name: &str, kind: &str| Files {
        text: dir.path().join(format!("{name}-{kind}.gguf")),
        mmproj: Some(dir.path().join(format!("mmproj-{name}-{kind}.gguf"))),
    };
    for (name, chosen) in NATIVE_CONVERTED {
        gives_golden_tokens(name, &files(name, "f16"), chosen);
        let files = files(name, "f32");
        gives_golden_tokens(name, &files, chosen);
        let (as_is, same) = (gap(name, &files, chosen, |s| s), gap(name, &files, chosen, as_llama_cpp));
        println!("{name}: {as_is:?}, with its arithmetic {same:?}");
        assert!(same.features <= SAME.features && same.logits <= SAME.logits, "{name}: {same:?}");
    }
    trained_answers(&files(TINY, "f16"), 128);
}
