//! The flags as they are typed: names, types, help. What they mean together is decided in `resolve`.

mod run;

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand, ValueEnum};

pub use run::{RunArgs, Runtime};

/// Name of the program.
pub const NAME: &str = "mquant-export";

const EXAMPLES: &str = "\
Examples:
  mquant-export Qwen2-VL-2B-Instruct --format onnx --calibration chats.jsonl
      int4 weights, static int8 activations, in ./Qwen2-VL-2B-Instruct-w4a8-onnx
  mquant-export Qwen2-VL-2B-Instruct --format onnx --recipe float -o out
      the same graphs in float, no calibration data needed
  mquant-export Qwen2-VL-2B-Instruct --format gguf --calibration chats.jsonl
      Q4_K_M for llama.cpp, rounded by GPTQ: a text file and an mmproj file
  mquant-export Qwen2-VL-2B-Instruct --format gguf --recipe q8_0 --method nearest
      plain rounding as llama.cpp's own quantizer does it, no calibration data needed
  mquant-export run out --image cat.jpg --prompt \"What is this?\"
      the answer of the exported folder, in ONNX Runtime or llama.cpp
  mquant-export inspect out
      what is in the exported folder, and whether its files are unchanged

Exit status: 0 done, 1 verification failed, 2 the input or the arguments are wrong, 3 a fault of this program.";

const INSPECT_EXAMPLES: &str = "\
Examples:
  mquant-export inspect Qwen2-VL-2B-Instruct          a checkpoint, before exporting it
  mquant-export inspect out --json | jq .files        an exported folder
  mquant-export inspect out/model.onnx                one graph";

const PREPROCESS_EXAMPLES: &str = "\
Examples:
  mquant-export preprocess out --image cat.jpg --prompt \"What is this?\" -o prompt.safetensors
  python out/generate.py prompt.safetensors          the answer, where the export wrote that program";

const VERIFY_EXAMPLES: &str = "\
Examples:
  mquant-export verify out --reference Qwen2-VL-2B-Instruct --data questions.tsv
      what changed, by how much and where, in the runtime that is installed
  mquant-export verify out --reference Qwen2-VL-2B-Instruct --data questions.tsv --max-kld 0.05 --max-accuracy-drop 0.01 --html report.html
      a gate: exit status 1 when a threshold fails, with a page to look at

Exit status: 0 every check passed, 1 a check failed (the reports are written), 2 the input or the arguments are wrong, 3 a fault of this program.";

/// Quantize a multimodal LLM checkpoint (MQuant: static int8 scales per modality) and write it as ONNX or GGUF.
#[derive(Debug, Parser)]
#[command(name = NAME, version, after_help = EXAMPLES, max_term_width = 100)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct Args {
    /// Another command than the export.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The export, which needs no command word.
    #[command(flatten)]
    pub export: Option<ExportArgs>,
    /// How what was exported is verified. Beside the export, because a group that is optional cannot hold another.
    #[command(flatten)]
    pub how: VerifyFlags,
}

/// Commands besides the export.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show what is in a checkpoint folder, an exported folder, an .onnx or a .gguf file.
    #[command(after_help = INSPECT_EXAMPLES)]
    Inspect(InspectArgs),
    /// Make the input tensors of one prompt, images and text, for programs that run the exported graphs.
    #[command(after_help = PREPROCESS_EXAMPLES)]
    Preprocess(PreprocessArgs),
    /// Measure how close an exported folder is to its checkpoint, on samples with images, and check thresholds.
    #[command(after_help = VERIFY_EXAMPLES)]
    Verify(VerifyArgs),
    /// Ask an exported folder one question, in the runtime of its format.
    #[command(after_help = run::EXAMPLES)]
    Run(RunArgs),
    /// Print a completion script for a shell.
    #[command(
        after_help = "Example:\n  mquant-export completions bash > ~/.local/share/bash-completion/completions/mquant-export"
    )]
    Completions {
        /// Shell to complete in.
        #[arg(value_name = "SHELL")]
        shell: clap_complete::Shell,
    },
}

