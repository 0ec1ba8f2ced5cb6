"""Runs GGUF files in an unmodified llama.cpp, on the CPU, through its public C API.

usage: llama_cpp.py REQUEST.json

The request (paths absolute, everything but `model`, `out` and `samples` may be left out):

    {"threads": 2, "cache": "f32" | "f16", "flash": false, "image_min_tokens": 1, "runs": [
        {"model": "text.gguf", "mmproj": "mmproj.gguf", "out": "OUT.safetensors", "texts": ["to be tokenized"], "samples": [
            {"text": "a prompt with <__media__> where an image stands", "images": ["a.png"],
             "ids": [1, 2, 2], "image_token": 2, "features": "FEATURES.safetensors", "forced": [3, 4], "max_new": 12, "stop": [5]}]}]}

A sample's prompt is `text`, which llama.cpp tokenizes and puts its own tokens around images into, or `ids`, where each run of `image_token` is
replaced by the next images' rows and nothing is put around them. Images are decoded here and handed over as RGB pixels, transparency
dropped. `image_min_tokens` is what its programs call --image-min-tokens: it enlarges images that would have fewer rows. `features` (tensor `features`) replaces what the mmproj file computes. `forced` is fed behind the prompt; otherwise the best token is
fed until `max_new` tokens or one of `stop`. With the cache in f32 and flash attention off, attention is done in f32 throughout.

OUT gets, for each sample, `s{i}.tokens` (the best token of each row), `s{i}.logits` [rows, vocabulary] (the row behind the prompt and one
behind each token fed after it), `s{i}.prompt_ids` (-1 at image rows), `s{i}.image_rows` (rows of each piece of an image) and `s{i}.features`
[rows, width]; for each text `t{i}.ids`, special tokens parsed and none added.
Prints {"version": ..., "logs": [[[level, line], ...], ...]}, one list per run.
"""

import ctypes as c
import json
import sys

import numpy as np
from PIL import Image
from safetensors.numpy import load_file, save_file

import llama_library as ll

CONTEXT = 4096


def int_array(values):
    return (c.c_int32 * len(values))(*values)


