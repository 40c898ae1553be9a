"""Layers that keep their windows alone: transformers' logits in any run, every feature of the engine, equal bits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from genai import contract
from genai.build.package import build_package
from genai.llm.llm import LLM
from genai.runtime.windows import WindowRoom
from tests.build import tiny
from tests.families import oracle
from tests.families.cases import CASES
from tests.families.made import Made
from tests.families.oracle import TOLERANCE
from tests.families.test_features import CHUNK, DRAWN, GREEDY, loaded, same

LIMITS = "sliding_window", "attention_chunk_size"
WINDOWED = [name for name, case in CASES.items() if any(0 < (case.options.get(limit) or 0) < 40 for limit in LIMITS)]
FEW = pytest.mark.parametrize("name", ["gemma3", "gemma4", "gpt_oss"])
"""Caches of one width, some that layers share and that differ, and a reserved slot."""
LONG = tiny.tokens(190, seed=1)
"""Several times what is kept of a row."""


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have keys move by few slots, and hardly more kept than windows."""
    monkeypatch.setattr("genai.build.windows.block_slots", lambda head_dim: 16)
    for name in ("_MARGIN", "_LONG_DRAFT"):
        monkeypatch.setattr(f"genai.runtime.windows.{name}", 8)


@pytest.fixture
def package(made: Made, tmp_path: Path, name: str, small: None) -> Path:
    folder = made.checkpoint(CASES[name]).folder
    return build_package(folder, tmp_path / "package", precision="f32", max_seq_len=CASES[name].max_seq_len)


@pytest.fixture
def both(package: Path, made: Made, name: str) -> Iterator[tuple[LLM, LLM]]:
    """A model that keeps windows alone, and one that keeps all."""
    with loaded(package) as kept, loaded(made.package(CASES[name], "safetensors"), prefix_cache_bytes=0) as whole:
        assert room_of(kept).slots * 3 < len(LONG)
        yield kept, whole
        for llm in (kept, whole):
            llm.loop.settle()
            assert llm._runner.cache.rows == ()


def room_of(llm: LLM) -> WindowRoom:
    room = llm._runner.cache.window
    assert room is not None
    return room


@pytest.mark.parametrize("name", WINDOWED)
def test_logits_are_those_of_transformers(made: Made, package: Path, name: str) -> None:
    """Of prompts in every kind of run, and of a text that is several times longer than what is kept of it."""
    checkpoint = made.checkpoint(CASES[name])
    oracle.check(package, checkpoint.prompts, checkpoint.logits)
    expected = tiny.expected(tiny.load(checkpoint.folder), LONG)
    several = 10 * TOLERANCE * expected.std()  # measured: 5 of them, where an expert was chosen narrowly
    options = GREEDY | {"max_new_tokens": 70}
    with loaded(package, prefix_cache_bytes=0) as kept:
        assert any(cache.is_windowed for cache in kept.cache_shape.caches)
        assert room_of(kept).slots < len(LONG) / 2
        np.testing.assert_allclose(kept.logits(LONG), expected, atol=several)
        text = kept.generate(LONG[:100], **options)
    with loaded(made.package(CASES[name], "safetensors"), prefix_cache_bytes=0) as whole:
        same(text, whole.generate(LONG[:100], **options))


@FEW
def test_batches_drafts_forks_and_beams(both: tuple[LLM, LLM]) -> None:
    kept, whole = both
    prompts = [LONG, LONG[:3], LONG[50:140], LONG[20:130]]
    longer = {"max_new_tokens": 60}
    for options in (GREEDY | longer, DRAWN | longer, GREEDY | longer | {"speculative": "prompt_lookup"}):
        for one, other in zip(kept.generate(prompts, **options), whole.generate(prompts, **options), strict=True):
            same(one, other)
    several = [llm.generate(LONG[:150], n=3, **DRAWN | longer) for llm in both]
    for one, other in zip(*(result.choices for result in several), strict=True):
        assert one.token_ids == other.token_ids
    beams = {"num_beams": 3, "max_new_tokens": 40, "ignore_eos": True}
    assert kept.generate(LONG[:150], **beams).token_ids == whole.generate(LONG[:150], **beams).token_ids


@FEW
def test_what_was_said_before_is_not_run_again(both: tuple[LLM, LLM]) -> None:
    """A chat's next turn, in the row that is there and, where others have taken it, by way of the prefix cache."""
    kept, whole = both
    first = kept.generate(LONG[:120], **GREEDY)
    turn = [*LONG[:120], *first.token_ids, 7, 9]
    second = kept.generate(turn, **GREEDY)
    assert second.usage.cached_tokens == len(turn) - 3
    same(second, whole.generate(turn, **GREEDY))
    for row in kept._runner.cache.idle:
        kept._runner.cache.forget(row)
    again = kept.generate(turn, **GREEDY)
    assert again.usage.cached_tokens >= len(turn) - 17
    same(again, second)
    other = kept.generate([*LONG[:100], *LONG[:60]], **GREEDY)
    assert other.usage.cached_tokens == 96, "the blocks that both begin with, long gone from the row"
    same(other, whole.generate([*LONG[:100], *LONG[:60]], **GREEDY))


