//! One prompt to the tensors that the exported graphs take, written as one safetensors file: for runtimes that have no preprocessing of
//! their own. Works on a checkpoint and on an exported folder alike: no weights are read.

use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use super::error::PipelineError;
use super::output::parent_of;
use super::prepare::preparer;
use crate::calibrate::{Content, ImageSource, Message, Prepared, Role, Sample};
use crate::checkpoint::SideFiles;
use crate::export::safetensors::{self, Data, Entry};
use crate::family::{Library, describe};

/// One prompt: a user's message of images, then text.
#[derive(Clone, Debug)]
pub struct PreprocessRequest {
    /// Checkpoint or exported folder.
    pub model: PathBuf,
    /// Image files, in order.
    pub images: Vec<PathBuf>,
    /// The text.
    pub prompt: String,
    /// Instructions to the model, in a message before.
    pub system: Option<String>,
    /// The user's family file instead of the built-in ones.
    pub family_file: Option<PathBuf>,
    /// File to make.
    pub out: PathBuf,
    /// Replace `out` if it is a file.
    pub force: bool,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PreprocessReport {
    /// Family of the model.
    pub family: String,
    /// Tokens of the prompt, image placeholders included.
    pub tokens: usize,
    /// Image placeholders among them.
    pub image_tokens: usize,
    /// Tiles of each image.
    pub tiles: Vec<usize>,
}

/// Prepares one prompt and writes `input_ids [1, T]`, `position_ids [1, T]` (`[3, 1, T]` where a token has three), `prompt_length [1]`,
/// `image_grid_thw [tiles, 3]` and `pixel_values [patches, features]`, the last two without rows when there is no image.
///
/// # Errors
/// [`PipelineError`] when the folder fits no family, an image cannot be used, the template refuses the messages, or `out` exists or
/// cannot be written. Nothing is left behind then.
pub fn preprocess(request: &PreprocessRequest) -> Result<PreprocessReport, PipelineError> {
    check_target(&request.out, request.force)?;
    let files = SideFiles::open(&request.model)?;
    let library = request.family_file.as_deref().map_or_else(Library::built_in, Library::from_file)?;
    let description = describe(&library, &files)?;
    let preparer = preparer(&files, &description)?;
    let sample = conversation(&request.images, &request.prompt, request.system.as_deref());
    let prepared = preparer.prepare_sample(&sample).map_err(PipelineError::inputs)?;
    write(&prepared, request)?;
    let placeholder = description.prompt.image_token_id;
    Ok(PreprocessReport {
        family: description.family,
        tokens: prepared.input_ids.len(),
        image_tokens: prepared.input_ids.iter().filter(|&&id| id == placeholder).count(),
        tiles: prepared.tiles,
    })
}

/// One message of a user, images before text, and instructions before it where given, in the form in which data sets hold conversations.
pub(super) fn conversation(images: &[PathBuf], prompt: &str, system: Option<&str>) -> Sample {
    let text = |text: &str| Content::Text(text.to_string());
    let system = system.map(|s| Message { role: Role::System, content: vec![text(s)], plain: true });
    let images = images.iter().map(|path| Content::Image(ImageSource::File(path.clone())));
    let content = images.chain([text(prompt)]).collect();
    let messages = system.into_iter().chain([Message { role: Role::User, content, plain: false }]).collect();
    // The hash tells samples of a data set apart; there is one here.
    Sample {
        id: "prompt".into(),
        messages,
        answer: None,
        category: None,
        metric: None,
        sha256: String::new(),
    }
}

/// Writes the file beside its final place and renames it when complete.
fn write(prepared: &Prepared, request: &PreprocessRequest) -> Result<(), PipelineError> {
    let out = &request.out;
    let parent = parent_of(out);
    let bad = |reason: String| PipelineError::OutputFile { path: out.clone(), reason };
    let file = partial_in(&parent)
        .map_err(|e| bad(format!("nothing can be written in {}: {e}", parent.display())))?;
    let mut writer = BufWriter::new(&file);
    let written = write_tensors(prepared, &mut writer).and_then(|()| writer.flush());
    drop(writer);
    written.and_then(|()| file.as_file().sync_all()).map_err(|e| bad(format!("cannot be written: {e}")))?;
    check_target(out, request.force)?;
    let placed = if request.force { file.persist(out) } else { file.persist_noclobber(out) };
    placed.map(|_| ()).map_err(|e| bad(format!("the finished file cannot be renamed: {}", e.error)))
}

/// A hidden file in `folder` that is removed unless it is renamed.
fn partial_in(folder: &Path) -> std::io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(".prompt.partial-");
    // Temporary files are private; a finished one has the permissions of any new file.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

fn write_tensors(p: &Prepared, out: &mut impl Write) -> std::io::Result<()> {
    let (length, axes) = (p.input_ids.len(), p.position_ids.len());
    let (positions, prompt_length) = (p.position_ids.concat(), [length as i64]);
    let grids: Vec<i64> = p.grids.iter().flatten().map(|&n| n as i64).collect();
    // One axis of positions is the batch itself, as in the graphs.
    let position_shape = if axes == 1 { vec![1, length] } else { vec![axes, 1, length] };
    let entry = |name, shape, data| Entry { name, shape, data };
    let tensors = [
        entry("input_ids", vec![1, length], Data::Ints(&p.input_ids)),
        entry("position_ids", position_shape, Data::Ints(&positions)),
        entry("prompt_length", vec![1], Data::Ints(&prompt_length)),
        entry("image_grid_thw", vec![p.grids.len(), 3], Data::Ints(&grids)),
        entry("pixel_values", p.pixel_values.shape().to_vec(), Data::Floats(p.pixel_values.data())),
    ];
    safetensors::write(out, &tensors)
}

/// An existing file is replaced only on request, and nothing but a file is.
fn check_target(out: &Path, force: bool) -> Result<(), PipelineError> {
    let bad =
        |reason: &str| Err(PipelineError::OutputFile { path: out.to_path_buf(), reason: reason.into() });
    match out.symlink_metadata() {
        Err(_) => Ok(()),
        Ok(_) if !force => bad("already exists (pass --force to replace it, or -o another file)"),
        Ok(found) if found.is_dir() => bad("is a folder"),
        Ok(_) => Ok(()),
    }
}
