//! Recipes: which precision each linear gets. YAML, strict and versioned; the built-in ones are `recipes/*.yaml`. The JSON schema in
//! `schemas/recipe.schema.json` is generated from these types and a test compares them.

mod precision;
mod rules;
mod vision;

use std::path::Path;

pub use precision::{Activations, Precision, Weights};
pub use rules::{Budget, DownProjections, Gptq, LoopInputs, Remedy};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use vision::VisionRotation;

use super::error::QuantizeError;
use crate::calibrate::observe::RangeRule;
use crate::graph::Component;

/// Version of the format this program reads.
pub const SCHEMA_VERSION: u32 = 1;

/// Built-in recipes by name.
const BUILT_IN: &[(&str, &str)] = &[
    ("float", include_str!("../../recipes/float.yaml")),
    ("w8a8", include_str!("../../recipes/w8a8.yaml")),
    ("w4a8", include_str!("../../recipes/w4a8.yaml")),
    ("w4a8-all", include_str!("../../recipes/w4a8-all.yaml")),
    ("w4a8-channel", include_str!("../../recipes/w4a8-channel.yaml")),
    ("w4a16", include_str!("../../recipes/w4a16.yaml")),
];

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
    /// Whether scales of weights are searched for the least expected error; otherwise they put the largest weight on the largest code.
    #[serde(default)]
    pub search: bool,
    /// Which linears get more bits than planned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<Budget>,
    /// Exceptions, later ones win.
    #[serde(default)]
    pub overrides: Vec<Override>,
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

/// Precision per component. The token table is always float.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Components {
    /// Vision tower, patch embedding included.
    pub vision: Precision,
    /// Projector.
    pub projector: Precision,
    /// Decoder, head included.
    pub decoder: Precision,
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
        if let Some((name, text)) = BUILT_IN.iter().find(|(name, _)| *name == name_or_path) {
            return Self::parse(name, text);
        }
        let text = std::fs::read_to_string(Path::new(name_or_path)).map_err(|e| {
            let names = BUILT_IN.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
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
        let statistics = self.gptq.is_some() || self.search || self.budget.is_some();
        precisions.any(|p| p.activations.are_static() || (statistics && p.is_quantized()))
            || self.changes_weights()
    }

    /// Whether weights are changed before they are quantized, which is proven on a prompt.
    pub fn changes_weights(&self) -> bool {
        self.rotation.any() || self.smooth_values || !self.down_projections.is_none()
    }

    fn check(&self, source: &str) -> Result<(), QuantizeError> {
        if self.schema_version != SCHEMA_VERSION {
            let found = self.schema_version;
            return Err(error(
                source,
                format!("schema_version is {found}, this program reads {SCHEMA_VERSION}"),
            ));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if self.name.is_empty() || !self.name.chars().all(plain) || self.name.starts_with('.') {
            return Err(error(
                source,
                format!("name {:?} must be letters, digits, '.', '_' or '-'", self.name),
            ));
        }
        if !(self.msq_merge_ratio >= 1.0 && self.msq_merge_ratio.is_finite()) {
            let reason = format!("msq_merge_ratio is {}, expected at least 1", self.msq_merge_ratio);
            return Err(error(source, reason));
        }
        let rules = [
            self.gptq.as_ref().and_then(Gptq::fault),
            self.budget.as_ref().and_then(Budget::fault),
            self.down_projections.fault(),
        ];
        if let Some(reason) = rules.into_iter().flatten().next() {
            return Err(error(source, reason));
        }
        let c = &self.components;
        for (component, p) in [
            (Component::Vision, c.vision),
            (Component::Projector, c.projector),
            (Component::Decoder, c.decoder),
        ] {
            check_precision(source, component.name(), component, p)?;
        }
        for o in &self.overrides {
            let component = Component::of_role(&o.pattern).unwrap_or(Component::Decoder);
            check_precision(source, &o.pattern, component, o.precision())?;
        }
        Ok(())
    }
}

impl Override {
    /// Its precision.
    pub fn precision(&self) -> Precision {
        Precision { weights: self.weights, activations: self.activations }
    }
}

fn check_precision(
    source: &str,
    subject: &str,
    component: Component,
    p: Precision,
) -> Result<(), QuantizeError> {
    if p.is_integer() && !p.is_quantized() {
        let reason = format!(
            "{subject}: float weights with int8 activations: an integer product needs both in integers (weights int8 or int4, or activations \
             float)"
        );
        return Err(error(source, reason));
    }
    if p.activations == Activations::Msq && component != Component::Decoder {
        let reason =
            format!("{subject}: every row of the {} is visual, use activations static", component.name());
        return Err(error(source, reason));
    }
    Ok(())
}

fn error(name: &str, reason: String) -> QuantizeError {
    QuantizeError::Recipe { name: name.to_string(), reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(from: &str, to: &str) -> String {
        let text = BUILT_IN[1].1.replacen(from, to, 1);
        assert_ne!(text, BUILT_IN[1].1, "{from} is not in the recipe");
        Recipe::parse("r.yaml", &text).unwrap_err().to_string()
    }

    #[test]
    fn built_in_recipes_parse_under_their_names() {
        for (name, _) in BUILT_IN {
            assert_eq!(Recipe::load(name).unwrap().name, *name);
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
    fn an_unknown_recipe_names_the_known_ones() {
        let e = Recipe::load("w8a9").unwrap_err().to_string();
        assert!(e.contains("float, w8a8, w4a8"), "{e}");
    }
}
