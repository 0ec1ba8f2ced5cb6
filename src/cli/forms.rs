//! The ONNX forms in a plan: how many linears take which, and what the files hold of weights below 8 bits.

use std::collections::BTreeMap;

use serde::Serialize;

use super::format::{bytes, plural, property};
use crate::export::onnx::{LinearForm, OnnxOptions, Store, stored_bytes};
use crate::quantize::{LinearPlan, recipe::Activations};

/// Forms of the linears of a plan.
#[derive(Debug, Serialize)]
pub struct FormsSeen {
    /// What `--form` says, or `default`.
    form: &'static str,
    /// Linears on a grid by form.
    linears: BTreeMap<&'static str, usize>,
    /// What is stored of weights below 8 bits in int8-gemm and float-gemm; absent when there are none.
    store: Option<StoreSeen>,
}

/// The choice of `--store`.
#[derive(Debug, Serialize)]
struct StoreSeen {
    chosen: &'static str,
    /// Bytes of these weights as int8.
    int8_bytes: u64,
    /// Bytes of their codes and multipliers.
    int4_bytes: u64,
}

/// The form of a planned linear; none for float weights.
pub fn form(options: &OnnxOptions, linear: &LinearPlan) -> Option<LinearForm> {
    if linear.precision.weights.blocks().is_some() {
        return Some(options.block_form());
    }
    let rounds = linear.precision.activations != Activations::Float;
    options.linear_form(linear.precision.weights.grid()?, linear.input, rounds).ok()
}

impl FormsSeen {
    /// What `options` make of the linears of a plan.
    pub fn new(options: &OnnxOptions, plan: &[LinearPlan]) -> Self {
        let mut linears = BTreeMap::new();
        let (mut int8_bytes, mut int4_bytes) = (0, 0);
        for linear in plan {
            let Some(form) = form(options, linear) else { continue };
            *linears.entry(form.name()).or_default() += 1;
            let Some(grid) = linear.precision.weights.grid() else { continue };
            if grid.bits < 8 && matches!(form, LinearForm::Int8Gemm | LinearForm::FloatGemm) {
                let shape = (linear.out, linear.input);
                int8_bytes += stored_bytes(grid, shape, Store::Int8);
                int4_bytes += stored_bytes(grid, shape, Store::Int4);
            }
        }
        let store = StoreSeen { chosen: options.stored().name(), int8_bytes, int4_bytes };
        Self { form: options.form_name(), linears, store: Some(store).filter(|s| s.int8_bytes > 0) }
    }

    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let forms = self.linears.iter().map(|(form, n)| format!("{form} of {}", plural(*n, "linear")));
        let forms: Vec<String> = forms.collect();
        let store = self.store.as_ref().map(|s| {
            let (int8, int4) = (bytes(s.int8_bytes), bytes(s.int4_bytes));
            property("stored", format!("weights below 8 bits as {}: int8 {int8}, int4 {int4}", s.chosen))
        });
        let form = if forms.is_empty() { None } else { Some(property("form", forms.join(", "))) };
        form.into_iter().chain(store).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::export::onnx::{Form, OpSet};
    use crate::quantize::Decision;
    use crate::quantize::recipe::Precision;

    fn linear(weights: &str, activations: Activations) -> LinearPlan {
        let precision = Precision { weights: weights.parse().unwrap(), activations };
        LinearPlan { role: "r".into(), out: 1000, input: 256, precision, decided_by: Decision::Component }
    }

    #[test]
    fn forms_and_sizes_of_a_plan() {
        let plan = [
            linear("float", Activations::Float),
            linear("int8", Activations::Static),
            linear("int4/128", Activations::Msq),
            linear("int4/32", Activations::Float),
        ];
        let lines = FormsSeen::new(&OnnxOptions::new(OpSet::Ort), &plan).lines();
        assert_eq!(lines[0], "form         int8-gemm of 2 linears, matmulnbits of 1 linear");
        // Codes of 4 bits, and 2 multipliers of 8 bits per row.
        assert_eq!(lines[1], "stored       weights below 8 bits as int8: int8 256 kB, int4 130 kB");
        let options = OnnxOptions { form: Some(Form::Portable), ..OnnxOptions::new(OpSet::Ort) };
        let lines = FormsSeen::new(&options, &plan).lines();
        assert_eq!(lines, ["form         int8-gemm of 1 linear, portable of 2 linears"]);
        assert!(FormsSeen::new(&options, &plan[..1]).lines().is_empty());
    }
}
