"""GGUF files of rerankers: a head that is cut down is left out where the embedding holds it, or the file is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai.build.package import build_package
from genai.config import EngineConfig
from genai.errors import ConfigError, UnsupportedModelError, WeightsError
from genai.llm.llm import LLM
from tests.build import tiny
from tests.families import gguf_writer
from tests.llm.reading_models import embedding_model, last_logits

YES, NO = 258, 259
PROMPT = "t5 <Instruct>: t6\n<Query>: {query}\n<Document>: {document} t7"


def write(
    folder: Path,
    model: Any,
    labels: tuple[str, ...] = ("yes", "no"),
    pooling: int = 4,
    answers: np.ndarray | None = None,
) -> Path:
    """A file as the converter writes it: the embedding, the answers' rows of the head, and no head."""
    answers = model.lm_head.weight.detach().numpy()[[YES, NO]] if answers is None else answers

    def change(writer: Any) -> None:
        tokens = ["<unk>", "<s>", "</s>", *(f"t{i}" for i in range(3, tiny.VOCAB_SIZE))]
        tokens[YES], tokens[NO] = "yes", "no"
        writer.add_tokenizer_model("llama")
        writer.add_token_list(tokens)
        writer.add_token_scores([0.0] * len(tokens))
        writer.add_token_types([2, 3, 3, *[1] * (len(tokens) - 3)])
        writer.add_uint32("qwen3.pooling_type", pooling)
        writer.add_array("qwen3.classifier.output_labels", list(labels))
        writer.add_string("tokenizer.chat_template.rerank", PROMPT)
        writer.add_tensor("cls.output.weight", answers)

    tensors = {f"model.{name}": tensor.numpy() for name, tensor in model.model.state_dict().items()}
    return gguf_writer.write(gguf_writer.GgufForm(arch="qwen3"), tensors, model.config, folder / "m.gguf", change)


def test_a_reranker_scores(tmp_path: Path) -> None:
    model = embedding_model()
    package = build_package(write(tmp_path, model), tmp_path / "package", precision="f32")
    with LLM(package, EngineConfig(device="cpu", num_threads=1, kv_cache_bytes=4 << 20)) as llm:
        documents = ["t9 t10", "t11", "{query}"]
        scores = llm.score("t8", documents)
        prompts = [each.request.prompt for each in llm.scorer.ask("t8", documents).requests]
        for score, tokens in zip(scores, prompts, strict=True):
            logits = last_logits(model, tokens)
            assert score == pytest.approx(1 / (1 + np.exp(logits[NO] - logits[YES])), abs=2e-5)
        wanted = PROMPT.replace("{query}", "t8").replace("{document}", "t11")
        assert prompts[1] == llm.tokenizer.encode(wanted, add_special_tokens=False)
        told = llm.scorer.ask("t8", ["t11"], instruction="t12").requests[0].request.prompt
        assert told == llm.tokenizer.encode(wanted.replace("t6", "t12"), add_special_tokens=False)
        assert llm.generate("t9", max_new_tokens=2).usage.completion_tokens == 2


def test_words_in_braces_are_the_askers() -> None:
    """What is given has no places of its own to be filled."""
    from genai.llm.scoring import _filled

    prompt = "<Instruct>: old\n<Query>: {query}\n{document}"
    filled = _filled(prompt, "as {query}", "{document}", "{instruction}")
    assert filled == "<Instruct>: as {query}\n<Query>: {document}\n{instruction}"


def test_an_instruction_needs_its_place(tmp_path: Path) -> None:
    from genai.llm.scoring import Scorer

    with LLM(build_package(write(tmp_path, embedding_model()), tmp_path / "package", precision="f32")) as llm:
        scorer = Scorer(llm.tokenizer, 100, prompt="{query} {document}")
        with pytest.raises(ConfigError, match="no place for one"):
            scorer.ask("a", ["b"], instruction="c")


def test_a_head_that_is_gone(tmp_path: Path) -> None:
    model = embedding_model(tie_word_embeddings=False)
    with pytest.raises(
        UnsupportedModelError, match=r"was cut down to cls\.output\.weight; build the Hugging Face folder"
    ):
        build_package(write(tmp_path, model), tmp_path / "package")


@pytest.mark.parametrize("shape", [(2, 32), (1, 64), (64,), (2, 2, 64)])
def test_a_head_of_another_shape(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(WeightsError, match=r"is damaged: cls\.output\.weight has the shape"):
        build_package(write(tmp_path, embedding_model(), answers=np.ones(shape, np.float32)), tmp_path / "package")


@pytest.mark.parametrize("value", [0, np.nan])
def test_a_head_of_nothing(tmp_path: Path, value: float) -> None:
    path = write(tmp_path, embedding_model(), answers=np.full((2, 64), value, np.float32))
    with pytest.raises(UnsupportedModelError, match="was cut down"):
        build_package(path, tmp_path / "package")


@pytest.mark.parametrize(("labels", "pooling"), [(("good", "bad"), 4), (("yes", "no"), 3), (("yes", "maybe", "no"), 4)])
def test_other_classifiers(tmp_path: Path, labels: tuple[str, ...], pooling: int) -> None:
    with pytest.raises(UnsupportedModelError, match="is a classifier"):
        build_package(write(tmp_path, embedding_model(), labels, pooling), tmp_path / "package")
