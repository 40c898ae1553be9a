"""onnxruntime-genai as a backend: options mapped onto its search options, its generator driven token by token.

What it cannot do is refused by name. Its own are: the model's folder (its model builder's output), beams' scores, which
count the prompt's tokens into the length, and the form of constrained text. Written against version 0.18.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from genai.answer.stop import StopStrings
from genai.errors import CapacityError, ConfigError, GraphRunError, ModelError, PromptTooLongError, TokenizerError
from genai.options.generation_config import BeamSearchConfig, GenerationConfig
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
    import onnxruntime_genai as og

NAME = "onnxruntime-genai"
_MAX_SEED = 2**31 - 1
_GUIDANCE = {"json_schema": "json_schema", "regex": "regex", "lark": "lark_grammar"}
_STOPS_EARLY = {"EARLY": True, "HEURISTIC": False}
_KNOWN = frozenset(
    {"max_new_tokens", "max_length", "min_new_tokens", "min_length", "eos_token_ids", "stop_strings", "constraint"}
    | {f"sampling_config.{name}" for name in ("do_sample", "rng_seed", "temperature", "top_k", "top_p")}
    | {f"sampling_config.{name}" for name in ("repetition_penalty", "no_repeat_ngram_size")}
    | {f"beam_search_config.{name}" for name in ("num_beams", "length_penalty", "num_return_sequences")}
    | {f"beam_search_config.{name}" for name in ("no_repeat_ngram_size", "stop_criteria")}
)


class OnnxRuntimeGenaiPipeline:
    """A pipeline over one of its models."""

    def __init__(self, model: OnnxRuntimeGenaiModel) -> None:
        self._loaded: OnnxRuntimeGenaiModel | None = model
        self._config = model.generation_config

    def __call__(self, source: GenerationInput | str, streamer: Streamer | None = None) -> GenerationResult:
        """Continue one input. Raises: CapacityError, TokenizerError, GraphRunError."""
        config = in_force(self._config)
        refuse_streaming_several(config, streamer)
        prompt = self._model.encode(GenerationInput.of(source))
        if config.is_beam_search:
            return self._model.beams(prompt, config)
        generator = OnnxRuntimeGenaiGenerator(self._model, config)
        generator.append_input_tokens(prompt)
        return _continued(generator, len(prompt), config.stop_strings, streamer)

    def get_generation_config(self) -> GenerationConfig:
        """The configuration in force."""
        return self._config

    def set_generation_config(self, config: GenerationConfig) -> None:
        """Use another from now on. Raises: ConfigError naming what it cannot do."""
        self._model.check(config)
        self._config = config

    def generator(self) -> OnnxRuntimeGenaiGenerator:
        """Begin a text step by step. Raises: ConfigError for stop strings and beams."""
        for name, is_set in {
            "num_beams": self._config.is_beam_search,
            "stop_strings": bool(self._config.stop_strings),
        }.items():
            if is_set:
                raise ConfigError(f"{name}: a generator makes one text and knows tokens only; call the pipeline")
        return OnnxRuntimeGenaiGenerator(self._model, in_force(self._config))

    def close(self) -> None:
        """Let go of the model; it is freed with its last text."""
        self._loaded = None

    @property
    def _model(self) -> OnnxRuntimeGenaiModel:
        if self._loaded is None:
            raise ConfigError("this pipeline is closed; create another")
        return self._loaded


class OnnxRuntimeGenaiGenerator:
    """One text, token by token."""

    def __init__(self, model: OnnxRuntimeGenaiModel, config: GenerationConfig) -> None:
        self._model = model
        self._config = config
        self._pieces = model.tokenizer.create_stream()
        self._eos = model.eos_of(config)
        self._tokens: list[int] = []
        self._limit = 0
        self._has_ended = False
        self._is_behind = False
        self._handle: og.Generator | None = None

    @property
    def token_ids(self) -> list[int]:
        """All tokens so far."""
        return list(self._tokens)

    @property
    def finish_reason(self) -> str:
        """Why it has ended: "stop" or "length"."""
        return "stop" if self._has_ended else "length"

    def append_input_tokens(self, tokens: str | Sequence[int]) -> None:
        """Add a text or token ids; special tokens come before the first text only. Raises: CapacityError."""
        ids = self._model.tokens_of(tokens, is_first=not self._tokens) if isinstance(tokens, str) else list(tokens)
        if not ids:
            raise ConfigError("append_input_tokens takes at least one token")
        if not self._tokens:
            self._limit = self._model.limit(len(ids), self._config)
            self._handle = self._model.begin(len(ids), self._config)
        elif len(self._tokens) + len(ids) > self._limit:
            raise CapacityError(f"{len(ids)} more tokens; the text has {len(self._tokens)} of {self._limit}")
        assert self._handle is not None, "it was made with the first tokens"
        with peer_errors(NAME, GraphRunError):
            if self._is_behind:
                self._handle.get_logits()  # runs the token chosen last, which appending would leave out
            self._handle.append_tokens(np.asarray([ids], np.int32))
        self._tokens += ids
        self._has_ended = self._is_behind = False

    def generate_next_token(self) -> str:
        """Choose the next token; the text that is complete with it. Raises: ConfigError at the end; GraphRunError."""
        if self._handle is None:
            raise ConfigError("the text is empty; append_input_tokens first")
        if self.is_done():
            raise ConfigError(f"the text has ended ({self.finish_reason})")
        with peer_errors(NAME, GraphRunError):
            self._handle.generate_next_token()
            self._is_behind = True
            token = int(self._handle.get_next_tokens()[0])
            self._tokens.append(token)
            self._has_ended = token in self._eos
            return "" if self._has_ended else str(self._pieces.decode(token))

    def is_done(self) -> bool:
        """Whether the text has ended: an end-of-sequence token, or a limit."""
        return self._has_ended or (bool(self._tokens) and len(self._tokens) >= self._limit)

    def close(self) -> None:
        """Free its cache."""
        self._tokens, self._handle = [], None


class OnnxRuntimeGenaiModel:
    """Its model and tokenizer, and our options in its words."""

    def __init__(self, folder: Path, device: Device | None) -> None:
        """Raises: RuntimeUnavailableError, ModelError."""
        self._og = import_peer("onnxruntime_genai", NAME)
        with peer_errors(NAME, ModelError):
            config = self._og.Config(str(folder))
            _use_device(config, device)
            self._model = self._og.Model(config)
            self.tokenizer = self._og.Tokenizer(self._model)
            self._plain_tokenizer = self._og.Tokenizer(self._model)  # a chat template writes special tokens itself
            self._plain_tokenizer.update_options(add_special_tokens="false")
            self._eos = frozenset(int(token) for token in self.tokenizer.eos_token_ids)
            described = json.loads((folder / "genai_config.json").read_text())["model"]
            self._context, self._vocab_size = int(described["context_length"]), int(described["vocab_size"])
            search = self._og.GeneratorParams(self._model).get_search_options()
        self.generation_config = self._own_config(search)

    def encode(self, source: GenerationInput) -> list[int]:
        """An input's tokens. Raises: TokenizerError."""
        if source.token_ids is not None:
            return list(source.token_ids)
        if source.text is not None:
            return self.tokens_of(source.text, is_first=True)
        with peer_errors(NAME, TokenizerError):
            messages = json.dumps([dict(message) for message in source.messages or ()])
            text = self.tokenizer.apply_chat_template(messages, add_generation_prompt=True)
            return _ids(self._plain_tokenizer.encode(text))

    def tokens_of(self, text: str, *, is_first: bool) -> list[int]:
        """A text's tokens, with special ones if it begins the sequence. Raises: TokenizerError."""
        with peer_errors(NAME, TokenizerError):
            return _ids((self.tokenizer if is_first else self._plain_tokenizer).encode(text))

    def check(self, config: GenerationConfig) -> None:
        """Raises: ConfigError naming what it cannot do."""
        refuse_others(NAME, config, _KNOWN)
        sampling, search = config.sampling_config, config.beam_search_config
        if search.stop_criteria not in _STOPS_EARLY:
            raise refusal(NAME, "stop_criteria", search.stop_criteria, "it has EARLY and HEURISTIC")
        if config.is_beam_search and sampling.no_repeat_ngram_size:
            size = sampling.no_repeat_ngram_size
            raise refusal(NAME, "sampling_config.no_repeat_ngram_size", size, "beams take beam_search_config's")
        if (sampling.rng_seed or 0) > _MAX_SEED:
            raise refusal(NAME, "rng_seed", sampling.rng_seed, f"its largest is {_MAX_SEED}")
        if config.constraint is not None and config.constraint.kind not in _GUIDANCE:
            raise refusal(NAME, config.constraint.kind, config.constraint.grammar)
        self._check_eos(config)

    def eos_of(self, config: GenerationConfig) -> frozenset[int]:
        """The tokens that end a text."""
        return self._eos if config.eos_token_ids is None else frozenset(config.eos_token_ids)

    def limit(self, num_prompt: int, config: GenerationConfig) -> int:
        """How long the sequence may become. Raises: CapacityError if the prompt leaves nothing."""
        limit = min(self._context, config.max_length or self._context)
        if num_prompt >= limit:
            raise PromptTooLongError(num_prompt, limit - 1)
        return limit if config.max_new_tokens is None else min(limit, num_prompt + config.max_new_tokens)

    def begin(self, num_prompt: int, config: GenerationConfig) -> og.Generator:
        """Its generator for a prompt of so many tokens. Raises: CapacityError, ConfigError."""
        limit = self.limit(num_prompt, config)
        with peer_errors(NAME, ConfigError):
            params = self._og.GeneratorParams(self._model)
            params.set_search_options(**search_options(config, num_prompt, limit, self._vocab_size))
            if config.constraint is not None:
                params.set_guidance(_GUIDANCE[config.constraint.kind], config.constraint.grammar)
            handle: og.Generator = self._og.Generator(self._model, params)
            return handle

    def beams(self, prompt: list[int], config: GenerationConfig) -> GenerationResult:
        """The best beams. Raises: CapacityError, ConfigError, GraphRunError."""
        limit, handle = self.limit(len(prompt), config), self.begin(len(prompt), config)
        with peer_errors(NAME, GraphRunError):
            handle.append_tokens(np.asarray([prompt], np.int32))
            while limit > len(prompt) and not handle.is_done():
                handle.generate_next_token()
            count = config.beam_search_config.num_return_sequences if limit > len(prompt) else 0
            tokens = [_ids(handle.get_sequence(index))[len(prompt) :] for index in range(count)] or [[]]
            texts = tuple(str(self.tokenizer.decode(np.asarray(ids, np.int32))) if ids else "" for ids in tokens)
        has_ended = len(prompt) + len(tokens[0]) < limit  # the end-of-sequence token is not among them
        return GenerationResult(
            text=texts[0], token_ids=tuple(tokens[0]), finish_reason="stop" if has_ended else "length", texts=texts
        )

    def _check_eos(self, config: GenerationConfig) -> None:
        """It always ends at the model's own; further ones are looked for here, after the token was chosen."""
        given = self.eos_of(config)
        if missing := self._eos - given:
            why = f"the model's own ({', '.join(map(str, sorted(missing)))}) end its texts too"
            raise refusal(NAME, "eos_token_ids", sorted(given), why)
        for name in ("min_new_tokens", "min_length"):
            if given > self._eos and getattr(config, name):
                raise refusal(NAME, name, getattr(config, name), "it keeps back the model's own eos_token_ids only")
        if given > self._eos and config.is_beam_search:
            raise refusal(NAME, "eos_token_ids", sorted(given), "beams end at the model's own only")

    def _own_config(self, search: Mapping[str, float]) -> GenerationConfig:
        """The configuration in the model's folder."""
        names = ("do_sample", "temperature", "top_p", "repetition_penalty")
        options: dict[str, object] = {name: search[name] for name in names}
        options |= {name: int(search[name]) for name in ("top_k", "min_length")}
        ngram_size = int(search["no_repeat_ngram_size"])
        if search["num_beams"] > 1:
            options |= {name: int(search[name]) for name in ("num_beams", "num_return_sequences")}
            options |= {name: search[name] for name in ("length_penalty", "early_stopping")}
            options["beam_search_config"] = BeamSearchConfig(no_repeat_ngram_size=ngram_size)
        else:
            options["no_repeat_ngram_size"] = ngram_size
        if search["max_length"] < self._context:
            options["max_length"] = int(search["max_length"])
        if search["random_seed"] >= 0:
            options["rng_seed"] = int(search["random_seed"])
        config = with_preview_seed(GenerationConfig().updated(**options))
        self.check(config)
        return config