/// Flags of the export.
#[derive(Debug, ClapArgs)]
pub struct ExportArgs {
    /// Checkpoint folder in Hugging Face layout (config.json, *.safetensors, tokenizer.json).
    #[arg(value_name = "MODEL", value_hint = clap::ValueHint::DirPath)]
    pub model: PathBuf,

    /// Format to write.
    #[arg(long, value_enum, value_name = "FORMAT", required_unless_present = "dump_ir")]
    pub format: Option<Format>,

    /// Built-in recipe (ONNX: float, w8a8, w4a8, w4a8-all, w4a8-channel, w4a16; GGUF: f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, q4_0 and so on) or path of
    /// a recipe in YAML [default: w4a8 for ONNX, q4_k_m for GGUF].
    #[arg(long, value_name = "NAME|FILE")]
    pub recipe: Option<String>,

    /// GGUF: how weights are rounded [default: as the recipe says, the built-in ones by gptq].
    #[arg(long, value_enum, value_name = "METHOD")]
    pub method: Option<Method>,

    /// Calibration samples: chats in JSONL, LLaVA JSON or a VLMEvalKit TSV; 64 to 256 are usual.
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath, help_heading = "Calibration")]
    pub calibration: Option<PathBuf>,

    /// Use only the first N samples.
    #[arg(long, value_name = "N", requires = "calibration", help_heading = "Calibration")]
    #[arg(value_parser = positive)]
    pub calibration_samples: Option<usize>,

    /// Let samples name images outside the folder of the calibration file.
    #[arg(long, requires = "calibration", help_heading = "Calibration")]
    pub allow_outside: bool,

    /// Memory for calibration activations, such as 4GB or 512MB; what is above goes to a file beside the output. The result does not depend on it.
    #[arg(long, value_name = "SIZE", default_value = "4GB", value_parser = size, help_heading = "Calibration")]
    pub activation_memory: u64,

    /// Folder to make [default: <MODEL's name>-<recipe>-onnx in the current folder].
    #[arg(short, long, value_name = "FOLDER", value_hint = clap::ValueHint::DirPath, help_heading = "Output")]
    pub out: Option<PathBuf>,

    /// Replace the output folder if an earlier export made it.
    #[arg(long, help_heading = "Output")]
    pub force: bool,

    /// GGUF: most tensor bytes per file of the text model, such as 4GB; more become several files, as llama.cpp loads them.
    #[arg(long, value_name = "SIZE", value_parser = some_size, help_heading = "Output")]
    pub split_size: Option<u64>,

    /// ONNX: operators of quantized linears: ONNX Runtime's fused int8 kernels, or Q/DQ pairs of the ONNX standard [default: ort].
    #[arg(long, value_enum, value_name = "SET", help_heading = "Output")]
    pub ops: Option<Ops>,

    /// ONNX: linears with two activation scales: one product, rows scaled by their modality, or two products over rows ordered by modality [default: row-scale].
    #[arg(long, value_enum, value_name = "FORM", help_heading = "Output")]
    pub msq_form: Option<MsqForm>,

    /// ONNX: form of linears with weights below 8 bits [default: int8-gemm where inputs are rounded to int8; where not, matmulnbits, or portable with --ops standard].
    #[arg(long, value_enum, value_name = "FORM", help_heading = "Output")]
    pub form: Option<Form>,

    /// ONNX: what files hold of such weights in int8-gemm: 4-bit codes, which are made int8 at load, or int8 [default: auto].
    #[arg(long, value_enum, value_name = "TYPE", help_heading = "Output")]
    pub store: Option<Store>,

    /// Describe the model by your own family file instead of the built-in ones.
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub family_file: Option<PathBuf>,

    /// Worker threads; the output does not depend on it [default: all cores].
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,

    /// Verify the artifact when it is made, on the samples of --data.
    #[arg(long, requires = "data", conflicts_with_all = ["dry_run", "explain", "dump_ir"], help_heading = "Verification")]
    pub verify: bool,

    /// Evaluation samples, in the formats of --calibration; none of its samples.
    #[arg(long, value_name = "FILE", requires = "verify", value_hint = clap::ValueHint::FilePath, help_heading = "Verification")]
    pub data: Option<PathBuf>,

    /// Print what would be done and stop.
    #[arg(long, help_heading = "Look first")]
    pub dry_run: bool,

    /// Print what was weighed for one linear, such as decoder.layers.0.mlp.down, and stop.
    #[arg(long, value_name = "LINEAR", conflicts_with_all = ["dry_run", "dump_ir"], help_heading = "Look first")]
    pub explain: Option<String>,

    /// Print the graphs of the float model (one line per node) and stop.
    #[arg(long, conflicts_with = "dry_run", help_heading = "Look first")]
    pub dump_ir: bool,

    /// Print the result, or the error, as one JSON object on stdout.
    #[arg(long, help_heading = "Messages")]
    pub json: bool,

    /// No progress and no warnings on stderr, only errors (the JSON report still lists the warnings).
    #[arg(short, long, help_heading = "Messages")]
    pub quiet: bool,
}

