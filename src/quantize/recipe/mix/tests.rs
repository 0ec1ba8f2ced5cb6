//! Mixes against tables written down by hand from the rules of llama.cpp.

use super::*;
use BlockType::{F16, Q2K, Q3K, Q4_0, Q4_1, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};

/// 32 layers of a model whose value heads serve 4 query heads each, 4096 wide, with a head of its own.
const MODEL: MixModel =
    MixModel { layers: 32, width: 4096, group: 4, tied: false, importance: false, is_70b: false };

/// The first and the last four of 32 layers, and 6, 9, 12 and so on between them.
const MORE: [usize; 16] = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31];

fn kind(mix: Mix, tensor: MixTensor, of: &MixModel) -> BlockType {
    mix.weights(tensor, of).stored().unwrap()
}

/// Layers whose tensor has not the type `base`.
fn other_than(
    base: BlockType,
    mix: Mix,
    tensor: fn(usize) -> MixTensor,
    of: &MixModel,
) -> Vec<(usize, BlockType)> {
    let all = (0..of.layers).map(|l| (l, kind(mix, tensor(l), of)));
    all.filter(|(_, kind)| *kind != base).collect()
}

fn all(layers: &[usize], kind: BlockType) -> Vec<(usize, BlockType)> {
    layers.iter().map(|l| (*l, kind)).collect()
}

#[test]
fn names_stand_at_their_mix() {
    for (i, (mix, name, base)) in MIXES.iter().enumerate() {
        assert_eq!(*mix as usize, i);
        assert_eq!((Mix::of_name(name), mix.name(), mix.base()), (Some(*mix), *name, *base));
        assert_eq!(serde_json::to_value(mix).unwrap(), *name);
    }
    assert_eq!(Mix::of_name("q4_k"), None);
}

#[test]
fn values_and_down_projections_of_32_layers() {
    // Mix, type of most layers' values, layers that differ; the same of down projections.
    type Row = (Mix, BlockType, Vec<(usize, BlockType)>, BlockType, Vec<(usize, BlockType)>);
    let rows: [Row; 12] = [
        (Mix::Q8_0, Q8_0, vec![], Q8_0, vec![]),
        (Mix::Q6K, Q6K, vec![], Q6K, vec![]),
        (Mix::Q5KM, Q5K, all(&MORE, Q6K), Q5K, all(&MORE, Q6K)),
        (Mix::Q5KS, Q5K, vec![], Q5K, vec![]),
        (Mix::Q4KM, Q4K, all(&MORE, Q6K), Q4K, all(&MORE, Q6K)),
        (Mix::Q4KS, Q4K, all(&[0, 1, 2, 3], Q5K), Q4K, all(&[0, 1, 2, 3], Q5K)),
        (Mix::Q4_0, Q4_0, vec![], Q4_0, vec![]),
        (Mix::Q4_1, Q4_1, vec![], Q4_1, vec![]),
        (Mix::Q3KL, Q5K, vec![], Q5K, vec![]),
        (Mix::Q3KM, Q4K, all(&[0, 1], Q5K), Q4K, all(&[0, 1], Q5K)),
        (Mix::Q3KS, Q3K, vec![], Q3K, vec![]),
        (Mix::Q2K, Q4K, vec![], Q3K, vec![]),
    ];
    for (mix, value, values, down, downs) in rows {
        assert_eq!(other_than(value, mix, MixTensor::Value, &MODEL), values, "{mix:?}");
        assert_eq!(other_than(down, mix, MixTensor::Down, &MODEL), downs, "{mix:?}");
        assert_eq!(kind(mix, MixTensor::Other, &MODEL), mix.base(), "{mix:?}");
        assert_eq!(kind(mix, MixTensor::Table, &MODEL), mix.base(), "{mix:?}");
        let head = if mix == Mix::Q8_0 { Q8_0 } else { Q6K };
        assert_eq!(kind(mix, MixTensor::Head, &MODEL), head, "{mix:?}");
        let tied = MixModel { tied: true, ..MODEL };
        assert_eq!(kind(mix, MixTensor::Table, &tied), head, "{mix:?}");
    }
    let output = |mix| kind(mix, MixTensor::AttentionOutput, &MODEL);
    assert_eq!([Mix::Q2K, Mix::Q3KS, Mix::Q3KM, Mix::Q3KL, Mix::Q4KM].map(output), [Q3K, Q3K, Q4K, Q5K, Q4K]);
}

