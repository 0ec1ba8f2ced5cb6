"""Runs the prompts of a file through an exported folder in ONNX Runtime and hands out values from inside the graphs.

usage: onnx_taps.py ARTIFACT PROMPTS.safetensors OUT.safetensors [ARTIFACT PROMPTS OUT ...] --values NAME[,NAME ...]

PROMPTS is as for onnx_generate.py. OUT gets `s{i}.{name}` for every named value that a graph computes for prompt i; `s{i}.logits` among them
if asked for. The files are loaded at the default optimisation level, with the values added to their outputs.
"""

import argparse

import numpy as np
import onnx
import onnxruntime as ort
from safetensors.numpy import load_file, save_file

from onnx_generate import Artifact


class Tapped:
    """A session that keeps the values of its last run."""

    def __init__(self, path, values):
        model = onnx.load(path, load_external_data=False)
        self.outputs = [o.name for o in model.graph.output]
        made = {name for node in model.graph.node for name in node.output}
        self.taps = [v for v in values if v in made]
        for name in set(self.taps) - set(self.outputs):
            model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        tapped = path.replace(".onnx", ".tapped.onnx")
        onnx.save(model, tapped)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        self.session, self.found = ort.InferenceSession(tapped, options), {}

    def get_inputs(self):
        return self.session.get_inputs()

    def run(self, names, feeds):
        names = names or self.outputs
        out = self.session.run([*names, *self.taps], feeds)
        self.found = dict(zip(self.taps, out[len(names) :]))
        return out[: len(names)]


class TappedArtifact(Artifact):
    def __init__(self, folder, values):
        self.values = values
        super().__init__(folder)

    def load(self, path):
        return Tapped(path, self.values)


def run(artifact, path, out_path, values):
    """One artifact on the prompts of one file."""
    prompts = {}
    for key, value in load_file(path).items():
        sample, name = key.split(".", 1)
        prompts.setdefault(int(sample[1:]), {})[name] = value
    model, out = TappedArtifact(artifact, values), {}
    for i, prompt in sorted(prompts.items()):
        ids, positions = prompt["input_ids"][None], prompt["position_ids"]
        model.vision.found = {}
        features = model.features(prompt.get("pixel_values"), prompt.get("image_grid_thw"))
        positions = positions.reshape(model.positions(1, ids.shape[1]).shape)
        mask = np.ones((1, ids.shape[1]), np.int64)
        embeds = model.embed(ids, features)
        model.decode(embeds, mask, positions, model.empty_cache(), ids.shape[1])
        for session in (model.vision, model.embedding, model.decoder):
            out.update({f"s{i}.{name}": np.ascontiguousarray(v) for name, v in session.found.items()})
    save_file(out, out_path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("jobs", nargs="+", metavar="ARTIFACT PROMPTS OUT")
    parser.add_argument("--values", required=True)
    args = parser.parse_args()
    for i in range(0, len(args.jobs), 3):
        run(*args.jobs[i : i + 3], args.values.split(","))


if __name__ == "__main__":
    main()
