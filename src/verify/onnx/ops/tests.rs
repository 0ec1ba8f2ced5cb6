//! Each operator on operands small enough to be computed by hand, and at the edges of its definition.

mod elements;
mod places;
mod products;

use std::collections::BTreeMap;

use super::*;
use crate::verify::onnx::node::Attribute;

/// A float tensor.
fn f(shape: &[usize], data: &[f32]) -> Value {
    Value::F32(Array::new(shape.to_vec(), data.to_vec()).unwrap())
}

/// An int64 tensor.
fn i(shape: &[usize], data: &[i64]) -> Value {
    Value::I64(Array::new(shape.to_vec(), data.to_vec()).unwrap())
}

/// A list of int64.
fn l(data: &[i64]) -> Value {
    i(&[data.len()], data)
}

/// A bool tensor.
fn b(shape: &[usize], data: &[bool]) -> Value {
    Value::Bool(Array::new(shape.to_vec(), data.to_vec()).unwrap())
}

/// A list of int8.
fn i8s(shape: &[usize], data: &[i8]) -> Value {
    Value::I8(Array::new(shape.to_vec(), data.to_vec()).unwrap())
}

/// A list of uint8.
fn u8s(shape: &[usize], data: &[u8]) -> Value {
    Value::U8(Array::new(shape.to_vec(), data.to_vec()).unwrap())
}

/// Calls an operator whose operands may be left out.
fn call_some(
    op: &str,
    attributes: &[(&str, Attribute)],
    operands: &[Option<Value>],
    rounding: Rounding,
) -> Results {
    let operator = find("", op).or_else(|| find(MICROSOFT, op)).unwrap();
    let attributes: BTreeMap<String, Attribute> =
        attributes.iter().map(|(name, value)| (name.to_string(), value.clone())).collect();
    assert!(
        attributes.keys().all(|name| operator.attributes.contains(&name.as_str())),
        "{op} {attributes:?}"
    );
    let node = Node { name: "n".into(), operator, inputs: vec![], outputs: vec![], attributes, body: None };
    Call { node: &node, operands, rounding }.run()
}

fn call(op: &str, attributes: &[(&str, Attribute)], operands: &[Value]) -> Results {
    let operands: Vec<Option<Value>> = operands.iter().cloned().map(Some).collect();
    call_some(op, attributes, &operands, Rounding::Declared)
}

/// The only result of an operator without attributes.
fn only(op: &str, operands: &[Value]) -> Value {
    call(op, &[], operands).unwrap().remove(0)
}

/// The only result of an operator with whole numbers as attributes.
fn by(op: &str, attributes: &[(&str, i64)], operands: &[Value]) -> Value {
    let attributes: Vec<(&str, Attribute)> =
        attributes.iter().map(|(n, v)| (*n, Attribute::Int(*v))).collect();
    call(op, &attributes, operands).unwrap().remove(0)
}

/// What is said of operands or attributes that do not fit.
fn refused(op: &str, attributes: &[(&str, Attribute)], operands: &[Value]) -> String {
    call(op, attributes, operands).unwrap_err().to_string()
}

/// Floats that differ by rounding of the last places alone.
fn near(found: &Value, want: &[f32]) {
    let found = found.floats().unwrap();
    assert_eq!(found.len(), want.len());
    for (a, b) in found.data().iter().zip(want) {
        assert!((a - b).abs() <= 1e-6 * b.abs().max(1.0), "{:?} {want:?}", found.data());
    }
}
