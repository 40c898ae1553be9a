"""A row whose values overflow breaks nobody else: not beside it, and not who gets its slots."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from genai.config import EngineConfig
from genai.contract import Cache, uniform_caches
from genai.errors import NotFiniteError
from genai.runtime.cache import KVCache
from genai.runtime.cache_shape import CacheShape
from genai.runtime.finite import settle, settle_prompt
from genai.runtime.providers.base import Provider
from genai.runtime.providers.cpu import CpuProvider
from genai.runtime.runner import Runner
from genai.runtime.session import Session
from tests.device_double import DeviceDouble, registered
from tests.fakes import change_states, read_tokens, small_cache, write_tokens
from tests.random_model import build_random_model
from tests.runtime.test_runner import TOKENS, TOLERANCE, runner_for

BAD = 7
GOOD = [token for token in TOKENS if token != BAD]


@pytest.fixture(scope="module", params=["cpu", "double"])
def new_runner(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], Runner]:
    path = build_random_model(tmp_path_factory.mktemp("model"), overflowing=BAD)
    with registered():
        session = Session(path, EngineConfig(device=request.param, num_threads=1))
    return lambda: runner_for(session, num_slots=256)


@pytest.fixture(scope="module")
def whole(new_runner: Callable[[], Runner]) -> np.ndarray:
    runner = new_runner()
    return runner.score(runner.cache.allocate(60), GOOD[:60])


def assert_clean(runner: Runner) -> None:
    """Nothing in the arena is an infinity or NaN, wherever rows are."""
    size = runner.cache.num_slots * runner.cache.shape.slot_bytes[0]
    assert runner.cache.shape.is_finite([buffer.read(0, size) for buffer in runner.cache._buffers])


def test_whoever_gets_the_slots_is_not_harmed(new_runner: Callable[[], Runner], whole: np.ndarray) -> None:
    runner = new_runner()
    for run in (runner.prefill, runner.score):
        row = runner.cache.allocate(60)
        runner.prefill(row, GOOD[:5])
        with pytest.raises(NotFiniteError, match="not finite"):
            run(row, [*GOOD[5:10], BAD, *GOOD[10:20]])
        assert runner.cache.valid(row) == 5, "it is as before"
        np.testing.assert_allclose(runner.prefill(row, GOOD[5:20]), whole[19], atol=TOLERANCE)
        runner.cache.free(row)
    assert_clean(runner)
    row = runner.cache.allocate(60)
    np.testing.assert_allclose(runner.prefill(row, GOOD[:60]), whole[59], atol=TOLERANCE)


def test_rows_beside_it_go_on_as_if_it_were_not_there(new_runner: Callable[[], Runner], whole: np.ndarray) -> None:
    """In one group: rows that bring fewer tokens, and one that sits the run out."""
    runner = new_runner()
    rows = [runner.cache.allocate(60) for _ in range(4)]
    for row in rows:
        runner.prefill(row, GOOD[:20])
    (group,) = runner.cache.groups
    by_row = dict(zip(rows, ([GOOD[20], BAD, GOOD[22]], GOOD[20:23], GOOD[20:21], []), strict=True))
    logits = runner.advance(group, [by_row[row] for row in group.rows])
    assert [runner.cache.valid(row) for row in rows] == [20, 23, 21, 20]
    assert np.isnan(logits[group.rows.index(rows[0])]).all()
    np.testing.assert_allclose(logits[group.rows.index(rows[1])], whole[20:23], atol=TOLERANCE)
    np.testing.assert_allclose(logits[group.rows.index(rows[2]), 0], whole[20], atol=TOLERANCE)
    assert_clean(runner)
    for row in rows:
        start = runner.cache.valid(row)
        np.testing.assert_allclose(runner.prefill(row, GOOD[start:50]), whole[49], atol=TOLERANCE)


def test_what_another_run_left_in_the_inputs_is_no_padding(new_runner: Callable[[], Runner], whole: np.ndarray) -> None:
    runner = new_runner()
    rows = [runner.cache.allocate(60) for _ in range(2)]
    (group,) = runner.cache.groups
    by_row = {rows[0]: GOOD[:3], rows[1]: [BAD] * 3}
    runner.advance(group, [by_row[row] for row in group.rows])
    runner.cache.truncate(rows[0], 0)
    for row in rows:
        runner.cache.reserve({row: 60})
    by_row = {rows[0]: GOOD[:3], rows[1]: GOOD[:1]}
    logits = runner.advance(group, [by_row[row] for row in group.rows])
    np.testing.assert_allclose(logits[group.rows.index(rows[1]), 0], whole[0], atol=TOLERANCE)


def test_leftovers_of_whatever_origin_cost_one_run_more(new_runner: Callable[[], Runner], whole: np.ndarray) -> None:
    runner = new_runner()
    for buffer in runner.cache._buffers:
        buffer.write(0, np.full(runner.cache.num_slots * runner.cache.shape.slot_bytes[0], 255, np.uint8))
    row = runner.cache.allocate(60)
    np.testing.assert_allclose(runner.prefill(row, GOOD[:30]), whole[29], atol=TOLERANCE)


@pytest.mark.parametrize("what", ["keys", "values"])
def test_leftovers_in_the_last_layer_are_not_a_rows_own_fault(
    new_runner: Callable[[], Runner], whole: np.ndarray, what: str
) -> None:
    """The token's own keys and values are finite then, and its logits are not."""
    for is_alone in (True, False):
        runner = new_runner()
        rows = [runner.cache.allocate(60) for _ in range(2)]
        (group,) = runner.cache.groups
        for row in rows:
            runner.prefill(row, GOOD[:20])
        for row in rows:
            start = (runner.cache._layout.place(row).start + 21) * runner.cache.shape.slot_bytes[0]
            size = 39 * runner.cache.shape.slot_bytes[0]
            runner.cache._buffers[-2 if what == "keys" else -1].write(start, np.full(size, 255, np.uint8))
        if is_alone:
            logits = runner.run_row(rows[0], GOOD[20:21], 1)[0]
        else:
            logits = runner.advance(group, [GOOD[20:21]] * 2)[0, 0]
            if np.isnan(logits[0]):
                assert [runner.cache.valid(row) for row in rows] == [20, 20], "they are run again"
                logits = runner.advance(group, [GOOD[20:21]] * 2)[0, 0]
        np.testing.assert_allclose(logits, whole[20], atol=TOLERANCE)


