//! Hadamard matrices against their definition, in integers, and their fast products against the dense ones.

use super::*;
use crate::numeric::random::Random;

/// `H H^T = n I`, exactly, on rows packed into bits.
fn assert_is_hadamard(h: &Hadamard) {
    let n = h.order();
    let pack = |i: usize| {
        let mut words = vec![0u64; n.div_ceil(64)];
        (0..n).filter(|&j| h.entry(i, j) < 0).for_each(|j| words[j / 64] |= 1 << (j % 64));
        words
    };
    let rows: Vec<Vec<u64>> = (0..n).map(pack).collect();
    for i in 0..n {
        for j in 0..i {
            let differ: u32 = rows[i].iter().zip(&rows[j]).map(|(a, b)| (a ^ b).count_ones()).sum();
            assert_eq!(2 * differ as usize, n, "rows {i} and {j} of {h}");
        }
    }
}

#[test]
fn every_base_order_is_a_hadamard_matrix() {
    let mut found = vec![];
    for order in (4..=432).step_by(4) {
        if let Some(base) = Construction::of(order).map(|c| c.build().unwrap()) {
            let h = Hadamard { n: order, sylvester: 1, bases: vec![base] };
            assert_is_hadamard(&h);
            assert_is_hadamard(&h.normalised());
            found.push(order);
        }
    }
    let listed = [12, 20, 28, 36, 44, 52, 60, 68, 76, 84, 92, 100, 108, 116, 124, 132, 140, 148, 164, 172];
    assert!(listed.iter().all(|n| found.contains(n)) && found.contains(&344) && found.contains(&428));
}

#[test]
fn products_are_hadamard_matrices() {
    for n in [1, 2, 4, 16, 24, 40, 72, 240, 336, 896, 1152, 1280, 1792] {
        let h = Hadamard::of_order(n).unwrap();
        assert_eq!(h.order(), n);
        assert_is_hadamard(&h);
    }
}

#[test]
fn orders_without_a_construction() {
    let missing: Vec<usize> = (4..512).step_by(4).filter(|&n| Hadamard::of_order(n).is_none()).collect();
    let documented = [156, 188, 236, 260, 268, 292, 324, 356, 372, 376, 404, 412, 436, 452, 472, 476, 508];
    assert_eq!(missing, documented);
    for n in [0, 3, 6, 7, 10, 14, 18, 22, 30, 1110, 3586, 4304] {
        assert!(Hadamard::of_order(n).is_none(), "{n}");
    }
}

#[test]
fn orders_of_real_layers_and_their_factors() {
    for (n, want) in [
        (1, "1"),
        (12, "12"),
        (896, "896 = 32 x 28"),
        (1024, "1024"),
        (1152, "1152 = 8 x 12 x 12"),
        (1280, "1280 = 64 x 20"),
        (1664, "1664 = 32 x 52"),
        (1792, "1792 = 64 x 28"),
        (3072, "3072 = 256 x 12"),
        (3200, "3200 = 8 x 20 x 20"),
        (3584, "3584 = 128 x 28"),
        (4096, "4096"),
        (4864, "4864 = 64 x 76"),
        (5120, "5120 = 256 x 20"),
        (7168, "7168 = 256 x 28"),
        (8960, "8960 = 16 x 20 x 28"),
        (11008, "11008 = 64 x 172"),
        (12800, "12800 = 32 x 20 x 20"),
        (13696, "13696 = 32 x 428"),
        (14336, "14336 = 512 x 28"),
        (15360, "15360 = 64 x 12 x 20"),
        (18944, "18944 = 128 x 148"),
        (29568, "29568 = 2 x 12 x 28 x 44"),
    ] {
        assert_eq!(Hadamard::of_order(n).map(|h| h.to_string()).as_deref(), Some(want));
    }
}

#[test]
fn entries_are_the_kronecker_product() {
    let (h, base) = (Hadamard::of_order(24).unwrap(), Hadamard::of_order(12).unwrap());
    for i in 0..24 {
        for j in 0..24 {
            let sylvester = if i >= 12 && j >= 12 { -1 } else { 1 };
            assert_eq!(h.entry(i, j), sylvester * base.entry(i % 12, j % 12));
        }
    }
}

