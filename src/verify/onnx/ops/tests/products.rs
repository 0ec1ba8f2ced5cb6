//! Products, attention, rotary embedding.

use super::*;

#[test]
fn matrices_and_batches_of_them() {
    let a = f(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
    let m = f(&[2, 3], &[1.0, 0.0, 2.0, 0.0, 1.0, 3.0]);
    assert_eq!(only("MatMul", &[a.clone(), m.clone()]), f(&[2, 3], &[1.0, 2.0, 8.0, 3.0, 4.0, 18.0]));
    assert_eq!(only("MatMul", &[f(&[1, 1, 2], &[1.0, 1.0]), m.clone()]), f(&[1, 1, 3], &[1.0, 1.0, 5.0]));
    // The left matrix meets each of the right ones.
    let right = f(&[2, 2, 1], &[1.0, 0.0, 0.0, 1.0]);
    assert_eq!(only("MatMul", &[a.clone(), right]), f(&[2, 2, 1], &[1.0, 3.0, 2.0, 4.0]));
    assert_eq!(only("MatMul", &[f(&[1, 0, 2], &[]), m.clone()]), f(&[1, 0, 3], &[]));
    assert_eq!(only("MatMul", &[f(&[1, 0], &[]), f(&[0, 2], &[])]), f(&[1, 2], &[0.0, 0.0]));
    for wrong in [f(&[3, 1], &[0.0; 3]), f(&[2], &[0.0; 2]), f(&[], &[0.0])] {
        assert!(refused("MatMul", &[], &[a.clone(), wrong]).contains("[.., k, m]"));
    }
}

#[test]
fn integer_products_are_exact_and_scaled_once() {
    // 0 is code 128: (1, -128) times columns (3, -2) and (127, -128).
    let operands =
        [u8s(&[1, 2], &[129, 0]), i8s(&[2, 2], &[3, 127, -2, -128]), f(&[], &[0.5]), f(&[2], &[2.0, 0.25])];
    let some = |bias: Option<Value>| -> Vec<Option<Value>> {
        operands.iter().cloned().map(Some).chain([Some(u8s(&[], &[128])), None, bias]).collect()
    };
    let run =
        |operands: &[Option<Value>]| call_some("MatMulIntegerToFloat", &[], operands, Rounding::Declared);
    assert_eq!(run(&some(None)).unwrap()[0], f(&[1, 2], &[259.0, 2063.875]));
    assert_eq!(run(&some(Some(f(&[2], &[1.0, -0.875])))).unwrap()[0], f(&[1, 2], &[260.0, 2063.0]));
    assert!(run(&some(Some(f(&[3], &[0.0; 3])))).is_err());
    // So many channels that one sum of floats would not be exact: the sum is odd and above 2^24.
    let k = 5001;
    let codes = [u8s(&[1, k], &vec![255; k]), i8s(&[k, 1], &vec![127; k]), f(&[], &[1.0]), f(&[1], &[1.0])];
    let sum = 255 * 127 * k as i64;
    assert!(sum > 1 << 24 && sum % 2 == 1);
    assert_eq!(only("MatMulIntegerToFloat", &codes), f(&[1, 1], &[sum as f32]));
    let mut wide = vec![1i8; k];
    wide[0] = 127;
    let mut codes = codes;
    codes[1] = i8s(&[k, 1], &wide);
    assert_eq!(only("MatMulIntegerToFloat", &codes), f(&[1, 1], &[(255 * (k as i64 - 1 + 127)) as f32]));
}

#[test]
fn unrounded_codes_are_multiplied_as_they_are() {
    let operands =
        [f(&[1, 1], &[129.25]), i8s(&[1, 1], &[4]), f(&[], &[0.5]), f(&[1], &[2.0]), u8s(&[], &[128])]
            .map(Some);
    let run = |rounding| call_some("MatMulIntegerToFloat", &[], &operands, rounding);
    assert_eq!(run(Rounding::Float).unwrap()[0], f(&[1, 1], &[5.0]));
    assert!(run(Rounding::Declared).unwrap_err().to_string().contains("operand 0: expected int8 or uint8"));
}

#[test]
fn weights_of_few_bits() {
    let attributes = |k: i64, n: i64, bits: i64, block: i64| {
        [("K", k), ("N", n), ("bits", bits), ("block_size", block)].map(|(name, v)| (name, Attribute::Int(v)))
    };
    // The bytes of `nibbles`: rows (1 2 3 0) and (-1 -2 -3 0), the last code fills up.
    let codes = u8s(&[2, 1, 2], &[0xa9, 0x8b, 0x67, 0x85]);
    let x = f(&[1, 3], &[1.0, 10.0, 100.0]);
    let operands = [x.clone(), codes.clone(), f(&[2], &[1.0, 0.5])];
    assert_eq!(
        call("MatMulNBits", &attributes(3, 2, 4, 4), &operands).unwrap()[0],
        f(&[1, 2], &[321.0, -160.5])
    );
    let whole = [x.clone(), u8s(&[1, 2, 2], &[129, 130, 131, 128]), f(&[2], &[1.0, 2.0])];
    assert_eq!(call("MatMulNBits", &attributes(3, 1, 8, 2), &whole).unwrap()[0], f(&[1, 1], &[621.0]));
    let bias = [Some(x), Some(codes), Some(f(&[2], &[1.0, 0.5])), None, None, Some(f(&[2], &[1.0, 2.0]))];
    let found = call_some("MatMulNBits", &attributes(3, 2, 4, 4), &bias, Rounding::Declared).unwrap();
    assert_eq!(found[0], f(&[1, 2], &[322.0, -158.5]));
    for wrong in
        [attributes(4, 2, 4, 4), attributes(3, 3, 4, 4), attributes(3, 2, 4, 2), attributes(3, 2, 2, 4)]
    {
        assert!(call("MatMulNBits", &wrong, &operands).is_err());
    }
    assert!(refused("MatMulNBits", &[("K", Attribute::Int(-1))], &operands).contains("attribute K"));
}

/// Weights of softmax over two scores.
fn two(a: f32, b: f32) -> [f32; 2] {
    let e = (b - a).exp();
    [1.0 / (1.0 + e), e / (1.0 + e)]
}

#[test]
fn attention_without_mask() {
    let heads = [("num_heads", Attribute::Int(2))];
    let q = f(&[1, 1, 2], &[1.0, 2.0]);
    let (k, v) = (f(&[1, 2, 2], &[0.0, 1.0, 1.0, 0.0]), f(&[1, 2, 2], &[10.0, 1.0, 20.0, 2.0]));
    let found = call("MultiHeadAttention", &heads, &[q.clone(), k.clone(), v.clone()]).unwrap().remove(0);
    let ([a, b], [c, d]) = (two(0.0, 1.0), two(2.0, 0.0));
    near(&found, &[10.0 * a + 20.0 * b, c + 2.0 * d]);
    let half = [("num_heads", Attribute::Int(1)), ("scale", Attribute::Float(0.5))];
    let found = call("MultiHeadAttention", &half, &[q.clone(), k.clone(), v.clone()]).unwrap().remove(0);
    let [a, b] = two(1.0, 0.5);
    near(&found, &[10.0 * a + 20.0 * b, a + 2.0 * b]);
    assert!(
        call("MultiHeadAttention", &[("num_heads", Attribute::Int(3))], &[q.clone(), k.clone(), v]).is_err()
    );
    assert!(call("MultiHeadAttention", &heads, &[q, k.clone(), f(&[1, 1, 2], &[0.0; 2])]).is_err());
}

/// Two query heads on one key head of one channel, one token in the cache.
fn grouped(new: usize, lasts: i32, total: i32, bias: Option<Value>) -> Results {
    let n = |count: usize| (1..=count).map(|x| x as f32).collect::<Vec<_>>();
    let one = |x: i32| Value::I32(Array::list(vec![x]));
    let mut operands = vec![
        Some(f(&[1, new, 2], &n(2 * new))),
        Some(f(&[1, new, 1], &n(new))),
        Some(f(&[1, new, 1], &n(new))),
        Some(f(&[1, 1, 1, 1], &[0.0])),
        Some(f(&[1, 1, 1, 1], &[10.0])),
        Some(one(lasts)),
        Some(one(total)),
    ];
    operands.extend([None, None, None, bias]);
    let attributes = [("num_heads", Attribute::Int(2)), ("kv_num_heads", Attribute::Int(1))];
    call_some("GroupQueryAttention", &attributes, &operands, Rounding::Declared)
}

#[test]
fn attention_with_a_cache_sees_what_was_before() {
    let found = grouped(1, 1, 2, None).unwrap();
    let ([a, b], [c, d]) = (two(0.0, 1.0), two(0.0, 2.0));
    near(&found[0], &[10.0 * a + b, 10.0 * c + d]);
    assert_eq!(found[1], f(&[1, 1, 2, 1], &[0.0, 1.0]));
    assert_eq!(found[2], f(&[1, 1, 2, 1], &[10.0, 1.0]));
    // The first of two new tokens does not see the second.
    let found = grouped(2, 2, 3, None).unwrap();
    near(
        &Value::F32(Array::list(found[0].floats().unwrap().data()[..2].to_vec())),
        &[10.0 * a + b, 10.0 * c + d],
    );
    // A bias that hides the cache.
    let hidden = grouped(1, 1, 2, Some(f(&[1, 1, 1, 2], &[-1e30, 0.0]))).unwrap();
    near(&hidden[0], &[1.0, 1.0]);
    for wrong in
        [grouped(1, 0, 2, None), grouped(1, 1, 3, None), grouped(1, 1, 2, Some(f(&[1, 1, 1, 3], &[0.0; 3])))]
    {
        assert!(wrong.is_err());
    }
}

#[test]
fn rotation_by_the_angles_of_a_row() {
    // A quarter turn at position 1, none at 0.
    let (cos, sin) = (f(&[2, 1], &[1.0, 0.0]), f(&[2, 1], &[0.0, 1.0]));
    let heads = |n: i64| vec![("num_heads", Attribute::Int(n))];
    let x = f(&[1, 2, 4], &[1.0, 2.0, 3.0, 4.0, 1.0, 2.0, 3.0, 4.0]);
    let positions = i(&[1, 2], &[0, 1]);
    let operands = [x.clone(), positions.clone(), cos.clone(), sin.clone()];
    let found = call("RotaryEmbedding", &heads(2), &operands).unwrap().remove(0);
    assert_eq!(found, f(&[1, 2, 4], &[1.0, 2.0, 3.0, 4.0, -2.0, 1.0, -4.0, 3.0]));
    // Half of each head, then pairs of neighbours.
    let mut part = heads(1);
    part.push(("rotary_embedding_dim", Attribute::Int(2)));
    let found = call("RotaryEmbedding", &part, &operands).unwrap().remove(0);
    assert_eq!(found, f(&[1, 2, 4], &[1.0, 2.0, 3.0, 4.0, -2.0, 1.0, 3.0, 4.0]));
    let tables = [f(&[2, 2], &[1.0, 1.0, 0.0, 0.0]), f(&[2, 2], &[0.0, 0.0, 1.0, 1.0])];
    let wide = [x.clone(), positions.clone(), tables[0].clone(), tables[1].clone()];
    let found = call("RotaryEmbedding", &heads(1), &wide).unwrap().remove(0);
    assert_eq!(found, f(&[1, 2, 4], &[1.0, 2.0, 3.0, 4.0, -3.0, -4.0, 1.0, 2.0]));
    let mut pairs = heads(1);
    pairs.push(("interleaved", Attribute::Int(1)));
    let found = call("RotaryEmbedding", &pairs, &wide).unwrap().remove(0);
    assert_eq!(found, f(&[1, 2, 4], &[1.0, 2.0, 3.0, 4.0, -2.0, 1.0, -4.0, 3.0]));
    assert!(call("RotaryEmbedding", &heads(1), &operands).is_err());
    let far = [x, i(&[1, 2], &[0, 2]), cos, sin];
    assert!(refused("RotaryEmbedding", &heads(2), &far).contains("positions below 2"));
}
