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
from genai.pipelines import text2image as Text2Image
from genai.pipelines.device import Device
from genai.pipelines.text2text import Pipeline

GROUP = "genai.backends"
"""The entry-point group; each entry names a `Backend`."""

DeviceEnumerator: TypeAlias = Callable[[], Sequence[Device]]
Text2TextPipelineCreator: TypeAlias = Callable[[Path, Sequence[Device]], Pipeline]
Text2ImagePipelineCreator: TypeAlias = Callable[[Path, Sequence[Device]], Text2Image.Pipeline]


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """What an entry point gives: how to make pipelines, None of a kind that it has not, and the devices for them."""

    enumerate_devices: DeviceEnumerator
    create_text2text: Text2TextPipelineCreator | None = None
    create_text2image: Text2ImagePipelineCreator | None = None


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

        Raises: ConfigError for an unknown name, or a backend that writes no text; RuntimeUnavailableError if what the
        backend adapts is not installed; ModelError's kinds if the model cannot be loaded.
        """
        creator = self._creators.get(name) or _installed(name, self._creators).create_text2text
        if creator is None:
            raise ConfigError(f"{name} writes no text; {_others('create_text2text', self._creators)}")
        return creator(Path(models_path), tuple(devices))


class Text2ImagePipelineFactory:
    """Makes picture pipelines of every backend that has them."""

    def __init__(self) -> None:
        self._creators: dict[str, Text2ImagePipelineCreator] = {}

    @classmethod
    @cache
    def get_instance(cls) -> Text2ImagePipelineFactory:
        """The one that the whole program shares."""
        return cls()

    def register(self, name: str, creator: Text2ImagePipelineCreator) -> None:
        """Have `creator` make a backend's pipelines, in place of an earlier or an installed one."""
        self._creators[name] = creator

    def create(self, name: str, models_path: str | Path, devices: Sequence[Device] = ()) -> Text2Image.Pipeline:
        """Load a model with a backend; devices: of those enumerated, none for the backend's own choice.

        Raises: as `Text2TextPipelineFactory.create`.
        """
        creator = self._creators.get(name) or _installed(name, self._creators).create_text2image
        if creator is None:
            raise ConfigError(f"{name} makes no pictures; {_others('create_text2image', self._creators)}")
        return creator(Path(models_path), tuple(devices))


def _others(field: str, registered: Iterable[str]) -> str:
    """Which backends do."""
    does = [entry.name for entry in entry_points(group=GROUP) if getattr(entry.load(), field, None) is not None]
    return f"these do: {', '.join(sorted({*registered, *does})) or 'none'}"


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
