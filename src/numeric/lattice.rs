//! What every weight format that GPTQ can round to has in common: the values of a row are `step * code + offset`.

/// `1.5 * 2^23`: an `f32` of this size has no fraction bits, so adding it rounds to the nearest integer, ties to even.
const ROUND: f32 = 12_582_912.0;

/// The values that the weights of a matrix may take: `step * code + offset`, with steps and offsets shared by neighbours of a row. Steps may be negative
/// or zero; at a step of zero every code is the same value.
#[derive(Clone, Debug, PartialEq)]
pub struct Lattice {
    /// Lowest code.
    pub lowest: i8,
    /// Highest code.
    pub highest: i8,
    /// Columns that share step and offset, at least 1; the last group of a row may be shorter.
    pub group: usize,
    /// `[rows, groups]` row-major.
    pub steps: Vec<f32>,
    /// `[rows, groups]` row-major; none where the value of code 0 is 0 everywhere.
    pub offsets: Option<Vec<f32>>,
}

impl Lattice {
    /// Groups of a row of `cols` columns.
    pub fn groups(&self, cols: usize) -> usize {
        cols.div_ceil(self.group.max(1))
    }
}

/// `x` rounded to the nearest integer between the two, ties to even; the lower one for NaN. Both are at most 128 in size.
#[inline(always)]
pub(super) fn nearest_code(x: f32, (lowest, highest): (f32, f32)) -> f32 {
    // The same as round_ties_even, which is a call per number where the compiler may not assume SSE 4.1.
    (x.max(lowest).min(highest) + ROUND) - ROUND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_by_addition_is_rounding_to_nearest_even() {
        for i in -300_000..300_000 {
            let x = i as f32 / 1024.0;
            for (lowest, highest) in [(-1.0, 1.0), (-8.0, 7.0), (0.0, 31.0), (-127.0, 127.0)] {
                let want = x.round_ties_even().clamp(lowest, highest);
                assert_eq!(nearest_code(x, (lowest, highest)), want, "{x}");
            }
        }
        assert_eq!(nearest_code(f32::NAN, (-8.0, 7.0)), -8.0);
        assert_eq!(nearest_code(f32::INFINITY, (-8.0, 7.0)), 7.0);
    }
}
