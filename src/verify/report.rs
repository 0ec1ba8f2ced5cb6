//! What a verification tells: the JSON report (`schemas/verify.schema.json` is generated from these types), from which the page and the job summary are
//! made. It holds no time, and of the machine no more than what it says of a runtime that was not found.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::runner::RunnerKind;

/// Version of the report format.
pub const VERIFY_VERSION: u32 = 1;

/// Result of one verification.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyReport {
    /// Format version.
    pub schema_version: u32,
    /// Whether every check passed.
    pub passed: bool,
    /// Name and version of this program.
    pub tool: String,
    /// What was verified.
    pub artifact: ArtifactAbout,
    /// What it was compared with.
    pub reference: ReferenceAbout,
    /// On what.
    pub data: DataAbout,
    /// What ran the artifact.
    pub runtime: RuntimeAbout,
    /// Thresholds and sanity checks, failed ones first.
    pub checks: Vec<Check>,
    /// What was measured with the runtime named in `runtime`.
    pub measured: Measured,
    /// Where the difference comes from; absent where it was not asked for.
    pub attribution: Option<Attribution>,
    /// Static activation scales of the artifact, in graph order.
    pub scales: Vec<ScalePair>,
    /// Samples with the largest difference, the worst first.
    pub worst: Vec<WorstSample>,
}

/// The artifact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ArtifactAbout {
    /// Name of its folder.
    pub name: String,
    /// `onnx` or `gguf`.
    pub format: String,
    /// Family of the model.
    pub family: String,
    /// Recipe it was made by.
    pub recipe: String,
    /// The recipe in a line.
    pub recipe_description: String,
    /// Bytes of all files.
    pub bytes: u64,
    /// SHA-256 of its manifest, which has the hashes of all other files.
    pub manifest_sha256: String,
}

/// The float model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReferenceAbout {
    /// Name of its folder.
    pub name: String,
    /// Bytes of its weights.
    pub bytes: u64,
    /// Whether its files are those that the artifact was made from, by their hashes.
    pub is_source: bool,
}

/// The evaluation data.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataAbout {
    /// Name of the file.
    pub name: String,
    /// Its SHA-256.
    pub sha256: String,
    /// Samples used.
    pub samples: usize,
    /// Those with images.
    pub with_images: usize,
    /// How answers are scored: `exact`, `vqa`, `anls`, `yes_no` or `relaxed_number`; `mixed` where samples differ.
    pub metric: String,
}

/// What ran the artifact.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RuntimeAbout {
    /// Which one.
    pub runner: RunnerKind,
    /// Its version.
    pub version: String,
    /// How it ran.
    pub detail: String,
    /// Whether a real runtime ran the files. Where not, nothing is said of the runtime that users have.
    pub runtime_checked: bool,
    /// What was not checked, and what to do about it.
    pub not_checked: Vec<String>,
    /// Tokens per row whose probabilities the runtime told; absent: all.
    pub top_tokens: Option<usize>,
}

/// A threshold or a sanity check.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// What is checked: `max_kld`, `min_top1`, `max_flips`, `max_accuracy_drop`, `image_swap`, `degenerate`, `text_only`, `configuration`,
    /// `preprocessing`, `structure`.
    pub name: String,
    /// Whether it holds.
    pub passed: bool,
    /// What was measured, where it is a number.
    pub measured: Option<f64>,
    /// What it is held to, where it is a number.
    pub limit: Option<f64>,
    /// One sentence; of a failed check it names the file, component or key at fault where that is known.
    pub text: String,
}

/// A number with its 95 % interval (bootstrap over samples, fixed seed).
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Interval {
    /// The number.
    pub value: f64,
    /// Lower end.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

/// The artifact against the float model, on the rows behind prompts and behind each token of the answers. Divergences (KLD) are Kullback-Leibler, of the artifact's
/// distribution of the next token from the float model's, in nats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Rows compared.
    pub rows: usize,
    /// Mean divergence.
    pub kld_mean: Interval,
    /// Median divergence.
    pub kld_median: Interval,
    /// 99th percentile of the divergence.
    pub kld_p99: Interval,
    /// Share of rows with the float model's best token.
    pub top1: Interval,
    /// Share of samples whose greedy answer is another.
    pub flips: Interval,
    /// Score of the float model's answers by the task's metric; absent without expected answers.
    pub accuracy_float: Option<Interval>,
    /// The artifact's.
    pub accuracy: Option<Interval>,
    /// Image features against the float model's, where the runner tells them.
    pub features: Option<Similarity>,
}

