//! Errors of data set files: every one names the file and, inside it, the place.

use std::fmt;
use std::path::PathBuf;

/// Place inside a data set file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Line, from 1.
    Line(u64),
    /// Record of a JSON list, from 0.
    Record(usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Line(n) => write!(f, "line {n}"),
            Place::Record(n) => write!(f, "record {n}"),
        }
    }
}

/// Why a data set file could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DatasetError {
    /// The file, or its folder, could not be read.
    #[error("cannot read data set {}", path.display())]
    Read {
        /// The data set file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not UTF-8 text.
    #[error("data set {} is not UTF-8 text (byte {offset})", path.display())]
    Encoding {
        /// The data set file.
        path: PathBuf,
        /// First byte that is not UTF-8.
        offset: usize,
    },
    /// None of the known formats.
    #[error(
        "data set {} starts with '{start}', which is none of the known formats: JSON lines of chats \
         ({{\"messages\": [...]}}), a JSON list of LLaVA conversations ([{{\"conversations\": [...]}}]), a VLMEvalKit table \
         (tab-separated, with the columns index and question)",
        path.display()
    )]
    UnknownFormat {
        /// The data set file.
        path: PathBuf,
        /// Its first line, cut.
        start: String,
    },
    /// There is no sample in the file.
    #[error("data set {} holds no samples", path.display())]
    Empty {
        /// The data set file.
        path: PathBuf,
    },
    /// Not JSON.
    #[error("data set {}, {place}: not valid JSON", path.display())]
    Json {
        /// The data set file.
        path: PathBuf,
        /// Line or record.
        place: Place,
        /// What the parser said.
        source: serde_json::Error,
    },
    /// Not a table.
    #[error("data set {}: not a valid tab-separated table", path.display())]
    Table {
        /// The data set file.
        path: PathBuf,
        /// What the parser said, with its line.
        source: csv::Error,
    },
    /// A table lacks a column.
    #[error("data set {}: column '{column}' is missing; the columns are: {}", path.display(), found.join(", "))]
    Column {
        /// The data set file.
        path: PathBuf,
        /// The missing column.
        column: &'static str,
        /// The columns there are.
        found: Vec<String>,
    },
    /// A value is missing or of the wrong kind.
    #[error("data set {}, {place}, {key}: expected {expected}, found {found}", path.display())]
    Field {
        /// The data set file.
        path: PathBuf,
        /// Line or record.
        place: Place,
        /// Key or column, with the way to it.
        key: String,
        /// What should be there.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// `<image>` markers and images differ in number.
    #[error("data set {}, {place}: {markers} <image> markers for {images} images", path.display())]
    Markers {
        /// The data set file.
        path: PathBuf,
        /// Record or line.
        place: Place,
        /// Markers in the text of the conversation.
        markers: usize,
        /// Images of the record.
        images: usize,
    },
    /// An image file could not be read.
    #[error("data set {}, {place}: cannot read image {}", path.display(), image.display())]
    ImageRead {
        /// The data set file.
        path: PathBuf,
        /// Line or record.
        place: Place,
        /// The image file.
        image: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// An image file lies outside the folder of the data set.
    #[error(
        "data set {}, {place}: image {} is outside the data set's folder; paths that leave it must be allowed explicitly",
        path.display(),
        image.display()
    )]
    ImageOutside {
        /// The data set file.
        path: PathBuf,
        /// Line or record.
        place: Place,
        /// The image file, links resolved.
        image: PathBuf,
    },
}
