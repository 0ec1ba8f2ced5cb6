//! Runners of exported files in the real runtimes, against the executor and against judges that call the runtimes by other ways.

use std::path::{Path, PathBuf};

use mquant_export::calibrate::{Prepared, Preparer, Sample};
use mquant_export::exec::{DecoderState, Executor};
use mquant_export::pipeline::Manifest;
use mquant_export::verify::distribution::log_softmax;
use mquant_export::verify::llama_cpp::{LlamaCpp, ServerOptions};
use mquant_export::verify::onnxruntime::{OnnxRuntime, RuntimeOptions};
use mquant_export::verify::runner::{Question, Runner, RunnerKind, Scored, Until};

use crate::common::case::Case;
use crate::common::eval::{TINY, bundle, load_samples, samples};
use crate::common::golden::{GoldenPrompt, for_each_fixture};
use crate::common::judge::{Bundle, export_fixture, judge, mquant, text};
use crate::common::llama::{Arithmetic, Continuation, Files, ask, questions as llama_questions};
use crate::common::runtimes::{
    best, executable, full, gguf, llama_cpp, llama_server, onnxruntime, onnxruntime_library, question,
    questions,
};
use crate::common::{Goldens, fixture, open, relative_error};

/// Samples of the trained fixture.
const SAMPLES: usize = 16;
/// Most tokens of an answer.
const NEW_TOKENS: usize = 12;

/// Largest difference of two rows of logarithms of probabilities, among tokens that either gives at least one in a million: further down, differences of
/// scores are larger and say nothing.
fn gap(a: &[f32], b: &[f32]) -> f32 {
    assert_eq!(a.len(), b.len());
    let likely = a.iter().zip(b).filter(|(a, b)| a.max(**b) > -13.8);
    likely.fold(0.0, |gap, (a, b)| gap.max((a - b).abs()))
}

/// Tokens as a runner generates them, each of which it told when it was known.
fn generated(runner: &mut dyn Runner, question: &Question, stop: &[i64]) -> Vec<i64> {
    let mut told = vec![];
    let tokens = runner.generate(question, Until { max_new: NEW_TOKENS, stop }, &mut |token| {
        told.push(token);
        true
    });
    assert_eq!(tokens.unwrap(), told);
    told
}

/// What our runner says and what the judge in Python says, same library, same questions.
fn onnxruntime_as_the_judge(artifact: &Path, case: &Case, tolerance: f32) -> (Vec<Question>, Vec<Scored>) {
    let samples = &samples("evaluation.tsv")[..SAMPLES];
    let questions = questions(&case.preparer, samples);
    let mut runner = onnxruntime(artifact);
    assert_eq!((runner.about().kind, runner.about().version.as_str()), (RunnerKind::OnnxRuntime, "1.32.0"));
    let mut answered = vec![];
    let scored = runner.score(&questions, &mut |n| answered.push(n)).unwrap();
    assert_eq!(answered, (1..=SAMPLES).collect::<Vec<_>>());

    let mut prompts = bundle(&case.preparer, samples);
    for (i, q) in questions.iter().enumerate() {
        // The judge feeds as many tokens to every prompt; what comes behind ours is not looked at.
        let mut fed = q.fed.clone();
        fed.resize(NEW_TOKENS, 0);
        prompts.ints(format!("s{i}.forced"), vec![fed.len()], &fed);
    }
    let (forced, free) = (ran(artifact, &prompts), bundle(&case.preparer, samples));
    let greedy = ran(artifact, &free);
    let stop = &case.resolved.description.prompt.eos_token_ids;
    let (mut worst, mut features) = (0.0f32, 0.0f32);
    for (i, (q, s)) in questions.iter().zip(&scored).enumerate() {
        let rows = forced.floats(&format!("s{i}.step_logits"));
        assert_eq!(s.rows.len(), q.fed.len() + 1);
        for (r, row) in s.rows.iter().enumerate() {
            worst = worst.max(gap(full(row), &log_softmax(rows.row(r))));
        }
        let theirs = forced.floats(&format!("s{i}.image_features"));
        features = features.max(relative_error(s.features.as_ref().unwrap().data(), theirs.data()));
        let tokens = greedy.ints(&format!("s{i}.generated")).into_data();
        let end = tokens.iter().position(|t| stop.contains(t)).map_or(tokens.len(), |e| e + 1);
        assert_eq!(generated(&mut runner, q, stop), tokens[..end], "sample {i}");
    }
    println!("log-probabilities off by {worst:.1e}, features by {features:.1e}");
    assert!(worst <= tolerance, "{worst}");
    // Same library, same pixels.
    assert!(features < 1e-6, "{features}");
    (questions, scored)
}

