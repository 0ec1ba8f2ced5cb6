//! Bicubic resizing of tables of rows, as PyTorch's `interpolate(mode="bicubic", align_corners=False)` does it for position embeddings:
//! cubic convolution with A = -0.75, borders repeated, no antialiasing (ATen `upsample_bicubic2d`).

/// A table of `from[0] x from[1]` rows of `width` numbers resized to `to[0] x to[1]` rows. Sums are in f64.
pub fn resize_table(table: &[f32], from: [usize; 2], to: [usize; 2], width: usize) -> Vec<f32> {
    let [vertical, horizontal] = [0, 1].map(|axis| taps(from[axis], to[axis]));
    let mut out = Vec::with_capacity(to[0] * to[1] * width);
    for v in &vertical {
        for h in &horizontal {
            for channel in 0..width {
                let line = |row: usize| -> f64 {
                    let at = |column: usize| f64::from(table[(row * from[1] + column) * width + channel]);
                    h.iter().map(|&(column, weight)| weight * at(column)).sum()
                };
                out.push(v.iter().map(|&(row, weight)| weight * line(row)).sum::<f64>() as f32);
            }
        }
    }
    out
}

/// For every target index the four source indices and their weights.
fn taps(from: usize, to: usize) -> Vec<[(usize, f64); 4]> {
    const A: f64 = -0.75;
    // Keys' kernel inside and outside of the unit interval.
    let near = |x: f64| ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0;
    let far = |x: f64| ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A;
    // ATen computes the scale and the source coordinate in f32.
    let scale = from as f32 / to as f32;
    (0..to)
        .map(|i| {
            let x = scale * (i as f32 + 0.5) - 0.5;
            let (base, t) = (x.floor(), f64::from(x - x.floor()));
            let weights = [far(t + 1.0), near(t), near(1.0 - t), far(2.0 - t)];
            let last = from as i64 - 1;
            let mut all = [(0, 0.0); 4];
            for (k, (slot, weight)) in all.iter_mut().zip(weights).enumerate() {
                *slot = ((base as i64 - 1 + k as i64).clamp(0, last) as usize, weight);
            }
            all
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::resize_table;

    #[test]
    fn the_same_size_changes_nothing() {
        let table: Vec<f32> = (0..24).map(|x| (x * x % 17) as f32).collect();
        assert_eq!(resize_table(&table, [3, 4], [3, 4], 2), table);
    }

    #[test]
    fn a_constant_stays_constant() {
        for x in resize_table(&[0.7; 16], [4, 4], [9, 5], 1) {
            assert!((x - 0.7).abs() < 1e-7);
        }
    }

    /// `torch.nn.functional.interpolate(torch.arange(9.).square().reshape(1, 1, 3, 3), size=(4, 5), mode="bicubic")`.
    #[test]
    fn equals_pytorch() {
        let table: Vec<f32> = (0..9).map(|x| (x * x) as f32).collect();
        let found = resize_table(&table, [3, 3], [4, 5], 1);
        for (x, want) in found.iter().zip(TORCH) {
            assert!((x - want).abs() <= 1e-5, "{x} {want}");
        }
    }

    const TORCH: [f32; 20] = [
        -0.700652, -0.610085, -0.07666, 1.536766, 2.739332, 2.389372, 3.967003, 6.969238, 11.05148, 13.74111,
        18.77542, 22.67779, 29.53955, 37.48131, 42.49569, 36.64865, 42.03808, 51.36865, 61.77923, 68.28067,
    ];
}
