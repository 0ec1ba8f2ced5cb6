//! Decoder: pre-norm layers with rotary grouped-query attention and gated MLP, final norm, head.

use super::{LinearDef, inv_freq, rms_norm};
use crate::graph::ops::{self, OpError, RopeScaling};
use crate::graph::spec::DecoderSpec;
use crate::graph::{Basis, DType, Dim, GraphBuilder, Stream, Sym, ValueId, ValueInfo};

/// Input with the length of the prompt, for decoders whose rotary base depends on it and stays while they decode.
pub const PROMPT_LENGTH: &str = "prompt_length";

/// Adds the whole decoder graph: embeddings, mask, positions and cache to logits and cache.
pub(super) fn build(d: &DecoderSpec, g: &mut GraphBuilder<'_>) -> Result<(), OpError> {
    let (batch, seq) = (Dim::Sym(Sym::Batch), Dim::Sym(Sym::Sequence));
    let embeds = g.input_value(ValueInfo {
        name: "inputs_embeds".into(),
        dtype: DType::Float,
        shape: vec![batch, seq, Dim::Fixed(d.width)],
        basis: Basis::of(Stream::Decoder),
    });
    let mask = g.input("attention_mask", DType::Int, vec![batch, Dim::Sym(Sym::Total)]);
    // One position per token has no axis of its own, as every text model's signature has it.
    let shape = if d.rope_sections.is_empty() {
        vec![batch, seq]
    } else {
        vec![Dim::Fixed(d.position_axes()), batch, seq]
    };
    let positions = g.input("position_ids", DType::Int, shape);
    let past_shape = [batch, Dim::Fixed(d.kv_heads), Dim::Sym(Sym::Past), Dim::Fixed(d.head_dim)];
    let mut pasts = Vec::with_capacity(d.layers);
    for i in 0..d.layers {
        let mut past =
            |kind: &str| g.input(&format!("past_key_values.{i}.{kind}"), DType::Float, past_shape.to_vec());
        pasts.push([past("key"), past("value")]);
    }
    let mut operands = vec![positions];
    operands.extend(base_length(d, g, mask)?);
    let cos_sin =
        g.add_multi("decoder.rotary", rotary_table(d), &operands, &["decoder.cos", "decoder.sin"])?;
    let mut x = embeds;
    let mut presents = Vec::with_capacity(d.layers);
    for (i, past) in pasts.into_iter().enumerate() {
        let ctx = Layer { d, index: i, rotary: [cos_sin[0], cos_sin[1]], positions, mask, past };
        let (next, present) = ctx.build(g, x)?;
        x = next;
        presents.extend(present);
    }
    let n = rms_norm(g, "decoder.norm", d.width, d.eps, x)?;
    let head = LinearDef { role: "decoder.head", out: d.vocab, input: d.width, bias: false, writes: None };
    let logits = head.add(g, n)?;
    g.rename(logits, "logits");
    g.output(logits);
    for p in presents {
        g.output(p);
    }
    Ok(())
}

/// M-RoPE (arXiv 2409.12191 section 2.1): consecutive sections of the frequencies follow time, height and width. Without sections all of them
/// follow the one position.
fn rotary_table(d: &DecoderSpec) -> ops::RotaryTable {
    let inv_freq = inv_freq(d.rope_theta, d.rope_dim);
    let axis = if d.rope_sections.is_empty() {
        vec![0; inv_freq.len()]
    } else {
        d.rope_sections.iter().enumerate().flat_map(|(a, &n)| std::iter::repeat_n(a, n)).collect()
    };
    ops::RotaryTable { inv_freq, axis, scaling: d.rope_scaling }
}

/// The length that the rotary base depends on, where it does: that of the text so far, or an input where the reference keeps the base of
/// the prompt while it decodes.
fn base_length(d: &DecoderSpec, g: &mut GraphBuilder<'_>, mask: ValueId) -> Result<Option<ValueId>, OpError> {
    match d.rope_scaling {
        None => Ok(None),
        Some(RopeScaling::Dynamic { .. }) => g.add("decoder.length", ops::Length, &[mask]).map(Some),
        Some(RopeScaling::DynamicPowers { .. }) => {
            Ok(Some(g.input(PROMPT_LENGTH, DType::Int, vec![Dim::Fixed(1)])))
        }
    }
}

