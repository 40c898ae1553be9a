"""Where the fake model's cache lies, and what it is made of."""

from __future__ import annotations

import pytest

from genai.runtime.providers.base import Provider
from genai.runtime.providers.cpu import CpuProvider
from tests import fakes
from tests.device_double import DeviceDouble


@pytest.fixture(
    params=[(CpuProvider, False), (DeviceDouble, False), (DeviceDouble, True)], ids=["cpu", "double", "by layer"]
)
def each_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Provider]:
    """In the host's memory, then in a device's; there also with caches of several widths and a reserved slot."""
    provider: type[Provider]
    provider, is_by_layer = request.param
    monkeypatch.setattr(fakes, "provider", provider)
    monkeypatch.setattr(fakes, "is_by_layer", is_by_layer)
    return provider
