//! `inspect`: what is in a checkpoint folder, an exported folder, an ONNX or a GGUF file. One file per kind; each makes a serializable object
//! and its lines for people. Nothing is changed, and weights are not read except to hash an artifact's files.

mod artifact;
mod checkpoint;
mod gguf;
mod onnx;

use std::path::Path;

use super::args::InspectArgs;
use super::error::CliError;
use super::printer::Printer;
use crate::pipeline::MANIFEST_FILE;

/// Shows what `args.path` is.
///
/// # Errors
/// [`CliError`] when it is none of the known kinds, or cannot be read as the kind it is.
pub fn run(args: &InspectArgs, printer: &mut Printer) -> Result<(), CliError> {
    match kind(&args.path)? {
        Kind::Checkpoint => {
            let seen = checkpoint::inspect(&args.path, args.family_file.as_deref())?;
            printer.result(&seen, checkpoint::CheckpointSeen::lines)
        }
        Kind::Artifact => {
            let seen = artifact::inspect(&args.path)?;
            printer.result(&seen, artifact::ArtifactSeen::lines)
        }
        Kind::Onnx => {
            let seen = onnx::inspect(&args.path)?;
            printer.result(&seen, onnx::OnnxSeen::lines)
        }
        Kind::Gguf => {
            let seen = gguf::inspect(&args.path)?;
            printer.result(&seen, gguf::GgufSeen::lines)
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Checkpoint,
    Artifact,
    Onnx,
    Gguf,
}

fn kind(path: &Path) -> Result<Kind, CliError> {
    let metadata =
        std::fs::metadata(path).map_err(|source| CliError::Read { path: path.to_path_buf(), source })?;
    let unknown = |found, hint| Err(CliError::NotInspectable { path: path.to_path_buf(), found, hint });
    if metadata.is_dir() {
        if path.join(MANIFEST_FILE).is_file() {
            return Ok(Kind::Artifact);
        }
        let checkpoint = path.join("config.json").exists();
        if !checkpoint && holds_gguf(path) {
            let hint = "\nhint: pass one of them, of several shards the first";
            return unknown("a folder of GGUF files", hint);
        }
        return Ok(Kind::Checkpoint);
    }
    match path.extension().and_then(|e| e.to_str()) {
        Some("onnx") => Ok(Kind::Onnx),
        Some("gguf") => Ok(Kind::Gguf),
        Some("safetensors") => {
            unknown("a weight file", "\nhint: pass the folder that holds it and config.json")
        }
        Some("data") => unknown("the weights of an ONNX file", "\nhint: pass the .onnx file beside it"),
        _ => unknown("neither a folder nor an .onnx or .gguf file", ""),
    }
}

/// Whether a folder has a GGUF file.
fn holds_gguf(dir: &Path) -> bool {
    let mut files = std::fs::read_dir(dir).into_iter().flatten().flatten();
    files.any(|file| file.path().extension().is_some_and(|end| end == "gguf"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str| {
            std::fs::write(dir.path().join(name), "").unwrap();
            dir.path().join(name)
        };
        assert_eq!(kind(dir.path()).unwrap(), Kind::Checkpoint);
        assert_eq!(kind(&file("model.onnx")).unwrap(), Kind::Onnx);
        let e = kind(&file("model.safetensors")).unwrap_err().to_string();
        assert!(e.contains("a weight file") && e.contains("\nhint: pass the folder"), "{e}");
        assert!(kind(&file("model.onnx.data")).unwrap_err().to_string().contains(".onnx file beside it"));
        assert!(kind(&file("x.txt")).is_err());
        assert_eq!(kind(&file("x.gguf")).unwrap(), Kind::Gguf);
        let e = kind(dir.path()).unwrap_err().to_string();
        assert!(e.contains("a folder of GGUF files") && e.contains("pass one of them"), "{e}");
        file("config.json");
        assert_eq!(kind(dir.path()).unwrap(), Kind::Checkpoint);
        assert!(matches!(kind(&dir.path().join("absent")), Err(CliError::Read { .. })));
        file(MANIFEST_FILE);
        assert_eq!(kind(dir.path()).unwrap(), Kind::Artifact);
    }
}