/// The judge's tensors.
fn ran(artifact: &Path, prompts: &Bundle) -> Goldens {
    let dir = tempfile::tempdir().unwrap();
    let (file, out) = (dir.path().join("prompts"), dir.path().join("out"));
    prompts.write(&file);
    let max_new = NEW_TOKENS.to_string();
    judge(
        "onnx_generate.py",
        &[&text(artifact), &text(&file), &text(&out), "--max-new", &max_new, "--logits"],
    );
    Goldens::read(&out)
}

#[test]
fn the_float_model_says_in_onnxruntime_what_the_executor_says() {
    let dir = tempfile::tempdir().unwrap();
    let artifact = export_fixture(dir.path(), TINY, &["--recipe", "float", "--quiet"]);
    let case = Case::open(&fixture(TINY));
    // The judge feeds token by token behind a cache, we everything at once: other orders of summing.
    let (questions, scored) = onnxruntime_as_the_judge(&artifact, &case, TOLERANCE);
    let weights = case.weights();
    let exec = Executor::<f32>::keeping(&case.resolved.model, &weights);
    let mut worst = 0.0f32;
    for (q, s) in questions.iter().zip(&scored) {
        let mut state = DecoderState::prefill(&exec, &crate::common::eval::generation(&q.prompt)).unwrap();
        for (i, row) in s.rows.iter().enumerate() {
            let logits = state.logits.row(state.logits.rows() - 1);
            worst = worst.max(gap(full(row), &log_softmax(logits)));
            if let Some(token) = q.fed.get(i) {
                state.step(&exec, *token).unwrap();
            }
        }
    }
    println!("from the executor: {worst:.1e}");
    assert!(worst <= TOLERANCE, "{worst}");
}

/// Of log-probabilities in f32, summed in other orders (measured 4.8e-6 from the judge, 1.9e-5 from the executor).
const TOLERANCE: f32 = 1e-4;

#[test]
fn the_quantized_model_says_in_onnxruntime_what_the_judge_hears() {
    let dir = tempfile::tempdir().unwrap();
    let data = text(&fixture(TINY).join("calibration.tsv"));
    let flags = ["--recipe", "w4a8", "--calibration", &data, "--calibration-samples", "16", "--quiet"];
    let artifact = export_fixture(dir.path(), TINY, &flags);
    onnxruntime_as_the_judge(&artifact, &Case::open(&fixture(TINY)), QUANTIZED_TOLERANCE);
}

/// Of log-probabilities where products are integers, which no order of summing changes (measured 0): what is left are norms and attention.
const QUANTIZED_TOLERANCE: f32 = 1e-3;

/// A golden prompt in the form in which runners take it.
fn golden_question(prompt: &GoldenPrompt, sample: &Sample) -> Option<Question> {
    let prepared = Prepared {
        input_ids: prompt.ids.clone(),
        pixel_values: prompt.pixels.clone()?,
        grids: prompt.grids.clone(),
        tiles: vec![],
        position_ids: prompt
            .positions
            .clone()
            .unwrap_or_else(|| vec![(0..prompt.ids.len() as i64).collect()]),
        answer_ids: None,
    };
    Some(Question { sample: sample.clone(), prompt: prepared, fed: vec![] })
}

/// The tokens of the original code, from its own pixels and ids.
fn gives_golden_tokens(name: &str) {
    let dir = tempfile::tempdir().unwrap();
    let artifact = export_fixture(dir.path(), name, &["--recipe", "float", "--quiet"]);
    let mut runner = onnxruntime(&artifact);
    let ((_, resolved), goldens) = (open(name), Goldens::of(name));
    let mut asked = 0;
    for (s, sample) in load_samples(&fixture(name).join("samples.jsonl")).iter().enumerate() {
        let prompt = GoldenPrompt::read(name, &resolved, &goldens, s);
        let Some(question) = golden_question(&prompt, sample) else { continue };
        let golden = goldens.ints(&format!("s{s}.generated")).into_data();
        let tokens = generated(&mut runner, &question, &[]);
        assert_eq!(tokens, golden[..NEW_TOKENS.min(golden.len())], "{name} sample {s}");
        asked += 1;
    }
    println!("{name}: {asked} prompts");
    assert!(asked >= 2, "{name}");
}

macro_rules! golden_tests {
    ($($name:ident,)*) => {
        $(mod $name {
            #[test]
            fn onnxruntime_gives_the_golden_tokens() {
                super::gives_golden_tokens(stringify!($name));
            }
        })*
    };
}
for_each_fixture!(golden_tests);

