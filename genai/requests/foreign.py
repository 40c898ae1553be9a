"""Fields that clients send and that nothing here reads: which of them change nothing, and which are refused.

`docs/server.md` lists them from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_LABEL = "a label: nothing is kept under it"
_ROUTE = "where and when it runs, not what comes out"
_CACHE = "prompts that begin alike share what is cached, whatever it says"
_TONE = "a hint for models of other makers"

HARMLESS: Mapping[str, str] = {
    "cache_prompt": _CACHE,
    "cache_salt": _CACHE,
    "client_metadata": _LABEL,
    "context_management": "nothing is left out of a conversation here; what is too long is refused",
    "id_slot": _ROUTE,
    "max_tool_calls": "it counts calls of tools that a server runs; none are run here",
    "metadata": _LABEL,
    "mm_processor_kwargs": "for images, which are not read",
    "output_config": "what of it is no format: " + _TONE,
    "prediction": "it saves time where it is right; the text is the same",
    "priority": _ROUTE,
    "prompt_cache_key": _CACHE,
    "prompt_cache_options": _CACHE,
    "prompt_cache_retention": _CACHE,
    "provider": _ROUTE,
    "reasoning": "an effort is reasoning_effort there",
    "request_id": _LABEL,
    "safety_identifier": _LABEL,
    "service_tier": _ROUTE,
    "session_id": _LABEL,
    "store": "answers are not kept, which changes none",
    "stream_options": "streams of this API are told in one way",
    "timings_per_token": "timings are told with the end",
    "user": _LABEL,
    "verbosity": _TONE,
}
"""Fields that change no text, each with why. An API that has such a field itself reads it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Why a field is refused, and what to do instead.

    off: values that ask for nothing, beside null, false, 0 and empty ones; is_of_text: whether it is about the text
    that is written, so that it changes nothing where none is.
    """

    why: str
    off: tuple[object, ...] = ()
    is_of_text: bool = False


_SAMPLING = "this way of sampling is not known here"
_CONSTRAINT = "give response_format, regex, choices or grammar"
_ADAPTER = "give an adapter's name as the model"
_ELSEWHERE = "this API does not have it: ask /v1/chat/completions or /v1/completions"

REFUSED: Mapping[str, Refused] = {
    "adapter_id": Refused(why=_ADAPTER),
    "allowed_token_ids": Refused(why=_ELSEWHERE, is_of_text=True),
    "audio": Refused(why="models here write text only"),
    "background": Refused(why="the answer comes with the request"),
    "bad_words": Refused(why=_ELSEWHERE, is_of_text=True),
    "best_of": Refused(why="texts are not compared here", off=(1,), is_of_text=True),
    "chat_template": Refused(why="templates are the model's own; chat_template_kwargs sets their variables"),
    "choices": Refused(why=_ELSEWHERE, is_of_text=True),
    "container": Refused(why="no code is run here"),
    "conversation": Refused(why="conversations have no ids here: give previous_response_id, or all of it as `input`"),
    "documents": Refused(why="write them into a message"),
    "dynatemp_range": Refused(why=_SAMPLING),
    "echo": Refused(why="only /v1/completions tells the prompt again", is_of_text=True),
    "function_call": Refused(why="give tool_choice", off=("auto", "none")),
    "functions": Refused(why="give tools"),
    "grammar": Refused(why=_ELSEWHERE, is_of_text=True),
    "guided_decoding": Refused(why=_CONSTRAINT),
    "guided_grammar": Refused(why="give grammar, which is Lark"),
    "guided_json": Refused(why="give response_format"),
    "ignore_eos": Refused(why=_ELSEWHERE, is_of_text=True),
    "include_stop_str_in_output": Refused(why="texts end before what stops them"),
    "instructions": Refused(why="give a system message"),
    "json_schema": Refused(why="give response_format"),
    "length_penalty": Refused(why="texts are not compared here", off=(1,)),
    "logit_bias": Refused(why=_ELSEWHERE, is_of_text=True),
    "logits_processors": Refused(why="nobody's code is run here"),
    "lora": Refused(why=f"{_ADAPTER}, or ask /completion"),
    "lora_path": Refused(why=_ADAPTER),
    "max_tokens": Refused(why="give max_output_tokens"),
    "mcp_servers": Refused(why="no tools are run here"),
    "min_tokens": Refused(why=_ELSEWHERE, is_of_text=True),
    "mirostat": Refused(why=_SAMPLING),
    "mirostat_mode": Refused(why=_SAMPLING),
    "n": Refused(why=_ELSEWHERE, off=(1,), is_of_text=True),
    "previous_response_id": Refused(why="only answers of /v1/responses are kept"),
    "prompt": Refused(why="prompts are not kept here: give it as messages or `input`"),
    "prompt_logprobs": Refused(why="give echo with logprobs to /v1/completions"),
    "regex": Refused(why=_ELSEWHERE, is_of_text=True),
    "response_format": Refused(why="give regex, choices or grammar, or ask /v1/chat/completions"),
    "smoothing_factor": Refused(why=_SAMPLING),
    "stop": Refused(
        why="give stop_sequences to /v1/messages, or ask /v1/chat/completions or /v1/completions", is_of_text=True
    ),
    "stop_sequences": Refused(why="give stop"),
    "stop_token_ids": Refused(why=_ELSEWHERE, is_of_text=True),
    "structured_outputs": Refused(why=_CONSTRAINT),
    "suffix": Refused(why="text is written behind other text, not into it"),
    "system": Refused(why="give a system message"),
    "tfs_z": Refused(why=_SAMPLING, off=(1,)),
    "tools": Refused(why="only conversations have tools: ask /v1/chat/completions"),
    "top_a": Refused(why=_SAMPLING),
    "top_logprobs": Refused(why="log probabilities are told by /v1/chat/completions and /v1/completions"),
    "truncate_prompt_tokens": Refused(why="a prompt that is too long is refused", off=(-1,)),
    "use_beam_search": Refused(why="beams are not served: several texts are samples"),
    "web_search_options": Refused(why="no web search is made here"),
}
"""Fields that ask for another result than would come. An API that has such a field itself reads it."""

RENAMED: Mapping[str, str] = {
    "guided_choice": "choices",
    "guided_regex": "regex",
    "max_completion_tokens": "max_tokens",
    "max_new_tokens": "max_tokens",
    "max_output_tokens": "max_tokens",
    "n_predict": "max_tokens",
    "num_predict": "max_tokens",
    "repeat_penalty": "repetition_penalty",
    "thinking_budget": "reasoning_budget",
    "thinking_budget_tokens": "reasoning_budget",
    "thinking_token_budget": "reasoning_budget",
}
"""Other servers' names of fields that are known here."""