#[test]
fn normalised_starts_with_ones() {
    for n in [12, 92, 240, 400, 428, 1280] {
        let h = Hadamard::of_order(n).unwrap().normalised();
        assert!((0..n).all(|i| h.entry(i, 0) == 1 && h.entry(0, i) == 1), "{h}");
    }
}

#[test]
fn fast_products_are_the_dense_ones() {
    let mut random = Random::new(3);
    for n in [1, 2, 16, 12, 52, 56, 92, 240, 480, 400, 428] {
        let h = Hadamard::of_order(n).unwrap();
        let rows: Vec<f64> = (0..3 * n).map(|_| random.normal()).collect();
        let (mut right, mut back) = (rows.clone(), rows.clone());
        h.apply(&mut right);
        h.apply_transposed(&mut back);
        for (at, row) in rows.chunks(n).enumerate() {
            for j in 0..n {
                let sum = |entry: &dyn Fn(usize) -> i8| -> f64 {
                    row.iter().enumerate().map(|(i, x)| x * f64::from(entry(i))).sum::<f64>()
                        / (n as f64).sqrt()
                };
                // Sums of n numbers of size 1, of which a few dozen eps are lost.
                assert!((right[at * n + j] - sum(&|i| h.entry(i, j))).abs() < 1e-13, "{h}, column {j}");
                assert!((back[at * n + j] - sum(&|i| h.entry(j, i))).abs() < 1e-13, "{h}^T, column {j}");
            }
        }
        h.apply_transposed(&mut right);
        assert!(right.iter().zip(&rows).all(|(a, b)| (a - b).abs() < 1e-13), "{h}: there and back");
    }
}

#[test]
fn factors_are_orders_with_a_matrix_and_the_least_sum() {
    for (n, want) in [
        (1, Some((1, 1))),
        (64, Some((1, 64))),
        (128, Some((1, 128))),
        (132, Some((1, 132))),
        (192, Some((12, 16))),
        (232, Some((2, 116))),
        (256, Some((16, 16))),
        (320, Some((16, 20))),
        (4864, Some((64, 76))),
        (8960, Some((80, 112))),
        (11008, Some((64, 172))),
        (18944, Some((128, 148))),
        (0, None),
        (315, None),
        (4304, None),
    ] {
        assert_eq!(factors(n), want, "{n}");
    }
    for n in 129..2000 {
        let least = (1..=n).filter(|l| n % l == 0 && Hadamard::exists(*l) && Hadamard::exists(n / l));
        assert_eq!(factors(n).map(|(l, r)| l + r), least.map(|l| l + n / l).min(), "{n}");
    }
    assert_eq!(blocks(232), [2, 4, 8, 116, 232]);
    assert!(blocks(315).is_empty());
}

#[test]
fn kronecker_products_of_all_factors_used_are_hadamard_matrices() {
    // The factors of the blocks of real down projections and of every fixture's, and each small pair.
    let real = [64, 128, 232, 240, 256, 288, 320, 512, 1024].map(|n| factors(n).unwrap());
    let small = [1, 2, 4, 12, 20].map(|l| [1, 2, 8, 12, 28].map(|r| (l, r))).concat();
    for (l, r) in real.into_iter().chain(small) {
        let [left, right] = [l, r].map(|n| Hadamard::of_order(n).unwrap());
        let product = Hadamard::kronecker(&left, &right);
        assert_is_hadamard(&product);
        for i in 0..l * r {
            let j = (7 * i + 3) % (l * r);
            let want = left.entry(i / r, j / r) * right.entry(i % r, j % r);
            assert_eq!(product.entry(i, j), want, "{l} x {r} at {i}, {j}");
        }
    }
    for n in [8960, 18944, 11008, 4864] {
        let (l, r) = factors(n).unwrap();
        [l, r].into_iter().for_each(|n| assert_is_hadamard(&Hadamard::of_order(n).unwrap()));
    }
}
