"""The runner on a real (tiny) graph: cached = uncached, chunked = whole, batched = alone, and in place."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from genai import contract
from genai.config import CONFIG_FILE, EngineConfig, ModelConfig
from genai.errors import CapacityError, GraphRunError
from genai.runtime.cache import KVCache
from genai.runtime.cache_shape import CacheShape
from genai.runtime.capacity import CapacityPolicy
from genai.runtime.ort import Binding
from genai.runtime.row_start import read_row_start
from genai.runtime.runner import Runner
from genai.runtime.session import Session
from genai.runtime.windows import WindowRoom
from tests.device_double import DoubleIOBinding, registered
from tests.fakes import ExactCapacities, OneGroup
from tests.mixed_package import MixedModel, mixed_package
from tests.random_model import build_random_model

TOLERANCE = 2e-5  # measured: 2e-6 between one chunk and many, on logits of magnitude 3
TOKENS = [int(token) for token in np.random.default_rng(0).integers(0, 101, 300)]


class PackageSession(Session):
    """Knows what the rows of its package begin with."""

    row_start: Sequence[np.ndarray] = ()


@pytest.fixture(scope="module", params=["full", "windowed", "by layer", "sinks", "states"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    if request.param in {"by layer", "sinks", "states"}:
        has_states = request.param == "states"
        package = mixed_package(folder, has_sinks=request.param == "sinks", has_states=has_states, vocab_size=101)
        return package / "model.onnx"
    return build_random_model(folder, sliding_window=16 if request.param == "windowed" else None)


@pytest.fixture(scope="module", params=["cpu", "double"])
def session(request: pytest.FixtureRequest, path: Path) -> Session:
    return session_of(path, request.param)


def session_of(path: Path, device: Literal["cpu", "double"] = "cpu") -> Session:
    with registered():
        session = PackageSession(path, EngineConfig(device=device, num_threads=1))  # type: ignore[arg-type]
    if (path.parent / CONFIG_FILE).exists():
        shape = contract.check_signature(session.inputs, session.outputs)
        cache_shape = CacheShape(caches=shape.caches, dtype=shape.cache_dtype)
        session.row_start = read_row_start(path.parent, ModelConfig.read(path.parent), cache_shape)
    return session


@pytest.fixture(scope="module")
def whole(path: Path) -> np.ndarray:
    """The logits after every token, in one run over an empty row on the CPU."""
    runner = runner_for(session_of(path))
    return runner.score(runner.cache.allocate(len(TOKENS)), TOKENS)


def runner_for(session: Session, *, num_slots: int = 2048, chunk: int = 512, block: int = 16) -> Runner:
    """block: what keys move by a multiple of, where windows are kept alone: these are of 40 tokens at most."""
    shape = contract.check_signature(session.inputs, session.outputs)
    cache_shape = CacheShape(caches=shape.caches, dtype=shape.cache_dtype, states=shape.states)
    window = None
    if any(cache.is_windowed for cache in shape.caches):
        window = WindowRoom(window=40, block=block, longest=max(chunk, 64) + 1, margin=8)
    start = getattr(session, "row_start", ())
    cache = KVCache(cache_shape, num_slots, session.provider, start, max_batch=8, window=window)
    return Runner(session, cache, output=shape.output, vocab_size=shape.output.width, num_heads=4, prefill_chunk=chunk)


def advance(runner: Runner, tokens: list[list[int]]) -> np.ndarray:
    """Run rows that are all in one group; logits [rows, V] after each row's last token."""
    (group,) = runner.cache.groups
    by_row = dict(zip(sorted(group.rows), tokens, strict=True))
    logits = runner.advance(group, [by_row[row] for row in group.rows])
    last = {row: logits[index, len(by_row[row]) - 1] for index, row in enumerate(group.rows)}
    return np.stack([last[row] for row in sorted(group.rows)]) if len(last) > 1 else logits[:, -1]


@pytest.mark.parametrize(("has_sinks", "has_states"), [(False, False), (True, False), (False, True)])
def test_layers_of_all_kinds_give_their_models_logits(tmp_path: Path, has_sinks: bool, has_states: bool) -> None:
    """Widths of their own, another layer's caches, keys alone; sinks as a softmax says them, without a slot; states."""
    path = mixed_package(tmp_path, has_sinks=has_sinks, has_states=has_states) / "model.onnx"
    runner = runner_for(session_of(path))
    assert runner.cache.reserved_slots == has_sinks
    expected = MixedModel(has_sinks=has_sinks, has_states=has_states).logits(TOKENS)
    scored = runner.score(runner.cache.allocate(len(TOKENS)), TOKENS)
    np.testing.assert_allclose(scored, expected, atol=5e-5)  # measured: 1.2e-5, on logits up to 7


