"""A result as the body of one line of a batch file: a `chat.completion` or a `text_completion` of OpenAI's API."""

from __future__ import annotations

import codecs
import time
import uuid
from collections.abc import Sequence

from genai.batch.request import JSON, BatchRequest
from genai.decoding.logprobs import TokenLogprob
from genai.llm.results import Choice, Generation
from genai.tokenizer.tokenizer import Tokenizer


def answer(request: BatchRequest, result: Generation, tokenizer: Tokenizer, first_token: int) -> dict[str, JSON]:
    """The body of a response; first_token: of the prompt, which has no log probability."""
    is_chat = request.kind == "chat"
    if is_chat:
        choices: list[JSON] = [_chat_choice(choice, tokenizer) for choice in result.choices]
    else:
        choices = [_completion_choice(choice, result, tokenizer, first_token) for choice in result.choices]
    usage = result.usage
    return {
        "id": f"{'chatcmpl' if is_chat else 'cmpl'}-{uuid.uuid4().hex}",
        "object": "chat.completion" if is_chat else "text_completion",
        "created": int(time.time()),
        "model": request.model,
        "choices": choices,
        "usage": {
            "prompt_tokens": usage.prompt_tokens,
            "completion_tokens": usage.completion_tokens,
            "total_tokens": usage.prompt_tokens + usage.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
        },
    }


def _chat_choice(choice: Choice, tokenizer: Tokenizer) -> dict[str, JSON]:
    calls: list[JSON] = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in choice.tool_calls
    ]
    message: dict[str, JSON] = {"role": "assistant", "content": None if calls and not choice.text else choice.text}
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if calls:
        message["tool_calls"] = calls
    logprobs: JSON = None
    if choice.logprobs is not None:
        logprobs = {"content": [_entry(each, tokenizer) for each in choice.logprobs]}
    reason = "tool_calls" if calls and choice.finish_reason == "stop" else choice.finish_reason
    return {"index": choice.index, "message": message, "logprobs": logprobs, "finish_reason": reason}


def _entry(entry: TokenLogprob, tokenizer: Tokenizer) -> dict[str, JSON]:
    top: list[JSON] = [{**_token(token, tokenizer), "logprob": logprob} for token, logprob in entry.top]
    return {**_token(entry.token_id, tokenizer), "logprob": entry.logprob, "top_logprobs": top}


def _token(token_id: int, tokenizer: Tokenizer) -> dict[str, JSON]:
    data = tokenizer.token_bytes(token_id)
    return {"token": data.decode("utf-8", errors="replace"), "bytes": list(data)}


def _completion_choice(choice: Choice, result: Generation, tokenizer: Tokenizer, first_token: int) -> dict[str, JSON]:
    logprobs: JSON = None
    if choice.logprobs is not None:
        prompt = [(entry.token_id if entry else first_token, entry) for entry in result.prompt_logprobs or ()]
        logprobs = _columns([*prompt, *((entry.token_id, entry) for entry in choice.logprobs)], tokenizer)
    return {
        "index": choice.index,
        "text": choice.text,
        "logprobs": logprobs,
        "finish_reason": choice.finish_reason,
    }


def _columns(entries: Sequence[tuple[int, TokenLogprob | None]], tokenizer: Tokenizer) -> dict[str, JSON]:
    """OpenAI's older form: lists side by side. An offset counts the characters that were whole before the token."""
    characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
    offsets, offset = list[JSON](), 0
    for token_id, _ in entries:
        offsets.append(offset)
        offset += len(characters.decode(tokenizer.token_bytes(token_id)))
    return {
        "tokens": [_text(token_id, tokenizer) for token_id, _ in entries],
        "token_logprobs": [None if entry is None else entry.logprob for _, entry in entries],
        "top_logprobs": [
            None if entry is None else {_text(token, tokenizer): logprob for token, logprob in reversed(entry.top)}
            for _, entry in entries
        ],
        "text_offset": offsets,
    }


def _text(token_id: int, tokenizer: Tokenizer) -> str:
    return tokenizer.token_bytes(token_id).decode("utf-8", errors="replace")
