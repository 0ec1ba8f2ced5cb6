//! What passes do to weights, as data: a list of changes per role, applied when the role is loaded. So a pass over a model of any size costs
//! nothing, and no more than one weight is ever in memory. All arithmetic is in f64; [`WeightSource::role_f64`] hands it out unrounded, so that
//! a proof in f64 is not blurred by weights rounded to f32.

use std::collections::BTreeMap;

use crate::graph::{WeightData, WeightError, WeightSource};
use crate::numeric::rotation::Rotation;
use crate::numeric::{ShapeError, Tensor};

/// One change of the numbers of a role: a matrix `W [out, in]`, a table of rows, or a vector `b [out]`.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Column `k` times factor `k mod n` of `n`: a norm's gain into a linear that reads the normalised rows, `n` at a time.
    ScaleColumns {
        /// The factors.
        by: Factors,
    },
    /// Row `m` (element `m` of a vector) times factor `m`: a gain behind a linear into it.
    ScaleRows {
        /// The factors.
        by: Factors,
    },
    /// `b + W v` with both as the checkpoint has them, `v` repeated along the columns of `W`: a norm's bias into the bias of a linear.
    AddProduct {
        /// Role of `W`.
        matrix: String,
        /// Role of `v`.
        vector: String,
    },
    /// Every run of columns as long as the rotation's order, times `Q`: a linear that reads rotated coordinates, or rows that are such.
    RotateColumns {
        /// Index into [`Rewrites::rotations`].
        rotation: usize,
    },
    /// Every run of rows as long as the rotation's order, `Q^T` times it: a linear that writes rotated coordinates, its bias alike.
    RotateRows {
        /// Index into [`Rewrites::rotations`].
        rotation: usize,
    },
    /// Every element becomes this number: what is left of a gain or a bias that was folded away.
    Fill {
        /// The number.
        value: f32,
    },
}

/// Where factors come from.
#[derive(Clone, Debug, PartialEq)]
pub enum Factors {
    /// The vector of this role, as the checkpoint has it.
    Role(String),
    /// These numbers.
    Numbers(Vec<f64>),
}

/// Changes of all roles, in the order in which they are applied.
#[derive(Clone, Debug, Default)]
pub struct Rewrites {
    changes: BTreeMap<String, Vec<Change>>,
    /// Roles that the checkpoint does not have, with their lengths: vectors that begin as zeros.
    added: BTreeMap<String, usize>,
    /// The rotations that changes name.
    pub rotations: Vec<Rotation>,
}

impl Rewrites {
    /// Appends a change of `role`.
    pub fn push(&mut self, role: &str, change: Change) {
        self.changes.entry(role.to_string()).or_default().push(change);
    }

    /// Adds a vector of zeros under a role that the checkpoint does not have.
    pub fn add(&mut self, role: &str, length: usize) {
        self.added.insert(role.to_string(), length);
    }

    /// Changes of a role so far.
    pub fn of(&self, role: &str) -> &[Change] {
        self.changes.get(role).map_or(&[], Vec::as_slice)
    }
}

/// A [`WeightSource`] that applies changes to what another gives.
pub struct RewrittenWeights<'a> {
    base: &'a dyn WeightSource,
    rewrites: &'a Rewrites,
}

impl<'a> RewrittenWeights<'a> {
    /// The weights of `base` as `rewrites` changes them.
    pub fn new(base: &'a dyn WeightSource, rewrites: &'a Rewrites) -> Self {
        Self { base, rewrites }
    }

    /// Numbers of a role before any change.
    fn original(&self, role: &str) -> Result<Tensor<f64>, WeightError> {
        if let Some(&length) = self.rewrites.added.get(role) {
            return Ok(Tensor::full(vec![length], 0.0));
        }
        if let Some(exact) = self.base.role_f64(role)? {
            return Ok(exact);
        }
        match self.base.role(role)? {
            WeightData::Float(t) => Ok(t.cast::<f64>()),
            WeightData::Grid(_) => Err(WeightError::Format { role: role.to_string() }),
        }
    }

    fn factors(&self, from: &Factors) -> Result<Vec<f64>, WeightError> {
        match from {
            Factors::Role(role) => Ok(self.original(role)?.into_data()),
            Factors::Numbers(numbers) => Ok(numbers.clone()),
        }
    }

