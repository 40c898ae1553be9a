"""A lone token that products are given twice, and attention once: the bits of the same graph without that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from genai.build import repeated
from genai.build.package import build_package
from genai.runtime import same_bits
from genai.runtime.runner import BoundShape, Runner
from genai.runtime.same_bits import Padding
from tests.build import tiny
from tests.families.cases import CASES
from tests.families.made import Made, save
from tests.families.test_adapters import adapted
from tests.families.test_features import loaded, logprobs

TOKENS = tiny.tokens(30)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have small models written so, too."""
    monkeypatch.setattr(repeated, "_LARGE", 1)
    monkeypatch.setattr(repeated, "_LARGE_PRODUCT", 1)


def packages(made: Made, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """One package whose graph takes a token twice, and one whose graph does not."""
    checkpoint = made.checkpoint(CASES[name]).folder
    plain = build_package(checkpoint, folder / "plain", precision="int4")
    monkeypatch.setattr(repeated, "_LARGE", 1)
    monkeypatch.setattr(repeated, "_LARGE_PRODUCT", 1)
    return build_package(checkpoint, folder / "twice", precision="int4"), plain


def one_by_one(runner: Runner, monkeypatch: pytest.MonkeyPatch) -> tuple[list[np.ndarray], list[tuple[int, ...]]]:
    """Logits of a text whose tokens are run one at a time, and how many ids, positions and logits each run had."""
    run_of, seen = runner._run, []

    def run(bound: BoundShape, num_logits: int) -> np.ndarray:
        seen.append((bound.input_ids.size, bound.position_ids.size, bound.logits_positions.size))
        return run_of(bound, num_logits)

    row = runner.cache.allocate(len(TOKENS) + 1)
    with monkeypatch.context() as patched:
        patched.setattr(runner, "_run", run)
        logits = [runner.run_row(row, [token], 1)[0].copy() for token in TOKENS]
    runner.cache.free(row)
    return logits, seen


@pytest.mark.parametrize("name", ["llama", "llama all key heads", "qwen3", "gemma3", "gemma4", "gpt2"])
def test_a_token_given_twice_has_the_bits_of_one_run_with_others(
    made: Made, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of norms of heads, windows, layers that share keys and are narrowed, learned positions and heads alone, too."""
    twice, plain = packages(made, tmp_path, name, monkeypatch)
    with loaded(twice) as llm, loaded(plain) as other:
        other._runner.pad(Padding(least=2))
        row = other._runner.cache.allocate(len(TOKENS) + 1)
        expected = [each.tobytes() for each in other._runner.score(row, TOKENS)]
        other._runner.cache.free(row)
        for runner, padding, sizes in (
            (llm._runner, Padding(least=2, repeats=True), (2, 1, 1)),
            (llm._runner, Padding(least=2), (2, 2, 2)),
            (other._runner, Padding(least=2), (2, 2, 2)),
        ):
            runner.pad(padding)
            logits, seen = one_by_one(runner, monkeypatch)
            assert [each.tobytes() for each in logits] == expected
            assert set(seen) == {sizes}
        llm._runner.pad(Padding())
        assert set(one_by_one(llm._runner, monkeypatch)[1]) == {(1, 1, 1)}, "nothing is added where nothing asks for it"


def test_others_beside_it_are_as_without(made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several rows, and a lone one's several tokens, are run as they are in any graph."""
    twice, plain = packages(made, tmp_path, "llama", monkeypatch)
    results = []
    for package, padding in ((twice, Padding(least=2, repeats=True)), (plain, Padding(least=2))):
        with loaded(package) as llm:
            runner = llm._runner
            runner.pad(padding)
            rows = [runner.cache.allocate(40) for _ in range(3)]
            made_of = [runner.prefill_rows(rows, [TOKENS[:3], TOKENS[:1], TOKENS[4:9]]).copy()]
            made_of.append(runner.advance(runner.cache.groups[0], [[3], [4], [5]]).copy())
            made_of.append(runner.run_row(rows[1], TOKENS[:2], 2).copy())
            made_of.append(runner.run_row(rows[1], TOKENS[:5], 1).copy())
            results.append([each.tobytes() for each in made_of])
    assert results[0] == results[1]


@pytest.mark.parametrize(
    ("can_repeat", "told"), [(True, "a second row for a lone token's products"), (False, "at least 2 positions a run")]
)
def test_what_is_found_on_kernels_that_take_a_lone_row_in_another_way(
    made: Made, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, told: str, *, can_repeat: bool
) -> None:
    twice, plain = packages(made, tmp_path, "llama", monkeypatch)
    run_of = Runner._run

    def run(runner: Runner, bound: BoundShape, num_logits: int) -> np.ndarray:
        logits = run_of(runner, bound, num_logits)
        return logits + np.float32(bound.input_ids.size == 1)

    monkeypatch.setattr(Runner, "_run", run)
    with loaded(twice if can_repeat else plain) as llm:
        assert llm.same_bits.summary == f"kept by {told}"
        assert llm._runner.padding == Padding(least=2, repeats=can_repeat)
    monkeypatch.setattr(same_bits, "find_padding", lambda *_: pytest.fail("asked again"))
    with loaded(twice if can_repeat else plain) as llm:
        assert llm._runner.padding == Padding(least=2, repeats=can_repeat), "as was kept"


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("name", "precision", "is_so"),
    [
        ("llama", "int4", True),
        ("llama", "int8", False),
        ("llama", "f32", False),
        ("qwen3_next", "int4", False),
        ("deepseek_v3", "int4", False),
    ],
)
def test_which_graphs_are_written_so(made: Made, tmp_path: Path, name: str, precision: str, *, is_so: bool) -> None:
    """Those of plain attention whose products may have 4 bits."""
    package = build_package(made.checkpoint(CASES[name]).folder, tmp_path / "package", precision=precision)  # type: ignore[arg-type]
    with loaded(package) as llm:
        assert llm._runner.can_repeat == is_so


def test_an_adapter_is_added_to_a_token_given_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft")
    path, _ = adapted(save(CASES["llama"], tmp_path / "checkpoint"), tmp_path / "adapter")
    results = []
    for large, padding in ((repeated._LARGE, Padding(least=2)), (1, Padding(least=2, repeats=True))):
        monkeypatch.setattr(repeated, "_LARGE", large)
        package = build_package(
            tmp_path / "checkpoint", tmp_path / str(large), precision="int4", lora_slots=1, max_rank=4
        )
        with loaded(package) as llm:
            llm.load_adapter("mine", path)
            llm._runner.pad(padding)
            told = {"max_new_tokens": 12, "ignore_eos": True, "logprobs": True}
            results += [llm.generate(TOKENS[:5], **told, adapter=name).choices[0] for name in ("mine", None)]
    assert [logprobs(each) for each in results[:2]] == [logprobs(each) for each in results[2:]]
    assert logprobs(results[0]) != logprobs(results[1])
