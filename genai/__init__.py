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
    from genai.decoding.logprobs import TokenLogprob
    from genai.errors import GenAIError
    from genai.llm.async_llm import AsyncLLM
    from genai.llm.generator import Generator
    from genai.llm.llm import LLM, load
    from genai.llm.results import Choice, Chunk, Drafts, Generation, Timings, Usage
    from genai.options.generation_config import BeamSearchConfig, ConstraintConfig, GenerationConfig, SamplingConfig

__all__ = [
    "LLM",
    "AsyncLLM",
    "BeamSearchConfig",
    "Choice",
    "Chunk",
    "ConstraintConfig",
    "Drafts",
    "EngineConfig",
    "GenAIError",
    "Generation",
    "GenerationConfig",
    "Generator",
    "ModelConfig",
    "SamplingConfig",
    "Timings",
    "TokenLogprob",
    "Usage",
    "load",
]

_HOMES = {
    "genai.llm.async_llm": ("AsyncLLM",),
    "genai.decoding.logprobs": ("TokenLogprob",),
    "genai.llm.generator": ("Generator",),
    "genai.config": ("EngineConfig", "ModelConfig"),
    "genai.errors": ("GenAIError",),
    "genai.options.generation_config": ("BeamSearchConfig", "ConstraintConfig", "GenerationConfig", "SamplingConfig"),
    "genai.llm.llm": ("LLM", "load"),
    "genai.llm.results": ("Choice", "Chunk", "Drafts", "Generation", "Timings", "Usage"),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(module), name)
    raise AttributeError(f"module 'genai' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
