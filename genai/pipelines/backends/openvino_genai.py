"""openvino-genai as a backend: options mapped onto its generation options, its LLM pipeline run on tokens.

What it cannot do is refused by name. Its own are: the model's folder (its exporter's output, or a `.gguf` file), where
a text ends before a stop string (whole tokens are dropped; a stop string that is left, in the middle of a token or in
the last that a limit allows, is cut off here), and the form of constrained text. It has no way to go step by step.
Written against version 2026.4.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import numpy as np

from genai.answer.stop import StopStrings
from genai.errors import CapacityError, ConfigError, GraphRunError, ModelError, TokenizerError
from genai.options.generation_config import SIZE_MAX, GenerationConfig
from genai.pipelines.backends import openvino_images
from genai.pipelines.backends.options import (
    import_peer,
    in_force,
    peer_errors,
    refusal,
    refuse_others,
    refuse_streaming_several,
    with_preview_seed,
)
from genai.pipelines.device import Device, only_device
from genai.pipelines.registry import Backend
from genai.pipelines.text2text import GenerationInput, GenerationResult, Streamer

if TYPE_CHECKING:
    import openvino_genai as ov

NAME = "openvino-genai"
_CONSTRAINTS = ("json_schema", "regex")
_SAMPLING = (
    *("do_sample", "temperature", "top_p", "min_p", "repetition_penalty"),
    *("presence_penalty", "frequency_penalty"),
)
_BEAMS = ("num_beam_groups", "diversity_penalty", "length_penalty", "no_repeat_ngram_size")
_KNOWN = frozenset(
    {"max_new_tokens", "max_length", "min_new_tokens", "min_length", "eos_token_ids", "ignore_eos", "stop_strings"}
    | {"stop_token_ids", "n", "constraint", "sampling_config.rng_seed", "sampling_config.top_k"}
    | {f"sampling_config.{name}" for name in _SAMPLING}
    | {f"beam_search_config.{name}" for name in ("num_beams", "num_return_sequences", "stop_criteria", *_BEAMS)}
)


class OpenVinoGenaiPipeline:
    """A pipeline over one of its LLM pipelines."""

    def __init__(self, models_path: Path, device: Device | None) -> None:
        """Raises: RuntimeUnavailableError, ModelError."""
        self._ov = import_peer("openvino_genai", NAME)
        self._openvino = import_peer("openvino", "openvino")
        name, properties = ("CPU", {}) if device is None else (device.identifier, dict(device.config))
        with peer_errors(NAME, ModelError):
            pipeline = self._ov.LLMPipeline(str(models_path), name, properties)
            self._tokenizer = pipeline.get_tokenizer()
            self._loaded: ov.LLMPipeline | None = pipeline
            self._config = self._own_config()

    def __call__(self, source: GenerationInput | str, streamer: Streamer | None = None) -> GenerationResult:
        """Continue one input. Raises: CapacityError, TokenizerError, GraphRunError."""
        config = in_force(self._config)
        refuse_streaming_several(config, streamer)
        prompt = self._encode(GenerationInput.of(source))
        if config.max_length is not None and len(prompt) >= config.max_length:
            raise CapacityError(f"max_length={config.max_length} leaves nothing: the prompt has {len(prompt)} tokens")
        has_own_ends = bool(config.eos_token_ids or config.stop_token_ids)
        reader = None if streamer is None else _Reader(streamer, config.stop_strings, is_late=has_own_ends)
        with peer_errors(NAME, GraphRunError):
            tokens = self._openvino.Tensor(np.asarray([prompt], np.int64))
            options = self._options(config, len(prompt))
            found = self._pipeline.generate(tokens, options, reader)
            ends = options.stop_token_ids
            wholes = [str(self._tokenizer.decode(_without_end(ids, ends))) for ids in found.tokens]
            is_over = found.finish_reasons[0] == self._ov.GenerationFinishReason.STOP
        texts = tuple(_without_stop(whole, config.stop_strings) for whole in wholes)
        reason = "stop" if is_over or texts[0] != wholes[0] else "length"
        if reader is not None:
            reader.finish(texts[0])
        if reader is not None and reader.has_ended:
            if reader.error is not None:
                raise reader.error
            texts, reason = ("".join(reader.texts),), "cancelled"
        return GenerationResult(
            text=texts[0], token_ids=tuple(map(int, found.tokens[0])), finish_reason=reason, texts=texts
        )

    def get_generation_config(self) -> GenerationConfig:
        """The configuration in force."""
        return self._config

    def set_generation_config(self, config: GenerationConfig) -> None:
        """Use another from now on. Raises: ConfigError naming what it cannot do."""
        refuse_others(NAME, config, _KNOWN)
        if config.constraint is not None and config.constraint.kind not in _CONSTRAINTS:
            raise refusal(NAME, config.constraint.kind, config.constraint.grammar)
        with peer_errors(NAME, ConfigError):
            self._options(replace(in_force(config), min_length=0), 0).validate()
        self._config = config

    def generator(self) -> NoReturn:
        """Raises: ConfigError, always."""
        raise ConfigError(f"{NAME} has no way to go step by step; call the pipeline, or use another backend")

    def close(self) -> None:
        """Let go of the model."""
        self._loaded = None

    def _encode(self, source: GenerationInput) -> list[int]:
        if source.token_ids is not None:
            return list(source.token_ids)
        with peer_errors(NAME, TokenizerError):
            text = source.text
            if text is None:
                messages = [dict(message) for message in source.messages or ()]
                text = self._tokenizer.apply_chat_template(messages, add_generation_prompt=True)
            tokens = self._tokenizer.encode(text, add_special_tokens=source.text is not None)
            return [int(token) for token in tokens.input_ids.data[0]]

    @property
    def _pipeline(self) -> ov.LLMPipeline:
        if self._loaded is None:
            raise ConfigError("this pipeline is closed; create another")
        return self._loaded

    def _options(self, config: GenerationConfig, num_prompt: int) -> ov.GenerationConfig:
        """Its configuration, from its model's own and ours."""
        options = self._pipeline.get_generation_config()
        for name, value in generation_options(config, num_prompt).items():
            setattr(options, name, value)
        options.stop_token_ids = {*options.stop_token_ids, *config.stop_token_ids}
        options.stop_criteria = getattr(self._ov.StopCriteria, config.beam_search_config.stop_criteria)
        if config.constraint is not None:
            grammar = {config.constraint.kind: config.constraint.grammar}
            options.structured_output_config = self._ov.StructuredOutputConfig(**grammar)
        return options

    def _own_config(self) -> GenerationConfig:
        """The configuration in the model's folder."""
        options = self._pipeline.get_generation_config()
        names = ("max_new_tokens", "max_length", "min_new_tokens", "ignore_eos", "rng_seed", "top_k", *_SAMPLING)
        given: dict[str, object] = {name: getattr(options, name) for name in names}
        given["stop_strings"] = tuple(sorted(options.stop_strings))
        if options.num_beams > 1:
            beams = ("num_beams", "num_return_sequences", *_BEAMS[:-1])
            given |= {name: getattr(options, name) for name in beams} | {"stop_criteria": options.stop_criteria.name}
        return with_preview_seed(GenerationConfig().updated(**given))