#[test]
fn few_heads_large_models_and_importance_change_the_rules() {
    let value = |mix, of: &MixModel| kind(mix, MixTensor::Value(10), of);
    let alone = MixModel { group: 3, ..MODEL };
    assert_eq!((value(Mix::Q2K, &alone), value(Mix::Q2K, &MODEL)), (Q3K, Q4K));
    let large = MixModel { is_70b: true, ..MODEL };
    assert_eq!([Mix::Q3KS, Mix::Q4KS, Mix::Q4_0].map(|mix| value(mix, &large)), [Q5K, Q5K, Q4_0]);
    let important = MixModel { importance: true, ..MODEL };
    let down = |mix| other_than(mix, mix_of(mix), MixTensor::Down, &important);
    assert_eq!(down(Q4_0), all(&[0, 1, 2, 3], Q4_1));
    assert_eq!(down(Q5_0), all(&[0, 1, 2, 3], Q5_1));
    assert_eq!(down(Q4_1), []);
}

fn mix_of(base: BlockType) -> Mix {
    Mix::all().find(|mix| mix.base() == base).unwrap()
}

#[test]
fn models_of_few_layers_have_no_eighths() {
    let of = MixModel { layers: 3, ..MODEL };
    // 7 * 3 / 8 is 2: the last layer has more bits, and it is the third, too.
    assert_eq!(other_than(Q4K, Mix::Q4KM, MixTensor::Down, &of), [(2, Q6K)]);
    assert_eq!(other_than(Q4K, Mix::Q4KS, MixTensor::Down, &of), []);
}

#[test]
fn heads_whose_rows_no_block_divides_have_q8_0() {
    let narrow = MixModel { width: 96, ..MODEL };
    assert_eq!(kind(Mix::Q4KM, MixTensor::Head, &narrow), Q8_0);
    assert_eq!(kind(Mix::Q4_0, MixTensor::Head, &narrow), Q6K);
}

#[test]
fn fallbacks_keep_rows_whole() {
    let short = [Q2K, Q3K, Q4K, Q5K, Q6K, Q4_0, Q8_0, F16].map(|kind| fallback(kind, 96));
    assert_eq!(short, [Q4_0, Q4_0, Q5_0, Q5_1, Q8_0, Q4_0, Q8_0, F16]);
    let odd = [Q2K, Q6K, Q4_1, Q8_0].map(|kind| fallback(kind, 100));
    assert_eq!(odd, [F16; 4]);
    assert_eq!(fallback(Q2K, 512), Q2K);
}

#[test]
fn roles_are_tensors() {
    let of = |role| MixTensor::of_role(role, false);
    assert_eq!(of("decoder.layers.12.attn.v"), MixTensor::Value(12));
    assert_eq!(of("decoder.layers.12.attn.q"), MixTensor::Other);
    assert_eq!(MixTensor::of_role("decoder.layers.12.attn.q", true), MixTensor::Value(12));
    assert_eq!(of("decoder.layers.3.attn.o"), MixTensor::AttentionOutput);
    assert_eq!(of("decoder.layers.3.mlp.down"), MixTensor::Down(3));
    assert_eq!(of("decoder.layers.3.mlp.up"), MixTensor::Other);
    assert_eq!((of("decoder.head"), of("embedding")), (MixTensor::Head, MixTensor::Table));
}
