"""The devices that graphs run on: a module each, and one entry here."""

from __future__ import annotations

from genai.config import Device, EngineConfig
from genai.errors import ConfigError
from genai.runtime.providers.base import Provider
from genai.runtime.providers.cpu import CpuProvider
from genai.runtime.providers.cuda import CudaProvider

PROVIDERS: dict[str, type[Provider]] = {"cuda": CudaProvider, "cpu": CpuProvider}
"""By the names in `genai.config.Device`, in the order in which "auto" prefers them."""


def provider_class(device: str) -> type[Provider]:
    """What is true of a device by its name, whether it is here or not. Raises: ConfigError for an unknown name."""
    if device not in PROVIDERS:
        raise ConfigError(f"device={device!r}: must be one of {', '.join(PROVIDERS)}")
    return PROVIDERS[device]


def available_providers() -> list[type[Provider]]:
    """Those that graphs can run on here, the preferred one first."""
    return [provider for provider in PROVIDERS.values() if provider.missing() is None]


def choose_device(wanted: Device) -> str:
    """The name of the device to run on. Raises: ConfigError that says what is missing for the one that is wanted."""
    if wanted == "auto":
        return available_providers()[0].name
    if reason := provider_class(wanted).missing():
        raise ConfigError(reason)
    return wanted


def provider_for(config: EngineConfig) -> Provider:
    """The device that a configuration asks for. Raises: ConfigError."""
    return PROVIDERS[choose_device(config.device)](config)
