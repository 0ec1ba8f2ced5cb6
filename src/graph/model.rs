//! Graphs and models as data, and the builder that adds nodes to a graph with their result types inferred.

use std::collections::{BTreeMap, BTreeSet};

use super::ops::{Op, OpError, OpSpec};
use super::spec::ModelSpec;
use super::types::{DType, Dim, ValueInfo};
use super::weights::{Component, WeightDecl, WeightFormat, WeightId};

/// Index of a value inside its graph.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueId(pub usize);

/// One graph per exported file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Pixels to image rows: vision tower and projector.
    Vision,
    /// Ids and image rows to decoder input.
    Embedding,
    /// Decoder input and cache to logits and cache.
    Decoder,
}

impl Part {
    /// All parts in the order a prompt passes them.
    pub const ALL: [Part; 3] = [Part::Vision, Part::Embedding, Part::Decoder];

    /// Name in dumps.
    pub fn name(self) -> &'static str {
        match self {
            Part::Vision => "vision",
            Part::Embedding => "embedding",
            Part::Decoder => "decoder",
        }
    }
}

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Unique name inside its graph; linears carry the role of their weight without `.weight`.
    pub name: String,
    /// What it computes.
    pub op: Op,
    /// The component it belongs to.
    pub component: Component,
    /// Operands.
    pub inputs: Vec<ValueId>,
    /// Results.
    pub outputs: Vec<ValueId>,
}

/// Nodes in evaluation order over values written once.
#[derive(Clone, Debug, PartialEq)]
pub struct Graph {
    /// Which file this becomes.
    pub part: Part,
    /// All values; [`ValueId`] indexes them.
    pub values: Vec<ValueInfo>,
    /// Operations, each after those it depends on.
    pub nodes: Vec<Node>,
    /// Values given from outside, in signature order.
    pub inputs: Vec<ValueId>,
    /// Values handed out, in signature order.
    pub outputs: Vec<ValueId>,
}

impl Graph {
    /// What is known of a value.
    pub fn value(&self, id: ValueId) -> &ValueInfo {
        &self.values[id.0]
    }

    /// Finds a value by name.
    pub fn find(&self, name: &str) -> Option<ValueId> {
        self.values.iter().position(|v| v.name == name).map(ValueId)
    }

    /// The node that gives a value, with its index; none for inputs of the graph.
    pub fn maker(&self, value: ValueId) -> Option<(usize, &Node)> {
        self.nodes.iter().enumerate().find(|(_, n)| n.outputs.contains(&value))
    }

    /// The nodes that read a value, with their indices, in order. That the graph hands the value out is not counted.
    pub fn readers(&self, value: ValueId) -> impl Iterator<Item = (usize, &Node)> {
        self.nodes.iter().enumerate().filter(move |(_, n)| n.inputs.contains(&value))
    }

    /// Values that depend on no input: the same in every run.
    pub fn constants(&self) -> BTreeSet<ValueId> {
        let mut constants = BTreeSet::new();
        for node in &self.nodes {
            if node.inputs.iter().all(|v| constants.contains(v)) {
                constants.extend(&node.outputs);
            }
        }
        constants
    }

    /// For every value that some node reads, the index of the last such node.
    pub fn last_uses(&self) -> BTreeMap<ValueId, usize> {
        let reads = self.nodes.iter().enumerate().flat_map(|(i, n)| n.inputs.iter().map(move |&v| (v, i)));
        reads.collect()
    }
}

/// A whole model: what it is, its graphs and the weights they name.
#[derive(Clone, Debug, PartialEq)]
pub struct Model {
    /// Sizes and kinds the graphs were built from.
    pub spec: ModelSpec,
    /// Vision, embedding, decoder.
    pub graphs: Vec<Graph>,
    /// Weight declarations; [`WeightId`] indexes them.
    pub weights: Vec<WeightDecl>,
}

impl Model {
    /// The graph of a part, if the model has it.
    pub fn graph(&self, part: Part) -> Option<&Graph> {
        self.graphs.iter().find(|g| g.part == part)
    }

    /// Declaration of a weight.
    pub fn weight(&self, id: WeightId) -> &WeightDecl {
        &self.weights[id.0]
    }

