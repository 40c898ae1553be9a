"""`genai run`: answer one prompt, or continue it."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from genai.cli import options, results
from genai.cli.loading import Loading, Message
from genai.errors import ConfigError

if TYPE_CHECKING:
    from genai import LLM


@options.taking(options.GENERATION, options.SEVERAL, options.PROMPT, options.CHAT, options.TOOLS, max_new_tokens=512)
def run(
    model: options.Model,
    prompt: Annotated[
        str | None, typer.Argument(metavar="[PROMPT]", help="The prompt; `-` or nothing: read standard input.")
    ] = None,
    *,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the prompt as plain text: no chat template.")] = False,
    system: options.System = None,
    generation: options.Keywords,
    draft: options.Draft = None,
    adapter: options.Adapter = None,
    timeout: options.Timeout = None,
    precision: options.PrecisionOption = "auto",
    device: options.DeviceOption = "auto",
    threads: options.Threads = None,
    max_seq_len: options.MaxSeqLen = None,
    same_bits: options.KeepBits = None,
    json_output: options.Json = False,
) -> None:
    """Answer a prompt, or continue it (--raw).

    The text is streamed to standard output; reasoning and timings go to standard error. Several texts come one after
    the other, when all are ready; calls of tools as lines of JSON.
    """
    text = _prompt(prompt)
    if not json_output and generation.keys() & {"logprobs", "prompt_logprobs"}:
        raise ConfigError("log probabilities are part of the JSON: add --json")
    loading = Loading(precision=precision, device=device, threads=threads, max_seq_len=max_seq_len, same_bits=same_bits)
    with loading.open(model, adapter) as llm, loading.open_draft(draft) as drafting:
        request = _request(llm, text, system=system, raw=raw)
        generation |= options.given(draft=drafting, timeout=timeout, adapter=options.name_of(adapter))
        if json_output:
            result = llm.generate(request, None, **generation)
            print(json.dumps({"model": model, **results.as_json(result, llm.tokenizer)}, ensure_ascii=False))
        else:
            _show(llm, request, generation)


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


def _show(llm: LLM, request: str | list[Message], generation: options.Keywords) -> None:
    """Print a text as it comes; several when all are there."""
    screen, result = results.Screen(), None
    if max(generation.get(name, 1) for name in ("n", "num_return_sequences")) > 1:
        result = llm.generate(request, None, **generation)
        for choice in result.choices:
            print(f"[{choice.index + 1}]")
            screen.write_choice(choice)
    else:
        for chunk in llm.stream(request, None, **generation):
            screen.write(chunk)
            result = chunk.result or result
    if result:
        print(results.summary(result), file=sys.stderr)
