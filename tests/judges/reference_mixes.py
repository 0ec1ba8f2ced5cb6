"""Writes what llama.cpp's own quantizer makes of GGUF files: the type of every tensor in every mix, and the hash of its bytes in every type.

usage: reference_mixes.py lists OUT.json NAME=FILE.gguf [NAME=FILE.gguf ...]
       reference_mixes.py quantize IN.gguf OUT.gguf MIX [--imatrix IMPORTANCE.safetensors]

MQUANT_LLAMA_LIBRARY names a shared library of llama.cpp built with BUILD_SHARED_LIBS (libllama.so): the wheel `xllamacpp` leaves
`llama_model_quantize` out. It is called through the C API of `include/llama.h`; nothing else of the library is used. The files should be in f32,
so that nothing is rounded twice; mmproj files are refused, because the library aborts on them (their architecture has no decoder layers). OUT.json
gets for each file

    {"mixes": {mix: {type: [tensors]}}, "tensors": {tensor: {type: first 16 digits of the bytes' SHA-256}}}

in which tensors that every mix leaves in F32 are left out. IMPORTANCE holds one vector per tensor name, as long as the tensor's rows.
"""

import argparse
import ctypes as c
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import gguf

# `llama_ftype` of include/llama.h.
MIXES = {
    "q4_0": 2,
    "q4_1": 3,
    "q8_0": 7,
    "q5_0": 8,
    "q5_1": 9,
    "q2_k": 10,
    "q3_k_s": 11,
    "q3_k_m": 12,
    "q3_k_l": 13,
    "q4_k_s": 14,
    "q4_k_m": 15,
    "q5_k_s": 16,
    "q5_k_m": 17,
    "q6_k": 18,
}


class Importance(c.Structure):
    """`llama_model_imatrix_data`."""

    _fields_ = [("name", c.c_char_p), ("data", c.POINTER(c.c_float)), ("size", c.c_size_t)]


class QuantizeParams(c.Structure):
    """`llama_model_quantize_params`."""

    _fields_ = [
        ("nthread", c.c_int32),
        ("ftype", c.c_int),
        ("output_tensor_type", c.c_int),
        ("token_embedding_type", c.c_int),
        ("allow_requantize", c.c_bool),
        ("quantize_output_tensor", c.c_bool),
        ("only_copy", c.c_bool),
        ("pure", c.c_bool),
        ("keep_split", c.c_bool),
        ("dry_run", c.c_bool),
        ("imatrix", c.POINTER(Importance)),
        ("kv_overrides", c.c_void_p),
        ("tt_overrides", c.c_void_p),
        ("prune_layers", c.c_void_p),
        ("max_buf_size", c.c_size_t),
    ]


# Defaults of the fields above (src/llama-quant.cpp); another layout reads as other values.
DEFAULTS = {
    "nthread": 0,
    "ftype": 7,
    "allow_requantize": False,
    "quantize_output_tensor": True,
    "only_copy": False,
    "pure": False,
    "keep_split": False,
    "dry_run": False,
    "kv_overrides": None,
    "tt_overrides": None,
    "prune_layers": None,
    "max_buf_size": 8 << 30,
}


def library():
    path = os.environ.get("MQUANT_LLAMA_LIBRARY")
    if not path or not os.path.isfile(path):
        sys.exit(f"error: MQUANT_LLAMA_LIBRARY must name libllama.so of a build of llama.cpp with shared libraries; found {path!r}")
    found = c.CDLL(path)
    found.llama_model_quantize_default_params.restype = QuantizeParams
    found.llama_model_quantize.argtypes = [c.c_char_p, c.c_char_p, c.POINTER(QuantizeParams)]
    found.llama_model_quantize.restype = c.c_uint32
    params = found.llama_model_quantize_default_params()
    for name, expected in DEFAULTS.items():
        value = getattr(params, name)
        if value != expected:
            sys.exit(f"error: {path}: llama_model_quantize_params.{name}: expected {expected!r}, found {value!r}: the header has changed")
    return found


def importance(path):
    """The array that the library takes, ended by an empty entry, and what it points to."""
    from safetensors.numpy import load_file

    vectors = {name: v.astype("float32").ravel() for name, v in load_file(path).items()}
    entries = [Importance(name.encode(), v.ctypes.data_as(c.POINTER(c.c_float)), v.size) for name, v in vectors.items()]
    return (Importance * (len(entries) + 1))(*entries), vectors


def quantize(lib, source, out, mix, imatrix=None):
    architecture = gguf.GGUFReader(source).get_field("general.architecture").contents()
    if architecture == "clip":
        sys.exit(f"error: {source}: expected a text file, found one of architecture clip, on which llama_model_quantize aborts")
    params = lib.llama_model_quantize_default_params()
    params.ftype, params.nthread = MIXES[mix], 2
    # Kept until the call is over.
    held = importance(imatrix) if imatrix else None
    if held:
        params.imatrix = held[0]
    code = lib.llama_model_quantize(str(source).encode(), str(out).encode(), c.byref(params))
    if code != 0:
        sys.exit(f"error: llama_model_quantize of {source} as {mix} returned {code}")


def lists(lib, files):
    found = {}
    for name, path in files:
        mixes, tensors = {}, {}
        for mix in MIXES:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "out.gguf"
                quantize(lib, path, out, mix)
                for t in gguf.GGUFReader(out).tensors:
                    mixes.setdefault(mix, {}).setdefault(t.tensor_type.name, []).append(t.name)
                    tensors.setdefault(t.name, {})[t.tensor_type.name] = hashlib.sha256(t.data.tobytes()).hexdigest()[:16]
        plain = {t for t, types in tensors.items() if list(types) == ["F32"]}
        mixes = {m: {k: [t for t in v if t not in plain] for k, v in types.items() if set(v) - plain} for m, types in mixes.items()}
        found[name] = {"mixes": mixes, "tensors": {t: v for t, v in tensors.items() if t not in plain}}
    return found


def write(path, found):
    """One line per mix and per tensor."""
    files = []
    for name, parts in found.items():
        blocks = [f"  {json.dumps(p)}: {{\n   " + ",\n   ".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in part.items()) + "\n  }" for p, part in parts.items()]
        files.append(f" {json.dumps(name)}: {{\n" + ",\n".join(blocks) + "\n }")
    Path(path).write_text("{\n" + ",\n".join(files) + "\n}\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("lists")
    listing.add_argument("out")
    listing.add_argument("files", nargs="+", type=lambda s: s.split("=", 1))
    one = commands.add_parser("quantize")
    one.add_argument("source")
    one.add_argument("out")
    one.add_argument("mix", choices=MIXES)
    one.add_argument("--imatrix")
    args = parser.parse_args()
    lib = library()
    if args.command == "lists":
        write(args.out, lists(lib, args.files))
    else:
        quantize(lib, args.source, args.out, args.mix, args.imatrix)


if __name__ == "__main__":
    main()
