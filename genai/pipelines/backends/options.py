"""What adapters share: the preview's reading of a configuration, refusing by name, and reaching another package."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import replace
from types import ModuleType

from genai.errors import ConfigError, GenAIError, RuntimeUnavailableError
from genai.options.generation_config import GenerationConfig
from genai.options.option import entries_of
from genai.pipelines.text2text import Streamer


def in_force(config: GenerationConfig) -> GenerationConfig:
    """What of a configuration applies as the preview says: repetition_penalty "only applicable if do_sample=true"."""
    sampling = config.sampling_config
    if sampling.do_sample:
        return config
    return replace(config, sampling_config=replace(sampling, repetition_penalty=1.0))


def with_preview_seed(config: GenerationConfig) -> GenerationConfig:
    """The preview's seed is 0 where the model's defaults name none; None gives another text each time."""
    seed, sampling = config.sampling_config.rng_seed, config.sampling_config
    return config.updated(rng_seed=seed or 0, do_sample=sampling.do_sample)


def options_set(config: GenerationConfig) -> dict[str, object]:
    """The options that differ from their defaults; those of a part as `sampling_config.top_k`."""
    plain, result = GenerationConfig(), dict[str, object]()
    for path in (entry.path[:2] for entry in entries_of(GenerationConfig)):
        value, default = (functools.reduce(getattr, path, each) for each in (config, plain))
        if value != default:
            result[".".join(path)] = value
    return result


def refuse_others(backend: str, config: GenerationConfig, known: Set[str]) -> None:
    """Refuse every option that is set and not among `known`. Raises: ConfigError naming the first."""
    for name, value in options_set(config).items():
        if name not in known:
            raise refusal(backend, name, value)


def refusal(backend: str, name: str, value: object, why: str = "") -> ConfigError:
    """The error for an option that another package cannot do."""
    reason = f" ({why})" if why else ""
    return ConfigError(f"{backend} cannot do {name}={value!r}{reason}; leave it out, or use the native backend")


def refuse_streaming_several(config: GenerationConfig, streamer: Streamer | None) -> None:
    """A streamer reads one text. Raises: ConfigError."""
    if streamer is not None and (config.is_beam_search or config.num_choices > 1):
        raise ConfigError("a streamer reads one text as it comes: leave it out with beams or several texts")


def import_peer(module: str, package: str) -> ModuleType:
    """Another package's module. Raises: RuntimeUnavailableError if it is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise RuntimeUnavailableError(f"{package} cannot be imported ({error}): pip install {package}") from error


@contextmanager
def peer_errors(backend: str, kind: type[GenAIError]) -> Iterator[None]:
    """Another package's errors as one of ours."""
    try:
        yield
    except GenAIError:
        raise
    except (RuntimeError, ValueError, TypeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise kind(f"{backend}: {' '.join(lines) or repr(error)}") from error