@pytest.mark.parametrize("chunk", [1, 7, 64, 100])
def test_chunked_prefill_equals_whole(session: Session, whole: np.ndarray, chunk: int) -> None:
    runner = runner_for(session, chunk=chunk)
    np.testing.assert_allclose(runner.prefill(runner.cache.allocate(1), TOKENS), whole[-1], atol=TOLERANCE)
    runner = runner_for(session, chunk=chunk)
    np.testing.assert_allclose(runner.score(runner.cache.allocate(1), TOKENS), whole, atol=TOLERANCE)


def test_decoding_equals_scoring_across_growing_capacities(session: Session, whole: np.ndarray) -> None:
    runner = runner_for(session)
    row = runner.cache.allocate(1)
    runner.prefill(row, TOKENS[:10])
    for position in range(10, len(TOKENS)):
        runner.cache.reserve({row: position + 1})
        logits = advance(runner, [[TOKENS[position]]])
        np.testing.assert_allclose(logits[0], whole[position], atol=TOLERANCE)


@pytest.mark.parametrize("policy", [ExactCapacities(), OneGroup()], ids=["exact", "one group"])
def test_another_capacity_policy_gives_the_same_logits(
    session: Session, whole: np.ndarray, policy: CapacityPolicy
) -> None:
    runner = runner_for(session)
    runner.cache.policy = policy
    lengths = [3, 150, 64, 63]
    rows = [runner.cache.allocate(length + 1) for length in lengths]
    for row, length in zip(rows, lengths, strict=True):
        runner.prefill(row, TOKENS[:length])
    for _ in range(20):
        for row in rows:
            runner.cache.reserve({row: runner.cache.valid(row) + 1})
        for group in runner.cache.groups:
            places = [runner.cache.valid(row) for row in group.rows]
            logits = runner.advance(group, [[TOKENS[place]] for place in places])
            np.testing.assert_allclose(logits[:, 0], whole[places], atol=TOLERANCE)


def test_ragged_rows_advance_together_as_if_alone(session: Session, whole: np.ndarray) -> None:
    runner = runner_for(session)
    lengths = [3, 150, 64, 63]
    rows = [runner.cache.allocate(length + 1) for length in lengths]
    for row, length in zip(rows, lengths, strict=True):
        runner.prefill(row, TOKENS[:length])
    for step in range(70):
        for row in rows:
            runner.cache.reserve({row: runner.cache.valid(row) + 1})
        logits = advance(runner, [[TOKENS[length + step]] for length in lengths])
        for index, length in enumerate(lengths):
            np.testing.assert_allclose(logits[index], whole[length + step], atol=TOLERANCE)


def test_rows_bring_different_numbers_of_tokens(session: Session, whole: np.ndarray) -> None:
    """A verification step: each row's drafts get their logits in one run, as if fed one by one."""
    runner = runner_for(session)
    starts, counts = [30, 33, 40], [5, 1, 3]
    rows = [runner.cache.allocate(60) for _ in starts]
    for row, start in zip(rows, starts, strict=True):
        runner.prefill(row, TOKENS[:start])
    (group,) = runner.cache.groups
    runner.cache.keep(rows[0])
    logits = runner.advance(group, [TOKENS[s : s + n] for s, n in zip(starts, counts, strict=True)])
    assert logits.shape == (3, 5, 101)
    for index, (start, count) in enumerate(zip(starts, counts, strict=True)):
        np.testing.assert_allclose(logits[index, :count], whole[start : start + count], atol=TOLERANCE)
    if runner.cache.has_states:
        assert runner.cache.go_back(rows[0]) == 30
    else:
        runner.cache.truncate(rows[0], 32)
    runner.cache.reserve({rows[0]: 60})
    for row in rows:
        rest = TOKENS[runner.cache.valid(row) : 50]
        np.testing.assert_allclose(runner.prefill(row, rest), whole[49], atol=TOLERANCE)


