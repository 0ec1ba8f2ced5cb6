//! Random numbers from a seed, the same on every run and for every number of threads: what random rotations are drawn from.
//! Not for secrets.

/// The generator splitmix64 (Steele, Lea and Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014): one 64-bit state,
/// period 2^64. Integers, signs and uniform numbers are the same bits on every platform; normal numbers go through `ln`, `sin` and `cos` of
/// the platform, which may differ in the last bit between platforms.
#[derive(Clone, Debug)]
pub struct Random {
    state: u64,
    /// The second normal number of the last pair.
    spare: Option<f64>,
}

impl Random {
    /// A generator that starts from `seed`; every seed is fine.
    pub fn new(seed: u64) -> Self {
        Self { state: seed, spare: None }
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = self.state;
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in `[0, 1)`: a multiple of 2^-53, all equally likely.
    pub fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A number of the standard normal distribution (Box and Muller 1958; both numbers of a pair are used).
    pub fn normal(&mut self) -> f64 {
        if let Some(x) = self.spare.take() {
            return x;
        }
        // 1 - u lies in (0, 1], so the logarithm is finite.
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * self.uniform()).sin_cos();
        self.spare = Some(radius * sin);
        radius * cos
    }

    /// `1.0` or `-1.0`, equally likely: the top bit of the next integer.
    pub fn sign(&mut self) -> f64 {
        if self.next_u64() >> 63 == 0 { 1.0 } else { -1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn integers_are_those_of_the_reference_program() {
        // First outputs of Vigna's splitmix64.c for the seed 1234567.
        let mut random = Random::new(1_234_567);
        let found: Vec<u64> = (0..5).map(|_| random.next_u64()).collect();
        let want = [
            6_457_827_717_110_365_317,
            3_203_168_211_198_807_973,
            9_817_491_932_198_370_423,
            4_593_380_528_125_082_431,
            16_408_922_859_458_223_821,
        ];
        assert_eq!(found, want);
    }

    #[test]
    fn moments_are_those_of_the_distributions() {
        let mut random = Random::new(1);
        let n = 100_000;
        let mean = |values: &[f64], power: i32| values.iter().map(|x| x.powi(power)).sum::<f64>() / n as f64;
        let normal: Vec<f64> = (0..n).map(|_| random.normal()).collect();
        // Standard errors over n numbers: sqrt(1, 2, 96) / sqrt(n) = 0.0032, 0.0045, 0.031; four of each are allowed.
        assert!(mean(&normal, 1).abs() < 0.013 && (mean(&normal, 2) - 1.0).abs() < 0.018);
        assert!((mean(&normal, 4) - 3.0).abs() < 0.125);
        let uniform: Vec<f64> = (0..n).map(|_| random.uniform()).collect();
        assert!(uniform.iter().all(|x| (0.0..1.0).contains(x)) && (mean(&uniform, 1) - 0.5).abs() < 0.004);
        let signs: Vec<f64> = (0..n).map(|_| random.sign()).collect();
        assert!(signs.iter().all(|x| x.abs() == 1.0) && mean(&signs, 1).abs() < 0.013);
    }
}
