"""What each ONNX form costs to load and run: session creation, peak memory, size of the files, a prompt, one token, distance from float inputs.

usage: forms.py BINARY FOLDER [--layers N] [--rows N] [--runs N]

BINARY is `mquant-export`; FOLDER is made and takes a few GB. Run it with a Python that has numpy, onnx and onnxruntime (the judges' one). The model has
the decoder layers of Qwen2-VL-2B (1536 wide, MLP 8960, 12 heads over 2) with random weights and the small tower and vocabulary of the fixture `qwen2_vl`.
Weights are rounded to the nearest code, so nothing is calibrated; rounded inputs have a scale per row, which runs the kernels of static scales.

Every figure is taken in a process of its own, the best of the runs. Peak is VmHWM when the session of model.onnx exists, `idle` VmRSS then; both include
the interpreter (printed first). The last column is the root mean square distance of the logits from those of the same codes with float inputs and float
arithmetic (the first case with these weights), over the root mean square of the latter.
"""

import argparse
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import time

FIXTURE = pathlib.Path(__file__).resolve().parent.parent / "fixtures" / "qwen2_vl"
WIDTH, MLP, HEADS, KV, HEAD = 1536, 8960, 12, 2, 128

# Name, weights, inputs, flags, accuracy level in place of the written one.
CASES = [
    ("weight-only 128, int8-gemm, store int8", "int4/128", "float", ["--form", "int8-gemm", "--store", "int8"], None),
    ("weight-only 128, int8-gemm, store int4", "int4/128", "float", ["--form", "int8-gemm", "--store", "int4"], None),
    ("weight-only 128, matmulnbits", "int4/128", "float", ["--form", "matmulnbits"], None),
    ("rounded, int8-gemm ort, store int8", "int4/128", "dynamic", ["--store", "int8"], None),
    ("rounded, int8-gemm ort, store int4", "int4/128", "dynamic", ["--store", "int4"], None),
    ("rounded, int8-gemm standard, store int8", "int4/128", "dynamic", ["--ops", "standard", "--store", "int8"], None),
    ("rounded, int8-gemm standard, store int4", "int4/128", "dynamic", ["--ops", "standard", "--store", "int4"], None),
    ("weight-only 32, int8-gemm, store int8", "int4/32", "float", ["--form", "int8-gemm", "--store", "int8"], None),
    ("weight-only 32, matmulnbits", "int4/32", "float", ["--form", "matmulnbits"], None),
    ("weight-only 32, accuracy level 1", "int4/32", "float", ["--form", "matmulnbits"], 1),
    ("weight-only 32, accuracy level 0", "int4/32", "float", ["--form", "matmulnbits"], 0),
    ("weight-only 32, portable, ort", "int4/32", "float", ["--form", "portable"], None),
    ("weight-only 32, portable, standard", "int4/32", "float", ["--form", "portable", "--ops", "standard"], None),
]


def write_checkpoint(folder, layers):
    """A checkpoint of the fixture's tower and a decoder of `layers` layers, random bf16."""
    import numpy as np

    folder.mkdir(parents=True)
    for file in FIXTURE.iterdir():
        if file.suffix in (".json", ".txt") and "index" not in file.name:
            shutil.copy(file, folder)
    config = json.loads((FIXTURE / "config.json").read_text())
    config.update(hidden_size=WIDTH, intermediate_size=MLP, num_attention_heads=HEADS, num_key_value_heads=KV)
    config.update(num_hidden_layers=layers, max_window_layers=layers)
    config["rope_scaling"]["mrope_section"] = [16, 24, 24]
    config["vision_config"]["hidden_size"] = WIDTH
    (folder / "config.json").write_text(json.dumps(config))

    shapes = {}
    for file in sorted(FIXTURE.glob("model*.safetensors")):
        data = file.read_bytes()
        (n,) = struct.unpack("<Q", data[:8])
        header = json.loads(data[8 : 8 + n])
        shapes.update({k: v["shape"] for k, v in header.items() if k.startswith("visual.")})
    shapes["visual.merger.mlp.2.weight"] = [WIDTH, shapes["visual.merger.mlp.2.weight"][1]]
    shapes["visual.merger.mlp.2.bias"] = [WIDTH]
    shapes["model.embed_tokens.weight"] = [config["vocab_size"], WIDTH]
    shapes["model.norm.weight"] = [WIDTH]
    for i in range(layers):
        base = f"model.layers.{i}."
        for name, out, into in [
            ("self_attn.q_proj", HEADS * HEAD, WIDTH),
            ("self_attn.k_proj", KV * HEAD, WIDTH),
            ("self_attn.v_proj", KV * HEAD, WIDTH),
            ("self_attn.o_proj", WIDTH, HEADS * HEAD),
            ("mlp.gate_proj", MLP, WIDTH),
            ("mlp.up_proj", MLP, WIDTH),
            ("mlp.down_proj", WIDTH, MLP),
        ]:
            shapes[f"{base}{name}.weight"] = [out, into]
            if name[-6] in "qkv" and "self_attn" in name:
                shapes[f"{base}{name}.bias"] = [out]
        shapes[base + "input_layernorm.weight"] = [WIDTH]
        shapes[base + "post_attention_layernorm.weight"] = [WIDTH]

    header, at = {}, 0
    for name, shape in shapes.items():
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    draw = np.random.default_rng(0)
    with open(folder / "model.safetensors", "wb") as out:
        out.write(struct.pack("<Q", len(text)) + text)
        for name, shape in shapes.items():
            norm = len(shape) == 1 and not name.endswith("bias")
            values = draw.standard_normal(int(np.prod(shape)), dtype=np.float32)
            values = 1 + 0.1 * values if norm else values / (shape[1] ** 0.5 if len(shape) > 1 else 50)
            out.write((values.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16).tobytes())