def test_neighbours_are_prefilled_together_as_if_alone(session: Session, whole: np.ndarray) -> None:
    """Pieces of different lengths behind different beginnings; the logits are those of each one's last token."""
    runner = runner_for(session)
    starts, counts = [0, 33, 7, 40], [20, 1, 12, 3]
    rows = [runner.cache.allocate(64) for _ in starts]
    for row, start in zip(rows, starts, strict=True):
        if start:
            runner.prefill(row, TOKENS[:start])
    (group,) = runner.cache.groups
    for first, end in ((1, 4), (0, 2)):  # a row twice: bound shapes are used again with other lengths
        places = [(runner.cache.valid(row), counts[rows.index(row)]) for row in group.rows[first:end]]
        logits = runner.prefill_rows(group.rows[first:end], [TOKENS[at : at + n] for at, n in places])
        np.testing.assert_allclose(logits, whole[[at + n - 1 for at, n in places]], atol=TOLERANCE)
    for row in rows:
        valid = runner.cache.valid(row)
        np.testing.assert_allclose(runner.prefill(row, TOKENS[valid : valid + 5]), whole[valid + 4], atol=TOLERANCE)


def test_a_row_that_sits_out_a_step_is_not_disturbed(session: Session, whole: np.ndarray) -> None:
    runner = runner_for(session)
    first, second = runner.cache.allocate(40), runner.cache.allocate(40)
    runner.prefill(first, TOKENS[:20])
    runner.prefill_chunk(second, TOKENS[:8])
    for position in range(20, 30):
        advance(runner, [[TOKENS[position]], []])
    assert runner.cache.valid(second) == 8
    np.testing.assert_allclose(runner.prefill_chunk(second, TOKENS[8:30]), whole[29], atol=TOLERANCE)
    np.testing.assert_allclose(advance(runner, [[TOKENS[30]], [TOKENS[30]]]), whole[[30, 30]], atol=TOLERANCE)


def test_all_shapes_share_one_buffer_of_logits(session: Session, whole: np.ndarray) -> None:
    """As large as the largest run needs, however many shapes are bound, and shapes of before hold nothing."""
    runner = runner_for(session)
    rows = [runner.cache.allocate(200) for _ in range(4)]
    for length in range(1, 12):
        for row in rows:
            logits = runner.score(row, TOKENS[runner.cache.valid(row) :][:length])
            end = runner.cache.valid(row)
            np.testing.assert_allclose(logits, whole[end - length : end], atol=TOLERANCE)
    assert runner.logits.num_bytes == 11 * 101 * 4
    held = {id(array.base) for shape in runner._shapes.values() for array in shape.binding._outputs.values()}
    assert len(held) == 1


