//! The sizes and kinds of a model, from the sections `vision`, `projector` and `decoder` of a family file.

use super::error::FamilyProblem;
use super::schema::{
    DecoderDef, FamilyFile, KeyPositionsDef, ProjectorDef, RopeScalingDef, VisionDef, VisionPositionsDef,
};
use super::values::Values;
use crate::graph::ops::RopeScaling;
use crate::graph::spec::{DecoderSpec, KeyPositions, ModelSpec, ProjectorSpec, VisionPositions, VisionSpec};

/// The description of the model; problems go to `v`.
pub(super) fn model_spec(f: &FamilyFile, v: &Values<'_>, image_token_id: i64) -> ModelSpec {
    let spec = ModelSpec {
        vision: vision(&f.vision, v),
        projector: projector(&f.projector, v),
        decoder: decoder(&f.decoder, v),
        image_token_id,
    };
    let token = usize::try_from(image_token_id);
    if token.is_ok_and(|id| id >= spec.decoder.vocab) {
        let expected = "an id below the number of rows of the token table";
        let found = format!("{image_token_id} with {} rows", spec.decoder.vocab);
        mismatch(v, "prompt.image_token_id", expected, found);
    }
    if let VisionPositions::Table { side } = spec.vision.positions
        && !side.is_multiple_of(spec.vision.merge)
    {
        let expected = "a multiple of vision.merge: a grid as large as the table is cut into blocks";
        mismatch(
            v,
            "vision.positions.side",
            expected,
            format!("{side} with blocks of {}", spec.vision.merge),
        );
    }
    spec
}

/// Two values that are fine alone and contradict each other.
fn mismatch(v: &Values<'_>, name: &str, expected: &'static str, found: String) {
    let (file, key, name) = ("config.json", name.to_string(), "the graph".to_string());
    v.report(FamilyProblem::BadValue { file, key, name, expected, found });
}

fn vision(d: &VisionDef, v: &Values<'_>) -> VisionSpec {
    VisionSpec {
        patch_features: v.count(&d.patch_features, "vision.patch_features"),
        patch_bias: d.patch_bias,
        width: v.count(&d.width, "vision.width"),
        depth: v.count(&d.depth, "vision.depth"),
        heads: v.count(&d.heads, "vision.heads"),
        mlp_width: v.count(&d.mlp_width, "vision.mlp_width"),
        activation: d.activation,
        norm: d.norm,
        norm_place: d.norm_place,
        eps: v.positive(&d.eps, "vision.eps"),
        qkv_bias: d.qkv_bias,
        qk_norm: d.qk_norm,
        layer_scale: d.layer_scale,
        class_token: d.class_token,
        entry_norm: d.entry_norm,
        exit_norm: d.exit_norm,
        positions: match &d.positions {
            VisionPositionsDef::Rotary { theta, layout } => VisionPositions::Rotary {
                theta: v.positive(theta, "vision.positions.theta"),
                layout: *layout,
            },
            VisionPositionsDef::Table { side } => {
                VisionPositions::Table { side: v.count(side, "vision.positions.side") }
            }
        },
        merge: v.count(&d.merge, "vision.merge"),
    }
}

