"""Writes what llama.cpp's own converter makes of the fixtures, as lists of tensors and metadata.

usage: $MQUANT_TORCH_PYTHON reference_gguf.py OUT_FOLDER [FIXTURE ...] [--keep GGUF_FOLDER]

MQUANT_LLAMA_CPP names a source tree of llama.cpp; the Python that runs this has its converter's requirements (torch, transformers, sentencepiece).
For each fixture OUT_FOLDER/<fixture>.json gets, for each file (`text-f16`, `mmproj-f16`, the same in bf16 and f32), the list of `gguf_list.py`.
`notes` says where the converter did not do all by itself.
With --keep the files themselves stay in GGUF_FOLDER, for `llama_cpp.py`.

The converter is not changed. What it cannot do with the fixtures is answered from outside, through the classes it has for it:

* it tells a pre-tokenizer by the hash of what a tokenizer does with one long text, and the fixtures' tokenizers are trained on little text:
  their kind is given here;
* InternLM2's class reads `vocab_size` pieces from tokenizer.model, which fails where tokens were added behind the pieces: without the key it takes
  the number of pieces, and `added_tokens.json` adds the rest. It also needs `eos_token_id` at the top of config.json, where InternVL2 has none: it gets
  the decoder's;
* tokenizers that are remote code (Qwen-VL, GLM-4V) are left out, and GLM-4V's `vocab_size` is its `padded_vocab_size`;
* MiniCPM-V's surgery script loads a model of remote code only to divide its tensors among three files: they are divided here, by its rule;
  its image encoder script then runs as it is (it has no bf16).
"""

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
TYPES = ("f16", "bf16", "f32")

QWEN2 = "tokenizer.ggml.pre was given: the converter does not know this tokenizer's hash"
PIECES = "vocab_size was hidden from the tokenizer's conversion: tokens were added behind the pieces"
EOS = "bos_token_id, eos_token_id and pad_token_id of llm_config were put at the top of config.json"
REMOTE = "no tokenizer: it is remote code"
SURGERY = "divided into decoder and image encoder by the rule of minicpmv-surgery.py; image encoder by the legacy script"

# What each fixture is given from outside, and which files the converter can make of it.
CASES = {
    "qwen2_vl": {"pre": "qwen2", "mmproj": True, "notes": [QWEN2]},
    "qwen2_vl_tiny": {"pre": "qwen2", "mmproj": True, "notes": [QWEN2]},
    "internvl2": {"pieces": True, "mmproj": True, "notes": [PIECES, EOS]},
    "internvl2_qwen2": {"pre": "qwen2", "mmproj": True, "notes": [QWEN2]},
    "minicpm_v_2_6": {"pre": "qwen2", "surgery": True, "mmproj": False, "notes": [QWEN2, SURGERY]},
    "qwen_vl": {"no_vocab": True, "mmproj": False, "notes": [REMOTE]},
    "glm_4v": {"no_vocab": True, "mmproj": False, "notes": [REMOTE, "vocab_size was set to padded_vocab_size"]},
}


def answered(model, case):
    """A subclass of the converter's class for a fixture, with what the converter cannot find out."""

    class Answered(model):
        model_arch = model.model_arch

        def get_vocab_base_pre(self, tokenizer):
            return case["pre"]

        def set_vocab(self):
            if case.get("no_vocab"):
                return self._set_vocab_none()
            if not case.get("pieces"):
                return super().set_vocab()
            size = self.hparams.pop("vocab_size")
            super().set_vocab()
            self.hparams["vocab_size"] = size

    return Answered


def convert(folder, out, kind, mmproj, case):
    """One file by the converter's classes, as `convert_hf_to_gguf.py` calls them."""
    import gguf
    import torch
    from conversion import ModelBase, ModelType, get_model_architecture, get_model_class

    types = {"f32": gguf.LlamaFileType.ALL_F32, "f16": gguf.LlamaFileType.MOSTLY_F16, "bf16": gguf.LlamaFileType.MOSTLY_BF16}
    hparams = ModelBase.load_hparams(folder, False)
    if "padded_vocab_size" in hparams:
        hparams.setdefault("vocab_size", hparams["padded_vocab_size"])
    name = get_model_architecture(hparams, ModelType.MMPROJ if mmproj else ModelType.TEXT)
    model = get_model_class(name, mmproj=mmproj)
    with torch.inference_mode():
        (model if mmproj else answered(model, case))(folder, types[kind], out, hparams=hparams).write()


