"""Compares matrices in ggml's block types with ggml itself and with the `gguf` package, byte by byte.

usage: ggml.py CASES.safetensors

CASES holds weights `{case}.w` ([rows, cols], float32), an importance `{case}.v` ([cols], float32) and, for each type, what we made of them:
bytes without importance `{case}.{type}.plain`, bytes with importance `{case}.{type}.weighted` and the values of the former,
`{case}.{type}.values`. ggml is the library inside the `xllamacpp` wheel (`ggml_quantize_chunk`, `to_float` of `ggml_get_type_traits`).
Prints one JSON object: per type how many matrices and values were compared with each, and `different`, a list of what differs.
"""

import argparse
import ctypes
import importlib.util
import json
import pathlib

import gguf
import numpy as np
from safetensors.numpy import load_file


class Traits(ctypes.Structure):
    """The beginning of `struct ggml_type_traits` of ggml.h."""

    _fields_ = [
        ("type_name", ctypes.c_char_p),
        ("blck_size", ctypes.c_int64),
        ("blck_size_interleave", ctypes.c_int64),
        ("type_size", ctypes.c_size_t),
        ("is_quantized", ctypes.c_bool),
        ("to_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
    ]


class Ggml:
    def __init__(self):
        folder = pathlib.Path(importlib.util.find_spec("xllamacpp").origin).parent
        self.lib = ctypes.CDLL(str(next(folder.glob("*.so"))))
        self.lib.ggml_quantize_chunk.restype = ctypes.c_size_t
        self.lib.ggml_quantize_chunk.argtypes = [ctypes.c_int, *[ctypes.c_void_p] * 2, *[ctypes.c_int64] * 3, ctypes.c_void_p]
        self.lib.ggml_get_type_traits.restype = ctypes.POINTER(Traits)
        self.lib.ggml_get_type_traits.argtypes = [ctypes.c_int]

    def quantize(self, kind, w, v):
        rows, cols = w.shape
        traits = self.lib.ggml_get_type_traits(kind).contents
        out = np.empty(rows * cols // traits.blck_size * traits.type_size, np.uint8)
        size = self.lib.ggml_quantize_chunk(kind, w.ctypes.data, out.ctypes.data, 0, rows, cols, None if v is None else v.ctypes.data)
        assert size == out.size
        return out

    def values(self, kind, data, shape):
        out = np.empty(shape, np.float32)
        if kind == gguf.GGMLQuantizationType.F32:
            return data.view(np.float32).reshape(shape)  # ggml has no function for it
        self.lib.ggml_get_type_traits(kind).contents.to_float(data.ctypes.data, out.ctypes.data, out.size)
        return out


def same_bits(a, b):
    """Bits equal; NaN equals NaN."""
    return (a.view(np.uint32) == b.view(np.uint32)) | (np.isnan(a) & np.isnan(b))


def odd_blocks(w, number):
    """For each byte whether it belongs to a block whose largest value is zero or smaller than normal numbers are: there the package
    gives zeros another sign than ggml and rounds inverse scales otherwise."""
    values, size = gguf.GGML_QUANT_SIZES[number]
    largest = np.abs(w.reshape(-1, values)).max(1)
    return np.repeat(largest < np.finfo(np.float32).tiny, size)


class Report:
    def __init__(self):
        self.compared, self.different = {}, []

    def add(self, kind, judge, what, equal):
        count = self.compared.setdefault(kind, {}).setdefault(judge, [0, 0])
        count[0] += 1
        count[1] += int(equal.size)
        if not equal.all():
            rows = np.unique(np.nonzero(~equal.reshape(equal.shape[0], -1))[0])[:5]
            self.different.append(f"{kind} {judge} {what}: {int((~equal).sum())} of {equal.size} differ, rows {rows.tolist()}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases")
    cases = load_file(parser.parse_args().cases)
    ggml, report = Ggml(), Report()
    for name in cases:
        if not name.endswith(".plain"):
            continue
        case, kind, _ = name.rsplit(".", 2)
        number = gguf.GGMLQuantizationType[kind.upper()]
        w, v = cases[f"{case}.w"], cases[f"{case}.v"]
        rows = w.shape[0]
        plain, weighted = cases[name], cases[f"{case}.{kind}.weighted"]
        values = cases[f"{case}.{kind}.values"]
        report.add(kind, "ggml", f"{case} without importance", (plain == ggml.quantize(number, w, None)).reshape(rows, -1))
        report.add(kind, "ggml", f"{case} with importance", (weighted == ggml.quantize(number, w, v)).reshape(rows, -1))
        report.add(kind, "ggml", f"{case} values", same_bits(values, ggml.values(number, plain, w.shape)))
        try:
            with np.errstate(all="ignore"):
                own = gguf.quants.quantize(w, number)
            equal = plain == own.reshape(-1).view(np.uint8)
            report.add(kind, "gguf", f"{case} bytes", (equal | odd_blocks(w, number)).reshape(rows, -1))
        except NotImplementedError:
            pass
        with np.errstate(all="ignore"):
            own = gguf.quants.dequantize(plain.reshape(rows, -1), number).astype(np.float32)
        report.add(kind, "gguf", f"{case} values", same_bits(values, own.reshape(w.shape)))
    print(json.dumps({"compared": report.compared, "different": report.different}))


if __name__ == "__main__":
    main()
