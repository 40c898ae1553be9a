"""The adapter on onnxruntime-genai itself, with a model whose texts are known; its mapping without the package."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

from genai.errors import CapacityError, ConfigError, GraphRunError, ModelError
from genai.options.generation_config import BeamSearchConfig, GenerationConfig
from genai.pipelines import Device, DeviceFactory, GenerationInput, Pipeline, Text2TextPipelineFactory
from genai.pipelines.backends.onnxruntime_genai import _KNOWN, search_options
from genai.pipelines.text2text import GenerationResult
from tests.pipelines.alphabet import CONTEXT, write_alphabet
from tests.pipelines.options import GIVEN, config_with
from tests.tiny_package import END_ID

NAME = "onnxruntime-genai"
real = pytest.mark.skipif(
    importlib.util.find_spec("onnxruntime_genai") is None, reason="onnxruntime-genai is not installed"
)

MAPPED: dict[str, tuple[str, object]] = {
    "max_new_tokens": ("max_length", 27),
    "max_length": ("max_length", 70),
    "min_new_tokens": ("min_length", 23),
    "min_length": ("min_length", 30),
    "sampling_config.do_sample": ("do_sample", True),
    "sampling_config.rng_seed": ("random_seed", 9),
    "sampling_config.temperature": ("temperature", 0.5),
    "sampling_config.top_k": ("top_k", 4),
    "sampling_config.top_p": ("top_p", 0.25),
    "sampling_config.repetition_penalty": ("repetition_penalty", 1.5),
    "sampling_config.no_repeat_ngram_size": ("no_repeat_ngram_size", 3),
    "beam_search_config.num_beams": ("num_beams", 3),
    "beam_search_config.length_penalty": ("length_penalty", 2.0),
    "beam_search_config.num_return_sequences": ("num_return_sequences", 2),
    "beam_search_config.no_repeat_ngram_size": ("no_repeat_ngram_size", 2),
    "beam_search_config.stop_criteria": ("early_stopping", True),
}
ELSEWHERE = {"eos_token_ids", "stop_strings", "constraint"}  # not among its search options


def test_every_option_is_mapped_or_refused() -> None:
    assert MAPPED.keys() | ELSEWHERE == _KNOWN
    assert GIVEN.keys() >= _KNOWN


@pytest.mark.parametrize("name", MAPPED)
def test_mapped(name: str) -> None:
    theirs, value = MAPPED[name]
    config = config_with(name)
    limit = min(config.max_length or 100, 20 + (config.max_new_tokens or 100))
    assert search_options(config, 20, limit, 99)[theirs] == value
    assert search_options(GenerationConfig(), 20, 100, 99)[theirs] != value


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_alphabet(tmp_path_factory.mktemp("alphabet"))


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Iterator[Pipeline]:
    pipeline = Text2TextPipelineFactory.get_instance().create(
        NAME, folder, DeviceFactory.get_instance().enumerate(NAME)
    )
    yield pipeline
    pipeline.close()
    with pytest.raises(ConfigError, match="closed"):
        pipeline("a")


@pytest.fixture
def pipeline(loaded: Pipeline) -> Iterator[Pipeline]:
    own = loaded.get_generation_config()
    yield loaded
    loaded.set_generation_config(own)


def continued(pipeline: Pipeline, source: str, **options: object) -> GenerationResult:
    pipeline.set_generation_config(GenerationConfig().updated(**options))
    return pipeline(source)


@real
def test_its_own_configuration(pipeline: Pipeline) -> None:
    sampling = pipeline.get_generation_config().sampling_config
    assert (sampling.do_sample, sampling.top_k, round(sampling.temperature, 3), sampling.rng_seed) == (
        False,
        50,
        0.8,
        0,
    )
    assert pipeline.get_generation_config().max_length is None


@real
def test_its_own_beams(tmp_path: Path) -> None:
    own = {"num_beams": 3, "num_return_sequences": 2, "no_repeat_ngram_size": 4, "early_stopping": False}
    folder = write_alphabet(tmp_path, max_length=90, min_length=5, random_seed=6, length_penalty=0.5, **own)
    config = Text2TextPipelineFactory().create(NAME, folder).get_generation_config()
    assert (config.max_length, config.min_length, config.sampling_config.rng_seed) == (90, 5, 6)
    assert config.beam_search_config == BeamSearchConfig(
        num_beams=3, num_return_sequences=2, no_repeat_ngram_size=4, length_penalty=0.5, stop_criteria="HEURISTIC"
    )


@real
@pytest.mark.parametrize(
    "source", [GenerationInput("v"), GenerationInput(token_ids=[ord("v")])], ids=["text", "token_ids"]
)
def test_a_text(pipeline: Pipeline, source: GenerationInput) -> None:
    pieces: list[str] = []
    for result in (pipeline(source), pipeline(source, pieces.append)):
        assert result == GenerationResult(
            text="wxyz", token_ids=(*b"wxyz", END_ID), finish_reason="stop", texts=("wxyz",)
        )
    assert pieces == list("wxyz")


@real
def test_messages_go_through_its_template(pipeline: Pipeline, folder: Path) -> None:
    alphabet = "".join(map(chr, range(ord("a"), ord("z") + 1)))
    assert pipeline(GenerationInput(messages=[{"role": "user", "content": "x"}])).text == alphabet
    assert pipeline("<|begin|>user\nx<|end|><|begin|>assistant\nx").text == "yz"


@real
def test_a_streamer_ends_a_text(pipeline: Pipeline) -> None:
    result = pipeline("a", lambda piece: piece == "e")
    assert (result.text, result.finish_reason, result.token_ids) == ("bcde", "cancelled", tuple(b"bcde"))


@real
def test_lengths(pipeline: Pipeline) -> None:
    assert continued(pipeline, "abc", max_new_tokens=2).text == "de"
    assert continued(pipeline, "abc", max_new_tokens=0).text == ""
    result = continued(pipeline, "abc", max_length=7)
    assert (result.text, result.finish_reason) == ("defg", "length")
    assert continued(pipeline, "y", min_new_tokens=4).text.startswith("z")
    assert len(continued(pipeline, "y", min_new_tokens=4).token_ids) > 4
    assert len(continued(pipeline, "y", min_length=6).token_ids) > 5
    with pytest.raises(CapacityError, match="the prompt has 3 tokens; at most 2 leave room"):
        continued(pipeline, "abc", max_length=3)
    with pytest.raises(CapacityError, match=f"the prompt has {CONTEXT} tokens"):
        continued(pipeline, "a" * CONTEXT)


@real
def test_ends(pipeline: Pipeline) -> None:
    result = continued(pipeline, "a", eos_token_ids=(ord("e"), END_ID))
    assert (result.text, result.finish_reason, result.token_ids) == ("bcd", "stop", tuple(b"bcde"))
    result = continued(pipeline, "a", stop_strings=("ef", "zz"))
    assert (result.text, result.finish_reason) == ("bcd", "stop")
    assert continued(pipeline, "w", stop_strings=("zz",)).text == "xyz"


@real
def test_sampling(pipeline: Pipeline) -> None:
    hot = {"do_sample": True, "temperature": 4.0, "max_new_tokens": 30, "top_k": 0}
    first = continued(pipeline, "a", rng_seed=1, **hot).token_ids
    assert first == continued(pipeline, "a", rng_seed=1, **hot).token_ids != tuple(b"bcdefghijklmnopqrstuvwxyz")
    assert first != continued(pipeline, "a", rng_seed=2, **hot).token_ids
    pipeline.set_generation_config(pipeline.get_generation_config().updated(rng_seed=None, do_sample=True))
    assert len({pipeline("a").token_ids for _ in range(4)}) > 1
    greedy = (*b"bcdefghijklmnopqrstuvwxyz", END_ID)
    for narrow in ({"top_k": 1}, {"top_p": 0.01}, {"temperature": 0.01}):
        assert continued(pipeline, "a", rng_seed=1, **{**hot, **narrow}).token_ids == greedy
    two = continued(pipeline, "a", rng_seed=1, **{**hot, "top_k": 2}).text
    assert two != "bcdefghijklmnopqrstuvwxyz"
    assert all(ord(after) - ord(before) in {1, 3} for before, after in zip("a" + two, two, strict=False))


@real
def test_repetition_penalty_is_the_samplings(pipeline: Pipeline) -> None:
    """b was there: its logit of 12 becomes 6, below d's 10."""
    options = {"repetition_penalty": 2.0, "max_new_tokens": 1}
    assert continued(pipeline, "ba", do_sample=True, top_k=1, **options).text == "d"
    assert continued(pipeline, "ba", do_sample=False, **options).text == "b"


