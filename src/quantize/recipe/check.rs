//! What a recipe must hold to: on its own, and for the format that it is to be written in.

use super::{
    Activations, Gptq, Override, Precision, Recipe, Remedy, SCHEMA_VERSION, VisionRotation, Weights, error,
};
use crate::graph::Component;
use crate::numeric::ggml::BlockType;
use crate::quantize::{QuantizeError, Target};

/// Role of the token table without `.weight`.
pub const TABLE: &str = "embedding";

impl Recipe {
    /// Checks that the parts of a recipe go together; `source` names it in errors.
    pub(super) fn check(&self, source: &str) -> Result<(), QuantizeError> {
        let faults = [
            self.head_fault(),
            self.gptq.as_ref().and_then(Gptq::fault),
            self.budget.as_ref().and_then(super::Budget::fault),
            self.down_projections.fault(),
            self.mix_fault(),
            self.importance_fault(),
            self.table_fault(),
            self.verify.problem().map(|p| format!("verify: {p}")),
        ];
        if let Some(reason) = faults.into_iter().flatten().next() {
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

    fn head_fault(&self) -> Option<String> {
        if self.schema_version != SCHEMA_VERSION {
            let found = self.schema_version;
            return Some(format!("schema_version is {found}, this program reads {SCHEMA_VERSION}"));
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if self.name.is_empty() || !self.name.chars().all(plain) || self.name.starts_with('.') {
            return Some(format!("name {:?} must be letters, digits, '.', '_' or '-'", self.name));
        }
        let ratio = self.msq_merge_ratio;
        let fits = ratio >= 1.0 && ratio.is_finite();
        (!fits).then(|| format!("msq_merge_ratio is {ratio}, expected at least 1"))
    }

    fn mix_fault(&self) -> Option<String> {
        let mix = self.mix?;
        if self.budget.is_some() {
            return Some(format!(
                "mix {} and budget both decide the types of linears; leave one of them out",
                mix.name()
            ));
        }
        let (wanted, found) = (Weights::of(mix.base()), self.components.decoder.weights);
        (found != wanted).then(|| {
            format!(
                "components.decoder has weights {found}, and those of mix {} are {wanted}; write {wanted} there, and exceptions under overrides",
                mix.name()
            )
        })
    }

    fn importance_fault(&self) -> Option<String> {
        if !self.importance {
            return None;
        }
        if self.gptq.is_some() {
            return Some(
                "importance and gptq are two ways to round the same weights; leave one of them out".into(),
            );
        }
        let grid = self.all_weights().find(|(_, w)| w.grid().is_some());
        grid.map(|(key, weights)| {
            format!("importance rounds block types of ggml, and {key} has {weights}; use one such as q4_k, or gptq and search")
        })
    }

    /// What is wrong with the token table: it is read row by row, so it has no activations and no scales per output channel.
    fn table_fault(&self) -> Option<String> {
        let of_overrides = self.overrides.iter().filter(|o| o.pattern == TABLE);
        if of_overrides.clone().any(|o| o.activations != Activations::Float) {
            return Some(format!("{TABLE}: the token table has no activations; write activations: float"));
        }
        let table = self.components.embedding.into_iter().chain(of_overrides.map(|o| o.weights));
        let grid = table.into_iter().find(|w| w.grid().is_some());
        grid.map(|weights| {
            format!("{TABLE}: weights {weights} are a grid of linears; the token table is float or a type of ggml such as q8_0")
        })
    }

    /// Checks that a recipe can be written in a format.
    ///
    /// # Errors
    /// [`QuantizeError::Recipe`] names what the format cannot hold, and says what to use instead.
    pub fn fits(&self, target: Target) -> Result<(), QuantizeError> {
        let reason = match target {
            Target::Onnx => self.onnx_fault(),
            Target::Gguf(_) => self.gguf_fault(),
        };
        match reason {
            Some(reason) => Err(error(&self.name, reason)),
            None => Ok(()),
        }
    }

    fn onnx_fault(&self) -> Option<String> {
        if let Some(mix) = self.mix.filter(|mix| mix.base().is_quantized()) {
            return Some(format!(
                "mix {} is a preset for GGUF files; use --format gguf, or for ONNX a recipe such as w4a8, or one without mix and with weights q4_0",
                mix.name()
            ));
        }
        let known =
            |w: Weights| w.blocks().is_none_or(|kind| matches!(kind, BlockType::Q4_0 | BlockType::Q8_0));
        if let Some((key, weights)) = self.all_weights().find(|(_, w)| !known(*w)) {
            return Some(format!(
                "{key} has weights {weights}, which ONNX graphs cannot hold; use --format gguf, or float, int8, int4, int4/32, q4_0 or q8_0"
            ));
        }
        let table = self.components.embedding.into_iter();
        let table = table.chain(self.overrides.iter().filter(|o| o.pattern == TABLE).map(|o| o.weights));
        table.last().filter(|w| *w != Weights::Float).map(|weights| {
            format!("{TABLE} has weights {weights}, and the token table of ONNX graphs is float; use --format gguf, or leave it out")
        })
    }

    fn gguf_fault(&self) -> Option<String> {
        if let Some((key, weights)) = self.all_weights().find(|(_, w)| w.grid().is_some()) {
            return Some(format!(
                "{key} has weights {weights}, which GGUF files cannot hold; use --format onnx, or a type of ggml such as q4_0, q4_k or q8_0"
            ));
        }
        if self.rotation.vision == VisionRotation::BakeMean {
            return Some(
                "rotation.vision is bake-mean, which replaces LayerNorms, and llama.cpp's graphs have them; use keep-mean".into(),
            );
        }
        let online = |r: &&Remedy| matches!(r, Remedy::Hadamard(_) | Remedy::HadamardRms(_));
        self.down_projections.candidates.iter().find(online).map(|_| {
            "down_projections tries a Hadamard product at run time, and llama.cpp's graphs have none; try smooth, or use --format onnx".into()
        })
    }
}

impl Override {
    /// Whether it is for the token table.
    pub fn is_of_table(&self) -> bool {
        self.pattern == TABLE
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
            "{subject}: {} weights with int8 activations: an integer product needs both in integers (weights int8 or int4, or activations \
             float)",
            p.weights
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
