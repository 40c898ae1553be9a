"""Structured extraction: every text of a folder becomes one line of JSON that follows a type.

    python examples/extract.py smollm2-135m-instruct path/to/texts > records.jsonl

Threads ask at the same time, and what they ask runs in one batch. A grammar follows the schema, so that the answer is
valid whatever the model; whether it is true is the model's affair.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints
from tqdm import tqdm

import genai
from genai.errors import GenAIError

AT_ONCE = 8
LONGEST = 4000  # characters of a text that are shown


class Record(BaseModel):
    """What is wanted of each text; it has no other fields, and none without an end."""

    model_config = ConfigDict(extra="forbid")

    title: Annotated[str, StringConstraints(max_length=80)]
    language: Literal["English", "German", "French", "other"]
    topic: Literal["science", "nature", "technology", "history", "other"]
    mentions_a_person: bool


def extracted(llm: genai.LLM, text: str) -> Record:
    """The record of one text."""
    asked = [
        {
            "role": "system",
            "content": f"Describe the text as JSON: {', '.join(Record.model_fields)}.",
        },
        {"role": "user", "content": text[:LONGEST]},
    ]
    said = llm.generate(asked, json_schema=Record.model_json_schema(), max_new_tokens=300)
    return Record.model_validate_json(said.text)


def main(arguments: list[str]) -> int:
    """Write a line for each text; the exit code."""
    if len(arguments) != 2:
        print("Usage: extract.py MODEL FOLDER", file=sys.stderr)
        return 2
    model, folder = arguments
    try:
        paths = sorted(Path(folder).glob("*.txt"))
        with genai.load(model) as llm, ThreadPoolExecutor(AT_ONCE) as threads:
            records = threads.map(lambda path: extracted(llm, path.read_text(encoding="utf-8")), paths)
            for path, record in zip(paths, tqdm(records, total=len(paths), unit="text"), strict=True):
                print(json.dumps({"file": path.name, **record.model_dump()}), flush=True)
    except (GenAIError, OSError) as error:
        print(f"Error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
