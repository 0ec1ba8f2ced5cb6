//! VLMEvalKit tables: tab-separated, quoted as CSV, columns `index`, `question`, `image` (base64, or the index of the
//! row whose image is meant) or `image_path`, and optionally `answer`, `category`, `metric`, `hint` and options `A`, `B`, ...
//! Other columns are tolerated.
//!
//! The prompt is VLMEvalKit's (`ImageBaseDataset`, `ImageMCQDataset` in `vlmeval/dataset`): images first, then the
//! question alone, or for rows with options or a hint `Hint: ..`, `Question: ..`, `Options:`, one line per option,
//! and the request to choose. What single benchmarks or models add to it is not here. A row without an image becomes
//! a question in text (VLMEvalKit skips it).

use std::collections::HashMap;

use csv::StringRecord;

use super::error::{DatasetError, Place};
use super::source::{Draft, Folder};
use super::{Content, ImageSource, Message, Role};

/// Longest `image` cell that is taken for the index of another row, in bytes (VLMEvalKit's `len(..) <= 64`).
const LONGEST_INDEX: usize = 64;

/// Cells that pandas reads as missing (`read_csv`, default `na_values`): VLMEvalKit never sees an option 'None' or
/// 'NA'.
const MISSING: [&str; 19] = [
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A",
    "NA", "NULL", "NaN", "None", "n/a", "nan", "null",
];

/// A table in memory.
struct Table<'a, 'f> {
    folder: &'f Folder<'a>,
    columns: HashMap<String, usize>,
    rows: Vec<StringRecord>,
    /// Row of each index; the last one of equal indices, as in VLMEvalKit.
    by_index: HashMap<String, usize>,
}

/// Reads at most `limit` samples.
pub(super) fn parse<'a>(
    folder: &Folder<'a>,
    text: &str,
    limit: usize,
) -> Result<Vec<Draft<'a>>, DatasetError> {
    let broken = |source| DatasetError::Table { path: folder.path.to_owned(), source };
    let mut reader = csv::ReaderBuilder::new().delimiter(b'\t').from_reader(text.as_bytes());
    let header = reader.headers().map_err(broken)?.clone();
    let columns: HashMap<String, usize> =
        header.iter().enumerate().map(|(i, name)| (name.to_owned(), i)).collect();
    let needed = |column: &'static str| {
        columns.get(column).copied().ok_or_else(|| {
            let found = header.iter().map(str::to_owned).collect();
            DatasetError::Column { path: folder.path.to_owned(), column, found }
        })
    };
    let index = needed("index")?;
    needed("question")?;
    let rows: Vec<StringRecord> = reader.records().collect::<Result<_, _>>().map_err(broken)?;
    let by_index =
        rows.iter().enumerate().filter_map(|(i, row)| Some((row.get(index)?.to_owned(), i))).collect();
    let table = Table { folder, columns, rows, by_index };
    table.rows.iter().take(limit).map(|row| table.sample(row)).collect()
}

impl<'a> Table<'a, '_> {
    /// The cell of `column`; `None` when there is no such column or pandas would call the cell missing.
    fn cell<'r>(&self, row: &'r StringRecord, column: &str) -> Option<&'r str> {
        let text = row.get(*self.columns.get(column)?)?;
        (!MISSING.contains(&text)).then_some(text)
    }

    fn sample(&self, row: &StringRecord) -> Result<Draft<'a>, DatasetError> {
        let place = place(row);
        let at = self.folder.at(place);
        let needed = |column: &str| {
            self.cell(row, column).ok_or_else(|| at.wrong(column, "a value", "an empty cell".into()))
        };
        let id = needed("index")?.to_owned();
        let text = self.prompt(row, needed("question")?);
        let mut content: Vec<Content> = self.images(row)?.into_iter().map(Content::Image).collect();
        content.push(Content::Text(text));
        Ok(Draft {
            at,
            id: Some(id),
            messages: vec![Message { role: Role::User, content, plain: false }],
            answer: self.cell(row, "answer").map(str::to_owned),
            category: self.cell(row, "category").map(str::to_owned),
            metric: self.cell(row, "metric").map(str::to_owned),
        })
    }

    /// The text of the question (`build_prompt`).
    fn prompt(&self, row: &StringRecord, question: &str) -> String {
        let hint = self.cell(row, "hint");
        let options: Vec<(char, &str)> =
            ('A'..='Z').filter_map(|c| Some((c, self.cell(row, c.encode_utf8(&mut [0; 4]))?))).collect();
        if hint.is_none() && options.is_empty() {
            return question.to_owned();
        }
        let mut prompt = hint.map(|h| format!("Hint: {h}\n")).unwrap_or_default();
        prompt += &format!("Question: {question}\n");
        if !options.is_empty() {
            prompt += "Options:\n";
            for (letter, option) in options {
                prompt += &format!("{letter}. {option}\n");
            }
            prompt += "Please select the correct answer from the options above. \n";
        }
        prompt
    }

    /// The images of a row; `image` comes before `image_path`, as in VLMEvalKit.
    fn images(&self, row: &StringRecord) -> Result<Vec<ImageSource>, DatasetError> {
        let here = place(row);
        if let Some(cell) = self.cell(row, "image") {
            let (source, cell) = self.follow(row, cell)?;
            let one = |text: &str| self.folder.bytes(place(source), "image", text);
            return items(cell).into_iter().map(one).collect();
        }
        let paths = self.cell(row, "image_path").map(items).unwrap_or_default();
        paths.into_iter().map(|path| self.folder.image(here, "image_path", path)).collect()
    }

    /// The row and cell that hold the image: the row itself, or the one whose index the cell names (one step only).
    fn follow<'s>(
        &'s self,
        row: &'s StringRecord,
        cell: &'s str,
    ) -> Result<(&'s StringRecord, &'s str), DatasetError> {
        if cell.len() > LONGEST_INDEX {
            return Ok((row, cell));
        }
        let target = self.by_index.get(cell).and_then(|&i| self.rows.get(i));
        match target.and_then(|r| Some((r, self.cell(r, "image")?))) {
            Some((r, image)) if image.len() > LONGEST_INDEX => Ok((r, image)),
            _ => Err(self.folder.at(place(row)).wrong(
                "image",
                "an image in base64, or the index of a row that holds one",
                format!("'{cell}'"),
            )),
        }
    }
}

/// Line on which a row starts.
fn place(row: &StringRecord) -> Place {
    Place::Line(row.position().map_or(0, csv::Position::line))
}

/// The items of a cell: of a Python list of strings (`['a', 'b']`, VLMEvalKit's `toliststr`), or the cell itself.
fn items(cell: &str) -> Vec<&str> {
    match cell.strip_prefix('[').and_then(|c| c.strip_suffix(']')) {
        Some(list) => list.split(',').map(|item| item.trim().trim_matches(['\'', '"'])).collect(),
        None => vec![cell],
    }
}
