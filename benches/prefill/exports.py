"""What is compared: the exports of the synthetic checkpoint, and how each is made."""

import hashlib
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import checkpoint

# Weights are rounded to nearest, nothing is rotated or smoothed: GPTQ, searched scales and fused rotations change the numbers in a file
# but no node of the graph, and would only make the bench longer.
RECIPE = """schema_version: 1
name: {name}
components:
  vision: {{weights: int8, activations: {tower}}}
  projector: {{weights: int8, activations: {tower}}}
  decoder: {{weights: {weights}, activations: {activations}}}
msq_merge_ratio: 1.05
"""


@dataclass(frozen=True)
class Variant:
    """One row of the tables."""

    key: str
    short: str
    title: str
    # Of the decoder's linears; None is the recipe `float`.
    weights: str | None
    activations: str = "float"
    flags: tuple = ()
    # Whether it runs; the others are loaded only, because their kernels are those of another row.
    timed: bool = True

    def recipe(self):
        tower = "float" if self.activations == "float" else "static"
        name = f"bench-{self.key}"
        return RECIPE.format(name=name, tower=tower, weights=self.weights, activations=self.activations)


VARIANTS = (
    Variant("float", "float", "`float`", None),
    Variant("nbits", "matmulnbits", "int4 block 32, `--form matmulnbits`", "int4/32", "float", ("--form", "matmulnbits")),
    Variant("dynamic", "dynamic", "int4 block 128, dynamic per token", "int4/128", "dynamic"),
    Variant("static", "one scale", "int4 block 128, one static scale", "int4/128", "static"),
    Variant("msq", "w4a8", "`w4a8`: int4 block 128, MSQ", "int4/128", "msq"),
    Variant("split", "w4a8 split", "`w4a8`, `--msq-form split`", "int4/128", "msq", ("--msq-form", "split")),
    Variant("store4", "w4a8 int4", "`w4a8`, `--store int4`", "int4/128", "msq", ("--store", "int4"), timed=False),
    Variant("store8", "w4a8 int8", "`w4a8`, `--store int8`", "int4/128", "msq", ("--store", "int8"), timed=False),
)


class Skipped(Exception):
    """The program cannot make this export; the message says why."""


def make(variant, source, binary, work, samples):
    """Folder of the export of `variant`, made unless the same program made it before.

    Raises Skipped when the program lacks a flag or refuses the combination.
    """
    options = subprocess.run([binary, "--help"], capture_output=True, text=True, check=True).stdout
    missing = [f for f in variant.flags if f.startswith("--") and f"{f} <" not in options]
    if missing:
        raise Skipped(f"this program has no {', '.join(missing)}")
    program = hashlib.sha256(Path(binary).read_bytes()).hexdigest()
    key = json.dumps([program, source.name, variant.recipe(), variant.flags, samples])
    folder, mark = work / variant.key, work / f"{variant.key}.key"
    if folder.is_dir() and mark.is_file() and mark.read_text() == key:
        return folder
    mark.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    recipe, calibration = "float", ()
    if variant.weights is not None:
        recipe = work / f"{variant.key}.yaml"
        recipe.write_text(variant.recipe())
        data = checkpoint.FIXTURE / "calibration.tsv"
        calibration = ("--calibration", data, "--calibration-samples", str(samples))
    command = [binary, source, "--format", "onnx", "--recipe", recipe, *calibration, *variant.flags, "-o", folder, "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == 2:
        raise Skipped(next((line for line in done.stderr.splitlines() if line.startswith("error:")), "refused"))
    if done.returncode != 0:
        raise RuntimeError(f"export of {variant.key} failed with {done.returncode}:\n{done.stderr}")
    mark.write_text(key)
    return folder


def two_scales(folder):
    """How many linears of the decoder have two activation scales, and how many there are."""
    linears = json.loads((folder / "mquant.json").read_text())["linears"]
    linears = [l for l in linears if l["role"].startswith("decoder.")]
    return sum(l["visual_scale"] != l["text_scale"] for l in linears), len(linears)


def size(folder):
    """Bytes of the decoder's graph and of its data file."""
    return sum(p.stat().st_size for p in (folder / "model.onnx", folder / "model.onnx.data"))
