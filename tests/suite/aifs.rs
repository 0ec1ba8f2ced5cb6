//! Rows in the order by modality (AIFS) change nothing: the executor's logits and caches bit by bit, and the logits and tokens of exported files
//! against those of the row-scale form.

use std::collections::BTreeMap;

use mquant_export::calibrate::Sample;
use mquant_export::exec::{Executor, Outputs, Value, empty_cache, feature_width, vision_inputs};
use mquant_export::family::CheckpointWeights;
use mquant_export::graph::{Model, Part, dump};
use mquant_export::numeric::Tensor;
use mquant_export::passes::order_by_modality;
use mquant_export::passes::rewrite::RewrittenWeights;
use mquant_export::pipeline::{Manifest, preparer};
use mquant_export::quantize::QuantizedWeights;
use mquant_export::quantize::recipe::{Activations, Override, Recipe, Weights};
use serde_json::Value as Json;

use crate::common::eval::{Made, TINY, bundle, load_samples, quantize, samples};
use crate::common::golden::for_each_fixture;
use crate::common::judge::{export_fixture, judge, text};
use crate::common::{Goldens, fixture, open, relative_error};

/// The rows of one prompt as the decoder takes them.
#[derive(Clone)]
struct Rows {
    embeds: Tensor<f32>,
    /// One list per position axis.
    positions: Vec<Vec<i64>>,
}

impl Rows {
    fn len(&self) -> usize {
        self.embeds.rows()
    }

    fn part(&self, from: usize, to: usize) -> Self {
        let width = self.embeds.cols();
        let data = self.embeds.data()[from * width..to * width].to_vec();
        Self {
            embeds: Tensor::new(vec![1, to - from, width], data).unwrap(),
            positions: self.positions.iter().map(|p| p[from..to].to_vec()).collect(),
        }
    }

    /// Another turn behind this one.
    fn then(&self, next: &Self) -> Self {
        let width = self.embeds.cols();
        let offset = 1 + self.positions.iter().flatten().max().unwrap();
        let data = [self.embeds.data(), next.embeds.data()].concat();
        let moved = next.positions.iter().map(|p| p.iter().map(|x| x + offset).collect::<Vec<_>>());
        Self {
            embeds: Tensor::new(vec![1, self.len() + next.len(), width], data).unwrap(),
            positions: self.positions.iter().zip(moved).map(|(a, b)| [a.clone(), b].concat()).collect(),
        }
    }

    /// For each row whether it is visual.
    fn visual(&self) -> Vec<bool> {
        (0..self.len()).map(|r| self.embeds.row(r).last() == Some(&1.0)).collect()
    }
}

/// A batch of prompts going through one decoder, padded on the left.
struct Run<'a> {
    exec: &'a Executor<'a, f32>,
    cache: Outputs<f32>,
    /// For each prompt what its tokens so far are: 0 for padding.
    masks: Vec<Vec<i64>>,
}

impl<'a> Run<'a> {
    fn new(exec: &'a Executor<'a, f32>, prompts: usize) -> Self {
        let mut cache = empty_cache(exec.model());
        for value in cache.values_mut() {
            let shape = [&[prompts], &value.shape()[1..]].concat();
            *value = Value::Float(Tensor::full(shape, 0.0));
        }
        Self { exec, cache, masks: vec![vec![]; prompts] }
    }

