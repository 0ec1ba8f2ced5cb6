//! The validator. Checked, in this order, all problems collected:
//! 1. structure: every node names existing values and weights; a value is written once, before it is read; outputs exist;
//! 2. names: values and nodes are unique in their graph, weights in the model; names are plain;
//! 3. typing: each op accepts its operands, and its results are what the graph says (shape, type, basis);
//! 4. weights: each declared weight is used by at least one node; formats of codes only where a linear, or of blocks a token table, can read them.
//!
//! Not checked here: numbers (finite weights are the checkpoint reader's job) and run-time sizes.

use std::collections::HashSet;

use super::model::{Graph, Model};
use super::ops::{Op, OpError, OpSpec};
use super::types::ValueInfo;
use super::weights::{WeightFormat, WeightId};

/// One broken rule.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum GraphProblem {
    /// A node or signature names a value that does not exist.
    #[error("{graph} graph, {subject}: value {value} does not exist")]
    NoSuchValue {
        /// Part name.
        graph: &'static str,
        /// Node name or `outputs`.
        subject: String,
        /// Index found.
        value: usize,
    },
    /// A value is read before anything wrote it.
    #[error("{graph} graph, {subject}: value {value} is read before it is written")]
    ReadBeforeWrite {
        /// Part name.
        graph: &'static str,
        /// Node name or `outputs`.
        subject: String,
        /// Value name.
        value: String,
    },
    /// A value has two writers.
    #[error("{graph} graph, {subject}: value {value} is written twice")]
    WrittenTwice {
        /// Part name.
        graph: &'static str,
        /// The second writer.
        subject: String,
        /// Value name.
        value: String,
    },
    /// Two things of one kind share a name.
    #[error("{graph}: the {kind} name {name} is used twice")]
    DuplicateName {
        /// Part name or `weights`.
        graph: &'static str,
        /// `value`, `node` or `weight`.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// An op refuses its operands.
    #[error("{graph} graph: {source}")]
    Typing {
        /// Part name.
        graph: &'static str,
        /// What the op says.
        source: OpError,
    },
    /// The recorded type of a result is not what the op yields.
    #[error("{graph} graph, node {node}: result is recorded as {recorded}, the op yields {inferred}")]
    WrongResult {
        /// Part name.
        graph: &'static str,
        /// Node name.
        node: String,
        /// Type in the graph.
        recorded: String,
        /// Type by the op's rule.
        inferred: String,
    },
    /// A declared weight no node uses.
    #[error("weight {name} is declared but no node uses it")]
    UnusedWeight {
        /// Its name.
        name: String,
    },
    /// An integer weight read by something other than a linear's matrix.
    #[error("{graph} graph, node {node}: weight {name} is integer, only the matrix of a linear may be")]
    IntegerWeight {
        /// Part name.
        graph: &'static str,
        /// Node name.
        node: String,
        /// Weight name.
        name: String,
    },
}

/// All problems of a model.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{} problem(s) in the graph:\n{}", .problems.len(), list(.problems))]
pub struct ValidationError {
    /// In graph order.
    pub problems: Vec<GraphProblem>,
}

fn list(problems: &[GraphProblem]) -> String {
    problems.iter().map(|p| format!("  {p}")).collect::<Vec<_>>().join("\n")
}

/// Checks every rule of the IR.
///
/// # Errors
/// [`ValidationError`] with all problems found.
pub fn validate(model: &Model) -> Result<(), ValidationError> {
    let mut problems = Vec::new();
    unique("weights", "weight", model.weights.iter().map(|w| w.name.as_str()), &mut problems);
    let mut used = HashSet::new();
    for graph in &model.graphs {
        // The later checks index freely, so they run only on graphs whose structure holds.
        let before = problems.len();
        structure(graph, &mut problems);
        if problems.len() > before {
            continue;
        }
        let name = graph.part.name();
        unique(name, "value", graph.values.iter().map(|v| v.name.as_str()), &mut problems);
        unique(name, "node", graph.nodes.iter().map(|n| n.name.as_str()), &mut problems);
        typing(model, graph, &mut problems);
        for node in &graph.nodes {
            for id in node.op.weights() {
                used.insert(id);
            }
        }
    }
    if problems.is_empty() {
        let unused = (0..model.weights.len()).filter(|&i| !used.contains(&WeightId(i)));
        problems.extend(unused.map(|i| GraphProblem::UnusedWeight { name: model.weights[i].name.clone() }));
    }
    if problems.is_empty() { Ok(()) } else { Err(ValidationError { problems }) }
}

