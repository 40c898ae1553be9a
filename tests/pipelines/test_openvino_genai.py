"""The adapter's mapping, on a stand-in; and openvino-genai itself where the benchmarks' environment of it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from genai.errors import CapacityError, ConfigError, ModelError
from genai.options.generation_config import SIZE_MAX, GenerationConfig
from genai.pipelines import Device, DeviceFactory, GenerationInput, Pipeline, Text2TextPipelineFactory
from genai.pipelines.backends.openvino_genai import _KNOWN, generation_options
from tests.pipelines import fake_openvino
from tests.pipelines.options import GIVEN, config_with

NAME = "openvino-genai"
ROOT = Path(__file__).parents[2]
ENVIRONMENT = ROOT / "benchmarks" / ".envs" / NAME / "bin" / "python"
MODEL = ROOT / "benchmarks" / ".envs" / "models" / "smollm2-135m-instruct" / NAME

MAPPED: dict[str, tuple[str, object]] = {
    "max_new_tokens": ("max_new_tokens", 7),
    "max_length": ("max_new_tokens", 50),
    "min_new_tokens": ("min_new_tokens", 3),
    "min_length": ("min_new_tokens", 10),
    "eos_token_ids": ("stop_token_ids", {101, 257}),
    "ignore_eos": ("ignore_eos", True),
    "stop_token_ids": ("stop_token_ids", {101, fake_openvino.EOS}),
    "stop_strings": ("stop_strings", {"q"}),
    "n": ("num_return_sequences", 2),
    "sampling_config.do_sample": ("do_sample", True),
    "sampling_config.rng_seed": ("rng_seed", 9),
    "sampling_config.temperature": ("temperature", 0.5),
    "sampling_config.top_k": ("top_k", 4),
    "sampling_config.top_p": ("top_p", 0.25),
    "sampling_config.min_p": ("min_p", 0.125),
    "sampling_config.repetition_penalty": ("repetition_penalty", 1.5),
    "sampling_config.presence_penalty": ("presence_penalty", 0.5),
    "sampling_config.frequency_penalty": ("frequency_penalty", 0.25),
    "beam_search_config.num_beams": ("num_beams", 3),
    "beam_search_config.num_beam_groups": ("num_beam_groups", 2),
    "beam_search_config.diversity_penalty": ("diversity_penalty", 0.5),
    "beam_search_config.length_penalty": ("length_penalty", 2.0),
    "beam_search_config.num_return_sequences": ("num_return_sequences", 2),
    "beam_search_config.no_repeat_ngram_size": ("no_repeat_ngram_size", 2),
}


@pytest.fixture
def pipeline(monkeypatch: pytest.MonkeyPatch) -> Pipeline:
    for name, module in fake_openvino.modules().items():
        monkeypatch.setitem(sys.modules, name, module)
    return Text2TextPipelineFactory().create(NAME, "folder", [Device("GPU.0", {"PERFORMANCE_HINT": "LATENCY"})])


def theirs() -> fake_openvino.LLMPipeline:
    return fake_openvino.LLMPipeline.made


def test_every_option_is_mapped_or_refused() -> None:
    assert MAPPED.keys() | {"constraint", "beam_search_config.stop_criteria"} == _KNOWN
    assert GIVEN.keys() >= _KNOWN


@pytest.mark.parametrize("name", MAPPED)
def test_mapped(pipeline: Pipeline, name: str) -> None:
    option, value = MAPPED[name]
    assert generation_options(GenerationConfig(), 20).get(option) != value
    pipeline.set_generation_config(config_with(name))
    pipeline(GenerationInput(token_ids=[1] * 20))
    _, options = theirs().calls[0]
    assert getattr(options, option) == value


def test_what_needs_its_types(pipeline: Pipeline) -> None:
    for criteria in ("EARLY", "NEVER"):
        pipeline.set_generation_config(GenerationConfig().updated(num_beams=2, stop_criteria=criteria))
        pipeline("x")
        assert theirs().calls[-1][1].stop_criteria.name == criteria
    pipeline.set_generation_config(GenerationConfig().updated(regex="[a-c]+"))
    pipeline("x")
    assert theirs().calls[-1][1].structured_output_config == {"regex": "[a-c]+"}
    pipeline.set_generation_config(GenerationConfig().updated(json_schema={"type": "object"}))
    pipeline("x")
    assert theirs().calls[-1][1].structured_output_config == {"json_schema": '{"type": "object"}'}


def test_further_options() -> None:
    plain = generation_options(GenerationConfig(), 20)
    assert (plain["max_new_tokens"], plain["top_k"], plain["min_new_tokens"]) == (SIZE_MAX, SIZE_MAX, 0)
    both = GenerationConfig().updated(max_new_tokens=30, max_length=45, min_length=25, min_new_tokens=8)
    assert {name: generation_options(both, 20)[name] for name in ("max_new_tokens", "min_new_tokens")} == {
        "max_new_tokens": 25,
        "min_new_tokens": 8,
    }
    ends = generation_options(GenerationConfig().updated(eos_token_ids=(5, 6)), 20)
    assert (ends["eos_token_id"], ends["ignore_eos"]) == (5, False)
    assert generation_options(GenerationConfig().updated(eos_token_ids=()), 20)["ignore_eos"] is True
    seeds = {generation_options(GenerationConfig().updated(rng_seed=None), 20)["rng_seed"] for _ in range(8)}
    assert len(seeds) > 1


def test_repetition_penalty_is_the_samplings(pipeline: Pipeline) -> None:
    for do_sample, expected in ((True, 1.5), (False, 1.0)):
        pipeline.set_generation_config(GenerationConfig().updated(repetition_penalty=1.5, do_sample=do_sample))
        pipeline("x")
        assert theirs().calls[-1][1].repetition_penalty == expected


@pytest.mark.parametrize("name", sorted(GIVEN.keys() - _KNOWN))
def test_refused_by_name(pipeline: Pipeline, name: str) -> None:
    with pytest.raises(ConfigError, match=f"^{NAME} cannot do "):
        pipeline.set_generation_config(config_with(name))
    assert pipeline.get_generation_config().sampling_config.rng_seed == 0


def test_values_refused(pipeline: Pipeline) -> None:
    for options, message in (
        ({"choices": ("a", "b")}, "choices="),
        ({"lark": "start: /a/"}, "lark="),
        ({"max_new_tokens": 0}, f"^{NAME}: Check failed: 'max_new_tokens' must be greater than 0$"),
    ):
        with pytest.raises(ConfigError, match=message):
            pipeline.set_generation_config(GenerationConfig().updated(**options))
    with pytest.raises(ConfigError, match="no way to go step by step"):
        pipeline.generator()
    pipeline.set_generation_config(GenerationConfig().updated(max_length=4))
    with pytest.raises(CapacityError, match="max_length=4 leaves nothing: the prompt has 4 tokens"):
        pipeline("abc")


def test_texts_tokens_and_messages(pipeline: Pipeline) -> None:
    result = pipeline("xy")
    assert (result.text, result.token_ids, result.finish_reason, result.texts) == (
        "abcd",
        (*b"abcd",),
        "stop",
        ("abcd",),
    )
    pipeline(GenerationInput(token_ids=[7, 8]))
    pipeline(GenerationInput(messages=[{"role": "user", "content": "x"}]))
    assert [tokens for tokens, _ in theirs().calls] == [[256, *b"xy"], [7, 8], [*b"<user>x"]]
    pipeline.set_generation_config(GenerationConfig().updated(n=2, do_sample=True, max_new_tokens=2))
    result = pipeline("xy")
    assert (result.finish_reason, result.texts) == ("length", ("ab", "ab"))


def test_streaming(pipeline: Pipeline) -> None:
    pieces: list[str] = []
    assert pipeline("x", pieces.append).finish_reason == "stop"
    assert pieces == list("abcd")
    result = pipeline("x", lambda piece: piece == "b")
    assert (result.text, result.finish_reason, result.token_ids) == ("ab", "cancelled", (*b"ab",))

    heard: list[str] = []
    pipeline("x", lambda piece: heard.append(piece) or piece == "b")  # type: ignore[func-returns-value]
    assert heard == ["a", "b"]  # nothing after it was enough

    def broken(piece: str) -> None:
        raise RuntimeError("the reader's own")

    with pytest.raises(RuntimeError, match=r"^the reader's own$"):
        pipeline("x", broken)


@pytest.mark.parametrize(
    ("stop", "text", "reason"), [("bc", "a", "stop"), ("cd", "ab", "stop"), ("d~", "abcd", "length")]
)
def test_a_stop_string_that_is_left_is_cut_off(pipeline: Pipeline, stop: str, text: str, reason: str) -> None:
    """It leaves one in the middle of a token, or in the last one."""
    pipeline.set_generation_config(GenerationConfig().updated(stop_strings=(stop,), max_new_tokens=4))
    pieces: list[str] = []
    for streamer in (None, pieces.append):
        result = pipeline("x", streamer)
        assert (result.text, result.texts, result.finish_reason) == (text, (text,), reason)
    assert "".join(pieces) == text


def test_an_end_token_of_ones_own_is_not_the_texts(pipeline: Pipeline) -> None:
    """It decodes that, too: pieces wait for the next one, and the last is cut."""
    pipeline.set_generation_config(GenerationConfig().updated(eos_token_ids=(ord("d"), fake_openvino.EOS)))
    pieces: list[str] = []
    for streamer in (None, pieces.append):
        result = pipeline("x", streamer)
        assert (result.text, result.token_ids, result.finish_reason) == ("abc", (*b"abcd",), "stop")
    assert pieces == list("abc")
    result = pipeline("x", lambda piece: piece == "a")
    assert (result.text, result.finish_reason) == ("a", "cancelled")


def test_devices_models_and_the_end(pipeline: Pipeline) -> None:
    assert theirs().made_of == ("folder", "GPU.0", {"PERFORMANCE_HINT": "LATENCY"})
    assert DeviceFactory().enumerate(NAME) == [Device("CPU"), Device("GPU.0")]
    with pytest.raises(ModelError, match=f"^{NAME}: Could not find a model in 'missing'$"):
        Text2TextPipelineFactory().create(NAME, "missing")
    pipeline.close()
    with pytest.raises(ConfigError, match="closed"):
        pipeline("x")


def test_its_own_configuration(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pipeline.get_generation_config() == GenerationConfig().updated(rng_seed=0, do_sample=False)
    own = fake_openvino.GenerationConfig()
    own.do_sample, own.temperature, own.stop_strings, own.num_beams, own.rng_seed = False, 0.5, set(), 4, 3
    own.stop_criteria = fake_openvino.StopCriteria.NEVER
    monkeypatch.setattr(fake_openvino.LLMPipeline, "own", own)
    config = Text2TextPipelineFactory().create(NAME, "folder").get_generation_config()
    assert (config.sampling_config.temperature, config.sampling_config.rng_seed) == (0.5, 3)
    assert (config.beam_search_config.num_beams, config.beam_search_config.stop_criteria) == (4, "NEVER")


@pytest.mark.slow
@pytest.mark.skipif(
    not (ENVIRONMENT.exists() and MODEL.exists()), reason="python -m benchmarks.side_by_side makes the environment"
)
def test_the_package_itself() -> None:
    """Its environment has this project's sources in the working directory, not installed."""
    program = (
        "from pathlib import Path\n"
        "from genai.pipelines import GenerationInput\n"
        "from genai.pipelines.backends.openvino_genai import BACKEND\n"
        "from genai.pipelines.conformance import Subject, check\n"
        f"create = lambda: BACKEND.create_text2text(Path({str(MODEL)!r}), [])\n"
        "pipeline = create()\n"
        "pipeline.set_generation_config(pipeline.get_generation_config().updated(max_new_tokens=12))\n"
        "ask = GenerationInput(messages=[{'role': 'user', 'content': 'What is the capital of France?'}])\n"
        "result = pipeline(ask, lambda piece: print(piece, end='|'))\n"
        "print(result.finish_reason, result.token_ids[-1])\n"
        "pipeline.close()\n"
        "print(*(f'{found.outcome} {found.rule} {found.seen}' for found in check(Subject(create=create))), sep='\\n')\n"
    )
    done = subprocess.run([ENVIRONMENT, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "Paris" in done.stdout.replace("|", "")
    assert "\nbroken" not in done.stdout
    assert done.stdout.count("\nrefused") == 5, "what needs a generator"
