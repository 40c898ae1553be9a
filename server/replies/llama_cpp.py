"""Texts as llama.cpp's server tells them."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from genai.replies.openai import shown_logprobs, token_text
from server.generation import Running
from server.schemas.llama_cpp import GenerationSettings, LlamaCompletion, LlamaTimings
from server.sse import event

if TYPE_CHECKING:
    from genai.decoding.logprobs import TokenLogprob
    from genai.llm.results import Generation
    from genai.tokenizer.tokenizer import Tokenizer
    from server.models import ServedModel
    from server.schemas.llama_cpp import LlamaCompletionRequest


def llama_completion(
    model: ServedModel, body: LlamaCompletionRequest, result: Generation, index: int, *, is_told: bool = False
) -> LlamaCompletion:
    """A whole answer. is_told: whether its text and tokens have been streamed already."""
    choice, usage = result.choices[0], result.usage
    tokenizer = model.llm.llm.tokenizer
    probabilities = None
    if body.n_probs and choice.logprobs is not None and not is_told:
        probabilities = [_probability(each, tokenizer) for each in choice.logprobs]
    return LlamaCompletion(
        index=index,
        content="" if is_told else choice.text,
        tokens=[] if is_told or not body.return_tokens else choice.token_ids,
        model=model.asked_name,
        tokens_predicted=usage.completion_tokens,
        tokens_evaluated=usage.prompt_tokens,
        tokens_cached=usage.prompt_tokens + usage.completion_tokens,
        generation_settings=GenerationSettings(n_ctx=model.llm.llm.max_seq_len),
        stop_type="limit" if choice.finish_reason != "stop" else "word" if choice.stop_string else "eos",
        stopping_word=choice.stop_string or "",
        timings=llama_timings(result),
        completion_probabilities=probabilities,
    )


def llama_timings(result: Generation) -> LlamaTimings:
    """Counts and times of one text."""
    usage, timings = result.usage, result.timings
    evaluated = usage.prompt_tokens - usage.cached_tokens
    return LlamaTimings(
        prompt_n=evaluated,
        prompt_ms=1000 * timings.prefill_seconds,
        prompt_per_second=evaluated / timings.prefill_seconds if timings.prefill_seconds else None,
        predicted_n=usage.completion_tokens,
        predicted_ms=1000 * timings.decode_seconds,
        predicted_per_second=timings.tokens_per_second,
        cache_n=usage.cached_tokens,
    )


def whole_json(answers: Sequence[LlamaCompletion]) -> str:
    """One answer, or the list of several prompts' answers."""
    told = [answer.model_dump(exclude_none=True) for answer in answers]
    return json.dumps(told[0] if len(told) == 1 else told, ensure_ascii=False, allow_nan=False)


async def llama_events(
    model: ServedModel, body: LlamaCompletionRequest, running: Running
) -> AsyncGenerator[bytes, None]:
    """The pieces of each prompt's text, and the counts at its end. Closing the generator ends the request."""
    tokenizer = model.llm.llm.tokenizer
    async with aclosing(running.chunks()) as pieces:
        async for index, chunk in pieces:
            if chunk.text or chunk.token_ids:
                told: dict[str, object] = {"index": index, "content": chunk.text, "stop": False, "id_slot": -1}
                told["tokens"] = chunk.token_ids if body.return_tokens else []
                if body.n_probs:
                    shown = shown_logprobs(chunk) or ()
                    told["completion_probabilities"] = [_probability(each, tokenizer) for each in shown]
                yield event(json.dumps(told, ensure_ascii=False, allow_nan=False))
            if chunk.result is not None:
                last = llama_completion(model, body, chunk.result, index, is_told=True)
                yield event(last.model_dump_json(exclude_none=True))


def _probability(logprob: TokenLogprob, tokenizer: Tokenizer) -> dict[str, object]:
    likely = [_told(token, value, tokenizer) for token, value in logprob.top]
    return {**_told(logprob.token_id, logprob.logprob, tokenizer), "top_logprobs": likely}


def _told(token_id: int, logprob: float, tokenizer: Tokenizer) -> dict[str, object]:
    token = tokenizer.token_bytes(token_id)
    return {"id": token_id, "token": token_text(token), "bytes": list(token), "logprob": max(logprob, -9999.0)}
