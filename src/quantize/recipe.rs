//! Recipes: which precision each linear gets. YAML, strict and versioned; the built-in ones are in `recipes/`. The JSON schema in
//! `schemas/recipe.schema.json` is generated from these types and a test compares them.

mod built_in;
mod check;
mod method;
mod mix;
mod precision;
mod rules;
mod thresholds;
mod vision;

use std::path::Path;

pub use check::TABLE;
pub use method::Method;
pub use mix::{Mix, MixModel, MixTensor, fallback};
pub use precision::{Activations, Precision, Weights};
pub use rules::{Budget, DownProjections, Gptq, LoopInputs, Remedy};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use thresholds::Thresholds;
pub use vision::VisionRotation;

use super::error::QuantizeError;
use crate::calibrate::observe::RangeRule;
/// Version of the format this program reads.
pub const SCHEMA_VERSION: u32 = 1;

/// Precision of a whole model.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Recipe {
    /// Format version of this file.
    pub schema_version: u32,
    /// Name in reports, manifests and default output names.
    pub name: String,
    /// One line for people.
    #[serde(default)]
    pub description: String,
    /// Precision of the linears of each component.
    pub components: Components,
    /// Types of the decoder's linears, the head and the token table as one of llama.cpp's presets has them; the weights of `components.decoder` are then those
    /// that no rule of it treats apart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mix: Option<Mix>,
    /// Rotations, fused into the weights before they are quantized.
    #[serde(default, skip_serializing_if = "RotationRule::is_none")]
    pub rotation: RotationRule,
    /// Whether the channels of value heads are balanced against the columns that read them, before heads are rotated.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub smooth_values: bool,
    /// What may be done about outliers in the inputs of down projections.
    #[serde(default, skip_serializing_if = "DownProjections::is_none")]
    pub down_projections: DownProjections,
    /// How a static scale is chosen from the calibrated values.
    #[serde(default)]
    pub observer: RangeRule,
    /// Whether inputs with one static scale may get a zero point, where it measures better.
    #[serde(default)]
    pub asymmetric: bool,
    /// Rounding of weights by GPTQ; to the nearest code where absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gptq: Option<Gptq>,
    /// Whether block types of ggml are rounded by ggml's routine for importance matrices, from the mean squares of input channels over images and text.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub importance: bool,
    /// Whether scales of weights are searched for the least expected error; otherwise they put the largest weight on the largest code.
    #[serde(default)]
    pub search: bool,
    /// Which linears get more bits than planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Exceptions, later ones win.
    #[serde(default)]
    pub overrides: Vec<Override>,
    /// What `verify` holds the artifact to; its flags win.
    #[serde(default, skip_serializing_if = "Thresholds::is_none")]
    pub verify: Thresholds,
    /// Two activation scales of one linear whose ratio is at most this become one; 1 keeps all apart.
    #[serde(default = "one")]
    pub msq_merge_ratio: f32,
}

fn one() -> f32 {
    1.0
}

/// Which rotations are fused into the weights (QuaRot, arXiv 2404.00456). They leave the float model the same and spread outlier channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RotationRule {
    /// The decoder's residual.
    #[serde(default)]
    pub decoder: bool,
    /// The vision tower's residual, where a rotation of it is exact.
    #[serde(default)]
    pub vision: VisionRotation,
    /// Values inside every attention head.
    #[serde(default)]
    pub heads: bool,
    /// Where the signs of the matrices come from.
    #[serde(default)]
    pub seed: u64,
    /// Whether a rotation stays only where the expected error of the linears it touches gets smaller with it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub gate: bool,
    /// What becomes of a head that is the token table, in files that can store it once.
    #[serde(default, skip_serializing_if = "TiedHead::is_default")]
    pub tied: TiedHead,
}

/// What becomes of a head that is the token table. Rotating the decoder's residual folds the final norm into the head, which the table does not share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TiedHead {
    /// They stay one tensor, and the decoder's residual is not rotated.
    #[default]
    Keep,
    /// The head becomes a tensor of its own, and the decoder's residual may be rotated.
    Untie,
}

