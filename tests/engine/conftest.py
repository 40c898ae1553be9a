"""Where the fake model's cache lies, and what it is made of."""

from __future__ import annotations

import pytest

from genai.runtime.providers.base import Provider
from genai.runtime.providers.cpu import CpuProvider
from tests import fakes
from tests.device_double import DeviceDouble

WITHOUT_STATES = [
    pytest.param((CpuProvider, False, False, False), id="cpu"),
    pytest.param((DeviceDouble, True, False, False), id="by layer"),
]
"""For tests of what can be cut back: `parametrize("each_memory", WITHOUT_STATES, indirect=True)`."""

WITH_STATES = [pytest.param((DeviceDouble, True, True, False), id="states")]

WITH_WINDOWS = [pytest.param((CpuProvider, True, False, True), id="windows")]

WITH_BOTH = [pytest.param((DeviceDouble, True, True, True), id="windows and states")]


@pytest.fixture(params=[*WITHOUT_STATES, *WITH_STATES, *WITH_WINDOWS])
def each_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> type[Provider]:
    """In the host's memory, then in a device's with caches of several widths and a reserved slot; then also states.

    Then with such caches, one of which keeps what a window sees of a row, alone.
    """
    provider: type[Provider]
    provider, is_by_layer, has_states, has_windows = request.param
    monkeypatch.setattr(fakes, "provider", provider)
    monkeypatch.setattr(fakes, "is_by_layer", is_by_layer)
    monkeypatch.setattr(fakes, "has_states", has_states)
    monkeypatch.setattr(fakes, "has_windows", has_windows)
    return provider
