"""Text generation from ONNX decoder models, with a KV cache that standard operators update in place.

    import genai

    llm = genai.load("smollm2-135m-instruct")
    print(llm.generate("The three primary colours are", max_new_tokens=48).text)

These names are public; everything else may change. They are imported when first used, so that `import genai` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genai.config import EngineConfig, ModelConfig
    from genai.errors import GenAIError
    from genai.generation_config import BeamSearchConfig, ConstraintConfig, GenerationConfig, SamplingConfig
    from genai.llm import LLM, load
    from genai.writer import Chunk, Generation, Timings, Usage

__all__ = [
    "LLM",
    "BeamSearchConfig",
    "Chunk",
    "ConstraintConfig",
    "EngineConfig",
    "GenAIError",
    "Generation",
    "GenerationConfig",
    "ModelConfig",
    "SamplingConfig",
    "Timings",
    "Usage",
    "load",
]

_HOMES = {
    "genai.config": ("EngineConfig", "ModelConfig"),
    "genai.errors": ("GenAIError",),
    "genai.generation_config": ("BeamSearchConfig", "ConstraintConfig", "GenerationConfig", "SamplingConfig"),
    "genai.llm": ("LLM", "load"),
    "genai.writer": ("Chunk", "Generation", "Timings", "Usage"),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'genai' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