@pytest.mark.parametrize("provider", [CpuProvider, DeviceDouble])
def test_logits_that_overflow_alone_do_not_lose_a_prompt(provider: type[Provider]) -> None:
    """In a prompt's middle they are of no interest: how it is cut into chunks changes nothing."""
    cache = KVCache(CacheShape(caches=uniform_caches(1, 1), dtype="float32"), 64, provider(EngineConfig()))
    row = cache.allocate(16)
    write_tokens(cache, row, 0, [1, 2, 3])
    logits = np.zeros((1, 1, 9), np.float32)
    logits[0, 0, 4] = np.inf
    assert settle_prompt(cache, [row], [3], logits) == [True]
    assert cache.valid(row) == 3
    assert np.isnan(logits).all(), "and none is chosen from them"
    write_tokens(cache, row, 3, [4, np.inf])
    assert settle_prompt(cache, [row], [2], logits) == [False]
    assert cache.valid(row) == 3
    assert cache.is_finite(row, 0, 16)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_one_number_among_many_is_found(dtype: str, value: float) -> None:
    shape = CacheShape(caches=(Cache("key_cache.0", 8),), dtype=dtype)
    half, large = dtype == "float16", 65504 if dtype == "float16" else 3e38
    data = np.array([0, 1, -1, large, 1e-40, 5e-8, -large, 7], np.float16 if half else np.float32)

    def raw() -> list[np.ndarray]:
        return [data.view(np.uint16)[1::2].copy().view(np.uint8) if dtype == "bfloat16" else data.view(np.uint8)]

    assert shape.is_finite(raw())
    data[3] = value
    assert not shape.is_finite(raw())


def test_clearing_stays_behind_the_valid_part() -> None:
    cache = small_cache(64)
    rows = [cache.allocate(16) for _ in range(3)]
    for row in rows:
        write_tokens(cache, row, 0, [5] * 16)
        cache.extend(row, 10)
    cache.clear_behind(rows[1])
    for row, behind in zip(rows, (5, 0, 5), strict=True):
        data = next(cache.export_row(row, 0, 16)).view(np.float32)
        np.testing.assert_array_equal(data, [5] * 10 + [behind] * 6)


def test_a_row_that_loses_its_states_is_as_it_was_kept_or_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of five rows in a run: two are spoilt, one of which was kept; one by padding alone; one by none of its own."""
    monkeypatch.setattr("tests.fakes.has_states", True)
    cache = small_cache(256)
    rows = [cache.allocate(16) for _ in range(5)]
    for row in rows:
        write_tokens(cache, row, 0, [1, 2, 3])
        change_states(cache, row, [1, 2, 3])
        cache.extend(row, 3)
    kept, spoilt, padded, _, good = rows
    cache.keep(kept)
    for row in rows:
        write_tokens(cache, row, 3, [4, 5])
    for row in (kept, spoilt, padded):
        cache._states.write(row, [np.full_like(data, 255) for data in cache.export_states(row)])
    change_states(cache, good, [4, 5])
    logits = np.zeros((5, 2, 9), np.float32)
    logits[:2, 0], logits[2:4, 1] = np.nan, np.nan
    assert settle(cache, rows, [2, 2, 1, 0, 2], logits) == [False, False, False, True, True]
    assert [cache.valid(row) for row in rows] == [3, 0, 0, 3, 5]
    assert cache.lost == {spoilt, padded}
    assert [read_tokens(cache, row) for row in rows] == [[1, 2, 3], [], [], [1, 2, 3], [1, 2, 3, 4, 5]]
