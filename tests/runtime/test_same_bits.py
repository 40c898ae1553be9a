"""The same bits whatever runs beside: what is found on a tiny graph, and on kernels that depend on their rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from genai.config import EngineConfig, Precision
from genai.errors import CapacityError
from genai.runtime.row_windows import RowWindows
from genai.runtime.runner import BoundShape, Runner
from genai.runtime.same_bits import PADDINGS, Padding, SameBits, find_padding
from genai.runtime.session import Session
from tests.random_model import build_random_model
from tests.runtime.test_runner import runner_for, session_of


class UnevenRunner(Runner):
    """Gives other logits where its kernels are given a number of rows that they take differently."""

    differs: Callable[[int], bool]

    def _run(self, bound: BoundShape, num_logits: int) -> np.ndarray:
        logits = super()._run(bound, num_logits)
        if self.differs(bound.input_ids.size) or self.differs(bound.logits_positions.size):
            logits += np.float32(1e-5)
        return logits


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_random_model(tmp_path_factory.mktemp("model"), sliding_window=16)


@pytest.mark.parametrize(
    ("precision", "changes"),
    [
        ("f32", {}),
        ("int8", {"sliding_window": 16}),
        ("int4", {}),
    ],
)
def test_built_graphs_keep_their_bits_here(tmp_path: Path, precision: Precision, changes: dict[str, object]) -> None:
    runner = runner_for(session_of(build_random_model(tmp_path, precision, **changes)))
    found = find_padding(runner, 512)
    assert found.padding is not None
    assert runner.padding == found.padding
    assert runner.cache.rows == ()


@pytest.mark.parametrize("padding", [padding for padding in PADDINGS if not padding.repeats])
def test_padding_changes_nothing(path: Path, padding: Padding) -> None:
    """What it takes on other processors gives the logits that this one gives without."""
    plain, padded = runner_for(session_of(path)), runner_for(session_of(path))
    padded.pad(padding)
    for runner in (plain, padded):
        runner.cache.allocate(40)
        runner.cache.allocate(40)
        runner.cache.allocate(40)
    rows = plain.cache.rows
    for run in (
        lambda runner: runner.prefill_rows(rows, [[5, 6, 7], [8], [9, 1]]),
        lambda runner: runner.advance(runner.cache.groups[0], [[3], [4], ()]),
        lambda runner: runner.advance(runner.cache.groups[0], [[3, 5], [4], [1]]),
        lambda runner: runner.run_row(rows[1], [7], 1),
        lambda runner: runner.run_row(rows[2], [7, 9, 2], 2),
        lambda runner: runner.prefill(rows[0], [1, 2, 3, 4]),
    ):
        expected, actual = run(plain), run(padded)
        np.testing.assert_array_equal(expected[0], actual[0])
        assert expected.shape == actual.shape
        assert [plain.cache.valid(row) for row in rows] == [padded.cache.valid(row) for row in rows]


@pytest.mark.parametrize(
    ("differs", "padding", "told"),
    [
        (lambda rows: False, Padding(), "kept"),
        (lambda rows: rows == 1, Padding(least=2), "kept by at least 2 positions a run"),
        (lambda rows: rows % 2 == 1, Padding(multiple=2), "kept by a multiple of 2 positions a run"),
        (lambda rows: rows < 9, None, "not kept"),
    ],
)
def test_the_least_padding_that_helps_is_found(
    path: Path, monkeypatch: pytest.MonkeyPatch, differs: Callable[[int], bool], padding: Padding | None, told: str
) -> None:
    monkeypatch.setattr("tests.runtime.test_runner.Runner", UnevenRunner)
    runner = runner_for(session_of(path))
    assert isinstance(runner, UnevenRunner)
    runner.differs = differs
    found = find_padding(runner, 512)
    assert (found, found.summary) == (SameBits(padding=padding), told)
    assert runner.padding == (padding or Padding())
    assert runner.cache.policy.spare == (padding or Padding()).most


def test_the_longest_run_is_not_repeated_for_each_padding(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.runtime.test_runner.Runner", UnevenRunner)
    runner = runner_for(session_of(path))
    assert isinstance(runner, UnevenRunner)
    lengths = []

    def differs(rows: int) -> bool:
        lengths.append(rows)
        return rows == 1

    runner.differs = differs
    assert find_padding(runner, 512).padding == Padding(least=2)
    assert lengths.count(17) == 2, "its tokens and its logits, once"


def test_no_tile_has_a_row_alone() -> None:
    """Kernels get 128 rows at a time, and take one of these by itself as they take a lone row."""
    padding = Padding(least=2)
    assert [padding.positions(1, count) for count in (1, 2, 128, 129, 130, 257)] == [2, 2, 128, 130, 130, 258]
    assert [padding.positions(3, count) for count in (1, 43, 128)] == [1, 44, 128]
    assert Padding().positions(1, 129) == 129
    for rows in range(1, 9):
        assert all(padding.positions(rows, count) - count <= padding.most for count in range(1, 600))


def test_a_run_of_129_tokens_has_the_bits_of_its_pieces(tmp_path: Path) -> None:
    """On two threads, of products that are large enough for both of them."""
    path = build_random_model(tmp_path, "int4")
    config = EngineConfig(device="cpu", num_threads=2)
    runner = runner_for(Session(path, config))
    assert find_padding(runner, 512).padding is not None
    tokens = [3 + index * 7 % 90 for index in range(129)]
    whole, pieces = (runner.cache.allocate(200) for _ in range(2))
    expected = runner.run_row(pieces, tokens[:60], 60)[-1].copy()
    rest = runner.run_row(pieces, tokens[60:], 69).copy()
    scored = runner.run_row(whole, tokens, 129)
    assert scored[59].tobytes() == expected.tobytes()
    assert scored[60:].tobytes() == rest.tobytes()


def test_a_cache_too_small_to_tell_promises_nothing(path: Path) -> None:
    assert find_padding(runner_for(session_of(path), num_slots=4), 4).padding is None


def test_a_row_has_room_for_its_padding(path: Path) -> None:
    runner = runner_for(session_of(path), num_slots=32)
    runner.pad(Padding(least=2))
    row = runner.cache.allocate(1)
    for token in range(31):
        runner.run_row(row, [token], 1)
    assert runner.cache.capacity(row) == runner.cache.valid(row) == 31
    with pytest.raises(CapacityError):
        runner.run_row(row, [1], 1)


class FarRunner(Runner):
    """Gives other logits to a single token behind so many others."""

    from_place = 1000

    def _run(self, bound: BoundShape, num_logits: int) -> np.ndarray:
        logits = super()._run(bound, num_logits)
        if bound.input_ids.size == 1 and bound.write_indices.max() > self.from_place:
            logits += np.float32(1e-5)
        return logits


@pytest.mark.parametrize("kind", [Runner, FarRunner])
def test_keys_that_have_moved_are_asked_for_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[Runner]
) -> None:
    monkeypatch.setattr("tests.runtime.test_runner.Runner", kind)
    path = build_random_model(tmp_path, sliding_window=40, max_position_embeddings=8192)
    runner = runner_for(session_of(path), chunk=64, block=1024)
    assert runner.cache.window is not None
    assert runner.cache.window.slots > 1000
    assert find_padding(runner, 1000).summary == "kept", "no text is as long"
    moved = []
    move = RowWindows.move_down
    monkeypatch.setattr(RowWindows, "move_down", lambda *args: moved.append(1) or move(*args))
    told = find_padding(runner, 1300).summary
    assert told == ("kept" if kind is Runner else "kept by at least 2 positions a run")
    assert moved
    assert runner.cache.rows == ()
