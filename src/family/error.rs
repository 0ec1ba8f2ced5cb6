//! What can go wrong between a family file and a checkpoint. All problems of one kind of check are reported together.

use crate::checkpoint::CheckpointError;
use crate::graph::build::BuildError;
use crate::tokenizer::TokenizerError;

/// Why a checkpoint could not be described.
#[derive(Debug, thiserror::Error)]
pub enum FamilyError {
    /// A family file does not follow the schema.
    #[error("family file {file}: {reason}")]
    Schema {
        /// Path or built-in name.
        file: String,
        /// What the parser says, with line and column.
        reason: String,
    },
    /// A family file of the user could not be read.
    #[error("family file {file} could not be read: {source}")]
    ReadFile {
        /// Path.
        file: String,
        /// Cause.
        source: std::io::Error,
    },
    /// No family fits `config.json`.
    #[error(
        "config.json: no known family fits model_type {model_type:?}, architectures {architectures:?}\n\
         known families: {known}{nearest}\n\
         hint: a family is one YAML file; pass your own with --family-file FILE"
    )]
    Unknown {
        /// Value in `config.json`.
        model_type: String,
        /// Value in `config.json`.
        architectures: String,
        /// Comma-separated names.
        known: String,
        /// `; the nearest is X`, or empty.
        nearest: String,
    },
    /// The family is known, and one of its parts is of a kind that the family file does not describe.
    #[error(
        "config.json: no option of the family {family} fits {found}\n\
         known: {known}\n\
         hint: an option is one entry under `choose` in the family file"
    )]
    NoOption {
        /// Family name.
        family: String,
        /// Keys and values looked at.
        found: String,
        /// What the options ask for.
        known: String,
    },
    /// The checkpoint does not fit its family. Holds all problems found.
    #[error("the checkpoint does not fit the family {family}; {} problem(s):\n{}", .problems.len(), list(.problems))]
    Misfit {
        /// Family name.
        family: String,
        /// Everything that is wrong; never empty.
        problems: Vec<FamilyProblem>,
    },
    /// A file of the checkpoint could not be read.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The tokenizer's files are missing or broken.
    #[error("the tokenizer cannot be read")]
    Tokenizer(#[from] TokenizerError),
    /// The numbers of the configuration contradict each other.
    #[error("config.json describes a model that cannot be built")]
    Build(#[from] BuildError),
}

fn list(problems: &[FamilyProblem]) -> String {
    problems.iter().map(|p| format!("  {p}")).collect::<Vec<_>>().join("\n")
}

/// One disagreement between checkpoint and family file.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FamilyProblem {
    /// A value the model needs is in no JSON file.
    #[error("{file}: none of the keys {keys} exists (needed for {name})")]
    MissingKey {
        /// JSON file.
        file: &'static str,
        /// JSON pointers tried.
        keys: String,
        /// Name in the family file.
        name: String,
    },
    /// A value has the wrong type or an impossible number.
    #[error("{file}: {key} is {found}, expected {expected} (needed for {name})")]
    BadValue {
        /// JSON file, or `family file`.
        file: &'static str,
        /// JSON pointer or expression.
        key: String,
        /// Name in the family file.
        name: String,
        /// What was expected.
        expected: &'static str,
        /// What was found.
        found: String,
    },
    /// A setting that the family file does not support.
    #[error("config.json: {found}; only {wanted} is supported: {reason}")]
    Unsupported {
        /// Key and value.
        found: String,
        /// What is accepted.
        wanted: String,
        /// What the setting changes.
        reason: String,
    },
    /// A family file uses a name it does not define.
    #[error("family file: {user} refers to {name}, which is not defined")]
    Undefined {
        /// Where it is used.
        user: String,
        /// The undefined name.
        name: String,
    },
    /// The tokenizer lacks a token that the prompt needs.
    #[error("tokenizer: the token {token} does not exist (needed for {name})")]
    MissingToken {
        /// Text of the token.
        token: String,
        /// Name in the family file.
        name: String,
    },
    /// A tensor that must be there is not.
    #[error("tensor {tensor} is missing (role {role}, expected shape {shape:?})")]
    MissingTensor {
        /// Name in the first layout that fits.
        tensor: String,
        /// What it would be.
        role: String,
        /// Its shape by the configuration.
        shape: Vec<usize>,
    },
    /// A tensor has another shape than the configuration says.
    #[error("{file}: tensor {tensor} has shape {found:?}, config.json asks for {expected:?}")]
    WrongShape {
        /// Weight file.
        file: String,
        /// Tensor name.
        tensor: String,
        /// By the configuration.
        expected: Vec<usize>,
        /// In the file.
        found: Vec<usize>,
    },
    /// A tensor nobody claims.
    #[error("{file}: tensor {tensor} {shape:?} has no role in this family and no reason to be ignored")]
    Unclaimed {
        /// Weight file.
        file: String,
        /// Tensor name.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
    },
    /// Two tensors claim one role.
    #[error("family file: the role {role} is given to {first} and to {second}")]
    RoleTwice {
        /// The role.
        role: String,
        /// First tensor.
        first: String,
        /// Second tensor.
        second: String,
    },
    /// A stored shape cannot be seen the way the family file says.
    #[error("family file: tensor {tensor} of shape {shape:?} cannot become {wanted}")]
    View {
        /// Tensor name.
        tensor: String,
        /// Its shape.
        shape: Vec<usize>,
        /// The order of axes or the shape asked for.
        wanted: String,
    },
    /// The row blocks of a fused tensor do not add up.
    #[error("family file: tensor {tensor} has {rows} rows, its blocks have {blocks}")]
    Blocks {
        /// Tensor name.
        tensor: String,
        /// Rows by its shape.
        rows: usize,
        /// Sum of the blocks.
        blocks: usize,
    },
    /// The model has a weight no tensor was mapped to.
    #[error("family file: the model needs the role {role} {shape:?}, which no tensor has")]
    UnmappedRole {
        /// The role.
        role: String,
        /// Its canonical shape.
        shape: Vec<usize>,
    },
    /// A tensor was mapped to a role the model does not have.
    #[error("family file: tensor {tensor} is given the role {role}, which the model does not have")]
    UnknownRole {
        /// Tensor name.
        tensor: String,
        /// The role.
        role: String,
    },
    /// A role's tensor has another number of elements than the model's weight.
    #[error("family file: role {role} needs shape {expected:?}, tensor {tensor} gives {found:?}")]
    RoleShape {
        /// The role.
        role: String,
        /// Tensor name.
        tensor: String,
        /// Canonical shape.
        expected: Vec<usize>,
        /// Shape of the mapped rows.
        found: Vec<usize>,
    },
}