/// Flags of `inspect`.
#[derive(Debug, ClapArgs)]
pub struct InspectArgs {
    /// Checkpoint folder, exported folder, .onnx or .gguf file.
    #[arg(value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    pub path: PathBuf,

    /// Describe a checkpoint by your own family file instead of the built-in ones.
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub family_file: Option<PathBuf>,

    /// Print one JSON object on stdout.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `preprocess`.
#[derive(Debug, ClapArgs)]
pub struct PreprocessArgs {
    /// Exported folder or checkpoint; its weights are not read.
    #[arg(value_name = "FOLDER", value_hint = clap::ValueHint::DirPath)]
    pub folder: PathBuf,

    /// Image (PNG, JPEG or WebP) that stands before the text; give it once for each image.
    #[arg(long = "image", value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub images: Vec<PathBuf>,

    /// Text of the user's message.
    #[arg(long, value_name = "TEXT")]
    pub prompt: String,

    /// Instructions to the model, in a system message before.
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,

    /// Describe the model by your own family file instead of the built-in ones.
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub family_file: Option<PathBuf>,

    /// File to make, in safetensors format.
    #[arg(short, long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub out: PathBuf,

    /// Replace the file if it exists.
    #[arg(long)]
    pub force: bool,

    /// Print the result, or the error, as one JSON object on stdout.
    #[arg(long)]
    pub json: bool,
}

/// Flags of `verify`.
#[derive(Debug, ClapArgs)]
pub struct VerifyArgs {
    /// Exported folder.
    #[arg(value_name = "ARTIFACT", value_hint = clap::ValueHint::DirPath)]
    pub artifact: PathBuf,

    /// Checkpoint that it was made from.
    #[arg(long, value_name = "MODEL", value_hint = clap::ValueHint::DirPath)]
    pub reference: PathBuf,

    /// Evaluation samples: chats in JSONL, LLaVA JSON or a VLMEvalKit TSV; none that the artifact was calibrated on.
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub data: PathBuf,

    /// Let samples name images outside the folder of the data file.
    #[arg(long)]
    pub allow_outside: bool,

    /// How it is run, and what is reported.
    #[command(flatten)]
    pub how: VerifyFlags,

    /// Describe the model by your own family file instead of the built-in ones.
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub family_file: Option<PathBuf>,

    /// Write the report as JSON; - for stdout, in place of the text.
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath, help_heading = "Reports")]
    pub json: Option<PathBuf>,

    /// Worker threads [default: all cores].
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,

    /// No progress on stderr, only warnings and errors.
    #[arg(short, long, help_heading = "Messages")]
    pub quiet: bool,
}

/// Flags of a verification, by itself or behind an export.
#[derive(Debug, Default, ClapArgs)]
pub struct VerifyFlags {
    /// What runs the artifact; auto takes the real runtime of its format where it is present.
    #[arg(long, value_enum, value_name = "RUNTIME", help_heading = "Verification")]
    pub runtime: Option<Runtime>,

    /// ONNX Runtime's execution provider [default: cpu].
    #[arg(long, value_name = "NAME", help_heading = "Verification")]
    pub provider: Option<String>,

    /// Address of a running llama-server that has the artifact's files [default: one is started].
    #[arg(long, value_name = "URL", help_heading = "Verification")]
    pub server: Option<String>,

