"""A text put aside: its tokens, keys, values and states, logits and random stream in one safetensors file."""

from __future__ import annotations

import dataclasses
import json
from collections import abc
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from genai.contract import Cache, State
from genai.decoding.processors import FloatArray
from genai.engine.sequence import Sequence
from genai.errors import ConfigError
from genai.options.generation_config import GenerationConfig, config_from_data
from genai.runtime.cache_shape import CacheShape

_VERSION = "2"
_WITH_STATES = "3"
"""Of models whose rows have states, which stand behind the caches."""
_WITH_WINDOWS = "4"
"""Of models some of whose layers keep their windows alone: their caches hold the last tokens, and may have states."""
_WITHOUT_CACHES = "1"
"""Files of this version are read, too: all caches were of one width, and went without saying."""
T = TypeVar("T", bound=np.generic)
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFile:
    """What goes on bit for bit.

    prompt, generated: tokens; shape: the model's; cache: keys and values of all tokens, or of the last ones where a
    window is kept alone, raw bytes, one array for each cache, and each of the states; logits: [V] float32, what
    follows; sampler: the random stream; identity: the model that they belong to.
    """

    identity: str
    config: GenerationConfig
    prompt: list[int]
    generated: list[int]
    sampler: dict[str, object]
    logits: FloatArray
    shape: CacheShape
    cache: abc.Sequence[Bytes]

    @classmethod
    def of(cls, sequence: Sequence, shape: CacheShape, cache: abc.Sequence[Bytes], identity: str) -> SessionFile:
        """A sequence that has its logits."""
        assert sequence.logits is not None, "it has logits"
        return cls(
            identity=identity,
            config=sequence.config,
            prompt=sequence.tokens[: sequence.num_prompt],
            generated=sequence.generated,
            sampler=sequence.sampler.state(),
            logits=sequence.logits,
            shape=shape,
            cache=cache,
        )

    def write(self, path: Path) -> None:
        """Write the file. Raises: ConfigError if it cannot be written."""
        tensors: dict[str, npt.NDArray[np.generic]] = {f"cache.{index}": data for index, data in enumerate(self.cache)}
        tensors["logits"] = self.logits
        tensors["prompt"] = np.array(self.prompt, np.int64)
        tensors["generated"] = np.array(self.generated, np.int64)
        metadata = {
            "format": "genai-session",
            "version": _version(self.shape),
            "identity": self.identity,
            "caches": _widths(self.shape.caches),
            **({"states": _shapes(self.shape.states)} if self.shape.states else {}),
            "config": json.dumps(dataclasses.asdict(self.config)),
            "sampler": json.dumps(self.sampler),
        }
        try:
            save_file(tensors, path, metadata)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{path} cannot be written: {error}") from None

    @classmethod
    def read(cls, path: Path, identity: str, shape: CacheShape) -> SessionFile:
        """Read a file that this model, whose cache is of this shape, wrote. Raises: ConfigError."""
        try:
            with safe_open(path, "numpy") as file:
                metadata = file.metadata() or {}
                _check(path, metadata, identity, shape)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping
            return cls(
                identity=identity,
                config=config_from_data(json.loads(metadata["config"])),
                prompt=_tokens(tensors["prompt"]),
                generated=_tokens(tensors["generated"]),
                sampler=dict(json.loads(metadata["sampler"])),
                logits=_checked(tensors["logits"], np.float32),
                shape=shape,
                cache=[
                    _checked(tensors[f"cache.{index}"], np.uint8)
                    for index in range(sum(name.startswith("cache.") for name in tensors))
                ],
            )
        except FileNotFoundError:
            raise ConfigError(f"{path}: no such file") from None
        except ConfigError:
            raise
        except (OSError, SafetensorError, ValueError, TypeError, KeyError) as error:
            raise ConfigError(f"{path} is damaged: {error}; save the session again") from None


def _check(path: Path, metadata: dict[str, str], identity: str, shape: CacheShape) -> None:
    if metadata.get("format") != "genai-session":
        raise ConfigError(f"{path} is no saved session")
    version = metadata.get("version")
    if version not in (_WITHOUT_CACHES, _VERSION, _WITH_STATES, _WITH_WINDOWS):
        raise ConfigError(
            f"{path} is of version {version}, this runtime reads {_WITHOUT_CACHES} to {_WITH_WINDOWS}; save it again"
        )
    if metadata.get("identity") != identity:
        raise ConfigError(
            f"{path} belongs to another model, adapter, precision or build: its keys and values mean nothing here"
        )
    known = {"caches": _widths(shape.caches), **({"states": _shapes(shape.states)} if shape.states else {})}
    if version != _WITHOUT_CACHES and any(metadata.get(name) != value for name, value in known.items()):
        raise ConfigError(
            f"{path} holds caches or states of other layers or sizes than this model has; save it with this model"
        )


def _version(shape: CacheShape) -> str:
    """The oldest version that says all there is to say."""
    if any(cache.is_windowed for cache in shape.caches):
        return _WITH_WINDOWS
    return _WITH_STATES if shape.states else _VERSION


def _widths(caches: abc.Iterable[Cache]) -> str:
    """Caches with their widths, as the file says them."""
    return json.dumps({cache.name: cache.width for cache in caches})


def _shapes(states: abc.Iterable[State]) -> str:
    """States with their types and shapes, as the file says them."""
    return json.dumps({state.name: [state.dtype, *state.shape] for state in states})


def _tokens(data: npt.NDArray[np.int64]) -> list[int]:
    return [int(token) for token in _checked(data, np.int64)]


def _checked(data: npt.NDArray[T], dtype: type[T]) -> npt.NDArray[T]:
    if data.dtype != dtype or data.ndim != 1:
        raise ValueError(f"a tensor is {data.dtype} with {data.ndim} dimensions, not {dtype.__name__} with one")
    return data
