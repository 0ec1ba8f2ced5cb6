//! Rows in the order by modality, and put back.

use mquant_export::graph::Sym;
use mquant_export::graph::ops::{OrderByModality, TakeRows};
use mquant_export::numeric::Tensor;

use super::case::{Case, Random, Want, doubles, float, graph};
use super::check;

const CHANNELS: usize = 3;
const TOKENS: [Option<Sym>; 3] = [Some(Sym::Batch), Some(Sym::Sequence), None];

/// Rows of prompts put into the order, and from there back; the order itself. A list holds 1 for each visual row of all prompts.
fn case(prompts: usize, visual: &[i64], random: &mut Random) -> Case {
    let rows = visual.len() / prompts;
    let modality: Vec<f32> = visual.iter().map(|&v| v as f32).collect();
    let modality = Tensor::new(vec![prompts, rows, 1], modality).unwrap();
    let x = random.tensor(&[prompts, rows, CHANNELS]);
    let mut order: Vec<usize> = (0..visual.len()).collect();
    order.sort_by_key(|&r| 1 - visual[r]);
    let ordered = order.iter().flat_map(|&r| x.row(r).iter().map(|&v| f64::from(v))).collect();
    let place = |r| order.iter().position(|&o| o == r).unwrap() as i64;
    let want = vec![
        Want::Ints(vec![1, order.len()], order.iter().map(|&r| r as i64).collect()),
        Want::Ints(vec![prompts, rows], (0..order.len()).map(place).collect()),
        Want::Floats(vec![1, order.len(), CHANNELS], ordered),
        Want::Floats(vec![prompts, rows, CHANNELS], doubles(&x)),
    ];
    graph(
        &format!("{prompts} prompts, visual {visual:?}"),
        vec![float(&modality, &TOKENS), float(&x, &TOKENS)],
        vec![],
        |g, v, _| {
            let order = g.add_multi("order", OrderByModality, &v[..1], &["order", "places"])?;
            let there = g.add("there", TakeRows, &[v[1], order[0]])?;
            let back = g.add("back", TakeRows, &[there, order[1]])?;
            Ok(vec![order[0], order[1], there, back])
        },
        want,
    )
}

#[test]
fn visual_rows_of_all_prompts_come_first_and_find_back() {
    let mut random = Random(12);
    let any: Vec<i64> = (0..60).map(|_| random.below(2) as i64).collect();
    check(&[
        case(1, &[0, 1, 1, 0, 0, 1, 0], &mut random),
        case(2, &[0, 0, 1, 0, 1, 1, 1, 1, 0, 0], &mut random),
        case(3, &any, &mut random),
        // A modality without rows, and the one row of a step.
        case(2, &[0; 6], &mut random),
        case(1, &[1; 4], &mut random),
        case(1, &[0], &mut random),
        case(3, &[0, 1, 0], &mut random),
    ]);
}