@real
def test_no_repeated_ngrams(pipeline: Pipeline) -> None:
    assert continued(pipeline, "aba", max_new_tokens=1).text == "b"
    assert continued(pipeline, "aba", max_new_tokens=1, no_repeat_ngram_size=2).text == "d"


@real
def test_beams(pipeline: Pipeline) -> None:
    result = continued(pipeline, "a", num_beams=3, num_return_sequences=2, max_new_tokens=4)
    assert result.texts[0] == result.text == "bcde"
    assert len(set(result.texts)) == 2
    assert (result.finish_reason, result.token_ids) == ("length", tuple(b"bcde"))
    assert continued(pipeline, "w", num_beams=3, max_new_tokens=20).finish_reason == "stop"
    with pytest.raises(ConfigError, match="a streamer reads one text"):
        pipeline("a", print)
    # the short way out, x → end, against y and z: an exponent of the length decides
    short = continued(pipeline, "x", num_beams=3, length_penalty=-20.0, max_new_tokens=20).text
    long = continued(pipeline, "x", num_beams=3, length_penalty=4.0, max_new_tokens=20).text
    assert len(short) < len(long)
    early = continued(pipeline, "x", num_beams=2, stop_criteria="EARLY", length_penalty=4.0, max_new_tokens=20)
    late = continued(pipeline, "x", num_beams=2, stop_criteria="HEURISTIC", length_penalty=4.0, max_new_tokens=20)
    assert len(early.text) < len(late.text)


