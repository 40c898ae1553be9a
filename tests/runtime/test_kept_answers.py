"""Answers of the processor: the second load asks nothing, and anything that matters makes it ask again."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from genai.config import EngineConfig, ModelConfig
from genai.errors import RuntimeUnavailableError
from genai.runtime import kept_answers, probe, same_bits, step_cost
from genai.runtime.kept_answers import Answers
from genai.runtime.load import load_runner
from genai.runtime.same_bits import Padding, sizes_that_matter
from genai.runtime.windows import WindowRoom
from tests import device_double
from tests.tiny_package import tiny_package

CPU = EngineConfig(device="cpu", num_threads=1)
ALL = ["kernels", "bits", "cost"]


@pytest.fixture
def package(tmp_path: Path) -> Path:
    return tiny_package(tmp_path / "package")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is asked of the processor."""
    questions: list[str] = []
    find, measure, check = same_bits.find_padding, step_cost.measured_seconds, probe.check_kernels

    def checked(*arguments: object) -> None:
        questions.append("kernels")
        check(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(probe, "check_kernels", checked)

    def found(*arguments: object) -> object:
        questions.append("bits")
        return find(*arguments)  # type: ignore[arg-type]

    def measured(*arguments: object) -> object:
        questions.append("cost")
        return measure(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(same_bits, "find_padding", found)
    monkeypatch.setattr(step_cost, "measured_seconds", measured)
    return questions


def load(package: Path, config: EngineConfig = CPU, **how: bool) -> None:
    load_runner(package, ModelConfig.read(package), config, **how)


def files() -> list[Path]:
    return sorted(kept_answers.answers_folder().iterdir())


def test_the_second_load_asks_nothing_and_knows_the_same(package: Path, asked: list[str]) -> None:
    first, second = (load_runner(package, ModelConfig.read(package), CPU) for _ in range(2))
    assert asked == ALL
    assert (second.same_bits, second.max_seq_len) == (first.same_bits, first.max_seq_len)
    assert second.runner.padding == first.runner.padding
    assert second.runner.cache.policy == first.runner.cache.policy
    assert len(files()) == 3


@pytest.mark.parametrize("found", [None, Padding(), Padding(least=2), Padding(multiple=2)])
def test_paddings_are_kept(package: Path, monkeypatch: pytest.MonkeyPatch, found: Padding | None) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(same_bits, "PADDINGS", () if found is None else (found,))
        load(package)
    monkeypatch.setattr(same_bits, "find_padding", lambda *_: pytest.fail("asked"))
    loaded = load_runner(package, ModelConfig.read(package), CPU)
    assert loaded.same_bits.padding == found
    assert loaded.runner.padding == (found or Padding())
    assert loaded.runner.cache.policy.spare == (found or Padding()).most


def test_what_answers_depend_on_makes_a_load_ask_again(
    package: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def asks(config: EngineConfig = CPU) -> bool:
        asked.clear()
        load(package, config)
        return asked == ALL

    assert asks()
    assert asks(dataclasses.replace(CPU, num_threads=2))
    assert asks(dataclasses.replace(CPU, session_options={"session.intra_op.allow_spinning": "0"}))
    assert asks(dataclasses.replace(CPU, max_seq_len=1024, max_batch=2))
    assert not asks(), "what was asked first is still there"
    for where, name, value in [
        ("genai.runtime.providers.cpu", "processor", lambda: "another"),
        ("genai.runtime.kept_answers", "_code_digest", lambda: "another"),
        ("onnxruntime", "__version__", "1.99"),
    ]:
        with monkeypatch.context() as patch:
            patch.setattr(f"{where}.{name}", value)
            assert asks()
    for name, change in (("genai.json", b" "), ("model.onnx.data", b" ")):
        path = package / name
        path.write_bytes(path.read_bytes() + change)
        assert asks()
    assert not asks()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-20],
        lambda text: "",
        lambda text: "[]",
        lambda text: "[" * 200_000,
        lambda text: text.replace('"answer": true', '"answer": 1').replace(
            '"answer": {', '"answer": {"more": 1, "padding": [7, 7], "seconds": "none"}, "was": {'
        ),
        lambda text: json.dumps({**json.loads(text), "facts": {}}),
    ],
)
def test_what_is_damaged_or_of_something_else_is_asked_again(
    package: Path, asked: list[str], damage: Callable[[str], str]
) -> None:
    load(package)
    for file in files():
        file.write_text(damage(file.read_text()))
    asked.clear()
    load(package)
    assert asked == ALL
    load(package)
    assert asked == ALL


def test_kernels_that_fail_are_asked_again(package: Path, asked: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    expected = probe._expected
    with monkeypatch.context() as patch:
        patch.setattr(probe, "_expected", lambda layer, arrays: expected(layer, arrays) + 1)
        for _ in range(2):
            with pytest.raises(RuntimeUnavailableError):
                load(package)
    load(package)
    assert asked == ["kernels", "kernels", *ALL]


def test_it_may_be_asked_anew(package: Path, asked: list[str]) -> None:
    load(package)
    load(package, is_asked_anew=True)
    assert asked == ALL * 2
    load(package)
    assert asked == ALL * 2


def test_a_folder_that_cannot_be_written_costs_time_alone(
    package: Path, asked: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr(kept_answers, "answers_folder", lambda: tmp_path / "file" / "answers")
    load(package)
    load(package)
    assert asked == ALL * 2


def test_the_oldest_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_answers, "_MOST_FILES", 3)
    answers = Answers({})
    for number in range(5):
        answers.to("a question", [number]).keep(number)
    assert [answers.to("a question", [number]).value for number in range(5)] == [None, None, 2, 3, 4]
    assert len(files()) == 3


def test_nothing_is_kept_of_a_device_whose_processor_is_not_told(package: Path, asked: list[str]) -> None:
    with device_double.registered():
        for _ in range(2):
            load(package, EngineConfig(device="double"))  # type: ignore[arg-type]
    assert asked == ALL * 2
    assert not kept_answers.answers_folder().exists()


def test_how_much_memory_is_free_does_not_matter_where_there_is_enough() -> None:
    assert sizes_that_matter(5000, 2000, None) == sizes_that_matter(6000, 4000, None)
    assert sizes_that_matter(500, 400, None) != sizes_that_matter(6000, 4000, None)
    room = WindowRoom(window=512, block=128, longest=512, margin=64)
    assert sizes_that_matter(3000, 3000, room) != sizes_that_matter(20_000, 20_000, room)
    assert sizes_that_matter(20_000, 20_000, room) == sizes_that_matter(30_000, 20_000, room)


def test_a_model_that_is_known_here_loads_without_what_only_builders_and_probes_need(package: Path) -> None:
    heavy = ("onnx", "gguf", "genai.build.open", "transformers", "llguidance", "huggingface_hub")
    code = f"""
import sys
from pathlib import Path
import genai
from genai.runtime import kept_answers
kept_answers.answers_folder = lambda: Path({str(kept_answers.answers_folder())!r})
model = genai.load({str(package)!r}, device="cpu", num_threads=1)
model.generate("a", max_new_tokens=2)
print([name for name in {heavy!r} if name in sys.modules])
"""
    told = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        for _ in range(2)
    ]
    assert told == ["['onnx']", "[]"]
