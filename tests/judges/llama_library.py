"""The C API of llama.cpp by ctypes: the structs and functions that the judges use, and its log.

The functions come from the extension module of the PyPI wheel `xllamacpp`, which exports all of ggml, llama and mtmd. Structs follow
`include/llama.h` and `tools/mtmd/mtmd.h`. Of the parameter structs only the beginning is spelled out, up to the last field that is set here;
what follows is kept as bytes, as the library's own `*_default_params()` filled it in. They are passed last and in memory, so a longer struct
than the library's does no harm. `check_layout` compares all spelled out fields with their documented defaults before anything is run: a
library with another layout is refused and not fed nonsense.
"""

import ctypes as c
import glob
import importlib.util
import os

FLASH_AUTO, FLASH_OFF = -1, 0
F32, F16 = 0, 1
LEVELS = {0: "none", 1: "debug", 2: "info", 3: "warn", 4: "error"}
CONTINUED = 5
TEXT_CHUNK, IMAGE_CHUNK = 0, 1
# Bytes behind the spelled out fields; the largest struct of the headers is 200 bytes long.
REST = 512

LOG_CALLBACK = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)


class ModelParams(c.Structure):
    """The beginning of `llama_model_params`."""

    _fields_ = [
        ("devices", c.c_void_p),
        ("tensor_buft_overrides", c.c_void_p),
        ("n_gpu_layers", c.c_int32),
        ("split_mode", c.c_int),
        ("load_mode", c.c_int),
        ("lazy_mode", c.c_int),
        ("main_gpu", c.c_int32),
        ("tensor_split", c.c_void_p),
        ("progress_callback", c.c_void_p),
        ("progress_callback_user_data", c.c_void_p),
        ("kv_overrides", c.c_void_p),
        ("vocab_only", c.c_bool),
        ("check_tensors", c.c_bool),
        ("use_extra_bufts", c.c_bool),
        ("rest", c.c_char * REST),
    ]


class ContextParams(c.Structure):
    """The beginning of `llama_context_params`."""

    _fields_ = [
        ("n_ctx", c.c_uint32),
        ("n_batch", c.c_uint32),
        ("n_ubatch", c.c_uint32),
        ("n_seq_max", c.c_uint32),
        ("n_rs_seq", c.c_uint32),
        ("n_outputs_max", c.c_uint32),
        ("n_outputs_max_per_seq", c.c_uint32),
        ("n_threads", c.c_int32),
        ("n_threads_batch", c.c_int32),
        ("ctx_type", c.c_int),
        ("rope_scaling_type", c.c_int),
        ("pooling_type", c.c_int),
        ("attention_type", c.c_int),
        ("flash_attn_type", c.c_int),
        ("rope_freq_base", c.c_float),
        ("rope_freq_scale", c.c_float),
        ("yarn_ext_factor", c.c_float),
        ("yarn_attn_factor", c.c_float),
        ("yarn_beta_fast", c.c_float),
        ("yarn_beta_slow", c.c_float),
        ("yarn_orig_ctx", c.c_uint32),
        ("defrag_thold", c.c_float),
        ("cb_eval", c.c_void_p),
        ("cb_eval_user_data", c.c_void_p),
        ("type_k", c.c_int),
        ("type_v", c.c_int),
        ("rest", c.c_char * REST),
    ]


class VisionParams(c.Structure):
    """The beginning of `mtmd_context_params`."""

    _fields_ = [
        ("use_gpu", c.c_bool),
        ("device", c.c_void_p),
        ("print_timings", c.c_bool),
        ("n_threads", c.c_int),
        ("image_marker", c.c_char_p),
        ("media_marker", c.c_char_p),
        ("flash_attn_type", c.c_int),
        ("warmup", c.c_bool),
        ("image_min_tokens", c.c_int),
        ("image_max_tokens", c.c_int),
        ("rest", c.c_char * REST),
    ]


