"""The measured figures as Markdown, and their place in docs/performance.md."""

import platform
from collections import Counter
from pathlib import Path

import numpy as np
import onnxruntime as ort

import exports
import kernels

BEGIN, END = "<!-- prefill -->", "<!-- /prefill -->"
TITLES = {v.key: v.title for v in exports.VARIANTS}
SHORT = {v.key: v.short for v in exports.VARIANTS}
# CPU flags that decide which int8 kernels ONNX Runtime takes.
FLAGS = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8", "asimddp", "i8mm")
# What is aimed at: slower export, faster export, the ratio of their prefill times, whether it is a floor.
TARGETS = (
    ("float", "msq", 4.0, "at least"),
    ("nbits", "msq", 3.0, "at least"),
    ("msq", "static", 1.35, "at most"),
    ("dynamic", "msq", 1.0, "more than"),
)
# Processor time over wall time and threads, below which other programs had too much of the machine.
FREE = 0.8
# Operators with less than this share in every export are summed up as "other".
SMALL = 0.01


def cpu():
    """Name of the processor and those of its flags that matter here."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines if ":" in line)
    fields = {name.strip(): value.strip() for name, value in fields.items()}
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    return fields.get("model name", platform.machine()), [f for f in FLAGS if f in flags]


def row(*cells):
    return "| " + " | ".join(str(c) for c in cells) + " |\n"


def head(*cells):
    return row(*cells) + "|" + "---|" * len(cells) + "\n"


def median(times, key, step):
    return float(np.median([wall for wall, _ in times[key][step]]))


def caption(measured):
    name, flags = cpu()
    layers, visual, text, rounds, tokens = measured["shape"]
    before, after = measured["load_average"]
    return (
        f"{name}, {measured['threads']} threads; int8 kernels by CPU flags: {', '.join(flags) or 'none known'}. "
        f"ONNX Runtime {ort.__version__}. {layers} layers, {visual} visual and {text} text tokens; {rounds} rounds, {tokens} single tokens "
        f"in each. Load average {before:.1f} before and {after:.1f} after (it includes this bench).\n"
    )


def occupation(steps):
    """Median of processor time / wall time of the prefills."""
    return float(np.median([cpu / wall for wall, cpu in steps["prefill"]]))


def warning(measured):
    """A sentence where the machine was not free."""
    least = min(occupation(steps) for steps in measured["times"].values())
    if least >= FREE * measured["threads"]:
        return ""
    return (
        f"**The machine was not free:** a row had {least:.2f} of {measured['threads']} threads. Times are too long, ratios near 1 mean nothing; "
        "measure again.\n"
    )


def times_table(measured):
    times = measured["times"]
    out = head("decoder", "two scales", "prefill ms, median (least)", "one token ms, median (least)", "processor time / wall time")
    for key, steps in times.items():
        cells = [TITLES[key], "{} of {}".format(*measured["scales"][key])]
        for step in ("prefill", "decode"):
            least = min(wall for wall, _ in steps[step])
            cells.append(f"{median(times, key, step):.1f} ({least:.1f})")
        cells.append(f"{occupation(steps):.2f}")
        out += row(*cells)
    return out


def met(ratio, target, kind):
    return {"at least": ratio >= target, "at most": ratio <= target, "more than": ratio > target}[kind]


def ratios_table(measured):
    """Medians over the rounds of the ratio within one round: what slows a whole round cancels."""
    times = measured["times"]
    out = head("ratio of times", "aim", "prefill", "", "its processor time", "one token")
    for slow, fast, target, kind in TARGETS:
        name, aim = f"{SHORT[slow]} / {SHORT[fast]}", f"{kind} {target:g}"
        if slow not in times or fast not in times:
            out += row(name, aim, "not measured", "", "", "")
            continue
        prefill, processor = np.median(np.divide(times[slow]["prefill"], times[fast]["prefill"]), axis=0)
        token, _ = np.median(np.divide(times[slow]["decode"], times[fast]["decode"]), axis=0)
        verdict = "PASS" if met(prefill, target, kind) else "FAIL"
        out += row(name, aim, f"{prefill:.2f}", verdict, f"{processor:.2f}", f"{token:.2f}")
    return out


def kernels_table(products):
    """Milliseconds of each product alone, and how many times as fast int8 is."""
    out = head("product", *(f"{k} ms" for k in kernels.KERNELS), "float / int8", "MatMulNBits / int8")
    whole = {k: sum(ms[k] for ms in products.values()) for k in kernels.KERNELS}
    for name, ms in (*products.items(), ("one layer", whole)):
        dense, packed, int8 = (ms[k] for k in kernels.KERNELS)
        out += row(name, *(f"{ms[k]:.1f}" for k in kernels.KERNELS), f"{dense / int8:.2f}", f"{packed / int8:.2f}")
    return out


def by_operator(nodes):
    total = Counter()
    for (op, _), ms in nodes.items():
        total[op] += ms
    return total


def shares_table(profiles):
    """Milliseconds and percent of the sum, one row per operator type."""
    sums = {key: by_operator(nodes) for key, nodes in profiles.items()}
    whole = {key: sum(s.values()) for key, s in sums.items()}
    ops = sorted({op for s in sums.values() for op in s}, key=lambda op: -max(sums[k][op] / whole[k] for k in sums))
    large = [op for op in ops if any(sums[k][op] / whole[k] >= SMALL for k in sums)]
    out = head("operator", *(SHORT[key] for key in sums))
    lines = [(op, {k: sums[k][op] for k in sums}) for op in large]
    lines.append(("other", {k: whole[k] - sum(sums[k][op] for op in large) for k in sums}))
    for name, ms in lines:
        out += row(name, *(f"{ms[k]:.2f} ({100 * ms[k] / whole[k]:.1f} %)" if ms[k] else "" for k in sums))
    return out + row("sum", *(f"{whole[k]:.2f}" for k in sums))


def loads_table(measured):
    out = head("decoder", "session s", "peak MiB", "files MB")
    for key, load in measured["loads"].items():
        size = measured["sizes"][key] / 1e6
        out += row(TITLES[key], f"{load['seconds']:.2f}", f"{load['peak'] - load['bare']:.0f}", f"{size:.0f}")
    return out


def render(measured):
    """All tables with their captions."""
    parts = [
        caption(measured),
        warning(measured),
        times_table(measured),
        ratios_table(measured),
        "The products of one layer alone, as many rows, one thread, processor time (least of several): the bound that the kernels set:\n",
        kernels_table(measured["products"]),
        "Prefill by operator, ms and share of the sum (profiler, median per node):\n",
        shares_table(measured["profiles"]["prefill"]),
        "One token by operator:\n",
        shares_table(measured["profiles"]["decode"]),
        "Loading, each in a process of its own (median of 3); the peak is what the session adds to Python with ONNX Runtime:\n",
        loads_table(measured),
    ]
    if measured["skipped"]:
        reasons = "; ".join(f"{TITLES[key]}: {reason}" for key, reason in measured["skipped"].items())
        parts.append(f"Left out: {reasons}.\n")
    return "\n".join(part for part in parts if part)


def plain(measured):
    """`measured` with keys that JSON allows."""
    profiles = {
        step: {key: [[op, name, ms] for (op, name), ms in nodes.items()] for key, nodes in by_key.items()}
        for step, by_key in measured["profiles"].items()
    }
    return measured | {"profiles": profiles, "cpu": cpu(), "onnxruntime": ort.__version__}


def write(path, text):
    """Replaces what stands between the markers in `path`."""
    before, begin, rest = path.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise RuntimeError(f"{path.name} must hold {BEGIN} and {END}, between which the tables go")
    path.write_text(f"{before}{BEGIN}\n{text}{END}{after}")
