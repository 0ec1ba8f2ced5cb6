"""The products of one layer alone, outside any model: the bound that ONNX Runtime's kernels set on this processor.

One thread and processor time, the least of several interleaved runs, so that other programs disturb it little.
"""

import time

import numpy as np
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from checkpoint import HEAD_DIM, HEADS, HIDDEN, KV_HEADS, MLP

RUNS = 7
BLOCK = 32
# Inputs and outputs of the products as exports merge them.
LINEARS = {
    "q, k, v": (HIDDEN, (HEADS + 2 * KV_HEADS) * HEAD_DIM),
    "o": (HEADS * HEAD_DIM, HIDDEN),
    "gate, up": (HIDDEN, 2 * MLP),
    "down": (MLP, HIDDEN),
}
KERNELS = ("MatMul", "MatMulNBits", "MatMulIntegerToFloat")


def session(node, kind, inputs, constants):
    """A session of one node from `x` to `y`."""
    x = helper.make_tensor_value_info("x", kind, [1, "rows", inputs])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    constants = [numpy_helper.from_array(v, name) for name, v in constants.items()]
    graph = helper.make_graph([node], "product", [x], [y], constants)
    sets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    model = helper.make_model(graph, opset_imports=sets, ir_version=10)
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def products(rng, rows, inputs, outputs):
    """Session and input of each kernel; what is in the matrices does not matter."""
    floats = rng.standard_normal((1, rows, inputs), np.float32)
    codes = rng.integers(0, 256, (1, rows, inputs), np.uint8)
    dense = {"w": rng.standard_normal((inputs, outputs), np.float32)}
    packed = {
        "w": rng.integers(0, 256, (outputs, inputs // BLOCK, BLOCK // 2), np.uint8),
        "s": np.ones((outputs, inputs // BLOCK), np.float32),
    }
    int8 = {
        "w": rng.integers(-127, 128, (inputs, outputs), np.int8),
        "a": np.float32(1),
        "s": np.ones(outputs, np.float32),
        "z": np.array(128, np.uint8),
    }
    microsoft = {"domain": "com.microsoft"}
    # Accuracy level 4: the kernel rounds rows to int8, as in models of onnxruntime-genai.
    blocks = microsoft | {"K": inputs, "N": outputs, "bits": 4, "block_size": BLOCK, "accuracy_level": 4}
    nodes = (
        (helper.make_node("MatMul", ["x", "w"], ["y"]), dense, floats),
        (helper.make_node("MatMulNBits", ["x", "w", "s"], ["y"], **blocks), packed, floats),
        (helper.make_node("MatMulIntegerToFloat", ["x", "w", "a", "s", "z"], ["y"], **microsoft), int8, codes),
    )
    kind = {np.dtype(np.float32): TensorProto.FLOAT, np.dtype(np.uint8): TensorProto.UINT8}
    return {node.op_type: (session(node, kind[x.dtype], inputs, c), x) for node, c, x in nodes}


def measure(rows):
    """Milliseconds of every product: {linear: {kernel: ms}}."""
    rng = np.random.default_rng(0)
    found = {}
    for name, (inputs, outputs) in LINEARS.items():
        sessions = products(rng, rows, inputs, outputs)
        times = {kernel: [] for kernel in sessions}
        for _ in range(RUNS):
            for kernel, (run, x) in sessions.items():
                start = time.process_time()
                run.run(None, {"x": x})
                times[kernel].append((time.process_time() - start) * 1e3)
        found[name] = {kernel: min(ms) for kernel, ms in times.items()}
    return found
