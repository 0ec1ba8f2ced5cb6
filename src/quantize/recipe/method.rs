//! How weights are found inside the blocks of ggml, as one choice instead of the keys of a recipe.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Activations, DownProjections, Gptq, Recipe, RotationRule};
use crate::quantize::QuantizeError;

/// How the weights of a recipe are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Method {
    /// The stored weights as llama.cpp's own quantizer rounds them, with no calibration data.
    Nearest,
    /// The stored weights as llama.cpp's own quantizer rounds them with an importance matrix, which comes from images and text.
    Importance,
    /// Weights that were rotated and smoothed as the recipe says, by GPTQ.
    Gptq,
}

impl Recipe {
    /// The recipe with its weights found by `method`. A recipe without codes, such as `f16`, stays as it is: it has nothing to find.
    ///
    /// # Errors
    /// [`QuantizeError::Recipe`] when the method is not possible for the recipe's weights.
    pub fn with_method(mut self, method: Method) -> Result<Self, QuantizeError> {
        if !self.all_weights().any(|(_, weights)| weights.are_quantized()) {
            return Ok(self);
        }
        if method == Method::Gptq {
            self.importance = false;
            self.gptq = self.gptq.or(Some(Gptq::default()));
        } else {
            self.importance = method == Method::Importance;
            self.gptq = None;
            self.search = false;
            self.rotation = RotationRule::default();
            self.smooth_values = false;
            self.down_projections = DownProjections::default();
        }
        if method == Method::Nearest {
            self.budget = None;
            self.without_scales();
        }
        let name = self.name.clone();
        self.check(&name)?;
        Ok(self)
    }

    /// Static activation scales come from calibration data, so there are none.
    fn without_scales(&mut self) {
        let c = &mut self.components;
        let components = [&mut c.vision, &mut c.projector, &mut c.decoder].map(|p| &mut p.activations);
        let overrides = self.overrides.iter_mut().map(|o| &mut o.activations);
        for activations in components.into_iter().chain(overrides).filter(|a| a.are_static()) {
            *activations = Activations::Float;
        }
    }
}
