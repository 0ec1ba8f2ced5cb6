//! The ONNX graph under construction: nodes, small constants kept inline, weights streamed to the data file, names.
//!
//! Names: an IR value keeps its name; the ONNX node that yields the first result of an IR node has that node's name; everything a lowering
//! adds is called `<node>/<Operator>`, numbered from the second on. What several nodes share lives under a name of its own.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::bytes::{self, Element};
use super::call::Call;
use super::error::OnnxError;
use super::external::{DataWriter, Place};
use super::nibbles::Sink;
use super::proto::tensor_proto::{DataLocation, DataType};
use super::proto::{NodeProto, StringStringEntryProto, TensorProto};
use super::{OnnxOptions, OpSet};
use crate::graph::{Dim, Graph, Model, Node, ValueId, ValueInfo, WeightSource};

/// Larger tensors go to the data file. Shapes, axes and scalars must stay inline: shape inference cannot read external data.
const INLINE_BYTES: usize = 1024;

/// Collects the ONNX form of one graph.
pub struct Emitter<'a> {
    /// The model being lowered.
    pub model: &'a Model,
    /// The graph being lowered.
    pub graph: &'a Graph,
    /// Where weights come from.
    pub source: &'a dyn WeightSource,
    /// Which operators may be used.
    pub ops: OpSet,
    /// Which forms linears take.
    pub options: OnnxOptions,
    node: Option<&'a Node>,
    scope: String,
    nodes: Vec<NodeProto>,
    initializers: Vec<TensorProto>,
    data: DataWriter,
    location: String,
    names: HashSet<String>,
    constants: HashMap<(i32, Vec<i64>, Vec<u8>), String>,
    shared: HashMap<String, Vec<String>>,
}

/// What lowering a graph yields.
pub struct Emitted {
    /// In evaluation order.
    pub nodes: Vec<NodeProto>,
    /// Constants and weights.
    pub initializers: Vec<TensorProto>,
    /// The data file, complete but for its flush.
    pub data: DataWriter,
}

impl<'a> Emitter<'a> {
    /// An empty ONNX graph whose large tensors go to `data_path`.
    pub fn new(
        (model, graph): (&'a Model, &'a Graph),
        source: &'a dyn WeightSource,
        options: OnnxOptions,
        data_path: &Path,
    ) -> Self {
        let location = data_path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let names = graph.values.iter().map(|v| v.name.clone()).collect();
        Self {
            model,
            graph,
            source,
            ops: options.ops,
            options,
            node: None,
            scope: String::new(),
            nodes: vec![],
            initializers: vec![],
            data: DataWriter::new(data_path),
            location,
            names,
            constants: HashMap::new(),
            shared: HashMap::new(),
        }
    }

    /// Everything added so far belongs to earlier nodes; what follows lowers `node`.
    pub fn enter(&mut self, node: &'a Node) {
        self.node = Some(node);
        self.scope.clone_from(&node.name);
    }

    /// The finished parts.
    pub fn finish(self) -> Emitted {
        Emitted { nodes: self.nodes, initializers: self.initializers, data: self.data }
    }