    /// Feeds new rows of every prompt; returns the logits, and keeps the caches.
    fn feed(&mut self, rows: &[Rows]) -> Tensor<f32> {
        let spec = &self.exec.model().spec.decoder;
        let (length, width) = (rows.iter().map(Rows::len).max().unwrap(), rows[0].embeds.cols());
        let mut embeds = vec![];
        let mut positions = vec![vec![]; spec.position_axes()];
        for (r, mask) in rows.iter().zip(&mut self.masks) {
            let padding = length - r.len();
            embeds.extend(vec![0.0; padding * width]);
            embeds.extend_from_slice(r.embeds.data());
            mask.extend((0..length).map(|i| i64::from(i >= padding)));
            for (all, own) in positions.iter_mut().zip(&r.positions) {
                all.extend(vec![0; padding]);
                all.extend_from_slice(own);
            }
        }
        let batch = rows.len();
        let shape = if spec.rope_sections.is_empty() {
            vec![batch, length]
        } else {
            vec![positions.len(), batch, length]
        };
        let ints = |shape, data| Value::Int(Tensor::new(shape, data).unwrap());
        let mut inputs = BTreeMap::from([
            ("inputs_embeds".into(), Value::Float(Tensor::new(vec![batch, length, width], embeds).unwrap())),
            ("attention_mask".into(), ints(vec![batch, self.masks[0].len()], self.masks.concat())),
            ("position_ids".into(), ints(shape, positions.concat())),
        ]);
        if self.exec.model().graph(Part::Decoder).unwrap().find("prompt_length").is_some() {
            inputs.insert("prompt_length".into(), ints(vec![1], vec![length as i64]));
        }
        for (name, value) in std::mem::take(&mut self.cache) {
            inputs.insert(name.replacen("present.", "past_key_values.", 1), value);
        }
        self.cache = self.exec.run(Part::Decoder, inputs, &mut ()).unwrap();
        match self.cache.remove("logits") {
            Some(Value::Float(t)) => t,
            other => panic!("{other:?}"),
        }
    }
}

fn bits(t: &Tensor<f32>) -> Vec<u32> {
    t.data().iter().map(|x| x.to_bits()).collect()
}

fn cache_bits(cache: &Outputs<f32>) -> Vec<(&String, Vec<u32>)> {
    cache.iter().map(|(name, value)| (name, bits(value.as_float().unwrap()))).collect()
}

