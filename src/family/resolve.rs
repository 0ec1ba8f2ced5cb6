//! Family file + checkpoint -> everything the pipeline needs to know of the model, or all the reasons why not.

use std::collections::BTreeMap;

use serde_json::Value as Json;

use super::account::{Binding, Ignored, account, cross_check};
use super::error::{FamilyError, FamilyProblem};
use super::inputs::{ImagePlan, PatchRows, PositionRule, PromptPlan, Resize};
use super::library::Library;
use super::schema::{FamilyFile, ImageDef, PositionsDef, ResizeDef};
use super::values::Values;
use crate::checkpoint::Checkpoint;
use crate::graph::Model;
use crate::graph::build::build;
use crate::graph::spec::{DecoderSpec, ModelSpec, ProjectorSpec, VisionSpec};

/// A checkpoint understood.
#[derive(Debug)]
pub struct Resolved {
    /// Family name.
    pub family: String,
    /// Name for people.
    pub title: String,
    /// The canonical float model.
    pub model: Model,
    /// Where each role's numbers are.
    pub bindings: BTreeMap<String, Binding>,
    /// Tensors not used, with reasons.
    pub ignored: Vec<Ignored>,
    /// Image preprocessing.
    pub image: ImagePlan,
    /// Prompt layout.
    pub prompt: PromptPlan,
    /// What GenAI needs, when it knows the family.
    pub genai: Option<GenaiPlan>,
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

/// Describes `checkpoint` by the family of `library` that fits it.
///
/// # Errors
/// [`FamilyError`] with all problems of the first stage that fails: family, configuration and tensors, graph.
pub fn resolve(library: &Library, checkpoint: &Checkpoint) -> Result<Resolved, FamilyError> {
    let family = library.find(checkpoint.config())?;
    let preprocessor = checkpoint.json("preprocessor_config.json")?.unwrap_or(Json::Null);
    let generation = checkpoint.json("generation_config.json")?.unwrap_or(Json::Null);
    let values = Values::new(family, checkpoint.config(), &preprocessor);
    let spec = model_spec(family, &values);
    let image = image_plan(&family.image, &values);
    let ids = TokenIds { config: checkpoint.config(), generation: &generation };
    let prompt = prompt_plan(family, &values, &spec, &ids);
    let genai = family.runtimes.genai.as_ref().map(|g| GenaiPlan {
        model_type: g.model_type.clone(),
        processor: g.processor.clone(),
        vision_start_token_id: values.id(&g.vision_start_token_id, "runtimes.genai.vision_start_token_id"),
        video_token_id: values.id(&g.video_token_id, "runtimes.genai.video_token_id"),
        bos_token_id: ids.first("bos_token_id"),
        pad_token_id: ids.first("pad_token_id"),
    });
    let account = account(family, checkpoint, &values);
    let misfit = |problems| FamilyError::Misfit { family: family.family.clone(), problems };
    let problems = values.into_problems();
    if !problems.is_empty() {
        return Err(misfit(problems));
    }
    let model = build(spec)?;
    let problems = cross_check(&model, &account);
    if !problems.is_empty() {
        return Err(misfit(problems));
    }
    let (family, title) = (family.family.clone(), family.title.clone());
    let (bindings, ignored) = (account.bindings, account.ignored);
    Ok(Resolved { family, title, model, bindings, ignored, image, prompt, genai })
}

fn model_spec(f: &FamilyFile, v: &Values<'_>) -> ModelSpec {
    let vision = VisionSpec {
        patch_features: v.count(&f.vision.patch_features, "vision.patch_features"),
        width: v.count(&f.vision.width, "vision.width"),
        depth: v.count(&f.vision.depth, "vision.depth"),
        heads: v.count(&f.vision.heads, "vision.heads"),
        mlp_width: v.count(&f.vision.mlp_width, "vision.mlp_width"),
        activation: f.vision.activation,
        eps: v.real(&f.vision.eps, "vision.eps"),
        rope_theta: v.real(&f.vision.rope_theta, "vision.rope_theta"),
        rope_layout: f.vision.rope_layout,
        merge: v.count(&f.vision.merge, "vision.merge"),
    };
    let projector = ProjectorSpec {
        eps: v.real(&f.projector.eps, "projector.eps"),
        hidden: v.count(&f.projector.hidden, "projector.hidden"),
        activation: f.projector.activation,
    };
    let d = &f.decoder;
    let sections = v.vector(&d.rope_sections, "decoder.rope_sections");
    let decoder = DecoderSpec {
        width: v.count(&d.width, "decoder.width"),
        layers: v.count(&d.layers, "decoder.layers"),
        heads: v.count(&d.heads, "decoder.heads"),
        kv_heads: v.count(&d.kv_heads, "decoder.kv_heads"),
        head_dim: v.count(&d.head_dim, "decoder.head_dim"),
        mlp_width: v.count(&d.mlp_width, "decoder.mlp_width"),
        vocab: v.count(&d.vocab, "decoder.vocab"),
        eps: v.real(&d.eps, "decoder.eps"),
        activation: d.activation,
        qkv_bias: d.qkv_bias,
        rope_theta: v.real(&d.rope_theta, "decoder.rope_theta"),
        rope_layout: d.rope_layout,
        rope_sections: sections.iter().map(|&x| x as usize).collect(),
        max_positions: v.count(&d.max_positions, "decoder.max_positions"),
        tied_head: v.flag(&d.tied_head, "decoder.tied_head"),
    };
    let half = decoder.head_dim / 2;
    let whole = sections.iter().all(|x| x.fract() == 0.0 && *x > 0.0);
    if !sections.is_empty() && (!whole || sections.iter().sum::<f64>() != half as f64) {
        v.report(FamilyProblem::BadValue {
            file: "config.json",
            key: d.rope_sections.clone(),
            name: "decoder.rope_sections".into(),
            expected: "whole numbers that add up to half the head size",
            found: format!("{sections:?} with heads of {}", decoder.head_dim),
        });
    }
    ModelSpec {
        vision,
        projector,
        decoder,
        image_token_id: v.id(&f.prompt.image_token_id, "prompt.image_token_id"),
    }
}

fn image_plan(image: &ImageDef, v: &Values<'_>) -> ImagePlan {
    let rgb = |name: &str, user: &str| -> [f32; 3] {
        let list: Vec<f32> = v.vector(name, user).into_iter().map(|x| x as f32).collect();
        <[f32; 3]>::try_from(list).unwrap_or_else(|found| {
            v.report(FamilyProblem::BadValue {
                file: "preprocessor_config.json",
                key: name.to_string(),
                name: user.to_string(),
                expected: "three numbers",
                found: format!("{found:?}"),
            });
            [0.0; 3]
        })
    };
    let ResizeDef::Smart { factor, min_pixels, max_pixels } = &image.resize;
    let rows = &image.rows;
    ImagePlan {
        resize: Resize::Smart {
            factor: v.count(factor, "image.resize.factor") as u32,
            min_pixels: v.count(min_pixels, "image.resize.min_pixels") as u64,
            max_pixels: v.count(max_pixels, "image.resize.max_pixels") as u64,
        },
        mean: rgb(&image.mean, "image.mean"),
        std: rgb(&image.std, "image.std"),
        rescale: v.real(&image.rescale, "image.rescale"),
        rows: PatchRows {
            patch: v.count(&rows.patch, "image.rows.patch"),
            merge: v.count(&rows.merge, "image.rows.merge"),
            temporal: v.count(&rows.temporal, "image.rows.temporal"),
            channels: v.count(&rows.channels, "image.rows.channels"),
        },
    }
}

fn prompt_plan(f: &FamilyFile, v: &Values<'_>, spec: &ModelSpec, ids: &TokenIds<'_>) -> PromptPlan {
    let PositionsDef::MropeGrid { merge } = &f.prompt.positions;
    let eos_token_ids = ids.all("eos_token_id");
    if eos_token_ids.is_empty() {
        let keys = "/eos_token_id (also in generation_config.json)".to_string();
        v.report(FamilyProblem::MissingKey { file: "config.json", keys, name: "prompt.eos".into() });
    }
    PromptPlan {
        image_token_id: spec.image_token_id,
        image_token: f.prompt.image_token.clone(),
        eos_token_ids,
        positions: PositionRule::MropeGrid { merge: v.count(merge, "prompt.positions.merge") },
        max_positions: spec.decoder.max_positions,
    }
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