    /// Name of the node being lowered.
    pub fn node(&self) -> &'a str {
        self.node.map_or("", |n| n.name.as_str())
    }

    /// Name of operand `i`.
    ///
    /// # Errors
    /// [`OnnxError::NotValid`] when the node has fewer operands.
    pub fn input(&self, i: usize) -> Result<String, OnnxError> {
        self.name(self.node.and_then(|n| n.inputs.get(i)), "has too few operands")
    }

    /// Names of all operands.
    ///
    /// # Errors
    /// [`OnnxError::NotValid`] when one does not exist.
    pub fn inputs(&self) -> Result<Vec<String>, OnnxError> {
        (0..self.node.map_or(0, |n| n.inputs.len())).map(|i| self.input(i)).collect()
    }

    /// Name of result `i`.
    ///
    /// # Errors
    /// [`OnnxError::NotValid`] when the node has fewer results.
    pub fn output(&self, i: usize) -> Result<String, OnnxError> {
        self.name(self.node.and_then(|n| n.outputs.get(i)), "has too few results")
    }

    /// What is known of operand `i`.
    ///
    /// # Errors
    /// [`OnnxError::NotValid`] when the node has fewer operands.
    pub fn operand(&self, i: usize) -> Result<&'a ValueInfo, OnnxError> {
        let id =
            self.node.and_then(|n| n.inputs.get(i)).ok_or_else(|| self.not_valid("has too few operands"))?;
        Ok(self.graph.value(*id))
    }

    /// Number of channels of operand `i`.
    ///
    /// # Errors
    /// [`OnnxError::NotValid`] when it is not fixed.
    pub fn channels(&self, i: usize) -> Result<usize, OnnxError> {
        match self.operand(i)?.shape.last() {
            Some(Dim::Fixed(n)) => Ok(*n),
            _ => Err(self.not_valid("has an operand without a fixed number of channels")),
        }
    }

    /// The error of a node that validation would have refused.
    pub fn not_valid(&self, reason: &'static str) -> OnnxError {
        OnnxError::NotValid { graph: self.graph.part.name(), node: self.node().to_string(), reason }
    }

    fn name(&self, id: Option<&ValueId>, reason: &'static str) -> Result<String, OnnxError> {
        let value = id.and_then(|v| self.graph.values.get(v.0));
        Ok(value.ok_or_else(|| self.not_valid(reason))?.name.clone())
    }

    /// Adds a node with one fresh result and returns its name.
    pub fn one(&mut self, call: Call) -> String {
        let name = self.fresh(&format!("{}/{}", self.scope, call.op()));
        self.nodes.push(call.named(name.clone(), vec![name.clone()]));
        name
    }

    /// Adds a node with `n` fresh results and returns their names.
    pub fn many(&mut self, call: Call, n: usize) -> Vec<String> {
        let name = self.fresh(&format!("{}/{}", self.scope, call.op()));
        let outputs: Vec<_> = (0..n).map(|i| self.fresh(&format!("{name}/{i}"))).collect();
        self.nodes.push(call.named(name, outputs.clone()));
        outputs
    }

    /// Adds the node that yields all results of the IR node, or its first one, and carries its name.
    ///
    /// # Errors
    /// [`OnnxError::NotValid`] when the IR node has fewer than `n` results.
    pub fn results(&mut self, call: Call, n: usize) -> Result<(), OnnxError> {
        let outputs = (0..n).map(|i| self.output(i)).collect::<Result<_, _>>()?;
        self.nodes.push(call.named(self.node().to_string(), outputs));
        Ok(())
    }

    /// Adds the node that yields result `i` of the IR node, when the results come from nodes of their own.
    ///
    /// # Errors
    /// [`OnnxError::NotValid`] when the IR node has no such result.
    pub fn result(&mut self, call: Call, i: usize) -> Result<(), OnnxError> {
        let output = self.output(i)?;
        let name = if i == 0 {
            self.node().to_string()
        } else {
            self.fresh(&format!("{}/{}", self.scope, call.op()))
        };
        self.nodes.push(call.named(name, vec![output]));
        Ok(())
    }

    /// Values that several nodes read and only the first one adds, under the scope `key`.
    ///
    /// # Errors
    /// Those of `make`.
    pub fn shared(
        &mut self,
        key: String,
        make: impl FnOnce(&mut Self) -> Result<Vec<String>, OnnxError>,
    ) -> Result<Vec<String>, OnnxError> {
        if let Some(values) = self.shared.get(&key) {
            return Ok(values.clone());
        }
        let scope = std::mem::replace(&mut self.scope, key.clone());
        let made = make(self);
        self.scope = scope;
        let values = made?;
        self.shared.insert(key, values.clone());
        Ok(values)
    }

    /// A rank-1 integer constant.
    pub fn ints(&mut self, values: &[i64]) -> String {
        self.constant(vec![values.len() as i64], values)
    }

    /// An integer scalar.
    pub fn int(&mut self, value: i64) -> String {
        self.constant(vec![], &[value])
    }

    /// A float scalar.
    pub fn float(&mut self, value: f32) -> String {
        self.constant(vec![], &[value])
    }

    /// A small constant, one initializer per content.
    pub fn constant<T: Element>(&mut self, dims: Vec<i64>, values: &[T]) -> String {
        let key = (T::TYPE as i32, dims, bytes::to_bytes(values));
        if let Some(name) = self.constants.get(&key) {
            return name.clone();
        }
        let name = self.fresh("constant");
        self.inline(name.clone(), T::TYPE as i32, key.1.clone(), key.2.clone());
        self.constants.insert(key, name.clone());
        name
    }

    /// A constant that is never shared with another of the same content, called `<node>/<suffix>`.
    pub fn own<T: Element>(&mut self, suffix: &str, dims: Vec<i64>, values: &[T]) -> String {
        let name = self.fresh(&format!("{}/{suffix}", self.scope));
        self.inline(name.clone(), T::TYPE as i32, dims, bytes::to_bytes(values));
        name
    }

    /// A tensor of any size: inline when small, else in the data file.
    ///
    /// # Errors
    /// [`OnnxError::Io`] when the data file cannot be written.
    pub fn tensor<T: Element>(
        &mut self,
        name: &str,
        dims: Vec<i64>,
        values: &[T],
    ) -> Result<String, OnnxError> {
        if std::mem::size_of_val(values) <= INLINE_BYTES {
            let name = self.fresh(name);
            self.inline(name.clone(), T::TYPE as i32, dims, bytes::to_bytes(values));
            return Ok(name);
        }
        let offset = self.data.begin()?;
        bytes::write(&mut self.data, values)?;
        let place = self.data.end(offset);
        Ok(self.external(name, T::TYPE as i32, dims, place))
    }

    /// The transpose of a `rows x cols` matrix as a tensor of any size.
    ///
    /// # Errors
    /// [`OnnxError::Io`] when the data file cannot be written.
    pub fn transposed<T: Element>(
        &mut self,
        name: &str,
        (rows, cols): (usize, usize),
        values: &[T],
    ) -> Result<String, OnnxError> {
        let dims = vec![cols as i64, rows as i64];
        if std::mem::size_of_val(values) <= INLINE_BYTES {
            let turned: Vec<T> = (0..rows * cols).map(|i| values[i % rows * cols + i / rows]).collect();
            return self.tensor(name, dims, &turned);
        }
        let offset = self.data.begin()?;
        bytes::write_transposed(&mut self.data, values, rows, cols)?;
        let place = self.data.end(offset);
        Ok(self.external(name, T::TYPE as i32, dims, place))
    }

    /// A tensor of `length` bytes that `fill` hands over in order, of elements smaller than a byte or packed: inline when small, else in the data file.
    ///
    /// # Errors
    /// [`OnnxError::Io`] when the data file cannot be written.
    pub fn packed(
        &mut self,
        name: &str,
        data_type: DataType,
        dims: Vec<i64>,
        length: usize,
        fill: impl FnOnce(&mut Sink<'_>) -> Result<(), OnnxError>,
    ) -> Result<String, OnnxError> {
        if length <= INLINE_BYTES {
            let mut raw = Vec::with_capacity(length);
            fill(&mut |bytes| {
                raw.extend_from_slice(bytes);
                Ok(())
            })?;
            let name = self.fresh(name);
            self.inline(name.clone(), data_type as i32, dims, raw);
            return Ok(name);
        }
        let offset = self.data.begin()?;
        fill(&mut |bytes| self.data.write(bytes))?;
        let place = self.data.end(offset);
        Ok(self.external(name, data_type as i32, dims, place))
    }

    fn inline(&mut self, name: String, data_type: i32, dims: Vec<i64>, raw: Vec<u8>) {
        let (data_type, raw_data) = (Some(data_type), Some(raw));
        let tensor = TensorProto { name: Some(name), data_type, dims, raw_data, ..TensorProto::default() };
        self.initializers.push(tensor);
    }

    fn external(&mut self, name: &str, data_type: i32, dims: Vec<i64>, place: Place) -> String {
        let name = self.fresh(name);
        let entry = |key: &str, value: String| StringStringEntryProto {
            key: Some(key.to_string()),
            value: Some(value),
        };
        let external_data = vec![
            entry("location", self.location.clone()),
            entry("offset", place.offset.to_string()),
            entry("length", place.length.to_string()),
        ];
        let data_type = Some(data_type);
        let mut tensor = TensorProto {
            name: Some(name.clone()),
            data_type,
            dims,
            external_data,
            ..TensorProto::default()
        };
        tensor.set_data_location(DataLocation::External);
        self.initializers.push(tensor);
        name
    }

    /// `base`, or `base_2`, `base_3`, ... when it is taken.
    fn fresh(&mut self, base: &str) -> String {
        let mut name = base.to_string();
        let mut n = 1;
        while !self.names.insert(name.clone()) {
            n += 1;
            name = format!("{base}_{n}");
        }
        name
    }
}