def search_options(
    config: GenerationConfig, num_prompt: int, limit: int, vocab_size: int
) -> dict[str, bool | int | float]:
    """A configuration as its search options; limit: the sequence's greatest length."""
    sampling, search = config.sampling_config, config.beam_search_config
    is_beam_search = config.is_beam_search
    least = max(config.min_length, num_prompt + config.min_new_tokens if config.min_new_tokens else 0)
    # Its top-p alone keeps one token too many; with a top-k of all tokens it does not.
    most = vocab_size if sampling.top_p < 1 else 0
    return {
        "max_length": limit,
        "min_length": min(least, limit),
        "do_sample": sampling.do_sample,
        "random_seed": -1 if sampling.rng_seed is None else sampling.rng_seed,
        "temperature": sampling.temperature,
        "top_k": min(sampling.top_k or most, vocab_size),
        "top_p": sampling.top_p,
        "repetition_penalty": sampling.repetition_penalty,
        "no_repeat_ngram_size": search.no_repeat_ngram_size if is_beam_search else sampling.no_repeat_ngram_size,
        "num_beams": search.num_beams,
        "num_return_sequences": search.num_return_sequences,
        "length_penalty": search.length_penalty,
        "early_stopping": _STOPS_EARLY[search.stop_criteria],
    }


