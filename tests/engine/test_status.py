"""What an engine says of its cache."""

from __future__ import annotations

from genai.engine.engine import Engine
from genai.engine.rows import RowStatus
from tests.engine.test_engine import config, engine_with, prompts, run, submit
from tests.fakes import shape


def check_bytes(engine: Engine) -> None:
    status = engine.cache_status
    assert status.used_bytes == sum(row.valid for row in status.rows) * shape().bytes_per_token
    assert status.total_bytes == 4096 * shape().bytes_per_token


def test_rows_are_those_of_the_cache() -> None:
    engine, runner = engine_with()
    check_bytes(engine)
    for prompt in prompts(6):
        submit(engine, prompt, config(20))
    seen = set()
    while engine.has_work:
        engine.step()
        cache = runner.cache
        assert engine.cache_status.rows == tuple(
            RowStatus(valid=cache.valid(row), capacity=cache.capacity(row)) for row in cache.rows
        )
        seen |= {row.capacity for row in engine.cache_status.rows}
        check_bytes(engine)
    assert len(seen) > 1
    assert engine.cache_status.rows == ()


def test_a_row_that_is_gone_meanwhile_is_left_out() -> None:
    """The layout changes on the engine's thread: its groups, and a moment later its lengths."""
    engine, runner = engine_with()
    submit(engine, [1, 2, 3], config(20))
    engine.step()
    del runner.cache._layout._valid[runner.cache.rows[0]]
    assert engine.cache_status.rows == ()


def test_prefixes_count_apart() -> None:
    engine, _ = engine_with(prefix_bytes=100_000)
    submit(engine, list(range(40)), config(4))
    run(engine)
    assert engine.cache_status.prefix_bytes == 32 * shape().bytes_per_token
    assert engine.cache_status.used_bytes == 0


def test_a_request_has_one_first_token() -> None:
    """Of three texts the first one's, of a search its end; tokens are counted all the same."""
    engine, _ = engine_with()
    submit(engine, [1, 2, 3], config(5, n=3, do_sample=True))
    submit(engine, [4, 5, 6], config(6, num_beams=2, num_return_sequences=2))
    submit(engine, [7, 8], config(0))
    run(engine)
    assert engine._metrics is not None
    value, label = engine._metrics.registry.get_sample_value, {"model": "fake"}
    assert value("genai_time_to_first_token_seconds_count", label) == 2
    assert value("genai_inter_token_latency_seconds_count", label) == 3 * 4
    assert value("genai_generated_tokens_total", label) == 3 * 5 + 2 * 6
    assert value("genai_request_duration_seconds_count", label) == 3