impl TiedHead {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl RotationRule {
    /// Whether anything is rotated.
    pub fn any(&self) -> bool {
        self.decoder || self.vision.any() || self.heads
    }

    fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

/// Precision per component.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Components {
    /// Vision tower, patch embedding included.
    pub vision: Precision,
    /// Projector.
    pub projector: Precision,
    /// Decoder, head included.
    pub decoder: Precision,
    /// Weights of the token table, float or of a type of ggml; absent: what the mix says, float without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embedding: Option<Weights>,
}

/// An exception for some linears.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Override {
    /// Role of the linear without `.weight`; `*` stands for any run of characters.
    #[serde(rename = "match")]
    pub pattern: String,
    /// Weights.
    pub weights: Weights,
    /// Activations.
    pub activations: Activations,
}

impl Recipe {
    /// A built-in recipe by name, or a recipe file by path.
    ///
    /// # Errors
    /// [`QuantizeError::Recipe`] when there is no such recipe or it does not hold together.
    pub fn load(name_or_path: &str) -> Result<Self, QuantizeError> {
        if let Some(text) = built_in::text(name_or_path) {
            return Self::parse(name_or_path, &text);
        }
        let text = std::fs::read_to_string(Path::new(name_or_path)).map_err(|e| {
            let names = built_in::names().collect::<Vec<_>>().join(", ");
            error(
                name_or_path,
                format!("neither a built-in recipe ({names}) nor a file that can be read: {e}"),
            )
        })?;
        Self::parse(name_or_path, &text)
    }

    /// Parses and checks a recipe; `source` names it in errors.
    ///
    /// # Errors
    /// [`QuantizeError::Recipe`].
    pub fn parse(source: &str, text: &str) -> Result<Self, QuantizeError> {
        let recipe: Self = serde_norway::from_str(text).map_err(|e| error(source, e.to_string()))?;
        recipe.check(source)?;
        Ok(recipe)
    }

    /// Whether any linear needs calibrated activation scales.
    pub fn needs_calibration(&self) -> bool {
        let c = &self.components;
        let precisions = [c.vision, c.projector, c.decoder].into_iter();
        let mut precisions = precisions.chain(self.overrides.iter().map(Override::precision));
        let statistics = self.gptq.is_some() || self.search || self.budget.is_some() || self.importance;
        precisions.any(|p| p.activations.are_static() || (statistics && p.is_quantized()))
            || self.changes_weights()
    }

    /// Whether weights are changed before they are quantized, which is proven on a prompt.
    pub fn changes_weights(&self) -> bool {
        self.rotation.any() || self.smooth_values || !self.down_projections.is_none()
    }

    /// All weights that the recipe names, each with the key or pattern that names it.
    fn all_weights(&self) -> impl Iterator<Item = (&str, Weights)> {
        let c = &self.components;
        let components = [
            ("components.vision", Some(c.vision.weights)),
            ("components.projector", Some(c.projector.weights)),
            ("components.decoder", Some(c.decoder.weights)),
            ("components.embedding", c.embedding),
        ];
        let components = components.into_iter().filter_map(|(key, weights)| Some((key, weights?)));
        let overrides = self.overrides.iter().map(|o| (o.pattern.as_str(), o.weights));
        let grids = self.budget.iter().flat_map(|b| &b.grids).map(|w| ("budget.grids", *w));
        components.chain(overrides).chain(grids)
    }
}

impl Override {
    /// Its precision.
    pub fn precision(&self) -> Precision {
        Precision { weights: self.weights, activations: self.activations }
    }
}