/// One layer under construction with the values all layers share.
struct Layer<'a> {
    d: &'a DecoderSpec,
    index: usize,
    rotary: [ValueId; 2],
    positions: ValueId,
    mask: ValueId,
    past: [ValueId; 2],
}

impl Layer<'_> {
    fn role(&self, name: &str) -> String {
        format!("decoder.layers.{}.{name}", self.index)
    }

    fn build(&self, g: &mut GraphBuilder<'_>, x: ValueId) -> Result<(ValueId, [ValueId; 2]), OpError> {
        let d = self.d;
        let n = rms_norm(g, &self.role("norm1"), d.width, d.eps, x)?;
        let (mixed, present) = self.attention(g, n)?;
        let writes = Basis::of(Stream::Decoder);
        let role = self.role("attn.o");
        let o = LinearDef { role: &role, out: d.width, input: d.heads * d.head_dim, bias: false, writes };
        let o = o.add(g, mixed)?;
        let x = g.add(&self.role("attn.sum"), ops::Add, &[x, o])?;
        let n = rms_norm(g, &self.role("norm2"), d.width, d.eps, x)?;
        let h = self.gated_mlp(g, n)?;
        let role = self.role("mlp.down");
        let down = LinearDef { role: &role, out: d.width, input: d.mlp_width, bias: false, writes };
        let down = down.add(g, h)?;
        let x = g.add(&self.role("mlp.sum"), ops::Add, &[x, down])?;
        Ok((x, present))
    }

    fn attention(&self, g: &mut GraphBuilder<'_>, n: ValueId) -> Result<(ValueId, [ValueId; 2]), OpError> {
        let (d, head_dim) = (self.d, self.d.head_dim);
        let mut qkv = [n; 3];
        for (slot, (name, heads)) in
            qkv.iter_mut().zip([("q", d.heads), ("k", d.kv_heads), ("v", d.kv_heads)])
        {
            let role = self.role(&format!("attn.{name}"));
            let def = LinearDef {
                role: &role,
                out: heads * head_dim,
                input: d.width,
                bias: d.qkv_bias,
                writes: None,
            };
            *slot = def.add(g, n)?;
            if name != "v" {
                let rotary = ops::Rotary { heads, head_dim, rotary_dim: d.rope_dim, layout: d.rope_layout };
                let [cos, sin] = self.rotary;
                *slot = g.add(&format!("{role}.rotary"), rotary, &[*slot, cos, sin])?;
            }
        }
        let [mut q, k, v] = qkv;
        if let Some(train_length) = d.log_scaled_queries {
            let scale = ops::ScaleByPosition { train_length };
            q = g.add(&self.role("attn.q.scaled"), scale, &[q, self.positions])?;
        }
        let [past_k, past_v] = self.past;
        let attn = ops::CausalAttention { heads: d.heads, kv_heads: d.kv_heads, head_dim };
        let (key, value) = (format!("present.{}.key", self.index), format!("present.{}.value", self.index));
        let mix = self.role("attn.mix");
        let out = g.add_multi(&mix, attn, &[q, k, v, self.mask, past_k, past_v], &[&mix, &key, &value])?;
        Ok((out[0], [out[1], out[2]]))
    }

    fn gated_mlp(&self, g: &mut GraphBuilder<'_>, n: ValueId) -> Result<ValueId, OpError> {
        let d = self.d;
        let mut linear = |name: &str| {
            let role = self.role(name);
            LinearDef { role: &role, out: d.mlp_width, input: d.width, bias: false, writes: None }.add(g, n)
        };
        let (gate, up) = (linear("mlp.gate")?, linear("mlp.up")?);
        let act = g.add(&self.role("mlp.act"), ops::Activate { kind: d.activation }, &[gate])?;
        g.add(&self.role("mlp.product"), ops::Mul, &[act, up])
    }
}
