//! The image and prompt sections of a family file with their numbers filled in.

use super::super::error::FamilyProblem;
use super::super::inputs::{
    ContentForm, ImagePlan, MAX_TARGET_SIDE, MAX_TILES, PatchRows, PositionRule, PromptPlan, TemplateSource,
    TileTokens, Views,
};
use super::super::schema::{
    ContentDef, FamilyFile, GenaiDef, Num, PositionsDef, PromptDef, TemplateDef, TokensDef, ViewsDef,
};
use super::super::values::Values;
use super::TokenIds;
use crate::tokenizer::Tokenizer;

/// Largest merge block side, frame count and channel count that makes sense; larger ones would overflow row widths.
const MAX_SMALL: u32 = 16;

/// Most decoder rows per tile beyond which a number is nonsense.
const MAX_ROWS: u32 = 1 << 20;

/// The image section.
pub(super) fn image_plan(f: &FamilyFile, v: &Values<'_>) -> ImagePlan {
    let image = &f.image;
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
    let views = views(&image.views, v);
    if matches!(f.runtimes.genai, GenaiDef::Type(_)) && views.pixel_limits().is_none() {
        v.report(FamilyProblem::BadValue {
            file: "family file",
            key: "runtimes.genai".into(),
            name: "image.views".into(),
            expected: "views of the kind smart, the only one its processor has",
            found: "another kind".into(),
        });
    }
    let rows = &image.rows;
    ImagePlan {
        views,
        mean: rgb(&image.mean, "image.mean"),
        std: rgb(&image.std, "image.std"),
        rescale: v.real(&image.rescale, "image.rescale"),
        rows: PatchRows {
            patch: bounded(v, &rows.patch, "image.rows.patch", MAX_TARGET_SIDE) as usize,
            merge: bounded(v, &rows.merge, "image.rows.merge", MAX_SMALL) as usize,
            temporal: bounded(v, &rows.temporal, "image.rows.temporal", MAX_SMALL) as usize,
            channels: bounded(v, &rows.channels, "image.rows.channels", MAX_SMALL) as usize,
        },
    }
}

fn views(def: &ViewsDef, v: &Values<'_>) -> Views {
    let side = |num: &Num, user: &str| bounded(v, num, user, MAX_TARGET_SIDE);
    let tiles = |num: &Num, user: &str| bounded(v, num, user, MAX_TILES);
    match def {
        ViewsDef::Smart { factor, min_pixels, max_pixels } => Views::Smart {
            factor: side(factor, "image.views.smart.factor"),
            min_pixels: v.count(min_pixels, "image.views.smart.min_pixels") as u64,
            max_pixels: v.count(max_pixels, "image.views.smart.max_pixels") as u64,
        },
        ViewsDef::Stretch { width, height } => Views::Stretch {
            width: side(width, "image.views.stretch.width"),
            height: side(height, "image.views.stretch.height"),
        },
        ViewsDef::Tiles { size, min_tiles, max_tiles, thumbnail } => Views::Tiles {
            size: side(size, "image.views.tiles.size"),
            min_tiles: tiles(min_tiles, "image.views.tiles.min_tiles"),
            max_tiles: tiles(max_tiles, "image.views.tiles.max_tiles"),
            thumbnail: v.flag(thumbnail, "image.views.tiles.thumbnail"),
        },
        ViewsDef::Slices { resolution, patch, max_slices } => Views::Slices {
            resolution: side(resolution, "image.views.slices.resolution"),
            patch: side(patch, "image.views.slices.patch"),
            max_slices: tiles(max_slices, "image.views.slices.max_slices"),
        },
    }
}

/// A whole number from 1 to `max`.
fn bounded(v: &Values<'_>, num: &Num, user: &str, max: u32) -> u32 {
    at_most(v, v.count(num, user), num, user, max)
}

/// `found`, or 1 and a problem when it is more than `max`.
fn at_most(v: &Values<'_>, found: usize, num: &Num, user: &str, max: u32) -> u32 {
    u32::try_from(found).ok().filter(|&x| x <= max).unwrap_or_else(|| {
        v.report(FamilyProblem::BadValue {
            file: "family file",
            key: num_text(num),
            name: user.to_string(),
            expected: "a smaller number",
            found: format!("{found}, more than {max}"),
        });
        1
    })
}

