//! Weights as graphs see them: declarations (role, shape, format) in the model, numbers from a [`WeightSource`] on demand.
//! Where the numbers come from (checkpoint, a pass, a quantizer, an exported file) is the source's business.

use crate::numeric::ggml::{BlockMatrix, BlockType};
use crate::numeric::grid::{Grid, GridMatrix};
use crate::numeric::{ShapeError, Tensor};

/// Index into [`crate::graph::Model::weights`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WeightId(pub usize);

/// The part of a model a weight or node belongs to, as users name it in recipes and reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Component {
    /// Vision tower.
    Vision,
    /// Maps vision rows to decoder rows.
    Projector,
    /// Token table.
    Embedding,
    /// Language model with its head.
    Decoder,
}

impl Component {
    /// All components in graph order.
    pub const ALL: [Component; 4] =
        [Component::Vision, Component::Projector, Component::Embedding, Component::Decoder];

    /// Name in recipes, reports and role prefixes.
    pub fn name(self) -> &'static str {
        match self {
            Component::Vision => "vision",
            Component::Projector => "projector",
            Component::Embedding => "embedding",
            Component::Decoder => "decoder",
        }
    }

    /// The component a role belongs to: its first dotted word.
    pub fn of_role(role: &str) -> Option<Component> {
        let head = role.split('.').next()?;
        Component::ALL.into_iter().find(|c| c.name() == head)
    }
}

/// How a weight's numbers are stored in the exported artifact.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightFormat {
    /// `f32`.
    Float,
    /// Codes of a grid.
    Grid(Grid),
    /// Blocks of ggml.
    Blocks(BlockType),
}

/// A weight that nodes refer to. `parts` are the roles whose rows it stacks, one in the ordinary case.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightDecl {
    /// Canonical name, e.g. `decoder.layers.0.attn.q.weight`.
    pub name: String,
    /// `[out, in]` for matrices, `[n]` for vectors.
    pub shape: Vec<usize>,
    /// Roles stacked along the first axis; each is what a [`WeightSource`] is asked for.
    pub parts: Vec<String>,
    /// Storage format.
    pub format: WeightFormat,
}

/// The numbers of one weight.
#[derive(Clone, Debug, PartialEq)]
pub enum WeightData {
    /// Plain numbers.
    Float(Tensor<f32>),
    /// A matrix `[out, in]` on a grid.
    Grid(GridMatrix),
    /// A matrix `[out, in]` in blocks of ggml.
    Blocks(BlockMatrix),
}

