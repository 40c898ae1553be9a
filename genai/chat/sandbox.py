"""The jinja2 environment chat templates run in: what transformers offers them, and no more.

A template comes with a model from a stranger. The sandbox keeps it from Python's internals; on top of that a rendering
has a budget of steps, time and size (`bounds.py`), so that nested loops, recursion or repeated strings end in an error
and not in a machine that hangs. Nothing of a template runs while it is compiled, where there is no budget.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.filters import make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Namespace, _PassArg
from jinja2.visitor import NodeTransformer

from genai.chat import bounds

_PLAIN = (str, bytes, int, float)
_MAX_DEPTH = 1000
"""No JSON is nested deeper than Python's stack."""


def compile_template(source: str) -> jinja2.Template:
    """Compile a chat template once. Raises: jinja2.TemplateSyntaxError."""
    environment = _TemplateEnvironment()
    tree = _Metered().visit(environment.parse(source))
    return jinja2.Template.from_code(environment, environment.compile(tree), environment.globals)


def render_template(template: jinja2.Template, variables: Mapping[str, object]) -> str:
    """Render within the budget. Raises: whatever the template raises, SecurityError where it breaks a rule."""
    with bounds.new_budget():
        return "".join(bounds.limited(template.generate(dict(variables))))


class _Metered(NodeTransformer):
    """Puts a step count into every body that can run more than once, and checks the size of `~` and slices."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        join = nodes.EnvironmentAttribute("join_text")
        return nodes.Call(join, node.nodes, [], None, None, lineno=node.lineno)

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        return nodes.Call(nodes.EnvironmentAttribute("counted"), [node], [], None, None, lineno=node.lineno)

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
    counted = staticmethod(bounds.counted)

    def __init__(self) -> None:
        extensions = [_GenerationTag, loopcontrols]
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=extensions, finalize=_shown)
        del self.globals["lipsum"]
        self.filters |= {"tojson": _tojson, "join": _join, "sum": _sum}
        self.filters = {name: _bounded(name, apply) for name, apply in self.filters.items()}
        self.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
            "dict": _TemplateDict(),
            "namespace": _TemplateNamespace,
        }

    @staticmethod
    def concat(pieces: Iterable[str]) -> str:
        """The text of a macro or of a block that is set."""
        return bounds.counted("".join(bounds.limited(pieces)))

    def count_step(self) -> str:
        """Count one loop turn or macro call against the budget of this rendering."""
        bounds.count_step()
        return ""

    def join_text(self, *parts: object) -> str:
        """The `~` operator."""
        return bounds.counted("".join(bounds.limited(map(_text, parts))))

    def call_binop(self, context: Context, operator: str, left: object, right: object) -> object:
        """Run an arithmetic operator whose result may be large, after a look at how large."""
        bounds.check_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: object, *args: object, **kwargs: object) -> object:
        """Call a method or function; what a text's or a number's method would make is reckoned first."""
        owner, name = getattr(__obj, "__self__", None), getattr(__obj, "__name__", "")
        if isinstance(owner, _PLAIN):
            if isinstance(owner, str) and name == "join" and len(args) == 1:
                args = (list(bounds.limited(args[0], len(owner))),)  # type: ignore[arg-type]
            bounds.check_call(name, owner, (*args, *kwargs.values()))
        return bounds.counted(super().call(__context, __obj, *args, **kwargs))

    def wrap_str_format(self, value: object) -> Callable[..., str] | None:
        """`format` and `format_map` of a text, with a look at each field before it is written."""
        if super().wrap_str_format(value) is None:
            return None
        text, takes_map = value.__self__, value.__name__ == "format_map"  # type: ignore[attr-defined]

        def write(*args: object, **kwargs: object) -> str:
            positional, named = ((), args[0]) if takes_map else (args, kwargs)
            if not isinstance(named, Mapping):
                raise TypeError(f"format_map takes a mapping, not {type(named).__name__}")
            return str(bounds.counted(_Formatter(self).vformat(text, positional, named)))

        return write


class _Formatter(SandboxedFormatter):
    """Writes one text; size: what its fields have come to."""

    size = 0

    def format_field(self, value: object, format_spec: str) -> str:
        bounds.check_field(value, format_spec)
        field = str(super().format_field(value, format_spec))
        self.size += len(field)
        bounds.check_size(self.size)
        return field


def _bounded(name: str, apply: Callable[..., object]) -> Callable[..., object]:
    """A filter that looks at what it is asked to make; as it wants the context, it is never run while compiling."""
    passed = _PassArg.from_obj(apply)

    @jinja2.pass_context
    def run(context: Context, value: object, *args: object, **kwargs: object) -> object:
        bounds.check_call(name, value, (*args, *kwargs.values()))
        if name == "format":
            bounds.check_operator("%", str(value), kwargs or args)
        first: dict[_PassArg | None, tuple[object, ...]] = {
            None: (),
            _PassArg.context: (context,),
            _PassArg.eval_context: (context.eval_ctx,),
            _PassArg.environment: (context.environment,),
        }
        return bounds.counted(apply(*first[passed], value, *args, **kwargs))

    return run


def _text(value: object) -> str:
    bounds.check_shown(value)
    return str(value)


def _shown(value: object) -> object:
    bounds.check_shown(value)
    return value


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


@jinja2.pass_environment
def _join(environment: jinja2.Environment, value: Iterable[object], d: str = "", attribute: str | None = None) -> str:
    """Jinja's own `join`, which ends where its text becomes too long."""
    items = value if attribute is None else map(make_attrgetter(environment, attribute), value)
    separator = _text(d)
    return separator.join(bounds.limited(map(_text, items), len(separator)))


@jinja2.pass_environment
def _sum(
    environment: jinja2.Environment, iterable: Iterable[object], attribute: str | None = None, start: object = 0
) -> object:
    """Jinja's own `sum`, which ends where a text or list becomes too long."""
    total = start
    for item in iterable if attribute is None else map(make_attrgetter(environment, attribute), iterable):
        bounds.check_operator("+", total, item)
        total = total + item  # type: ignore[operator]
    return total


def _tojson(
    value: object,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without the HTML escapes of jinja2's own filter."""
    bounds.check_size(_MAX_DEPTH * (len(indent) if isinstance(indent, str) else indent or 0))
    encoder = json.JSONEncoder(ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
    return "".join(bounds.limited(encoder.iterencode(value)))
