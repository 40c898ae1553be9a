"""GGUF files as a source of weights: header, metadata, blocks, names and conventions."""