@pytest.mark.parametrize("limit", [1, 4 * 4 * 64 * 10, 4 * 4 * 400 * 30])
def test_attentions_scores_bound_the_chunk(
    session: Session, whole: np.ndarray, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[heads, T, S] of float32, which the CPU's kernel holds as a whole: the longer the row, the shorter a run."""
    monkeypatch.setattr("genai.runtime.runner._ATTENTION_BYTES", limit)
    runner = runner_for(session, chunk=100)
    for run in (runner.prefill, runner.score):
        row = runner.cache.allocate(1)
        np.testing.assert_allclose(np.atleast_2d(run(row, TOKENS))[-1], whole[-1], atol=TOLERANCE)
        runner.cache.free(row)
    for _, num_rows, capacity, num_tokens, *_ in runner._shapes:
        assert num_tokens == 1 or 4 * 4 * num_rows * num_tokens * capacity <= limit
    assert max(key[3] for key in runner._shapes) > 1 or limit == 1


def test_rewound_and_forked_rows_go_on_as_if_they_had_always_been_so(session: Session, whole: np.ndarray) -> None:
    runner = runner_for(session)
    row = runner.cache.allocate(200)
    runner.prefill(row, TOKENS[:60])
    fork = runner.cache.fork(row, 60)
    runner.prefill(row, TOKENS[60:100])
    runner.cache.keep(row)
    runner.prefill(row, [5] * 50)
    if runner.cache.has_states:
        runner.cache.go_back(row)
    else:
        runner.cache.truncate(row, 100)
    np.testing.assert_allclose(runner.prefill(row, TOKENS[100:150]), whole[149], atol=TOLERANCE)
    np.testing.assert_allclose(runner.prefill(fork, TOKENS[60:150]), whole[149], atol=TOLERANCE)


def test_a_saved_row_goes_on_bit_for_bit(session: Session) -> None:
    runner = runner_for(session)
    row = runner.cache.allocate(200)
    runner.prefill(row, TOKENS[:100])
    states = [*runner.cache.export_states(row)]
    restored = runner.cache.import_row(runner.cache.export_row(row), runner.cache.valid(row), states=states)
    for each in (row, restored):
        runner.cache.reserve({each: 101})
    logits = advance(runner, [[7], [7]])
    np.testing.assert_array_equal(logits[0], logits[1])


def test_a_full_row_is_not_written_beyond(session: Session) -> None:
    runner = runner_for(session, num_slots=64)
    row = runner.cache.allocate(60)
    assert runner.cache.capacity(row) == 64 - runner.cache.reserved_slots
    runner.prefill(row, TOKENS[: runner.cache.capacity(row)])
    with pytest.raises(CapacityError, match="holds 64 tokens"):
        runner.prefill(row, [1])
    with pytest.raises(CapacityError, match="full at 64"):
        advance(runner, [[1]])


def test_a_steady_step_allocates_nothing_and_rebinds_only_what_a_device_must_be_shown(
    session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = runner_for(session)
    row = runner.cache.allocate(300)
    runner.prefill(row, TOKENS[: 225 - runner.cache.reserved_slots])  # 15 steps within one capacity
    advance(runner, [[1]])
    steps = dict(runner._shapes)
    pointers = pointers_of(runner)
    bound: list[str] = []
    bind = Binding.bind_host_input
    monkeypatch.setattr(Binding, "bind_host_input", lambda *given: (bound.append(given[1]), bind(*given)))
    logits = [advance(runner, [[1]]).ctypes.data for _ in range(14)]
    changing = ["input_ids", "nonpad_kv_seqlen", "position_ids", "write_indices"]
    changing += ["token_counts"] if runner.cache.has_states else []
    changing += ["window_kv_seqlen", "window_write_indices"] if runner.cache.window is not None else []
    assert sorted(bound) == sorted(changing * 14 if session.provider.name == "double" else [])
    assert runner._shapes == steps
    assert len(set(logits)) == 1
    assert pointers == pointers_of(runner)


def pointers_of(runner: Runner) -> list[int]:
    """Where the first group begins in each cache."""
    view = runner.cache.group_view(runner.cache.groups[0], 1)
    return [pointer for pointer, _ in runner.cache.pointers(view)]


def test_bound_shapes_are_limited(session: Session) -> None:
    runner = runner_for(session)
    row = runner.cache.allocate(1)
    for length in range(1, 60):
        runner.cache.truncate(row, 0)
        runner.prefill(row, TOKENS[:length])
    assert len(runner._shapes) <= 24


_IN_PLACE = """
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
import numpy as np, psutil
sys.path.insert(0, {root!r})
import logging
logging.basicConfig(level=logging.DEBUG)
from genai.config import CONFIG_FILE, EngineConfig, ModelConfig
from genai.runtime.session import Session
from tests.device_double import DoubleIOBinding, registered
from tests.runtime.test_runner import advance, runner_for, TOKENS
session = Session(Path({model!r}), EngineConfig(device="cpu", num_threads=1))
logging.getLogger().setLevel(logging.WARNING)
runner = runner_for(session)
row = runner.cache.allocate(64)
runner.prefill(row, TOKENS[:8])
before = [data.copy() for data in runner.cache.export_row(row)]
resident = []
for step in range(2000):
    runner.cache.truncate(row, 8 + step % 50)
    advance(runner, [[step % 101]])
    if step in (200, 1999):
        resident.append(psutil.Process().memory_info().rss)
runner.cache.truncate(row, 8)
assert all((a == b).all() for a, b in zip(before, runner.cache.export_row(row))), "old entries changed"
print("GREW", resident[1] - resident[0])
"""


def test_the_cache_is_updated_in_place_and_memory_stays_flat(tmp_path: Path) -> None:
    """ONNX Runtime, at its most verbose, does not complain that TensorScatter copies; 1,800 steps take no memory."""
    model = build_random_model(tmp_path)
    script = _IN_PLACE.format(root=str(Path(__file__).parents[2]), model=str(model))
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert "[V:onnxruntime" in result.stderr, "the log is not verbose: the next line would prove nothing"
    assert "in-place optimization not activated" not in result.stderr
    assert int(result.stdout.split()[1]) < 1_000_000


def test_inputs_that_cannot_be_sent_are_a_failed_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The sequences in it end; what ONNX Runtime raises would end the engine."""
    with registered():
        runner = runner_for(Session(path, EngineConfig(device="double", num_threads=1)))  # type: ignore[arg-type]
    row = runner.cache.allocate(8)
    runner.prefill(row, TOKENS[:4])
    advance(runner, [[1]])

    def full(*arguments: object) -> None:
        raise RuntimeError("out of device memory")

    monkeypatch.setattr(DoubleIOBinding, "bind_input", full)
    with pytest.raises(GraphRunError, match="out of device memory"):
        advance(runner, [[1]])
    assert runner.cache.valid(row) == 5