    /// Every linear with its graph, in graph order.
    pub fn linears(&self) -> impl Iterator<Item = (&Graph, &Node, &super::ops::Linear)> {
        self.graphs.iter().flat_map(|g| {
            g.nodes.iter().filter_map(move |n| match &n.op {
                Op::Linear(l) => Some((g, n, l)),
                _ => None,
            })
        })
    }
}

/// Adds nodes to one graph; result types come from the op's own rule, so builders and passes never state a shape twice.
pub struct GraphBuilder<'a> {
    graph: Graph,
    weights: &'a mut Vec<WeightDecl>,
    component: Component,
}

impl<'a> GraphBuilder<'a> {
    /// Starts an empty graph whose weights are declared in `weights`.
    pub fn new(part: Part, weights: &'a mut Vec<WeightDecl>, component: Component) -> Self {
        let graph = Graph { part, values: vec![], nodes: vec![], inputs: vec![], outputs: vec![] };
        Self { graph, weights, component }
    }

    /// Nodes added from here on belong to `component`.
    pub fn component(&mut self, component: Component) {
        self.component = component;
    }

    /// Declares a graph input.
    pub fn input(&mut self, name: &str, dtype: DType, shape: Vec<Dim>) -> ValueId {
        self.input_value(ValueInfo { name: name.to_string(), dtype, shape, basis: None })
    }

    /// Declares a graph input with everything known of it.
    pub fn input_value(&mut self, info: ValueInfo) -> ValueId {
        let id = self.push_value(info);
        self.graph.inputs.push(id);
        id
    }

    /// Declares a float weight of the given role.
    pub fn weight(&mut self, role: &str, shape: Vec<usize>) -> WeightId {
        self.weights.push(WeightDecl {
            name: role.to_string(),
            shape,
            parts: vec![role.to_string()],
            format: WeightFormat::Float,
        });
        WeightId(self.weights.len() - 1)
    }

    /// Adds a node with one result, named like the node.
    ///
    /// # Errors
    /// [`OpError`] when the op does not accept these operands.
    pub fn add(&mut self, name: &str, op: impl Into<Op>, inputs: &[ValueId]) -> Result<ValueId, OpError> {
        let out = self.add_multi(name, op, inputs, &[name])?;
        Ok(out[0])
    }

    /// Adds a node with the results named `outputs`.
    ///
    /// # Errors
    /// [`OpError`] when the op does not accept these operands or has another number of results.
    pub fn add_multi(
        &mut self,
        name: &str,
        op: impl Into<Op>,
        inputs: &[ValueId],
        outputs: &[&str],
    ) -> Result<Vec<ValueId>, OpError> {
        let op = op.into();
        let operands: Vec<&ValueInfo> = inputs.iter().map(|&i| self.graph.value(i)).collect();
        let types = op.infer(&operands, self.weights).map_err(|e| e.at(name))?;
        if types.len() != outputs.len() || outputs.is_empty() {
            let reason = format!("has {} results, {} names given", types.len(), outputs.len());
            return Err(OpError::new(op.name(), reason).at(name));
        }
        let outputs = types
            .into_iter()
            .zip(outputs)
            .map(|(t, n)| {
                self.push_value(ValueInfo {
                    name: n.to_string(),
                    dtype: t.dtype,
                    shape: t.shape,
                    basis: t.basis,
                })
            })
            .collect::<Vec<_>>();
        let node = Node {
            name: name.to_string(),
            op,
            component: self.component,
            inputs: inputs.to_vec(),
            outputs: outputs.clone(),
        };
        self.graph.nodes.push(node);
        Ok(outputs)
    }

    /// What is known of a value added so far.
    pub fn value(&self, id: ValueId) -> &ValueInfo {
        self.graph.value(id)
    }

    /// Renames a value; signatures have names of their own.
    pub fn rename(&mut self, id: ValueId, name: &str) {
        self.graph.values[id.0].name = name.to_string();
    }

    /// Declares a value as graph output.
    pub fn output(&mut self, id: ValueId) {
        self.graph.outputs.push(id);
    }

    /// The finished graph.
    pub fn finish(self) -> Graph {
        self.graph
    }

    fn push_value(&mut self, info: ValueInfo) -> ValueId {
        self.graph.values.push(info);
        ValueId(self.graph.values.len() - 1)
    }
}
