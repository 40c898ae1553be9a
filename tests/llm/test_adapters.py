"""Adapters of a loaded model: PEFT's logits, whoever runs beside, and an adapter as a part of what a text is."""

from __future__ import annotations

import runpy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

import genai
from benchmarks import adapters
from genai.build.package import build_package
from genai.cli.main import exit_code
from genai.errors import AdapterError, ConfigError
from genai.llm.llm import LLM
from tests.build import tiny
from tests.build.adapters import published
from tests.families import oracle

pytest.importorskip("peft")

PROMPTS = [tiny.tokens(40), tiny.tokens(9, 1), tiny.tokens(23, 2)]
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": {},
    # heads' rows of q, k and v lie together, biases, other names
    "gpt_neox": {"num_key_value_heads": 4, "intermediate_size": 128},
    # products of two fused matrices each, norms on both sides
    "glm4": {"head_dim": 16, "partial_rotary_factor": 0.5},
}


class Base:
    """A family's tiny base, its package with room, and two adapters of it with what PEFT makes of them."""

    def __init__(self, family: str, folder: Path) -> None:
        self.folder = folder
        self.model = tiny.make_model(family, **FAMILIES[family])
        self.checkpoint = tiny.save(self.model, folder / "checkpoint")
        self.package = build_package(self.checkpoint, folder / "package", precision="f32", lora_slots=3, max_rank=8)
        wrapped = {
            "one": published.adapted(self.model, seed=1),
            "two": published.adapted(self.model, seed=2, rank=8, use_rslora=True),
        }
        self.paths = {name: published.save(each, folder / name) for name, each in wrapped.items()}
        self.logits = {name: published.logits(each, PROMPTS) for name, each in wrapped.items()}
        self.logits |= {"": published.logits(self.model, PROMPTS)}


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(request.param, tmp_path_factory.mktemp("adapters"))


@contextmanager
def load(base: Base, *names: str, **options: Any) -> Iterator[LLM]:
    with tiny.loaded(base.package, **({"max_batch": 8, "kv_cache_bytes": 12_000_000} | options)) as llm:
        for name in names:
            llm.load_adapter(name, base.paths[name])
        yield llm


def test_logits_are_pefts_alone_and_side_by_side(base: Base) -> None:
    with load(base, "one", "two") as llm:
        for name, wanted in base.logits.items():
            oracle.close([llm.logits(prompt, adapter=name or None) for prompt in PROMPTS], wanted)
        spread = base.logits[""][0].std()
        assert np.abs(base.logits["one"][0] - base.logits[""][0]).max() > 0.1 * spread
        _check_batch(llm, base)


def _check_batch(llm: LLM, base: Base) -> None:
    """Rows with one, the other and none, prefilled and decoded together."""
    runner = llm._runner
    memory, cache = runner.adapters, runner.cache
    assert memory is not None
    names = ["two", "", "one", "one"]
    rows = [cache.allocate(64) for _ in names]
    for row, name in zip(rows, names, strict=True):
        memory.use(row, llm.adapters.get(name or None))
    (group,) = cache.groups
    assert group.rows == tuple(rows)
    order = [2, 1, 0, 2]
    results: list[list[np.ndarray]] = [[] for _ in names]
    for start, end in ((0, 5), (5, 6), (6, 7), (7, 9)):
        given = [PROMPTS[prompt][start:end] for prompt in order]
        for index, logits in enumerate(runner.advance(group, given)):
            results[index].append(logits[: end - start].copy())
    for index, (name, prompt) in enumerate(zip(names, order, strict=True)):
        oracle.close([np.concatenate(results[index])], [base.logits[name][prompt][:9]])
    for row in rows:
        memory.use(row, None)
        cache.free(row)


def test_merged_is_applied(base: Base, tmp_path: Path) -> None:
    package = build_package(base.checkpoint, tmp_path, precision="f32", merge_lora=base.paths["two"])
    oracle.close(oracle.whole(package, PROMPTS), base.logits["two"])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base("llama", tmp_path_factory.mktemp("llama"))


