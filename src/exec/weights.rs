//! Weights in the executor's precision: loaded per node, or kept when a graph runs many times (decoding).

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use crate::graph::{WeightData, WeightDecl, WeightError, WeightId, WeightSource};
use crate::numeric::{Real, Tensor};

/// A linear's matrix ready for the product. An integer weight is held as its codes, so that integer products stay exact.
#[derive(Clone, Debug)]
pub struct LinearWeight<T> {
    /// Numbers or codes, `[out, in]`; vectors `[n]`.
    pub values: Tensor<T>,
    /// Scale per output channel when `values` are codes.
    pub scales: Option<Vec<T>>,
}

/// Loads weights from a source and, if asked to, keeps them.
pub struct WeightCache<'a, T> {
    source: &'a dyn WeightSource,
    kept: Option<Mutex<HashMap<WeightId, Arc<LinearWeight<T>>>>>,
}

impl<'a, T: Real> WeightCache<'a, T> {
    /// Loads at every use: memory stays bounded by one weight.
    pub fn streaming(source: &'a dyn WeightSource) -> Self {
        Self { source, kept: None }
    }

    /// Loads once and keeps everything.
    pub fn keeping(source: &'a dyn WeightSource) -> Self {
        Self { source, kept: Some(Mutex::new(HashMap::new())) }
    }

    /// The numbers of a weight.
    ///
    /// # Errors
    /// [`WeightError`] when the source cannot give it.
    pub fn get(&self, id: WeightId, decl: &WeightDecl) -> Result<Arc<LinearWeight<T>>, WeightError> {
        let Some(kept) = &self.kept else {
            return Ok(Arc::new(self.load(decl)?));
        };
        let lock = || kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(w) = lock().get(&id) {
            return Ok(w.clone());
        }
        let loaded = Arc::new(self.load(decl)?);
        lock().insert(id, loaded.clone());
        Ok(loaded)
    }
}

impl<T: Real> WeightCache<'_, T> {
    /// Gives `weight` from now on, where weights are kept.
    pub fn replace(&self, id: WeightId, weight: LinearWeight<T>) {
        if let Some(kept) = &self.kept {
            kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).insert(id, Arc::new(weight));
        }
    }

    /// In f64, the source's own f64 numbers where it has such.
    fn load(&self, decl: &WeightDecl) -> Result<LinearWeight<T>, WeightError> {
        if T::DOUBLE
            && let Some(exact) = self.source.load_f64(decl)?
        {
            return Ok(LinearWeight { values: exact.map(|&x| T::from_f64(x)), scales: None });
        }
        convert(decl, self.source.load(decl)?)
    }
}

fn convert<T: Real>(decl: &WeightDecl, data: WeightData) -> Result<LinearWeight<T>, WeightError> {
    match data {
        WeightData::Float(t) => Ok(LinearWeight { values: t.cast(), scales: None }),
        WeightData::Grid(w) => {
            let codes = w.int8().iter().map(|&c| T::from_f32(f32::from(c))).collect();
            let shape = |source| WeightError::Shape { name: decl.name.clone(), source };
            let values = Tensor::new(vec![w.rows, w.cols], codes).map_err(shape)?;
            Ok(LinearWeight { values, scales: Some(w.scales.iter().map(|&s| T::from_f32(s)).collect()) })
        }
        WeightData::Blocks(w) => {
            let values = w.dequantize().into_iter().map(T::from_f32).collect();
            let shape = |source| WeightError::Shape { name: decl.name.clone(), source };
            Ok(LinearWeight {
                values: Tensor::new(vec![w.rows, w.cols], values).map_err(shape)?,
                scales: None,
            })
        }
    }
}