fn num_text(num: &Num) -> String {
    match num {
        Num::Literal(x) => x.to_string(),
        Num::Name(name) => name.clone(),
    }
}

/// Id of the token that stands for an image row: the configuration's, or the tokenizer's where the configuration does not say.
pub(super) fn image_token_id(prompt: &PromptDef, tokenizer: &Tokenizer, v: &Values<'_>) -> i64 {
    let name = "prompt.image_token_id";
    if let Some(id) = &prompt.image_token_id {
        return v.id(id, name);
    }
    tokenizer.id_of(&prompt.image_token).unwrap_or_else(|| {
        v.report(FamilyProblem::MissingToken { token: prompt.image_token.clone(), name: name.into() });
        0
    })
}

/// The prompt section.
pub(super) fn prompt_plan(
    f: &FamilyFile,
    v: &Values<'_>,
    image_token_id: i64,
    max_positions: usize,
    (ids, tokenizer): (&TokenIds<'_>, &Tokenizer),
) -> PromptPlan {
    let mut eos_token_ids = ids.all("eos_token_id");
    if eos_token_ids.is_empty() {
        let keys = "/eos_token_id (also in generation_config.json)".to_string();
        v.report(FamilyProblem::MissingKey { file: "config.json", keys, name: "prompt.eos".into() });
    }
    let p = &f.prompt;
    for token in &p.stop_tokens {
        match tokenizer.id_of(token) {
            Some(id) if eos_token_ids.contains(&id) => {}
            Some(id) => eos_token_ids.push(id),
            None => {
                let (token, name) = (token.clone(), "prompt.stop_tokens".into());
                v.report(FamilyProblem::MissingToken { token, name });
            }
        }
    }
    PromptPlan {
        template: match &p.template {
            TemplateDef::Checkpoint => TemplateSource::Checkpoint,
            TemplateDef::Text(text) => TemplateSource::Text(text.clone()),
        },
        content: match &p.content {
            ContentDef::Parts => ContentForm::Parts,
            ContentDef::Joined { separator, image } => {
                ContentForm::Joined { separator: separator.clone(), image: image.clone() }
            }
        },
        marker: not_empty(v, &p.marker, "prompt.marker"),
        expansion: p.expansion.clone(),
        image_token_id,
        image_token: not_empty(v, &p.image_token, "prompt.image_token"),
        tokens: tile_tokens(&p.tokens, v),
        eos_token_ids,
        positions: match &p.positions {
            PositionsDef::MropeGrid { merge } => PositionRule::MropeGrid {
                merge: bounded(v, merge, "prompt.positions.merge", MAX_SMALL) as usize,
            },
            PositionsDef::Sequential => PositionRule::Sequential,
            PositionsDef::SharedImage => PositionRule::SharedImage,
        },
        max_positions,
    }
}

fn tile_tokens(def: &TokensDef, v: &Values<'_>) -> TileTokens {
    let extra = |num: &Option<Num>| {
        let user = "prompt.tokens.extra";
        let found = |n: &Num| usize::try_from(v.id(n, user)).unwrap_or(usize::MAX);
        num.as_ref().map_or(0, |n| at_most(v, found(n), n, user, MAX_ROWS) as usize)
    };
    match def {
        TokensDef::Merged { merge, extra: more } => TileTokens::Merged {
            merge: bounded(v, merge, "prompt.tokens.merge", MAX_SMALL) as usize,
            extra: extra(more),
        },
        TokensDef::Fixed { rows, extra: more } => TileTokens::Fixed {
            rows: bounded(v, rows, "prompt.tokens.rows", MAX_ROWS) as usize,
            extra: extra(more),
        },
    }
}

/// A text that is looked for in prompts: an empty one would be found everywhere.
fn not_empty(v: &Values<'_>, text: &str, user: &str) -> String {
    if text.is_empty() {
        v.report(FamilyProblem::BadValue {
            file: "family file",
            key: user.to_string(),
            name: user.to_string(),
            expected: "a text that is not empty",
            found: "an empty one".into(),
        });
    }
    text.to_string()
}

#[cfg(test)]
pub(crate) mod tests;
