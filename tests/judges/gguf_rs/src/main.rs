//! Prints what the package `gguf-rs` finds in the GGUF file given: metadata, and tensors with their places and bytes, as JSON.

use std::error::Error;
use std::io::Write;

use serde_json::{Value, json};

fn main() -> Result<(), Box<dyn Error>> {
    let path = std::env::args().nth(1).ok_or("usage: gguf-rs-judge FILE")?;
    // Longer arrays than this would be cut.
    let mut container = gguf_rs::get_gguf_container_array_size(&path, u64::MAX)?;
    let model = container.decode()?;
    let file = std::fs::read(&path)?;
    let mut tensors: Vec<Value> = Vec::new();
    for tensor in model.tensors() {
        let offset = model.data_offset() + tensor.offset;
        let bytes = file
            .get(offset as usize..(offset + tensor.size) as usize)
            .ok_or("a tensor ends behind the file")?;
        let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
        tensors.push(json!({
            "name": tensor.name,
            "type": tensor.kind,
            "dims": tensor.shape,
            "offset": offset,
            "bytes": hex,
        }));
    }
    let found = json!({ "metadata": model.metadata(), "tensors": tensors });
    Ok(writeln!(std::io::stdout(), "{found}")?)
}
