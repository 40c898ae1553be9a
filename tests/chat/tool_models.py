"""Chat templates in the manner of known models, cut down to what matters for tools, and vocabularies for them."""

from __future__ import annotations

import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from genai.tokenizer.token_pieces import byte_alphabet
from genai.tokenizer.tokenizer import Tokenizer

TURN = "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
QWEN = (
    "{%- if tools %}<|im_start|>system\nTools:{% for t in tools %}\n{{ t | tojson }}{% endfor %}\n"
    'Answer <tool_call>\n{"name": ..., "arguments": ...}\n</tool_call><|im_end|>\n{% endif %}'
    "{%- for m in messages %}{%- if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n"
    "</tool_response><|im_end|>\n{%- else %}<|im_start|>{{ m.role }}\n"
    "{%- set text = m.content.split('</think>')[-1] %}{{ text }}"
    "{%- for c in m.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "<|im_end|>\n{%- endif %}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""Like Qwen3's first template, it fails where content is None."""
SMOLLM3 = (
    "{%- if xml_tools or python_tools %}Tools: {% for t in xml_tools %}{{ t | string }}{% endfor %}"
    " in <tool_call></tool_call>{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n{{ m.content }}<|im_end|>\n"
    "{% else %}" + TURN + "{% endif %}{% endfor %}<|im_start|>assistant\n"
)
LLAMA = (
    "{%- if custom_tools is defined %}{% set tools = custom_tools %}{% endif %}"
    "{%- if not tools is defined %}{% set tools = none %}{% endif %}"
    "{%- if tools is not none %}Environment: ipython"
    "{% for t in tools %}\n{{ t | tojson(indent=4) }}{% endfor %}{% endif %}"
    "{%- for m in messages %}{%- if 'tool_calls' in m %}"
    "{%- if m.tool_calls | length != 1 %}{{ raise_exception('only single tool-calls at once!') }}{% endif %}"
    "{%- set f = m.tool_calls[0].function %}[assistant] "
    '{"name": "{{ f.name }}", "parameters": {{ f.arguments | tojson }}}'
    "{%- elif m.role == 'tool' or m.role == 'ipython' %}[ipython] {{ m.content | tojson }}"
    "{%- else %}[{{ m.role }}] {{ m.content | trim }}{% endif %}<|eot_id|>{% endfor %}[assistant] "
)
_MISTRAL_ID = (
    "{%- macro id(i) %}{% if i | length != 9 %}{{ raise_exception('Tool call IDs should have length 9!') }}"
    "{% endif %}{{ i }}{% endmacro %}"
)
MISTRAL = (
    _MISTRAL_ID + "{%- for m in messages %}{% if m.role == 'user' %}"
    "{%- if tools and loop.last %}[AVAILABLE_TOOLS] {{ tools | tojson }}[/AVAILABLE_TOOLS]{% endif %}"
    "[INST] {{ m.content }}[/INST]{% elif m.tool_calls is defined and m.tool_calls is not none %}[TOOL_CALLS] ["
    "{%- for c in m.tool_calls %}{% set out = c.function | tojson %}"
    "{{ out[:-1] + ', \"id\": \"' + id(c.id) + '\"}' + ('' if loop.last else ', ') }}{% endfor %}]</s>"
    "{%- elif m.role == 'tool' %}[TOOL_RESULTS] {{ id(m.tool_call_id) }} {{ m.content }}[/TOOL_RESULTS]"
    "{%- else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
MISTRAL_NAMED = (
    "{%- for m in messages %}{% if m.role == 'user' %}[AVAILABLE_TOOLS]{{ tools | tojson }}[/AVAILABLE_TOOLS]"
    "[INST]{{ m.content }}[/INST]{% elif m.tool_calls is defined %}"
    "{%- for c in m.tool_calls %}[TOOL_CALLS]{{ c.function.name }}[ARGS]{{ c.function.arguments | tojson }}{% endfor %}"
    "</s>{% elif m.role == 'tool' %}[TOOL_RESULTS]{{ m.name }}: {{ m.content }}[/TOOL_RESULTS]{% endif %}{% endfor %}"
)
GRANITE = (
    "{% if tools %}Respond with <|tool_call|> and a list.{{ tools | tojson }}{% endif %}"
    "{% for m in messages %}{% if m.role == 'tool' %}{% endif %}{{ m.tool_calls or m.content }}{% endfor %}"
)
TEXT_ARGUMENTS = (
    "{{ tools | length if tools }}{% for m in messages %}{% if m.role == 'tool' %}[result]{{ m.content }}"
    "{% elif m.tool_calls %}{% for c in m.tool_calls %}{{ '[call]' + c.function.name + '\n' + c.function.arguments }}"
    "{% endfor %}{% else %}[{{ m.role }}]{{ m.content }}{% endif %}{% endfor %}"
)
"""Like DeepSeek's, it joins the arguments to a text."""
DEEPSEEK = "{% for m in messages %}" + TURN + "{% endfor %}<｜Assistant｜><think>\n"
CHATML = (
    "{% for m in messages %}" + TURN + "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

SPECIAL = ("<eos>", "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<|python_tag|>", "<|tool_call|>", "[THINK]", "[/THINK]")
ADDED = ("<tool_call>", "</tool_call>", "<think>", "</think>")


def tokenizer_with(template: str, *, has_markers: bool = True, special: tuple[str, ...] = SPECIAL) -> Tokenizer:
    """A byte-level tokenizer with a few merges; has_markers: special tokens, and others, for the known markers."""
    vocab = {character: index for index, character in enumerate(byte_alphabet())}
    merges = [
        ("Ġ", "["),
        ("<", "/"),
        ("n", "a"),
        ("m", "e"),
        ("na", "me"),
        ('"', ":"),
        ('"', "}"),
        ("<", "t"),
        ("}", "}"),
    ]
    for left, right in merges:
        vocab[left + right] = len(vocab)
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(special if has_markers else special[:1]))
    backend.add_tokens(list(ADDED if has_markers else ()))
    eos = backend.token_to_id("<eos>")
    return Tokenizer(backend, bos_token_id=None, eos_token_ids=(eos,), chat_template=template)