def test_integers_are_adapted_as_floats_are(llama: Base, tmp_path: Path) -> None:
    """What integers cost with an adapter, whose numbers are bytes then, is what they cost without."""
    package = build_package(llama.checkpoint, tmp_path, precision="int8", lora_slots=1, max_rank=4)
    with tiny.loaded(package) as llm:
        llm.load_adapter("one", llama.paths["one"])
        ours = llm.logits(PROMPTS[0], adapter="one")
        without = llm.logits(PROMPTS[0])
    cost, cost_without = (
        oracle.divergence(logits, llama.logits[name][0]) for name, logits in {"one": ours, "": without}.items()
    )
    assert cost < 2 * cost_without  # 0.0055 and 0.0049
    assert oracle.divergence(without, llama.logits["one"][0]) > 20 * cost  # 1.15


def expected(base: Base, name: str, prompt: list[int], count: int) -> list[int]:
    """What the model with an adapter goes on with, alone and without any cache of earlier prompts."""
    with load(base, *filter(None, [name]), prefix_cache_bytes=0) as llm:
        return llm.generate(prompt, adapter=name or None, **greedy(count)).token_ids


def greedy(count: int) -> dict[str, Any]:
    return {"max_new_tokens": count, "temperature": 0.0, "eos_token_ids": ()}


def test_an_adapter_is_part_of_what_a_text_begins_with(llama: Base) -> None:
    """One prompt by turns: neither the prefix cache nor an idle row gives what another adapter has computed."""
    wanted = {name: expected(llama, name, PROMPTS[0], 12) for name in ("", "one", "two")}
    assert len({tuple(tokens) for tokens in wanted.values()}) == 3
    with load(llama, "one", "two") as llm:
        for name in ("one", "", "two", "one", "", "two"):
            result = llm.generate(PROMPTS[0], adapter=name or None, **greedy(12))
            assert result.token_ids == wanted[name]
        assert result.usage.cached_tokens > 0  # its own
        llm.unload_adapter("one")
        llm.load_adapter("again", llama.paths["one"])  # the same numbers
        result = llm.generate(PROMPTS[0], adapter="again", **greedy(12))
        assert result.token_ids == wanted["one"]
        assert result.usage.cached_tokens > 0


def test_beams_drafts_and_several_texts_have_it(llama: Base) -> None:
    with load(llama, "one", "two") as llm:
        plain = llm.generate(PROMPTS[0], adapter="one", **greedy(12))
        drafted = llm.generate(PROMPTS[0], adapter="one", speculative="prompt_lookup", **greedy(12))
        assert drafted.token_ids == plain.token_ids
        beams = llm.generate(PROMPTS[1], adapter="two", num_beams=3, max_new_tokens=6, eos_token_ids=())
    merged = build_package(llama.checkpoint, llama.folder / "merged", precision="f32", merge_lora=llama.paths["two"])
    with tiny.loaded(merged) as llm:
        alone = llm.generate(PROMPTS[1], num_beams=3, max_new_tokens=6, eos_token_ids=())
    assert beams.token_ids == alone.token_ids


def test_a_session_goes_on_with_its_adapter_alone(llama: Base, tmp_path: Path) -> None:
    wanted = expected(llama, "one", PROMPTS[1], 8)
    with load(llama, "one", "two") as llm:
        with llm.generator(adapter="one", **greedy(8)) as generator:
            generator.append_input_tokens(PROMPTS[1])
            first = [generator.generate_next_token() for _ in range(4)]
            generator.save(tmp_path / "session")
        with llm.restore(tmp_path / "session", adapter="one") as generator:
            assert first + [generator.generate_next_token() for _ in range(4)] == wanted
        for other in ("two", None):
            with pytest.raises(ConfigError, match="another model, adapter"):
                llm.restore(tmp_path / "session", adapter=other)


