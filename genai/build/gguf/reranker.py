"""GGUF files of rerankers that answer yes or no, as llama.cpp's converter writes them (`pooling_type` 4).

Their head is cut down to the answers' rows, `cls.output.weight` [answers, H]. Where the whole head is the embedding
(Qwen3-Reranker 0.6B and 4B), it is there all the same, and the model is built as one that writes; where it is not,
nothing in the file can write, and the file is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from genai.build.embedding import GGUF_RERANKER, pooling_type
from genai.build.gguf.file import GgufFile
from genai.errors import UnsupportedModelError, WeightsError

ANSWERS = "cls.output.weight"
_LEAST_COSINE = 0.9
"""Rows that were rounded in different ways are closer, and rows of different words far from it."""


def check_reranker(file: GgufFile) -> None:
    """Raises: UnsupportedModelError for a cut-down head that the embedding does not hold; WeightsError."""
    if ANSWERS not in file.tensors or "output.weight" in file.tensors:
        return
    labels = file.metadata.get(f"{file.metadata.get('general.architecture')}.classifier.output_labels")
    vocabulary = file.metadata.get("tokenizer.ggml.tokens")
    told = [str(label) for label in labels] if isinstance(labels, list | np.ndarray) else []
    if pooling_type(file.metadata) != GGUF_RERANKER or told != ["yes", "no"] or not isinstance(vocabulary, list):
        raise UnsupportedModelError(
            f"{file.path} is a classifier ({', '.join(told) or 'without labels'}): not supported"
        )
    answers, embedding = file.info(ANSWERS), file.info("token_embd.weight")
    if len(embedding.shape) != 2 or answers.shape != (len(told), embedding.shape[1]):
        raise WeightsError(
            f"{file.path} is damaged: {ANSWERS} has the shape {answers.shape}, and {embedding.name} {embedding.shape}"
        )
    for label, row in zip(told, file.read(answers), strict=True):
        place = vocabulary.index(label) if label in vocabulary else None
        own = None if place is None else file.read(embedding.rows(place, place + 1))[0]
        if own is None or not row @ own > _LEAST_COSINE * np.linalg.norm(row) * np.linalg.norm(own):
            raise UnsupportedModelError(
                f"{file.path}: its head, which is not its embedding, was cut down to {ANSWERS}; build the Hugging Face "
                "folder of this model instead"
            )


def rerank_prompt(metadata: Mapping[str, object]) -> str | None:
    """The prompt that a file brings for reranking, if it has places for query and document."""
    text = metadata.get("tokenizer.chat_template.rerank")
    return text if isinstance(text, str) and "{query}" in text and "{document}" in text else None
