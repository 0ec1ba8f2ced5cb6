//! The interpreter of ONNX files against unmodified ONNX Runtime: every value of every exported graph computed from the runtime's own operands, whole prompts,
//! generation, and files that are damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use mquant_export::calibrate::{Preparer, Sample};
use mquant_export::numeric::Tensor;
use mquant_export::pipeline::{Manifest, preparer};
use mquant_export::verify::onnx::{EmbeddedOnnx, PrefillOptions, Rounding, Value, Weights};
use mquant_export::verify::runner::Question;

use crate::common::eval::{TINY, bundle, load_samples};
use crate::common::golden::for_each_fixture;
use crate::common::judge::{export_fixture, judge, text};
use crate::common::{Goldens, distance, fixture, open, relative_error};

fn data_file(name: &str) -> PathBuf {
    fixture(name).join(if name == TINY { "calibration.tsv" } else { "samples.jsonl" })
}

fn embedded(artifact: &Path, weights: Weights) -> EmbeddedOnnx {
    EmbeddedOnnx::open(artifact, &Manifest::read(artifact).unwrap().graphs, weights).unwrap()
}

fn questions(preparer: &Preparer, samples: &[Sample]) -> Vec<Question> {
    let one = |sample: &Sample| Question {
        sample: sample.clone(),
        prompt: preparer.prepare_sample(sample).unwrap(),
        fed: vec![],
    };
    samples.iter().map(one).collect()
}

/// An artifact of a fixture, opened.
struct Exported {
    flags: Vec<String>,
    artifact: PathBuf,
    runner: EmbeddedOnnx,
    out: PathBuf,
}

impl Exported {
    fn new(dir: &Path, name: &str, number: usize, flags: &[&str]) -> Self {
        let place = dir.join(number.to_string());
        std::fs::create_dir(&place).unwrap();
        let data = text(&data_file(name));
        let calibrated = !flags.contains(&"float");
        let given = if calibrated { vec!["--calibration", data.as_str()] } else { vec![] };
        let artifact = export_fixture(&place, name, &[&given, flags].concat());
        let runner = embedded(&artifact, Weights::Keep);
        let flags = flags.iter().map(ToString::to_string).collect();
        Self { flags, artifact, runner, out: place.join("out.safetensors") }
    }

    fn what(&self) -> String {
        self.flags.join(" ")
    }

    /// Names of float values that a prompt makes; those that a lowering added have a slash.
    fn values(&self, question: &Question) -> BTreeSet<String> {
        let mut names = BTreeSet::new();
        let mut tap = |name: &str, value: &Value| {
            if matches!(value, Value::F32(_)) && !name.contains('/') {
                names.insert(name.to_string());
            }
            None
        };
        self.runner.prefill(question, PrefillOptions::default(), &mut tap).unwrap();
        names
    }

    fn logits(&self, question: &Question, rounding: Rounding) -> Tensor<f32> {
        // Every row, as the runtime hands them out.
        let mut all = None;
        let mut tap = |name: &str, value: &Value| {
            if name == "logits" {
                all = value.floats().cloned();
            }
            None
        };
        self.runner.prefill(question, PrefillOptions { rounding, features: None }, &mut tap).unwrap();
        all.unwrap().into_tensor().unwrap()
    }
}

/// Largest difference of a value from the runtime's, of its largest element, when its operands are the runtime's. Sums have another order.
const EXACT: f32 = 2e-5;

/// Computes every value from the runtime's operands; the largest error and its value.
fn node_by_node(exported: &Exported, question: &Question, found: &Goldens, sample: usize) -> (f32, String) {
    let mut worst = (0.0, String::new());
    let mut tap = |name: &str, value: &Value| {
        let key = format!("s{sample}.{name}");
        let (Value::F32(own), true) = (value, found.has(&key)) else { return None };
        let runtime = found.floats(&key);
        assert_eq!(runtime.shape(), own.shape(), "{name}");
        let error = relative_error(own.data(), runtime.data());
        if error > worst.0 {
            worst = (error, name.to_string());
        }
        Some(Value::F32(runtime.into()))
    };
    exported.runner.prefill(question, PrefillOptions::default(), &mut tap).unwrap();
    worst
}

/// Exports a fixture with each list of flags and compares all of them with the runtime.
fn agrees(name: &str, all: &[&[&str]]) {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, resolved) = open(name);
    let preparer = preparer(checkpoint.files(), &resolved.description).unwrap();
    let samples = load_samples(&data_file(name));
    let samples = &samples[..samples.len().min(3)];
    let questions = questions(&preparer, samples);
    let prompts = dir.path().join("prompts.safetensors");
    bundle(&preparer, samples).write(&prompts);
    let exported: Vec<Exported> =
        all.iter().enumerate().map(|(i, flags)| Exported::new(dir.path(), name, i, flags)).collect();
    let names: BTreeSet<String> =
        exported.iter().flat_map(|e| questions.iter().flat_map(|q| e.values(q))).collect();
    let jobs = exported.iter().flat_map(|e| [text(&e.artifact), text(&prompts), text(&e.out)]);
    let values = names.into_iter().collect::<Vec<_>>().join(",");
    let args: Vec<String> = jobs.chain(["--values".to_string(), values]).collect();
    judge("onnx_taps.py", &args.iter().map(String::as_str).collect::<Vec<_>>());
    let float = Goldens::read(&exported[0].out);
    for e in &exported {
        let found = Goldens::read(&e.out);
        for (s, question) in questions.iter().enumerate() {
            let (error, value) = node_by_node(e, question, &found, s);
            println!("{name} {}, sample {s}: at most {error:.1e} of a value, {value}", e.what());
            let runtime = found.floats(&format!("s{s}.logits"));
            let own = e.logits(question, Rounding::Declared);
            let whole = relative_error(own.data(), runtime.data());
            let gap = distance(runtime.data(), float.floats(&format!("s{s}.logits")).data());
            let share = distance(runtime.data(), own.data()) / gap;
            println!("{name} {}, sample {s}: logits {whole:.1e}, {share:.2e} of the gap", e.what());
        }
    }
}

const RECIPES: &[&[&str]] = &[
    &["--recipe", "float"],
    &["--recipe", "float", "--ops", "standard"],
    &["--recipe", "w8a8"],
    &["--recipe", "w8a8", "--ops", "standard"],
    &["--recipe", "w4a8"],
    &["--recipe", "w4a8", "--ops", "standard"],
];

macro_rules! fixtures {
    ($($name:ident,)*) => {
        $(mod $name {
            #[test]
            fn every_value_is_the_runtimes() {
                super::agrees(stringify!($name), super::RECIPES);
            }
        })*
    };
}
for_each_fixture!(fixtures);
