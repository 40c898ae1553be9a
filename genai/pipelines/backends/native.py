"""This runtime as a backend: everything that `genai.load`'s model can do."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from genai.errors import ConfigError
from genai.llm.generator import Generator as TokenGenerator
from genai.llm.llm import LLM, load
from genai.llm.prepare import Prompt
from genai.llm.results import Generation
from genai.options.generation_config import GenerationConfig
from genai.pipelines.backends.options import in_force, refuse_streaming_several, with_preview_seed
from genai.pipelines.device import Device, only_device
from genai.pipelines.registry import Backend
from genai.pipelines.text2text import GenerationInput, GenerationResult, Streamer
from genai.runtime.providers import available_providers
from genai.tokenizer.tokenizer import Tokenizer

NAME = "native"


class NativePipeline:
    """A pipeline over a loaded model, which it closes."""

    def __init__(self, llm: LLM) -> None:
        self._llm = llm
        self._config = with_preview_seed(llm.generation_config)

    def __call__(self, source: GenerationInput | str, streamer: Streamer | None = None) -> GenerationResult:
        """Continue one input. Raises: as `LLM.generate`."""
        prompt, config = _prompt(GenerationInput.of(source)), in_force(self._config)
        if streamer is None:
            return _result(self._llm.generate(prompt, config))
        refuse_streaming_several(config, streamer)
        return self._streamed(prompt, config, streamer)

    def get_generation_config(self) -> GenerationConfig:
        """The configuration in force."""
        return self._config

    def set_generation_config(self, config: GenerationConfig) -> None:
        """Use another from now on; all its options are known here."""
        self._config = config

    def generator(self) -> NativeGenerator:
        """Begin a text step by step. Raises: ConfigError for stop strings, beams and several texts."""
        return NativeGenerator(self._llm.generator(in_force(self._config)), self._llm.tokenizer)

    def close(self) -> None:
        """Free the model."""
        self._llm.close()

    def _streamed(self, prompt: Prompt, config: GenerationConfig, streamer: Streamer) -> GenerationResult:
        texts: list[str] = []
        tokens: list[int] = []
        with contextlib.closing(self._llm.stream(prompt, config)) as stream:
            for chunk in stream:
                texts.append(chunk.text)
                tokens += chunk.token_ids
                wants_end = bool(chunk.text) and streamer(chunk.text) is True
                if chunk.result is not None:
                    return _result(chunk.result)
                if wants_end:
                    break
        text = "".join(texts)
        return GenerationResult(text=text, token_ids=tuple(tokens), finish_reason="cancelled", texts=(text,))


class NativeGenerator:
    """One text, token by token."""

    def __init__(self, generator: TokenGenerator, tokenizer: Tokenizer) -> None:
        self._generator = generator
        self._tokenizer = tokenizer
        self._detokenizer = tokenizer.detokenizer()

    @property
    def token_ids(self) -> list[int]:
        """All tokens so far."""
        return self._generator.token_ids

    def append_input_tokens(self, tokens: str | Sequence[int]) -> None:
        """Add a text or token ids; special tokens come before the first text only. Raises: ConfigError."""
        if isinstance(tokens, str):
            tokens = self._tokenizer.encode(tokens, add_special_tokens=not self.token_ids)
        self._generator.append_input_tokens(tokens)

    def generate_next_token(self) -> str:
        """Choose the next token; the text that is complete with it. Raises: ConfigError at the end."""
        text = self._detokenizer.push(self._generator.generate_next_token())
        return text + self._detokenizer.finish() if self.is_done() else text

    def is_done(self) -> bool:
        """Whether the text has ended."""
        return self._generator.is_done

    def close(self) -> None:
        """Free its row in the cache."""
        self._generator.close()


def create(models_path: Path, devices: Sequence[Device]) -> NativePipeline:
    """Load what `genai.load` loads; a device's config takes the fields of `EngineConfig`. Raises: GenAIError kinds."""
    device = only_device(NAME, devices)
    options: Mapping[str, Any] = {} if device is None else device.config
    return NativePipeline(load(models_path, **options))


def enumerate_devices() -> list[Device]:
    """What ONNX Runtime can run on here. Raises: RuntimeUnavailableError."""
    return [Device(provider.kind, {"device": provider.name}) for provider in available_providers()]


def _prompt(source: GenerationInput) -> Prompt:
    for prompt in (source.text, source.messages, source.token_ids):
        if prompt is not None:
            return prompt
    raise ConfigError("an input is one of text, messages or token_ids")


def _result(generation: Generation) -> GenerationResult:
    return GenerationResult(
        text=generation.text,
        token_ids=tuple(generation.token_ids),
        finish_reason=generation.finish_reason,
        texts=tuple(choice.text for choice in generation.choices),
        generation=generation,
    )


BACKEND = Backend(create_text2text=create, enumerate_devices=enumerate_devices)
