//! Axes, cuts, indices, sequences.

use super::*;

#[test]
fn shapes_are_renamed() {
    let x = f(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    let shape = |s: &[i64]| only("Reshape", &[x.clone(), l(s)]).shape().to_vec();
    assert_eq!((shape(&[3, -1]), shape(&[0, 3, 1]), shape(&[-1])), (vec![3, 2], vec![2, 3, 1], vec![6]));
    // 0 keeps an empty axis.
    assert_eq!(only("Reshape", &[f(&[1, 0, 4], &[]), l(&[0, 0, 2, 2])]).shape(), [1, 0, 2, 2]);
    for wrong in [&[4, -1][..], &[-1, -1], &[2, 3, 0], &[-2, 3], &[7], &[i64::MAX, 8]] {
        assert!(call("Reshape", &[], &[x.clone(), l(wrong)]).is_err(), "{wrong:?}");
    }
    assert!(call("Reshape", &[], &[f(&[0], &[]), l(&[0, -1])]).is_err());
    assert_eq!(only("Unsqueeze", &[x.clone(), l(&[0, -1])]).shape(), [1, 2, 3, 1]);
    assert_eq!(only("Squeeze", &[f(&[1, 2, 1], &[1.0, 2.0]), l(&[0])]).shape(), [2, 1]);
    assert_eq!(only("Squeeze", &[f(&[1, 2, 1], &[1.0, 2.0])]).shape(), [2]);
    assert!(refused("Squeeze", &[], &[x.clone(), l(&[0])]).contains("length 1 of axis 0"));
    assert_eq!(by("Shape", &[("start", -1)], std::slice::from_ref(&x)), l(&[3]));
    assert_eq!(by("Shape", &[("start", 0), ("end", 1)], std::slice::from_ref(&x)), l(&[2]));
    assert_eq!(by("Shape", &[("start", 2), ("end", 1)], std::slice::from_ref(&x)), l(&[]));
    assert_eq!(only("Identity", std::slice::from_ref(&x)), x);
}

#[test]
fn axes_are_exchanged_and_repeated() {
    let x = f(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(only("Transpose", std::slice::from_ref(&x)), f(&[3, 2], &[1.0, 4.0, 2.0, 5.0, 3.0, 6.0]));
    let y = i(&[2, 2, 2], &[0, 1, 2, 3, 4, 5, 6, 7]);
    let perm = |p: &[i64]| [("perm", Attribute::Ints(p.to_vec()))];
    assert_eq!(
        call("Transpose", &perm(&[1, 0, 2]), std::slice::from_ref(&y)).unwrap()[0],
        i(&[2, 2, 2], &[0, 1, 4, 5, 2, 3, 6, 7])
    );
    assert_eq!(
        call("Transpose", &perm(&[2, 0, 1]), std::slice::from_ref(&y)).unwrap()[0],
        i(&[2, 2, 2], &[0, 2, 4, 6, 1, 3, 5, 7])
    );
    for wrong in [&[0, 1][..], &[0, 1, 1], &[0, 1, 3]] {
        assert!(call("Transpose", &perm(wrong), std::slice::from_ref(&y)).is_err());
    }
    assert_eq!(only("Expand", &[l(&[7]), l(&[3])]), l(&[7, 7, 7]));
    assert_eq!(only("Expand", &[i(&[2, 1], &[1, 2]), l(&[1, 2])]), i(&[2, 2], &[1, 1, 2, 2]));
    assert!(call("Expand", &[], &[l(&[1]), l(&[i64::MAX, i64::MAX])]).is_err());
    assert!(call("Expand", &[], &[l(&[1]), l(&[-1])]).is_err());
}

#[test]
fn cuts_and_joins() {
    let x = i(&[2, 3], &[1, 2, 3, 4, 5, 6]);
    assert_eq!(
        by("Concat", &[("axis", 1)], &[x.clone(), i(&[2, 1], &[7, 8])]),
        i(&[2, 4], &[1, 2, 3, 7, 4, 5, 6, 8])
    );
    assert_eq!(by("Concat", &[("axis", 0)], &[l(&[]), l(&[1])]), l(&[1]));
    let axis = |n| [("axis", Attribute::Int(n))];
    assert!(refused("Concat", &axis(0), &[x.clone(), i(&[2, 1], &[7, 8])]).contains("axis 0 alone"));
    assert!(refused("Concat", &[], std::slice::from_ref(&x)).contains("attribute axis"));
    let parts = call("Split", &axis(-1), &[x.clone(), l(&[1, 2])]).unwrap();
    assert_eq!(parts, [i(&[2, 1], &[1, 4]), i(&[2, 2], &[2, 3, 5, 6])]);
    let halves = [("axis", Attribute::Int(1)), ("num_outputs", Attribute::Int(2))];
    assert_eq!(
        call("Split", &halves, std::slice::from_ref(&x)).unwrap(),
        [i(&[2, 2], &[1, 2, 4, 5]), i(&[2, 1], &[3, 6])]
    );
    // A part without rows.
    let parts = call("Split", &axis(1), &[x.clone(), l(&[0, 3])]).unwrap();
    assert_eq!(parts, [i(&[2, 0], &[]), x.clone()]);
    assert!(refused("Split", &axis(1), &[x.clone(), l(&[1, 1])]).contains("add up to 3"));
    assert_eq!(
        only("Pad", &[x.clone(), l(&[0, 0, 0, 1]), i(&[], &[9])]),
        i(&[2, 4], &[1, 2, 3, 9, 4, 5, 6, 9])
    );
    assert_eq!(only("Pad", &[l(&[5]), l(&[2, 0])]), l(&[0, 0, 5]));
    assert!(call("Pad", &[], &[x.clone(), l(&[0, 0, 0, -1])]).is_err());
    assert!(refused("Pad", &[("mode", Attribute::Text("edge".into()))], &[x, l(&[0; 4])]).contains("mode"));
}

#[test]
fn slices_are_those_of_python() {
    let x = l(&[0, 1, 2, 3, 4]);
    let slice =
        |a: i64, z: i64, step: i64| only("Slice", &[x.clone(), l(&[a]), l(&[z]), l(&[0]), l(&[step])]);
    assert_eq!(slice(1, 3, 1), l(&[1, 2]));
    assert_eq!(slice(0, -1, 1), l(&[0, 1, 2, 3]));
    assert_eq!(slice(-2, i64::MAX, 1), l(&[3, 4]));
    assert_eq!(slice(0, i64::MAX, 2), l(&[0, 2, 4]));
    assert_eq!(slice(4, i64::MIN, -2), l(&[4, 2, 0]));
    assert_eq!((slice(3, 2, 1), slice(9, 12, 1)), (l(&[]), l(&[])));
    assert_eq!(slice(0, 5, i64::MAX), l(&[0]));
    assert!(call("Slice", &[], &[x.clone(), l(&[0]), l(&[1]), l(&[0]), l(&[0])]).is_err());
    let m = i(&[2, 3], &[1, 2, 3, 4, 5, 6]);
    assert_eq!(only("Slice", &[m.clone(), l(&[1]), l(&[3]), l(&[-1])]), i(&[2, 2], &[2, 3, 5, 6]));
    assert_eq!(only("Slice", &[m.clone(), l(&[1]), l(&[2])]), i(&[1, 3], &[4, 5, 6]));
    assert!(call("Slice", &[], &[m, l(&[0, 0, 0]), l(&[1, 1, 1])]).is_err());
}

#[test]
fn elements_are_taken_and_put() {
    let x = f(&[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(only("Gather", &[x.clone(), i(&[1, 2], &[2, -3])]), f(&[1, 2, 2], &[5.0, 6.0, 1.0, 2.0]));
    assert_eq!(by("Gather", &[("axis", 1)], &[x.clone(), i(&[], &[1])]), f(&[3], &[2.0, 4.0, 6.0]));
    for wrong in [3, -4, i64::MIN] {
        assert!(refused("Gather", &[], &[x.clone(), l(&[wrong])]).contains("index into 3"));
    }
    let order = i(&[1, 3], &[2, 0, 1]);
    let inverse = by("ScatterElements", &[("axis", 1)], &[order.clone(), order, i(&[1, 3], &[0, 1, 2])]);
    assert_eq!(inverse, i(&[1, 3], &[1, 2, 0]));
    let found = only("ScatterND", &[x.clone(), i(&[2, 1], &[2, 0]), f(&[2, 2], &[9.0, 8.0, 7.0, 6.0])]);
    assert_eq!(found, f(&[3, 2], &[7.0, 6.0, 3.0, 4.0, 9.0, 8.0]));
    assert_eq!(only("ScatterND", &[x.clone(), i(&[0, 1], &[]), f(&[0, 2], &[])]), x);
    // More rows than places.
    assert!(
        refused("ScatterND", &[], &[x.clone(), i(&[1, 1], &[0]), f(&[2, 2], &[0.0; 4])]).contains("updates")
    );
    assert!(call("ScatterND", &[], &[x.clone(), i(&[1, 1], &[3]), f(&[1, 2], &[0.0; 2])]).is_err());
    let add = [("reduction", Attribute::Text("add".into()))];
    assert!(refused("ScatterND", &add, &[x, i(&[1, 1], &[0]), f(&[1, 2], &[0.0; 2])]).contains("reduction"));
}

#[test]
fn numbers_are_made() {
    assert_eq!(only("NonZero", &[b(&[2, 2], &[true, false, true, true])]), i(&[2, 3], &[0, 1, 1, 0, 0, 1]));
    assert_eq!(only("NonZero", &[b(&[2], &[false, false])]), i(&[1, 0], &[]));
    let range = |a, z, d| only("Range", &[i(&[], &[a]), i(&[], &[z]), i(&[], &[d])]);
    assert_eq!((range(0, 3, 1), range(5, 0, -2), range(3, 3, 1)), (l(&[0, 1, 2]), l(&[5, 3, 1]), l(&[])));
    for (a, z, d) in [(0, 1, 0), (0, i64::MAX, 1), (i64::MIN, i64::MAX, 1)] {
        assert!(call("Range", &[], &[i(&[], &[a]), i(&[], &[z]), i(&[], &[d])]).is_err());
    }
    assert_eq!(only("CumSum", &[l(&[1, 2, 3]), i(&[], &[0])]), l(&[1, 3, 6]));
    assert_eq!(only("CumSum", &[i(&[2, 2], &[1, 2, 3, 4]), i(&[], &[0])]), i(&[2, 2], &[1, 2, 4, 6]));
    assert!(call("CumSum", &[("reverse", Attribute::Int(1))], &[l(&[1]), i(&[], &[0])]).is_err());
}

#[test]
fn sequences_grow_and_are_joined() {
    let empty = only("SequenceEmpty", &[]);
    let join = [("axis", Attribute::Int(1))];
    assert!(refused("ConcatFromSequence", &join, std::slice::from_ref(&empty)).contains("empty"));
    let one = only("SequenceInsert", &[empty, f(&[1, 1], &[1.0])]);
    let two = only("SequenceInsert", &[one, f(&[1, 2], &[2.0, 3.0])]);
    assert_eq!(
        call("ConcatFromSequence", &join, std::slice::from_ref(&two)).unwrap()[0],
        f(&[1, 3], &[1.0, 2.0, 3.0])
    );
    assert!(refused("Add", &[], &[two.clone(), two]).contains("sequence"));
    assert!(refused("SequenceInsert", &[], &[l(&[1]), l(&[1])]).contains("a sequence"));
}
