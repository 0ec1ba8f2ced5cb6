//! Rows inserted, dropped, merged and constant.

use mquant_export::graph::Sym;
use mquant_export::graph::ops::{ConstantRows, DropFirstRows, InsertRows, MergeRows, SegmentAttention};
use mquant_export::numeric::Tensor;

use super::case::{Case, Random, Want, doubles, float, graph, numbers, rows, single};
use super::check;

const CHANNELS: usize = 6;

/// Rows of the result as `(segment, 0 first | 1 own | 2 last, row)`, in order.
fn plan(own: &[i64], op: &InsertRows) -> Vec<(i64, u8, usize)> {
    let mut plan: Vec<_> = own.iter().enumerate().map(|(i, &s)| (s, 1, i)).collect();
    for &s in own.iter().collect::<std::collections::BTreeSet<_>>() {
        plan.extend(op.first.then_some((s, 0, 0)));
        plan.extend(op.last.then_some((s, 2, 0)));
    }
    plan.sort_unstable();
    plan
}

fn insert(op: InsertRows, own: &[i64], random: &mut Random) -> Case {
    let x = random.tensor(&[1, own.len(), CHANNELS]);
    let ends = [random.tensor(&[1, 1, CHANNELS]), random.tensor(&[1, 1, CHANNELS])];
    let from = if op.factor == 1 { Sym::Patches } else { Sym::MergedRows };
    let each: Vec<i64> = own.iter().flat_map(|&s| vec![s; op.factor]).collect();
    let mut inputs = vec![rows(&x, from), numbers(&each, Sym::Patches)];
    inputs.extend(op.first.then(|| float(&ends[0], &[None; 3])));
    inputs.extend(op.last.then(|| float(&ends[1], &[None; 3])));
    let plan = plan(own, &op);
    let row = |&(_, kind, i): &(i64, u8, usize)| match kind {
        0 => doubles(&ends[0]),
        1 => x.row(i).iter().map(|&v| f64::from(v)).collect(),
        _ => doubles(&ends[1]),
    };
    let n = plan.len();
    let want = vec![
        Want::Floats(vec![1, n, CHANNELS], plan.iter().flat_map(row).collect()),
        Want::Ints(vec![n], plan.iter().map(|p| p.0).collect()),
    ];
    single(&format!("{op:?}"), inputs, vec![], |_| op.into(), want)
}

#[test]
fn rows_are_inserted_before_and_behind_every_segment() {
    let mut random = Random(4);
    let mut cases = vec![];
    for (first, last) in [(true, false), (false, true), (true, true)] {
        for (factor, count) in [(1, 4), (4, 3), (1, 1)] {
            let own = random.segments(count, 5);
            cases.push(insert(InsertRows { first, last, factor, into: Sym::TowerRows }, &own, &mut random));
        }
    }
    check(&cases);
}

#[test]
fn first_rows_are_dropped() {
    let mut random = Random(5);
    let case = |own: Vec<i64>, random: &mut Random| {
        let x = random.tensor(&[1, own.len(), CHANNELS]);
        let starts = |i: &usize| *i == 0 || own[i - 1] != own[*i];
        let kept = (0..own.len()).filter(|i| !starts(i)).flat_map(|i| x.row(i).to_vec()).map(f64::from);
        let kept: Vec<f64> = kept.collect();
        let want = vec![Want::Floats(vec![1, kept.len() / CHANNELS, CHANNELS], kept)];
        let inputs = vec![rows(&x, Sym::TowerRows), numbers(&own, Sym::TowerRows)];
        single("DropFirstRows", inputs, vec![], |_| DropFirstRows { into: Sym::Patches }.into(), want)
    };
    check(&[case(vec![0, 0, 1, 2, 2, 2, 3, 3], &mut random), case(vec![0, 0, 0], &mut random)]);
}

/// Rows of their own stay in their segments: a class row per image attends with the image, and is dropped again.
#[test]
fn attention_follows_the_segments_of_inserted_rows() {
    let mut random = Random(6);
    let own = random.segments(4, 5);
    let (x, class) = (random.tensor(&[1, own.len(), CHANNELS]), random.tensor(&[1, 1, CHANNELS]));
    let (heads, head_dim) = (3, 2);
    let insert = InsertRows { first: true, last: false, factor: 1, into: Sym::TowerRows };
    let mut want = vec![];
    for run in own.chunk_by(|a, b| a == b) {
        let start = want.len() / CHANNELS;
        let all: Vec<Vec<f64>> = std::iter::once(doubles(&class))
            .chain((start..start + run.len()).map(|r| x.row(r).iter().map(|&v| f64::from(v)).collect()))
            .collect();
        for q in &all[1..] {
            for h in 0..heads {
                want.extend(super::attention::mix(q, &all, &all, h * head_dim..(h + 1) * head_dim));
            }
        }
    }
    let inputs = vec![rows(&x, Sym::Patches), numbers(&own, Sym::Patches), float(&class, &[None; 3])];
    let want = vec![Want::Floats(vec![1, own.len(), CHANNELS], want)];
    check(&[graph(
        "class rows",
        inputs,
        vec![],
        |g, v, _| {
            let with = g.add_multi("insert", insert, v, &["with", "segments"])?;
            let attention = SegmentAttention { heads, head_dim };
            let mixed = g.add("mix", attention, &[with[0], with[0], with[0], with[1]])?;
            Ok(vec![g.add("drop", DropFirstRows { into: Sym::Patches }, &[mixed, with[1]])?])
        },
        want,
    )]);
}

#[test]
fn merged_and_constant_rows() {
    let mut random = Random(7);
    let x = random.tensor(&[1, 12, CHANNELS]);
    let merge = MergeRows { factor: 4, into: Sym::MergedRows };
    let merged = vec![Want::Floats(vec![1, 3, 4 * CHANNELS], doubles(&x))];
    let table: Tensor<f32> = random.tensor(&[5, CHANNELS]);
    let constant = vec![Want::Floats(vec![1, 5, CHANNELS], doubles(&table))];
    check(&[
        single("MergeRows", vec![rows(&x, Sym::Patches)], vec![], |_| merge.into(), merged),
        single(
            "ConstantRows",
            vec![],
            vec![table],
            |w| ConstantRows { table: w[0], writes: None }.into(),
            constant,
        ),
    ]);
}