class Batch(c.Structure):
    """`llama_batch`."""

    _fields_ = [
        ("n_tokens", c.c_int32),
        ("token", c.POINTER(c.c_int32)),
        ("embd", c.POINTER(c.c_float)),
        ("pos", c.POINTER(c.c_int32)),
        ("n_seq_id", c.POINTER(c.c_int32)),
        ("seq_id", c.POINTER(c.POINTER(c.c_int32))),
        ("logits", c.POINTER(c.c_int8)),
    ]


class InputText(c.Structure):
    """`mtmd_input_text`."""

    _fields_ = [("text", c.c_char_p), ("text_len", c.c_size_t), ("add_special", c.c_bool), ("parse_special", c.c_bool)]


# Defaults of the spelled out fields, from `llama_context_default_params` and the two others (src/llama-context.cpp, src/llama-model.cpp,
# tools/mtmd/mtmd.cpp). Pointers that are null read as None.
DEFAULTS = {
    ModelParams: {
        "devices": None,
        "tensor_buft_overrides": None,
        "n_gpu_layers": -1,
        "split_mode": 1,
        "load_mode": -1,
        "lazy_mode": 1,
        "main_gpu": 0,
        "tensor_split": None,
        "progress_callback": None,
        "progress_callback_user_data": None,
        "kv_overrides": None,
        "vocab_only": False,
        "check_tensors": False,
        "use_extra_bufts": True,
    },
    ContextParams: {
        "n_ctx": 512,
        "n_batch": 2048,
        "n_ubatch": 512,
        "n_seq_max": 1,
        "n_rs_seq": 0,
        "n_outputs_max": 0,
        "n_outputs_max_per_seq": 1,
        "n_threads": 4,
        "n_threads_batch": 4,
        "ctx_type": 0,
        "rope_scaling_type": -1,
        "pooling_type": -1,
        "attention_type": -1,
        "flash_attn_type": -1,
        "rope_freq_base": 0.0,
        "rope_freq_scale": 0.0,
        "yarn_ext_factor": -1.0,
        "yarn_attn_factor": -1.0,
        "yarn_beta_fast": -1.0,
        "yarn_beta_slow": -1.0,
        "yarn_orig_ctx": 0,
        "defrag_thold": -1.0,
        "cb_eval": None,
        "cb_eval_user_data": None,
        "type_k": F16,
        "type_v": F16,
    },
    VisionParams: {
        "use_gpu": True,
        "device": None,
        "print_timings": True,
        "n_threads": 4,
        "image_marker": None,
        "media_marker": b"<__media__>",
        "flash_attn_type": -1,
        "warmup": True,
        "image_min_tokens": -1,
        "image_max_tokens": -1,
    },
}

