//! `preprocess`: the input tensors of one prompt, written to a file.

use std::path::PathBuf;

use serde::Serialize;

use super::SCHEMA_VERSION;
use super::args::PreprocessArgs;
use super::error::CliError;
use super::format::{count, plural, property};
use super::printer::Printer;
use super::resolve;
use crate::pipeline::{self, PreprocessReport};

/// Writes the file asked for.
///
/// # Errors
/// [`CliError::Pipeline`] when the folder, an image or the file cannot be used.
pub fn run(args: &PreprocessArgs, printer: &mut Printer) -> Result<(), CliError> {
    let request = resolve::preprocess(args);
    let report = pipeline::preprocess(&request)?;
    printer.result(&PreprocessSeen::new(request.out, report), PreprocessSeen::lines)
}

/// What was written.
#[derive(Debug, Serialize)]
struct PreprocessSeen {
    schema_version: u32,
    file: PathBuf,
    family: String,
    /// Tokens of the prompt, image placeholders included.
    tokens: usize,
    image_tokens: usize,
    /// Tiles of each image.
    tiles: Vec<usize>,
}

impl PreprocessSeen {
    fn new(file: PathBuf, report: PreprocessReport) -> Self {
        let PreprocessReport { family, tokens, image_tokens, tiles } = report;
        Self { schema_version: SCHEMA_VERSION, file, family, tokens, image_tokens, tiles }
    }

    /// For people.
    fn lines(&self) -> Vec<String> {
        let tiles: usize = self.tiles.iter().sum();
        let images = match self.tiles.len() {
            0 => "none".to_string(),
            n => {
                let tokens = plural(self.image_tokens, "token");
                format!("{}, {}, {tokens}", count(n as u64), plural(tiles, "tile"))
            }
        };
        vec![
            property("file", self.file.display().to_string()),
            property("family", &self.family),
            property("tokens", count(self.tokens as u64)),
            property("images", images),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_count_tokens_images_and_tiles() {
        let report = |tiles| PreprocessReport { family: "f".into(), tokens: 1234, image_tokens: 20, tiles };
        let lines = |tiles| PreprocessSeen::new("p.safetensors".into(), report(tiles)).lines();
        let head = ["file         p.safetensors", "family       f", "tokens       1,234"];
        assert_eq!(lines(vec![4, 1]), [&head[..], &["images       2, 5 tiles, 20 tokens"]].concat());
        assert_eq!(lines(vec![])[3], "images       none");
    }
}
