//! Tests of sizes against the reference's laws and examples, and of the resampler against Pillow's output.

use proptest::prelude::*;
use sha2::{Digest, Sha256};

use super::*;

const MIN: u64 = 3136;
const MAX: u64 = 12_845_056;

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

#[test]
fn sizes_are_those_of_the_reference() {
    let size = |w, h| smart_resize(w, h, 28, MIN, MAX).unwrap();
    assert_eq!(size(448, 448), (448, 448));
    assert_eq!(size(640, 480), (644, 476));
    assert_eq!(size(1344, 896), (1344, 896));
    assert_eq!(size(100, 60), (112, 56));
    assert_eq!(size(4000, 3000), (4004, 2996));
    // Half to even: 42 / 28 = 1.5 -> 2, 70 / 28 = 2.5 -> 2, 98 / 28 = 3.5 -> 4.
    assert_eq!(smart_resize(42, 70, 28, 1, MAX).unwrap(), (56, 56));
    assert_eq!(smart_resize(98, 98, 28, 1, MAX).unwrap(), (112, 112));
    // A side that rounds to 0 is lifted by the lower area limit.
    assert_eq!(size(5, 500), (28, 560));
    // Shrinking never goes below one block.
    assert_eq!(smart_resize(20, 4000, 28, 1, 50_000).unwrap(), (28, 3136));
}

#[test]
fn impossible_sizes_are_refused() {
    let size = |w, h| smart_resize(w, h, 28, MIN, MAX);
    assert!(size(10, 2000).is_ok());
    assert!(matches!(size(10, 2001), Err(ImageError::Aspect { width: 10, height: 2001 })));
    assert!(matches!(size(0, 5), Err(ImageError::EmptyTarget { .. })));
    assert!(matches!(smart_resize(5, 5, 28, 0, MAX), Err(ImageError::EmptyTarget { .. })));
    assert!(matches!(smart_resize(5, 5, 0, 0, MAX), Err(ImageError::EmptyTarget { .. })));
}

proptest! {
    #[test]
    fn smart_resize_keeps_its_laws(w in 1u32..5000, h in 1u32..5000) {
        prop_assume!(f64::from(w.max(h)) / f64::from(w.min(h)) <= MAX_ASPECT);
        let (nw, nh) = smart_resize(w, h, 28, MIN, MAX).unwrap();
        prop_assert!(nw % 28 == 0 && nh % 28 == 0 && nw > 0 && nh > 0);
        let area = u64::from(nw) * u64::from(nh);
        prop_assert!(area >= MIN, "{nw} x {nh}");
        prop_assert!(area <= MAX, "{nw} x {nh}");
        // Swapping the sides swaps the result, and a result is its own target.
        prop_assert_eq!(smart_resize(h, w, 28, MIN, MAX).unwrap(), (nh, nw));
        prop_assert_eq!(smart_resize(nw, nh, 28, MIN, MAX).unwrap(), (nw, nh));
        // Inside the limits each side moves by at most half a block.
        if w >= 70 && h >= 70 && u64::from(w + 14) * u64::from(h + 14) <= MAX {
            prop_assert!(nw.abs_diff(w) <= 14 && nh.abs_diff(h) <= 14);
        }
    }

    #[test]
    fn a_flat_picture_stays_flat(w in 1u32..60, h in 1u32..60, nw in 1u32..90, nh in 1u32..90, v: [u8; 3]) {
        let image = RgbImage::from_pixel(w, h, ::image::Rgb(v));
        prop_assert!(bicubic(&image, nw, nh).pixels().all(|p| p.0 == v));
    }
}