/// The pieces of one batch fed one after another to both decoders: logits and caches have the same bits after each.
fn same(what: &str, [before, after]: [&Executor<'_, f32>; 2], pieces: &[Vec<Rows>]) {
    let mut runs = [before, after].map(|exec| Run::new(exec, pieces[0].len()));
    for (i, piece) in pieces.iter().enumerate() {
        let [want, found] = runs.each_mut().map(|run| run.feed(piece));
        assert_eq!(found.shape(), want.shape(), "{what}, piece {i}");
        assert!(bits(&found) == bits(&want), "{what}, piece {i}: logits");
        assert!(cache_bits(&runs[1].cache) == cache_bits(&runs[0].cache), "{what}, piece {i}: caches");
    }
}

/// The built-in recipe with every pair of scales kept apart, so that as many linears as possible have two.
fn two_scales() -> Recipe {
    Recipe { msq_merge_ratio: 1.0, ..Recipe::load("w8a8").unwrap() }
}

fn prompts(name: &str, exec: &Executor<'_, f32>) -> Vec<Rows> {
    let (checkpoint, resolved) = open(name);
    let preparer = preparer(checkpoint.files(), &resolved.description).unwrap();
    let float = |out: Option<Value<f32>>| match out {
        Some(Value::Float(t)) => t,
        other => panic!("{other:?}"),
    };
    let rows = |sample| {
        let p = preparer.prepare_sample(sample).unwrap();
        let features = if p.grids.is_empty() {
            Tensor::full(vec![0, feature_width(exec.model())], 0.0)
        } else {
            let inputs = vision_inputs(&p.pixel_values, &p.grids).unwrap();
            float(exec.run(Part::Vision, inputs, &mut ()).unwrap().remove("image_features"))
        };
        let ids = Tensor::new(vec![1, p.input_ids.len()], p.input_ids.clone()).unwrap();
        let inputs = BTreeMap::from([
            ("input_ids".into(), Value::Int(ids)),
            ("image_features".into(), Value::Float(features)),
        ]);
        let embeds = float(exec.run(Part::Embedding, inputs, &mut ()).unwrap().remove("inputs_embeds"));
        Rows { embeds, positions: p.position_ids }
    };
    load_samples(&fixture(name).join("samples.jsonl")).iter().map(rows).collect()
}

fn ordering_changes_no_bit(name: &str, recipe: &Recipe) {
    let (checkpoint, resolved) = open(name);
    let stored = CheckpointWeights::new(&checkpoint, &resolved.bindings);
    let data = fixture(name).join("samples.jsonl");
    let Made { decided, quantized } = quantize(&checkpoint, &resolved, &data, &stored, recipe);
    let rewritten = RewrittenWeights::new(&stored, &decided.rewrites);
    let model = quantized.model;
    let ordered = order_by_modality(model.clone()).unwrap();
    if recipe.overrides.is_empty() {
        is_ordered(&ordered);
    }
    let source = QuantizedWeights::new(&quantized.codes, &rewritten);
    let (before, after) = (Executor::keeping(&model, &source), Executor::keeping(&ordered, &source));
    let both = [&before, &after];

    let prompts = prompts(name, &before);
    let step = |p: &Rows| p.part(0, 1);
    // Text alone, one image, several, two turns; each with two steps of decoding behind it.
    for (i, p) in prompts.iter().enumerate() {
        same(&format!("{name}, sample {i}"), both, &[vec![p.clone()], vec![step(p)], vec![step(p)]]);
    }
    let visual = prompts.iter().position(|p| p.visual().contains(&true)).unwrap();
    let text = prompts.iter().position(|p| !p.visual().contains(&true)).unwrap();
    // A turn with images behind one with images: the cache holds both kinds of rows.
    let (first, second) = (&prompts[visual], prompts.last().unwrap());
    let whole = first.then(second);
    let turns = [whole.part(0, first.len()), whole.part(first.len(), whole.len())];
    same(&format!("{name}, two turns"), both, &turns.map(|t| vec![t]));
    // Pieces of text alone, of image rows alone, and of both.
    let kinds = first.visual();
    let start = kinds.iter().position(|v| *v).unwrap();
    let end = start + kinds[start..].iter().take_while(|v| **v).count();
    assert!(start > 0 && end - start > 2, "{name}: no piece of one modality");
    let cuts = [0, start, end - 1, first.len()];
    let pieces: Vec<_> = cuts.windows(2).map(|c| vec![first.part(c[0], c[1])]).collect();
    same(&format!("{name}, in pieces"), both, &pieces);
    // Prompts with different numbers of visual rows, padded on the left; then a turn and a step for all of them.
    let batch = vec![first.clone(), prompts[text].clone(), second.clone()];
    let turn = vec![second.clone(), first.clone(), prompts[text].clone()];
    same(&format!("{name}, batch"), both, &[batch.clone(), turn, batch.iter().map(step).collect()]);
}

/// The residual stream goes through every layer in the new order, and two gathers per layer are all that is moved.
fn is_ordered(model: &Model) {
    let decoder = model.graph(Part::Decoder).unwrap();
    let count = |op: &str| decoder.nodes.iter().filter(|n| n.op.name() == op).count();
    let sums = decoder.nodes.iter().filter(|n| n.name.ends_with(".sum"));
    for sum in sums {
        assert_eq!(decoder.value(sum.outputs[0]).shape[1].to_string(), "num_rows_by_modality");
    }
    let layers = model.spec.decoder.layers;
    // The embeddings and the modality there, q, k, v back and their mixture there in each layer, the hidden rows back for the head.
    assert_eq!((count("OrderByModality"), count("TakeRows")), (1, 2 + 2 * layers + 1), "{}", dump(model));
}

macro_rules! fixtures {
    ($($name:ident,)*) => {
        $(#[test]
        fn $name() {
            ordering_changes_no_bit(stringify!($name), &two_scales());
        })*
    };
}

mod the_order_by_modality_changes_no_bit_of {
    use super::*;

    for_each_fixture!(fixtures);
}

/// Linears that are float, have one scale, or are not merged with their neighbours stand between those that have two.
#[test]
fn the_order_by_modality_changes_no_bit_of_a_model_of_several_precisions() {
    let of = |pattern: &str, weights, activations| Override { pattern: pattern.into(), weights, activations };
    let overrides = vec![
        of("decoder.layers.0.mlp.*", Weights::Float, Activations::Float),
        of("decoder.layers.1.attn.k", Weights::INT8, Activations::Static),
        of("decoder.layers.1.mlp.down", Weights::INT8, Activations::Float),
        of("decoder.head", Weights::Float, Activations::Float),
    ];
    ordering_changes_no_bit("qwen2_vl", &Recipe { overrides, ..two_scales() });
}

#[test]
fn without_a_modality_channel_there_is_no_order() {
    let model = open("qwen2_vl").1.model;
    let e = order_by_modality(model.clone()).unwrap_err().to_string();
    assert!(e.contains("order_by_modality") && e.contains("no modality channel"), "{e}");
    let mut parts = model;
    parts.graphs.retain(|g| g.part != Part::Decoder);
    let e = order_by_modality(parts).unwrap_err().to_string();
    assert!(e.contains("no decoder"), "{e}");
}

/// Whether gate and up are more than four times as wide together as what they read, so that they stay two products.
fn gate_and_up_are_apart(model: &Model) -> bool {
    let d = &model.spec.decoder;
    2 * d.mlp_width > 4 * d.width
}

/// What one form of a fixture does in ONNX Runtime.
struct Ran {
    found: Goldens,
    /// Integer products in the decoder as ONNX Runtime optimised it, and Q/DQ nodes left over.
    kernels: [u64; 2],
    /// Merged linears of the layers that have two scales.
    two_scales: u64,
}

/// Exports a fixture by the form `form` and runs it on prompts: whole and in pieces, greedy, as a batch padded on the left.
fn run_form(name: &str, ops: &str, form: &str, (recipe, data): (&Recipe, &str), prompts: &[Sample]) -> Ran {
    let dir = tempfile::tempdir().unwrap();
    let (checkpoint, resolved) = open(name);
    let preparer = preparer(checkpoint.files(), &resolved.description).unwrap();
    let [file, recipe_file, out] =
        ["prompts.safetensors", "recipe.yaml", "out.safetensors"].map(|f| dir.path().join(f));
    bundle(&preparer, prompts).write(&file);
    std::fs::write(&recipe_file, serde_json::to_string(recipe).unwrap()).unwrap();
    let data = text(&fixture(name).join(data));
    let flags = ["--recipe", &text(&recipe_file), "--calibration", &data, "--ops", ops, "--msq-form", form]
        .map(String::from);
    let artifact = export_fixture(dir.path(), name, &flags.each_ref().map(String::as_str));
    let manifest = Manifest::read(&artifact).unwrap();
    assert_eq!(manifest.onnx.unwrap().msq_form.as_deref(), Some(form));
    // q, k and v share their scales, and so do gate and up, which are one product where they are not too wide.
    let mut of_products = vec!["attn.q", "attn.o", "mlp.gate", "mlp.down"];
    if gate_and_up_are_apart(&resolved.model) {
        of_products.push("mlp.up");
    }
    let products = manifest.linears.iter().filter(|l| of_products.iter().any(|p| l.role.ends_with(p)));
    let decoder = products.filter(|l| l.role.starts_with("decoder."));
    let two_scales = decoder.filter(|l| l.visual_scale != l.text_scale).count() as u64;

    let artifact = text(&artifact);
    let checked: &[&str] = if ops == "ort" { &[&artifact, "--no-checker"] } else { &[&artifact] };
    let report: Json = serde_json::from_str(&judge("onnx_check.py", checked)).unwrap();
    let count = |op: &str| report["model"]["operators"][op].as_u64().unwrap_or(0);
    let kernels = [count("MatMulIntegerToFloat"), count("DequantizeLinear")];
    let more = ["--max-new", "12", "--logits", "--batch-law", "--pieces"];
    judge(
        "onnx_generate.py",
        &[&[&artifact, &text(&file), &text(&out)].map(String::as_str)[..], &more].concat(),
    );
    Ran { found: Goldens::read(&out), kernels, two_scales }
}

/// Largest difference of f32 logits of two forms whose codes are equal, relative to the largest: scales are multiplied in another order,
/// which rounds the result of each product otherwise. Measured 2.1e-7 with a float head, and 0 with a quantized one, whose codes hide
/// differences that small. A float on a tie may fall to the other side; one such code gives 1.7e-2 (one prompt of the random fixture).
const ROUNDING: f32 = 1e-5;

fn split_answers_as_row_scale(name: &str, ops: &str, made_by: (&Recipe, &str), prompts: &[Sample]) {
    let split = run_form(name, ops, "split", made_by, prompts);
    let row_scale = run_form(name, ops, "row-scale", made_by, prompts);
    // Four or five linears in each layer, and the head, which keeps one product if it is quantized.
    let head = u64::from(made_by.0.overrides.is_empty());
    let model = open(name).1.model;
    let in_layer = 4 + u64::from(gate_and_up_are_apart(&model));
    let linears = in_layer * model.spec.decoder.layers as u64 + head;
    assert_eq!((row_scale.kernels, row_scale.two_scales), ([linears, 0], split.two_scales));
    assert_eq!(split.kernels, [linears + split.two_scales, 0], "{name} --ops {ops}");
    assert!(2 * split.two_scales > linears, "{name}: {} linears have two scales", split.two_scales);

    let difference =
        |key: &str| relative_error(split.found.floats(key).data(), row_scale.found.floats(key).data());
    let (mut equal, mut worst) = (0, 0.0f32);
    for s in 0..prompts.len() {
        let e = difference(&format!("s{s}.logits"));
        if e <= ROUNDING {
            (equal, worst) = (equal + 1, worst.max(e));
        } else {
            println!("{name} --ops {ops}, sample {s}: logits differ by {e:.1e} of the largest");
        }
        let tokens = |r: &Ran| r.found.ints(&format!("s{s}.generated")).into_data();
        assert_eq!(tokens(&split), tokens(&row_scale), "{name} --ops {ops}, sample {s}");
    }
    println!("{name} --ops {ops}: the same codes for {equal} of {} prompts, {worst:.1e}", prompts.len());
    assert!(4 * equal >= 3 * prompts.len(), "{name} --ops {ops}: {equal} of {}", prompts.len());
    // The first prompt has an image: a piece of text, one without text, and text again.
    let lengths = split.found.ints("piece_lengths").into_data();
    assert!(lengths.len() >= 3 && lengths[1] > 1, "{name}: {lengths:?}");
    for key in ["pieces", "batch.0", "batch.1"] {
        let e = difference(key);
        println!("{name} --ops {ops}, {key}: {e:.1e}");
        assert!(e <= ROUNDING, "{name} --ops {ops}, {key}: {e:e}");
    }
}

/// With a head in float, so that logits show every difference of the hidden rows.
fn of_the_fixture(ops: &str) {
    let (pattern, weights, activations) = ("decoder.head".into(), Weights::Float, Activations::Float);
    let recipe = Recipe { overrides: vec![Override { pattern, weights, activations }], ..two_scales() };
    let prompts = load_samples(&fixture("qwen2_vl").join("samples.jsonl"));
    split_answers_as_row_scale("qwen2_vl", ops, (&recipe, "samples.jsonl"), &prompts);
}

fn of_the_trained_fixture(ops: &str) {
    let prompts = &samples("evaluation.tsv")[..32];
    split_answers_as_row_scale(TINY, ops, (&two_scales(), "calibration.tsv"), prompts);
}

#[test]
fn split_ort_answers_as_row_scale() {
    of_the_fixture("ort");
}

#[test]
fn split_standard_answers_as_row_scale() {
    of_the_fixture("standard");
}

#[test]
fn split_ort_of_the_trained_fixture_answers_as_row_scale() {
    of_the_trained_fixture("ort");
}

#[test]
fn split_standard_of_the_trained_fixture_answers_as_row_scale() {
    of_the_trained_fixture("standard");
}