def create(models_path: Path, devices: Sequence[Device]) -> OnnxRuntimeGenaiPipeline:
    """Load a folder of its model builder's. Raises: RuntimeUnavailableError, ModelError, ConfigError."""
    return OnnxRuntimeGenaiPipeline(OnnxRuntimeGenaiModel(models_path, only_device(NAME, devices)))


def enumerate_devices() -> list[Device]:
    """CUDA where it has it, and the CPU; config: `ep` and the provider's options. Raises: RuntimeUnavailableError."""
    og = import_peer("onnxruntime_genai", NAME)
    return [*([Device("GPU", {"ep": "cuda"})] if og.is_cuda_available() else []), Device("CPU", {"ep": "cpu"})]


def _use_device(config: og.Config, device: Device | None) -> None:
    """Set the execution provider that a device asks for; without one the folder's own stays."""
    if device is None:
        return
    options = {name: str(value) for name, value in device.config.items()}
    provider = options.pop("ep", device.identifier)
    config.clear_providers()
    if provider.lower() == "cpu":
        if options:
            raise ConfigError(f"{NAME}: the CPU takes no {', '.join(sorted(options))}")
        return
    config.append_provider(provider)
    for name, value in options.items():
        config.set_provider_option(provider, name, value)


def _continued(
    generator: OnnxRuntimeGenaiGenerator, num_prompt: int, stop_strings: Sequence[str], streamer: Streamer | None
) -> GenerationResult:
    """Run a generator to its end, a stop string, or until the streamer has enough."""
    stops = StopStrings(stop_strings)
    texts: list[str] = []
    reason = ""
    while not reason and not generator.is_done():
        text, is_stopped = stops.push(generator.generate_next_token())
        if is_stopped:
            reason = "stop"
        elif generator.is_done():
            text += stops.finish()
        texts.append(text)
        if text and streamer is not None and streamer(text) is True and not generator.is_done():
            reason = reason or "cancelled"
    whole, tokens = "".join(texts), tuple(generator.token_ids[num_prompt:])
    reason = reason or generator.finish_reason
    generator.close()
    return GenerationResult(text=whole, token_ids=tokens, finish_reason=reason, texts=(whole,))


def _ids(tokens: npt.NDArray[np.int32]) -> list[int]:
    return [int(token) for token in tokens]


BACKEND = Backend(create_text2text=create, enumerate_devices=enumerate_devices)
