"""Text to tokens and back: tokenizers from GGUF and Hugging Face files, and detokenizing as tokens arrive."""