def divide(source, work):
    """MiniCPM-V as minicpmv-surgery.py leaves it: a folder for the image encoder script and the decoder's folder `model` in it."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors = {}
    for shard in sorted(source.glob("*.safetensors")):
        if shard.name.startswith("model"):
            tensors |= load_file(shard)
    part = lambda prefix: {k: v for k, v in tensors.items() if k.startswith(prefix)}
    model = work / "model"
    model.mkdir(parents=True)
    for path in source.iterdir():
        if path.suffix in (".json", ".txt") and path.name != "model.safetensors.index.json":
            shutil.copyfile(path, work / path.name)
            shutil.copyfile(path, model / path.name)
    torch.save({k: v.float() for k, v in part("resampler").items()}, work / "minicpmv.projector")
    torch.save({k.replace("vpm.", ""): v.float() for k, v in part("vpm").items()}, work / "minicpmv.clip")
    save_file({k.removeprefix("llm."): v for k, v in part("llm.").items()}, model / "model.safetensors", {"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    config |= {"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2"}
    del config["auto_map"]
    (model / "config.json").write_text(json.dumps(config))
    return model


def with_special_ids(source, work):
    """A copy of an InternVL2 folder with the decoder's special ids at the top of config.json."""
    folder = work / source.name
    shutil.copytree(source, folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {key: config["llm_config"][key] for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def image_encoder(tree, work, out, kind):
    """MiniCPM-V's mmproj file by the legacy script."""
    script = tree / "tools/mtmd/legacy-models/minicpmv-convert-image-encoder-to-gguf.py"
    made = work / "made"
    half = ["0.5", "0.5", "0.5"]
    command = [sys.executable, script, "-m", work, "--minicpmv-projector", work / "minicpmv.projector", "--output-dir", made]
    command += ["--image-mean", *half, "--image-std", *half, "--minicpmv_version", "3"]
    environment = os.environ | {"PYTHONPATH": str(tree / "gguf-py")}
    run = subprocess.run([*command, *(["--use-f32"] if kind == "f32" else [])], env=environment, capture_output=True, text=True)
    if run.returncode:
        raise RuntimeError(f"{script.name}: {run.stderr}")
    shutil.move(made / f"mmproj-model-{kind}.gguf", out)


def make(tree, name, out):
    """All files of a fixture: {list name: path}."""
    case, files = CASES[name], {}
    folder, work = FIXTURES / name, Path(tempfile.mkdtemp())
    if case.get("surgery"):
        folder = divide(folder, work / name)
    elif case.get("pieces"):
        folder = with_special_ids(folder, work)
    for kind in TYPES:
        files[f"text-{kind}"] = out / f"{name}-{kind}.gguf"
        convert(folder, files[f"text-{kind}"], kind, False, case)
        path = out / f"mmproj-{name}-{kind}.gguf"
        if case["mmproj"]:
            convert(folder, path, kind, True, case)
        elif case.get("surgery") and kind != "bf16":
            image_encoder(tree, work / name, path, kind)
        if path.exists():
            files[f"mmproj-{kind}"] = path
    shutil.rmtree(work)
    return files


def write(path, files, notes):
    """One line per tensor and key, so that differences read well."""
    line = lambda value: json.dumps(value, ensure_ascii=False)
    blocks = []
    for name, listing in files.items():
        parts = [f"  {line(key)}: [\n   " + ",\n   ".join(line(v) for v in listing[key]) + "\n  ]" for key in ("tensors", "metadata")]
        blocks.append(f" {line(name)}: {{\n" + ",\n".join(parts) + "\n }")
    path.write_text('{\n"notes": ' + line(notes) + ',\n"files": {\n' + ",\n".join(blocks) + "\n}\n}\n", encoding="utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--keep", type=Path)
    parser.add_argument("fixtures", nargs="*")
    args = parser.parse_intermixed_args()
    tree = os.environ.get("MQUANT_LLAMA_CPP")
    if not tree or not (Path(tree) / "convert_hf_to_gguf.py").is_file():
        sys.exit(f"error: MQUANT_LLAMA_CPP must name a source tree of llama.cpp with convert_hf_to_gguf.py; found {tree!r}")
    tree = Path(tree).resolve()
    sys.path[:0] = [str(tree), str(tree / "gguf-py")]
    from gguf_list import listed

    logging.basicConfig(level=logging.ERROR)
    args.out.mkdir(parents=True, exist_ok=True)
    for name in args.fixtures or CASES:
        with tempfile.TemporaryDirectory() as scratch:
            keep = args.keep or Path(scratch)
            keep.mkdir(parents=True, exist_ok=True)
            files = make(tree, name, keep)
            write(args.out / f"{name}.json", {key: listed(path) for key, path in files.items()}, CASES[name]["notes"])
            print(name, *files)


if __name__ == "__main__":
    main()
