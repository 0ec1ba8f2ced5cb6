//! An ONNX file, opened: its nodes, its inputs and outputs, and where its initializers are.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use super::error::{Fault, OnnxRunError};
use super::program::{Program, Refused};
use super::value::Value;
use crate::export::onnx::MICROSOFT;
use crate::export::onnx::proto::tensor_shape_proto::dimension;
use crate::export::onnx::proto::{ModelProto, ValueInfoProto, type_proto};
use crate::export::onnx::read::{self, Bytes, DataFiles};

/// What becomes of weights between runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weights {
    /// They are kept: fast, and takes the memory of all of them.
    Keep,
    /// Each is read whenever a node needs it: a run takes the memory of the largest node and of live values.
    Stream,
}

/// Length of an axis of an input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Axis {
    /// Always this.
    Fixed(usize),
    /// One length for all axes of this name in a run.
    Named(String),
}

/// An input or output.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub name: String,
    /// Name of the type of its elements in ONNX.
    pub dtype: String,
    /// Its axes.
    pub shape: Vec<Axis>,
}

/// A stored tensor.
#[derive(Debug)]
pub(super) struct Stored {
    data_type: i32,
    shape: Vec<usize>,
    bytes: Bytes,
}

/// An ONNX file that can be run.
#[derive(Debug)]
pub struct OnnxGraph {
    path: PathBuf,
    pub(super) program: Program,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    stored: HashMap<usize, Stored>,
    data: DataFiles,
    pub(super) kept: Option<Vec<OnceLock<Value>>>,
}

/// Operator sets whose operators are known, by domain.
const OPERATOR_SETS: &[(&str, i64)] = &[("", 21), (MICROSOFT, 1)];

impl OnnxGraph {
    /// Opens the file at `path`; its nodes are checked, its initializers not yet read.
    ///
    /// # Errors
    /// [`OnnxRunError`] when it cannot be read, is damaged, or has a node that is not known.
    pub fn open(path: &Path, weights: Weights) -> Result<Self, OnnxRunError> {
        let (model, mut graph) = read::model(path)?;
        operator_sets(path, &model)?;
        let program = Program::of_file(&graph).map_err(|Refused { node, operator, fault }| {
            OnnxRunError::Node { path: path.to_path_buf(), node, operator, fault: Box::new(fault) }
        })?;
        let mut data = DataFiles::new(path);
        let mut stored = HashMap::new();
        for (tensor, slot) in graph.initializer.iter_mut().zip(&program.initializers) {
            let bytes = read::place(path, tensor)?;
            data.open(&bytes)?;
            let extent = |n: &i64| usize::try_from(*n).ok();
            let shape = tensor.dims.iter().map(extent).collect::<Option<Vec<_>>>().ok_or_else(|| {
                let fault = Box::new(Fault::shape("extents that are not negative", &tensor.dims));
                OnnxRunError::Tensor { path: path.to_path_buf(), tensor: tensor.name().to_string(), fault }
            })?;
            stored.insert(*slot, Stored { data_type: tensor.data_type(), shape, bytes });
        }
        let ports = |infos: &[ValueInfoProto]| infos.iter().map(port).collect();
        let keeps = weights == Weights::Keep;
        Ok(Self {
            path: path.to_path_buf(),
            inputs: ports(&graph.input),
            outputs: ports(&graph.output),
            kept: keeps.then(|| program.names.iter().map(|_| OnceLock::new()).collect()),
            program,
            stored,
            data,
        })
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its inputs, in order.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }

    /// Its outputs, in order.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }

    /// An input by its name.
    pub fn input(&self, name: &str) -> Option<&Port> {
        self.inputs.iter().find(|p| p.name == name)
    }

    /// Names of all results of nodes, in their order.
    pub fn values(&self) -> impl Iterator<Item = &str> {
        let slots = self.program.nodes.iter().flat_map(|n| n.outputs.iter().flatten());
        slots.map(|slot| self.program.names[*slot].as_str())
    }

    /// Reads an initializer.
    pub(super) fn initializer(&self, slot: usize) -> Result<Value, OnnxRunError> {
        let name = &self.program.names[slot];
        let Some(stored) = self.stored.get(&slot) else {
            return Err(OnnxRunError::NoValue { path: self.path.clone(), name: name.clone() });
        };
        let bytes = self.data.read(&stored.bytes)?;
        let tensor = |fault| {
            let (path, tensor, fault) = (self.path.clone(), name.clone(), Box::new(fault));
            OnnxRunError::Tensor { path, tensor, fault }
        };
        Value::decode(stored.data_type, stored.shape.clone(), &bytes).map_err(tensor)
    }
}

fn operator_sets(path: &Path, model: &ModelProto) -> Result<(), OnnxRunError> {
    for set in &model.opset_import {
        let domain = if set.domain() == "ai.onnx" { "" } else { set.domain() };
        let expected = OPERATOR_SETS.iter().find(|(d, _)| *d == domain).map_or(0, |(_, version)| *version);
        if set.version() != expected {
            let domain = if domain.is_empty() { "ai.onnx" } else { domain }.to_string();
            let path = path.to_path_buf();
            return Err(OnnxRunError::OperatorSet { path, domain, expected, found: set.version() });
        }
    }
    Ok(())
}

fn port(info: &ValueInfoProto) -> Port {
    let (dtype, shape) = match info.r#type.as_ref().and_then(|t| t.value.as_ref()) {
        Some(type_proto::Value::TensorType(t)) => {
            let dims = t.shape.iter().flat_map(|s| &s.dim).map(|d| match &d.value {
                Some(dimension::Value::DimValue(n)) => Axis::Fixed(usize::try_from(*n).unwrap_or(0)),
                Some(dimension::Value::DimParam(name)) => Axis::Named(name.clone()),
                None => Axis::Named(String::new()),
            });
            (read::type_name(t.elem_type()), dims.collect())
        }
        _ => ("no tensor".to_string(), vec![]),
    };
    Port { name: info.name().to_string(), dtype, shape }
}
