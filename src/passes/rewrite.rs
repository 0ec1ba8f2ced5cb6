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
    /// Every run of columns as long as `width` loses its mean, in every row: tables of rows whose mean nothing reads.
    CenterColumns {
        /// Columns of a run.
        width: usize,
    },
    /// Every run of rows as long as `width` loses its mean, in every column: a linear that writes rows whose mean nothing reads, its bias alike.
    CenterRows {
        /// Rows of a run.
        width: usize,
    },
    /// One column becomes zero: a channel whose product is computed elsewhere.
    ZeroColumn {
        /// Its index.
        column: usize,
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

/// What a role that the checkpoint does not have begins as.
#[derive(Clone, Debug)]
enum Added {
    /// A vector of so many zeros.
    Zeros(usize),
    /// `[out, 1]`: a column of a matrix as its first changes leave it.
    Column { matrix: String, column: usize, changes: usize },
}

/// Changes of all roles, in the order in which they are applied.
#[derive(Clone, Debug, Default)]
pub struct Rewrites {
    changes: BTreeMap<String, Vec<Change>>,
    /// Roles that the checkpoint does not have, with what they begin as.
    added: BTreeMap<String, Added>,
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
        self.added.insert(role.to_string(), Added::Zeros(length));
    }

    /// Adds a matrix `[out, 1]` under a role that the checkpoint does not have: the column of another matrix as it is changed so far. What is
    /// done to that matrix later does not reach it.
    pub fn add_column(&mut self, role: &str, matrix: &str, column: usize) {
        let (matrix, changes) = (matrix.to_string(), self.of(matrix).len());
        self.added.insert(role.to_string(), Added::Column { matrix, column, changes });
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
        match self.rewrites.added.get(role) {
            Some(Added::Zeros(length)) => return Ok(Tensor::full(vec![*length], 0.0)),
            Some(Added::Column { matrix, column, changes }) => {
                let matrix = self.changed(matrix, *changes)?;
                return column_of(&matrix, *column)
                    .map_err(|source| WeightError::Shape { name: role.to_string(), source });
            }
            None => {}
        }
        if let Some(exact) = self.base.role_f64(role)? {
            return Ok(exact);
        }
        match self.base.role(role)? {
            WeightData::Float(t) => Ok(t.cast::<f64>()),
            WeightData::Grid(_) | WeightData::Blocks(_) => {
                Err(WeightError::Format { role: role.to_string() })
            }
        }
    }

    fn factors(&self, from: &Factors) -> Result<Vec<f64>, WeightError> {
        match from {
            Factors::Role(role) => Ok(self.original(role)?.into_data()),
            Factors::Numbers(numbers) => Ok(numbers.clone()),
        }
    }

    /// Numbers of a role after its first `count` changes.
    fn changed(&self, role: &str, count: usize) -> Result<Tensor<f64>, WeightError> {
        let mut tensor = self.original(role)?;
        for change in self.rewrites.of(role).iter().take(count) {
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
            Change::CenterColumns { width } => {
                fits(t.cols(), *width)?;
                t.data_mut().chunks_exact_mut(*width).for_each(center);
            }
            Change::CenterRows { width } => {
                let rows = if vector { t.data().len() } else { t.rows() };
                fits(rows, *width)?;
                let cols = t.data().len() / rows;
                t.data_mut().chunks_exact_mut(width * cols).for_each(|run| center_columns(run, cols));
            }
            Change::ZeroColumn { column } => {
                let cols = t.cols();
                inside(*column, cols)?;
                t.data_mut().iter_mut().skip(*column).step_by(cols).for_each(|x| *x = 0.0);
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

/// `index` is one of `extent`.
fn inside(index: usize, extent: usize) -> Result<(), ShapeError> {
    if index < extent {
        return Ok(());
    }
    Err(ShapeError { shape: vec![extent], expected: index + 1, found: extent })
}

/// `[out, 1]`: one column of a matrix.
fn column_of(matrix: &Tensor<f64>, column: usize) -> Result<Tensor<f64>, ShapeError> {
    inside(column, matrix.cols())?;
    let values = (0..matrix.rows()).map(|r| matrix.row(r)[column]).collect();
    Tensor::new(vec![matrix.rows(), 1], values)
}

/// Takes the mean off all values.
fn center(values: &mut [f64]) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    values.iter_mut().for_each(|x| *x -= mean);
}

/// Takes the mean off every column of rows of length `cols`.
fn center_columns(rows: &mut [f64], cols: usize) {
    let mut mean = vec![0.0; cols];
    let count = (rows.len() / cols) as f64;
    for row in rows.chunks_exact(cols) {
        mean.iter_mut().zip(row).for_each(|(m, x)| *m += x / count);
    }
    for row in rows.chunks_exact_mut(cols) {
        row.iter_mut().zip(&mean).for_each(|(x, m)| *x -= m);
    }
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
        Ok(WeightData::Float(self.changed(role, usize::MAX)?.map(|x| *x as f32)))
    }

    fn role_f64(&self, role: &str) -> Result<Option<Tensor<f64>>, WeightError> {
        self.changed(role, usize::MAX).map(Some)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `m` is `[4, 2]` with rows 0 1, 2 3, 4 5, 6 7; `v` is the numbers 0 to 3.
    struct Numbers;

    impl WeightSource for Numbers {
        fn role(&self, role: &str) -> Result<WeightData, WeightError> {
            let shape = if role == "m" { vec![4, 2] } else { vec![4] };
            let data = (0..shape.iter().product::<usize>()).map(|i| i as f32).collect();
            let shaped = Tensor::new(shape, data);
            shaped.map(WeightData::Float).map_err(|source| WeightError::Shape { name: role.into(), source })
        }
    }

    fn changed(role: &str, changes: &[Change]) -> Result<Vec<f64>, WeightError> {
        let mut rewrites = Rewrites::default();
        changes.iter().for_each(|c| rewrites.push(role, c.clone()));
        let found = RewrittenWeights::new(&Numbers, &rewrites).role_f64(role)?;
        Ok(found.unwrap().into_data())
    }

    #[test]
    fn means_leave_runs_of_rows_and_of_columns() {
        let rows = |width| changed("m", &[Change::CenterRows { width }]);
        assert_eq!(rows(4).unwrap(), [-3.0, -3.0, -1.0, -1.0, 1.0, 1.0, 3.0, 3.0]);
        assert_eq!(rows(2).unwrap(), [-1.0, -1.0, 1.0, 1.0, -1.0, -1.0, 1.0, 1.0]);
        assert_eq!(changed("v", &[Change::CenterRows { width: 2 }]).unwrap(), [-0.5, 0.5, -0.5, 0.5]);
        let columns = changed("m", &[Change::CenterColumns { width: 2 }]).unwrap();
        assert_eq!(columns, [-0.5, 0.5, -0.5, 0.5, -0.5, 0.5, -0.5, 0.5]);
        assert!(matches!(rows(3), Err(WeightError::Shape { name, .. }) if name == "m"));
    }

    #[test]
    fn an_added_column_is_the_matrix_as_it_was_then() {
        let mut rewrites = Rewrites::default();
        rewrites.push("m", Change::ScaleColumns { by: Factors::Numbers(vec![1.0, 10.0]) });
        rewrites.add_column("c", "m", 1);
        rewrites.push("m", Change::ZeroColumn { column: 1 });
        rewrites.push("c", Change::CenterRows { width: 4 });
        rewrites.add_column("outside", "m", 2);
        let weights = RewrittenWeights::new(&Numbers, &rewrites);
        let of = |role: &str| weights.role_f64(role).unwrap().unwrap();
        assert_eq!((of("c").shape(), of("c").data()), (&[4, 1][..], &[-30.0, -10.0, 10.0, 30.0][..]));
        assert_eq!(of("m").data(), [0.0, 0.0, 2.0, 0.0, 4.0, 0.0, 6.0, 0.0]);
        assert!(matches!(weights.role("outside"), Err(WeightError::Shape { name, .. }) if name == "outside"));
        assert!(changed("m", &[Change::ZeroColumn { column: 2 }]).is_err());
    }
}
