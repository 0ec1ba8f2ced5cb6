//! Attention inside segments: of their own rows, and of the same queries for each.

use std::ops::Range;

use mquant_export::graph::Sym;
use mquant_export::graph::ops::{CrossAttention, SegmentAttention};
use mquant_export::numeric::Tensor;

use super::case::{Case, Random, Want, float, numbers, rows, single};
use super::check;

/// Channels `head` of the values, mixed by the softmax of the scaled products of the query with the keys.
pub fn mix(q: &[f64], keys: &[Vec<f64>], values: &[Vec<f64>], head: Range<usize>) -> Vec<f64> {
    let scale = (head.len() as f64).sqrt();
    let score = |k: &Vec<f64>| head.clone().map(|c| q[c] * k[c]).sum::<f64>() / scale;
    let weights: Vec<f64> = keys.iter().map(|k| score(k).exp()).collect();
    let sum: f64 = weights.iter().sum();
    head.map(|c| weights.iter().zip(values).map(|(w, v)| w * v[c]).sum::<f64>() / sum).collect()
}

fn row_list(t: &Tensor<f32>) -> Vec<Vec<f64>> {
    (0..t.rows()).map(|r| t.row(r).iter().map(|&x| f64::from(x)).collect()).collect()
}

/// Attention of the rows `own(segment)` of the queries to the rows of each segment.
fn want(
    [q, k, v]: [&Tensor<f32>; 3],
    segments: &[i64],
    (heads, dim): (usize, usize),
    shared: bool,
) -> Vec<Want> {
    let (q, k, v) = (row_list(q), row_list(k), row_list(v));
    let count = 1 + segments.iter().max().unwrap();
    let mut out = vec![];
    let mut rows = 0;
    for s in 0..count {
        let of = |list: &[Vec<f64>]| -> Vec<Vec<f64>> {
            segments.iter().zip(list).filter(|(n, _)| **n == s).map(|(_, r)| r.clone()).collect()
        };
        for query in if shared { q.clone() } else { of(&q) } {
            (0..heads).for_each(|h| out.extend(mix(&query, &of(&k), &of(&v), h * dim..(h + 1) * dim)));
            rows += 1;
        }
    }
    vec![Want::Floats(vec![1, rows, heads * dim], out)]
}

fn cross(queries: usize, (heads, head_dim): (usize, usize), segments: &[i64], random: &mut Random) -> Case {
    let [q, k, v] =
        [queries, segments.len(), segments.len()].map(|n| random.tensor(&[1, n, heads * head_dim]));
    let want = want([&q, &k, &v], segments, (heads, head_dim), true);
    let at = Sym::Patches;
    let inputs = vec![float(&q, &[None; 3]), rows(&k, at), rows(&v, at), numbers(segments, at)];
    let op = CrossAttention { heads, head_dim, into: Sym::ImageTokens };
    single(&format!("{op:?} of {queries} queries"), inputs, vec![], |_| op.into(), want)
}

#[test]
fn the_same_queries_attend_to_every_segment() {
    let mut random = Random(8);
    let several = random.segments(5, 9);
    check(&[
        cross(4, (3, 8), &several, &mut random),
        cross(1, (1, 6), &[0, 1, 2], &mut random),
        cross(7, (2, 5), &[0; 11], &mut random),
    ]);
}

#[test]
fn rows_attend_inside_their_segment() {
    let mut random = Random(9);
    let segments = random.segments(4, 7);
    let (heads, head_dim) = (3, 4);
    let qkv = [0; 3].map(|_| random.tensor(&[1, segments.len(), heads * head_dim]));
    let want = want(qkv.each_ref(), &segments, (heads, head_dim), false);
    let mut inputs: Vec<_> = qkv.iter().map(|t| rows(t, Sym::Patches)).collect();
    inputs.push(numbers(&segments, Sym::Patches));
    let op = SegmentAttention { heads, head_dim };
    check(&[single("SegmentAttention", inputs, vec![], |_| op.into(), want)]);
}
