//! Observers: running statistics of activations, in memory that does not grow with the samples, per modality. A [`Histogram`] tells a
//! static quantizer by a [`RangeRule`]; the other types are exact extremes.

mod choose;
mod histogram;
mod rule;
#[cfg(test)]
mod tests;

pub use choose::is_worth_a_zero_point;
pub use histogram::Histogram;
pub use rule::RangeRule;

pub use crate::numeric::quantizer::Quantizer;

/// Largest absolute value of a range, and how many rows it was taken from.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AbsMax {
    /// Largest `|x|`; 0 before any row. Not finite once a value was not.
    pub max: f32,
    /// Rows seen.
    pub rows: u64,
}

/// Min-max range of one linear's input per modality (symmetric, so the largest absolute value).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct ModalityRange {
    /// Visual rows.
    pub visual: AbsMax,
    /// Text rows.
    pub text: AbsMax,
}

/// Largest absolute value and energy per channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChannelMax {
    /// Largest `|x|` of each channel; empty before any row. Not finite once a value was not.
    pub max: Vec<f32>,
    /// Sum of `x^2` of each channel over the rows.
    pub energy: Vec<f64>,
    /// Rows seen.
    pub rows: u64,
}

impl ChannelMax {
    /// Takes one row into account.
    pub fn row(&mut self, row: &[f32]) {
        self.rows += 1;
        self.max.resize(row.len(), 0.0);
        self.energy.resize(row.len(), 0.0);
        for ((max, energy), x) in self.max.iter_mut().zip(&mut self.energy).zip(row) {
            *energy += f64::from(*x).powi(2);
            // `f32::max` would drop a NaN; a range that hides one would quantize garbage.
            let a = x.abs();
            if a > *max || a.is_nan() {
                *max = a;
            }
        }
    }

    /// The range of all channels together.
    pub fn whole(&self) -> AbsMax {
        let larger = |m: f32, &x: &f32| if x > m || x.is_nan() { x } else { m };
        AbsMax { max: self.max.iter().fold(0.0, larger), rows: self.rows }
    }
}

/// Ranges of one linear's input per modality and channel.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChannelRange {
    /// Visual rows.
    pub visual: ChannelMax,
    /// Text rows.
    pub text: ChannelMax,
}

impl ChannelRange {
    /// Takes one row of the given modality into account.
    pub fn row(&mut self, visual: bool, row: &[f32]) {
        if visual { self.visual.row(row) } else { self.text.row(row) }
    }

    /// The ranges of all channels together.
    pub fn whole(&self) -> ModalityRange {
        ModalityRange { visual: self.visual.whole(), text: self.text.whole() }
    }

    /// What the ranges become when channel `k` is divided by `by[k]`.
    pub fn divide(&mut self, by: &[f64]) {
        for seen in [&mut self.visual, &mut self.text] {
            seen.max.iter_mut().zip(by).for_each(|(m, s)| *m = (f64::from(*m) / s) as f32);
            seen.energy.iter_mut().zip(by).for_each(|(e, s)| *e /= s * s);
        }
    }
}

/// Histograms of one linear's input per modality.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModalityHistogram {
    /// Visual rows.
    pub visual: Histogram,
    /// Text rows.
    pub text: Histogram,
}

impl ModalityHistogram {
    /// Takes one row of the given modality into account.
    pub fn row(&mut self, visual: bool, row: &[f32]) {
        if visual { self.visual.row(row) } else { self.text.row(row) }
    }

    /// Adds what another pair has seen, see [`Histogram::merge`].
    pub fn merge(&mut self, other: &Self) {
        self.visual.merge(&other.visual);
        self.text.merge(&other.text);
    }

    /// The exact ranges.
    pub fn whole(&self) -> ModalityRange {
        let range = |h: &Histogram| AbsMax { max: h.abs_max(), rows: h.rows() };
        ModalityRange { visual: range(&self.visual), text: range(&self.text) }
    }
}

#[cfg(test)]
mod range_tests {
    use super::*;

    #[test]
    fn rows_count_for_their_modality_only() {
        let mut range = ChannelRange::default();
        range.row(true, &[1.0, -5.0]);
        range.row(true, &[3.0, 2.0]);
        range.row(false, &[2.0, 0.0]);
        assert_eq!(range.visual.max, [3.0, 5.0]);
        assert_eq!(range.visual.energy, [10.0, 29.0]);
        let whole = range.whole();
        assert_eq!((whole.visual.max, whole.text.max), (5.0, 2.0));
        assert_eq!((whole.visual.rows, whole.text.rows), (2, 1));
        range.divide(&[3.0, 10.0]);
        assert_eq!(range.whole().visual.max, 1.0);
    }

    #[test]
    fn a_nan_is_not_forgotten() {
        let mut seen = ChannelMax::default();
        seen.row(&[f32::NAN, 0.0]);
        seen.row(&[1.0, 4.0]);
        assert!(seen.whole().max.is_nan());
    }
}