    /// Fails when the mean divergence of the next token's distribution is larger, in nats.
    #[arg(long, value_name = "X", help_heading = "Verification")]
    pub max_kld: Option<f64>,

    /// Fails when the share of rows with the float model's best token is smaller, from 0 to 1.
    #[arg(long, value_name = "Y", help_heading = "Verification")]
    pub min_top1: Option<f64>,

    /// Fails when the share of samples with another answer is larger, from 0 to 1.
    #[arg(long, value_name = "Z", help_heading = "Verification")]
    pub max_flips: Option<f64>,

    /// Fails when the task's score falls by more, from 0 to 1.
    #[arg(long, value_name = "D", help_heading = "Verification")]
    pub max_accuracy_drop: Option<f64>,

    /// How answers are scored [default: as the data says, exact where it does not].
    #[arg(long, value_enum, value_name = "METRIC", help_heading = "Verification")]
    pub metric: Option<Metric>,

    /// Use only the first N samples.
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Verification")]
    pub samples: Option<usize>,

    /// Most tokens of an answer [default: 64].
    #[arg(long, value_name = "N", value_parser = positive, help_heading = "Verification")]
    pub max_new_tokens: Option<usize>,

    /// Samples on which the difference is split into its causes; 0 for none [default: 16].
    #[arg(long, value_name = "N", help_heading = "Verification")]
    pub attribution_samples: Option<usize>,

    /// Write the report as one page to look at.
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath, help_heading = "Reports")]
    pub html: Option<PathBuf>,

    /// Write a summary in Markdown, such as a CI system shows it.
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath, help_heading = "Reports")]
    pub markdown: Option<PathBuf>,
}

/// How answers are scored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Metric {
    /// The expected text.
    Exact,
    /// VQA accuracy, with ten answers of people or one.
    Vqa,
    /// Average normalised Levenshtein similarity (documents).
    Anls,
    /// Both begin with the same of yes and no.
    YesNo,
    /// Numbers within 5 % (charts).
    RelaxedNumber,
}

/// Formats that can be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// ONNX graphs for ONNX Runtime.
    Onnx,
    /// GGUF files for llama.cpp: a text model and a projector (mmproj).
    Gguf,
}

/// How weights of GGUF files are rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Method {
    /// Rotated, then rounded by GPTQ inside the blocks; needs calibration data.
    Gptq,
    /// Rounded with llama.cpp's importance weights, from images and text; needs calibration data.
    Importance,
    /// Rounded to the nearest value as llama.cpp's quantizer does it.
    Nearest,
}

/// Operator sets of quantized linears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Ops {
    /// With com.microsoft operators: fastest, needs ONNX Runtime.
    Ort,
    /// Only operators of the ONNX standard.
    Standard,
}

/// Forms of linears with one activation scale per modality.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum MsqForm {
    /// One product of rows divided by their modality's scale; less memory than split.
    RowScale,
    /// One product per modality at its static scale (AIFS), for runtimes without row scales.
    Split,
}

/// Forms of linears with weights below 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// Integer products with int8 weights: fastest for long prompts.
    #[value(name = "int8-gemm")]
    Int8Gemm,
    /// ONNX Runtime's MatMulNBits: 4 bits in memory; ignores the recipe's activation scales.
    #[value(name = "matmulnbits")]
    MatMulNBits,
    /// DequantizeLinear in blocks, a standard operator; ignores the recipe's activation scales.
    Portable,
}

/// What files hold of weights below 8 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Store {
    /// What takes less memory while loading: int8.
    Auto,
    /// Half the file; loading takes longer and more memory.
    Int4,
    /// Loaded as it is.
    Int8,
}

/// More threads than any machine has cores would only exhaust it.
const MAX_THREADS: usize = 1024;

fn threads(text: &str) -> Result<usize, String> {
    match positive(text)? {
        n if n <= MAX_THREADS => Ok(n),
        _ => Err(format!("expected at most {MAX_THREADS}")),
    }
}

/// Bytes of a size in decimal units.
fn size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" | "K" => 1_000,
        "MB" | "M" => 1_000_000,
        "GB" | "G" => 1_000_000_000,
        _ => return Err("expected a number with B, KB, MB or GB".into()),
    };
    let n: u64 =
        digits.trim().parse().map_err(|_| "expected a whole number with B, KB, MB or GB".to_string())?;
    n.checked_mul(unit).ok_or_else(|| "is more than any machine has".into())
}

