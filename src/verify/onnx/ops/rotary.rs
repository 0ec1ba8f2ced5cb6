//! com.microsoft.RotaryEmbedding (`docs/ContribOperators.md` of ONNX Runtime).

use rayon::prelude::*;

use super::{Call, Results, one};
use crate::verify::onnx::array::Array;
use crate::verify::onnx::error::Fault;

/// Where the two members of a pair are.
#[derive(Clone, Copy)]
struct Pairs {
    half: usize,
    interleaved: bool,
}

impl Pairs {
    fn of(self, j: usize) -> (usize, usize) {
        if self.interleaved { (2 * j, 2 * j + 1) } else { (j, j + self.half) }
    }

    /// Turns the first channels of a head by the angles of its row.
    fn turn(self, head: &mut [f32], cos: &[f32], sin: &[f32]) {
        for (j, (c, s)) in cos.iter().zip(sin).enumerate() {
            let (first, second) = self.of(j);
            let (x, y) = (head[first], head[second]);
            head[first] = x * c - y * s;
            head[second] = y * c + x * s;
        }
    }
}

/// Turns the channels of rows `[batch, rows, heads * dim]` in pairs by angles that are looked up by the position of the row.
pub fn rotary_embedding(call: &Call<'_>) -> Results {
    let (x, positions) = (call.of::<f32>(0)?, call.of::<i64>(1)?);
    let (cos, sin) = (call.of::<f32>(2)?, call.of::<f32>(3)?);
    let heads = call.node.size("num_heads")?;
    let interleaved = call.node.int_among("interleaved", 0, &[0, 1])? == 1;
    if call.node.float("scale", 1.0)? != 1.0 {
        return Err(Fault::attribute("scale", "1", call.node.attributes.get("scale")));
    }
    let &[batch, rows, width] = x.shape() else {
        return Err(Fault::shape("[batch, rows, channels]", x.shape()));
    };
    let dim = width / heads;
    let turned = call.node.int("rotary_embedding_dim", 0)?;
    let turned = if turned == 0 { dim as i64 } else { turned };
    let half = cos.cols();
    if width != heads * dim || dim == 0 || turned != 2 * half as i64 || 2 * half > dim || half == 0 {
        let expected = format!("{heads} heads with {turned} channels to turn, and half as many angles");
        return Err(Fault::shape(expected, (x.shape(), cos.shape())));
    }
    if positions.shape() != [batch, rows] || cos.shape() != sin.shape() || cos.shape().len() != 2 {
        let expected = format!("positions [{batch}, {rows}] and tables [positions, {half}]");
        return Err(Fault::shape(expected, (positions.shape(), cos.shape(), sin.shape())));
    }
    let known = cos.rows();
    if let Some(far) = positions.data().iter().find(|p| usize::try_from(**p).map_or(true, |p| p >= known)) {
        return Err(Fault::shape(format!("positions below {known}"), far));
    }
    let pairs = Pairs { half, interleaved };
    let mut out = x.data().to_vec();
    out.par_chunks_mut(width).zip(positions.data()).for_each(|(row, position)| {
        let at = *position as usize * half..(*position as usize + 1) * half;
        let (cos, sin) = (&cos.data()[at.clone()], &sin.data()[at]);
        row.chunks_exact_mut(dim).for_each(|head| pairs.turn(head, cos, sin));
    });
    one(Array::new(x.shape().to_vec(), out)?)
}