@real
def test_constraints(pipeline: Pipeline) -> None:
    assert continued(pipeline, "a", regex="[0-9]{3}").text.isdigit()
    assert continued(pipeline, "a", lark='start: "yes" | "no"').text in {"yes", "no"}
    assert continued(pipeline, "a", json_schema={"enum": [17, 42]}).text in {"17", "42"}


@real
@pytest.mark.parametrize("name", sorted(GIVEN.keys() - _KNOWN))
def test_refused_by_name(pipeline: Pipeline, name: str) -> None:
    before = pipeline.get_generation_config()
    with pytest.raises(ConfigError, match=f"^{NAME} cannot do "):
        pipeline.set_generation_config(config_with(name))
    assert pipeline.get_generation_config() == before


@real
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_beams": 2, "stop_criteria": "NEVER"}, "stop_criteria='NEVER' .it has EARLY and HEURISTIC"),
        ({"num_beams": 2, "no_repeat_ngram_size": 2}, r"sampling_config.no_repeat_ngram_size=2"),
        ({"rng_seed": 2**31}, "rng_seed=2147483648 .its largest is 2147483647"),
        ({"choices": ("a", "b")}, "choices="),
        ({"eos_token_ids": (65,)}, r"eos_token_ids=\[65\] .the model's own .257. end its texts too"),
        ({"eos_token_ids": (65, 257), "min_new_tokens": 2}, "min_new_tokens=2"),
        ({"eos_token_ids": (65, 257), "min_length": 2}, "min_length=2"),
        ({"eos_token_ids": (65, 257), "num_beams": 2}, "eos_token_ids=.*beams end at the model's own only"),
    ],
)
def test_values_refused(pipeline: Pipeline, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        pipeline.set_generation_config(GenerationConfig().updated(**options))


@real
def test_step_by_step(pipeline: Pipeline) -> None:
    pipeline.set_generation_config(GenerationConfig().updated(max_new_tokens=6))
    generator = pipeline.generator()
    with pytest.raises(ConfigError, match="the text is empty"):
        generator.generate_next_token()
    generator.append_input_tokens("a")
    assert [generator.generate_next_token() for _ in range(2)] == ["b", "c"]
    generator.append_input_tokens([ord("x")])
    texts = []
    while not generator.is_done():
        texts.append(generator.generate_next_token())
    assert texts == ["y", "z", ""]
    assert generator.token_ids == [*b"abcxyz", END_ID]
    with pytest.raises(ConfigError, match="the text has ended"):
        generator.generate_next_token()
    with pytest.raises(CapacityError, match="1 more tokens; the text has 7 of 7"):
        generator.append_input_tokens("a")
    generator.close()
    for options in ({"num_beams": 2}, {"stop_strings": ("a",)}):
        pipeline.set_generation_config(GenerationConfig().updated(**options))
        with pytest.raises(ConfigError, match=f"{min(options)}: a generator"):
            pipeline.generator()


@real
def test_its_errors_are_ours(pipeline: Pipeline, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"onnxruntime-genai: .*genai_config\.json"):
        Text2TextPipelineFactory().create(NAME, tmp_path)
    with pytest.raises(GraphRunError, match="onnxruntime-genai: "):
        pipeline(GenerationInput(token_ids=[100_000]))


@real
def test_a_device_it_does_not_have(folder: Path) -> None:
    with pytest.raises(ModelError, match="onnxruntime-genai: "):
        Text2TextPipelineFactory().create(NAME, folder, [Device("GPU", {"ep": "nothing"})])
    with pytest.raises(ConfigError, match="the CPU takes no threads"):
        Text2TextPipelineFactory().create(NAME, folder, [Device("CPU", {"ep": "cpu", "threads": 2})])
