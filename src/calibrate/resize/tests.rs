//! Tests of the resampler against Pillow's output.

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;

/// A picture with hard edges and smooth ramps that Python can compute too.
fn pattern(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        let byte = |v: u32| (v & 255) as u8;
        ::image::Rgb([byte(x * 37 + y * 101 + x * y * 7), byte((x ^ y) * 13 + x * x), byte(x * 3 + y * 2)])
    })
}

/// Width and height.
type Size = (u32, u32);

/// First 8 bytes of the SHA-256 of `Image.resize(size, BICUBIC)` of the pattern, by Pillow 13.0.0.
const PILLOW: [(Size, Size, &str); 13] = [
    ((1, 1), (28, 28), "f81c4fa3aa1ad49e"),
    ((3, 2), (56, 28), "2239290bf65a8734"),
    ((28, 28), (28, 28), "aafad9f7aca3f4e6"),
    ((100, 60), (112, 56), "df7bb07f47981f34"),
    ((640, 480), (644, 476), "2c6d77ee1a4a7716"),
    ((257, 193), (28, 84), "898e2137a9ee8b8b"),
    ((300, 7), (308, 28), "927fcafedcf1eafb"),
    ((31, 700), (28, 700), "2017b0a79d30f352"),
    ((1344, 896), (560, 364), "63e0b04b280f0357"),
    ((50, 50), (84, 56), "89120360aaec486c"),
    ((2, 399), (28, 392), "3900179e3ca9b728"),
    ((512, 512), (28, 28), "626c02d95be4e275"),
    ((56, 84), (56, 140), "2dc243213863da8e"),
];

#[test]
fn resampling_is_pillows_bit_for_bit() {
    for ((w, h), (nw, nh), expected) in PILLOW {
        let out = bicubic(&pattern(w, h), nw, nh);
        assert_eq!(out.dimensions(), (nw, nh));
        let hash: String = Sha256::digest(out.as_raw())[..8].iter().map(|b| format!("{b:02x}")).collect();
        assert_eq!(hash, expected, "{w} x {h} -> {nw} x {nh}");
    }
}

#[test]
fn small_results_are_pillows_value_by_value() {
    #[rustfmt::skip]
    let larger: [u8; 60] = [
        0, 0, 0, 2, 4, 1, 27, 15, 3, 53, 25, 5, 67, 30, 6, 20, 3, 0, 32, 5, 1, 59, 11, 3, 86, 26, 5, 101, 34, 6,
        78, 11, 2, 93, 6, 3, 123, 4, 5, 153, 27, 7, 168, 43, 8, 107, 15, 2, 123, 7, 3, 155, 0, 5, 186, 28, 7, 202,
        47, 8,
    ];
    #[rustfmt::skip]
    let smaller: [u8; 36] = [
        95, 11, 3, 132, 44, 9, 137, 95, 17, 106, 149, 23, 150, 29, 7, 127, 38, 13, 134, 96, 21, 157, 143, 27, 144,
        63, 11, 116, 71, 17, 119, 41, 25, 142, 139, 31,
    ];
    assert_eq!(bicubic(&pattern(3, 2), 5, 4).as_raw().as_slice(), larger);
    assert_eq!(bicubic(&pattern(9, 6), 4, 3).as_raw().as_slice(), smaller);
}

proptest! {
    #[test]
    fn a_flat_picture_stays_flat(w in 1u32..60, h in 1u32..60, nw in 1u32..90, nh in 1u32..90, v: [u8; 3]) {
        let image = RgbImage::from_pixel(w, h, ::image::Rgb(v));
        prop_assert!(bicubic(&image, nw, nh).pixels().all(|p| p.0 == v));
    }
}
