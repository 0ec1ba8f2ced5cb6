//! How long work tells whoever watches: stages with counts, and warnings. Printing is the command line's business.

/// A step of the pipeline, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Checkpoint, family, recipe.
    Read,
    /// Calibration samples to tensors.
    Prepare,
    /// Activation statistics.
    Calibrate,
    /// The model with changed weights computes the same.
    Prove,
    /// Activation scales and integer weights, block by block.
    Quantize,
    /// Hashes of what was read.
    Hash,
    /// Files written.
    Emit,
    /// Hashes of what was written, and manifest.
    Finish,
    /// Verification: hashes, configuration and evaluation data.
    Check,
    /// What the float model answers.
    Reference,
    /// What the artifact says.
    Artifact,
    /// Sanity of the artifact.
    Sanity,
    /// Where the difference comes from.
    Attribute,
}

impl Stage {
    /// Its number and how many there are, in an export or a verification.
    pub fn place(self) -> (usize, usize) {
        let (export, verification) =
            (Stage::Finish as usize + 1, Stage::Attribute as usize - Stage::Finish as usize);
        match self as usize {
            i if i < export => (i + 1, export),
            i => (i + 1 - export, verification),
        }
    }

    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Stage::Read => "read",
            Stage::Prepare => "prepare",
            Stage::Prove => "prove",
            Stage::Calibrate => "calibrate",
            Stage::Quantize => "quantize",
            Stage::Hash => "hash",
            Stage::Emit => "emit",
            Stage::Finish => "finish",
            Stage::Check => "check",
            Stage::Reference => "reference",
            Stage::Artifact => "artifact",
            Stage::Sanity => "sanity",
            Stage::Attribute => "attribute",
        }
    }
}

/// Something the user should know that does not stop the run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Warning {
    /// Weight files in the folder that were not read.
    #[error("weight file {file} is in the folder but not among those the model names; it was not read")]
    UnreadWeights {
        /// File name.
        file: String,
    },
    /// Calibration data was given to a recipe that needs none.
    #[error("the recipe {recipe} has no static scales; the calibration data was not read")]
    UnusedCalibration {
        /// Recipe name.
        recipe: String,
    },
    /// A quantized linear's input was zero in all calibration rows of a modality.
    #[error(
        "{linear}: no {modality} row in the calibration data reached this linear; its scale is that of the other modality (add such samples)"
    )]
    NoRows {
        /// Role of the linear.
        linear: String,
        /// `visual` or `text`.
        modality: &'static str,
    },
    /// GenAI cannot run the family.
    #[error(
        "onnxruntime-genai cannot run {family}, so no genai_config.json was written; generate.py runs the files. {reason}"
    )]
    NoGenai {
        /// Name of the family, for people.
        family: String,
        /// The family file's sentence.
        reason: String,
    },
    /// llama.cpp has no graph for the vision side.
    #[error("llama.cpp cannot show images to {family}, so no mmproj file was written. {reason}")]
    NoProjector {
        /// Name of the family, for people.
        family: String,
        /// The family file's sentence.
        reason: String,
    },
    /// llama.cpp computes something else than the original model.
    #[error("llama.cpp and {family}: {limit}")]
    Limit {
        /// Name of the family, for people.
        family: String,
        /// The family file's sentence.
        limit: String,
    },
}

/// Receives progress. All calls come from the thread that called the pipeline.
pub trait Progress {
    /// A stage begins; `total` steps are expected.
    fn begin(&mut self, stage: Stage, total: u64);
    /// `done` of the stage's steps are finished; `what` names the current one.
    fn at(&mut self, done: u64, what: &str);
    /// The stage is over.
    fn end(&mut self);
    /// Something worth knowing.
    fn warn(&mut self, warning: &Warning);
}

/// Ignores everything.
#[derive(Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn begin(&mut self, _: Stage, _: u64) {}
    fn at(&mut self, _: u64, _: &str) {}
    fn end(&mut self) {}
    fn warn(&mut self, _: &Warning) {}
}

/// A stage whose number of steps is known with the first of them.
pub(super) struct Counted<'a> {
    progress: &'a mut dyn Progress,
    stage: Stage,
    begun: bool,
}

impl<'a> Counted<'a> {
    pub(super) fn new(progress: &'a mut dyn Progress, stage: Stage) -> Self {
        Self { progress, stage, begun: false }
    }

    pub(super) fn step(&mut self) -> impl FnMut(usize, usize, &str) {
        |done, all, what| {
            if !self.begun {
                self.begun = true;
                self.progress.begin(self.stage, all as u64);
            }
            self.progress.at(done as u64, what);
        }
    }

    pub(super) fn end(self) {
        if self.begun {
            self.progress.end();
        }
    }
}
