"""Reads and writes GGUF files with the package `gguf`, and makes names by it.

usage: gguf_file.py read FILE            metadata with types, tensors with their places and bytes, as JSON
       gguf_file.py write FILE LIMIT     a file with every type of value, in shards of LIMIT bytes unless that is 0; what it holds, as JSON
       gguf_file.py names JSON           size labels of `counts`, file names of `names`
"""

import json
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter

SCALARS = {
    "uint8": ("UINT8", 200),
    "int8": ("INT8", -100),
    "uint16": ("UINT16", 60000),
    "int16": ("INT16", -30000),
    "uint32": ("UINT32", 4000000000),
    "int32": ("INT32", -2000000000),
    "float32": ("FLOAT32", 0.25),
    "bool": ("BOOL", True),
    "string": ("STRING", "a\n猫"),
    "uint64": ("UINT64", 2**64 - 1),
    "int64": ("INT64", -(2**63)),
    "float64": ("FLOAT64", 0.1),
}
NAMES = {GGUFValueType[name]: ours for ours, (name, _) in SCALARS.items()}


def value(field):
    """The value as JSON, exact: floats of 32 bits have the shortest digits that name them."""

    def one(part):
        number = part[0]
        return float(str(number)) if isinstance(number, np.floating) else number.item()

    def string(part):
        return bytes(part).decode()

    of = string if field.types[-1] == GGUFValueType.STRING else one
    values = [of(field.parts[i]) for i in field.data]
    return values if field.types[0] == GGUFValueType.ARRAY else values[0]


def kind(field):
    name = NAMES[field.types[-1]]
    return f"array of {name}" if field.types[0] == GGUFValueType.ARRAY else name


def read(path):
    reader = GGUFReader(path)
    metadata = [
        {"key": key, "type": kind(field), "value": value(field)}
        for key, field in reader.fields.items()
        if not key.startswith("GGUF.")
    ]
    tensors = [
        {
            "name": tensor.name,
            "type": int(tensor.tensor_type),
            "dims": [int(n) for n in tensor.shape],
            "offset": int(tensor.data_offset),
            "bytes": tensor.data.tobytes().hex(),
        }
        for tensor in reader.tensors
    ]
    return {"metadata": metadata, "tensors": tensors}


def write(path, limit):
    writer = GGUFWriter(path, "test", split_max_size=limit)
    metadata = [{"key": "general.architecture", "type": "string", "value": "test"}]
    for name, (constant, sample) in SCALARS.items():
        writer.add_key_value(f"s.{name}", sample, GGUFValueType[constant])
        writer.add_key_value(f"a.{name}", [sample, sample], GGUFValueType.ARRAY, sub_type=GGUFValueType[constant])
        metadata.append({"key": f"s.{name}", "type": name, "value": sample})
        metadata.append({"key": f"a.{name}", "type": f"array of {name}", "value": [sample, sample]})
    random = np.random.default_rng(1)
    tensors = []
    for number, name in enumerate(["F32", "F16", "BF16", "Q4_0", "Q8_0", "Q4_K", "Q6_K"]):
        block = GGMLQuantizationType[name]
        values, size = gguf.GGML_QUANT_SIZES[block]
        cols, rows = (values if values > 1 else 24), number + 1
        if name == "F32":
            data = random.standard_normal((rows, cols), np.float32)
            writer.add_tensor(name, data)
        else:
            data = random.integers(0, 256, (rows, cols // values * size), np.uint8)
            writer.add_tensor(name, data, raw_dtype=block)
        tensors.append({"name": name, "type": int(block), "dims": [cols, rows], "bytes": data.tobytes().hex()})
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return {"metadata": metadata, "tensors": tensors}


def names(text):
    given = json.loads(text)
    made = []
    for (base, size, finetune, version), encoding in given["names"]:
        stem, projector = (
            gguf.naming_convention(None, base, finetune, version, label, encoding) for label in (size, None)
        )
        made.append([stem, f"mmproj-{projector}"])
    return {"labels": [gguf.size_label(n, n, 0, 0) for n in given["counts"]], "names": made}


def main():
    match sys.argv[1:]:
        case ["read", path]:
            found = read(path)
        case ["write", path, limit]:
            found = write(path, int(limit))
        case ["names", text]:
            found = names(text)
        case _:
            sys.exit(__doc__)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
