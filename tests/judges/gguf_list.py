"""Lists what GGUF files hold, with the reader of the `gguf` package.

usage: gguf_list.py FILE.gguf [FILE.gguf ...]

Prints one list per file: `tensors` in file order as [name, type, sizes with the row's length first, SHA-256 of the bytes] and `metadata` in file
order as [key, type, value]. An array longer than 16 is {"length", "sha256"} over its elements as the file stores them.
"""

import hashlib
import json
import sys

import gguf

LONG = 16


def metadata(field):
    """[key, type, value] of a metadata field of gguf-py's reader."""
    kind = field.types[0]
    if kind != gguf.GGUFValueType.ARRAY:
        return [field.name, kind.name, field.contents()]
    label = f"ARRAY[{field.types[1].name}]" if len(field.types) > 1 else "ARRAY"
    if len(field.data) <= LONG:
        return [field.name, label, field.contents()]
    # Parts: length of the key, key, type, type of elements, count, then for each element its bytes (a string's length first).
    stored = b"".join(part.tobytes() for part in field.parts[5:])
    return [field.name, label, {"length": len(field.data), "sha256": hashlib.sha256(stored).hexdigest()}]


def listed(path):
    """Tensors and metadata of a file."""
    reader = gguf.GGUFReader(path)
    tensors = [
        [t.name, t.tensor_type.name, [int(n) for n in t.shape], hashlib.sha256(t.data.tobytes()).hexdigest()]
        for t in sorted(reader.tensors, key=lambda t: t.data_offset)
    ]
    fields = [metadata(f) for f in reader.fields.values() if not f.name.startswith("GGUF.")]
    return {"tensors": tensors, "metadata": fields}


def main():
    print(json.dumps([listed(path) for path in sys.argv[1:]]))


if __name__ == "__main__":
    main()
