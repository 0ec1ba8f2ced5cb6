//! The three attentions: full inside segments (vision tower), of fixed queries over segments (resampler), causal with a key/value cache
//! (decoder).

use super::{Check, OpError, OpSpec, OutType};
use crate::graph::types::{Dim, Sym, ValueInfo};
use crate::graph::weights::WeightDecl;

/// Softmax attention among rows of equal segment. Operands: q, k, v `[1, rows, heads * head_dim]`, segments `[rows]`
/// (non-decreasing). Scores are scaled by `head_dim^-1/2`.
#[derive(Clone, Debug, PartialEq)]
pub struct SegmentAttention {
    /// Heads.
    pub heads: usize,
    /// Channels per head.
    pub head_dim: usize,
}

/// Softmax attention of the same queries over the keys of each segment. Operands: q `[1, queries, heads * head_dim]` with a fixed number of
/// queries, k and v `[1, rows, heads * head_dim]`, segments `[rows]` (runs numbered from 0). Result `[1, into, heads * head_dim]`:
/// `queries` rows per segment, in segment order. Scores are scaled by `head_dim^-1/2`.
#[derive(Clone, Debug, PartialEq)]
pub struct CrossAttention {
    /// Heads.
    pub heads: usize,
    /// Channels per head.
    pub head_dim: usize,
    /// Extent of the result.
    pub into: Sym,
}

/// Causal grouped-query attention with a cache. Operands: q `[batch, sequence, heads * head_dim]`, k and v
/// `[batch, sequence, kv_heads * head_dim]`, `attention_mask [batch, total]`, cached keys and values
/// `[batch, kv_heads, past, head_dim]`. Results: the output like q, and the caches grown to `total`. Query `i` sees key `j` when
/// `j <= past + i` and the mask of `j` is 1. Head `h` of q reads head `h / (heads / kv_heads)` of k and v.
#[derive(Clone, Debug, PartialEq)]
pub struct CausalAttention {
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Channels per head.
    pub head_dim: usize,
}

impl OpSpec for SegmentAttention {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "SegmentAttention" };
        let [q, k, v, segments] = c.operands(inputs)?;
        for x in [q, k, v] {
            c.no_basis(c.float(x)?)?;
            c.rank(x, 3)?;
            c.has_channels(x, self.heads * self.head_dim)?;
        }
        c.int(segments, 1)?;
        Ok(vec![OutType::like(q)])
    }
}

impl OpSpec for CrossAttention {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "CrossAttention" };
        let [q, k, v, segments] = c.operands(inputs)?;
        for x in [q, k, v] {
            c.no_basis(c.float(x)?)?;
            c.rank(x, 3)?;
            c.has_channels(x, self.heads * self.head_dim)?;
        }
        let one = Dim::Fixed(1);
        if q.shape[0] != one || !matches!(q.shape[1], Dim::Fixed(_)) {
            return c.fail(format!("expected a fixed number of queries in one batch, found {q}"));
        }
        c.same_shape(k, v)?;
        c.int(segments, 1)?;
        if k.shape[0] != one || segments.shape[0] != k.shape[1] {
            return c.fail(format!("{segments} does not number the rows of {k}"));
        }
        Ok(vec![OutType::float(vec![one, Dim::Sym(self.into), q.shape[2]])])
    }
}

impl OpSpec for CausalAttention {
    fn infer(&self, inputs: &[&ValueInfo], _: &[WeightDecl]) -> Result<Vec<OutType>, OpError> {
        let c = Check { op: "CausalAttention" };
        let [q, k, v, mask, past_k, past_v] = c.operands(inputs)?;
        if self.kv_heads == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            return c
                .fail(format!("{} query heads do not group over {} key heads", self.heads, self.kv_heads));
        }
        for (x, heads) in [(q, self.heads), (k, self.kv_heads), (v, self.kv_heads)] {
            c.no_basis(c.float(x)?)?;
            c.rank(x, 3)?;
            c.has_channels(x, heads * self.head_dim)?;
            c.same_rows(q, x)?;
        }
        c.int(mask, 2)?;
        if mask.shape[0] != q.shape[0] {
            return c.fail(format!("{mask} does not describe the prompts of {q}"));
        }
        let cache = |length| {
            let fixed = Dim::Fixed;
            vec![Dim::Sym(Sym::Batch), fixed(self.kv_heads), Dim::Sym(length), fixed(self.head_dim)]
        };
        for past in [past_k, past_v] {
            if c.float(past)?.shape != cache(Sym::Past) {
                return c.fail(format!("expected a cache of shape {:?}, found {past}", cache(Sym::Past)));
            }
        }
        let present = OutType::float(cache(Sym::Total));
        Ok(vec![OutType::like(q), present.clone(), present])
    }
}