    fn changed(&self, role: &str) -> Result<Tensor<f64>, WeightError> {
        let mut tensor = self.original(role)?;
        for change in self.rewrites.of(role) {
            self.apply(change, &mut tensor).map_err(|e| match e {
                Fault::Weight(e) => e,
                Fault::Shape(source) => WeightError::Shape { name: role.to_string(), source },
            })?;
        }
        Ok(tensor)
    }

    fn apply(&self, change: &Change, t: &mut Tensor<f64>) -> Result<(), Fault> {
        let vector = t.shape().len() < 2;
        match change {
            Change::Fill { value } => t.data_mut().fill(f64::from(*value)),
            Change::ScaleColumns { by } => {
                let gain = self.factors(by)?;
                fits(t.cols(), gain.len())?;
                let by = gain.iter().cycle();
                t.data_mut().iter_mut().zip(by).for_each(|(x, g)| *x *= g);
            }
            Change::ScaleRows { by } => {
                let gain = self.factors(by)?;
                let rows = if vector { t.data().len() } else { t.rows() };
                fits(rows, gain.len())?;
                let width = t.data().len() / gain.len().max(1);
                let rows = t.data_mut().chunks_exact_mut(width.max(1));
                rows.zip(&gain).for_each(|(row, g)| row.iter_mut().for_each(|x| *x *= g));
            }
            Change::AddProduct { matrix, vector } => {
                let (w, v) = (self.original(matrix)?, self.original(vector)?.into_data());
                fits(w.cols(), v.len())?;
                fits(t.data().len(), w.rows())?;
                for (m, b) in t.data_mut().iter_mut().enumerate() {
                    *b += w.row(m).iter().zip(v.iter().cycle()).map(|(w, v)| w * v).sum::<f64>();
                }
            }
            Change::RotateColumns { rotation } => {
                let q = &self.rewrites.rotations[*rotation];
                fits(t.cols(), q.order())?;
                q.right(t.data_mut());
            }
            Change::RotateRows { rotation } => {
                let q = &self.rewrites.rotations[*rotation];
                rotate_rows(q, t, vector)?;
            }
        }
        Ok(())
    }
}

/// Why a change does not apply.
enum Fault {
    Weight(WeightError),
    Shape(ShapeError),
}

impl From<WeightError> for Fault {
    fn from(e: WeightError) -> Self {
        Fault::Weight(e)
    }
}

impl From<ShapeError> for Fault {
    fn from(e: ShapeError) -> Self {
        Fault::Shape(e)
    }
}

/// `extent` holds whole runs of `order`.
fn fits(extent: usize, order: usize) -> Result<(), ShapeError> {
    if order > 0 && extent.is_multiple_of(order) {
        return Ok(());
    }
    Err(ShapeError { shape: vec![extent], expected: order, found: extent })
}

/// Columns turned at a time: a matrix product with `Q` works on rows, and a second copy of a large matrix would double the memory.
const STRIP: usize = 64;

/// `Q^T W` for every run of rows: with `x = W^T` it is `x Q`, column by column.
fn rotate_rows(q: &Rotation, t: &mut Tensor<f64>, vector: bool) -> Result<(), ShapeError> {
    if vector {
        fits(t.data().len(), q.order())?;
        q.right(t.data_mut());
        return Ok(());
    }
    let (rows, cols) = (t.rows(), t.cols());
    fits(rows, q.order())?;
    let data = t.data_mut();
    for first in (0..cols).step_by(STRIP) {
        let width = STRIP.min(cols - first);
        let mut strip = vec![0.0; width * rows];
        for r in 0..rows {
            for c in 0..width {
                strip[c * rows + r] = data[r * cols + first + c];
            }
        }
        q.right(&mut strip);
        for r in 0..rows {
            for c in 0..width {
                data[r * cols + first + c] = strip[c * rows + r];
            }
        }
    }
    Ok(())
}

impl WeightSource for RewrittenWeights<'_> {
    fn role(&self, role: &str) -> Result<WeightData, WeightError> {
        if self.rewrites.of(role).is_empty() && !self.rewrites.added.contains_key(role) {
            return self.base.role(role);
        }
        Ok(WeightData::Float(self.changed(role)?.map(|x| *x as f32)))
    }

    fn role_f64(&self, role: &str) -> Result<Option<Tensor<f64>>, WeightError> {
        self.changed(role).map(Some)
    }
}