fn error(name: &str, reason: String) -> QuantizeError {
    QuantizeError::Recipe { name: name.to_string(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    const W8A8: &str = include_str!("../../recipes/w8a8.yaml");

    fn refused(from: &str, to: &str) -> String {
        let text = W8A8.replacen(from, to, 1);
        assert_ne!(text, W8A8, "{from} is not in the recipe");
        Recipe::parse("r.yaml", &text).unwrap_err().to_string()
    }

    #[test]
    fn built_in_recipes_parse_under_their_names() {
        for name in built_in::names() {
            assert_eq!(Recipe::load(name).unwrap().name, name);
        }
        assert!(!Recipe::load("float").unwrap().needs_calibration());
        assert!(Recipe::load("w8a8").unwrap().needs_calibration());
    }

    #[test]
    fn what_does_not_hold_together_is_refused_with_its_subject() {
        assert!(refused("schema_version: 1", "schema_version: 9").contains('9'));
        assert!(refused("name: w8a8", "name: w8a8\ncolour: red").contains("colour"));
        assert!(
            refused("weights: int8, activations: static", "weights: float, activations: static")
                .contains("vision")
        );
        assert!(
            refused(
                "vision: {weights: int8, activations: static}",
                "vision: {weights: int8, activations: msq}"
            )
            .contains("vision")
        );
        assert!(refused("msq_merge_ratio: 1.05", "msq_merge_ratio: 0.5").contains("0.5"));
        assert!(refused("name: w8a8", "name: ../x").contains("../x"));
        assert!(refused("weights: int8", "weights: int9").contains("int9"));
    }

    #[test]
    fn types_of_ggml_hold_together() {
        let text = built_in::text("q4_k_m").unwrap();
        let refused = |from: &str, to: &str| {
            let changed = text.replacen(from, to, 1);
            assert_ne!(changed, text, "{from} is not in the recipe");
            Recipe::parse("r.yaml", &changed).unwrap_err().to_string()
        };
        let told = refused("decoder: {weights: q4_k", "decoder: {weights: q4_0");
        assert!(told.contains("components.decoder") && told.contains("write q4_k"), "{told}");
        assert!(refused("search: true", "importance: true").contains("leave one of them out"));
        let told = refused("search: true", "budget: {grids: [q4_k, q8_0], bits: 5}");
        assert!(told.contains("mix q4_k_m and budget"), "{told}");
        let told =
            refused("search: true", "overrides: [{match: embedding, weights: q8_0, activations: static}]");
        assert!(told.contains("no activations"), "{told}");
        let told =
            refused("search: true", "overrides: [{match: embedding, weights: int8, activations: float}]");
        assert!(told.contains("token table"), "{told}");
        let told = refused("vision: {weights: q8_0", "vision: {weights: f16");
        assert!(told.contains("vision: f16 weights"), "{told}");
        let grids = W8A8.replacen("asymmetric: true", "importance: true", 1);
        let told = Recipe::parse("r.yaml", &grids).unwrap_err().to_string();
        assert!(told.contains("components.vision") && told.contains("q4_k"), "{told}");
    }

    #[test]
    fn methods_change_how_weights_are_found_and_not_which_types_they_have() {
        for name in ["q8_0", "q4_k_m", "q2_k"] {
            let recipe = Recipe::load(name).unwrap();
            let types = |r: &Recipe| (r.mix, r.components.vision.weights, r.components.decoder.weights);
            for method in [Method::Nearest, Method::Importance, Method::Gptq] {
                let changed = recipe.clone().with_method(method).unwrap();
                assert_eq!(types(&changed), types(&recipe));
                assert_eq!(changed.needs_calibration(), method != Method::Nearest, "{name} {method:?}");
                assert_eq!(changed.changes_weights(), method == Method::Gptq, "{name} {method:?}");
                assert_eq!(
                    (changed.importance, changed.gptq.is_some()),
                    (method == Method::Importance, method == Method::Gptq)
                );
            }
        }
        let float = Recipe::load("f16").unwrap();
        assert_eq!(float.clone().with_method(Method::Importance).unwrap(), float);
        let told = Recipe::load("w4a8").unwrap().with_method(Method::Importance).unwrap_err().to_string();
        assert!(told.contains("w4a8") && told.contains("block types of ggml"), "{told}");
    }

    #[test]
    fn an_unknown_recipe_names_the_known_ones() {
        let e = Recipe::load("w8a9").unwrap_err().to_string();
        assert!(e.contains("float, w8a8, w4a8"), "{e}");
    }
}