class Runtime:
    """A text file and its mmproj file, loaded, with a context."""

    def __init__(self, library, log, run, options):
        self.library, self.log, self.path = library, log, run["model"]
        params = library.llama_model_default_params()
        params.n_gpu_layers = 0
        self.model = self.made(library.llama_model_load_from_file(run["model"].encode(), params), run["model"])
        self.context = self.made(library.llama_init_from_model(self.model, self.context_params(options)), "the context")
        self.vision = None
        if run.get("mmproj"):
            vision = self.vision_params(options)
            self.vision = self.made(library.mtmd_init_from_file(run["mmproj"].encode(), self.model, vision), run["mmproj"])
        self.vocab = library.llama_model_get_vocab(self.model)
        self.vocab_size = library.llama_vocab_n_tokens(self.vocab)
        self.width = library.llama_model_n_embd_inp(self.model)

    def made(self, handle, what):
        if not handle:
            raise RuntimeError(f"llama.cpp refuses {what}:\n{self.log.told()}")
        return handle

    def context_params(self, options):
        params = self.library.llama_context_default_params()
        # One physical batch holds any prompt, so a prompt is computed as one piece between images.
        params.n_ctx = params.n_batch = params.n_ubatch = CONTEXT
        params.n_outputs_max_per_seq = 0
        params.n_threads = params.n_threads_batch = options["threads"]
        params.flash_attn_type = ll.FLASH_AUTO if options["flash"] else ll.FLASH_OFF
        params.type_k = params.type_v = {"f32": ll.F32, "f16": ll.F16}[options["cache"]]
        return params

    def vision_params(self, options):
        params = self.library.mtmd_context_params_default()
        params.use_gpu = params.print_timings = params.warmup = False
        params.n_threads = options["threads"]
        params.image_min_tokens = options["image_min_tokens"]
        params.flash_attn_type = ll.FLASH_AUTO if options["flash"] else ll.FLASH_OFF
        return params

    def close(self):
        if self.vision:
            self.library.mtmd_free(self.vision)
        self.library.llama_free(self.context)
        self.library.llama_model_free(self.model)

    def check(self, code, what):
        if code != 0:
            raise RuntimeError(f"{self.path}: {what} returned {code}:\n{self.log.told()}")

    def tokenize(self, text):
        data = text.encode()
        room = (c.c_int32 * (len(data) + 16))()
        count = self.library.llama_tokenize(self.vocab, data, len(data), room, len(room), False, True)
        if count < 0:
            raise RuntimeError(f"{self.path}: tokenizing {text!r} needs {-count} tokens, more than it has bytes")
        return list(room[:count])

    def chunks(self, text, images):
        """llama.cpp's pieces of a prompt: a list of tokens, or a handle of an image piece. The owner of the handles comes first."""
        owner = self.library.mtmd_input_chunks_init()
        bitmaps = []
        for path in images:
            pixels = Image.open(path).convert("RGB")
            bitmaps.append(self.library.mtmd_bitmap_init(pixels.width, pixels.height, pixels.tobytes()))
        data = text.encode()
        prompt = ll.InputText(data, len(data), False, True)
        handles = (c.c_void_p * max(1, len(bitmaps)))(*bitmaps)
        self.check(self.library.mtmd_tokenize(self.vision, owner, c.byref(prompt), handles, len(bitmaps)), "mtmd_tokenize")
        for bitmap in bitmaps:
            self.library.mtmd_bitmap_free(bitmap)
        found = []
        for i in range(self.library.mtmd_input_chunks_size(owner)):
            chunk = self.library.mtmd_input_chunks_get(owner, i)
            if self.library.mtmd_input_chunk_get_type(chunk) == ll.TEXT_CHUNK:
                count = c.c_size_t()
                tokens = self.library.mtmd_input_chunk_get_tokens_text(chunk, c.byref(count))
                found.append(tokens[: count.value])
            else:
                found.append(chunk)
        return owner, found

    def rows(self, chunk):
        return self.library.mtmd_input_chunk_get_n_tokens(chunk)

    def prompt(self, sample):
        """Owner and pieces of a sample's prompt."""
        images = sample.get("images", [])
        if "text" in sample:
            if self.vision is None:
                return None, [self.tokenize(sample["text"])]
            return self.chunks(sample["text"], images)
        owner, pieces = (None, []) if not images else self.chunks("<__media__>" * len(images), images)
        return owner, self.around([p for p in pieces if not isinstance(p, list)], sample)

    def around(self, images, sample):
        """Ids between the image pieces, which stand for as many image tokens as they have rows."""
        ids, token, pieces, at = sample["ids"], sample.get("image_token"), [], 0
        while at < len(ids):
            if ids[at] == token:
                if not images:
                    raise RuntimeError(f"{self.path}: image token at {at} and no image is left")
                rows = self.rows(images[0])
                if ids[at : at + rows] != [token] * rows:
                    raise RuntimeError(f"{self.path}: the image at {at} has {rows} rows in llama.cpp, not as many as the prompt has image tokens")
                pieces.append(images.pop(0))
                at += rows
            else:
                end = next((i for i in range(at, len(ids)) if ids[i] == token), len(ids))
                pieces.append(ids[at:end])
                at = end
        if images:
            raise RuntimeError(f"{self.path}: {len(images)} image pieces are left behind the prompt")
        return pieces

    def decode(self, tokens, position, every_row):
        """Feeds tokens; logits of every row or of the last, [rows, vocabulary]."""
        count = len(tokens)
        sequence = int_array([0])
        sequences = (c.POINTER(c.c_int32) * count)(*[c.cast(sequence, c.POINTER(c.c_int32))] * count)
        wanted = (c.c_int8 * count)(*[int(every_row or i == count - 1) for i in range(count)])
        positions = int_array(range(position, position + count))
        batch = ll.Batch(count, int_array(tokens), None, positions, int_array([1] * count), sequences, wanted)
        self.check(self.library.llama_decode(self.context, batch), "llama_decode")
        rows = [i for i in range(count) if wanted[i]]
        return np.stack([np.ctypeslib.as_array(self.library.llama_get_logits_ith(self.context, i), (self.vocab_size,)).copy() for i in rows])

    def encode(self, chunk):
        """Features of an image piece, [rows, width]."""
        self.check(self.library.mtmd_encode_chunk(self.vision, chunk), "mtmd_encode_chunk")
        return np.ctypeslib.as_array(self.library.mtmd_get_output_embd(self.vision), (self.rows(chunk), self.width)).copy()

    def feed_image(self, chunk, features, position):
        """Feeds an image piece and returns the position behind it."""
        behind = c.c_int32(position)
        data = features.ctypes.data_as(c.POINTER(c.c_float))
        code = self.library.mtmd_helper_decode_image_chunk(
            self.vision, self.context, chunk, data, position, 0, CONTEXT, c.byref(behind), None, None
        )
        self.check(code, "mtmd_helper_decode_image_chunk")
        return behind.value

    def answer(self, sample):
        """What a sample's tensors are called in OUT, and the tensors."""
        self.library.llama_memory_clear(self.library.llama_get_memory(self.context), True)
        owner, pieces = self.prompt(sample)
        given = load_file(sample["features"])["features"] if "features" in sample else None
        position, ids, image_rows, features, logits = 0, [], [], [], None
        for piece in pieces:
            if isinstance(piece, list):
                logits = self.decode(piece, position, False)
                position += len(piece)
                ids += piece
                continue
            done = sum(image_rows)
            image_rows.append(self.rows(piece))
            found = self.encode(piece) if given is None else np.ascontiguousarray(given[done : done + image_rows[-1]])
            position = self.feed_image(piece, found, position)
            features.append(found)
            ids += [-1] * image_rows[-1]
        if logits is None or isinstance(pieces[-1], int):
            raise RuntimeError(f"{self.path}: a prompt must end with text")
        out = {"logits": self.continued(sample, logits, position), "prompt_ids": np.array(ids, np.int64)}
        out["tokens"] = out["logits"].argmax(1).astype(np.int64)
        out["image_rows"] = np.array(image_rows, np.int64)
        if features:
            out["features"] = np.concatenate(features)
        if owner:
            self.library.mtmd_input_chunks_free(owner)
        return out

    def continued(self, sample, logits, position):
        """The last row of the prompt's logits and those of the tokens fed behind it."""
        if "forced" in sample:
            forced = sample["forced"]
            return np.concatenate([logits, self.decode(forced, position, True)]) if forced else logits
        stop = set(sample.get("stop", []))
        while len(logits) < sample.get("max_new", 1) and int(logits[-1].argmax()) not in stop:
            row = self.decode([int(logits[-1].argmax())], position, False)
            logits = np.concatenate([logits, row])
            position += 1
        return logits


def main():
    with open(sys.argv[1], encoding="utf-8") as file:
        request = json.load(file)
    options = {"threads": 2, "cache": "f16", "flash": True, "image_min_tokens": -1} | {k: v for k, v in request.items() if k != "runs"}
    library, log = ll.load()
    logs = []
    for run in request["runs"]:
        runtime, out = Runtime(library, log, run, options), {}
        for i, text in enumerate(run.get("texts", [])):
            out[f"t{i}.ids"] = np.array(runtime.tokenize(text), np.int64)
        for i, sample in enumerate(run["samples"]):
            out |= {f"s{i}.{name}": np.ascontiguousarray(value) for name, value in runtime.answer(sample).items()}
        runtime.close()
        save_file(out, run["out"])
        logs.append(log.take())
    print(json.dumps({"version": library.llama_version().decode(), "logs": logs}))


if __name__ == "__main__":
    main()
