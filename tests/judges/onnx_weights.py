"""Evaluates single linears from their ONNX files by the definitions of the operators, without a runtime.

usage: onnx_weights.py FOLDER ...

Each FOLDER holds `vision.onnx` with one linear and its inputs as `in.safetensors`; the outputs are written beside them as `reference.safetensors`. Operators
of the standard are evaluated by `onnx.reference`; INT4 tensors are read by `onnx.numpy_helper`. MatMulNBits is what ONNX Runtime's documentation of
contrib operators says: B is [N, blocks, block / 2], two codes in a byte, the first in the low half, zero point 8 (with 8 bits [N, blocks, block], zero point
128), one scale per block; inputs are not rounded.
"""

import argparse

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator
from safetensors.numpy import load_file, save_file


def nbits(node, tensors):
    """The weight [N, K] of a MatMulNBits."""
    attributes = {a.name: a.i for a in node.attribute}
    bits = attributes["bits"]
    assert bits in (4, 8) and attributes["accuracy_level"] == 4, attributes
    n, k, block = attributes["N"], attributes["K"], attributes["block_size"]
    packed = tensors[node.input[1]]
    blocks = -(-k // block)
    assert packed.shape == (n, blocks, block * bits // 8), packed.shape
    codes = np.empty((n, blocks, block), np.float32)
    if bits == 8:
        codes[...] = packed
    else:
        codes[..., 0::2], codes[..., 1::2] = packed & 15, packed >> 4
    scales = tensors[node.input[2]].reshape(n, blocks, 1)
    return ((codes - 2 ** (bits - 1)) * scales).reshape(n, -1)[:, :k]


def evaluate(folder):
    model = onnx.load(f"{folder}/vision.onnx")
    inputs = load_file(f"{folder}/in.safetensors")
    tensors = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.domain]
    if not nodes:
        names = [o.name for o in model.graph.output]
        return dict(zip(names, ReferenceEvaluator(model).run(names, inputs)))
    (node,) = nodes
    assert node.op_type == "MatMulNBits" and len(model.graph.node) == 1, node
    y = inputs[node.input[0]] @ nbits(node, tensors).T
    if len(node.input) > 5:
        y = y + tensors[node.input[5]]
    return {node.output[0]: y}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+")
    for folder in parser.parse_args().folders:
        found = {k: np.ascontiguousarray(v, np.float32) for k, v in evaluate(folder).items()}
        save_file(found, f"{folder}/reference.safetensors")


if __name__ == "__main__":
    main()
