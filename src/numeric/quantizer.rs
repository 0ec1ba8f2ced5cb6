//! Static int8 quantizers of activations: a scale and a zero point, chosen from a range. What range to choose is decided elsewhere.

use super::grid::symmetric_scale;

/// `code = clamp(round(x / scale) + zero, -128, 127)`, ties to even, as ONNX `QuantizeLinear` does; `x ~ (code - zero) * scale`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantizer {
    /// Distance of two neighbouring values; a positive normal number.
    pub scale: f32,
    /// The code of 0.0.
    pub zero: i8,
}

impl Quantizer {
    /// Zero point 0, `max_abs` on the code 127; scale 1 when that would not be a positive normal number.
    pub fn symmetric(max_abs: f32) -> Self {
        Self { scale: symmetric_scale(max_abs), zero: 0 }
    }

    /// 256 levels from `low` to `high`, the range widened to hold 0, which is exactly a level. Rounding the zero point shifts the levels by
    /// at most half a step, so no value of the range is off by more than one. Scale 1 and zero point 0 when the range is not finite
    /// or too narrow for a normal scale.
    pub fn between(low: f32, high: f32) -> Self {
        let (low, high) = (f64::from(low).min(0.0), f64::from(high).max(0.0));
        let scale = ((high - low) / 255.0) as f32;
        if !scale.is_normal() {
            return Self { scale: 1.0, zero: 0 };
        }
        let zero = (-128.0 - low / f64::from(scale)).round_ties_even().clamp(-128.0, 127.0);
        Self { scale, zero: zero as i8 }
    }

    /// The code of `x`; 0.0's for a NaN.
    pub fn code(&self, x: f32) -> i8 {
        let code = (x / self.scale).round_ties_even() + f32::from(self.zero);
        if code.is_nan() { self.zero } else { code.clamp(-128.0, 127.0) as i8 }
    }

    /// The value that `code` stands for.
    pub fn value(&self, code: i8) -> f32 {
        (f32::from(code) - f32::from(self.zero)) * self.scale
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_quantizers() {
        assert_eq!(Quantizer::symmetric(254.0), Quantizer { scale: 2.0, zero: 0 });
        assert_eq!(Quantizer::between(0.0, 255.0), Quantizer { scale: 1.0, zero: -128 });
        assert_eq!(Quantizer::between(-255.0, -3.0), Quantizer { scale: 1.0, zero: 127 });
        assert_eq!(Quantizer::between(-55.0, 200.0), Quantizer { scale: 1.0, zero: -73 });
        let nothing = Quantizer { scale: 1.0, zero: 0 };
        for (low, high) in [(0.0, 0.0), (f32::NAN, f32::NAN), (0.0, f32::INFINITY), (-1e-40, 1e-40)] {
            assert_eq!(Quantizer::between(low, high), nothing, "{low} {high}");
        }
        let q = Quantizer { scale: 0.5, zero: 10 };
        let codes = [0.0, 0.24, 0.26, 0.25, 0.75, 1e9, -1e9, f32::NAN].map(|x| q.code(x));
        assert_eq!(codes, [10, 10, 11, 10, 12, 127, -128, 10]);
        assert_eq!([q.value(10), q.value(12), q.value(-128)], [0.0, 1.0, -69.0]);
    }

    proptest! {
        #[test]
        fn zero_is_exact_and_the_range_is_covered(low in -1e4f32..1e4, width in 1e-3f32..1e4, at in 0f32..=1.0) {
            let q = Quantizer::between(low, low + width);
            prop_assert!(q.scale.is_normal() && q.scale > 0.0);
            prop_assert_eq!(q.value(q.code(0.0)), 0.0);
            let x = low + width * at;
            // Half a step of rounding and half a step of the shifted end, and f32 rounding of quotient and product.
            let bound = q.scale * (1.0 + 1e-4) + x.abs() * 4.0 * f32::EPSILON;
            prop_assert!((x - q.value(q.code(x))).abs() <= bound);
        }
    }
}
