//! A graph of an ONNX file in the form in which it is run: names become slots, and every node is checked to be known before anything runs.

use std::collections::HashMap;

use super::error::Fault;
use super::node::{Body, Node, understand};
use crate::export::onnx::proto::{GraphProto, NodeProto};

/// Nodes in the order of the file, over slots of values.
#[derive(Debug, Default)]
pub struct Program {
    /// Names by slot.
    pub names: Vec<String>,
    /// The nodes.
    pub nodes: Vec<Node>,
    /// Slots of the inputs.
    pub inputs: Vec<usize>,
    /// Slots of the outputs.
    pub outputs: Vec<usize>,
    /// Slots of the initializers, in their order.
    pub initializers: Vec<usize>,
    /// By slot: whether its value depends on initializers alone.
    pub constant: Vec<bool>,
    /// By slot: the node that makes it.
    pub maker: Vec<Option<usize>>,
    slots: HashMap<String, usize>,
}

/// A node that cannot be run: its name, its operator, and why.
pub struct Refused {
    /// Name of the node, or of the tensor.
    pub node: String,
    /// Its operator.
    pub operator: String,
    /// Why.
    pub fault: Fault,
}

impl Refused {
    fn new(node: &NodeProto, fault: Fault) -> Self {
        Self { node: node.name().to_string(), operator: operator_name(node.domain(), node.op_type()), fault }
    }

    fn graph(fault: Fault) -> Self {
        Self { node: "-".into(), operator: "graph".into(), fault }
    }
}

/// Operator with its domain unless that is the standard's.
pub fn operator_name(domain: &str, name: &str) -> String {
    if domain.is_empty() { name.to_string() } else { format!("{domain}.{name}") }
}

impl Program {
    /// Slot of a value by its name.
    pub fn slot(&self, name: &str) -> Option<usize> {
        self.slots.get(name).copied()
    }

    /// The graph of a file.
    ///
    /// # Errors
    /// [`Refused`] for the first node that cannot be run.
    pub fn of_file(graph: &GraphProto) -> Result<Self, Refused> {
        Ok(Self::new(graph, None)?.0)
    }

    /// A graph; names it does not know are taken from `outside`. Returns with it the slots outside that it reads, and where they are inside.
    fn new(graph: &GraphProto, outside: Option<&Program>) -> Result<(Self, Vec<(usize, usize)>), Refused> {
        let mut program = Self::default();
        let mut captures = vec![];
        for tensor in &graph.initializer {
            let slot = program.define(tensor.name(), true, None).map_err(Refused::graph)?;
            program.initializers.push(slot);
        }
        for input in &graph.input {
            let slot = program.define(input.name(), false, None).map_err(Refused::graph)?;
            program.inputs.push(slot);
        }
        for node in &graph.node {
            let made =
                program.node(node, outside, &mut captures).map_err(|fault| Refused::new(node, fault))?;
            program.nodes.push(made);
        }
        for output in &graph.output {
            let slot = program.resolve(output.name(), outside, &mut captures).map_err(Refused::graph)?;
            program.outputs.push(slot);
        }
        Ok((program, captures))
    }

    fn define(&mut self, name: &str, constant: bool, maker: Option<usize>) -> Result<usize, Fault> {
        let slot = self.names.len();
        if self.slots.insert(name.to_string(), slot).is_some() {
            return Err(Fault::Twice { name: name.into() });
        }
        self.names.push(name.to_string());
        self.constant.push(constant);
        self.maker.push(maker);
        Ok(slot)
    }

    /// Slot of an operand, which is here or outside.
    fn resolve(
        &mut self,
        name: &str,
        outside: Option<&Program>,
        captures: &mut Vec<(usize, usize)>,
    ) -> Result<usize, Fault> {
        if let Some(slot) = self.slot(name) {
            return Ok(slot);
        }
        let found =
            outside.and_then(|o| o.slot(name)).ok_or_else(|| Fault::Undefined { name: name.into() })?;
        let slot = self.define(name, false, None)?;
        captures.push((found, slot));
        Ok(slot)
    }

    fn node(
        &mut self,
        node: &NodeProto,
        outside: Option<&Program>,
        captures: &mut Vec<(usize, usize)>,
    ) -> Result<Node, Fault> {
        let (operator, attributes) = understand(node)?;
        let mut inputs = vec![];
        for name in &node.input {
            let given = !name.is_empty();
            inputs.push(given.then(|| self.resolve(name, outside, captures)).transpose()?);
        }
        let body =
            if operator.has_body() { Some(Box::new(self.body(node, outside.is_some())?)) } else { None };
        let read: Vec<usize> = {
            let captured = body.iter().flat_map(|b| b.captures.iter().map(|(o, _)| *o));
            inputs.iter().flatten().copied().chain(captured).collect()
        };
        let constant = read.iter().all(|slot| self.constant[*slot]);
        let mut outputs = vec![];
        for name in &node.output {
            let wanted = !name.is_empty();
            let number = self.nodes.len();
            outputs.push(wanted.then(|| self.define(name, constant, Some(number))).transpose()?);
        }
        Ok(Node { name: node.name().to_string(), operator, inputs, outputs, attributes, body })
    }

    /// The body of a Loop of this graph.
    fn body(&self, node: &NodeProto, inside: bool) -> Result<Body, Fault> {
        if inside {
            return Err(Fault::attribute("body", "a loop outside of loops", "a loop inside of one"));
        }
        let graph = node.attribute.iter().find(|a| a.name() == "body").and_then(|a| a.g.as_ref());
        let graph = graph.ok_or_else(|| Fault::attribute("body", "a graph", "none"))?;
        if !graph.initializer.is_empty() {
            let found = graph.initializer.len();
            return Err(Fault::attribute("body", "a graph without initializers", found));
        }
        let (program, captures) = Self::new(graph, Some(self)).map_err(|refused| Fault::Body {
            node: refused.node,
            operator: refused.operator,
            fault: Box::new(refused.fault),
        })?;
        Ok(Body { program, captures })
    }
}
