"""Prefill and decode of the exported decoder in ONNX Runtime, on a synthetic checkpoint of Qwen2-VL-2B's sizes with 4 layers.

    python benches/prefill/prefill.py --bin target/release/mquant-export [--write]

Makes the checkpoint and one export per form under `target/prefill` (once per program), times all forms in one process in interleaved
rounds, profiles each, and loads each in a process of its own. Prints the tables; `--write` puts them into docs/performance.md, too. It is a
bench: targets that are missed are printed, and the exit code is 0. Python: the virtual environment of the tests (`./test.sh` makes it).
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

import checkpoint
import decoder
import exports
import kernels
import tables

REPOSITORY = Path(__file__).resolve().parents[2]
LOADS = 3


def note(text):
    print(f"[{os.getloadavg()[0]:5.1f} load] {text}", file=sys.stderr, flush=True)


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bin", type=Path, default=REPOSITORY / "target/release/mquant-export", help="the program that exports")
    parser.add_argument("--work", type=Path, default=REPOSITORY / "target/prefill", help="folder of checkpoint and exports (4 GB)")
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--visual", type=int, default=1024, help="visual tokens of the prompt")
    parser.add_argument("--text", type=int, default=64, help="text tokens of the prompt")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="intra-op threads [default: all cores]")
    parser.add_argument("--rounds", type=int, default=7, help="rounds over all exports")
    parser.add_argument("--tokens", type=int, default=8, help="single tokens per round and export")
    parser.add_argument("--profile-runs", type=int, default=5)
    parser.add_argument("--samples", type=int, default=8, help="calibration samples")
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    parser.add_argument("--only", help="keys of exports, with commas: " + ",".join(v.key for v in exports.VARIANTS))
    parser.add_argument("--nodes", type=int, default=0, help="also print this many of the costliest nodes of each export")
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/performance.md")
    return parser.parse_args()


def make_exports(args, variants):
    """Folders by key, and what was left out with the reason."""
    args.work.mkdir(parents=True, exist_ok=True)
    source = args.work / f"checkpoint-{args.layers}-{args.seed}-{checkpoint.VERSION}"
    if not source.is_dir():
        note("writing the checkpoint")
        checkpoint.write(source, args.layers, args.seed)
    folders, skipped = {}, {}
    for variant in variants:
        try:
            folders[variant.key] = exports.make(variant, source, args.bin.resolve(), args.work, args.samples)
            note(f"exported {variant.key}")
        except exports.Skipped as reason:
            skipped[variant.key] = str(reason)
            note(f"skipped {variant.key}: {reason}")
    return folders, skipped


def check(decoders):
    """Says how far each export's logits are from the first one's; not a figure of quality, since the weights are drawn."""
    reference = None
    for key, one in decoders.items():
        one.prefill()
        one.decode()
        logits = one.last_logits(one.decode_inputs)
        if not np.isfinite(logits).all():
            raise RuntimeError(f"{key}: logits are not finite")
        reference = logits if reference is None else reference
        note(f"{key}: logits differ by {np.linalg.norm(logits - reference) / np.linalg.norm(reference):.3f}")


def run_rounds(args, folders):
    note("creating all sessions")
    decoders = {key: decoder.Decoder(f, args.threads, args.visual, args.text) for key, f in folders.items()}
    check(decoders)
    note(f"{args.rounds} rounds")
    return decoder.rounds(decoders, args.rounds, args.tokens)


def run_profiles(args, folders):
    """{step: {key: {(op, node): ms}}}"""
    found = {}
    for step in ("prefill", "decode"):
        for key, folder in folders.items():
            note(f"profile of {step}, {key}")
            nodes = decoder.profile(folder, args.threads, args.visual, args.text, args.work, args.profile_runs, step)
            found.setdefault(step, {})[key] = nodes
            for (op, name), ms in sorted(nodes.items(), key=lambda n: -n[1])[: args.nodes]:
                print(f"{ms:9.2f} ms  {op:24} {name}")
    return found


def run_loads(args, folders):
    """Median of LOADS processes per export, interleaved: {key: {seconds, peak, bare}}."""
    runs = {key: [] for key in folders}
    for _ in range(LOADS):
        for key, folder in folders.items():
            command = [sys.executable, Path(__file__).with_name("load.py"), folder / "model.onnx", str(args.threads)]
            runs[key].append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    return {k: {part: float(np.median([r[part] for r in v])) for part in v[0]} for k, v in runs.items()}


def main():
    args = parse()
    if not args.bin.is_file():
        sys.exit(f"error: there is no program {args.bin}; build it with cargo build --release, or name it with --bin")
    wanted = args.only.split(",") if args.only else [v.key for v in exports.VARIANTS]
    variants = [v for v in exports.VARIANTS if v.key in wanted]
    folders, skipped = make_exports(args, variants)
    if not folders:
        sys.exit("error: nothing to measure: every export was skipped")
    timed = {v.key: folders[v.key] for v in variants if v.timed and v.key in folders}
    load_before = os.getloadavg()[0]
    measured = {
        "times": run_rounds(args, timed),
        "products": kernels.measure(args.visual + args.text),
        "loads": run_loads(args, folders),
        "profiles": run_profiles(args, timed),
        "sizes": {key: exports.size(folder) for key, folder in folders.items()},
        "scales": {key: exports.two_scales(folder) for key, folder in timed.items()},
        "skipped": skipped,
        "load_average": (load_before, os.getloadavg()[0]),
        "threads": args.threads,
        "shape": (args.layers, args.visual, args.text, args.rounds, args.tokens),
    }
    text = tables.render(measured)
    print(text)
    if args.json:
        args.json.write_text(json.dumps(tables.plain(measured), indent=1) + "\n")
    if args.write:
        tables.write(REPOSITORY / "docs" / "performance.md", text)


if __name__ == "__main__":
    main()
