"""A tiny model with a long context whose weights were written, not learnt: it says a sentence, or calls a tool.

Agents' own prompts are longer than SmolLM2's context. This model reads them too, and answers so that the rest of the
protocol is run: its template ends a prompt with an opener, and some tokens that spell an answer follow, and the end.

    … <|answer-2|>  →  I use bash. <tool_call>  →  {"name": "bash", "arguments":  →  {…}} </tool_call>  →  <|im_end|>

Engine, streams, parsing of calls and rendering of histories know nothing of this: to them it is a model like others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import tokenizers

from genai.tokenizer.tokenizer import Tokenizer
from tests.random_model import RandomSource
from tests.tiny_package import tiny_package

MAX_POSITION = 65_536
END = "<|im_end|>"
TURNS = (
    "{% if tools %}<|im_start|>system\nTools:{% for tool in tools %}\n{{ tool | tojson }}{% endfor %}\n"
    'Call one so: <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call><|im_end|>\n{% endif %}'
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content or '' }}"
    "{% for call in message.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    "{% endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% set names = (tools or []) | map(attribute='function') | map(attribute='name') | list %}"
)


def written_model(
    folder: Path, smollm2: Path, *, calls: Mapping[str, object], told: Mapping[str, str], text: str, afterwards: str
) -> Path:
    """A package with SmolLM2's vocabulary.

    calls: arguments by the name of a tool; the first of these that a request offers is called. told: what is said where
    the first message has a phrase; text: where there is none of either; afterwards: once a tool has answered.
    """
    cases = {
        "messages[-1].role == 'tool'": _pieces(afterwards),
        **{f"{name!r} in names": _call(name, arguments) for name, arguments in calls.items()},
        **{f"{phrase!r} in messages[0].content": _pieces(answer) for phrase, answer in told.items()},
        "true": _pieces(text),
    }
    backend = tokenizers.Tokenizer.from_file(str(smollm2 / "tokenizer.json"))
    chains, chosen = [], "{% if false %}"
    for index, (case, pieces) in enumerate(cases.items()):
        opener = f"<|answer-{index}|>"
        chosen += f"{{% elif {case} %}}{opener}"
        backend.add_special_tokens([opener])
        backend.add_tokens([tokenizers.AddedToken(piece, special=False, normalized=False) for piece in pieces])
        chains.append(tuple(backend.token_to_id(piece) for piece in (opener, *pieces, END)))
    template = TURNS + chosen + "{% endif %}{% endif %}"
    tokenizer = Tokenizer(backend, bos_token_id=None, eos_token_ids=(chains[0][-1],), chat_template=template)
    return tiny_package(
        folder,
        tokenizer=tokenizer,
        max_position=MAX_POSITION,
        weights_of=lambda **changes: WrittenSource(chains, **changes),
    )


def _call(name: str, arguments: object) -> tuple[str, ...]:
    """A sentence and a call, cut where grammars for strict tools change from one part to the next."""
    head = f'\n{{"name": "{name}", "arguments": '
    return f"I use {name}.\n<tool_call>", head, f"{json.dumps(arguments)}}}\n</tool_call>"


def _pieces(text: str) -> tuple[str, ...]:
    """A text, cut in the middle."""
    middle = len(text) // 2
    return text[:middle], text[middle:]


class WrittenSource(RandomSource):
    """Weights with which layers add nothing and chains of tokens follow each other: opener, pieces, the end.

    The embeddings are tied, so that the next token is the one most like this one. Each lies along the direction that it
    shares with the one before and the one that it shares with the next, three times as far out as the one before.
    The end is that of all chains.
    """

    def __init__(self, chains: Sequence[Sequence[int]], **changes: object) -> None:
        super().__init__(**changes)
        self._chains = chains

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        return self._written(name)[rows or slice(None)]

    def _written(self, name: str) -> np.ndarray:
        values = super().read(name)
        if name.endswith(("o_proj.weight", "down_proj.weight")):
            return np.zeros_like(values)
        if name == "model.embed_tokens.weight":
            directions = iter(np.eye(values.shape[1], dtype=np.float32))
            to_the_end = next(directions)
            for opener, *pieces, end in self._chains:
                before = next(directions)
                length = 10.0
                values[opener] = length * before
                for piece in pieces:
                    after = to_the_end if piece == pieces[-1] else next(directions)
                    length *= 3
                    values[piece], before = length * (before + after), after
                values[end] = 10.0 * 3**5 * to_the_end
        return values
