"""Checks the ONNX files of an exported folder with onnx.checker and counts the operators ONNX Runtime really runs.

usage: onnx_check.py ARTIFACT [--no-checker]

Prints one JSON object: for each file the operator counts of the model as ONNX Runtime optimised it at its default level, loop
bodies included, and the domains used by the file as written. Without --no-checker, `onnx.checker` runs with full_check=True
(it knows the standard operators only).
"""

import argparse
import collections
import json
import os
import tempfile

import onnx
import onnxruntime as ort


def count(graph, into):
    """Operators of a graph and of the graphs inside its nodes."""
    for node in graph.node:
        into[node.op_type] += 1
        for attribute in node.attribute:
            if attribute.HasField("g"):
                count(attribute.g, into)
    return into


def optimised(path, folder):
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = os.path.join(folder, os.path.basename(path))
    ort.InferenceSession(path, options)
    return onnx.load(options.optimized_model_filepath, load_external_data=False)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("artifact")
    parser.add_argument("--no-checker", action="store_true")
    args = parser.parse_args()
    report = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in ("vision", "embedding", "model"):
            path = os.path.join(args.artifact, f"{name}.onnx")
            if not args.no_checker:
                onnx.checker.check_model(path, full_check=True)
            written = onnx.load(path, load_external_data=False)
            report[name] = {
                "ir_version": written.ir_version,
                "opsets": {o.domain: o.version for o in written.opset_import},
                "operators": count(optimised(path, folder).graph, collections.Counter()),
            }
    print(json.dumps(report))


if __name__ == "__main__":
    main()
