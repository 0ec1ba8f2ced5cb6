"""Greedy generation with the ONNX files of this folder.

    mquant-export preprocess . --image photo.jpg --prompt "What is this?" -o prompt.safetensors
    python generate.py prompt.safetensors --max-new-tokens 64

Needs the packages numpy, onnxruntime and tokenizers. The folder's mquant.json describes the inputs and outputs of each file.
"""

import argparse
import json
import pathlib
import struct

import numpy as np
import onnxruntime as ort
from tokenizers import Tokenizer

HERE = pathlib.Path(__file__).resolve().parent


def read_tensors(path):
    """The tensors of a safetensors file by name."""
    data = pathlib.Path(path).read_bytes()
    begin = 8 + struct.unpack("<Q", data[:8])[0]
    types = {"F32": np.float32, "I64": np.int64}
    tensors = {}
    for name, entry in json.loads(data[8:begin]).items():
        if name != "__metadata__":
            start, end = (begin + offset for offset in entry["data_offsets"])
            tensors[name] = np.frombuffer(data[start:end], types[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def session(name):
    return ort.InferenceSession(str(HERE / name), providers=["CPUExecutionProvider"])


def generate(prompt, max_new_tokens, stop):
    """Yields token ids until one of `stop`, which is not yielded."""
    embedding, decoder = session("embedding.onnx"), session("model.onnx")
    inputs = {i.name: i for i in decoder.get_inputs()}
    none = np.zeros((0, inputs["inputs_embeds"].shape[2]), np.float32)
    features = none
    if len(prompt["image_grid_thw"]):
        images = {name: prompt[name] for name in ("pixel_values", "image_grid_thw")}
        features = session("vision.onnx").run(["image_features"], images)[0]
    past = [name for name in inputs if name.startswith("past_key_values.")]
    cache = {name: np.zeros((1, inputs[name].shape[1], 0, inputs[name].shape[3]), np.float32) for name in past}
    # The length of the prompt stays the same while tokens are added.
    constant = {name: prompt[name] for name in ("prompt_length",) if name in inputs}
    ids, positions, length = prompt["input_ids"], prompt["position_ids"], 0
    next_position = positions.max() + 1
    for _ in range(max_new_tokens):
        length += ids.shape[1]
        embeds = embedding.run(None, {"input_ids": ids, "image_features": features})[0]
        mask = np.ones((1, length), np.int64)
        feeds = {"inputs_embeds": embeds, "attention_mask": mask, "position_ids": positions, **cache, **constant}
        names = ["logits"] + [name.replace("past_key_values", "present") for name in past]
        logits, *present = decoder.run(names, feeds)
        token = int(logits[0, -1].argmax())
        if token in stop:
            return
        yield token
        cache, features = dict(zip(past, present)), none
        ids = np.array([[token]], np.int64)
        positions = np.full((*positions.shape[:-1], 1), next_position, np.int64)
        next_position += 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prompt", help="what `mquant-export preprocess` wrote")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--ids", action="store_true", help="print token ids, and do not stop at the end of the text")
    args = parser.parse_args()
    manifest = json.loads((HERE / "mquant.json").read_text(encoding="utf-8"))
    stop = () if args.ids else manifest["eos_token_ids"]
    tokenizer = Tokenizer.from_file(str(HERE / "tokenizer.json"))
    ids, text, shown = [], "", 0
    for token in generate(read_tensors(args.prompt), args.max_new_tokens, stop):
        ids.append(token)
        text = tokenizer.decode(ids)
        # A character may need several tokens; what is not finished yet ends in a replacement character.
        if not args.ids and not text.endswith("\ufffd"):
            print(text[shown:], end="", flush=True)
            shown = len(text)
    print(*(ids if args.ids else [text[shown:]]))


if __name__ == "__main__":
    main()
