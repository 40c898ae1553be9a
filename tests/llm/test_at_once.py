"""One model for many at once: threads and coroutines in one batch; readers that are late; closing and being dropped."""

from __future__ import annotations

import asyncio
import gc
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from genai.config import EngineConfig
from genai.engine.streams import MAX_UNREAD
from genai.errors import ConfigError, GenAIError, GraphRunError
from genai.llm.async_llm import AsyncLLM
from genai.llm.llm import LLM
from tests.engine.test_loop import together
from tests.tiny_package import tiny_package

CONFIG = EngineConfig(device="cpu", num_threads=1, max_seq_len=500, max_batch=8, prefix_cache_bytes=0)
OPTIONS = {"max_new_tokens": 150, "ignore_eos": True, "temperature": 0.9, "seed": 4}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_package(tmp_path_factory.mktemp("at_once") / "tiny")


def generated(llm: LLM, prompt: str) -> list[int]:
    return llm.generate(prompt, **OPTIONS).token_ids


def streamed(llm: LLM, prompt: str) -> list[int]:
    return [token for chunk in llm.stream(prompt, **OPTIONS) for token in chunk.token_ids]


def stepped(llm: LLM, prompt: str) -> list[int]:
    with llm.generator(**OPTIONS) as generator:
        generator.append_input_tokens(llm.tokenizer.encode(prompt))
        return [generator.generate_next_token() for _ in range(150)]


async def read(model: AsyncLLM, prompt: str) -> list[int]:
    return [token async for chunk in await model.submit(prompt, **OPTIONS) for token in chunk.token_ids]


def awaited(llm: LLM, prompts: list[str]) -> list[object]:
    async def main() -> list[object]:
        model = AsyncLLM(llm)
        try:
            return await asyncio.gather(*(read(model, prompt) for prompt in prompts), return_exceptions=True)
        finally:
            model.close()

    return asyncio.run(asyncio.wait_for(main(), 60))


def batch_sizes(llm: LLM) -> tuple[float, float]:
    """(decode steps of at most four sequences, all decode steps)."""
    value = llm.metrics.registry.get_sample_value
    small = value("genai_decode_batch_size_bucket", {"model": "tiny", "le": "4.0"})
    return small or 0.0, value("genai_decode_batch_size_count", {"model": "tiny"}) or 0.0


def test_threads_and_coroutines_are_batched_and_say_what_they_say_alone(package: Path) -> None:
    with LLM(package, CONFIG, name="tiny") as llm:
        prompts = [f"number {n}" for n in range(8)]
        expected = [generated(llm, prompt) for prompt in prompts]
        small, alone = batch_sizes(llm)
        assert small == alone == 8 * 149
        kinds = [generated, streamed, stepped]
        works: list[Callable[[], object]] = [
            lambda n=n: kinds[n % 3](llm, prompts[n])  # type: ignore[misc]
            for n in range(5)
        ]
        *texts, last = together([*works, lambda: awaited(llm, prompts[5:])])
        assert [*texts, *last] == expected  # type: ignore[misc]
        small_after, after = batch_sizes(llm)
        assert after - alone < 8 * 149 / 2, "many of them in each step"
        assert after - small_after > 20, "more than four of them in many"
        llm.loop.settle()
        assert llm._runner.cache.rows == ()


def test_a_stream_that_is_not_read_on_is_paused_and_loses_nothing(package: Path) -> None:
    with LLM(package, CONFIG) as llm:
        expected = generated(llm, "late")
        stream = llm.stream("late", **OPTIONS)
        tokens = next(stream).token_ids
        deadline = time.monotonic() + 30
        while not llm.engine.running[0].is_paused:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        assert MAX_UNREAD <= len(llm.engine.running[0].generated) < 2 * MAX_UNREAD
        assert generated(llm, "other") == generated(llm, "other")
        assert tokens + [token for chunk in stream for token in chunk.token_ids] == expected


