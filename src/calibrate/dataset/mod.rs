//! Calibration and evaluation data sets: three file formats read into one shape, [`Dataset`].
//!
//! - [`jsonl`]: one chat per line, `{"messages": [...]}`;
//! - [`llava`]: LLaVA conversations, one JSON list or one record per line;
//! - [`tsv`]: VLMEvalKit tables.
//!
//! Image files are located and hashed here, decoded in `calibrate::image`. Prompts are not rendered here.

mod error;
mod fields;
pub mod jsonl;
pub mod llava;
mod source;
pub mod tsv;

use std::path::{Path, PathBuf};
use std::sync::Arc;

pub use error::{DatasetError, Place};
use source::{Draft, Folder};

use super::DataError;

/// A data set as read from one file; never empty.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataset {
    /// The file, as given.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// The samples in file order.
    pub samples: Vec<Sample>,
}

/// Format of a data set file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// JSON lines, one chat (or LLaVA record) each.
    Jsonl,
    /// One JSON list of LLaVA records.
    Llava,
    /// VLMEvalKit table, tab-separated.
    Tsv,
}

/// One conversation up to the turn the model is to write.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The file's own id, or the place in the file (`line 3`, `record 0`). Not always unique: some published sets
    /// repeat ids.
    pub id: String,
    /// The turns, oldest first, without the expected answer.
    pub messages: Vec<Message>,
    /// The expected answer, if the file gives one.
    pub answer: Option<String>,
    /// The file's category of this sample, if it gives one.
    pub category: Option<String>,
    /// How the file says answers are scored, if it does; a name that `verify` knows.
    pub metric: Option<String>,
    /// SHA-256 in lower-case hex over what the model is shown: roles, texts and image file bytes in order. Id,
    /// answer, category, file names, and whether text was one string or a list of pieces are left out, so that the
    /// same question about the same picture is recognised across files and formats.
    pub sha256: String,
}

impl Sample {
    /// The images of all turns, in the order in which the model sees them.
    pub fn images(&self) -> impl Iterator<Item = &ImageSource> {
        self.messages.iter().flat_map(|m| &m.content).filter_map(|c| match c {
            Content::Image(image) => Some(image),
            Content::Text(_) => None,
        })
    }
}

/// One turn.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// What is said, in order.
    pub content: Vec<Content>,
    /// The file gave the content as one string and not as a list. Chat templates see it as it was given, as with
    /// transformers; some print the two forms differently.
    pub plain: bool,
}

/// Speaker of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Instructions to the model.
    System,
    /// The person asking.
    User,
    /// The model.
    Assistant,
}

impl Role {
    /// The name that chat templates know.
    pub fn name(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }

    /// The role of that name.
    fn from_name(name: &str) -> Option<Self> {
        [Role::System, Role::User, Role::Assistant].into_iter().find(|r| r.name() == name)
    }
}

/// A piece of a turn.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// Text.
    Text(String),
    /// An image.
    Image(ImageSource),
}

/// Where the (encoded) bytes of an image are.
#[derive(Clone, Debug, PartialEq)]
pub enum ImageSource {
    /// A file, by its canonical path.
    File(PathBuf),
    /// Held in memory, from a cell or a data URI.
    Bytes {
        /// Place it came from, for messages.
        name: String,
        /// The encoded file.
        bytes: Arc<[u8]>,
    },
}

/// How to read a data set.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// Image paths may leave the folder of the data file (symbolic links resolved).
    pub allow_outside: bool,
    /// Read at most this many samples, from the start. Later rows are then not checked.
    pub limit: Option<usize>,
}

/// Reads the data set in `path`; the format is recognised by extension (`.jsonl`, `.tsv`) and otherwise by content.
/// Image files are read once for their hash; they are not decoded.
///
/// # Errors
/// [`DataError::Dataset`]: unreadable file or image, unknown format, wrong field (with file, line or record, key,
/// what was expected and found), image outside the folder, no sample at all.
pub fn load(path: &Path, options: &LoadOptions) -> Result<Dataset, DataError> {
    Ok(read(path, options)?)
}

fn read(path: &Path, options: &LoadOptions) -> Result<Dataset, DatasetError> {
    let unreadable = |source| DatasetError::Read { path: path.to_owned(), source };
    let text = String::from_utf8(std::fs::read(path).map_err(unreadable)?).map_err(|e| {
        DatasetError::Encoding { path: path.to_owned(), offset: e.utf8_error().valid_up_to() }
    })?;
    let text = text.strip_prefix('\u{feff}').unwrap_or(&text);
    let folder = Folder::of(path, options.allow_outside)?;
    if text.trim().is_empty() {
        return Err(DatasetError::Empty { path: path.to_owned() });
    }
    let format = recognise(path, text)?;
    let limit = options.limit.unwrap_or(usize::MAX);
    let drafts: Vec<Draft> = match format {
        Format::Jsonl => jsonl::parse(&folder, text, limit)?,
        Format::Llava => llava::parse(&folder, text, limit)?,
        Format::Tsv => tsv::parse(&folder, text, limit)?,
    };
    if drafts.is_empty() {
        return Err(DatasetError::Empty { path: path.to_owned() });
    }
    let samples = drafts.into_iter().map(Draft::finish).collect::<Result<_, _>>()?;
    Ok(Dataset { path: path.to_owned(), format, samples })
}

/// A `.jsonl` or `.ndjson` file holds JSON lines and a `.tsv` file a table; any other is told by its first character
/// (`[` or `{`) or by a first line with the tab-separated column `question`.
fn recognise(path: &Path, text: &str) -> Result<Format, DatasetError> {
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
    match extension.as_deref() {
        Some("jsonl" | "ndjson") => return Ok(Format::Jsonl),
        Some("tsv") => return Ok(Format::Tsv),
        _ => {}
    }
    let header = text.lines().next().unwrap_or_default();
    match text.trim_start().chars().next() {
        Some('[') => Ok(Format::Llava),
        Some('{') => Ok(Format::Jsonl),
        _ if header.split('\t').any(|c| c.trim_matches('"') == "question") => Ok(Format::Tsv),
        _ => Err(DatasetError::UnknownFormat { path: path.to_owned(), start: fields::clip(header) }),
    }
}

#[cfg(test)]
mod tests;