def test_loading_and_unloading_disturb_nobody(llama: Base) -> None:
    """A text keeps its adapter until it ends, and only then the place is somebody else's."""
    wanted = expected(llama, "one", PROMPTS[0], 60)
    with load(llama, "one", "two") as llm:
        pieces = llm.stream(PROMPTS[0], adapter="one", **greedy(60))
        tokens = list(next(pieces).token_ids)
        llm.unload_adapter("one")
        with pytest.raises(ConfigError, match="'one': no such adapter is loaded; loaded: 'two'"):
            llm.generate(PROMPTS[0], adapter="one")
        llm.load_adapter("three", llama.paths["two"])
        for _ in range(3):
            assert llm.generate(PROMPTS[1], adapter="three", **greedy(4)).token_ids
            llm.unload_adapter("three")
            llm.load_adapter("three", llama.paths["two"])
        with pytest.raises(AdapterError, match=r"3 are loaded \(.*one until its texts end.*--lora-slots"):
            llm.load_adapter("four", llama.paths["one"])
        for piece in pieces:
            tokens += piece.token_ids
        assert tokens == wanted
        llm.load_adapter("four", llama.paths["one"])
        assert llm.generate(PROMPTS[0], adapter="four", **greedy(60)).token_ids == wanted
        assert list(llm.adapters.paths) == ["two", "three", "four"]


def test_logits_are_never_the_bases_because_an_adapter_has_gone(llama: Base) -> None:
    """Unloaded, and its place taken, between being asked for by name and being used."""
    with load(llama, "one") as llm:
        gone = llm.adapters.get("one")
        llm.unload_adapter("one")
        for name in ("a", "b", "c"):
            llm.load_adapter(name, llama.paths["two"])
        with pytest.raises(ConfigError, match="'one' has been unloaded; load it again"):
            llm.loop.call(lambda engine: engine.score(PROMPTS[0], gone))


def test_texts_have_their_bits_beside_others(llama: Base, tmp_path: Path) -> None:
    """With an adapter and without: whole, and one by one beside rows with others."""
    package = build_package(llama.checkpoint, tmp_path, precision="auto", lora_slots=2, max_rank=8)
    with tiny.loaded(package, max_batch=8, kv_cache_bytes=12_000_000) as llm:
        assert llm.same_bits.padding is not None
        for name in ("one", "two"):
            llm.load_adapter(name, llama.paths[name])
        runner, names = llm._runner, ("one", "two", None, "one")
        assert runner.adapters is not None
        alone = [llm.logits(PROMPTS[0], adapter=name) for name in names]
        assert len({logits.tobytes() for logits in alone}) == 3
        rows = [runner.cache.allocate(64) for _ in names]
        for row, name in zip(rows, names, strict=True):
            runner.adapters.use(row, llm.adapters.get(name))
        (group,) = runner.cache.groups
        for place, token in enumerate(PROMPTS[0]):
            together = runner.advance(group, [[token]] * len(names))[:, 0]
            np.testing.assert_array_equal(together, [logits[place] for logits in alone])


def test_many_loads_leave_memory_as_it_is(llama: Base) -> None:
    with load(llama, "one") as llm:
        process = psutil.Process()
        for turn in range(200):
            llm.load_adapter("other", llama.paths["two"])
            if turn % 20 == 0:
                assert llm.generate(PROMPTS[1], adapter="other", **greedy(2)).token_ids
            llm.unload_adapter("other")
            if turn == 40:
                before = process.memory_info().rss
        assert process.memory_info().rss - before < 4_000_000


def test_what_is_wrong_is_said(llama: Base, tmp_path: Path) -> None:
    other = tiny.make_model("llama", hidden_size=32, num_attention_heads=2, num_key_value_heads=2)
    narrow = published.save(published.adapted(other, seed=3), tmp_path / "narrow")
    large = published.save(published.adapted(llama.model, seed=3, rank=12), tmp_path / "large")
    deep = tiny.make_model("llama", num_hidden_layers=4)
    foreign = published.save(published.adapted(deep, seed=3), tmp_path / "deep")
    with load(llama, "one") as llm:
        for path, said in {
            narrow: "of 96 inputs and 32 outputs, which here has 96 and 64: it belongs to another model",
            large: "has rank 12, and this package was built for at most 8; build it with --max-rank 12",
            foreign: "changes model.layers.3.*no room",
            tmp_path / "nothing": "no such adapter",
            tmp_path / ("x" * 300): "cannot be read: File name too long",
            Path("~nobody-at-all/x"): "write the folder out",
        }.items():
            with pytest.raises(AdapterError, match=said):
                llm.load_adapter("new", path)
        with pytest.raises(ConfigError, match="'one' is loaded already"):
            llm.load_adapter("one", llama.paths["one"])
        assert list(llm.adapters.paths) == ["one"]
    plain = build_package(llama.checkpoint, tmp_path / "plain", precision="f32")
    with tiny.loaded(plain) as llm:
        with pytest.raises(AdapterError, match="no room for adapters: build it from its weights with --lora-slots"):
            llm.load_adapter("one", llama.paths["one"])
        with pytest.raises(ConfigError, match="no room for adapters"):
            llm.generate(PROMPTS[0], adapter="one")
    with pytest.raises(AdapterError, match="it belongs to another model"):
        build_package(llama.checkpoint, tmp_path / "merged", precision="f32", merge_lora=foreign)