def export(binary, checkpoint, out, weights, inputs, flags):
    recipe = {"schema_version": 1, "name": "bench", "description": "decoder alone, nearest codes"}
    plain = {"weights": "float", "activations": "float"}
    decoder = {"weights": weights, "activations": inputs}
    recipe["components"] = {"vision": plain, "projector": plain, "decoder": decoder}
    file = out.with_suffix(".yaml")
    file.write_text(json.dumps(recipe))
    subprocess.run([binary, checkpoint, "--format", "onnx", "--recipe", file, "-o", out, "-q", *flags], check=True, stdout=subprocess.DEVNULL)


def set_accuracy(out, level):
    import onnx

    path = str(out / "model.onnx")
    model = onnx.load(path, load_external_data=False)
    for node in model.graph.node:
        for attribute in node.attribute:
            if attribute.name == "accuracy_level":
                attribute.i = level
    onnx.save(model, path)


def memory():
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    read = lambda key: int(next(l for l in lines if l.startswith(key)).split()[1]) / 1000
    return read("VmHWM"), read("VmRSS")


def measure(out, rows):
    """In a process of its own: one session, its cost, and logits of fixed inputs."""
    import numpy as np
    import onnxruntime as ort

    before = memory()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    start = time.perf_counter()
    session = ort.InferenceSession(str(out / "model.onnx"), options)
    seconds = time.perf_counter() - start
    peak, idle = memory()
    width = next(i.shape[2] for i in session.get_inputs() if i.name == "inputs_embeds")
    draw = np.random.default_rng(1)

    def feed(n, past):
        embeds = draw.standard_normal((1, n, width), dtype=np.float32)
        fed = {"inputs_embeds": embeds, "attention_mask": np.ones((1, n + past), np.int64)}
        fed["position_ids"] = np.broadcast_to(np.arange(past, past + n), (3, 1, n)).astype(np.int64)
        for i in session.get_inputs():
            if i.name.startswith("past_key_values"):
                fed[i.name] = np.zeros((1, KV, past, HEAD), np.float32)
        return fed

    def run(n, past, times):
        fed, best = feed(n, past), 1e9
        for _ in range(times):
            start = time.perf_counter()
            found = session.run(["logits"], fed)[0]
            best = min(best, time.perf_counter() - start)
        return found, 1000 * best

    logits, prompt = run(rows, 0, 3)
    _, token = run(1, rows, 10)
    np.save(out / "logits.npy", logits)
    print(json.dumps({"base": before[0], "seconds": seconds, "peak": peak, "idle": idle, "prompt": prompt, "token": token}))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("binary")
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--measure", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        return measure(args.folder, args.rows)
    import numpy as np

    checkpoint = args.folder / "checkpoint"
    write_checkpoint(checkpoint, args.layers)
    references, printed = {}, False
    for i, (name, weights, inputs, flags, level) in enumerate(CASES):
        out = args.folder / f"case{i}"
        export(args.binary, checkpoint, out, weights, inputs, flags)
        if level is not None:
            set_accuracy(out, level)
        command = [sys.executable, __file__, args.binary, str(out), "--rows", str(args.rows), "--measure"]
        runs = [json.loads(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(args.runs)]
        best = {key: min(run[key] for run in runs) for key in runs[0]}
        if not printed:
            print(f"interpreter {best['base']:.0f} MB, {args.layers} layers, {args.rows} rows, ONNX Runtime on {os.cpu_count()} cores")
            print("| form | file MB | session s | peak MB | idle MB | prompt ms | token ms | distance |")
            print("|---|---|---|---|---|---|---|---|")
            printed = True
        size = sum(f.stat().st_size for f in out.glob("model.onnx*")) / 1e6
        found = np.load(out / "logits.npy").astype(np.float64)
        reference = references.setdefault(weights, found)
        distance = np.sqrt(np.mean((found - reference) ** 2) / np.mean(reference**2))
        figures = f"{size:.0f} | {best['seconds']:.2f} | {best['peak']:.0f} | {best['idle']:.0f} | {best['prompt']:.0f} | {best['token']:.1f}"
        print(f"| {name} | {figures} | {distance:.1e} |", flush=True)
        shutil.rmtree(out)
    shutil.rmtree(checkpoint)


if __name__ == "__main__":
    main()
