//! Element-wise ops, joins, and what is made of positions without angles.

use mquant_export::graph::Sym;
use mquant_export::graph::ops::{Activate, DivideBy, GridBucket, Join, Length, Scale, ScaleByPosition};
use mquant_export::graph::spec::Activation;
use mquant_export::numeric::Tensor;

use super::case::{Case, Random, Want, doubles, float, int, numbers, rows, single};
use super::check;

#[test]
fn element_wise_ops() {
    let mut random = Random(1);
    let x = random.tensor(&[1, 13, 6]);
    let values = doubles(&x);
    let input = || vec![rows(&x, Sym::Patches)];
    let want = |f: &dyn Fn(usize, f64) -> f64| {
        vec![Want::Floats(vec![1, 13, 6], values.iter().enumerate().map(|(i, &x)| f(i, x)).collect())]
    };
    let gain = random.tensor(&[6]);
    let of = doubles(&gain);
    let scaled = want(&|i, x| x * of[i % 6]);
    // tanh(z) = 2 / (1 + e^(-2z)) - 1.
    let gelu =
        want(&|_, x| x / (1.0 + (-(8.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).exp()));
    check(&[
        single("Scale", input(), vec![gain.clone()], |w| Scale { gain: w[0], writes: None }.into(), scaled),
        single(
            "DivideBy",
            input(),
            vec![],
            |_| DivideBy { by: 16.970_562 }.into(),
            want(&|_, x| x / 16.970_562),
        ),
        single("GeluTanh", input(), vec![], |_| Activate { kind: Activation::GeluTanh }.into(), gelu),
    ]);
}

#[test]
fn join_puts_channels_side_by_side() {
    let mut random = Random(2);
    let batched = [Some(Sym::Batch), Some(Sym::Sequence), None];
    let parts = [3, 1, 5].map(|n| random.tensor(&[2, 4, n]));
    let want = (0..8)
        .flat_map(|r| parts.iter().flat_map(move |p| doubles(p)[r * p.cols()..(r + 1) * p.cols()].to_vec()));
    let want = vec![Want::Floats(vec![2, 4, 9], want.collect())];
    check(&[single(
        "Join",
        parts.iter().map(|p| float(p, &batched)).collect(),
        vec![],
        |_| Join.into(),
        want,
    )]);
}

fn bucket(cells: (usize, usize), images: &[(i64, i64)]) -> Case {
    let (mut down, mut across, mut segments, mut want) = (vec![], vec![], vec![], vec![]);
    // Borders passed by the patch: cell k begins at k * h / rows.
    let passed = |position: i64, size: i64, cells: usize| {
        (1..cells as i64).filter(|k| k * size <= position * cells as i64).count() as i64
    };
    for (i, &(h, w)) in images.iter().enumerate() {
        for (r, c) in (0..h).flat_map(|r| (0..w).map(move |c| (r, c))) {
            down.push(r);
            across.push(c);
            segments.push(i as i64);
            want.push(cells.1 as i64 * passed(r, h, cells.0) + passed(c, w, cells.1));
        }
    }
    let n = segments.len();
    let grid: Vec<i64> = images.iter().flat_map(|&(h, w)| [1, h, w]).collect();
    let inputs = vec![
        int(&[2, 1, n], &[down, across].concat(), &[None, None, Some(Sym::Patches)]),
        int(&[images.len(), 3], &grid, &[Some(Sym::Images), None]),
        numbers(&segments, Sym::Patches),
    ];
    let op = GridBucket { rows: cells.0, cols: cells.1 };
    single("GridBucket", inputs, vec![], |_| op.into(), vec![Want::Ints(vec![1, n], want)])
}

#[test]
fn grid_buckets_are_exact_at_cell_borders() {
    check(&[
        bucket((70, 70), &[(33, 31), (70, 1), (3, 140)]),
        bucket((4, 6), &[(4, 6)]),
        bucket((5, 3), &[(10, 14)]),
    ]);
}

#[test]
fn length_and_scale_by_position() {
    let mut random = Random(3);
    let q = random.tensor(&[2, 5, 4]);
    // At the edge of the trained length, far beyond, and padding.
    let positions = [0, 1, 30, 31, 32, 63, 1000, 30000, 1, 1];
    let want: Vec<f64> = doubles(&q)
        .iter()
        .enumerate()
        .map(|(i, x)| {
            let p = positions[i / 4] as f64;
            if p + 1.0 > 32.0 { x * (p + 1.0).log2() / 5.0 } else { *x }
        })
        .collect();
    let tokens = [Some(Sym::Batch), Some(Sym::Sequence)];
    let inputs = vec![float(&q, &[tokens[0], tokens[1], None]), int(&[2, 5], &positions, &tokens)];
    let scale = ScaleByPosition { train_length: 32 };
    let mask = int(&[2, 5], &[1; 10], &[Some(Sym::Batch), Some(Sym::Total)]);
    check(&[
        single("ScaleByPosition", inputs, vec![], |_| scale.into(), vec![Want::Floats(vec![2, 5, 4], want)]),
        single("Length", vec![mask], vec![], |_| Length.into(), vec![Want::Ints(vec![1], vec![5])]),
    ]);
}

#[test]
fn a_patch_outside_its_image_is_an_error() {
    use mquant_export::exec::{Executor, Value};
    use mquant_export::graph::Part;
    for (name, value) in [("x1", [2, 2, 2]), ("x1", [1, 1, 2]), ("x1", [1, 2, 1])] {
        let mut case = bucket((4, 4), &[(2, 2)]);
        case.inputs.insert(name.into(), Value::Int(Tensor::new(vec![1, 3], value.to_vec()).unwrap()));
        let exec = Executor::<f32>::streaming(&case.model, &case.weights);
        assert!(exec.run(Part::Vision, case.inputs.clone(), &mut ()).is_err(), "{value:?}");
    }
}
