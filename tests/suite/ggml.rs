//! Block types of ggml against ggml itself and the `gguf` package: bytes of nearest and of importance-weighted rounding, and values.

use mquant_export::numeric::Tensor;
use mquant_export::numeric::ggml::{BlockType, reference};
use mquant_export::numeric::random::Random;
use serde_json::Value as Json;

use crate::common::judge::{Bundle, judge, text};

/// Columns of the cases: three blocks of the widest types.
const COLS: usize = 768;

fn normals(rows: usize, size: f32, random: &mut Random) -> Vec<f32> {
    (0..rows * COLS).map(|_| random.normal() as f32 * size).collect()
}

/// Weights of every kind that a checkpoint may hold, and stranger ones.
fn cases() -> Vec<(&'static str, Vec<f32>)> {
    let mut random = Random::new(71);
    let mut cases =
        vec![("gaussian", normals(200, 0.02, &mut random)), ("unit", normals(100, 1.0, &mut random))];
    let tailed = normals(100, 0.3, &mut random).iter().map(|x| x * x * x).collect();
    let mut outliers = normals(60, 0.02, &mut random);
    outliers.iter_mut().step_by(131).for_each(|x| *x *= 300.0);
    let mut sparse = normals(60, 0.02, &mut random);
    sparse.iter_mut().for_each(|x| *x = if random.uniform() < 0.9 { 0.0 } else { *x });
    // Whole blocks, groups and signs alike: 16, 32 and 256 neighbours that are zero, equal, positive or negative.
    let mut runs = normals(60, 0.02, &mut random);
    for run in [16, 32, 256] {
        for part in runs.chunks_mut(run).step_by(7) {
            let value = part[0];
            match random.next_u64() % 5 {
                0 => part.fill(0.0),
                1 => part.fill(-0.0),
                2 => part.fill(value),
                3 => part.iter_mut().for_each(|x| *x = x.abs() + 0.01),
                _ => part.iter_mut().for_each(|x| *x = -x.abs() - 0.01),
            }
        }
    }
    // Few values, many ties.
    let coarse = normals(60, 4.0, &mut random).iter().map(|x| x.round() / 4.0).collect();
    let sizes = normals(2 * 90, 1.0, &mut random);
    let every = sizes.chunks(2 * COLS).enumerate();
    let every = every.flat_map(|(i, row)| row[..COLS].iter().map(move |x| x * 2f32.powi(i as i32 * 3 - 147)));
    cases.extend([("tailed", tailed), ("outliers", outliers), ("sparse", sparse), ("runs", runs)]);
    cases.extend([("coarse", coarse), ("every_size", every.collect())]);
    cases.extend([("denormal", normals(20, 1e-40, &mut random)), ("huge", normals(20, 1e37, &mut random))]);
    cases
}

/// Mean squares of inputs: some columns never used, some far above the others.
fn importance(seed: u64) -> Vec<f32> {
    let mut random = Random::new(seed);
    let value = |c: usize, x: f64| match c % 37 {
        0 => 0.0,
        5 => 1e4 * x * x,
        _ => x * x,
    };
    let mut v: Vec<f32> = (0..COLS).map(|c| value(c, random.normal()) as f32).collect();
    v[256..288].fill(0.0);
    v
}

#[test]
fn every_type_has_the_bytes_and_values_of_ggml() {
    let dir = tempfile::tempdir().unwrap();
    let mut bundle = Bundle::default();
    for (seed, (name, w)) in cases().into_iter().enumerate() {
        let shape = (w.len() / COLS, COLS);
        let v = importance(seed as u64);
        for kind in BlockType::all() {
            let plain = reference(&w, shape, kind, None).unwrap();
            let key = |what: &str| format!("{name}.{}.{what}", kind.name());
            let values = Tensor::new(vec![shape.0, COLS], plain.dequantize()).unwrap();
            bundle.floats(key("values"), &values);
            bundle.bytes(key("plain"), &plain.bytes);
            bundle.bytes(key("weighted"), &reference(&w, shape, kind, Some(&v)).unwrap().bytes);
        }
        bundle.floats(format!("{name}.w"), &Tensor::new(vec![shape.0, COLS], w).unwrap());
        bundle.floats(format!("{name}.v"), &Tensor::new(vec![COLS], v).unwrap());
    }
    let path = dir.path().join("cases.safetensors");
    bundle.write(&path);
    let report: Json = serde_json::from_str(&judge("ggml.py", &[&text(&path)])).unwrap();
    assert_eq!(report["different"], Json::Array(vec![]), "{report:#}");
    for kind in BlockType::all() {
        let matrices = report["compared"][kind.name()]["ggml"][0].as_u64().unwrap();
        assert_eq!(matrices, 3 * cases().len() as u64, "{}", kind.name());
    }
}