#[test]
fn a_generation_ends_when_its_reader_has_enough() {
    let dir = tempfile::tempdir().unwrap();
    let artifact = export_fixture(dir.path(), TINY, &["--recipe", "float", "--quiet"]);
    let case = Case::open(&fixture(TINY));
    let asked = &questions(&case.preparer, &samples("evaluation.tsv")[..1])[0];
    let mut runner = onnxruntime(&artifact);
    let until = Until { max_new: NEW_TOKENS, stop: &[] };
    let whole = runner.generate(asked, until, &mut |_| true).unwrap();
    assert_eq!(whole.len(), NEW_TOKENS);
    let mut left = 2;
    let part = runner.generate(asked, until, &mut |_| {
        left -= 1;
        left > 0
    });
    assert_eq!(part.unwrap(), whole[..2]);
    let none = runner.generate(asked, Until { max_new: 0, stop: &[] }, &mut |_| true);
    assert!(none.unwrap().is_empty());
}

#[test]
fn what_onnxruntime_does_not_load_is_an_error_that_names_it() {
    let dir = tempfile::tempdir().unwrap();
    let artifact = export_fixture(dir.path(), TINY, &["--recipe", "float", "--quiet"]);
    let manifest = Manifest::read(&artifact).unwrap();
    let opened = |options: RuntimeOptions| {
        let found = OnnxRuntime::open(&artifact, &manifest.graphs, &options);
        found.err().unwrap().to_string()
    };
    let with = |provider: &str| RuntimeOptions {
        provider: Some(provider.into()),
        library: Some(onnxruntime_library()),
        threads: None,
    };
    let e = opened(with("cuda"));
    assert!(
        e.contains("\"cuda\", which this library does not have") && e.contains("available here: cpu"),
        "{e}"
    );
    let e = opened(with("abacus"));
    assert!(e.contains("\"abacus\"") && e.contains("available here: cpu"), "{e}");
    let damaged = artifact.join("model.onnx");
    std::fs::write(&damaged, b"not a graph").unwrap();
    let e = opened(with("cpu"));
    assert!(e.starts_with("onnxruntime does not load model.onnx: "), "{e}");
}

/// The trained fixture in GGUF.
fn exported(dir: &Path, recipe: &str) -> PathBuf {
    let out = dir.join(recipe);
    let (model, target) = (text(&fixture(TINY)), text(&out));
    mquant(&[
        &model, "--format", "gguf", "--recipe", recipe, "--method", "nearest", "-o", &target, "--quiet",
    ]);
    out
}

/// Text alone, with an answer in bytes of a character that no token holds whole.
fn text_question(preparer: &Preparer) -> Question {
    let sample = samples("evaluation.tsv").into_iter().next().unwrap();
    let mut sample = Sample { id: "text".into(), ..sample };
    sample.messages[0].content.retain(|c| matches!(c, mquant_export::calibrate::Content::Text(_)));
    question(preparer, &sample, preparer.tokenizer().encode("a\u{e9}b").unwrap())
}

#[test]
fn the_server_says_what_the_library_says() {
    let dir = tempfile::tempdir().unwrap();
    let files = Files::of(&exported(dir.path(), "f16"));
    let case = Case::open(&fixture(TINY));
    let (token, stop) =
        (case.resolved.model.spec.image_token_id, &case.resolved.description.prompt.eos_token_ids);
    let mut asked = questions(&case.preparer, &samples("evaluation.tsv")[..SAMPLES]);
    // The end of an answer cannot be forced; the rest of a prompt without images can be anything.
    asked[1].fed.extend(stop.first());
    asked[2].fed.clear();
    asked.push(text_question(&case.preparer));
    let all: Vec<Sample> = [&asked[..], &asked[..4]].concat().into_iter().map(|q| q.sample).collect();
    let greedy = |_: &Sample| Continuation::Greedy { max_new: NEW_TOKENS, stop: stop.clone() };
    let mut theirs = llama_questions(dir.path(), &case.preparer, token, &all, greedy);
    for (theirs, q) in theirs.iter_mut().zip(&asked) {
        theirs.then = Continuation::Forced(q.fed.clone());
    }
    let theirs = ask(&files, Arithmetic::Default, &[], &theirs);

    let mut runner = llama_cpp(dir.path(), &files);
    let scored = runner.score(&asked, &mut |_| {}).unwrap();
    let mut worst = 0.0f32;
    for (i, ((q, s), reply)) in asked.iter().zip(&scored).zip(&theirs.replies).enumerate() {
        assert_eq!(s.rows.len(), q.fed.len() + 1, "sample {i}");
        for (r, row) in s.rows.iter().enumerate() {
            let logs = log_softmax(reply.logits.row(r));
            assert_eq!(best(full(row)), best(&logs), "sample {i}, row {r}");
            worst = worst.max(gap(full(row), &logs));
        }
    }
    println!("log-probabilities off by {worst:.1e}");
    assert!(worst <= SERVER_TOLERANCE, "{worst}");
    assert!(runner.notes().is_empty(), "{:?}", runner.notes());
    for (q, reply) in asked[..4].iter().zip(&theirs.replies[asked.len()..]) {
        assert_eq!(generated(&mut runner, q, stop), reply.tokens);
    }
    // Its own rows do not depend on what was asked before.
    assert_eq!(runner.score(&asked[..2], &mut |_| {}).unwrap(), scored[..2]);
}

