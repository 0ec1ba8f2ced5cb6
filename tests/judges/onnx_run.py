"""Runs single ONNX files in ONNX Runtime on tensors.

usage: onnx_run.py FOLDER ...

Each FOLDER holds `vision.onnx` and its inputs as `in.safetensors`; the outputs are written beside them as `out.safetensors`.
A file of standard operators alone also passes `onnx.checker` with full_check=True.
"""

import argparse

import numpy as np
import onnx
import onnxruntime as ort
from safetensors.numpy import load_file, save_file


def run(folder):
    path = f"{folder}/vision.onnx"
    if all(not o.domain for o in onnx.load(path, load_external_data=False).opset_import):
        onnx.checker.check_model(path, full_check=True)
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options)
    names = [o.name for o in session.get_outputs()]
    outputs = session.run(names, load_file(f"{folder}/in.safetensors"))
    save_file({n: np.ascontiguousarray(o) for n, o in zip(names, outputs)}, f"{folder}/out.safetensors")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="+")
    for folder in parser.parse_args().folders:
        run(folder)


if __name__ == "__main__":
    main()
