"""One prompt to a model and to each of some adapters of it, side by side in one batch.

    python examples/adapters.py Qwen/Qwen3-0.6B "What is the sea?" french=adapters/french legal=adapters/legal.gguf

The base is loaded once, and all answers are written at the same time. In a server a request says which it wants by its
`model`: docs/adapters.md.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

import genai
from genai.errors import GenAIError


def answers(model: str, prompt: str, adapters: dict[str, str]) -> dict[str, str]:
    """What the model says, and what it says with each adapter."""
    with genai.load(model, adapters=adapters) as llm:
        asked = prompt if not llm.tokenizer.has_chat_template else [{"role": "user", "content": prompt}]
        names = [None, *adapters]
        with ThreadPoolExecutor(len(names)) as threads:  # whoever asks at the same time shares the batch
            said = threads.map(lambda name: llm.generate(asked, adapter=name, max_new_tokens=128).text, names)
            return dict(zip(["(none)", *adapters], said, strict=True))


def main(arguments: list[str]) -> int:
    """Print the answers; the exit code."""
    if len(arguments) < 3 or not all("=" in each for each in arguments[2:]):
        print("Usage: adapters.py MODEL PROMPT NAME=PATH …", file=sys.stderr)
        return 2
    model, prompt, *adapters = arguments
    try:
        said = answers(model, prompt, dict(each.split("=", 1) for each in adapters))
    except GenAIError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    for name, text in said.items():
        print(f"## {name}\n\n{text.strip()}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
