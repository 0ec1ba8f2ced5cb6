//! Recipes that come with the program: files of their own, and one text for every preset of llama.cpp.

use super::{Mix, Weights};
use crate::numeric::ggml::BlockType;

/// Recipes with a file of their own, by name.
pub(super) const FILES: &[(&str, &str)] = &[
    ("float", include_str!("../../../recipes/float.yaml")),
    ("w8a8", include_str!("../../../recipes/w8a8.yaml")),
    ("w4a8", include_str!("../../../recipes/w4a8.yaml")),
    ("w4a8-all", include_str!("../../../recipes/w4a8-all.yaml")),
    ("w4a8-channel", include_str!("../../../recipes/w4a8-channel.yaml")),
    ("w4a16", include_str!("../../../recipes/w4a16.yaml")),
];

/// Text of the presets whose weights are codes.
const CODES: &str = include_str!("../../../recipes/templates/ggml.yaml");
/// Text of the presets in full or half precision.
const FLOATS: &str = include_str!("../../../recipes/templates/ggml-float.yaml");

/// Names of all built-in recipes: those with files, then llama.cpp's presets from large to small.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    FILES.iter().map(|(name, _)| *name).chain(Mix::all().map(Mix::name))
}

/// The text of a built-in recipe.
pub(super) fn text(name: &str) -> Option<String> {
    let file = FILES.iter().find(|(n, _)| *n == name).map(|(_, text)| (*text).to_string());
    file.or_else(|| Mix::of_name(name).map(preset))
}

/// llama.cpp's preset as a recipe. Below half precision the vision tower and the projector have 8 bits: they are a small part of a file, and every image
/// goes through them.
fn preset(mix: Mix) -> String {
    let base = mix.base();
    let (text, rest) = if base.is_quantized() { (CODES, BlockType::Q8_0) } else { (FLOATS, base) };
    let [base, rest] = [base, rest].map(|kind| Weights::of(kind).to_string());
    text.replace("{name}", mix.name()).replace("{rest}", &rest).replace("{base}", &base)
}