@FEW
def test_texts_go_back_and_are_put_aside(both: tuple[LLM, LLM], tmp_path: Path) -> None:
    texts = []
    for llm in both:
        with llm.generator(ignore_eos=True, max_new_tokens=200) as generator:
            generator.append_input_tokens(LONG[:40])
            for _ in range(80):
                generator.generate_next_token()
            for target in (118, 60, 41):  # what is there; what is gone; nearly everything
                generator.rewind_to(target)
                generator.append_input_tokens(LONG[target : target + 50])
                for _ in range(20):
                    generator.generate_next_token()
            generator.save(tmp_path / "session.safetensors")
            texts.append(generator.token_ids + [generator.generate_next_token() for _ in range(20)])
        with llm.restore(tmp_path / "session.safetensors") as restored:
            [restored.generate_next_token() for _ in range(20)]
            texts.append(restored.token_ids)
    assert texts[1:] == texts[:-1]
    assert len(texts[0]) == 41 + 50 + 20 + 20


@FEW
def test_who_gives_way_goes_on_as_before(package: Path, made: Made, name: str) -> None:
    """In a cache for hardly more than one of them."""
    with loaded(package) as llm:
        per_token = llm.cache_shape.bytes_per_token
    for prefix_bytes in (0, 4_000_000):
        with (
            loaded(package, kv_cache_bytes=320 * per_token, prefix_cache_bytes=prefix_bytes) as kept,
            loaded(made.package(CASES[name], "safetensors"), prefix_cache_bytes=0) as whole,
        ):
            prompts = [LONG[:100], LONG[50:140], LONG[20:130]]
            options = GREEDY | {"max_new_tokens": 60}
            for one, other in zip(kept.generate(prompts, **options), whole.generate(prompts, **options), strict=True):
                same(one, other)


@FEW
def test_memory_holds_longer_texts(both: tuple[LLM, LLM]) -> None:
    kept, _ = both
    cache, room = kept._runner.cache, room_of(kept)
    row = cache.allocate(len(LONG))
    kept._runner.prefill(row, LONG)
    per_token, of_windows = cache.shape.bytes_per_token, cache.shape.window_bytes_per_token
    assert 0 < of_windows < per_token
    assert cache.held_bytes(row) <= len(LONG) * (per_token - of_windows) + room.slots * of_windows
    cache.free(row)


def with_long_context(name: str, folder: Path) -> Path:
    """A family's package for long texts, whose keys move by as many slots as kernels add up."""
    options = CASES[name].options | {"head_dim": 64, "sliding_window": 100, "max_position_embeddings": 2048}
    tiny.save(tiny.make_model(CASES[name].model_type, **options), folder / "model")
    return build_package(folder / "model", folder / "package", precision="f32")


@FEW
def test_moved_keys_give_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    package, tokens = with_long_context(name, tmp_path), tiny.tokens(1000)
    given = []
    for is_moved in (True, False):
        if not is_moved:
            monkeypatch.setattr("genai.runtime.windows._LONG_DRAFT", 2048)
        with loaded(package, prefix_cache_bytes=0) as llm:
            assert (room_of(llm).slots < len(tokens)) is is_moved
            given.append(
                (llm.logits(tokens).tobytes(), llm.generate(tokens, **GREEDY | {"max_new_tokens": 150}).choices)
            )
    assert given[0] == given[1]


@pytest.mark.parametrize("name", ["gemma3", "gemma4"])
def test_a_token_keeps_its_bits_wherever_keys_lie(tmp_path: Path, name: str) -> None:
    """In pieces, one by one, beside others, and after a hit: a mixture of experts would not keep them anyway."""
    package, tokens, alone = with_long_context(name, tmp_path), tiny.tokens(1100), GREEDY | {"max_new_tokens": 150}
    with loaded(package, prefill_chunk=512, prefix_cache_bytes=0) as llm:
        assert llm.same_bits.padding is not None
        assert room_of(llm).slots < 1100
        whole, text = llm.logits(tokens), llm.generate(tokens, **alone)
    with loaded(package, prefill_chunk=CHUNK, prefix_cache_bytes=40_000_000) as llm:
        assert llm.logits(tokens).tobytes() == whole.tobytes()
        for prompts in ([tokens], [tokens[:5], tokens, tokens[300:1000]]):
            texts = llm.generate(prompts, **alone)
            assert texts[len(prompts) // 2].choices == text.choices
        assert texts[1].usage.cached_tokens > 1000


def test_windows_that_hardly_any_text_outgrows_are_kept_whole(tmp_path: Path) -> None:
    model = tiny.make_model("gemma3_text", **CASES["gemma3"].options)
    tiny.save(model, tmp_path / "model")
    package = build_package(tmp_path / "model", tmp_path / "package", precision="f32")
    with loaded(package) as llm:
        assert not any(cache.is_windowed for cache in llm.cache_shape.caches)
        assert llm._runner.cache.window is None
        names = {tensor.name for tensor in llm._runner._session.inputs}
        assert contract.WINDOW_WRITE_INDICES not in names
