"""Runs exported folders in ONNX Runtime on prompts given as tensors.

usage: onnx_generate.py ARTIFACT PROMPTS.safetensors OUT.safetensors [ARTIFACT PROMPTS OUT ...] --max-new N [--stop ID,ID] [--logits]
       [--batch-law] [--pieces]

PROMPTS holds `s{i}.input_ids`, `s{i}.position_ids` ([T], or [3, T] where the graph has three axes) and, with images,
`s{i}.pixel_values`, `s{i}.image_grid_thw`. OUT gets `s{i}.generated` (greedy, with the key/value cache, ending after a stop id) and,
with --logits, `s{i}.logits` of the prompt, `s{i}.step_logits` (the rows that chose each token) and `s{i}.image_features`. Where PROMPTS
has `s{i}.forced`, these tokens are fed instead of the greedy ones.
--batch-law also runs the first two prompts as one batch, padded on the left, and writes the last row of logits of each as
`batch.{i}`.
--pieces also feeds the first prompt in pieces of one modality each (the last channel of the embeddings), every piece behind the cache of
those before, and writes all its logits as `pieces` and the length of each piece as `piece_lengths`.
"""

import argparse

import numpy as np
import onnxruntime as ort
from safetensors.numpy import load_file, save_file

FILES = ("vision", "embedding", "model")


class Artifact:
    """The three sessions at ONNX Runtime's default optimisation level."""

    def __init__(self, folder):
        self.vision, self.embedding, self.decoder = (self.load(f"{folder}/{n}.onnx") for n in FILES)
        inputs = {i.name: i for i in self.decoder.get_inputs()}
        self.width = inputs["inputs_embeds"].shape[2]
        caches = [i for n, i in inputs.items() if n.startswith("past_key_values.")]
        self.layers = len(caches) // 2
        self.kv_heads, self.head_dim = caches[0].shape[1], caches[0].shape[3]
        axes = inputs["position_ids"].shape[:-2]
        self.axes = axes[0] if axes else None
        self.asks_prompt_length = "prompt_length" in inputs

    def load(self, path):
        options = ort.SessionOptions()
        options.log_severity_level = 3
        return ort.InferenceSession(path, options)

    def features(self, pixels, grid):
        if pixels is None:
            return np.zeros((0, self.width), np.float32)
        return self.vision.run(["image_features"], {"pixel_values": pixels, "image_grid_thw": grid})[0]

    def embed(self, ids, features):
        return self.embedding.run(None, {"input_ids": ids, "image_features": features})[0]

    def empty_cache(self, batch=1):
        return [np.zeros((batch, self.kv_heads, 0, self.head_dim), np.float32)] * (2 * self.layers)

    def positions(self, batch, length, value=0):
        """Positions of the graph's rank, all of one value."""
        shape = (batch, length) if self.axes is None else (self.axes, batch, length)
        return np.full(shape, value, np.int64)

    def decode(self, embeds, mask, positions, cache, prompt_length):
        feeds = {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions}
        if self.asks_prompt_length:
            feeds["prompt_length"] = np.array([prompt_length], np.int64)
        names = ["logits"]
        for i in range(self.layers):
            feeds[f"past_key_values.{i}.key"], feeds[f"past_key_values.{i}.value"] = cache[2 * i : 2 * i + 2]
            names += [f"present.{i}.key", f"present.{i}.value"]
        out = self.decoder.run(names, feeds)
        return out[0], out[1:]


