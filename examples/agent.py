"""An agent: the model calls functions until it has an answer.

    python examples/agent.py smollm2-135m-instruct docs "What is the server's default port?"

The functions are ordinary ones; what the model is told of them stands beside each. A small model has to be made to call
(`tool_choice="required"`), so the first turn is; after that it may call again or answer.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import genai
from genai.errors import GenAIError

MAX_TURNS = 5
LONGEST = 1500  # characters of a file that are shown


class Files:
    """What the model may do in a folder: read its texts, and count in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names = sorted(path.name for path in folder.iterdir() if path.suffix in {".md", ".txt"})
        self.functions: dict[str, Callable[..., str]] = {"read_file": self.read_file, "count_words": self.count_words}

    def tools(self) -> list[dict[str, object]]:
        """The functions as OpenAI's API describes them; a model cannot name a file that is not there."""
        parameters = {
            "type": "object",
            "properties": {"name": {"enum": self.names}},
            "required": ["name"],
            "additionalProperties": False,
        }
        lines = {"read_file": "Read a file", "count_words": "Count the words of a file"}
        return [
            {"type": "function", "function": {"name": name, "description": line, "parameters": parameters}}
            for name, line in lines.items()
        ]

    def read_file(self, name: str) -> str:
        """The beginning of a text."""
        return (self.folder / name).read_text(encoding="utf-8")[:LONGEST]

    def count_words(self, name: str) -> str:
        """How many words a text has."""
        return str(len((self.folder / name).read_text(encoding="utf-8").split()))

    def run(self, name: str, arguments: str) -> str:
        """What a call gives; what went wrong is told to the model, which may try again."""
        try:
            return self.functions[name](**json.loads(arguments))
        except Exception as error:
            return f"{type(error).__name__}: {error}"


def answer(llm: genai.LLM, files: Files, question: str) -> str:
    """Let the model call and read until it answers."""
    messages: list[dict[str, object]] = [{"role": "user", "content": question}]
    choice = "required"
    for _ in range(MAX_TURNS):
        said = llm.generate(
            messages,
            tools=files.tools(),
            tool_choice=choice,
            parallel_tool_calls=False,
            max_new_tokens=120,
        )
        if not said.tool_calls:
            return said.text
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in said.tool_calls
        ]
        messages.append({"role": "assistant", "content": said.text, "tool_calls": calls})
        for call in said.tool_calls:
            print(f"→ {call.name}({call.arguments})", file=sys.stderr)
            messages.append({"role": "tool", "tool_call_id": call.id, "content": files.run(call.name, call.arguments)})
        choice = "auto"
    return f"no answer in {MAX_TURNS} turns"


def main(arguments: list[str]) -> int:
    """Answer one question; the exit code."""
    if len(arguments) != 3:
        print("Usage: agent.py MODEL FOLDER QUESTION", file=sys.stderr)
        return 2
    model, folder, question = arguments
    try:
        with genai.load(model) as llm:
            print(answer(llm, Files(Path(folder)), question))
    except (GenAIError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
