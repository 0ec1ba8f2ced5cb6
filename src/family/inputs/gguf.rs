//! Resolved description of the GGUF files of one model: metadata and tensors as data, filled from the family file and interpreted by
//! `export::gguf`. No numbers of weights are touched here.

/// The files of one model.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufPlan {
    /// Token table and decoder.
    pub text: GgufFile,
    /// Vision tower and projector, or why there is no such file and what to do instead.
    pub vision: Result<GgufFile, String>,
    /// Where llama.cpp computes something else than the original: sentences for people.
    pub limits: Vec<String>,
}

/// One file.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufFile {
    /// `general.architecture`.
    pub architecture: String,
    /// Metadata beside `general.*` and the tokenizer's. Keys are unique.
    pub keys: Vec<(String, KeyValue)>,
    /// Tensors in the order of the file. Names are unique.
    pub tensors: Vec<GgufTensor>,
    /// llama.cpp takes the model for one of 70 billion parameters (`LLM_TYPE_70B`), for which mixes have rules of their own.
    pub is_70b: bool,
}

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum KeyValue {
    /// `uint32`.
    U32(u32),
    /// `int32`.
    I32(i32),
    /// `float32`.
    F32(f32),
    /// `bool`.
    Bool(bool),
    /// `string`.
    Text(String),
    /// Array of `float32`.
    F32s(Vec<f32>),
    /// Array of `int32`.
    I32s(Vec<i32>),
    /// Array of `string`.
    Texts(Vec<String>),
}

/// One tensor of a file and how its numbers come from those of roles: rows stacked, columns picked, rows put in order, seen in a shape.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufTensor {
    /// Name in the file.
    pub name: String,
    /// Where the numbers are from.
    pub source: TensorSource,
    /// Shape, the slowest axis first; without it, that of the stacked rows.
    pub shape: Option<Vec<usize>>,
    /// The rows are those of so many heads, each with the two members of a rotary pair half a head apart; they are put in the order in which
    /// the members are neighbours.
    pub rope_heads: Option<usize>,
    /// The columns that stay.
    pub column: Option<Column>,
    /// How floats are stored.
    pub stored: Stored,
    /// Left out where the model has none of the roles.
    pub optional: bool,
    /// Left out where the numbers are those of the token table.
    pub tied: bool,
}

/// Where the numbers of a tensor are from.
#[derive(Clone, Debug, PartialEq)]
pub enum TensorSource {
    /// The rows of these roles, one role's below another's.
    Roles(Vec<String>),
    /// Row `r side + c` is `[sin(c w), cos(c w), sin(r w), cos(r w)]` with `width / 4` frequencies `w_k = theta^(-k / (width / 4))`.
    SinCos {
        /// Rows and columns of the grid.
        side: usize,
        /// Values per row of the table, a multiple of 4.
        width: usize,
        /// Base of the frequencies.
        theta: f64,
    },
}

/// Rows are seen in the shape `of`, the slowest axis first; of axis `axis`, only index `at` stays.
#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    /// Shape of a row.
    pub of: Vec<usize>,
    /// An axis of `of`.
    pub axis: usize,
    /// An index of that axis.
    pub at: usize,
}

/// How floats of a tensor are stored. Vectors are `float32` always.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// In the float type of the file.
    FloatType,
    /// `float32`.
    F32,
    /// `float16` in a file of that type, `float32` otherwise.
    Kernel,
}

/// Where a model comes from: the keys `general.*` that say so.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Provenance {
    /// Name of the model; no path.
    pub name: String,
    /// Name without size and version, where the model card gives it.
    pub basename: Option<String>,
    /// Who published it.
    pub organization: Option<String>,
    /// SPDX name or `other`.
    pub license: Option<String>,
    /// Name of a licence that has no SPDX name.
    pub license_name: Option<String>,
    /// Address of its text.
    pub license_link: Option<String>,
    /// Models it was made from.
    pub base_models: Vec<BaseModel>,
    /// Words of the model card.
    pub tags: Vec<String>,
    /// Languages of the model card.
    pub languages: Vec<String>,
    /// `general.sampling.*`: what `generation_config.json` recommends.
    pub sampling: Vec<(String, KeyValue)>,
}

/// A model another one was made from, by its id on the Hugging Face hub.
#[derive(Clone, Debug, PartialEq)]
pub struct BaseModel {
    /// Name in the hub.
    pub name: String,
    /// Organization in the hub.
    pub organization: String,
}