def test_ctrl_c_ends_who_waits_and_nobody_else(package: Path) -> None:
    options = {**OPTIONS, "max_new_tokens": 450}
    with LLM(package, CONFIG) as llm:
        expected = llm.generate("other", **options).token_ids
        stream = llm.stream("other", **options)
        tokens = next(stream).token_ids
        main = threading.main_thread().ident
        assert main is not None
        threading.Timer(0.05, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            endless(lambda: llm.generate(["a", "b", "c"], **options))
        llm.loop.settle()
        assert len(llm.engine.running) == 1, "what was interrupted has no rows"
        assert tokens + [token for chunk in stream for token in chunk.token_ids] == expected


def test_closing_in_the_middle_ends_each_with_an_error_and_frees_everything(package: Path) -> None:
    """Whoever still holds on to something."""
    before = engine_threads()
    llm, draft = LLM(package, CONFIG), LLM(package, CONFIG)
    held = [weakref.ref(each) for each in things(llm) + things(draft)]
    stream = llm.stream("drafted", **OPTIONS, draft=draft)
    generator, model = llm.generator(**OPTIONS), AsyncLLM(llm)
    generator.append_input_tokens([1, 2, 3])
    generator.generate_next_token()
    kinds = [generated, streamed, stepped]
    works: list[Callable[[], object]] = [lambda n=n: endless(lambda: kinds[n](llm, "x")) for n in range(3)]  # type: ignore[misc]
    works += [lambda n=n: endless(lambda: raised(*awaited(llm, [f"{n}"]))) for n in range(2)]  # type: ignore[misc]
    works.append(lambda: (time.sleep(0.1), llm.close(), draft.close()))
    *errors, _ = together(works)
    pieces = next(stream), next(stream)
    with pytest.raises(ConfigError, match="this model was closed before the text had ended"):
        list(stream)
    assert len(set(map(id, errors))) == 5
    for error in errors:
        assert isinstance(error, ConfigError)
        assert "closed" in str(error)
    assert [ref() for ref in held] == [None] * len(held)
    assert engine_threads() == before
    assert (llm, draft, generator.is_done, model.llm, len(pieces)) == (llm, draft, True, llm, 2)
    llm.close()


def break_graph(llm: LLM) -> None:
    """Have every run of the graph fail from here on, whether its shape is bound already or not."""
    session = llm._runner._session
    session._session = SimpleNamespace(io_binding=session._session.io_binding)  # type: ignore[assignment]


def test_an_error_that_somebody_keeps_keeps_no_model(package: Path) -> None:
    with LLM(package, CONFIG) as llm:
        held, errors = [weakref.ref(each) for each in things(llm)], list[GenAIError]()
        with llm.generator() as generator:
            generator.append_input_tokens([1])
            for use in (lambda: llm.generate("x"), lambda: llm.logits([1]), generator.generate_next_token):
                break_graph(llm)
                with pytest.raises(GraphRunError, match="no attribute 'run") as caught:
                    use()
                errors.append(caught.value)
                del caught
    gc.collect()
    assert [ref() for ref in held] == [None] * len(held)
    assert len(errors) == 3


def test_a_generator_that_has_met_an_error_is_kept_by_nobody(package: Path) -> None:
    with LLM(package, CONFIG) as llm:
        generator = llm.generator()
        generator.append_input_tokens([1])
        break_graph(llm)
        with pytest.raises(GraphRunError):
            generator.generate_next_token()
        with pytest.raises(GraphRunError):
            generator.append_input_tokens([1])
        held = weakref.ref(generator)
        del generator
        gc.collect()
        assert held() is None


def test_a_generator_begins_without_waiting_for_a_step(package: Path) -> None:
    """In which Ctrl-C would leave a text that nobody owns."""
    with LLM(package, CONFIG) as llm:
        generated(llm, "x")
        with llm.loop._turn, llm.generator() as generator:
            assert together([lambda: generator.append_input_tokens([1, 2])]) == [None]
            assert generator.token_ids == [1, 2]
            llm.loop.cancel(generator._job)  # type: ignore[arg-type]
            generator._forgotten = None
        llm.loop.settle()
        assert not llm.engine.has_work


def engine_threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "genai-engine"}


def things(llm: LLM) -> list[object]:
    """What takes memory: the graph, the cache, its buffers, and what is bound to them."""
    runner = llm._runner
    return [runner._session, runner.cache, *runner.cache._buffers, llm.engine]


def raised(outcome: object) -> None:
    if isinstance(outcome, Exception):
        raise outcome


def endless(work: Callable[[], object]) -> object:
    while True:
        work()


@pytest.mark.parametrize("is_begun", [False, True])
def test_a_model_that_nobody_has_any_more_is_freed(package: Path, is_begun: bool) -> None:
    before = engine_threads()
    llm = LLM(package, CONFIG)
    if is_begun:
        generated(llm, "x")
        stream = llm.stream("y", **OPTIONS)
        next(stream)
        del stream
    held = [weakref.ref(each) for each in [llm, *things(llm)]]
    del llm
    gc.collect()
    deadline = time.monotonic() + 10
    while any(ref() is not None for ref in held) or engine_threads() != before:
        assert time.monotonic() < deadline, "it is never freed"
        time.sleep(0.005)


def test_who_still_reads_has_the_model(package: Path) -> None:
    expected = generated(LLM(package, CONFIG), "x")
    stream = LLM(package, CONFIG).stream("x", **OPTIONS, draft=LLM(package, CONFIG))
    gc.collect()
    assert [token for chunk in stream for token in chunk.token_ids] == expected
    generator = LLM(package, CONFIG).generator(**OPTIONS)
    gc.collect()
    generator.append_input_tokens(list(b"x"))
    assert generator.generate_next_token() == expected[0]

    async def main() -> list[int]:
        stream = await AsyncLLM(LLM(package, CONFIG)).submit("x", **OPTIONS)
        gc.collect()
        return [token async for chunk in stream for token in chunk.token_ids]

    assert asyncio.run(main()) == expected


BEGUN = """if True:
    import os, sys, threading
    from pathlib import Path
    from genai.config import EngineConfig
    from genai.errors import GenAIError
    from genai.llm.llm import LLM

    llm = LLM(Path(sys.argv[1]), EngineConfig(device="cpu", num_threads=1, max_seq_len=500))
    stream = llm.stream("x", ignore_eos=True)
    next(stream)
"""


def outcome(code: str, package: Path) -> tuple[int, str, str]:
    command = [sys.executable, "-c", code, str(package)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def test_the_interpreter_ends_with_texts_in_the_making(package: Path) -> None:
    code = f"""{BEGUN}
    def generate():
        while True:
            try:
                llm.generate(["a", "b"], ignore_eos=True)
            except GenAIError:
                return

    threading.Thread(target=generate, daemon=True).start()
    threading.Event().wait(0.1)
    """
    assert outcome(code, package) == (0, "", "")


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="there are no forks here")
def test_a_fork_does_not_hang(package: Path) -> None:
    code = f"""{BEGUN}
    generator = llm.generator()
    generator.append_input_tokens([1])
    sys.stdout.flush()
    if os.fork() == 0:
        generator.close()
        for use in (lambda: llm.generate("a"), lambda: llm.logits([1])):
            try:
                use()
            except GenAIError as error:
                print("child:", error, flush=True)
        llm.close()
        sys.exit(0)
    print(os.wait()[1], len(list(stream)) > 400, flush=True)
    """
    told = "child: this process is a fork of the one that runs the model; load it here\n"
    assert outcome(code, package) == (0, f"{told}{told}0 True\n", "")
