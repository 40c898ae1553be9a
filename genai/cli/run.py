"""`genai run`: answer one prompt, or continue it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from genai.cli import options, results
from genai.cli.loading import Message, open_model
from genai.errors import ConfigError

if TYPE_CHECKING:
    from genai import LLM


def run(
    model: options.Model,
    prompt: Annotated[
        str | None,
        typer.Argument(metavar="[PROMPT]", help="The prompt; `-` or nothing: read standard input.", show_default=False),
    ] = None,
    *,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt as plain text: no chat template.")] = False,
    system: options.System = None,
    max_new_tokens: options.MaxNewTokens = 512,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    repetition_penalty: options.RepetitionPenalty = None,
    seed: options.Seed = None,
    stop: options.Stop = None,
    precision: options.PrecisionOption = "auto",
    device: options.DeviceOption = "auto",
    threads: options.Threads = None,
    max_seq_len: options.MaxSeqLen = None,
    json_output: options.Json = False,
) -> None:
    """Answer a prompt, or continue it (--raw).

    The text is streamed to standard output; timings follow on standard error.
    """
    text = _prompt(prompt)
    generation = options.given(
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        seed=seed,
        stop=tuple(stop) if stop else None,
    )
    with open_model(model, precision=precision, device=device, threads=threads, max_seq_len=max_seq_len) as llm:
        request = _request(llm, text, system=system, raw=raw)
        if json_output:
            result = results.only(llm.generate(request, None, **generation))
            print(json.dumps({"model": model, **results.as_json(result)}, ensure_ascii=False))
        else:
            _stream(llm, request, generation)


def _prompt(argument: str | None) -> str:
    """The prompt as given, or from standard input."""
    if argument is not None and argument != "-":
        text = argument
    elif argument is None and sys.stdin.isatty():
        raise ConfigError("no prompt: give one after the model's name, or pipe one in")
    else:
        try:
            text = sys.stdin.buffer.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"the prompt on standard input is not UTF-8 (byte {error.start})") from None
    if not text.strip():
        raise ConfigError("the prompt is empty")
    return text


def _request(llm: LLM, text: str, *, system: str | None, raw: bool) -> str | list[Message]:
    """The prompt as chat messages where the model has a chat template, else as plain text."""
    if not raw and llm.tokenizer.has_chat_template:
        messages = [{"role": "system", "content": system}] if system else []
        return [*messages, {"role": "user", "content": text.rstrip("\n")}]
    if system:
        raise ConfigError("--system needs a chat template: " + ("drop --raw" if raw else "this model has none"))
    return text


def _stream(llm: LLM, request: str | list[Message], generation: options.Keywords) -> None:
    result = None
    for chunk in llm.stream(request, None, **generation):
        sys.stdout.write(chunk.text)
        sys.stdout.flush()
        result = chunk.result or result
    print()
    if result:
        print(results.summary(result), file=sys.stderr)
