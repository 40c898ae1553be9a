"""Where the fake model's cache lies."""

from __future__ import annotations

import pytest

from genai.runtime.providers.base import Provider
from genai.runtime.providers.cpu import CpuProvider
from tests import fakes
from tests.device_double import DeviceDouble


@pytest.fixture(params=[CpuProvider, DeviceDouble], ids=["cpu", "double"])
def each_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Provider]:
    """In the host's memory, then in a device's."""
    monkeypatch.setattr(fakes, "provider", request.param)
    provider: type[Provider] = request.param
    return provider
