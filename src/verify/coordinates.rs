//! In which coordinates an artifact has the values of the float model. Fused rotations turn residual streams and values inside attention heads; they come from a seed,
//! so they are made again from the recipe, and what was fused can be undone for a comparison.

use std::collections::{BTreeMap, BTreeSet};

use crate::graph::{Graph, Model, Op, Part, Stream, ValueId};
use crate::numeric::Tensor;
use crate::numeric::rotation::Rotation;
use crate::passes::rewrite::Change;
use crate::passes::{smoothable, smoothable_values};
use crate::quantize::Transformed;

/// What was done to the channels of a value.
#[derive(Clone, Debug, Default)]
struct Turned {
    /// Runs of so many channels lose their mean.
    center: Option<usize>,
    /// Every run of channels as long as its order times this.
    rotation: Option<Rotation>,
}

/// Where a value of the decoder or the vision graph is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// What the decoder is given: embeddings of tokens and rows of images.
    Input,
    /// A sum that carries the residual on: the artifact goes on with the float model's value.
    Sum,
    /// The result of a linear.
    Linear,
    /// The result of a linear whose channels may have been scaled one by one.
    ScaledLinear,
}

/// Name of the decoder's input.
pub const INPUT: &str = "inputs_embeds";

/// The values of one graph that are compared, and how they lie in the artifact.
#[derive(Clone, Debug)]
pub struct Coordinates {
    points: BTreeMap<String, (Kind, Turned)>,
    /// In graph order.
    names: Vec<String>,
    features: Turned,
}

impl Coordinates {
    /// Those of a graph of the float `model`, which `transformed` is what was fused of.
    pub fn of(model: &Model, transformed: &Transformed, part: Part) -> Self {
        let mut found = Self { points: BTreeMap::new(), names: vec![], features: Turned::default() };
        found.features = stream(transformed, Some(Stream::Decoder));
        let Some(graph) = model.graph(part) else { return found };
        if part == Part::Decoder {
            let turned = stream(transformed, Some(Stream::Decoder));
            found.points.insert(INPUT.into(), (Kind::Input, turned));
        }
        let scaled = scaled_linears(model);
        for node in &graph.nodes {
            let [value] = node.outputs.as_slice() else { continue };
            let kind = match &node.op {
                Op::Add(_) => Kind::Sum,
                Op::Linear(_) if scaled.contains(node.name.as_str()) => Kind::ScaledLinear,
                Op::Linear(_) => Kind::Linear,
                _ => continue,
            };
            let turned = match graph.value(*value).basis {
                Some(basis) => stream(transformed, Some(basis.stream)),
                None => rows(transformed, model, graph, *value),
            };
            found.names.push(node.name.clone());
            // Names of values are unique in a graph; some nodes' values have a name of their own.
            found.points.insert(graph.value(*value).name.clone(), (kind, turned));
        }
        found
    }

    /// What is compared under a name.
    pub fn kind(&self, name: &str) -> Option<Kind> {
        self.points.get(name).map(|(kind, _)| *kind)
    }

    /// Names in graph order.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// A value of the float model as the artifact has it.
    pub fn forth(&self, name: &str, value: &Tensor<f32>) -> Tensor<f32> {
        self.points.get(name).map_or_else(|| value.clone(), |(_, turned)| turned.forth(value))
    }

    /// A value of the artifact as the float model has it, but for a mean that was taken out.
    pub fn back(&self, name: &str, value: &Tensor<f32>) -> Tensor<f32> {
        self.points.get(name).map_or_else(|| value.clone(), |(_, turned)| turned.back(value))
    }

    /// Image rows of the float model as the artifact has them.
    pub fn features_forth(&self, rows: &Tensor<f32>) -> Tensor<f32> {
        self.features.forth(rows)
    }

    /// Image rows of the artifact as the float model has them.
    pub fn features_back(&self, rows: &Tensor<f32>) -> Tensor<f32> {
        self.features.back(rows)
    }
}

/// What was done to a stream.
fn stream(transformed: &Transformed, of: Option<Stream>) -> Turned {
    let Some(stream) = of else { return Turned::default() };
    let rotation = transformed.stream_rotation(stream).cloned();
    // Where the mean is baked into the writers, norms do not need it any more.
    let writes_centered = |c: &Change| matches!(c, Change::CenterRows { .. });
    let of_stream =
        |role: &str| role.starts_with(if stream == Stream::Vision { "vision." } else { "decoder." });
    let centered = transformed
        .model
        .weights
        .iter()
        .any(|w| of_stream(&w.name) && transformed.rewrites.of(&w.name).iter().any(writes_centered));
    let center = rotation.as_ref().map(Rotation::order).filter(|_| centered);
    Turned { center, rotation }
}

/// What was done to the rows of a linear's weight, which are the channels of its result.
fn rows(transformed: &Transformed, model: &Model, graph: &Graph, value: ValueId) -> Turned {
    let mut turned = Turned::default();
    let Some((_, node)) = graph.maker(value) else { return turned };
    let Op::Linear(linear) = &node.op else { return turned };
    for change in transformed.rewrites.of(&model.weight(linear.weight).name) {
        if let Change::RotateRows { rotation } = change {
            turned.rotation = transformed.rewrites.rotations.get(*rotation).cloned();
        }
    }
    turned
}

/// Linears whose results may have been smoothed: makers of values, and of one factor of gated products.
fn scaled_linears(model: &Model) -> BTreeSet<String> {
    let pairs = smoothable(model).into_iter().chain(smoothable_values(model));
    let matrix =
        |roles: Vec<String>| roles.into_iter().find_map(|r| r.strip_suffix(".weight").map(String::from));
    pairs.filter_map(|p| matrix(p.up)).collect()
}

impl Turned {
    fn forth(&self, value: &Tensor<f32>) -> Tensor<f32> {
        self.turn(value, |rows| {
            if let Some(width) = self.center.filter(|w| *w > 0) {
                for row in rows.chunks_mut(width) {
                    let mean = row.iter().sum::<f64>() / row.len() as f64;
                    row.iter_mut().for_each(|x| *x -= mean);
                }
            }
            if let Some(rotation) = &self.rotation {
                rotation.right(rows);
            }
        })
    }

    fn back(&self, value: &Tensor<f32>) -> Tensor<f32> {
        self.turn(value, |rows| {
            if let Some(rotation) = &self.rotation {
                rotation.right_transposed(rows);
            }
        })
    }

    fn turn(&self, value: &Tensor<f32>, with: impl FnOnce(&mut [f64])) -> Tensor<f32> {
        let order = self.rotation.as_ref().map_or(1, Rotation::order);
        // A value of another width is not one of these coordinates; it is compared as it is and found to be far away.
        if !value.cols().is_multiple_of(order.max(1)) || (self.rotation.is_none() && self.center.is_none()) {
            return value.clone();
        }
        let mut data: Vec<f64> = value.data().iter().map(|x| f64::from(*x)).collect();
        with(&mut data);
        let mut turned = value.clone();
        for (to, from) in turned.data_mut().iter_mut().zip(data) {
            *to = from as f32;
        }
        turned
    }
}
