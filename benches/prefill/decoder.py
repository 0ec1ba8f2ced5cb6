"""An exported decoder in ONNX Runtime: its session, its inputs for one prompt, and single runs of prefill and of one decoded token."""

import json
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import onnxruntime as ort

import checkpoint

# Of the drawn input rows; another seed than the weights'.
INPUT_SEED = 1


def session(path, threads, profile=None):
    """A session of `path`: default options but for the number of threads; `profile` is the start of a profile's file name."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def prompt(visual, text):
    """Input rows [1, visual + text + 1, hidden + 1] and positions [3, 1, visual + text + 1] of one image, its question and one answered token.

    The last channel is the modality; the image is as square as its rows allow, and text goes on after its largest position.
    """
    rng = np.random.default_rng(INPUT_SEED)
    rows = np.concatenate([checkpoint.visual_rows(rng, visual), checkpoint.text_rows(rng, text + 1)])
    modality = np.repeat(np.float32([1, 0]), [visual, text + 1])
    height = next(h for h in range(int(visual**0.5), 0, -1) if visual % h == 0)
    width = visual // height
    i = np.arange(visual)
    image = np.stack([np.zeros_like(i), i // width, i % width])
    after = max(height, width) + np.arange(text + 1)
    positions = np.concatenate([image, np.tile(after, (3, 1))], axis=1)
    return np.column_stack([rows, modality])[None], positions[:, None]


class Decoder:
    """One export, with the cache of one prompt in a buffer that past and present share, as onnxruntime-genai runs it."""

    def __init__(self, folder, threads, visual, text, profile=None):
        self.session = session(Path(folder) / "model.onnx", threads, profile)
        shapes = {i.name: i.shape for i in self.session.get_inputs()}
        self.layers = sum(name.endswith(".key") for name in shapes)
        _, heads, _, size = shapes["past_key_values.0.key"]
        self.length = visual + text
        self.cache = {
            f"{layer}.{part}": ort.OrtValue.ortvalue_from_numpy(np.zeros((1, heads, self.length + 1, size), np.float32))
            for layer in range(self.layers)
            for part in ("key", "value")
        }
        rows, positions = prompt(visual, text)
        # An export without two scales has no modality channel.
        rows = rows[..., : shapes["inputs_embeds"][-1]]
        self.prefill_inputs = self._bind(rows[:, :-1], positions[..., :-1], self.length)
        self.decode_inputs = self._bind(rows[:, -1:], positions[..., -1:], self.length + 1)

    def _bind(self, rows, positions, total):
        binding = self.session.io_binding()
        binding.bind_cpu_input("inputs_embeds", np.ascontiguousarray(rows, np.float32))
        binding.bind_cpu_input("attention_mask", np.ones((1, total), np.int64))
        binding.bind_cpu_input("position_ids", np.ascontiguousarray(positions, np.int64))
        for name, value in self.cache.items():
            binding.bind_ortvalue_input(f"past_key_values.{name}", value)
            binding.bind_ortvalue_output(f"present.{name}", value)
        binding.bind_output("logits")
        return binding

    def prefill(self):
        """Runs the prompt; the cache holds it afterwards."""
        self.session.run_with_iobinding(self.prefill_inputs)

    def decode(self):
        """Runs one token after the prompt, always the same one."""
        self.session.run_with_iobinding(self.decode_inputs)

    def last_logits(self, binding):
        """Logits of the last row of the last run of `binding`."""
        return binding.copy_outputs_to_cpu()[-1][0, -1]


def clocked(run):
    """Wall and processor milliseconds of one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    run()
    return (time.perf_counter() - wall) * 1e3, (time.process_time() - cpu) * 1e3


def rounds(decoders, count, tokens):
    """Times of every decoder: `count` rounds over all of them, each with one prefill and then `tokens` single tokens.

    Rounds are interleaved, so that a slow minute of the machine falls on all rows. The first round is not counted.
    """
    times = {key: {"prefill": [], "decode": []} for key in decoders}
    for number in range(count + 1):
        for key, decoder in decoders.items():
            prefill = clocked(decoder.prefill)
            decoder.decode()
            decode = [clocked(decoder.decode) for _ in range(tokens)]
            if number > 0:
                times[key]["prefill"].append(prefill)
                times[key]["decode"].extend(decode)
    return times


def profile(folder, threads, visual, text, work, runs, step):
    """Milliseconds of every node in one prefill or decode (`step`), the median of `runs`: {(op type, node name): ms}."""
    decoder = Decoder(folder, threads, visual, text, work / "profile")
    decoder.prefill()
    for _ in range(runs + 1):
        getattr(decoder, step)()
    path = Path(decoder.session.end_profiling())
    nodes = defaultdict(list)
    for event in json.loads(path.read_text()):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            nodes[event["args"]["op_name"], event["name"].removesuffix("_kernel_time")].append(event["dur"] / 1e3)
    path.unlink()
    return {node: float(np.median(times[-runs:])) for node, times in nodes.items()}
