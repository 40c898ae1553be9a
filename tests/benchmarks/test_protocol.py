"""Requests and replies, as lines and between processes."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks.protocol import LoadOptions, ProtocolError, parse_reply, parse_request
from benchmarks.workers import PeerError, Worker

FAKE = [sys.executable, str(Path(__file__).with_name("fake_worker.py"))]
OPTIONS = LoadOptions(
    gguf="model.gguf", hf_folder="", package="", work="", precision="f32", threads=1, max_length=64, max_batch=2
)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    with Worker("fake", FAKE, tmp_path / "fake.log") as worker:
        assert worker.load(OPTIONS)[0] == "1.2.3"
        yield worker


def test_requests_are_parsed() -> None:
    assert parse_request('{"op": "decode", "steps": 8}') == ("decode", {"steps": 8})


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("hello", "not JSON"),
        ("[1, 2]", "not a JSON object"),
        ('{"steps": 1}', "op=None: must be one of"),
        ('{"op": "dance"}', "op='dance': must be one of load"),
        ('{"op": ["load"]}', "must be one of"),
    ],
)
def test_bad_requests_are_refused(line: str, message: str) -> None:
    with pytest.raises(ProtocolError, match=message):
        parse_request(line)


def test_replies_are_parsed() -> None:
    assert parse_reply('{"ok": {"seconds": 1.5}}') == {"seconds": 1.5}
    with pytest.raises(RuntimeError, match="out of memory"):
        parse_reply('{"error": "out of memory"}')
    with pytest.raises(ProtocolError, match="neither"):
        parse_reply('{"seconds": 1}')


def test_a_worker_answers(worker: Worker, tmp_path: Path) -> None:
    assert worker.prefill([1, 2, 3]) == 0.003
    worker.start([[1, 2], [3, 4]])
    assert worker.decode(2) == pytest.approx([0.002, 0.002001])
    worker.stop()
    assert worker.ragged([([1, 2], 3), ([4], 1)]) == 0.007
    logits = worker.logits([1, 2, 12], tmp_path / "logits.npy")
    assert logits.argmax(axis=1).tolist() == [1, 2, 1]
    assert logits.dtype == np.float32
    assert not list(tmp_path.glob("*.npy")), "the file is cleared away"
    rss, peak = worker.memory()
    assert 0 < rss <= peak * 1.1


def test_a_peers_errors_are_told(worker: Worker) -> None:
    with pytest.raises(PeerError, match="fake cannot prefill: AssertionError"):
        worker.call("prefill", tokens="abc")
    assert worker.prefill([1]) == 0.001, "it goes on"


def test_a_peers_death_is_told(tmp_path: Path) -> None:
    with Worker("fragile", FAKE, tmp_path / "fragile.log") as worker:
        worker.load(dataclasses.replace(OPTIONS, precision="bf16"))
        with pytest.raises(PeerError, match="fragile died in 'prefill': out of luck"):
            worker.prefill([1])
        assert not worker.is_alive
        with pytest.raises(PeerError, match="died"):
            worker.prefill([1])
