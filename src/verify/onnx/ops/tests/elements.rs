//! Element by element, reductions, normalization, codes.

use half::f16;

use super::*;

#[test]
fn arithmetic_broadcasts_as_numpy_does() {
    let m = f(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(
        only("Add", &[m.clone(), f(&[3], &[10.0, 20.0, 30.0])]),
        f(&[2, 3], &[11.0, 22.0, 33.0, 14.0, 25.0, 36.0])
    );
    assert_eq!(
        only("Sub", &[m.clone(), f(&[2, 1], &[1.0, 2.0])]),
        f(&[2, 3], &[0.0, 1.0, 2.0, 2.0, 3.0, 4.0])
    );
    assert_eq!(only("Mul", &[f(&[], &[2.0]), m.clone()]), f(&[2, 3], &[2.0, 4.0, 6.0, 8.0, 10.0, 12.0]));
    // Axes of both are repeated, [2, 1, 2] and [3, 1].
    let wide = only("Add", &[i(&[2, 1, 2], &[0, 1, 10, 11]), i(&[3, 1], &[0, 100, 200])]);
    assert_eq!(wide, i(&[2, 3, 2], &[0, 1, 100, 101, 200, 201, 10, 11, 110, 111, 210, 211]));
    assert_eq!(only("Add", &[f(&[0, 3], &[]), f(&[1, 3], &[0.0; 3])]), f(&[0, 3], &[]));
    assert!(refused("Add", &[], &[m.clone(), f(&[2], &[0.0; 2])]).contains("broadcast"));
    assert!(refused("Add", &[], &[m.clone(), l(&[1])]).contains("operand 1: expected float, found int64"));
    assert!(refused("Add", &[], &[b(&[1], &[true]), m]).contains("operand 0"));
}

#[test]
fn whole_numbers_divide_towards_zero_and_never_by_it() {
    assert_eq!(only("Div", &[l(&[7, -7, 7, -7]), l(&[2, 2, -2, -2])]), l(&[3, -3, -3, 3]));
    // The sign of a rest is the divisor's.
    assert_eq!(only("Mod", &[l(&[7, -7, 7, -7]), l(&[3, 3, -3, -3])]), l(&[1, 2, -2, -1]));
    for op in ["Div", "Mod"] {
        assert!(refused(op, &[], &[l(&[1]), l(&[0])]).contains("not 0"));
    }
    assert_eq!(only("Div", &[l(&[i64::MIN]), l(&[-1])]), l(&[i64::MIN]));
    assert_eq!(only("Mod", &[l(&[i64::MIN]), l(&[-1])]), l(&[0]));
    assert_eq!(only("Mul", &[i8s(&[2], &[7, -7]), i8s(&[2], &[15, 15])]), i8s(&[2], &[105, -105]));
    assert_eq!(only("Div", &[f(&[1], &[1.0]), f(&[1], &[0.0])]), f(&[1], &[f32::INFINITY]));
}

#[test]
fn comparisons_and_choices() {
    let (x, y) = (l(&[1, 2, 3]), l(&[2]));
    assert_eq!(only("Equal", &[x.clone(), y.clone()]), b(&[3], &[false, true, false]));
    assert_eq!(only("Greater", &[x.clone(), y.clone()]), b(&[3], &[false, false, true]));
    assert_eq!(only("GreaterOrEqual", &[x.clone(), y.clone()]), b(&[3], &[false, true, true]));
    assert_eq!(only("LessOrEqual", &[x, y]), b(&[3], &[true, true, false]));
    let c = b(&[2, 1], &[true, false]);
    assert_eq!(only("And", &[c.clone(), b(&[2], &[true, false])]), b(&[2, 2], &[true, false, false, false]));
    assert_eq!(only("Not", std::slice::from_ref(&c)), b(&[2, 1], &[false, true]));
    assert_eq!(
        only("Where", &[c.clone(), f(&[2], &[1.0, 2.0]), f(&[], &[9.0])]),
        f(&[2, 2], &[1.0, 2.0, 9.0, 9.0])
    );
    assert!(refused("Where", &[], &[c, f(&[], &[1.0]), l(&[1])]).contains("operand 2"));
    let three = [f(&[2], &[1.0, 5.0]), f(&[], &[2.0]), f(&[2], &[3.0, 0.0])];
    assert_eq!(only("Max", &three), f(&[2], &[3.0, 5.0]));
}

#[test]
fn functions_of_one_number() {
    let x = f(&[3], &[-4.0, 0.25, 1.0]);
    assert_eq!(only("Abs", std::slice::from_ref(&x)), f(&[3], &[4.0, 0.25, 1.0]));
    near(&only("Sqrt", &[f(&[2], &[4.0, 3.0])]), &[2.0, 1.732_050_8]);
    near(&only("Sigmoid", std::slice::from_ref(&x)), &[0.017_986_21, 0.562_176_5, 0.731_058_6]);
    near(&only("Cos", std::slice::from_ref(&x)), &[-0.653_643_6, 0.968_912_4, 0.540_302_3]);
    near(&only("Sin", std::slice::from_ref(&x)), &[0.756_802_5, 0.247_403_96, 0.841_471]);
    near(&only("Log", &[f(&[1], &[3.0])]), &[1.098_612_3]);
    near(&only("Reciprocal", std::slice::from_ref(&x)), &[-0.25, 4.0, 1.0]);
    near(&only("Pow", &[x.clone(), f(&[], &[2.0])]), &[16.0, 0.0625, 1.0]);
    near(&only("Pow", &[f(&[2], &[4.0, 2.0]), f(&[2], &[0.5, 3.0])]), &[2.0, 8.0]);
    // torch.nn.functional.gelu of these numbers.
    near(&only("Gelu", std::slice::from_ref(&x)), &[-0.000_126_7, 0.149_676_6, 0.841_344_7]);
    let tanh = [("approximate", Attribute::Text("tanh".into()))];
    near(
        &call("Gelu", &tanh, std::slice::from_ref(&x)).unwrap()[0],
        &[-0.000_070_2, 0.149_675_35, 0.841_192],
    );
    let other = [("approximate", Attribute::Text("erf".into()))];
    assert!(refused("Gelu", &other, &[x]).contains("attribute approximate"));
    assert!(refused("Sqrt", &[], &[l(&[1])]).contains("float or double"));
}

#[test]
fn casts() {
    let to = |kind: i64, x: Value| by("Cast", &[("to", kind)], &[x]);
    assert_eq!(to(7, f(&[3], &[1.9, -1.9, 1e30])), l(&[1, -1, i64::MAX]));
    assert_eq!(to(1, b(&[2], &[true, false])), f(&[2], &[1.0, 0.0]));
    assert_eq!(to(3, Value::I4(Array::list(vec![-8, 7]))), i8s(&[2], &[-8, 7]));
    assert_eq!(to(9, l(&[0, 5])), b(&[2], &[false, true]));
    assert_eq!(to(10, f(&[1], &[0.5])), Value::F16(Array::list(vec![f16::from_f32(0.5)])));
    assert_eq!(to(1, to(11, f(&[1], &[0.1]))), f(&[1], &[0.1]));
    assert_eq!(to(6, l(&[5])), Value::I32(Array::list(vec![5])));
    for kind in [8, 99, i64::MAX] {
        assert!(refused("Cast", &[("to", Attribute::Int(kind))], &[l(&[1])]).contains("attribute to"));
    }
}

#[test]
fn reductions() {
    let x = f(&[2, 2, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
    assert_eq!(only("ReduceSum", &[x.clone(), l(&[1])]), f(&[2, 1, 2], &[4.0, 6.0, 12.0, 14.0]));
    assert_eq!(by("ReduceSum", &[("keepdims", 0)], &[x.clone(), l(&[-1, 0])]), f(&[2], &[14.0, 22.0]));
    assert_eq!(only("ReduceMean", &[x.clone(), l(&[2])]), f(&[2, 2, 1], &[1.5, 3.5, 5.5, 7.5]));
    assert_eq!(only("ReduceMax", &[x.clone(), l(&[0])]), f(&[1, 2, 2], &[5.0, 6.0, 7.0, 8.0]));
    assert_eq!(by("ReduceSum", &[("keepdims", 0)], &[l(&[1, 2, 3])]), i(&[], &[6]));
    assert_eq!(by("ReduceProd", &[("keepdims", 0)], &[l(&[2, 3, 4])]), i(&[], &[24]));
    // Nothing to add: the neutral element.
    assert_eq!(by("ReduceSum", &[("keepdims", 0)], &[i(&[2, 0], &[]), l(&[1])]), l(&[0, 0]));
    assert_eq!(by("ReduceProd", &[("keepdims", 0)], &[l(&[]), l(&[0])]), i(&[], &[1]));
    assert_eq!(by("ReduceSum", &[("noop_with_empty_axes", 1)], std::slice::from_ref(&x)), x);
    assert!(refused("ReduceSum", &[], &[x, l(&[1, -2])]).contains("different axes"));
}

#[test]
fn normalization_and_softmax() {
    let x = f(&[2, 2], &[1.0, 3.0, -2.0, -2.0]);
    let operands = [x, f(&[2], &[2.0, 3.0]), f(&[2], &[0.5, 0.25])];
    let found =
        call("LayerNormalization", &[("epsilon", Attribute::Float(1e-12))], &operands).unwrap().remove(0);
    near(&found, &[-1.5, 3.25, 0.5, 0.25]);
    assert!(
        refused("LayerNormalization", &[("axis", Attribute::Int(0))], &operands).contains("attribute axis")
    );
    near(&only("Softmax", &[f(&[2, 2], &[0.0, 3f32.ln(), 1000.0, 1000.0])]), &[0.25, 0.75, 0.5, 0.5]);
    // A mask that hides everything, in the way of the exported files: the same everywhere.
    near(&only("Softmax", &[f(&[1, 2], &[-1e30, -1e30])]), &[0.5, 0.5]);
    assert_eq!(only("Softmax", &[f(&[1, 2], &[f32::NEG_INFINITY; 2])]), f(&[1, 2], &[0.0, 0.0]));
}

#[test]
fn codes_are_the_nearest_even_ones_within_their_range() {
    let x = f(&[7], &[0.25, 0.75, 1.25, -0.25, 100.0, -100.0, 1e30]);
    let found = only("QuantizeLinear", &[x.clone(), f(&[], &[0.5]), i8s(&[], &[0])]);
    // 0.5, 1.5, 2.5 and -0.5 lie between two codes.
    assert_eq!(found, i8s(&[7], &[0, 2, 2, 0, 127, -128, 127]));
    let found = only("QuantizeLinear", &[x.clone(), f(&[], &[0.5]), u8s(&[], &[128])]);
    assert_eq!(found, u8s(&[7], &[128, 130, 130, 128, 255, 0, 255]));
    assert_eq!(only("QuantizeLinear", &[f(&[1], &[-3.0]), f(&[], &[1.0])]), u8s(&[1], &[0]));
    let unrounded = [x.clone(), f(&[], &[0.5]), u8s(&[], &[128])].map(Some);
    let found = call_some("QuantizeLinear", &[], &unrounded, Rounding::Float).unwrap().remove(0);
    near(&found, &[128.5, 129.5, 130.5, 127.5, 328.0, -72.0, 2e30]);
    // And back, to what it was.
    let back = [Some(found), Some(f(&[], &[0.5])), Some(u8s(&[], &[128]))];
    near(
        &call_some("DequantizeLinear", &[], &back, Rounding::Float).unwrap()[0],
        &[0.25, 0.75, 1.25, -0.25, 100.0, -100.0, 1e30],
    );
    assert!(call_some("DequantizeLinear", &[], &back, Rounding::Declared).is_err());
    assert!(refused("QuantizeLinear", &[], &[x, f(&[], &[0.5]), i(&[], &[0])]).contains("operand 2"));
}

#[test]
fn scales_of_axes_and_blocks() {
    let codes = i8s(&[3, 2], &[1, 2, 3, 4, 5, 6]);
    let found = by("DequantizeLinear", &[("axis", 1)], &[codes.clone(), f(&[2], &[1.0, 10.0])]);
    assert_eq!(found, f(&[3, 2], &[1.0, 20.0, 3.0, 40.0, 5.0, 60.0]));
    let operands = [codes.clone(), f(&[3], &[1.0, 10.0, 100.0]), i8s(&[3], &[1, 0, 0])];
    assert_eq!(
        by("DequantizeLinear", &[("axis", 0)], &operands),
        f(&[3, 2], &[0.0, 1.0, 30.0, 40.0, 500.0, 600.0])
    );
    // Blocks of two rows, the last of one.
    let four = Value::I4(Array::new(vec![3, 2], vec![1, 2, 3, -4, 5, 6]).unwrap());
    let scales = f(&[2, 2], &[1.0, 10.0, 100.0, 1000.0]);
    let found = by("DequantizeLinear", &[("axis", 0), ("block_size", 2)], &[four, scales.clone()]);
    assert_eq!(found, f(&[3, 2], &[1.0, 20.0, 3.0, -40.0, 500.0, 6000.0]));
    let x = f(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let found = by("QuantizeLinear", &[("axis", 0), ("block_size", 2)], &[x, scales, i8s(&[2, 2], &[0; 4])]);
    assert_eq!(found, i8s(&[3, 2], &[1, 0, 3, 0, 0, 0]));
    let axis = [("axis", Attribute::Int(1))];
    assert!(
        refused("DequantizeLinear", &axis, &[codes.clone(), f(&[3], &[1.0; 3])]).contains("one scale or 2")
    );
    assert!(
        refused("DequantizeLinear", &[("axis", Attribute::Int(5))], &[codes, f(&[3], &[1.0; 3])])
            .contains("axis")
    );
}
