//! Family file + checkpoint -> everything the pipeline needs to know of the model, or all the reasons why not. What needs no weights can be
//! had alone, from an exported folder too.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::account::{Ignored, account, cross_check};
use super::binding::Binding;
use super::error::{FamilyError, FamilyProblem};
use super::gguf::gguf_plan;
use super::inputs::gguf::GgufPlan;
use super::inputs::{ImagePlan, PromptPlan};
use super::library::Library;
use super::schema::{FamilyFile, GenaiDef};
use super::spec::model_spec;
use super::values::Values;
use crate::checkpoint::{Checkpoint, SideFiles};
use crate::graph::Model;
use crate::graph::build::build;
use crate::graph::spec::ModelSpec;
use crate::tokenizer::{Tokenizer, TokenizerFormat};

mod inputs;

use inputs::{image_plan, image_token_id, prompt_plan};

/// What a checkpoint's files without its weights say of the model.
#[derive(Debug)]
pub struct Description {
    /// Family name.
    pub family: String,
    /// Name for people.
    pub title: String,
    /// Sizes and kinds of the model's parts.
    pub spec: ModelSpec,
    /// The checkpoint's tokenizer.
    pub tokenizer: Tokenizer,
    /// The files it was read from.
    pub tokenizer_format: TokenizerFormat,
    /// Image preprocessing.
    pub image: ImagePlan,
    /// Prompt layout.
    pub prompt: PromptPlan,
    /// What GenAI needs, or why it cannot run the family.
    pub genai: Result<GenaiPlan, String>,
    /// The files for llama.cpp, or why there are none and what to do instead.
    pub gguf: Result<GgufPlan, String>,
}

/// A checkpoint understood.
#[derive(Debug)]
pub struct Resolved {
    /// What is known without the weights.
    pub description: Description,
    /// The canonical float model.
    pub model: Model,
    /// Where each role's numbers are.
    pub bindings: BTreeMap<String, Binding>,
    /// Tensors not used, with reasons.
    pub ignored: Vec<Ignored>,
}

impl Resolved {
    /// Number of tensors that carry weights of the model.
    pub fn tensors_used(&self) -> usize {
        self.bindings.values().map(|b| b.tensor.as_str()).collect::<std::collections::BTreeSet<_>>().len()
    }
}

/// What ONNX Runtime GenAI needs to be told.
#[derive(Clone, Debug, PartialEq)]
pub struct GenaiPlan {
    /// `model.type` of `genai_config.json`.
    pub model_type: String,
    /// `processor.name` of `processor_config.json`.
    pub processor: String,
    /// Token before an image.
    pub vision_start_token_id: i64,
    /// Placeholder of video rows.
    pub video_token_id: i64,
    /// First token, when the checkpoint names one.
    pub bos_token_id: Option<i64>,
    /// Padding token, when the checkpoint names one.
    pub pad_token_id: Option<i64>,
}

/// Describes what needs no weights by the family of `library` that fits: the files of a checkpoint or of an exported folder.
///
/// # Errors
/// [`FamilyError`] with all problems of the first stage that fails: family and tokenizer, configuration.
pub fn describe(library: &Library, files: &SideFiles) -> Result<Description, FamilyError> {
    let sources = Sources::read(library, files)?;
    let values = sources.values();
    let description = sources.describe(&values)?;
    sources.check(values.into_problems())?;
    Ok(description)
}

/// Describes `checkpoint` by the family of `library` that fits it.
///
/// # Errors
/// [`FamilyError`] with all problems of the first stage that fails: family and tokenizer, configuration and tensors, graph.
pub fn resolve(library: &Library, checkpoint: &Checkpoint) -> Result<Resolved, FamilyError> {
    let sources = Sources::read(library, checkpoint.files())?;
    let values = sources.values();
    let description = sources.describe(&values)?;
    let account = account(&sources.family, checkpoint, &values);
    sources.check(values.into_problems())?;
    let model = build(description.spec.clone())?;
    sources.check(cross_check(&model, &account))?;
    Ok(Resolved { description, model, bindings: account.bindings, ignored: account.ignored })
}

/// All that a description is made of.
struct Sources<'a> {
    family: FamilyFile,
    files: &'a SideFiles,
    preprocessor: Json,
    generation: Json,
}

impl<'a> Sources<'a> {
    fn read(library: &Library, files: &'a SideFiles) -> Result<Self, FamilyError> {
        let family = library.find(files.config())?;
        let preprocessor = files.json("preprocessor_config.json")?.unwrap_or(Json::Null);
        let generation = files.json("generation_config.json")?.unwrap_or(Json::Null);
        Ok(Self { family, files, preprocessor, generation })
    }

    fn values(&self) -> Values<'_> {
        Values::new(&self.family, self.files.config(), &self.preprocessor)
    }

    /// The description; what is wrong with its numbers goes to `values`.
    fn describe(&self, values: &Values<'_>) -> Result<Description, FamilyError> {
        let family = &self.family;
        values.require(&family.require);
        let tokenizer = Tokenizer::from_folder(self.files.dir(), &family.tokenizer)?;
        let spec = model_spec(family, values, image_token_id(&family.prompt, &tokenizer, values));
        let ids = TokenIds { config: self.files.config(), generation: &self.generation };
        let prompt =
            prompt_plan(family, values, spec.image_token_id, spec.decoder.max_positions, (&ids, &tokenizer));
        Ok(Description {
            family: family.family.clone(),
            title: family.title.clone(),
            image: image_plan(family, values),
            genai: genai_plan(&family.runtimes.genai, values, &ids),
            gguf: gguf_plan(&family.runtimes.gguf, values, &tokenizer),
            spec,
            tokenizer,
            tokenizer_format: family.tokenizer.clone(),
            prompt,
        })
    }

    fn check(&self, problems: Vec<FamilyProblem>) -> Result<(), FamilyError> {
        let family = self.family.family.clone();
        if problems.is_empty() { Ok(()) } else { Err(FamilyError::Misfit { family, problems }) }
    }
}

fn genai_plan(def: &GenaiDef, v: &Values<'_>, ids: &TokenIds<'_>) -> Result<GenaiPlan, String> {
    let g = match def {
        GenaiDef::Type(g) => g,
        GenaiDef::None(reason) => return Err(reason.clone()),
    };
    Ok(GenaiPlan {
        model_type: g.model_type.clone(),
        processor: g.processor.clone(),
        vision_start_token_id: v.id(&g.vision_start_token_id, "runtimes.genai.type.vision_start_token_id"),
        video_token_id: v.id(&g.video_token_id, "runtimes.genai.type.video_token_id"),
        bos_token_id: ids.first("bos_token_id"),
        pad_token_id: ids.first("pad_token_id"),
    })
}

/// Special ids: `generation_config.json` counts before `config.json`, as in transformers' `generate`.
struct TokenIds<'a> {
    config: &'a Json,
    generation: &'a Json,
}

impl TokenIds<'_> {
    fn all(&self, key: &str) -> Vec<i64> {
        let nested = self.config.get("text_config").unwrap_or(&Json::Null);
        let mut found = [self.generation, self.config, nested].into_iter().filter_map(|j| j.get(key));
        match found.find(|v| !v.is_null()) {
            Some(Json::Array(list)) => list.iter().filter_map(Json::as_i64).collect(),
            Some(one) => one.as_i64().into_iter().collect(),
            None => vec![],
        }
    }

    fn first(&self, key: &str) -> Option<i64> {
        self.all(key).first().copied()
    }
}
