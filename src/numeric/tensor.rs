//! Dense row-major tensors: the only array type the executor, calibration and export exchange.
//! There are no strides and no views, so every op reads and writes plain slices. No arithmetic lives here.

use crate::numeric::Real;

/// A dense array in row-major order. `data.len()` always equals the product of `shape`.
#[derive(Clone, Debug, PartialEq)]
pub struct Tensor<T> {
    shape: Vec<usize>,
    data: Vec<T>,
}

/// A tensor was built from a shape and a buffer that do not belong together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("shape {shape:?} needs {expected} elements, found {found}")]
pub struct ShapeError {
    /// The shape asked for.
    pub shape: Vec<usize>,
    /// Number of elements the shape needs.
    pub expected: usize,
    /// Number of elements in the buffer.
    pub found: usize,
}

impl<T> Tensor<T> {
    /// Wraps `data` (row-major) as a tensor of `shape`.
    ///
    /// # Errors
    /// [`ShapeError`] when the number of elements differs from the product of `shape` (or that product overflows).
    pub fn new(shape: Vec<usize>, data: Vec<T>) -> Result<Self, ShapeError> {
        let expected = shape.iter().try_fold(1usize, |a, &d| a.checked_mul(d));
        match expected {
            Some(n) if n == data.len() => Ok(Self { shape, data }),
            _ => Err(ShapeError { shape, expected: expected.unwrap_or(usize::MAX), found: data.len() }),
        }
    }

    /// The same elements under another shape of the same size.
    ///
    /// # Errors
    /// [`ShapeError`] when the sizes differ.
    pub fn reshape(self, shape: Vec<usize>) -> Result<Self, ShapeError> {
        Self::new(shape, self.data)
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// All elements in row-major order.
    pub fn data(&self) -> &[T] {
        &self.data
    }

    /// All elements, mutable.
    pub fn data_mut(&mut self) -> &mut [T] {
        &mut self.data
    }

    /// Gives the buffer back.
    pub fn into_data(self) -> Vec<T> {
        self.data
    }

    /// Extent of the last axis; 1 for a scalar.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Number of rows of length [`cols`](Self::cols): the product of all axes but the last.
    pub fn rows(&self) -> usize {
        let leading = self.shape.len().saturating_sub(1);
        self.shape[..leading].iter().product()
    }

    /// A tensor of the same shape with `f` applied to every element.
    pub fn map<U>(&self, f: impl FnMut(&T) -> U) -> Tensor<U> {
        Tensor { shape: self.shape.clone(), data: self.data.iter().map(f).collect() }
    }

    /// Row `i` of the tensor seen as a matrix of `rows() x cols()`.
    pub fn row(&self, i: usize) -> &[T] {
        let c = self.cols();
        &self.data[i * c..(i + 1) * c]
    }
}

impl<T: Clone> Tensor<T> {
    /// A tensor of `shape` with every element equal to `value`.
    pub fn full(shape: Vec<usize>, value: T) -> Self {
        let n = shape.iter().product();
        Self { shape, data: vec![value; n] }
    }
}

impl Tensor<f32> {
    /// Converts element by element to the executor's scalar type.
    pub fn cast<T: Real>(&self) -> Tensor<T> {
        self.map(|&x| T::from_f32(x))
    }
}
