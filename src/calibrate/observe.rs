//! Observers: running statistics of activations, in constant memory, per modality.

/// Largest absolute value seen, and how many rows.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AbsMax {
    /// Largest `|x|`; 0 before any row. Not finite once a value was not.
    pub max: f32,
    /// Rows seen.
    pub rows: u64,
}

impl AbsMax {
    /// Takes one row into account.
    pub fn row(&mut self, row: &[f32]) {
        self.rows += 1;
        for x in row {
            // `max` would drop a NaN; a range that hides one would quantize garbage.
            let a = x.abs();
            if a > self.max || a.is_nan() {
                self.max = a;
            }
        }
    }
}

/// Min-max range of one linear's input per modality (symmetric, so the largest absolute value).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ModalityRange {
    /// Visual rows.
    pub visual: AbsMax,
    /// Text rows.
    pub text: AbsMax,
}

impl ModalityRange {
    /// Takes one row of the given modality into account.
    pub fn row(&mut self, visual: bool, row: &[f32]) {
        if visual { self.visual.row(row) } else { self.text.row(row) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_count_for_their_modality_only() {
        let mut range = ModalityRange::default();
        range.row(true, &[1.0, -5.0]);
        range.row(false, &[2.0]);
        assert_eq!((range.visual.max, range.text.max), (5.0, 2.0));
        assert_eq!((range.visual.rows, range.text.rows), (1, 1));
    }

    #[test]
    fn a_nan_is_not_forgotten() {
        let mut seen = AbsMax::default();
        seen.row(&[f32::NAN]);
        seen.row(&[1.0]);
        assert!(seen.max.is_nan());
    }
}