fn unique<'a>(
    graph: &'static str,
    kind: &'static str,
    names: impl Iterator<Item = &'a str>,
    problems: &mut Vec<GraphProblem>,
) {
    let mut seen = HashSet::new();
    for name in names {
        if !seen.insert(name) {
            problems.push(GraphProblem::DuplicateName { graph, kind, name: name.to_string() });
        }
    }
}

fn structure(graph: &Graph, problems: &mut Vec<GraphProblem>) {
    let name = graph.part.name();
    let mut written: HashSet<usize> = graph.inputs.iter().map(|v| v.0).collect();
    let mut read = |subject: &str, value: usize, written: &HashSet<usize>| {
        let subject = subject.to_string();
        match graph.values.get(value) {
            None => problems.push(GraphProblem::NoSuchValue { graph: name, subject, value }),
            Some(v) if !written.contains(&value) => {
                let value = v.name.clone();
                problems.push(GraphProblem::ReadBeforeWrite { graph: name, subject, value });
            }
            Some(_) => {}
        }
    };
    let mut twice = Vec::new();
    for node in &graph.nodes {
        for v in &node.inputs {
            read(&node.name, v.0, &written);
        }
        for v in &node.outputs {
            let fresh = written.insert(v.0);
            match graph.values.get(v.0) {
                None => read(&node.name, v.0, &written),
                Some(info) if !fresh => twice.push(GraphProblem::WrittenTwice {
                    graph: name,
                    subject: node.name.clone(),
                    value: info.name.clone(),
                }),
                Some(_) => {}
            }
        }
    }
    for v in &graph.outputs {
        read("outputs", v.0, &written);
    }
    problems.extend(twice);
}

fn typing(model: &Model, graph: &Graph, problems: &mut Vec<GraphProblem>) {
    let name = graph.part.name();
    for node in &graph.nodes {
        let operands: Vec<&ValueInfo> = node.inputs.iter().map(|&v| graph.value(v)).collect();
        let inferred = match node.op.infer(&operands, &model.weights) {
            Ok(types) => types,
            Err(e) => {
                problems.push(GraphProblem::Typing { graph: name, source: e.at(&node.name) });
                continue;
            }
        };
        let recorded: Vec<_> = node.outputs.iter().map(|&v| graph.value(v)).collect();
        let same = inferred.len() == recorded.len()
            && inferred
                .iter()
                .zip(&recorded)
                .all(|(t, v)| (t.dtype, &t.shape, t.basis) == (v.dtype, &v.shape, v.basis));
        if !same {
            let recorded = recorded.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            let inferred = format!("{inferred:?}");
            problems.push(GraphProblem::WrongResult {
                graph: name,
                node: node.name.clone(),
                recorded,
                inferred,
            });
        }
        let readable = |id: WeightId, format: WeightFormat| match (&node.op, format) {
            (_, WeightFormat::Float) => true,
            (Op::Linear(l), _) => l.weight == id,
            // Rows of a table in blocks are read one by one.
            (Op::Embed(_), WeightFormat::Blocks(_)) => true,
            _ => false,
        };
        for id in node.op.weights() {
            if model.weights.get(id.0).is_some_and(|w| !readable(id, w.format)) {
                let weight = model.weights[id.0].name.clone();
                problems.push(GraphProblem::IntegerWeight {
                    graph: name,
                    node: node.name.clone(),
                    name: weight,
                });
            }
        }
    }
}
