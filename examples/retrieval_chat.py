"""A chat with retrieval: each question is answered from the paragraphs of a folder that fit it best.

    python examples/retrieval_chat.py smollm2-135m-instruct docs

The paragraphs are found by TF-IDF, in NumPy: words that are rare elsewhere count most. That knows nothing of meaning,
and needs no second model; with an embedding model (`semantic_search.py`) `Paragraphs.vectors` is the method to replace.
A line with `quit()`, or the end of the input, leaves.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np

import genai
from genai.errors import GenAIError

NUM_FOUND = 3
SYSTEM = "Answer in one or two sentences, from these paragraphs alone. If they do not say, say so."


class Paragraphs:
    """The paragraphs of a folder's texts, to be searched."""

    def __init__(self, folder: Path) -> None:
        files = sorted(path for path in folder.iterdir() if path.suffix in {".md", ".txt"})
        self.texts = [
            f"[{path.name}] {paragraph.strip()}"
            for path in files
            for paragraph in re.split(r"\n\s*\n", path.read_text(encoding="utf-8"))
            if len(paragraph.split()) > 3
        ]
        counted = [Counter(words(text)) for text in self.texts]
        appears = Counter(word for counts in counted for word in counts)
        self._place = {word: place for place, word in enumerate(appears)}
        self._weight = np.log(len(self.texts) / np.array(list(appears.values()) or [1])) + 1
        self._known = self.vectors(self.texts)

    def vectors(self, texts: list[str]) -> np.ndarray:
        """Texts as vectors of length one: [N, words] float64."""
        found = np.zeros((len(texts), len(self._place)))
        for row, text in zip(found, texts, strict=True):
            for word, count in Counter(words(text)).items():
                if (place := self._place.get(word)) is not None:
                    row[place] = (1 + np.log(count)) * self._weight[place]
        return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)

    def nearest(self, question: str) -> list[str]:
        """The paragraphs that share most with a question, the best first."""
        likeness = self._known @ self.vectors([question])[0]
        best = np.argsort(-likeness, kind="stable")[:NUM_FOUND]
        return [self.texts[place] for place in best if likeness[place] > 0]


def words(text: str) -> list[str]:
    """A text's words, as they are compared."""
    return re.findall(r"\w+", text.lower())


def chat(llm: genai.LLM, paragraphs: Paragraphs) -> None:
    """Answer each line of the input, streaming; only the newest question comes with its paragraphs."""
    history: list[dict[str, str]] = []
    for line in sys.stdin:
        if (question := line.strip()) == "quit()":
            return
        found = paragraphs.nearest(question)
        for text in found:
            print(f"  {text[:100]}", file=sys.stderr)
        system = {"role": "system", "content": "\n\n".join([SYSTEM, *found])}
        history.append({"role": "user", "content": question})
        said = ""
        for chunk in llm.stream([system, *history], temperature=0, max_new_tokens=120):
            said += chunk.text
            print(chunk.text, end="", flush=True)
        print()
        history.append({"role": "assistant", "content": said})


def main(arguments: list[str]) -> int:
    """Chat until the input ends; the exit code."""
    if len(arguments) != 2:
        print("Usage: retrieval_chat.py MODEL FOLDER", file=sys.stderr)
        return 2
    model, folder = arguments
    try:
        paragraphs = Paragraphs(Path(folder))
        with genai.load(model) as llm:
            chat(llm, paragraphs)
    except (GenAIError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
