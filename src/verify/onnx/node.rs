//! Nodes as they are run: operands and results as slots, attributes decoded and known to the operator.

use std::collections::BTreeMap;

use super::error::Fault;
use super::ops::{self, Operator};
use super::program::Program;
use crate::export::onnx::proto::attribute_proto::AttributeType;
use crate::export::onnx::proto::{AttributeProto, NodeProto};

/// An attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum Attribute {
    /// A number.
    Int(i64),
    /// Numbers.
    Ints(Vec<i64>),
    /// A real number.
    Float(f32),
    /// A text.
    Text(String),
}

/// The body of a Loop.
#[derive(Debug)]
pub struct Body {
    /// Its nodes.
    pub program: Program,
    /// Slots outside that it reads, and where they are inside.
    pub captures: Vec<(usize, usize)>,
}

/// A node.
#[derive(Debug)]
pub struct Node {
    /// Its name.
    pub name: String,
    /// What it computes.
    pub operator: &'static Operator,
    /// Slots of the operands; none where one is left out.
    pub inputs: Vec<Option<usize>>,
    /// Slots of the results; none where one is not wanted.
    pub outputs: Vec<Option<usize>>,
    /// Attributes by name.
    pub attributes: BTreeMap<String, Attribute>,
    /// The body, of a Loop.
    pub body: Option<Box<Body>>,
}

impl Node {
    /// All slots that it reads.
    pub fn reads(&self) -> impl Iterator<Item = usize> + '_ {
        let captured = self.body.iter().flat_map(|b| b.captures.iter().map(|(outside, _)| *outside));
        self.inputs.iter().flatten().copied().chain(captured)
    }

    /// A whole number; `default` where it is left out.
    ///
    /// # Errors
    /// [`Fault::Attribute`] when it is of another type.
    pub fn int(&self, name: &str, default: i64) -> Result<i64, Fault> {
        match self.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Int(i)) => Ok(*i),
            Some(other) => Err(Fault::attribute(name, "a whole number", other)),
        }
    }

    /// A whole number that may be one of few; `default` where it is left out.
    ///
    /// # Errors
    /// [`Fault::Attribute`] when it is none of them.
    pub fn int_among(&self, name: &str, default: i64, allowed: &[i64]) -> Result<i64, Fault> {
        match self.int(name, default)? {
            found if allowed.contains(&found) => Ok(found),
            found => Err(Fault::attribute(name, format!("one of {allowed:?}"), found)),
        }
    }

    /// A positive size; an attribute that is left out is refused.
    ///
    /// # Errors
    /// [`Fault::Attribute`].
    pub fn size(&self, name: &str) -> Result<usize, Fault> {
        match self.int(name, 0)? {
            n if n > 0 && n <= i64::from(i32::MAX) => Ok(n as usize),
            n => Err(Fault::attribute(name, "a positive size", n)),
        }
    }

    /// Whole numbers; none where they are left out.
    ///
    /// # Errors
    /// [`Fault::Attribute`] when it is of another type.
    pub fn ints(&self, name: &str) -> Result<Option<&[i64]>, Fault> {
        match self.attributes.get(name) {
            None => Ok(None),
            Some(Attribute::Ints(ints)) => Ok(Some(ints)),
            Some(other) => Err(Fault::attribute(name, "whole numbers", other)),
        }
    }

    /// A real number; `default` where it is left out.
    ///
    /// # Errors
    /// [`Fault::Attribute`] when it is of another type.
    pub fn float(&self, name: &str, default: f32) -> Result<f32, Fault> {
        match self.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Float(f)) => Ok(*f),
            Some(other) => Err(Fault::attribute(name, "a real number", other)),
        }
    }

    /// A text; `default` where it is left out.
    ///
    /// # Errors
    /// [`Fault::Attribute`] when it is of another type.
    pub fn text<'a>(&'a self, name: &str, default: &'a str) -> Result<&'a str, Fault> {
        match self.attributes.get(name) {
            None => Ok(default),
            Some(Attribute::Text(text)) => Ok(text),
            Some(other) => Err(Fault::attribute(name, "a text", other)),
        }
    }
}

/// The operator of a node and its attributes but for graphs, all of them known to the operator.
///
/// # Errors
/// [`Fault::UnknownOperator`], [`Fault::Attribute`], [`Fault::Count`].
pub fn understand(node: &NodeProto) -> Result<(&'static Operator, BTreeMap<String, Attribute>), Fault> {
    let operator = ops::find(node.domain(), node.op_type()).ok_or(Fault::UnknownOperator)?;
    let (least, most) = operator.operands;
    if node.input.len() < least || node.input.len() > most {
        let expected = if least == most { least.to_string() } else { format!("{least} to {most}") };
        return Err(Fault::Count { what: "operands", expected, found: node.input.len() });
    }
    let mut attributes = BTreeMap::new();
    for attribute in &node.attribute {
        let name = attribute.name();
        if !operator.attributes.contains(&name) {
            let known = format!("one of {:?}", operator.attributes);
            return Err(Fault::attribute(name, known, name));
        }
        if let Some(value) = value(attribute)? {
            attributes.insert(name.to_string(), value);
        }
    }
    Ok((operator, attributes))
}

/// What an attribute holds; none for a graph.
fn value(attribute: &AttributeProto) -> Result<Option<Attribute>, Fault> {
    Ok(Some(match attribute.r#type() {
        AttributeType::Int => Attribute::Int(attribute.i()),
        AttributeType::Ints => Attribute::Ints(attribute.ints.clone()),
        AttributeType::Float => Attribute::Float(attribute.f()),
        AttributeType::String => Attribute::Text(String::from_utf8_lossy(attribute.s()).into_owned()),
        AttributeType::Graph => return Ok(None),
        other => {
            let expected = "a number, numbers, a text or a graph";
            return Err(Fault::attribute(attribute.name(), expected, other.as_str_name()));
        }
    }))
}
