"""`genai chat`: a conversation. The cache of earlier turns is kept, so each turn costs its own tokens only."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import TYPE_CHECKING

from genai.cli import options, results
from genai.cli.loading import Loading, Message
from genai.cli.typed import typed
from genai.errors import CapacityError, ConfigError

if TYPE_CHECKING:
    from genai import LLM

HELP = """\
/help         this list
/reset        forget the conversation
/system TEXT  forget the conversation and set the system message (without TEXT: remove it)
/exit         leave (also Ctrl-D)
Ctrl-C        stop the answer
\\             at the end of a line: the message goes on in the next one; what is pasted is one message"""


@options.taking(options.GENERATION, options.CHAT, max_new_tokens=1024)
def chat(
    model: options.Model,
    *,
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
) -> None:
    """Talk with a model.

    /help lists what may be typed. Piped input is read line by line, each line one message; there, Ctrl-C leaves.
    """
    loading = Loading(precision=precision, device=device, threads=threads, max_seq_len=max_seq_len, same_bits=same_bits)
    with loading.open(model, adapter) as llm, loading.open_draft(draft) as drafting:
        generation |= options.given(draft=drafting, timeout=timeout, adapter=options.name_of(adapter))
        if not llm.tokenizer.has_chat_template:
            raise ConfigError(f"{model} has no chat template; continue plain text with `genai run {model} --raw`")
        conversation = Conversation(llm, system, generation)
        for message in _messages(model):
            if not conversation.take(message):
                break


class Conversation:
    """The messages so far, and what a typed line does to them."""

    def __init__(self, llm: LLM, system: str | None, generation: options.Keywords) -> None:
        self._llm = llm
        self._generation = generation
        self._messages: list[Message] = []
        self._begin(system)

    def take(self, line: str) -> bool:
        """Obey a command, or answer a message, of one line or several; False if the conversation is over."""
        command, *rest = line.split(maxsplit=1) or [""]
        match command:
            case "":
                pass
            case "/exit" | "/quit" | "/bye":
                return False
            case "/help" | "/?":
                _note(HELP)
            case "/reset":
                self._begin(self._system)
                _note("the conversation is forgotten")
            case "/system":
                self._begin("".join(rest).strip() or None)
                _note("the conversation is forgotten; the system message is " + ("set" if self._system else "removed"))
            case _ if command.startswith("/") and "\n" not in line.strip():
                _note(f"no command {command}; /help lists them")
            case _:
                self._answer(line)
        return True

    def _begin(self, system: str | None) -> None:
        self._system = system
        self._messages = [{"role": "system", "content": system}] if system else []

    def _answer(self, line: str) -> None:
        """Answer one message; what was said before an interruption stays part of the conversation."""
        messages: list[Message] = [*self._messages, {"role": "user", "content": line.strip()}]
        said: list[str] = []
        try:
            summary = self._say(messages, said)
        except CapacityError as error:
            _note(f"{error} (/reset begins anew)")
            return
        self._messages = [*messages, {"role": "assistant", "content": "".join(said)}]
        _note(summary)

    def _say(self, messages: list[Message], said: list[str]) -> str:
        """Stream the answer into `said` and onto the screen, until it ends or Ctrl-C; returns the closing note."""
        note, screen = None, results.Screen()
        stream = self._llm.stream(messages, None, **self._generation)
        try:
            with contextlib.closing(stream), _interruptions() as is_interrupted:
                for chunk in stream:
                    said.append(chunk.text)
                    screen.write(chunk)
                    if chunk.result:
                        note = results.summary(chunk.result)
                    if is_interrupted():
                        raise KeyboardInterrupt
        except KeyboardInterrupt:
            if not _is_typed():  # nobody is there to say something else
                raise
        if note is None:
            sys.stdout.write("\n")
        return note or "stopped"


def _is_typed() -> bool:
    return sys.stdin.isatty()


def _messages(model: str) -> Iterator[str]:
    """What is typed, until Ctrl-D; or the lines of a pipe. Raises: ConfigError."""
    if _is_typed():
        _note(f"{model}: /help lists the commands, Ctrl-D leaves")
        yield from typed(">>> ")
        return
    for number, line in enumerate(sys.stdin.buffer, start=1):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError:
            raise ConfigError(f"line {number} of standard input is not UTF-8") from None


@contextlib.contextmanager
def _interruptions() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C into a flag, so that no step is torn in the middle; a second one interrupts at once."""
    interrupted = False

    def note(_signal: int, _frame: FrameType | None) -> None:
        nonlocal interrupted
        if interrupted:
            raise KeyboardInterrupt
        interrupted = True

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: interrupted
    finally:
        signal.signal(signal.SIGINT, before)


def _note(text: str) -> None:
    """Something about the conversation rather than in it: on standard error, dim on a terminal."""
    sys.stdout.flush()
    if sys.stderr.isatty():
        from rich.console import Console

        Console(stderr=True, highlight=False).print(text, style="dim", markup=False)
    else:
        print(text, file=sys.stderr)
