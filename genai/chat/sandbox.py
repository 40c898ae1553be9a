"""The jinja2 environment chat templates run in: what transformers offers them, and no more.

A template comes with a model from a stranger. The sandbox keeps it from Python's internals; on top of that a rendering
has a budget of steps, time and size, so that nested loops, recursion or repeated strings end in an error and not in a
machine that hangs. A single expensive filter call is not bounded beyond its size arguments.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime
from typing import NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

MAX_STEPS = 100_000
"""Most loop turns and macro calls in one rendering."""
MAX_SECONDS = 10.0
"""Most time that one rendering may take."""
MAX_SIZE = 16_000_000
"""Longest text or list a template may make, in characters or items."""
MAX_INT_BITS = 4096


@dataclass(slots=True)
class _Budget:
    steps: int = 0
    deadline: float = field(default_factory=lambda: time.monotonic() + MAX_SECONDS)


_budget: ContextVar[_Budget] = ContextVar("chat_template_budget")


def compile_template(source: str) -> jinja2.Template:
    """Compile a chat template once. Raises: jinja2.TemplateSyntaxError."""
    environment = _TemplateEnvironment()
    tree = _Metered().visit(environment.parse(source))
    return jinja2.Template.from_code(environment, environment.compile(tree), environment.globals)


def render_template(template: jinja2.Template, variables: Mapping[str, object]) -> str:
    """Render within the budget. Raises: whatever the template raises, SecurityError where it breaks a rule."""
    token = _budget.set(_Budget())
    try:
        return "".join(_limited(template.generate(dict(variables))))
    finally:
        _budget.reset(token)


def _limited(chunks: Iterator[str]) -> Iterator[str]:
    size = 0
    for chunk in chunks:
        size += len(chunk)
        _check_size(size)
        yield chunk


def _check_size(size: int) -> None:
    if size > MAX_SIZE:
        raise SecurityError(f"it makes a text or list of {size} elements (limit {MAX_SIZE})")


class _Metered(NodeTransformer):
    """Puts a step count into every body that can run more than once, and sends `~` through the size check."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        join = nodes.EnvironmentAttribute("join_text")
        return nodes.Call(join, node.nodes, [], None, None, lineno=node.lineno)

    def _count(self, node: nodes.For | nodes.Macro | nodes.CallBlock) -> nodes.Node:
        self.generic_visit(node)
        step = nodes.Call(nodes.EnvironmentAttribute("count_step"), [], [], None, None, lineno=node.lineno)
        node.body.insert(0, nodes.ExprStmt(step, lineno=node.lineno))
        return node

    visit_For = visit_Macro = visit_CallBlock = _count


class _GenerationTag(Extension):
    """`{% generation %}…{% endgeneration %}` marks what the assistant said, for training; here it changes nothing."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it as an instance attribute

    def parse(self, parser: Parser) -> nodes.Node:
        """Parse the block as a call that gives its body back."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Macro) -> str:
        return str(caller())


class _TemplateEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox with transformers' names, and operators that look at the size of what they make."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, loopcontrols])
        del self.globals["lipsum"]
        self.filters["tojson"] = _tojson
        self.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "dict": _TemplateDict(),
            "namespace": _TemplateNamespace,
        }

    def count_step(self) -> str:
        """Count one loop turn or macro call against the budget of this rendering."""
        budget = _budget.get()
        budget.steps += 1
        if budget.steps > MAX_STEPS:
            raise SecurityError(f"it runs more than {MAX_STEPS} loop turns")
        if time.monotonic() > budget.deadline:
            raise SecurityError(f"it runs for more than {MAX_SECONDS:.0f} seconds")
        return ""

    def join_text(self, *parts: object) -> str:
        """The `~` operator."""
        text = "".join(map(str, parts))
        _check_size(len(text))
        return text

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        """Run an arithmetic operator whose result may be large, after a look at how large."""
        _check_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: object, *args: object, **kwargs: object) -> object:
        """Call a method or function; a huge number given to a string method (`ljust`, `center`…) is refused."""
        if isinstance(getattr(__obj, "__self__", None), str):
            for argument in (*args, *kwargs.values()):
                _check_size(argument if isinstance(argument, int) else 0)
        return super().call(__context, __obj, *args, **kwargs)


def _check_operator(operator: str, left: object, right: object) -> None:
    if operator == "+" and isinstance(left, str | list | tuple) and isinstance(right, str | list | tuple):
        _check_size(len(left) + len(right))
    elif operator == "*" and isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())
    elif operator == "*":
        for sequence, times in ((left, right), (right, left)):
            if isinstance(sequence, str | list | tuple) and isinstance(times, int):
                _check_size(len(sequence) * times)
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() * right)
    elif operator == "%" and isinstance(left, str):
        _check_size(max(map(int, re.findall("[1-9][0-9]{0,19}", left)), default=0))


def _check_bits(bits: int) -> None:
    if bits > MAX_INT_BITS:
        raise SecurityError(f"it makes a number of {bits} bits (limit {MAX_INT_BITS})")


class _TemplateDict:
    """`dict(...)` for templates, without the attributes of the type."""

    def __call__(self, *args: Mapping[str, object], **kwargs: object) -> dict[str, object]:
        return dict(*args, **kwargs)

    def fromkeys(self, keys: list[str], value: object = None) -> dict[str, object]:
        """`dict.fromkeys`."""
        return dict.fromkeys(keys, value)


class _TemplateNamespace(Namespace):
    """A namespace that takes no name beginning with an underscore."""

    def __init__(*args: object, **kwargs: object) -> None:
        self, *rest = args
        values = dict(*rest, **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: object) -> None:
        _check_name(name)
        super().__setitem__(name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace takes no name that begins with an underscore: {name!r}")


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format)


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the HTML escapes of jinja2's own filter."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
