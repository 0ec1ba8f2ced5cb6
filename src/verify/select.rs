//! From the format of an artifact and the runtime asked for to a runner.

use std::path::PathBuf;

use super::llama_cpp::{self, GgufFiles, LlamaCpp, ServerOptions};
use super::onnx::{EmbeddedOnnx, Weights};
use super::onnxruntime::{self, OnnxRuntime, RuntimeOptions};
use super::runner::{Runner, RunnerError, RunnerKind};
use crate::export::onnx::GraphSignature;

/// The files of an artifact, by format.
#[derive(Clone, Debug, PartialEq)]
pub enum ArtifactFiles {
    /// ONNX graphs.
    Onnx {
        /// Folder of the files.
        folder: PathBuf,
        /// The graphs, as the manifest has them.
        graphs: Vec<GraphSignature>,
    },
    /// GGUF files.
    Gguf(GgufFiles),
}

/// Which runtime is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Wanted {
    /// The real runtime of the artifact's format. There is no other in its place.
    #[default]
    Auto,
    /// This one.
    Kind(RunnerKind),
}

/// How runtimes are to run. What belongs to another runtime than the one that runs is refused.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SelectOptions {
    /// ONNX Runtime: execution provider.
    pub provider: Option<String>,
    /// llama.cpp: address of a running server.
    pub server: Option<String>,
    /// ONNX Runtime: the shared library; absent: it is looked for.
    pub library: Option<PathBuf>,
    /// llama.cpp: the program `llama-server`; absent: it is looked for.
    pub program: Option<PathBuf>,
    /// Threads of the runtime.
    pub threads: Option<usize>,
    /// llama.cpp: tokens of prompt and answer together.
    pub context: Option<usize>,
}

impl SelectOptions {
    /// Those of ONNX Runtime.
    pub fn onnxruntime(&self) -> RuntimeOptions {
        RuntimeOptions {
            provider: self.provider.clone(),
            threads: self.threads,
            library: self.library.clone(),
        }
    }

    /// Those of llama.cpp.
    pub fn llama_cpp(&self) -> ServerOptions {
        ServerOptions {
            address: self.server.clone(),
            threads: self.threads,
            context: self.context,
            program: self.program.clone(),
        }
    }
}

impl ArtifactFiles {
    /// The runtime that users have for this format.
    pub fn real_runtime(&self) -> RunnerKind {
        match self {
            ArtifactFiles::Onnx { .. } => RunnerKind::OnnxRuntime,
            ArtifactFiles::Gguf(_) => RunnerKind::LlamaCpp,
        }
    }

    fn format(&self) -> &'static str {
        match self {
            ArtifactFiles::Onnx { .. } => "ONNX",
            ArtifactFiles::Gguf(_) => "GGUF",
        }
    }
}

/// The runtime that runs, what was asked for being possible for the format.
///
/// # Errors
/// [`RunnerError::Unsupported`] when the runtime does not run the format, or an option belongs to another runtime.
pub fn kind(
    files: &ArtifactFiles,
    wanted: Wanted,
    options: &SelectOptions,
) -> Result<RunnerKind, RunnerError> {
    let real = files.real_runtime();
    let kind = match wanted {
        Wanted::Auto => real,
        Wanted::Kind(kind) => kind,
    };
    let unsupported = |what: String, hint: String| RunnerError::Unsupported { kind, what, hint };
    if kind != real && kind != RunnerKind::Embedded {
        let hint = format!("leave --runtime out, or pass --runtime {}", real.name());
        return Err(unsupported(format!("{} files", files.format()), hint));
    }
    let foreign = [
        ("provider", options.provider.is_some(), RunnerKind::OnnxRuntime),
        ("server", options.server.is_some(), RunnerKind::LlamaCpp),
    ];
    match foreign.into_iter().find(|(_, given, of)| *given && *of != kind) {
        Some((flag, _, of)) => {
            let hint = format!("leave it out; it is for {}", of.name());
            Err(unsupported(format!("with --{flag}"), hint))
        }
        None => Ok(kind),
    }
}

/// Whether a runtime is on this machine. The reference executor always is.
///
/// # Errors
/// [`RunnerError::Unavailable`] with where it was looked for and where to get it.
pub fn available(kind: RunnerKind, options: &SelectOptions) -> Result<(), RunnerError> {
    match kind {
        RunnerKind::OnnxRuntime => onnxruntime::available(&options.onnxruntime()),
        RunnerKind::LlamaCpp => llama_cpp::available(&options.llama_cpp()),
        RunnerKind::Embedded => Ok(()),
    }
}

/// A runner of the artifact. Nothing stands in for a runtime that is not there.
///
/// # Errors
/// [`RunnerError`].
pub fn runner(
    files: &ArtifactFiles,
    wanted: Wanted,
    options: &SelectOptions,
) -> Result<Box<dyn Runner>, RunnerError> {
    match (kind(files, wanted, options)?, files) {
        (RunnerKind::OnnxRuntime, ArtifactFiles::Onnx { folder, graphs }) => {
            Ok(Box::new(OnnxRuntime::open(folder, graphs, &options.onnxruntime())?))
        }
        (RunnerKind::LlamaCpp, ArtifactFiles::Gguf(files)) => {
            Ok(Box::new(LlamaCpp::open(files, &options.llama_cpp())?))
        }
        (_, files) => embedded(files),
    }
}

/// The reference executor on the artifact's files.
fn embedded(files: &ArtifactFiles) -> Result<Box<dyn Runner>, RunnerError> {
    match files {
        ArtifactFiles::Onnx { folder, graphs } => {
            Ok(Box::new(EmbeddedOnnx::open(folder, graphs, Weights::Keep)?))
        }
        // Their tensors have the places of llama.cpp's graphs: what they mean stands in the checkpoint.
        ArtifactFiles::Gguf(_) => Err(RunnerError::Unsupported {
            kind: RunnerKind::Embedded,
            what: "GGUF files without the checkpoint they were made from".into(),
            hint: format!("pass --runtime {}", files.real_runtime().name()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_decides_and_options_of_others_are_refused() {
        let onnx = ArtifactFiles::Onnx { folder: "a".into(), graphs: vec![] };
        let gguf = ArtifactFiles::Gguf(GgufFiles { text: "a".into(), mmproj: None });
        let none = SelectOptions::default();
        assert_eq!(kind(&onnx, Wanted::Auto, &none).unwrap(), RunnerKind::OnnxRuntime);
        assert_eq!(kind(&gguf, Wanted::Auto, &none).unwrap(), RunnerKind::LlamaCpp);
        let embedded = Wanted::Kind(RunnerKind::Embedded);
        assert_eq!(kind(&gguf, embedded, &none).unwrap(), RunnerKind::Embedded);
        let told =
            |files, wanted, options: SelectOptions| kind(files, wanted, &options).unwrap_err().to_string();
        let e = told(&gguf, Wanted::Kind(RunnerKind::OnnxRuntime), none.clone());
        assert!(e.contains("onnxruntime cannot run GGUF files") && e.contains("--runtime llama.cpp"), "{e}");
        let e = told(&onnx, Wanted::Auto, SelectOptions { server: Some("x".into()), ..none.clone() });
        assert!(e.contains("with --server") && e.contains("for llama.cpp"), "{e}");
        let e = told(&gguf, Wanted::Auto, SelectOptions { provider: Some("x".into()), ..none });
        assert!(e.contains("with --provider") && e.contains("for onnxruntime"), "{e}");
    }
}