fn projector(d: &ProjectorDef, v: &Values<'_>) -> ProjectorSpec {
    match d {
        ProjectorDef::MergeMlp { eps, hidden, activation, norm_merged } => ProjectorSpec::MergeMlp {
            eps: v.positive(eps, "projector.eps"),
            hidden: v.count(hidden, "projector.hidden"),
            activation: *activation,
            norm_merged: *norm_merged,
        },
        ProjectorDef::MergeGlu { hidden, eps, activation, mlp_width, gate, boundary_rows, divide_by } => {
            ProjectorSpec::MergeGlu {
                hidden: v.count(hidden, "projector.hidden"),
                eps: v.positive(eps, "projector.eps"),
                activation: *activation,
                mlp_width: v.count(mlp_width, "projector.mlp_width"),
                gate: *gate,
                boundary_rows: *boundary_rows,
                divide_by: v.positive(divide_by, "projector.divide_by"),
            }
        }
        ProjectorDef::Resampler { queries, width, heads, eps, query_positions, key_positions } => {
            ProjectorSpec::Resampler {
                queries: v.count(queries, "projector.queries"),
                width: v.count(width, "projector.width"),
                heads: v.count(heads, "projector.heads"),
                eps: v.positive(eps, "projector.eps"),
                query_positions: *query_positions,
                key_positions: match key_positions {
                    KeyPositionsDef::Table { side } => {
                        KeyPositions::Table { side: v.count(side, "projector.key_positions.side") }
                    }
                    KeyPositionsDef::SinCos { theta } => {
                        KeyPositions::SinCos { theta: v.positive(theta, "projector.key_positions.theta") }
                    }
                },
            }
        }
    }
}

fn decoder(d: &DecoderDef, v: &Values<'_>) -> DecoderSpec {
    let mut spec = DecoderSpec {
        width: v.count(&d.width, "decoder.width"),
        layers: v.count(&d.layers, "decoder.layers"),
        heads: v.count(&d.heads, "decoder.heads"),
        kv_heads: v.count(&d.kv_heads, "decoder.kv_heads"),
        head_dim: v.count(&d.head_dim, "decoder.head_dim"),
        mlp_width: v.count(&d.mlp_width, "decoder.mlp_width"),
        vocab: v.count(&d.vocab, "decoder.vocab"),
        eps: v.positive(&d.eps, "decoder.eps"),
        activation: d.activation,
        qkv_bias: d.qkv_bias,
        rope_theta: v.positive(&d.rope_theta, "decoder.rope_theta"),
        rope_layout: d.rope_layout,
        rope_dim: v.count(&d.rope_dim, "decoder.rope_dim"),
        rope_sections: vec![],
        rope_scaling: None,
        log_scaled_queries: d.log_scaled_queries.as_ref().map(|n| v.count(n, "decoder.log_scaled_queries")),
        max_positions: v.count(&d.max_positions, "decoder.max_positions"),
        tied_head: v.flag(&d.tied_head, "decoder.tied_head"),
    };
    spec.rope_sections =
        d.rope_sections.as_ref().map_or_else(Vec::new, |name| sections(name, spec.rope_dim, v));
    let (theta, dim) = (spec.rope_theta, spec.rope_dim);
    spec.rope_scaling = d.rope_scaling.as_ref().map(|s| match s {
        RopeScalingDef::Dynamic { factor, max_positions } => RopeScaling::Dynamic {
            theta,
            dim,
            factor: v.positive(factor, "decoder.rope_scaling.factor"),
            max_positions: v.count(max_positions, "decoder.rope_scaling.max_positions"),
        },
        RopeScalingDef::DynamicPowers { train_length } => RopeScaling::DynamicPowers {
            theta,
            dim,
            train_length: v.count(train_length, "decoder.rope_scaling.train_length"),
        },
    });
    spec
}

/// Frequencies per position axis; together they are half the rotated channels.
fn sections(name: &str, rope_dim: usize, v: &Values<'_>) -> Vec<usize> {
    let sections = v.vector(name, "decoder.rope_sections");
    let whole = sections.iter().all(|x| x.fract() == 0.0 && *x > 0.0);
    if !sections.is_empty() && (!whole || sections.iter().sum::<f64>() != (rope_dim / 2) as f64) {
        v.report(FamilyProblem::BadValue {
            file: "config.json",
            key: name.to_string(),
            name: "decoder.rope_sections".into(),
            expected: "whole numbers that add up to half the rotated channels of a head",
            found: format!("{sections:?} with {rope_dim} rotated channels"),
        });
    }
    sections.iter().map(|&x| x as usize).collect()
}