/// Why a weight could not be had.
#[derive(Debug, thiserror::Error)]
pub enum WeightError {
    /// The source has no weight of this role.
    #[error("no weight has the role {role}")]
    Unknown {
        /// Role asked for.
        role: String,
    },
    /// Parts of one weight do not stack.
    #[error("weight {name}: part {part} does not stack with the parts before it ({reason})")]
    Parts {
        /// The declared weight.
        name: String,
        /// The part that does not fit.
        part: String,
        /// What differs.
        reason: &'static str,
    },
    /// The numbers do not have the declared shape.
    #[error("weight {name}: {source}")]
    Shape {
        /// The declared weight.
        name: String,
        /// The mismatch.
        source: ShapeError,
    },
    /// The numbers are codes where they must be floats.
    #[error("weight {role} is integer where its numbers are to be changed")]
    Format {
        /// Role asked for.
        role: String,
    },
    /// The source failed to read it.
    #[error("weight {role} could not be read")]
    Read {
        /// Role asked for.
        role: String,
        /// Cause.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Where the numbers of a model's weights come from. Loads are pure: the same role gives the same numbers.
pub trait WeightSource: Sync {
    /// The numbers of one role.
    ///
    /// # Errors
    /// [`WeightError`] when the role is unknown or cannot be read.
    fn role(&self, role: &str) -> Result<WeightData, WeightError>;

    /// The numbers of one float role in f64, from a source that computes them in it.
    ///
    /// # Errors
    /// As [`role`](Self::role).
    fn role_f64(&self, role: &str) -> Result<Option<Tensor<f64>>, WeightError> {
        let _ = role;
        Ok(None)
    }

    /// [`load`](Self::load) in f64, where every part is a float role that the source computes in it.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    fn load_f64(&self, decl: &WeightDecl) -> Result<Option<Tensor<f64>>, WeightError> {
        if decl.format != WeightFormat::Float {
            return Ok(None);
        }
        let mut data = Vec::new();
        for part in &decl.parts {
            match self.role_f64(part)? {
                Some(t) => data.extend(t.into_data()),
                None => return Ok(None),
            }
        }
        let shape = |source| WeightError::Shape { name: decl.name.clone(), source };
        Tensor::new(decl.shape.clone(), data).map(Some).map_err(shape)
    }

    /// The numbers of a declared weight, its parts stacked.
    ///
    /// # Errors
    /// [`WeightError`] when a part cannot be read or the parts do not stack to the declared shape.
    fn load(&self, decl: &WeightDecl) -> Result<WeightData, WeightError> {
        let mut parts = Vec::with_capacity(decl.parts.len());
        for p in &decl.parts {
            parts.push(self.role(p)?);
        }
        stack(decl, parts)
    }
}

fn stack(decl: &WeightDecl, parts: Vec<WeightData>) -> Result<WeightData, WeightError> {
    let shape_error = |source| WeightError::Shape { name: decl.name.clone(), source };
    let mut parts = parts.into_iter();
    let Some(mut whole) = parts.next() else {
        return Err(WeightError::Unknown { role: decl.name.clone() });
    };
    for (i, part) in parts.enumerate() {
        whole = match (whole, part) {
            (WeightData::Float(a), WeightData::Float(b)) => {
                WeightData::Float(append(a, b).map_err(shape_error)?)
            }
            (WeightData::Grid(a), WeightData::Grid(b)) if a.grid == b.grid && a.cols == b.cols => {
                WeightData::Grid(stack_codes(a, b))
            }
            (WeightData::Blocks(a), WeightData::Blocks(b)) if a.kind == b.kind && a.cols == b.cols => {
                WeightData::Blocks(stack_blocks(a, b))
            }
            _ => {
                let part = decl.parts[i + 1].clone();
                return Err(WeightError::Parts {
                    name: decl.name.clone(),
                    part,
                    reason: "different formats",
                });
            }
        };
    }
    match whole {
        WeightData::Float(t) => t.reshape(decl.shape.clone()).map(WeightData::Float).map_err(shape_error),
        WeightData::Grid(w) if decl.shape == [w.rows, w.cols] => Ok(WeightData::Grid(w)),
        WeightData::Blocks(w) if decl.shape == [w.rows, w.cols] => Ok(WeightData::Blocks(w)),
        WeightData::Grid(GridMatrix { rows, cols, .. })
        | WeightData::Blocks(BlockMatrix { rows, cols, .. }) => {
            let expected = decl.shape.iter().product();
            Err(shape_error(ShapeError { shape: decl.shape.clone(), expected, found: rows * cols }))
        }
    }
}

/// Stacks the rows of `b` under those of `a`, which has the same grid and width.
fn stack_codes(mut a: GridMatrix, b: GridMatrix) -> GridMatrix {
    a.rows += b.rows;
    a.codes.extend(b.codes);
    a.multipliers.extend(b.multipliers);
    a.scales.extend(b.scales);
    a
}

/// Stacks the rows of `b` under those of `a`, which has the same type and width.
fn stack_blocks(mut a: BlockMatrix, b: BlockMatrix) -> BlockMatrix {
    a.rows += b.rows;
    a.bytes.extend(b.bytes);
    a
}

/// Stacks the rows of `b` under those of `a`.
fn append<T>(a: Tensor<T>, b: Tensor<T>) -> Result<Tensor<T>, ShapeError> {
    let mut shape = a.shape().to_vec();
    let rows = b.shape().first().copied().unwrap_or(0);
    if let Some(first) = shape.first_mut() {
        *first += rows;
    }
    let mut data = a.into_data();
    data.extend(b.into_data());
    Tensor::new(shape, data)
}
