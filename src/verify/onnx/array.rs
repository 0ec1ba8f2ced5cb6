//! Dense arrays that share their elements: nodes which only rename axes copy nothing.

use std::sync::Arc;

use super::error::Fault;
use crate::numeric::Tensor;

/// Most elements of an array. A file that asks for more is damaged: its sizes would exhaust the memory before anything else was noticed.
pub const MOST_ELEMENTS: usize = u32::MAX as usize;

/// A dense array in row-major order; a clone shares the elements.
#[derive(Clone, Debug, PartialEq)]
pub struct Array<T> {
    shape: Vec<usize>,
    data: Arc<Vec<T>>,
}

/// Number of elements of a shape.
///
/// # Errors
/// [`Fault::TooLarge`] beyond [`MOST_ELEMENTS`].
pub fn elements(shape: &[usize]) -> Result<usize, Fault> {
    let product = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    // An empty axis must not hide the others: their product is used in strides.
    let others = shape.iter().filter(|d| **d > 0).try_fold(1usize, |n, &d| n.checked_mul(d));
    match (product, others) {
        (Some(n), Some(most)) if most <= MOST_ELEMENTS => Ok(n),
        _ => Err(Fault::TooLarge { shape: shape.to_vec() }),
    }
}

impl<T> Array<T> {
    /// An array of `shape` with these elements.
    ///
    /// # Errors
    /// [`Fault::Elements`] when their number is not that of the shape.
    pub fn new(shape: Vec<usize>, data: Vec<T>) -> Result<Self, Fault> {
        let expected = elements(&shape)?;
        if expected != data.len() {
            return Err(Fault::Elements { shape, found: data.len() });
        }
        Ok(Self { shape, data: Arc::new(data) })
    }

    /// One element without axes.
    pub fn scalar(value: T) -> Self {
        Self { shape: vec![], data: Arc::new(vec![value]) }
    }

    /// A list.
    pub fn list(data: Vec<T>) -> Self {
        Self { shape: vec![data.len()], data: Arc::new(data) }
    }

    /// Extents, outermost first.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// All elements.
    pub fn data(&self) -> &[T] {
        &self.data
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Extent of the last axis, 1 without axes.
    pub fn cols(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    /// Product of all extents but the last.
    pub fn rows(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// Extents before, of and behind an axis as products; the axis exists.
    pub fn around(&self, axis: usize) -> (usize, usize, usize) {
        around(&self.shape, axis)
    }

    /// The same elements under another shape.
    ///
    /// # Errors
    /// [`Fault::Elements`] when it has another number of elements.
    pub fn reshaped(&self, shape: Vec<usize>) -> Result<Self, Fault> {
        if elements(&shape)? != self.data.len() {
            return Err(Fault::Elements { shape, found: self.data.len() });
        }
        Ok(Self { shape, data: Arc::clone(&self.data) })
    }

    /// An array of the same shape.
    pub fn map<U>(&self, f: impl FnMut(&T) -> U) -> Array<U> {
        Array { shape: self.shape.clone(), data: Arc::new(self.data.iter().map(f).collect()) }
    }
}

/// Extents before, of and behind an axis of a shape as products; the axis exists.
pub fn around(shape: &[usize], axis: usize) -> (usize, usize, usize) {
    let (before, rest) = shape.split_at(axis.min(shape.len()));
    let (of, behind) = rest.split_first().map_or((1, &[][..]), |(of, behind)| (*of, behind));
    (before.iter().product(), of, behind.iter().product())
}

impl<T: Clone> Array<T> {
    /// The elements, copied only if others share them.
    pub fn into_data(self) -> Vec<T> {
        Arc::try_unwrap(self.data).unwrap_or_else(|shared| shared.as_ref().clone())
    }

    /// As a tensor.
    ///
    /// # Errors
    /// None: an array has as many elements as its shape says.
    pub fn into_tensor(self) -> Result<Tensor<T>, Fault> {
        let shape = self.shape.clone();
        Tensor::new(shape, self.into_data()).map_err(|e| Fault::Elements { shape: e.shape, found: e.found })
    }
}

impl<T> From<Tensor<T>> for Array<T> {
    fn from(tensor: Tensor<T>) -> Self {
        let shape = tensor.shape().to_vec();
        Self { shape, data: Arc::new(tensor.into_data()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        assert_eq!(elements(&[2, 0, 3]).unwrap(), 0);
        assert_eq!(elements(&[]).unwrap(), 1);
        for shape in [vec![usize::MAX, 2], vec![0, usize::MAX, 2], vec![1 << 20, 1 << 20]] {
            assert!(matches!(elements(&shape), Err(Fault::TooLarge { .. })), "{shape:?}");
        }
        assert!(Array::new(vec![2], vec![1]).is_err());
    }

    #[test]
    fn other_shapes_share_the_elements() {
        let a = Array::new(vec![2, 3], vec![1, 2, 3, 4, 5, 6]).unwrap();
        let b = a.reshaped(vec![6]).unwrap();
        assert!(std::ptr::eq(a.data(), b.data()));
        assert!(a.reshaped(vec![4]).is_err());
        assert_eq!(a.around(1), (2, 3, 1));
        assert_eq!((a.rows(), a.cols()), (2, 3));
    }
}
