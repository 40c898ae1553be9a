"""Ten seconds of the soak, on a tiny model."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest

from benchmarks.soak import load_model, soak
from tests.tiny_package import tiny_package


@pytest.mark.long
def test_ten_seconds_of_random_load_leave_nothing_behind(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL)
    with load_model(str(tiny_package(tmp_path))) as llm:
        load, _ = asyncio.run(soak(llm, 10.0, 16))
    assert load.submitted > 15, "on a machine that is busy with other things, too"
    assert load.ended.keys() >= {"length", "cancelled", "error"}
    assert load.seen["paused"] > 0
    assert load.seen.keys() >= {"paused", "preempted", "cached", "compared"}
