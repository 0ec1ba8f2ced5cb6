"""How fast a checkpoint becomes GGUF files, and in how much memory.

    python benches/gguf_throughput.py [--bin target/release/mquant-export] [--layers 11]

Makes a bf16 checkpoint with the sizes and names of Qwen2-VL-2B's decoder (1 GB at 11 layers; `benches/prefill/checkpoint.py`) under `target/gguf`, once,
exports it as it is and rounded to the nearest value, and copies its weight file with fsync before and after. Prints a table: input bytes over
seconds, the ratio to the faster copy, and the largest resident set of the program beside the bound of 3 times the largest tensor plus 200 MB. It is a
bench: a target that is missed is printed, and the exit code is 0. The input is in the page cache throughout. Python: the virtual environment of
the tests (`./test.sh` makes it).
"""

import argparse
import json
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY / "benches" / "prefill"))

import checkpoint  # noqa: E402  (lies beside)

RECIPES = ("bf16", "q8_0", "q4_0", "q4_k_m")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, default=REPOSITORY / "target/release/mquant-export", help="the program that exports")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "target/gguf", help="folder of checkpoint and exports (4 GB)")
    parser.add_argument("--layers", type=int, default=11, help="of the decoder, 94 MB each")
    parser.add_argument("--runs", type=int, default=2, help="runs per recipe; the fastest counts")
    return parser.parse_args()


def largest_tensor(weights):
    """Bytes of the largest tensor of a safetensors file."""
    with open(weights, "rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    return max(end - begin for t in header.values() if "data_offsets" in t for begin, end in [t["data_offsets"]])


def copied(source, target):
    """Seconds of a copy that is on the disk when it ends."""
    begin = time.monotonic()
    shutil.copyfile(source, target)
    with open(target, "rb") as file:
        os.fsync(file.fileno())
    seconds = time.monotonic() - begin
    target.unlink()
    return seconds


def exported(binary, source, out, recipe):
    """Seconds and the largest resident set in bytes of one export."""
    command = [binary, source, "--format", "gguf", "--recipe", recipe, "--method", "nearest", "--quiet", "-o", out]
    begin = time.monotonic()
    child = subprocess.Popen([str(c) for c in command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    told = child.stderr.read()
    _, status, usage = os.wait4(child.pid, 0)
    seconds = time.monotonic() - begin
    if status != 0:
        sys.exit(f"error: {recipe} failed:\n{told.decode()}")
    return seconds, usage.ru_maxrss * 1024


def main():
    args = parse()
    if not args.bin.is_file():
        sys.exit(f"error: there is no program {args.bin}; build it with cargo build --release, or name it with --bin")
    args.work.mkdir(parents=True, exist_ok=True)
    source = args.work / f"checkpoint-{args.layers}-{checkpoint.VERSION}"
    if not source.is_dir():
        # In a process of its own: what this one once held would be counted as a child's, which begins as a copy of it.
        writer = multiprocessing.get_context("spawn").Process(target=checkpoint.write, args=(source, args.layers, 0))
        writer.start()
        writer.join()
        if writer.exitcode != 0:
            sys.exit("error: the checkpoint could not be written")
    weights = source / "model.safetensors"
    size, largest, copy = weights.stat().st_size, largest_tensor(weights), args.work / "copy"
    copies = [copied(weights, copy)]
    rows = []
    for recipe in RECIPES:
        out, found = args.work / f"out-{recipe}", []
        for _ in range(args.runs):
            shutil.rmtree(out, ignore_errors=True)
            found.append(exported(args.bin, source, out, recipe))
        written = sum(p.stat().st_size for p in out.glob("*.gguf"))
        shutil.rmtree(out)
        rows.append((recipe, written, min(s for s, _ in found), max(r for _, r in found)))
    copies.append(copied(weights, copy))
    bound = 3 * largest + 200e6
    print(f"{size / 1e9:.2f} GB of bf16, largest tensor {largest / 1e6:.0f} MB, {len(os.sched_getaffinity(0))} cores")
    print(f"copy with fsync: {size / min(copies) / 1e9:.2f} GB/s (before {copies[0]:.2f} s, after {copies[1]:.2f} s); memory bound {bound / 1e6:.0f} MB\n")
    print("| recipe | file GB | seconds | GB/s of input | of the copy's speed | peak MB |")
    print("|---|---|---|---|---|---|")
    for recipe, written, seconds, peak in rows:
        over = " (over the bound)" if peak > bound else ""
        print(f"| {recipe} | {written / 1e9:.2f} | {seconds:.2f} | {size / seconds / 1e9:.2f} | {min(copies) / seconds:.2f} | {peak / 1e6:.0f}{over} |")


if __name__ == "__main__":
    main()
