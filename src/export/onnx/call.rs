//! One ONNX node under construction.

use super::proto::attribute_proto::AttributeType;
use super::proto::{AttributeProto, GraphProto, NodeProto};

/// Domain of ONNX Runtime's own operators.
pub const MICROSOFT: &str = "com.microsoft";

/// An operator with its operands and attributes, not yet in a graph. An empty operand name is an omitted optional operand.
#[derive(Clone, Debug)]
pub struct Call {
    node: NodeProto,
}

impl Call {
    /// A call of a standard operator.
    pub fn new(op: &str, inputs: &[&str]) -> Self {
        let input = inputs.iter().map(ToString::to_string).collect();
        Self { node: NodeProto { op_type: Some(op.to_string()), input, ..NodeProto::default() } }
    }

    /// A call of one of ONNX Runtime's operators.
    pub fn microsoft(op: &str, inputs: &[&str]) -> Self {
        let mut call = Self::new(op, inputs);
        call.node.domain = Some(MICROSOFT.to_string());
        call
    }

    /// Sets an integer attribute.
    pub fn int(self, name: &str, value: i64) -> Self {
        self.attribute(name, AttributeType::Int, |a| a.i = Some(value))
    }

    /// Sets an attribute that is a list of integers.
    pub fn ints(self, name: &str, values: &[i64]) -> Self {
        self.attribute(name, AttributeType::Ints, |a| a.ints = values.to_vec())
    }

    /// Sets a float attribute.
    pub fn float(self, name: &str, value: f32) -> Self {
        self.attribute(name, AttributeType::Float, |a| a.f = Some(value))
    }

    /// Sets a text attribute.
    pub fn string(self, name: &str, value: &str) -> Self {
        self.attribute(name, AttributeType::String, |a| a.s = Some(value.as_bytes().to_vec()))
    }

    /// Sets a subgraph attribute.
    pub fn graph(self, name: &str, value: GraphProto) -> Self {
        self.attribute(name, AttributeType::Graph, |a| a.g = Some(value))
    }

    /// Name of the operator.
    pub fn op(&self) -> &str {
        self.node.op_type()
    }

    /// The finished node.
    pub fn named(mut self, name: String, outputs: Vec<String>) -> NodeProto {
        self.node.name = Some(name);
        self.node.output = outputs;
        self.node
    }

    fn attribute(mut self, name: &str, kind: AttributeType, set: impl FnOnce(&mut AttributeProto)) -> Self {
        let mut a = AttributeProto { name: Some(name.to_string()), ..AttributeProto::default() };
        a.set_type(kind);
        set(&mut a);
        self.node.attribute.push(a);
        self
    }
}
