"""A batch of requests offline: each line of a file is put into one of some classes.

    python examples/batch.py smollm2-135m-instruct reviews.txt positive negative

All lines are given at once; they run in one batch, and their common beginning is computed once. Where requests differ
in their options, or are so many that the work must survive an interruption, take a batch file: `genai generate-file`.
The log probability is what the model itself gives the class, before the answer was held to the classes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import genai
from genai.errors import GenAIError


def prompts(lines: list[str], classes: list[str]) -> list[list[dict[str, str]]]:
    """A conversation for each line."""
    told = f"Answer with one word, {' or '.join(classes)}."
    return [[{"role": "system", "content": told}, {"role": "user", "content": line}] for line in lines]


def record(line: str, said: genai.Generation) -> dict[str, object]:
    """What is written of a line."""
    return {"text": line, "class": said.text, "logprob": round(sum(each.logprob for each in said.logprobs or ()), 3)}


def main(arguments: list[str]) -> int:
    """Write a line of JSON for each line, and to standard error what it took; the exit code."""
    if len(arguments) < 4:
        print("Usage: batch.py MODEL FILE CLASS CLASS …", file=sys.stderr)
        return 2
    model, file, *classes = arguments
    try:
        lines = [line for line in Path(file).read_text(encoding="utf-8").splitlines() if line.strip()]
        with genai.load(model) as llm:
            asked = prompts(lines, classes)
            said = llm.generate(asked, choices=classes, logprobs=True, max_new_tokens=32)
    except (GenAIError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    for line, each in zip(lines, said, strict=True):
        print(json.dumps(record(line, each)))
    prompt, cached = (sum(getattr(each.usage, name) for each in said) for name in ("prompt_tokens", "cached_tokens"))
    print(f"{len(said)} requests, {prompt} tokens of prompts, {cached} of them from the prefix cache", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