/// A size of at least one byte.
fn some_size(text: &str) -> Result<u64, String> {
    match size(text)? {
        0 => Err("expected more than 0 bytes".into()),
        n => Ok(n),
    }
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a whole number from 1".into()),
        Ok(n) => Ok(n),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::error::ErrorKind;

    fn parse(line: &str) -> Result<Args, clap::Error> {
        Args::try_parse_from(line.split_whitespace())
    }

    fn export(line: &str) -> ExportArgs {
        parse(line).unwrap().export.unwrap()
    }

    #[test]
    fn clap_finds_no_fault_in_the_definition() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn the_export_needs_no_command_word() {
        let a = export(
            "x model --format onnx --calibration c.jsonl --calibration-samples 8 -o out --ops standard",
        );
        assert_eq!((a.model.to_str(), a.format), (Some("model"), Some(Format::Onnx)));
        assert_eq!((a.recipe, a.ops, a.calibration_samples), (None, Some(Ops::Standard), Some(8)));
        let a = export("x model --format gguf --method nearest --split-size 2GB");
        assert_eq!((a.format, a.method), (Some(Format::Gguf), Some(Method::Nearest)));
        assert_eq!(a.split_size, Some(2_000_000_000));
    }

    #[test]
    fn format_is_required_unless_only_the_graph_is_asked_for() {
        let e = parse("x model").unwrap_err();
        assert_eq!(e.kind(), ErrorKind::MissingRequiredArgument);
        assert!(e.to_string().contains("--format"), "{e}");
        assert!(export("x model --dump-ir").dump_ir);
        assert_eq!(parse("x").unwrap_err().kind(), ErrorKind::MissingRequiredArgument);
        assert_eq!(parse("x model --format safetensors").unwrap_err().kind(), ErrorKind::InvalidValue);
        assert_eq!(
            parse("x model --format gguf --split-size 0").unwrap_err().kind(),
            ErrorKind::ValueValidation
        );
    }

    #[test]
    fn flags_of_calibration_need_its_file() {
        for flag in ["--allow-outside", "--calibration-samples 3"] {
            let e = parse(&format!("x model --format onnx {flag}")).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::MissingRequiredArgument, "{e}");
        }
    }

    #[test]
    fn counts_start_at_one() {
        for flag in [
            "--threads 0",
            "--threads 1000000",
            "--threads -1",
            "--threads many",
            "--calibration c --calibration-samples 0",
        ] {
            let e = parse(&format!("x model --format onnx {flag}")).unwrap_err();
            assert!(matches!(e.kind(), ErrorKind::ValueValidation | ErrorKind::UnknownArgument), "{e}");
        }
    }

    #[test]
    fn sizes_have_units() {
        let memory = |text: &str| parse(&format!("x m --format onnx --activation-memory {text}"));
        for (text, bytes) in
            [("0", 0), ("7B", 7), ("512MB", 512_000_000), ("4gb", 4_000_000_000), ("3K", 3_000)]
        {
            assert_eq!(memory(text).unwrap().export.unwrap().activation_memory, bytes, "{text}");
        }
        for wrong in ["GB", "4XB", "-1", "1.5GB", "99999999999GB"] {
            assert!(memory(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn commands_take_their_own_flags() {
        let args =
            parse("x preprocess out --image a.png --image b.png --prompt hi -o p.safetensors").unwrap();
        let Some(Command::Preprocess(a)) = args.command else { panic!("{args:?}") };
        assert_eq!((a.images.len(), a.prompt.as_str(), a.force), (2, "hi", false));
        assert!(parse("x preprocess out --prompt hi").unwrap_err().to_string().contains("--out"));
        let args = parse("x inspect out --json").unwrap();
        let Some(Command::Inspect(a)) = args.command else { panic!("{args:?}") };
        assert!(a.json && args.export.is_none());
        assert!(parse("x completions zsh").is_ok());
        assert!(parse("x completions tcsh").is_err());
        assert!(parse("x model --format onnx inspect out").is_err());
    }
}
