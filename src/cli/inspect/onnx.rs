//! One ONNX file: its signature, operators and quantized products. What is read and counted is [`crate::export::onnx::inspect`]'s business.

use std::path::Path;

use serde::Serialize;

use crate::cli::SCHEMA_VERSION;
use crate::cli::error::CliError;
use crate::cli::format::{bytes, property};
use crate::export::onnx::inspect::OnnxSummary;

/// An ONNX file as seen.
#[derive(Debug, Serialize)]
pub struct OnnxSeen {
    schema_version: u32,
    kind: &'static str,
    #[serde(flatten)]
    summary: OnnxSummary,
}

/// Looks at the file `path`.
///
/// # Errors
/// [`CliError::Onnx`] when it is no ONNX file.
pub fn inspect(path: &Path) -> Result<OnnxSeen, CliError> {
    let summary = crate::export::onnx::inspect::inspect(path)?;
    Ok(OnnxSeen { schema_version: SCHEMA_VERSION, kind: "onnx", summary })
}

impl OnnxSeen {
    /// For people.
    pub fn lines(&self) -> Vec<String> {
        let s = &self.summary;
        let list = |items: Vec<String>| if items.is_empty() { "none".into() } else { items.join(", ") };
        let opsets = s.opsets.iter().map(|(domain, v)| format!("{domain} {v}")).collect();
        let sizes = s.bytes.iter().map(|(kind, n)| format!("{kind} {}", bytes(*n))).collect();
        let operators = s.operators.iter().map(|(op, n)| format!("{op} {n}")).collect();
        let mut products = format!(
            "{} integer, {} Q/DQ pairs that fuse, {} float",
            s.integer_products, s.qdq_products, s.float_products
        );
        let few_bits = [
            (s.nbits_products, "MatMulNBits"),
            (s.dequantized_products, "with dequantized weights"),
            (s.folded_weights, "with 4-bit weights that become int8 at load"),
        ];
        let few_bits = few_bits.into_iter().filter(|(n, _)| *n > 0);
        few_bits.for_each(|(n, what)| products.push_str(&format!(", {n} {what}")));
        let mut lines = vec![
            property("operator sets", list(opsets)),
            property("weights", list(sizes)),
            property("products", products),
            property("operators", list(operators)),
        ];
        // The caches of all layers look alike; the first layer's stand for them.
        let cache = |v: &&String| !(v.starts_with("past_key_values.") || v.starts_with("present."));
        let first = |v: &&String| cache(v) || v.contains(".0.");
        lines.extend(s.inputs.iter().filter(first).map(|v| property("input", v)));
        lines.extend(s.outputs.iter().filter(first).map(|v| property("output", v)));
        lines
    }
}
