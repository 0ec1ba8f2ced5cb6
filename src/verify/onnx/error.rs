//! Why an ONNX file could not be run: each error names the file, the node and its operator, what was expected and what was found.

use std::path::PathBuf;

use crate::export::onnx::OnnxError;

/// What is wrong with a node, its operands or its attributes.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// An operand that must be there is left out.
    #[error("operand {operand} is missing")]
    Missing {
        /// Its number, from 0.
        operand: usize,
    },
    /// More or fewer operands or results than the operator has.
    #[error("expected {expected} {what}, found {found}")]
    Count {
        /// `operands` or `results`.
        what: &'static str,
        /// How many there may be.
        expected: String,
        /// How many there are.
        found: usize,
    },
    /// An operand of another type.
    #[error("operand {operand}: expected {expected}, found {found}")]
    Type {
        /// Its number, from 0.
        operand: usize,
        /// Types that it may have.
        expected: String,
        /// Its type.
        found: String,
    },
    /// Shapes or numbers that do not fit.
    #[error("expected {expected}, found {found}")]
    Shape {
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// An attribute that is unknown, of another type, or has a value that is not computed here.
    #[error("attribute {name}: expected {expected}, found {found}")]
    Attribute {
        /// Its name.
        name: String,
        /// What it may be.
        expected: String,
        /// What it is.
        found: String,
    },
    /// A shape with another number of elements than there are.
    #[error("shape {shape:?} does not hold {found} elements")]
    Elements {
        /// The shape.
        shape: Vec<usize>,
        /// Elements that there are.
        found: usize,
    },
    /// An array that is too large to be meant.
    #[error("shape {shape:?}: expected at most {most} elements", most = super::array::MOST_ELEMENTS)]
    TooLarge {
        /// The shape.
        shape: Vec<usize>,
    },
    /// A stored tensor that does not hold what it says.
    #[error("expected {expected}, found {found}")]
    Stored {
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// An operator that is not computed here.
    #[error(
        "the operator is not known; export the artifact with this version of the program, or verify it in its runtime"
    )]
    UnknownOperator,
    /// A name that nothing before the node makes.
    #[error("operand {name:?} is made by no node before and is neither an input nor an initializer")]
    Undefined {
        /// The name.
        name: String,
    },
    /// A name that something else has already.
    #[error("result {name:?} has the name of another value")]
    Twice {
        /// The name.
        name: String,
    },
    /// A node inside the body of another.
    #[error("{node} ({operator}) in its body: {fault}")]
    Body {
        /// The node.
        node: String,
        /// Its operator.
        operator: String,
        /// What is wrong there.
        fault: Box<Fault>,
    },
}

impl Fault {
    /// Of shapes or numbers that do not fit.
    pub fn shape(expected: impl Into<String>, found: impl std::fmt::Debug) -> Self {
        Fault::Shape { expected: expected.into(), found: format!("{found:?}") }
    }

    /// Of an attribute's value.
    pub fn attribute(name: &str, expected: impl Into<String>, found: impl std::fmt::Debug) -> Self {
        Fault::Attribute { name: name.into(), expected: expected.into(), found: format!("{found:?}") }
    }
}

/// Why an ONNX file could not be loaded or run.
#[derive(Debug, thiserror::Error)]
pub enum OnnxRunError {
    /// The file or its data could not be read, or is damaged.
    #[error(transparent)]
    File(#[from] OnnxError),
    /// An operator set of another version.
    #[error("{}: expected operator set {domain} {expected}, found {found}", .path.display())]
    OperatorSet {
        /// The file.
        path: PathBuf,
        /// Name of the set.
        domain: String,
        /// Version that is known; 0 where the set is not known at all.
        expected: i64,
        /// Version in the file.
        found: i64,
    },
    /// A stored tensor.
    #[error("{}, tensor {tensor}: {fault}", .path.display())]
    Tensor {
        /// The file.
        path: PathBuf,
        /// Its name.
        tensor: String,
        /// What is wrong with it.
        fault: Box<Fault>,
    },
    /// A node.
    #[error("{}, node {node} ({operator}): {fault}", .path.display())]
    Node {
        /// The file.
        path: PathBuf,
        /// Its name.
        node: String,
        /// Its operator, with its domain unless that is the standard's.
        operator: String,
        /// What is wrong with it.
        fault: Box<Fault>,
    },
    /// An input of a run.
    #[error("{}, input {name}: expected {expected}, found {found}", .path.display())]
    Input {
        /// The file.
        path: PathBuf,
        /// Its name.
        name: String,
        /// What the file says of it.
        expected: String,
        /// What was given.
        found: String,
    },
    /// Inputs of a prompt that do not belong together.
    #[error("{}, inputs: {fault}", .path.display())]
    Inputs {
        /// The file.
        path: PathBuf,
        /// What is wrong with them.
        fault: Box<Fault>,
    },
    /// A value that was asked for is not in the file.
    #[error("{}: expected a value {name}, found none of this name", .path.display())]
    NoValue {
        /// The file.
        path: PathBuf,
        /// Its name.
        name: String,
    },
}