# Result and arguments of every function that is called.
SIGNATURES = {
    "llama_version": (c.c_char_p, []),
    "llama_backend_init": (None, []),
    "llama_log_set": (None, [LOG_CALLBACK, c.c_void_p]),
    "llama_model_default_params": (ModelParams, []),
    "llama_context_default_params": (ContextParams, []),
    "llama_model_load_from_file": (c.c_void_p, [c.c_char_p, ModelParams]),
    "llama_model_free": (None, [c.c_void_p]),
    "llama_init_from_model": (c.c_void_p, [c.c_void_p, ContextParams]),
    "llama_free": (None, [c.c_void_p]),
    "llama_model_get_vocab": (c.c_void_p, [c.c_void_p]),
    "llama_model_n_embd_inp": (c.c_int32, [c.c_void_p]),
    "llama_vocab_n_tokens": (c.c_int32, [c.c_void_p]),
    "llama_tokenize": (c.c_int32, [c.c_void_p, c.c_char_p, c.c_int32, c.POINTER(c.c_int32), c.c_int32, c.c_bool, c.c_bool]),
    "llama_get_memory": (c.c_void_p, [c.c_void_p]),
    "llama_memory_clear": (None, [c.c_void_p, c.c_bool]),
    "llama_decode": (c.c_int32, [c.c_void_p, Batch]),
    "llama_get_logits_ith": (c.POINTER(c.c_float), [c.c_void_p, c.c_int32]),
    "mtmd_helper_log_set": (None, [LOG_CALLBACK, c.c_void_p]),
    "mtmd_context_params_default": (VisionParams, []),
    "mtmd_init_from_file": (c.c_void_p, [c.c_char_p, c.c_void_p, VisionParams]),
    "mtmd_free": (None, [c.c_void_p]),
    "mtmd_bitmap_init": (c.c_void_p, [c.c_uint32, c.c_uint32, c.c_char_p]),
    "mtmd_bitmap_free": (None, [c.c_void_p]),
    "mtmd_input_chunks_init": (c.c_void_p, []),
    "mtmd_input_chunks_free": (None, [c.c_void_p]),
    "mtmd_input_chunks_size": (c.c_size_t, [c.c_void_p]),
    "mtmd_input_chunks_get": (c.c_void_p, [c.c_void_p, c.c_size_t]),
    "mtmd_input_chunk_get_type": (c.c_int, [c.c_void_p]),
    "mtmd_input_chunk_get_tokens_text": (c.POINTER(c.c_int32), [c.c_void_p, c.POINTER(c.c_size_t)]),
    "mtmd_input_chunk_get_n_tokens": (c.c_size_t, [c.c_void_p]),
    "mtmd_tokenize": (c.c_int32, [c.c_void_p, c.c_void_p, c.POINTER(InputText), c.POINTER(c.c_void_p), c.c_size_t]),
    "mtmd_encode_chunk": (c.c_int32, [c.c_void_p, c.c_void_p]),
    "mtmd_get_output_embd": (c.POINTER(c.c_float), [c.c_void_p]),
    "mtmd_helper_decode_image_chunk": (
        c.c_int32,
        [c.c_void_p, c.c_void_p, c.c_void_p, c.POINTER(c.c_float), c.c_int32, c.c_int32, c.c_int32, c.POINTER(c.c_int32), c.c_void_p, c.c_void_p],
    ),
}


class Log:
    """Lines that the library logged, by level; a line may come in several pieces."""

    def __init__(self):
        self.lines = []
        # The library keeps the address: this object must outlive it.
        self.callback = LOG_CALLBACK(self.add)

    def add(self, level, text, _user_data):
        text = text.decode(errors="replace")
        if self.lines and (level == CONTINUED or not self.lines[-1][1].endswith("\n")):
            self.lines[-1][1] += text
        else:
            self.lines.append([LEVELS.get(level, "info"), text])

    def take(self):
        """What was logged since the last call, as `[level, line]`."""
        lines, self.lines = self.lines, []
        return [[level, text.rstrip("\n")] for level, text in lines]

    def told(self):
        """Warnings and errors so far, as one text."""
        return "\n".join(text.rstrip("\n") for level, text in self.lines if level in ("warn", "error"))


def wheel_library():
    """Path of the shared library inside the wheel, without importing the Python package around it."""
    found = importlib.util.find_spec("xllamacpp")
    if found is None:
        raise RuntimeError("no package xllamacpp: install tests/judges/requirements.txt")
    paths = glob.glob(os.path.join(found.submodule_search_locations[0], "xllamacpp*.so"))
    if len(paths) != 1:
        raise RuntimeError(f"xllamacpp: expected one shared library, found {paths}")
    return paths[0]


def check_layout(library):
    """Refuses a library whose defaults are not those of the headers that the structs here follow."""
    for kind, get in [
        (ModelParams, library.llama_model_default_params),
        (ContextParams, library.llama_context_default_params),
        (VisionParams, library.mtmd_context_params_default),
    ]:
        found = get()
        for name, expected in DEFAULTS[kind].items():
            value = getattr(found, name)
            if value != expected:
                raise RuntimeError(f"{kind.__name__}.{name}: expected the default {expected!r}, found {value!r}: the header has changed")


def load():
    """The library, checked and started, and its log."""
    library, log = c.CDLL(wheel_library()), Log()
    for name, (result, arguments) in SIGNATURES.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    check_layout(library)
    library.llama_log_set(log.callback, None)
    library.mtmd_helper_log_set(log.callback, None)
    library.llama_backend_init()
    return library, log
