"""Stands in for `openvino_genai` and `openvino`: remembers the options it is called with, and says the alphabet."""

from __future__ import annotations

import copy
from collections.abc import Callable
from enum import Enum
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

EOS = 257


class StopCriteria(Enum):
    EARLY, HEURISTIC, NEVER = range(3)


class GenerationFinishReason(Enum):
    NONE, STOP, LENGTH = range(3)


class GenerationConfig:
    """Its fields, as of 2026.4; no others can be set."""

    __slots__ = (
        *("max_new_tokens", "max_length", "min_new_tokens", "ignore_eos", "eos_token_id", "stop_token_ids"),
        *("stop_strings", "num_beams", "num_beam_groups", "diversity_penalty", "length_penalty", "stop_criteria"),
        *("num_return_sequences", "no_repeat_ngram_size", "do_sample", "rng_seed", "temperature", "top_k", "top_p"),
        *("min_p", "repetition_penalty", "presence_penalty", "frequency_penalty", "structured_output_config"),
    )

    def __init__(self) -> None:
        most = 2**64 - 1
        self.max_new_tokens = self.max_length = self.top_k = self.no_repeat_ngram_size = most
        self.min_new_tokens = self.rng_seed = 0
        self.ignore_eos = self.do_sample = False
        self.eos_token_id, self.stop_token_ids = EOS, {EOS}
        self.stop_strings: set[str] = set()
        self.num_beams = self.num_beam_groups = self.num_return_sequences = 1
        self.temperature = self.top_p = self.repetition_penalty = self.length_penalty = 1.0
        self.min_p = self.presence_penalty = self.frequency_penalty = self.diversity_penalty = 0.0
        self.stop_criteria = StopCriteria.HEURISTIC
        self.structured_output_config: object = None

    def validate(self) -> None:
        if self.max_new_tokens == 0:
            raise RuntimeError("Check failed:\n'max_new_tokens' must be greater than 0\n")


class Tokenizer:
    def encode(self, text: str, add_special_tokens: bool = True) -> object:
        ids = [*([256] if add_special_tokens else []), *text.encode()]
        return SimpleNamespace(input_ids=SimpleNamespace(data=np.asarray([ids])))

    def decode(self, ids: list[int]) -> str:
        return bytes(token for token in ids if token < 256).decode()

    def apply_chat_template(self, messages: list[dict[str, str]], add_generation_prompt: bool) -> str:
        assert add_generation_prompt
        return "".join(f"<{message['role']}>{message['content']}" for message in messages)


class LLMPipeline:
    """Says abcd, as often as asked."""

    made: LLMPipeline
    own = GenerationConfig()

    def __init__(self, models_path: str, device: str, properties: dict[str, object]) -> None:
        if models_path == "missing":
            raise RuntimeError("Could not find a model\n  in 'missing'")
        self.made_of = (models_path, device, properties)
        self.calls: list[tuple[list[int], GenerationConfig]] = []
        LLMPipeline.made = self

    def get_tokenizer(self) -> Tokenizer:
        return Tokenizer()

    def get_generation_config(self) -> GenerationConfig:
        return copy.copy(self.own)

    def generate(
        self, tokens: np.ndarray, options: GenerationConfig, streamer: Callable[[str], bool] | None = None
    ) -> object:
        self.calls.append((tokens[0].tolist(), options))
        said: list[int] = []
        for token in b"abcd"[: options.max_new_tokens]:
            said.append(token)
            if streamer is not None and streamer(chr(token)):
                streamer("what was decoded beside it")  # as 2026.4 does
                break
        reason = GenerationFinishReason.LENGTH if len(said) == options.max_new_tokens else GenerationFinishReason.STOP
        count = options.num_return_sequences
        return SimpleNamespace(tokens=[said] * count, finish_reasons=[reason] * count)


def modules() -> dict[str, ModuleType]:
    """What to put into `sys.modules`."""
    genai, openvino = ModuleType("openvino_genai"), ModuleType("openvino")
    given: dict[str, Any] = {
        "LLMPipeline": LLMPipeline,
        "StopCriteria": StopCriteria,
        "GenerationFinishReason": GenerationFinishReason,
        "StructuredOutputConfig": lambda **grammar: grammar,
    }
    vars(genai).update(given)
    vars(openvino).update(Tensor=np.asarray, Core=lambda: SimpleNamespace(available_devices=["CPU", "GPU.0"]))
    return {"openvino_genai": genai, "openvino": openvino}
