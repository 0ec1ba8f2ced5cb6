//! One small graph with its weights, inputs and wanted outputs.

use std::collections::BTreeMap;

use mquant_export::exec::{Inputs, Value};
use mquant_export::graph::ops::{Op, OpError};
use mquant_export::graph::{
    Component, DType, Dim, GraphBuilder, Model, Part, Sym, ValueId, WeightData, WeightError, WeightId,
    WeightSource, validate,
};
use mquant_export::numeric::Tensor;

use crate::common::open;

/// Weights by name.
#[derive(Default)]
pub struct Weights(BTreeMap<String, Tensor<f32>>);

impl WeightSource for Weights {
    fn role(&self, role: &str) -> Result<WeightData, WeightError> {
        Ok(WeightData::Float(self.0[role].clone()))
    }
}

/// What output `y{i}` must be, with its shape.
pub enum Want {
    Floats(Vec<usize>, Vec<f64>),
    Ints(Vec<usize>, Vec<i64>),
}

pub struct Case {
    pub name: String,
    pub model: Model,
    pub weights: Weights,
    pub inputs: Inputs<f32>,
    pub want: Vec<Want>,
    /// How far the executor in f64 may be from `want`, relative to its largest value, where the op rounds to f32 by definition.
    pub tolerance: f64,
}

/// A graph of the nodes that `build` adds to inputs `x{i}` and weights `w{i}`; its results become outputs `y{i}`. An axis of an input
/// is a symbol where one is named, else as long as it is.
pub fn graph(
    name: &str,
    inputs: Vec<(Value<f32>, Vec<Option<Sym>>)>,
    weights: Vec<Tensor<f32>>,
    build: impl FnOnce(&mut GraphBuilder<'_>, &[ValueId], &[WeightId]) -> Result<Vec<ValueId>, OpError>,
    want: Vec<Want>,
) -> Case {
    let mut declared = vec![];
    let mut g = GraphBuilder::new(Part::Vision, &mut declared, Component::Vision);
    let mut given = Inputs::new();
    let mut ids = vec![];
    for (i, (value, symbols)) in inputs.into_iter().enumerate() {
        let dim = |(&n, s): (&usize, &Option<Sym>)| s.map_or(Dim::Fixed(n), Dim::Sym);
        let shape = value.shape().iter().zip(&symbols).map(dim).collect();
        let dtype = if value.as_float().is_some() { DType::Float } else { DType::Int };
        ids.push(g.input(&format!("x{i}"), dtype, shape));
        given.insert(format!("x{i}"), value);
    }
    let mut source = Weights::default();
    let mut weight_ids = vec![];
    for (i, w) in weights.into_iter().enumerate() {
        weight_ids.push(g.weight(&format!("w{i}"), w.shape().to_vec()));
        source.0.insert(format!("w{i}"), w);
    }
    let results = build(&mut g, &ids, &weight_ids).unwrap();
    for (i, &id) in results.iter().enumerate() {
        g.rename(id, &format!("y{i}"));
        g.output(id);
    }
    // What a model is besides its graphs does not matter here.
    let spec = open("qwen2_vl").1.model.spec;
    let model = Model { spec, graphs: vec![g.finish()], weights: declared };
    validate(&model).unwrap();
    Case { name: name.into(), model, weights: source, inputs: given, want, tolerance: 0.0 }
}

/// A graph of one op.
pub fn single(
    name: &str,
    inputs: Vec<(Value<f32>, Vec<Option<Sym>>)>,
    weights: Vec<Tensor<f32>>,
    op: impl FnOnce(&[WeightId]) -> Op,
    want: Vec<Want>,
) -> Case {
    let names: Vec<String> = (0..want.len()).map(|i| format!("result{i}")).collect();
    let build = |g: &mut GraphBuilder<'_>, x: &[ValueId], w: &[WeightId]| {
        g.add_multi("node", op(w), x, &names.iter().map(String::as_str).collect::<Vec<_>>())
    };
    graph(name, inputs, weights, build, want)
}

/// Numbers between -2 and 2 (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, n: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 11) as usize % n
    }

    pub fn tensor(&mut self, shape: &[usize]) -> Tensor<f32> {
        let n = shape.iter().product();
        let data = (0..n).map(|_| self.below(1 << 22) as f32 / (1 << 20) as f32 - 2.0).collect();
        Tensor::new(shape.to_vec(), data).unwrap()
    }

    /// Segments of one to `longest` rows.
    pub fn segments(&mut self, count: usize, longest: usize) -> Vec<i64> {
        (0..count).flat_map(|s| vec![s as i64; 1 + self.below(longest)]).collect()
    }
}

pub fn float(t: &Tensor<f32>, symbols: &[Option<Sym>]) -> (Value<f32>, Vec<Option<Sym>>) {
    (Value::Float(t.clone()), symbols.to_vec())
}

pub fn int(shape: &[usize], data: &[i64], symbols: &[Option<Sym>]) -> (Value<f32>, Vec<Option<Sym>>) {
    (Value::Int(Tensor::new(shape.to_vec(), data.to_vec()).unwrap()), symbols.to_vec())
}

/// Rows `[1, rows, channels]` whose number is a symbol.
pub fn rows(t: &Tensor<f32>, symbol: Sym) -> (Value<f32>, Vec<Option<Sym>>) {
    float(t, &[None, Some(symbol), None])
}

/// Segment numbers of as many rows as a symbol says.
pub fn numbers(segments: &[i64], symbol: Sym) -> (Value<f32>, Vec<Option<Sym>>) {
    int(&[segments.len()], segments, &[Some(symbol)])
}

pub fn doubles(t: &Tensor<f32>) -> Vec<f64> {
    t.data().iter().map(|&x| f64::from(x)).collect()
}