def test_a_package_is_built_with_room_for_what_is_given(llama: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENAI_HOME", str(llama.folder / "home"))
    options = {"precision": "f32", "device": "cpu", "max_batch": 2, "kv_cache_bytes": 4_000_000}
    with genai.load(llama.checkpoint, adapters={"one": llama.paths["one"]}, **options) as llm:
        oracle.close([llm.logits(PROMPTS[0], adapter="one")], llama.logits["one"])
        path = llm.path
    with genai.load(llama.checkpoint, adapters=llama.paths, **options) as llm:
        assert llm.path == path  # room for a few more
        assert list(llm.adapters.paths) == ["one", "two"]
    with genai.load(llama.checkpoint, **options) as llm:
        assert llm.adapters.num_places == 0


def test_the_example_answers_with_each(
    llama: Base, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    example = runpy.run_path(str(Path(genai.__file__).parents[1] / "examples" / "adapters.py"))
    monkeypatch.setenv("GENAI_HOME", str(llama.folder / "home"))
    assert (
        example["main"]([str(llama.checkpoint), "t9 t8", *(f"{name}={path}" for name, path in llama.paths.items())])
        == 0
    )
    said = capsys.readouterr().out
    texts = [part.split("\n\n", 1)[1] for part in said.split("## ")[1:]]
    assert [part.split("\n")[0] for part in said.split("## ")[1:]] == ["(none)", "one", "two"]
    assert len(set(texts)) == 3
    assert example["main"]([str(llama.checkpoint), "t9", f"one={llama.folder / 'nothing'}"]) == 1
    assert "no such adapter" in capsys.readouterr().err
    assert example["main"](["model", "prompt", "one"]) == 2


def test_the_command_line_takes_one(
    llama: Base, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GENAI_HOME", str(llama.folder / "home"))
    package = str(llama.folder / "built")
    room = ["--lora-slots", "1", "--max-rank", "4"]
    assert exit_code(["build", str(llama.checkpoint), "--output", package, "--precision", "f32", *room]) == 0
    capsys.readouterr()
    command = ["run", package, "t9 t8 t7", "--raw", "--temperature", "0", "-n", "8", "--device", "cpu"]
    assert exit_code([*command, "--adapter", f"mine={llama.paths['one']}"]) == 0
    adapted = capsys.readouterr().out
    assert exit_code(command) == 0
    assert capsys.readouterr().out != adapted
    with load(llama, "one") as llm:
        assert adapted.strip() == llm.generate("t9 t8 t7", adapter="one", temperature=0, max_new_tokens=8).text.strip()
    assert exit_code([*command, "--adapter", str(llama.paths["one"])]) == 2
    assert "must be NAME=PATH" in capsys.readouterr().err


def test_the_benchmark_measures_all_three(llama: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENAI_HOME", str(llama.folder / "home"))
    options = ["--rows", "3", "--adapters", "2", "--rank", "2", "--rounds", "1", "--threads", "1"]
    cell = adapters.compared(adapters.parser().parse_args([str(llama.checkpoint), *options]))
    assert all(seconds > 0 for rounds in cell.rounds.values() for each in rounds for seconds in each)
    assert "at most 1.15 wanted" in adapters.as_markdown(cell)
    assert set(adapters.as_json(cell)) == {"median_seconds", "ratios", "disturbance"}