def generate(model, prompt, max_new, stop):
    """Tokens, the logits of the prompt, the rows of logits that chose the tokens, and the image features."""
    ids, forced = prompt["input_ids"][None], prompt.get("forced")
    features = model.features(prompt.get("pixel_values"), prompt.get("image_grid_thw"))
    length = ids.shape[1]
    positions = model.positions(1, length)
    positions[..., 0, :] = prompt["position_ids"]
    mask = np.ones((1, length), np.int64)
    logits, cache = model.decode(model.embed(ids, features), mask, positions, model.empty_cache(), length)
    first, rows, tokens, position = logits[0], [], [], int(positions.max()) + 1
    none = np.zeros((0, model.width), np.float32)
    while len(tokens) < max_new:
        rows.append(logits[0, -1])
        tokens.append(int(rows[-1].argmax() if forced is None else forced[len(tokens)]))
        if tokens[-1] in stop or len(tokens) == max_new:
            break
        mask = np.ones((1, mask.shape[1] + 1), np.int64)
        embeds = model.embed(np.array([[tokens[-1]]], np.int64), none)
        logits, cache = model.decode(embeds, mask, model.positions(1, 1, position), cache, length)
        position += 1
    return tokens, first, np.array(rows, np.float32), features


def batch_law(model, prompts):
    """Last logits of two prompts run as one batch, the shorter padded on the left."""
    length = max(len(p["input_ids"]) for p in prompts)
    embeds = np.zeros((len(prompts), length, model.width), np.float32)
    mask = np.zeros((len(prompts), length), np.int64)
    positions = model.positions(len(prompts), length)
    for i, p in enumerate(prompts):
        n = len(p["input_ids"])
        features = model.features(p.get("pixel_values"), p.get("image_grid_thw"))
        embeds[i, length - n :] = model.embed(p["input_ids"][None], features)[0]
        mask[i, length - n :] = 1
        positions[..., i, length - n :] = p["position_ids"]
    logits, _ = model.decode(embeds, mask, positions, model.empty_cache(len(prompts)), length)
    return logits[:, -1]


def in_pieces(model, prompt):
    """Logits of a prompt fed in runs of rows of one modality, and the lengths of these."""
    ids = prompt["input_ids"][None]
    features = model.features(prompt.get("pixel_values"), prompt.get("image_grid_thw"))
    embeds, length = model.embed(ids, features), ids.shape[1]
    positions = model.positions(1, length)
    positions[..., 0, :] = prompt["position_ids"]
    cuts = [0, *(1 + np.flatnonzero(np.diff(embeds[0, :, -1]))), length]
    logits, cache = [], model.empty_cache()
    for start, end in zip(cuts, cuts[1:]):
        mask = np.ones((1, end), np.int64)
        found, cache = model.decode(embeds[:, start:end], mask, positions[..., start:end], cache, length)
        logits.append(found[0])
    return np.concatenate(logits), np.diff(cuts)


def run(artifact, path, out_path, args):
    """One artifact on the prompts of one file."""
    stop = {int(s) for s in args.stop.split(",") if s}
    prompts = {}
    for key, value in load_file(path).items():
        sample, name = key.split(".", 1)
        prompts.setdefault(int(sample[1:]), {})[name] = value
    model, out = Artifact(artifact), {}
    for i, prompt in sorted(prompts.items()):
        tokens, logits, rows, features = generate(model, prompt, args.max_new, stop)
        out[f"s{i}.generated"] = np.array(tokens, np.int64)
        if args.logits:
            out[f"s{i}.logits"], out[f"s{i}.step_logits"], out[f"s{i}.image_features"] = logits, rows, features
    if args.batch_law:
        for i, row in enumerate(batch_law(model, [prompts[0], prompts[1]])):
            out[f"batch.{i}"] = row
    if args.pieces:
        out["pieces"], out["piece_lengths"] = in_pieces(model, prompts[0])
    save_file({k: np.ascontiguousarray(v) for k, v in out.items()}, out_path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jobs", nargs="+", metavar="ARTIFACT PROMPTS OUT")
    parser.add_argument("--max-new", type=int, required=True)
    parser.add_argument("--stop", default="")
    parser.add_argument("--logits", action="store_true")
    parser.add_argument("--batch-law", action="store_true")
    parser.add_argument("--pieces", action="store_true")
    args = parser.parse_args()
    for i in range(0, len(args.jobs), 3):
        run(*args.jobs[i : i + 3], args)


if __name__ == "__main__":
    main()
