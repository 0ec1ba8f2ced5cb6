//! Exported GGUF files in an unmodified llama.cpp.