class _Reader:
    """Hands pieces on to a streamer, and remembers whether it had enough, or what it raised.

    stop_strings: what it leaves of them is not handed on; is_late: each piece waits for the next, for the last one may
    be an end token's, which is not the text's.
    """

    def __init__(self, streamer: Streamer, stop_strings: Sequence[str], *, is_late: bool) -> None:
        self._streamer = streamer
        self._stops = StopStrings(stop_strings)
        self._is_late = is_late
        self._held = ""
        self.texts: list[str] = []
        self.has_ended = False
        self.error: Exception | None = None

    def __call__(self, piece: str) -> bool:
        if self._is_late:
            piece, self._held = self._held, piece
        return self._tell(self._stops.push(piece)[0])

    def finish(self, text: str) -> None:
        """Tell what waits and is the text's."""
        told = "".join(self.texts)
        if text.startswith(told):
            self._tell(text[len(told) :])

    def _tell(self, piece: str) -> bool:
        if not piece or self.has_ended:  # it is told the rest of what was decoded, too
            return self.has_ended
        self.texts.append(piece)
        try:
            self.has_ended = self._streamer(piece) is True
        except Exception as error:  # it would come back as an error of theirs
            self.error, self.has_ended = error, True
        return self.has_ended


def _without_end(token_ids: Sequence[int], ends: Collection[int]) -> list[int]:
    """A text's tokens without the end token that they may close with."""
    return list(token_ids[:-1] if token_ids and token_ids[-1] in ends else token_ids)


def _without_stop(text: str, stop_strings: Sequence[str]) -> str:
    """What is before the first stop string in a text."""
    stops = StopStrings(stop_strings)
    return stops.push(text)[0] + stops.finish()


def create(models_path: Path, devices: Sequence[Device]) -> OpenVinoGenaiPipeline:
    """Load a folder of its exporter's, or a `.gguf` file. Raises: RuntimeUnavailableError, ModelError, ConfigError."""
    return OpenVinoGenaiPipeline(models_path, only_device(NAME, devices))


def enumerate_devices() -> list[Device]:
    """Those that OpenVINO finds; device properties may be set in their config. Raises: RuntimeUnavailableError."""
    import_peer("openvino_genai", NAME)
    return [Device(name) for name in import_peer("openvino", "openvino").Core().available_devices]


def generation_options(config: GenerationConfig, num_prompt: int) -> dict[str, object]:
    """A configuration under its names, for a prompt of so many tokens; the two that need its own types are not here."""
    sampling, search = config.sampling_config, config.beam_search_config
    of_length = None if config.max_length is None else config.max_length - num_prompt
    limits = [limit for limit in (config.max_new_tokens, of_length) if limit is not None]
    options: dict[str, object] = {name: getattr(sampling, name) for name in _SAMPLING}
    options |= {
        "top_k": sampling.top_k or SIZE_MAX,
        "rng_seed": secrets.randbits(32) if sampling.rng_seed is None else sampling.rng_seed,
        "max_new_tokens": min(limits, default=SIZE_MAX),
        "min_new_tokens": max(config.min_new_tokens, config.min_length - num_prompt),
        "stop_strings": set(config.stop_strings),
        "ignore_eos": config.ends((0,)) == frozenset(),
        "num_beams": search.num_beams,
        "num_return_sequences": config.num_choices,
    }
    if (config.ignore_eos or config.eos_token_ids is not None) and (ends := config.ends(())):
        options |= {"eos_token_id": min(ends), "stop_token_ids": set(ends)}  # its ignore_eos would ignore all of them
    if config.is_beam_search:
        options |= {name: getattr(search, name) for name in _BEAMS}
        options["no_repeat_ngram_size"] = search.no_repeat_ngram_size or SIZE_MAX
    return options


BACKEND = Backend(
    create_text2text=create, create_text2image=openvino_images.create, enumerate_devices=enumerate_devices
)
