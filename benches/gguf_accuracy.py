"""How far quantized GGUF files are from F16 ones, measured in llama.cpp itself.

    python benches/gguf_accuracy.py [--bin target/release/mquant-export] [--samples 128] [--write]

Exports the trained fixture and its twin with planted outliers (`cargo bench --bench ablation -- --twin FOLDER` writes the twin) under `target/gguf` with each
recipe and method, asks llama.cpp the evaluation questions, prompt and picture going through its own tokenizer and preprocessor, and feeds
the expected answer behind each. Rows that count are those that predict the answer's tokens and the end after them. Prints a table per model; `--write` puts it into
docs/accuracy.md. Intervals are the 2.5 and 97.5 percentiles over 1000 resamplings of the samples, from a fixed seed. Python: the virtual environment of
the tests (`./test.sh` makes it).
"""

import argparse
import base64
import csv
import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "tests" / "judges"))

import llama_cpp  # noqa: E402  (a judge of the tests)
import llama_library  # noqa: E402

FIXTURE = REPOSITORY / "fixtures" / "qwen2_vl_tiny"
METHODS = ("nearest", "importance", "gptq")
RESAMPLINGS = 1000
# The chat template's text of one user message, picture first; llama.cpp puts the vision tags around the picture.
PROMPT = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<__media__>{question}<|im_end|>\n<|im_start|>assistant\n"
END = "<|im_end|>"
MARKS = ("<!-- made by python benches/gguf_accuracy.py --write -->", "<!-- end of the tables of GGUF files -->")
TITLES = {"natural": "The trained model", "planted": "Its twin, 8 channels in each place 40 times larger"}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, default=REPOSITORY / "target/release/mquant-export", help="the program that exports")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "target/gguf", help="folder of the twin and of exports")
    parser.add_argument("--samples", type=int, default=128, help="evaluation samples, from the first")
    parser.add_argument("--recipes", default="q4_0,q4_k_m,q8_0", help="with commas")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/accuracy.md")
    return parser.parse_args()