/// Of log-probabilities of the same kernels (measured 7.4e-4): batches of other sizes sum in other orders and round otherwise in the f16 cache.
const SERVER_TOLERANCE: f32 = 5e-3;

#[test]
fn prompts_that_the_server_reads_otherwise_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let files = Files::of(&exported(dir.path(), "f16"));
    let case = Case::open(&fixture(TINY));
    let mut runner = llama_cpp(dir.path(), &files);
    let mut asked = questions(&case.preparer, &samples("evaluation.tsv")[..1]).remove(0);
    *asked.prompt.input_ids.last_mut().unwrap() += 1;
    let e = runner.score(std::slice::from_ref(&asked), &mut |_| {}).unwrap_err().to_string();
    assert!(e.contains("behind the last image has other tokens in llama.cpp"), "{e}");
    let mut asked = text_question(&case.preparer);
    asked.prompt.input_ids[3] += 1;
    let e = runner.score(&[asked], &mut |_| {}).unwrap_err().to_string();
    assert!(e.contains("sample 'text' in llama.cpp: the prompt differs at token 3"), "{e}");
    // Behind images only text can be fed, and a part of a character is none.
    let mut asked = questions(&case.preparer, &samples("evaluation.tsv")[..1]).remove(0);
    asked.fed = case.preparer.tokenizer().encode("\u{e9}").unwrap();
    assert_eq!(asked.fed.len(), 2);
    let e = runner.score(&[asked], &mut |_| {}).unwrap_err().to_string();
    assert!(e.contains("cannot be fed") && e.contains("leave this sample out"), "{e}");
}

#[test]
fn a_server_with_another_model_is_refused_and_one_that_ends_tells_why() {
    let dir = tempfile::tempdir().unwrap();
    let (ours, other) = (Files::of(&exported(dir.path(), "f16")), Files::of(&exported(dir.path(), "q8_0")));
    let runner = llama_cpp(dir.path(), &ours);
    let address = runner.about().detail.clone();
    assert_eq!(address, "llama-server, started for this run");
    let opened = |files: &Files, options: ServerOptions| {
        LlamaCpp::open(&gguf(files), &options).err().unwrap().to_string()
    };
    let program = |path: PathBuf| ServerOptions { program: Some(path), ..ServerOptions::default() };
    let dies = dir.path().join("dies");
    executable(&dies, "#!/bin/sh\necho 'all is well'\necho 'error: no memory' >&2\nexit 3\n");
    let e = opened(&ours, program(dies));
    assert!(e.contains("llama-server ended (exit status: 3)") && e.contains("error: no memory"), "{e}");
    let broken = Files { text: dir.path().join("broken.gguf"), mmproj: None };
    std::fs::write(&broken.text, "GGUF?").unwrap();
    let server = llama_server(dir.path());
    let e = opened(&broken, program(server));
    assert!(e.contains("llama.cpp does not load broken.gguf"), "{e}");
    let address = |address: &str| ServerOptions { address: Some(address.into()), ..ServerOptions::default() };
    let e = opened(&other, address(runner.address()));
    assert!(e.contains("has another model") && e.contains("bytes of tensors"), "{e}");
    let e = opened(&ours, address("http://127.0.0.1:1"));
    assert!(e.contains("llama.cpp is not available") && e.contains("http://127.0.0.1:1/health"), "{e}");
    let e = opened(&ours, address("https://127.0.0.1:1"));
    assert!(e.contains("encrypted connections are not supported"), "{e}");
    assert!(LlamaCpp::open(&gguf(&ours), &address(runner.address())).is_ok());
}
