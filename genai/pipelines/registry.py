"""Backends by name: those registered by the program, and those installed in the entry-point group `genai.backends`.

Source of names and of the error: github.com/onnx/working-groups, generative-ai/genai-interfaces/include/pipelines,
device_factory.hpp and pipeline_factory.hpp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import TypeAlias

from genai.errors import ConfigError
from genai.pipelines.device import Device
from genai.pipelines.text2text import Pipeline

GROUP = "genai.backends"
"""The entry-point group; each entry names a `Backend`."""

DeviceEnumerator: TypeAlias = Callable[[], Sequence[Device]]
Text2TextPipelineCreator: TypeAlias = Callable[[Path, Sequence[Device]], Pipeline]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """What an entry point gives: how to make a text pipeline, and the devices that it can be made for."""

    create_text2text: Text2TextPipelineCreator
    enumerate_devices: DeviceEnumerator


class DeviceFactory:
    """The devices of every backend."""

    def __init__(self) -> None:
        self._enumerators: dict[str, DeviceEnumerator] = {}

    @classmethod
    @cache
    def get_instance(cls) -> DeviceFactory:
        """The one that the whole program shares."""
        return cls()

    def register(self, name: str, enumerator: DeviceEnumerator) -> None:
        """Have `enumerator` tell a backend's devices, in place of an earlier or an installed one."""
        self._enumerators[name] = enumerator

    def enumerate(self, name: str) -> list[Device]:
        """A backend's devices, the one it prefers first.

        Raises: ConfigError for an unknown name; RuntimeUnavailableError if what the backend adapts is not installed.
        """
        enumerator = self._enumerators.get(name) or _installed(name, self._enumerators).enumerate_devices
        return list(enumerator())


class Text2TextPipelineFactory:
    """Makes text pipelines of every backend."""

    def __init__(self) -> None:
        self._creators: dict[str, Text2TextPipelineCreator] = {}

    @classmethod
    @cache
    def get_instance(cls) -> Text2TextPipelineFactory:
        """The one that the whole program shares."""
        return cls()

    def register(self, name: str, creator: Text2TextPipelineCreator) -> None:
        """Have `creator` make a backend's pipelines, in place of an earlier or an installed one."""
        self._creators[name] = creator

    def create(self, name: str, models_path: str | Path, devices: Sequence[Device] = ()) -> Pipeline:
        """Load a model with a backend; devices: of those enumerated, none for the backend's own choice.

        Raises: ConfigError for an unknown name; RuntimeUnavailableError if what the backend adapts is not installed;
        ModelError's kinds if the model cannot be loaded.
        """
        creator = self._creators.get(name) or _installed(name, self._creators).create_text2text
        return creator(Path(models_path), tuple(devices))


def _installed(name: str, registered: Iterable[str]) -> Backend:
    """A backend by its entry point. Raises: ConfigError if there is none, or if it is none."""
    found = entry_points(group=GROUP)
    if name not in found.names:
        error = ConfigError(f"Unregistered GenAI framework: {name}")
        error.add_note(f"there are: {', '.join(sorted({*registered, *found.names})) or 'none'}")
        raise error
    backend: object = found[name].load()
    if not isinstance(backend, Backend):
        raise ConfigError(f"the entry point {name!r} of {GROUP} is no genai.pipelines.Backend; whoever wrote it errs")
    return backend
