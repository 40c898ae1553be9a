"""Where a backend can run, as the preview interface tells it.

Source: github.com/onnx/working-groups, generative-ai/genai-interfaces/include/pipelines/device_factory.hpp.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from genai.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Device:
    """identifier: how the backend calls it, "CPU" or "GPU"; config: options that its pipelines take with it."""

    identifier: str
    config: Mapping[str, object] = field(default_factory=dict)


def only_device(backend: str, devices: Sequence[Device]) -> Device | None:
    """The device to run on, None for the backend's own choice. Raises: ConfigError for several."""
    if len(devices) > 1:
        names = ", ".join(device.identifier for device in devices)
        raise ConfigError(f"{backend} runs on one device, not on {names}; give one, or none for its own choice")
    return devices[0] if devices else None
