//! The flags of `run`.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};

/// Shown below the flags.
pub const EXAMPLES: &str = "\
Examples:
  mquant-export run out --image cat.jpg --prompt \"What is this?\"
      in ONNX Runtime (pip install onnxruntime) or in llama.cpp (llama-server on PATH)
  mquant-export run out --image a.png --image b.png --prompt \"Compare them.\" --json | jq -r .text
  mquant-export run out --prompt \"Hello\" --server http://127.0.0.1:8080
      GGUF files in a llama-server that runs already

The libraries are the user's: ORT_DYLIB_PATH names ONNX Runtime's, LLAMA_SERVER the program of llama.cpp, where they are not found.";

/// Flags of `run`.
#[derive(Debug, ClapArgs)]
pub struct RunArgs {
    /// Exported folder.
    #[arg(value_name = "ARTIFACT", value_hint = clap::ValueHint::DirPath)]
    pub artifact: PathBuf,

    /// Image (PNG, JPEG or WebP) that stands before the text; give it once for each image.
    #[arg(long = "image", value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub images: Vec<PathBuf>,

    /// Text of the user's message.
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,

    /// Instructions to the model, in a system message before.
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,

    /// Most tokens of the answer.
    #[arg(long, value_name = "N", default_value_t = 256, value_parser = super::positive)]
    pub max_new_tokens: usize,

    /// What runs the files: the runtime of their format, one by name, or this program's own reference executor, which is slow.
    #[arg(long, value_enum, value_name = "NAME", default_value_t = Runtime::Auto, help_heading = "Runtime")]
    pub runtime: Runtime,

    /// ONNX Runtime: execution provider, such as cuda [default: cpu].
    #[arg(long, value_name = "NAME", help_heading = "Runtime")]
    pub provider: Option<String>,

    /// llama.cpp: address of a running llama-server that has loaded the artifact's files [default: one is started].
    #[arg(long, value_name = "URL", value_hint = clap::ValueHint::Url, help_heading = "Runtime")]
    pub server: Option<String>,

    /// Threads of the runtime [default: its own].
    #[arg(long, value_name = "N", value_parser = super::threads, help_heading = "Runtime")]
    pub threads: Option<usize>,

    /// Describe the model by your own family file instead of the built-in ones (ONNX; of no use for GGUF, whose files have all).
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub family_file: Option<PathBuf>,

    /// Print the whole answer, or the error, as one JSON object on stdout.
    #[arg(long, help_heading = "Messages")]
    pub json: bool,

    /// No figures on stderr, only errors.
    #[arg(short, long, help_heading = "Messages")]
    pub quiet: bool,
}

/// Runtimes by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Runtime {
    /// ONNX Runtime for ONNX, llama.cpp for GGUF.
    Auto,
    /// ONNX Runtime.
    Onnxruntime,
    /// llama.cpp.
    #[value(name = "llama.cpp")]
    LlamaCpp,
    /// The reference executor.
    Embedded,
}