/// How alike two lists of rows are.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Similarity {
    /// Mean cosine of the angle between rows.
    pub cosine: f64,
    /// Root mean square of the difference over that of the float model's rows.
    pub relative_error: f64,
}

/// Where the difference comes from, on the first samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Attribution {
    /// Samples it was measured on.
    pub samples: usize,
    /// Steps from the float model to the artifact in its runtime, in order.
    pub causes: Vec<Cause>,
    /// One component of the artifact at a time, the others being the float model's.
    pub components: Vec<ComponentGap>,
    /// Inputs of the decoder, embeddings of tokens and rows of images, against the float model's.
    pub embeddings: Option<Similarity>,
    /// What each half of a layer adds by itself, its input being the float model's, in graph order.
    pub layers: Vec<LayerGap>,
    /// The linears with the largest errors of their own, the worst first.
    pub linears: Vec<LinearGap>,
}

/// One step.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Cause {
    /// `preprocessing`, `float_conversion`, `weights`, `activations`, `runtime`.
    pub name: String,
    /// Mean divergence from the float model behind this step; absent where it cannot be measured.
    pub kld: Option<f64>,
    /// What it is, or why there is no number.
    pub text: String,
}

/// One component of the artifact in the float model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ComponentGap {
    /// `vision` (with the projector) or `decoder` (with the token table).
    pub component: String,
    /// Mean divergence.
    pub kld: f64,
}

/// One half of a layer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LayerGap {
    /// Name of its result, such as `decoder.layers.0.attn.sum`.
    pub name: String,
    /// Relative error on visual rows.
    pub visual: Option<f64>,
    /// Relative error on text rows.
    pub text: Option<f64>,
    /// The hidden state here against the float model's, with everything that came before being the artifact's too.
    pub hidden: Option<Similarity>,
}

/// One linear.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LinearGap {
    /// Role without `.weight`.
    pub role: String,
    /// Relative error of its result, its input being the float model's.
    pub error: f64,
    /// What the export measured for it, where it did.
    pub expected: Option<f64>,
    /// The channel of its result that is off by itself, where there is one: rounding leaves about the same error in all, a wrong scale or weight a large one in one.
    pub odd_channel: Option<ChannelGap>,
    /// What would help.
    pub advice: String,
}

/// One channel of the result of a linear.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ChannelGap {
    /// Its index in the artifact.
    pub channel: usize,
    /// Its relative error.
    pub error: f64,
    /// How many times the error of the linear's typical channel that is.
    pub times: f64,
}

/// Static activation scales of one linear.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ScalePair {
    /// Role without `.weight`.
    pub role: String,
    /// Scale of visual rows.
    pub visual: f32,
    /// Scale of text rows.
    pub text: f32,
}

/// A sample with a large difference.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct WorstSample {
    /// Id in the data.
    pub id: String,
    /// What is asked: the texts of the user's last message.
    pub question: String,
    /// The expected answer, if there is one.
    pub expected: Option<String>,
    /// What the float model answers.
    pub float_answer: String,
    /// What the artifact answers.
    pub answer: String,
    /// Mean divergence over its rows.
    pub kld: f64,
    /// Whether the answers differ.
    pub flipped: bool,
    /// Its images, made small.
    pub images: Vec<Thumbnail>,
}

/// A small picture of an image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Thumbnail {
    /// Width of the image in pixels.
    pub width: u32,
    /// Height of the image in pixels.
    pub height: u32,
    /// PNG of at most 256 pixels a side, in base64; `data:image/png;base64,` before it makes an address.
    pub png: String,
}
