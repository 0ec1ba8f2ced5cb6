//! The files of a model besides its weights: configuration, tokenizer, chat template, processor. They are all that describes how
//! prompts are made, and an exported folder has them too. Weights are in the checkpoint around them.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::{CheckpointError, FileError};
use super::folder::Folder;
use super::problem::Problem;

/// Name of the model's configuration.
const CONFIG: &str = "config.json";

/// Files that belong to a model besides its weights; those present are listed by [`super::Checkpoint::input_files`].
const NAMES: [&str; 18] = [
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    CONFIG,
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "processor_config.json",
    "qwen.tiktoken",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "spiece.model",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "video_preprocessor_config.json",
    "vocab.json",
    "vocab.txt",
];

/// The small files of a model folder: a checkpoint, with or without its weights, or an exported folder.
#[derive(Debug)]
pub struct SideFiles {
    folder: Folder,
    config: Value,
}

impl SideFiles {
    /// Opens the folder `dir` and reads its `config.json`. Weights are not looked for.
    ///
    /// # Errors
    /// [`CheckpointError::Folder`] when `dir` cannot be read as a folder; [`CheckpointError::Invalid`] when `config.json` is
    /// missing or no JSON object.
    pub fn open(dir: &Path) -> Result<Self, CheckpointError> {
        let folder = Folder::open(dir)?;
        let mut problems = Vec::new();
        match read_config(&folder, &mut problems) {
            Some(config) => Ok(Self::new(folder, config)),
            None => Err(CheckpointError::Invalid { dir: dir.to_owned(), problems }),
        }
    }

    /// The files of `folder`, whose configuration has been read.
    pub(super) fn new(folder: Folder, config: Value) -> Self {
        Self { folder, config }
    }

    /// The folder as it was given to [`open`](Self::open).
    pub fn dir(&self) -> &Path {
        self.folder.dir()
    }

    /// `config.json`; always a JSON object.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// JSON of the file `name` (a plain file name); `None` when there is no such file.
    ///
    /// # Errors
    /// [`CheckpointError::File`]: not JSON (with line and column), not UTF-8, larger than 256 MiB, unreadable, or a
    /// link out of the folder.
    pub fn json(&self, name: &str) -> Result<Option<Value>, CheckpointError> {
        Ok(self.folder.json(name)?)
    }

    /// Text of the file `name` (a plain file name); `None` when there is no such file.
    ///
    /// # Errors
    /// [`CheckpointError::File`]: not UTF-8, larger than 256 MiB, unreadable, or a link out of the folder.
    pub fn text(&self, name: &str) -> Result<Option<String>, CheckpointError> {
        Ok(self.folder.text(name)?)
    }

    /// Path of the file `name` (a plain file name), for readers that want a path; `None` when there is no such file.
    ///
    /// # Errors
    /// [`CheckpointError::File`]: not a plain name, not a regular file, or a link out of the folder.
    pub fn path(&self, name: &str) -> Result<Option<PathBuf>, CheckpointError> {
        Ok(self.folder.find(name)?)
    }

    /// True when the folder has a readable regular file `name`.
    pub fn has_file(&self, name: &str) -> bool {
        matches!(self.folder.find(name), Ok(Some(_)))
    }

    /// Names of the known side files that are present, sorted.
    pub(super) fn present(&self) -> impl Iterator<Item = &str> {
        NAMES.into_iter().filter(|name| self.has_file(name))
    }

    /// Names of all entries of the folder that are UTF-8, sorted.
    pub(super) fn entries(&self) -> Vec<String> {
        self.folder.names()
    }
}

/// `config.json`, which must be there and be an object.
pub(super) fn read_config(folder: &Folder, problems: &mut Vec<Problem>) -> Option<Value> {
    // Parsed as an object straight away, so that the error for `[]` or `3` has a line and a column too.
    match folder.json::<serde_json::Map<String, Value>>(CONFIG) {
        Ok(Some(map)) => return Some(Value::Object(map)),
        Ok(None) => problems.push(FileError::Missing { file: folder.dir().join(CONFIG) }.into()),
        Err(error) => problems.push(error.into()),
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_without_weights_opens_and_one_without_configuration_does_not() {
        let tmp = tempfile::tempdir().unwrap();
        let error = SideFiles::open(tmp.path()).unwrap_err().to_string();
        assert!(error.contains("config.json") && error.contains("hint: "), "{error}");
        std::fs::write(tmp.path().join(CONFIG), "[]").unwrap();
        assert!(SideFiles::open(tmp.path()).unwrap_err().to_string().contains("line 1"));
        std::fs::write(tmp.path().join(CONFIG), r#"{"a": 1}"#).unwrap();
        std::fs::write(tmp.path().join("vocab.txt"), "x").unwrap();
        std::fs::write(tmp.path().join("other.txt"), "x").unwrap();
        let files = SideFiles::open(tmp.path()).unwrap();
        assert_eq!((&files.config()["a"], files.text("vocab.txt").unwrap()), (&1.into(), Some("x".into())));
        assert_eq!(files.present().collect::<Vec<_>>(), [CONFIG, "vocab.txt"]);
    }
}
