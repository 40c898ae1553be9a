"""Parts of long caches that windows and chunks reach: transformers' logits, in any run, and the bits of the whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import onnx
import pytest

from genai.build.package import build_package
from genai.build.parts import reach
from tests.build import tiny
from tests.families import oracle
from tests.families.cases import CASES
from tests.families.made import Made
from tests.families.test_features import DRAWN, GREEDY, PROMPT, loaded, same

LIMITS = "sliding_window", "attention_chunk_size"
WINDOWED = [name for name, case in CASES.items() if any(0 < (case.options.get(limit) or 0) < 40 for limit in LIMITS)]
FEW = pytest.mark.parametrize("name", ["gemma3", "gemma4", "gpt_oss"])
"""Caches of one width, some that layers share and that differ, and a reserved slot."""


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have parts be read of caches that are hardly longer, and begin anywhere."""
    monkeypatch.setattr(reach, "block_slots", lambda head_dim: 1)
    monkeypatch.setattr(reach, "_WORTHWHILE", 1)


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize("name", WINDOWED)
def test_parts_give_the_logits_of_transformers(made: Made, tmp_path: Path, name: str) -> None:
    checkpoint = made.checkpoint(CASES[name])
    package = build_package(
        checkpoint.folder, tmp_path / "package", precision="f32", max_seq_len=CASES[name].max_seq_len
    )
    assert num_parts(package)
    oracle.check(package, checkpoint.prompts, checkpoint.logits)


@pytest.mark.usefixtures("at_once")
@FEW
def test_texts_of_parts_are_those_of_the_whole(made: Made, tmp_path: Path, name: str) -> None:
    package = build_package(made.checkpoint(CASES[name]).folder, tmp_path / "package", precision="f32")
    prompts = [PROMPT, PROMPT[:3], PROMPT[5:30]]
    beams = {"num_beams": 3, "max_new_tokens": 20, "ignore_eos": True}
    with loaded(package) as parts, loaded(made.package(CASES[name], "safetensors")) as whole:
        for options in (GREEDY, DRAWN, GREEDY | {"speculative": "prompt_lookup"}):
            for one, other in zip(parts.generate(prompts, **options), whole.generate(prompts, **options), strict=True):
                same(one, other)
        assert parts.generate(PROMPT, **beams).token_ids == whole.generate(PROMPT, **beams).token_ids


@FEW
def test_a_token_keeps_its_bits_in_any_part(tmp_path: Path, name: str) -> None:
    """Two rows whose parts begin at different places, in caches of which the whole is read, and parts."""
    options = CASES[name].options | {"head_dim": 64, "sliding_window": 100, "max_position_embeddings": 2048}
    tiny.save(tiny.make_model(CASES[name].model_type, **options), tmp_path / "model")
    package = build_package(tmp_path / "model", tmp_path / "package", precision="f32")
    assert num_parts(package)
    tokens = tiny.tokens(480)
    whole, parts = tiny.Graph(package, 2, capacity=496), tiny.Graph(package, 2, capacity=1008)
    starts, ends = [0, *range(200, 470, 30), *range(470, 480)], [200, *range(230, 471, 30), *range(471, 480), 480]
    for start, end in zip(starts, ends, strict=True):
        rows = tokens[start:end], tokens[start // 2 : start // 2 + min(end - start, 20)]
        for one, other in zip(whole.add(*rows), parts.add(*rows), strict=True):
            assert one.tobytes() == other.tobytes(), f"tokens {start} to {end}"


def num_parts(package: Path) -> int:
    """How many nodes attend over a part of a cache."""
    model = onnx.load(package / "model.onnx", load_external_data=False)
    return sum(_num_over_parts(graph) for graph in _graphs(model.graph))


def _num_over_parts(graph: onnx.GraphProto) -> int:
    made = {node.output[0] for node in graph.node if node.op_type == "GatherND"}
    inner = [node for each in _graphs(graph) for node in each.node if node.op_type == "Attention"]
    return sum(node.input[1] in made for node in inner)


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """A graph and those inside it."""
    yield graph
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        if attribute.type == onnx.AttributeProto.GRAPH:
            yield from _graphs(attribute.g)
