"""The synthetic checkpoint: the decoder of Qwen2-VL-2B with few layers and drawn weights, in the layout of the released files.

Sizes of the decoder's linears are the real ones, since they decide the time; the vision tower is tiny and the vocabulary is the fixture's
(336 tokens), so the head costs next to nothing in every row of the tables. Weights are Gaussian and keep the residual's size. Image
features and token embeddings have outliers in different channels, as trained models do: without them both modalities would get the same
activation scale nearly everywhere, and the form with two scales would not be timed.
"""

import json
import shutil
from pathlib import Path

import numpy as np

FIXTURE = Path(__file__).resolve().parents[2] / "fixtures" / "qwen2_vl_tiny"
SIDE_FILES = (
    "chat_template.json",
    "generation_config.json",
    "merges.txt",
    "preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.json",
)
# Part of the key of what is cached: raise it when the weights change.
VERSION = 2

HIDDEN, MLP, HEADS, KV_HEADS, HEAD_DIM = 1536, 8960, 12, 2, 128
VISION = {"depth": 1, "embed_dim": 64, "mlp_ratio": 2, "num_heads": 2}
# Channels and size of the outliers in the rows of each modality, where the other channels have the standard deviation below.
TEXT_OUTLIERS, TEXT_SIZE, TEXT_STD = (17, 700), 6.0, 0.2
VISUAL_OUTLIERS, VISUAL_SIZE, VISUAL_STD = (401, 1100), 3.0, 1.0


def config(layers):
    """The fixture's `config.json` at the sizes above."""
    found = json.loads((FIXTURE / "config.json").read_text())
    found |= {
        "hidden_size": HIDDEN,
        "intermediate_size": MLP,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "num_hidden_layers": layers,
        "max_window_layers": layers,
        "max_position_embeddings": 32768,
        "rope_theta": 1000000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    }
    found["vision_config"] |= VISION | {"hidden_size": HIDDEN}
    return found


def text_rows(rng, count):
    """Token embeddings, [count, hidden]."""
    rows = rng.standard_normal((count, HIDDEN), np.float32) * TEXT_STD
    rows[:, TEXT_OUTLIERS] += TEXT_SIZE
    return rows


def visual_rows(rng, count):
    """What the projector gives, [count, hidden]."""
    rows = rng.standard_normal((count, HIDDEN), np.float32) * VISUAL_STD
    rows[:, VISUAL_OUTLIERS] += VISUAL_SIZE
    return rows


def tensors(sizes, rng):
    """Name and values of every tensor, one at a time."""
    width, mlp = sizes["vision_config"]["embed_dim"], sizes["vision_config"]["embed_dim"] * VISION["mlp_ratio"]
    patch, merged = 3 * 2 * 14 * 14, 4 * width

    def drawn(rows, columns):
        return rng.standard_normal((rows, columns), np.float32) / np.float32(np.sqrt(columns))

    def linear(name, rows, columns, bias=True):
        yield f"{name}.weight", drawn(rows, columns)
        if bias:
            yield f"{name}.bias", rng.standard_normal(rows, np.float32) * np.float32(0.1)

    def layer_norm(name):
        yield f"{name}.weight", np.ones(width, np.float32)
        yield f"{name}.bias", np.zeros(width, np.float32)

    yield "visual.patch_embed.proj.weight", drawn(width, patch).reshape(width, 3, 2, 14, 14)
    for i in range(VISION["depth"]):
        block = f"visual.blocks.{i}"
        yield from layer_norm(f"{block}.norm1")
        yield from linear(f"{block}.attn.qkv", 3 * width, width)
        yield from linear(f"{block}.attn.proj", width, width)
        yield from layer_norm(f"{block}.norm2")
        yield from linear(f"{block}.mlp.fc1", mlp, width)
        yield from linear(f"{block}.mlp.fc2", width, mlp)
    yield from layer_norm("visual.merger.ln_q")
    yield from linear("visual.merger.mlp.0", merged, merged)
    yield "visual.merger.mlp.2.weight", drawn(HIDDEN, merged) * np.float32(VISUAL_STD)
    bias = np.zeros(HIDDEN, np.float32)
    bias[list(VISUAL_OUTLIERS)] = VISUAL_SIZE
    yield "visual.merger.mlp.2.bias", bias

    yield "model.embed_tokens.weight", text_rows(rng, sizes["vocab_size"])
    for i in range(sizes["num_hidden_layers"]):
        layer = f"model.layers.{i}"
        yield f"{layer}.input_layernorm.weight", np.ones(HIDDEN, np.float32)
        yield from linear(f"{layer}.self_attn.q_proj", HEADS * HEAD_DIM, HIDDEN)
        yield from linear(f"{layer}.self_attn.k_proj", KV_HEADS * HEAD_DIM, HIDDEN)
        yield from linear(f"{layer}.self_attn.v_proj", KV_HEADS * HEAD_DIM, HIDDEN)
        yield from linear(f"{layer}.self_attn.o_proj", HIDDEN, HEADS * HEAD_DIM, bias=False)
        yield f"{layer}.post_attention_layernorm.weight", np.ones(HIDDEN, np.float32)
        yield from linear(f"{layer}.mlp.gate_proj", MLP, HIDDEN, bias=False)
        yield from linear(f"{layer}.mlp.up_proj", MLP, HIDDEN, bias=False)
        yield from linear(f"{layer}.mlp.down_proj", HIDDEN, MLP, bias=False)
    yield "model.norm.weight", np.ones(HIDDEN, np.float32)
    yield "lm_head.weight", drawn(sizes["vocab_size"], HIDDEN)


def bfloat16(values):
    """The bits of `values` rounded to bfloat16, to nearest with ties to even."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def write(folder, layers, seed):
    """Writes the checkpoint to `folder`, which must not exist; the same bytes for the same arguments."""
    folder = Path(folder)
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name in SIDE_FILES:
        shutil.copyfile(FIXTURE / name, partial / name)
    sizes = config(layers)
    (partial / "config.json").write_text(json.dumps(sizes, indent=2) + "\n")

    # The data goes to a file of its own first: the header, which stands before it, holds all offsets.
    header, offset = {}, 0
    with open(partial / "data", "wb") as data:
        for name, values in tensors(sizes, np.random.default_rng(seed)):
            bits = bfloat16(values)
            data.write(bits.tobytes())
            header[name] = {"dtype": "BF16", "shape": list(values.shape), "data_offsets": [offset, offset + bits.nbytes]}
            offset += bits.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(partial / "model.safetensors", "wb") as out, open(partial / "data", "rb") as data:
        out.write(len(text).to_bytes(8, "little"))
        out.write(text)
        shutil.copyfileobj(data, out, 1 << 24)
    (partial / "data").unlink()
    partial.rename(folder)