def questions(count):
    """The fixture's first rows: picture as a file object, question, answer."""
    csv.field_size_limit(sys.maxsize)
    with open(FIXTURE / "evaluation.tsv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))[:count]
    return [(base64.b64decode(r["image"]), r["question"], r["answer"]) for r in rows]


def twin(work):
    folder = work / "twin"
    if not folder.is_dir():
        folder.mkdir(parents=True)
        command = ["cargo", "bench", "--bench", "ablation", "--", "--twin", str(folder)]
        subprocess.run(command, cwd=REPOSITORY, check=True)
    return next(p for p in folder.iterdir() if p.is_dir())


def export(binary, model, out, recipe, method):
    shutil.rmtree(out, ignore_errors=True)
    command = [binary, model, "--format", "gguf", "--recipe", recipe, "-o", out]
    if method:
        command += ["--method", method]
    if method in ("importance", "gptq"):
        command += ["--calibration", FIXTURE / "calibration.tsv"]
    run = subprocess.run([str(c) for c in command], capture_output=True, text=True)
    if run.returncode:
        sys.exit(f"error: {recipe} by {method} failed:\n{run.stderr}")


class Said:
    """What the files of a folder say: per sample the log-probabilities [rows, vocabulary], and whether the answer is the expected one."""

    def __init__(self, library, log, folder, samples):
        options = {"threads": len(os.sched_getaffinity(0)), "cache": "f16", "flash": True, "image_min_tokens": 1}
        files = sorted(folder.glob("*.gguf"))
        run = {part: next(str(f) for f in files if f.name.startswith("mmproj-") == (part == "mmproj")) for part in ("model", "mmproj")}
        self.bytes = {part: os.path.getsize(path) for part, path in run.items()}
        runtime = llama_cpp.Runtime(library, log, run, options)
        end = runtime.tokenize(END)
        self.rows, self.logits, self.exact = [], [], []
        for picture, question, answer in samples:
            expected = runtime.tokenize(answer)
            sample = {"text": PROMPT.format(question=question), "images": [io.BytesIO(picture)], "forced": expected}
            found = runtime.answer(sample)
            logits = found["logits"].astype(np.float64)
            shifted = logits - logits.max(1, keepdims=True)
            self.rows.append(shifted - np.log(np.exp(shifted).sum(1, keepdims=True)))
            self.logits.append(logits)
            self.exact.append(found["tokens"].tolist() == expected + end)
        runtime.close()
        log.take()


def interval(per_sample, weights, rng):
    """Mean of `per_sample` over `weights` (sums of both), and its interval."""
    drawn = rng.integers(0, len(per_sample), (RESAMPLINGS, len(per_sample)))
    means = per_sample[drawn].sum(1) / weights[drawn].sum(1)
    return per_sample.sum() / weights.sum(), *np.percentile(means, [2.5, 97.5])


def figures(said, reference):
    """KLD, share of rows with the same best token, share of samples answered as expected (each with its interval), and the error of the logits."""
    rows = np.array([len(r) for r in said.rows], np.float64)
    kld = np.array([(np.exp(p) * (p - q)).sum() for p, q in zip(reference.rows, said.rows)])
    same = np.array([(p.argmax(1) == q.argmax(1)).sum() for p, q in zip(reference.rows, said.rows)], np.float64)
    exact, ones = np.array(said.exact, np.float64), np.ones(len(rows))
    ours, theirs = np.concatenate(said.logits), np.concatenate(reference.logits)
    error = np.sqrt(((ours - theirs) ** 2).sum() / (theirs**2).sum())
    found = [interval(values, weights, np.random.default_rng(0)) for values, weights in ((kld, rows), (same, rows), (exact, ones))]
    return found, error


def line(name, said, reference, nearest):
    (kld, same, exact), error = figures(said, reference)
    percent = lambda i: f"{100 * i[0]:.1f} ({100 * i[1]:.1f} - {100 * i[2]:.1f})"
    ratio = "" if nearest is None else f"{kld[0] / nearest:.2f}"
    sizes = f"{said.bytes['model'] / 1e6:.2f} + {said.bytes['mmproj'] / 1e6:.2f}"
    text = f"| {name} | {sizes} | {kld[0]:.1e} ({kld[1]:.1e} - {kld[2]:.1e}) | {ratio} | {percent(same)} | {error:.1e} | {percent(exact)} |"
    return text, kld[0]


def table(args, library, log, name, model, samples):
    """The table of one model, printed as it grows."""
    lines = [f"### {TITLES[name]}", "", "| | MB, text + mmproj | KLD against F16 | of nearest's | same best token, % | logits off by | right, % |", "|---|---|---|---|---|---|---|"]
    print("\n".join(lines), flush=True)

    def row(label, recipe, method, reference, nearest):
        folder = args.work / f"{name}-{recipe}-{method}"
        export(args.bin, model, folder, recipe, method)
        said = Said(library, log, folder, samples)
        text, kld = line(label, said, reference or said, nearest)
        lines.append(text)
        print(text, flush=True)
        return said, kld

    reference, _ = row("f16", "f16", None, None, None)
    for recipe in args.recipes.split(","):
        nearest = None
        for method in METHODS:
            _, kld = row(f"{recipe}, {method}", recipe, method, reference, nearest)
            nearest = kld if method == "nearest" else nearest
    return "\n".join(lines)


def main():
    args = parse()
    if not args.bin.is_file():
        sys.exit(f"error: there is no program {args.bin}; build it with cargo build --release, or name it with --bin")
    args.bin, args.work = args.bin.resolve(), args.work.resolve()
    args.work.mkdir(parents=True, exist_ok=True)
    samples = questions(args.samples)
    library, log = llama_library.load()
    models = (("natural", FIXTURE), ("planted", twin(args.work)))
    tables = [table(args, library, log, name, model, samples) for name, model in models]
    if args.write:
        path = REPOSITORY / "docs" / "accuracy.md"
        before, rest = path.read_text().split(MARKS[0])
        path.write_text(before + MARKS[0] + "\n\n" + "\n\n".join(tables) + "\n\n" + MARKS[1] + rest.split(MARKS[1])[1])


if __name__ == "__main__":
    main()
