"""Adapters (LoRA) as they are published: PEFT folders and GGUF files, read under the names that our graphs have."""
