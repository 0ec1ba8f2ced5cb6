//! Where the bits of codes and scales stand in blocks (`ggml/src/ggml-common.h`, `ggml/src/ggml-quants.c`). Codes here count from 0.

/// Half precision at byte `at`.
pub fn half(block: &[u8], at: usize) -> f32 {
    half::f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

/// Writes `x` in half precision at byte `at`; `x` is already of half precision.
pub fn set_half(block: &mut [u8], at: usize, x: f32) {
    block[at..at + 2].copy_from_slice(&half::f16::from_f32(x).to_le_bytes());
}

/// The nearest number of half precision, ties to even; infinite above 65504.
pub fn to_half(x: f32) -> f32 {
    half::f16::from_f32(x).to_f32()
}

/// Codes of 4 bits: of each pair of runs of `run` values the first in the lower halves of `run` bytes, the second in the upper halves.
pub fn read_nibbles(bytes: &[u8], run: usize, codes: &mut [u8]) {
    for (codes, bytes) in codes.chunks_exact_mut(2 * run).zip(bytes.chunks_exact(run)) {
        let (low, high) = codes.split_at_mut(run);
        for ((low, high), byte) in low.iter_mut().zip(high).zip(bytes) {
            (*low, *high) = (byte & 15, byte >> 4);
        }
    }
}

/// The reverse of [`read_nibbles`]; higher bits of the codes are left out.
pub fn write_nibbles(codes: &[u8], run: usize, bytes: &mut [u8]) {
    for (codes, bytes) in codes.chunks_exact(2 * run).zip(bytes.chunks_exact_mut(run)) {
        let (low, high) = codes.split_at(run);
        for ((low, high), byte) in low.iter().zip(high).zip(bytes) {
            *byte = (low & 15) | (high << 4);
        }
    }
}

/// Codes of 2 bits: value `i` of every run of 32 within 128 shares byte `i`, the first run in the lowest bits.
pub fn read_pairs(bytes: &[u8], codes: &mut [u8]) {
    for (codes, bytes) in codes.chunks_exact_mut(128).zip(bytes.chunks_exact(32)) {
        for (run, codes) in codes.chunks_exact_mut(32).enumerate() {
            codes.iter_mut().zip(bytes).for_each(|(code, byte)| *code = (byte >> (2 * run)) & 3);
        }
    }
}

/// The reverse of [`read_pairs`]; higher bits of the codes are left out.
pub fn write_pairs(codes: &[u8], bytes: &mut [u8]) {
    bytes.fill(0);
    for (codes, bytes) in codes.chunks_exact(128).zip(bytes.chunks_exact_mut(32)) {
        for (run, codes) in codes.chunks_exact(32).enumerate() {
            codes.iter().zip(&mut *bytes).for_each(|(code, byte)| *byte |= (code & 3) << (2 * run));
        }
    }
}

/// Adds one more bit, worth `value`, to codes: bit `r` of byte `i` belongs to value `32 r + i`.
pub fn read_planes(bytes: &[u8], value: u8, codes: &mut [u8]) {
    for (plane, codes) in codes.chunks_exact_mut(32).enumerate() {
        codes.iter_mut().zip(bytes).for_each(|(code, byte)| *code += value * (byte >> plane & 1));
    }
}

/// The reverse of [`read_planes`].
pub fn write_planes(codes: &[u8], value: u8, bytes: &mut [u8]) {
    bytes.fill(0);
    for (plane, codes) in codes.chunks_exact(32).enumerate() {
        codes.iter().zip(&mut *bytes).for_each(|(code, byte)| *byte |= u8::from(code & value != 0) << plane);
    }
}

/// Adds the fifth bit of 32 codes, bit `i` of a little-endian word.
pub fn read_fifth(bytes: &[u8], codes: &mut [u8]) {
    for (codes, byte) in codes.chunks_exact_mut(8).zip(bytes) {
        codes.iter_mut().enumerate().for_each(|(bit, code)| *code += 16 * (byte >> bit & 1));
    }
}

/// The reverse of [`read_fifth`].
pub fn write_fifth(codes: &[u8], bytes: &mut [u8]) {
    for (codes, byte) in codes.chunks_exact(8).zip(bytes) {
        *byte = codes.iter().enumerate().fold(0, |byte, (bit, code)| byte | (code >> 4 & 1) << bit);
    }
}

/// Eight scales and eight minimums of 6 bits in 12 bytes.
pub fn read_sixes(bytes: &[u8], scales: &mut [i16], mins: &mut [i16]) {
    for j in 0..4 {
        let (low, high, mixed) = (bytes[j], bytes[j + 4], bytes[j + 8]);
        scales[j] = i16::from(low & 63);
        mins[j] = i16::from(high & 63);
        scales[j + 4] = i16::from(mixed & 15 | low >> 6 << 4);
        mins[j + 4] = i16::from(mixed >> 4 | high >> 6 << 4);
    }
}

/// The reverse of [`read_sixes`].
pub fn write_sixes(scales: &[i16], mins: &[i16], bytes: &mut [u8]) {
    for j in 0..4 {
        let (scale, min) = (scales[j + 4] as u8, mins[j + 4] as u8);
        bytes[j] = scales[j] as u8 | scale >> 4 << 6;
        bytes[j + 4] = mins[j] as u8 | min >> 4 << 6;
        bytes[j + 8] = scale & 15 | min << 4;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::random::Random;

    fn codes(count: usize, below: u64) -> Vec<u8> {
        let mut random = Random::new(below);
        (0..count).map(|_| (random.next_u64() % below) as u8).collect()
    }

    #[test]
    fn what_is_written_is_read_again() {
        let (mut found, four, two, three) = (vec![0; 256], codes(256, 16), codes(256, 4), codes(256, 8));
        for run in [16, 32] {
            let mut bytes = vec![0; 128];
            write_nibbles(&four, run, &mut bytes);
            read_nibbles(&bytes, run, &mut found);
            assert_eq!(found, four);
        }
        let (mut bytes, mut planes) = (vec![0; 64], vec![0; 32]);
        write_pairs(&two, &mut bytes);
        read_pairs(&bytes, &mut found);
        assert_eq!(found, two);
        write_pairs(&three, &mut bytes);
        write_planes(&three, 4, &mut planes);
        read_pairs(&bytes, &mut found);
        read_planes(&planes, 4, &mut found);
        assert_eq!(found, three);
        let (five, mut nibbles, mut fifth) = (codes(32, 32), vec![0; 16], vec![0; 4]);
        write_nibbles(&five, 16, &mut nibbles);
        write_fifth(&five, &mut fifth);
        read_nibbles(&nibbles, 16, &mut found[..32]);
        read_fifth(&fifth, &mut found[..32]);
        assert_eq!(found[..32], five);
    }

    #[test]
    fn six_bits_stand_where_ggml_looks_for_them() {
        let six = |below| -> Vec<i16> { codes(8, below).into_iter().map(i16::from).collect() };
        let (scales, mins) = (six(64), six(63));
        let mut bytes = [0; 12];
        write_sixes(&scales, &mins, &mut bytes);
        let (mut s, mut m) = (vec![0; 8], vec![0; 8]);
        read_sixes(&bytes, &mut s, &mut m);
        assert_eq!((s, m), (scales.clone(), mins));
        // The sixth scale: its lower four bits in byte 9, the upper two at the top of byte 1.
        assert_eq!(i16::from(bytes[9] & 15) | i16::from(bytes[1] >> 6) << 4, scales[5]);
    }
}
