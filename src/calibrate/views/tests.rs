//! Tests of sizes and tiles against the references' examples, tables made by running their code, and laws.

use proptest::prelude::*;

use super::*;

const MIN: u64 = 3136;
const MAX: u64 = 12_845_056;

const TILES: Views = Views::Tiles { size: 448, min_tiles: 1, max_tiles: 12, thumbnail: true };
const SLICES: Views = Views::Slices { resolution: 448, patch: 14, max_slices: 9 };

/// `WIDTHxHEIGHT/COLUMNSxROWS ...`
fn text(views: &[View]) -> String {
    let one = |v: &View| format!("{}x{}/{}x{}", v.width, v.height, v.columns, v.rows);
    views.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn rule(text: &str) -> Views {
    let (name, numbers) = text.split_once(' ').unwrap();
    let n: Vec<u32> = numbers.split(' ').map(|x| x.parse().unwrap()).collect();
    match name {
        "tiles" => Views::Tiles { size: n[0], min_tiles: n[1], max_tiles: n[2], thumbnail: n[3] == 1 },
        "slices" => Views::Slices { resolution: n[0], patch: n[1], max_slices: n[2] },
        other => panic!("{other}"),
    }
}

#[test]
fn views_are_those_of_the_references() {
    let table = include_str!("../testdata/views.tsv");
    let mut lines = 0;
    for line in table.lines().filter(|l| !l.starts_with('#')) {
        let fields: Vec<&str> = line.split('\t').collect();
        let (width, height) = fields[1].split_once('x').unwrap();
        let found = views(&rule(fields[0]), width.parse().unwrap(), height.parse().unwrap()).unwrap();
        assert_eq!(text(&found), fields[2], "{line}");
        lines += 1;
    }
    assert_eq!(lines, 600);
}

#[test]
fn the_worked_examples_of_the_family_notes() {
    let tiles = |w, h| -> (String, usize) {
        let found = views(&TILES, w, h).unwrap();
        (format!("{}x{}", found[0].columns, found[0].rows), found.iter().map(View::tiles).sum())
    };
    assert_eq!(tiles(448, 448), ("1x1".into(), 1));
    assert_eq!(tiles(1344, 896), ("3x2".into(), 7));
    assert_eq!(tiles(640, 480), ("4x3".into(), 13));
    assert_eq!(tiles(4000, 1000), ("4x1".into(), 5));
    assert_eq!(tiles(800, 800), ("2x2".into(), 5));
    let slices = |w, h| text(&views(&SLICES, w, h).unwrap());
    assert_eq!(slices(448, 448), "448x448/1x1");
    assert_eq!(slices(300, 200), "546x364/1x1");
    assert_eq!(slices(640, 480), "518x392/1x1 728x546/2x1");
    assert_eq!(slices(1344, 896), "546x364/1x1 1344x896/3x2");
    assert_eq!(slices(4000, 1000), "896x224/1x1 2576x630/8x1");
    assert_eq!(slices(500, 3000), "182x1092/1x1 476x2940/1x7");
    assert_eq!(text(&views(&Views::Stretch { width: 30, height: 20 }, 7, 999).unwrap()), "30x20/1x1");
}

#[test]
fn grids_of_equally_many_tiles_never_tie_in_the_released_range() {
    // Two of them could only be nearest together if no other grid's ratio lay between theirs. Ratios as (columns, rows).
    let below = |a: (u32, u32), b: (u32, u32)| a.0 * b.1 < b.0 * a.1;
    for max in 1..=40u32 {
        let grids: Vec<(u32, u32)> = (1..=max)
            .flat_map(|n: u32| (1..=n).filter(move |c| n.is_multiple_of(*c)).map(move |c| (c, n / c)))
            .collect();
        for &a in &grids {
            for &b in grids.iter().filter(|b| a.0 * a.1 == b.0 * b.1 && below(a, **b)) {
                assert!(grids.iter().any(|&c| below(a, c) && below(c, b)), "{a:?} {b:?} of {max}");
            }
        }
    }
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

#[test]
fn absurd_numbers_are_refused() {
    let tiles = |size, min_tiles, max_tiles| {
        views(&Views::Tiles { size, min_tiles, max_tiles, thumbnail: true }, 100, 100).unwrap_err()
    };
    assert!(matches!(tiles(448, 0, 6), ImageError::Tiles { min: 0, max: 6 }));
    assert!(matches!(tiles(448, 7, 6), ImageError::Tiles { min: 7, max: 6 }));
    assert!(matches!(tiles(448, 1, 129), ImageError::Tiles { min: 1, max: 129 }));
    assert!(matches!(tiles(u32::MAX, 9, 9), ImageError::Target { .. }));
    assert!(matches!(tiles(0, 1, 1), ImageError::EmptyTarget { .. }));
    let slices = |resolution, patch, max_slices| {
        views(&Views::Slices { resolution, patch, max_slices }, 3000, 2000).unwrap_err()
    };
    assert!(matches!(slices(448, 14, 0), ImageError::Tiles { .. }));
    assert!(matches!(slices(448, 14, u32::MAX), ImageError::Tiles { .. }));
    assert!(matches!(slices(0, 14, 9), ImageError::EmptyTarget { .. }));
    assert!(matches!(slices(448, 0, 9), ImageError::EmptyTarget { .. }));
    assert!(matches!(slices(u32::MAX, 14, 9), ImageError::Target { .. }));
    assert!(matches!(slices(448, u32::MAX, 9), ImageError::Target { .. }));
    let stretch = |width, height| views(&Views::Stretch { width, height }, 5, 32768).unwrap_err();
    assert!(matches!(stretch(32768, 20), ImageError::Target { to: (32768, 20), .. }));
    assert!(matches!(stretch(0, 20), ImageError::EmptyTarget { .. }));
    for rule in [&TILES, &SLICES] {
        assert!(matches!(views(rule, 0, 7), Err(ImageError::EmptyTarget { .. })));
    }
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
    fn tiles_keep_their_laws(w in 1u32..20000, h in 1u32..20000, max_tiles in 1u32..40, thumbnail: bool) {
        let rule = Views::Tiles { size: 56, min_tiles: 1, max_tiles, thumbnail };
        let found = views(&rule, w, h).unwrap();
        let first = found[0];
        prop_assert!(first.tiles() <= max_tiles as usize);
        prop_assert_eq!((first.width, first.height), (first.columns * 56, first.rows * 56));
        let rest = if thumbnail && first.tiles() > 1 { vec![View::whole((56, 56))] } else { vec![] };
        prop_assert_eq!(&found[1..], rest.as_slice());
        // No grid of the same number of tiles is nearer to the aspect ratio.
        let off = |c: u32, r: u32| (f64::from(w) / f64::from(h) - f64::from(c) / f64::from(r)).abs();
        let tiles = first.columns * first.rows;
        for c in (1..=tiles).filter(|c| tiles.is_multiple_of(*c)) {
            prop_assert!(off(first.columns, first.rows) <= off(c, tiles / c));
        }
    }

    #[test]
    fn slices_keep_their_laws(w in 1u32..20000, h in 1u32..20000, max_slices in 1u32..30) {
        let rule = Views::Slices { resolution: 84, patch: 14, max_slices };
        let found = views(&rule, w, h).unwrap();
        prop_assert!(found.len() == 1 || found.len() == 2);
        prop_assert_eq!(found[0].tiles(), 1);
        for view in &found {
            prop_assert!(view.tiles() <= max_slices as usize);
            prop_assert!(view.width % (14 * view.columns) == 0 && view.width > 0);
            prop_assert!(view.height % (14 * view.rows) == 0 && view.height > 0);
        }
        let small = u64::from(w) * u64::from(h) <= 84 * 84;
        prop_assert_eq!(found.len() == 1, small || max_slices == 1);
    }
}
