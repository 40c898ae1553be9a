"""Keys and values by token prefix, against a plain dictionary of every prefix that was put."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from genai.engine.engine import Engine
from genai.engine.prefix_cache import BLOCK_SIZE, BlockKeys, BlocksRemoved, BlocksStored, PrefixCache
from genai.engine.request import Request
from genai.engine.scheduler import Limits
from genai.errors import GraphRunError
from genai.options.generation_config import GenerationConfig
from genai.runtime.capacity import CapacityPolicy
from tests.engine.conftest import WITHOUT_STATES
from tests.fakes import FakeRunner, greedy_continuation, shape

SLOT_BYTES = (4, 12, 8)
BLOCK_BYTES = sum(SLOT_BYTES) * BLOCK_SIZE


def cache_of(num_blocks: int, model: bytes = b"model") -> PrefixCache:
    return PrefixCache(model, SLOT_BYTES, num_blocks * BLOCK_BYTES)


def rows_of(tokens: Sequence[int], start: int = 0) -> list[np.ndarray]:
    """What `export_row` would give: for each buffer, bytes that depend on all tokens up to each slot, as K and V do."""
    result = []
    for buffer, slot_bytes in enumerate(SLOT_BYTES):
        state, slots = buffer, []
        for token in tokens:
            state = (state * 31 + token + 1) % 2**32
            slots.append([state] * (slot_bytes // 4))
        result.append(np.array(slots[start:], np.uint32).view(np.uint8).reshape(-1))
    return result


def keys_of(cache: PrefixCache, tokens: list[int]) -> list[bytes]:
    return cache.keys(tokens, BlockKeys())


def lookup(cache: PrefixCache, tokens: list[int]) -> int:
    """How many of the first tokens are held."""
    return cache.lookup(keys_of(cache, tokens)) * BLOCK_SIZE


def take(cache: PrefixCache, tokens: list[int]) -> list[np.ndarray]:
    return list(cache.take(keys_of(cache, tokens)))


def put(cache: PrefixCache, tokens: list[int]) -> None:
    """As the engine does: the whole blocks that are not there yet."""
    tokens = tokens[: cache.max_tokens]
    keys = keys_of(cache, tokens)
    known = cache.lookup(keys)
    if known < len(keys):
        end = len(keys) * BLOCK_SIZE
        start = known * BLOCK_SIZE
        cache.put(keys, known, rows_of(tokens[:end], start), tokens[start:end])


def assert_same(taken: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
    for left, right in zip(taken, expected, strict=True):
        np.testing.assert_array_equal(left, right)


def prompt(*blocks: int, tail: int = 0) -> list[int]:
    """One number for each block, which fills it, and further tokens."""
    return [*(block for block in blocks for _ in range(BLOCK_SIZE)), *range(tail)]


tokens_strategy = st.builds(
    lambda blocks, tail: prompt(*blocks, tail=tail), st.lists(st.integers(0, 2), max_size=5), st.integers(0, 15)
)


@given(stored=st.lists(tokens_strategy, max_size=6), asked=tokens_strategy)
def test_a_lookup_finds_the_longest_stored_prefix_in_whole_blocks(stored: list[list[int]], asked: list[int]) -> None:
    cache = cache_of(1000)
    for tokens in stored:
        put(cache, tokens)
    ends = range(0, len(asked) + 1, BLOCK_SIZE)
    longest = max(end for end in ends if not end or any(asked[:end] == tokens[:end] for tokens in stored))
    assert lookup(cache, asked) == longest
    if longest:
        assert_same(take(cache, asked[:longest]), rows_of(asked[:longest]))


@settings(max_examples=60)
@given(
    tokens=st.lists(st.integers(0, 2**31), min_size=BLOCK_SIZE, max_size=6 * BLOCK_SIZE),
    place=st.integers(0),
    other=st.integers(0, 2**31),
)
def test_one_other_token_anywhere_ends_the_match_in_its_block(tokens: list[int], place: int, other: int) -> None:
    cache = cache_of(1000)
    put(cache, tokens)
    place %= len(tokens)
    changed = [*tokens[:place], other, *tokens[place + 1 :]]
    whole = len(tokens) // BLOCK_SIZE * BLOCK_SIZE
    expected = whole if changed == tokens else min(place // BLOCK_SIZE * BLOCK_SIZE, whole)
    assert lookup(cache, changed) == expected


def test_the_same_block_after_another_beginning_is_another_block() -> None:
    cache = cache_of(1000)
    put(cache, prompt(1, 2))
    assert lookup(cache, prompt(2)) == 0
    assert lookup(cache, prompt(1, 1, 2)) == BLOCK_SIZE
    assert lookup(cache, prompt(2, 1)) == 0


def test_another_model_never_hits() -> None:
    """Keys and values of one model are noise to another: blocks moved over by force are not found."""
    ours, theirs = cache_of(1000, b"llama f32"), cache_of(1000, b"llama int8")
    put(theirs, prompt(1, 2, 3))
    ours._places.update(theirs._places)
    assert lookup(theirs, prompt(1, 2, 3)) == 3 * BLOCK_SIZE
    assert lookup(ours, prompt(1, 2, 3)) == 0


def test_a_round_trip_gives_copies() -> None:
    cache = cache_of(1000)
    data = rows_of(prompt(5, 6))
    cache.put(keys_of(cache, prompt(5, 6)), 0, data, prompt(5, 6))
    for buffer in data:
        buffer[:] = 0
    taken = take(cache, prompt(5, 6))
    assert_same(taken, rows_of(prompt(5, 6)))
    taken[0][:] = 0
    assert_same(take(cache, prompt(5, 6)), rows_of(prompt(5, 6)))


def test_a_copy_that_fails_leaves_nothing_half_held() -> None:
    cache = cache_of(3)
    put(cache, prompt(9))

    def failing() -> Iterator[np.ndarray]:
        yield rows_of(prompt(1, 2, 3))[0]
        raise GraphRunError("the device is gone")

    with pytest.raises(GraphRunError):
        cache.put(keys_of(cache, prompt(1, 2, 3)), 0, failing(), prompt(1, 2, 3))
    assert lookup(cache, prompt(1, 2, 3)) == 0
    put(cache, prompt(1, 2, 3))
    assert_same(take(cache, prompt(1, 2, 3)), rows_of(prompt(1, 2, 3)))


@settings(max_examples=100)
@given(texts=st.lists(tokens_strategy, max_size=8))
def test_keys_that_are_kept_are_those_computed_anew(texts: list[list[int]]) -> None:
    """Of a text that grows, is cut, or becomes another one, as beams do."""
    cache, kept = cache_of(1000), BlockKeys()
    for tokens in texts:
        assert cache.keys(tokens, kept) == keys_of(cache, tokens)
        assert cache.keys([*tokens, *tokens], kept) == keys_of(cache, [*tokens, *tokens])


def test_each_block_of_a_request_is_hashed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    num_hashed, original = 0, hashlib.blake2b

    def counting(data: bytes, digest_size: int) -> object:
        nonlocal num_hashed
        num_hashed += 1
        return original(data, digest_size=digest_size)

    prefixes = PrefixCache(b"fake", shape().slot_bytes, 10**6, shape().state_bytes)
    limits = Limits(max_batch=4, max_seq_len=250, prefill_chunk=64)
    runner = FakeRunner(300)
    runner.cache.policy = CapacityPolicy(headroom=0)
    engine = Engine(runner, limits, (), prefixes)  # type: ignore[arg-type]
    texts = [Request(prompt=[n] * 64, config=GenerationConfig(max_new_tokens=64, ignore_eos=True)) for n in range(3)]
    monkeypatch.setattr(hashlib, "blake2b", counting)
    jobs = [engine.submit(text) for text in texts]
    while engine.has_work:
        engine.step()
    assert any(text.timeline.num_preemptions for job in jobs for text in job.sequences)
    assert num_hashed == 3 * 128 // BLOCK_SIZE


def test_what_is_put_later_continues_what_is_there() -> None:
    cache = cache_of(1000)
    put(cache, prompt(1, 2, tail=9))
    put(cache, prompt(1, 2, 3, 4))
    assert_same(take(cache, prompt(1, 2, 3, 4)), rows_of(prompt(1, 2, 3, 4)))
    assert cache.num_bytes == 4 * BLOCK_BYTES


@pytest.mark.parametrize("max_bytes", [0, 1, BLOCK_BYTES - 1])
def test_less_than_a_block_is_off(max_bytes: int) -> None:
    cache = PrefixCache(b"model", SLOT_BYTES, max_bytes)
    assert cache.max_tokens == 0
    put(cache, prompt(1, 2))
    assert lookup(cache, prompt(1, 2)) == 0
    assert cache.num_bytes == 0


def test_a_text_longer_than_the_budget_keeps_its_beginning() -> None:
    cache = cache_of(3)
    put(cache, prompt(1, 2, 3, 4, 5))
    assert lookup(cache, prompt(1, 2, 3, 4, 5)) == 3 * BLOCK_SIZE


def test_the_least_recently_used_go_first_and_what_others_build_on_last() -> None:
    cache = cache_of(4)
    put(cache, prompt(9, 1))
    put(cache, prompt(9, 2))
    put(cache, prompt(8))
    take(cache, prompt(9, 1))  # used again: 9-2 is the oldest now
    put(cache, prompt(7))
    assert lookup(cache, prompt(9, 2)) == BLOCK_SIZE
    put(cache, prompt(6))
    assert lookup(cache, prompt(8)) == 0
    put(cache, prompt(5))
    assert lookup(cache, prompt(9, 1)) == BLOCK_SIZE, "its end goes before what it shares"
    put(cache, prompt(4))
    assert lookup(cache, prompt(9, 1)) == 0
    assert all(lookup(cache, prompt(n)) == BLOCK_SIZE for n in (4, 5, 6, 7))


class Weighing(PrefixCache):
    """Counts the bytes that it is brought."""

    num_brought = 0

    def put(
        self,
        keys: Sequence[bytes],
        known: int,
        data: Iterable[np.ndarray],
        tokens: Sequence[int],
        adapter: str | None = None,
    ) -> None:
        brought = list(data)
        self.num_brought += sum(part.nbytes for part in brought)
        super().put(keys, known, brought, tokens, adapter)


@pytest.mark.parametrize("num_blocks", [0, 1, 3])
def test_only_what_is_kept_is_copied_out_of_a_row(num_blocks: int) -> None:
    max_bytes = num_blocks * BLOCK_SIZE * shape().bytes_per_token
    prefixes = Weighing(b"fake", shape().slot_bytes, max_bytes)
    limits = Limits(max_batch=4, max_seq_len=250, prefill_chunk=64)
    engine = Engine(FakeRunner(256), limits, (), prefixes)  # type: ignore[arg-type]
    engine.submit(Request(prompt=[1] * 100, config=GenerationConfig(max_new_tokens=20, ignore_eos=True)))
    while engine.has_work:
        engine.step()
    assert prefixes.num_brought == prefixes.num_bytes == max_bytes


class CountingRunner(FakeRunner):
    """Counts the tokens that were prefilled."""

    num_prefilled = 0

    def prefill_chunk(self, row: int, tokens: Sequence[int]) -> np.ndarray:
        self.num_prefilled += len(tokens)
        return super().prefill_chunk(row, tokens)

    def prefill_rows(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> np.ndarray:
        self.num_prefilled += sum(map(len, tokens))
        return super().prefill_rows(rows, tokens)


@pytest.mark.usefixtures("each_memory")
@pytest.mark.parametrize("each_memory", WITHOUT_STATES, indirect=True)
def test_what_had_to_give_way_is_copied_back_when_it_resumes() -> None:
    num_prefilled = []
    for max_bytes in (0, 10**6):
        runner = CountingRunner(256)
        runner.cache.policy = CapacityPolicy(headroom=0)
        limits = Limits(max_batch=4, max_seq_len=250, prefill_chunk=64)
        prefixes = PrefixCache(b"fake", shape().slot_bytes, max_bytes, shape().state_bytes)
        engine = Engine(runner, limits, (), prefixes)  # type: ignore[arg-type]
        config = GenerationConfig(max_new_tokens=90, ignore_eos=True)
        texts = [engine.submit(Request(prompt=[n] * 30, config=config)).first for n in range(3)]
        while engine.has_work:
            engine.step()
        assert [text.generated for text in texts] == [greedy_continuation([n] * 30, 90) for n in range(3)]
        assert sum(text.timeline.num_preemptions for text in texts) > 0
        assert all(text.num_cached == 0 for text in texts), "usage tells of the prompt as it came"
        num_prefilled.append(runner.num_prefilled)
    without, with_prefixes = num_prefilled
    assert without > 150
    assert with_prefixes < 110, "three prompts, and less than a block for each that resumed"


class Mirror:
    """What somebody knows of a cache who only hears its events: each block's tokens, and the block before it."""

    def __init__(self) -> None:
        self.blocks: dict[bytes, tuple[bytes | None, tuple[int, ...]]] = {}

    def __call__(self, event: BlocksStored | BlocksRemoved) -> None:
        if isinstance(event, BlocksRemoved):
            for key in event.keys:
                del self.blocks[key]
            return
        parents = [event.parent, *event.keys[:-1]]
        assert event.parent is None or event.parent in self.blocks
        for number, (key, parent) in enumerate(zip(event.keys, parents, strict=True)):
            assert key not in self.blocks, "told once"
            self.blocks[key] = (parent, event.tokens[number * BLOCK_SIZE : (number + 1) * BLOCK_SIZE])
        assert len(event.tokens) == len(event.keys) * BLOCK_SIZE

    def text(self, key: bytes | None) -> list[int]:
        """All tokens up to a block's end."""
        if key is None:
            return []
        parent, tokens = self.blocks[key]
        return [*self.text(parent), *tokens]


class Prefixes(RuleBasedStateMachine):
    """Puts and takes in any order within a small budget."""

    num_blocks = 7
    state_bytes: tuple[int, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.cache = PrefixCache(b"model", SLOT_BYTES, self.num_blocks * BLOCK_BYTES, self.state_bytes)
        self.cache.listener = self.mirror = Mirror()
        self.seen: list[list[int]] = []

    @rule(tokens=tokens_strategy)
    def put(self, tokens: list[int]) -> None:
        put(self.cache, tokens)
        self.seen.append(tokens)
        whole = min(len(tokens), self.cache.max_tokens) // BLOCK_SIZE * BLOCK_SIZE
        assert lookup(self.cache, tokens) == whole, "what was put last is there"

    @precondition(lambda self: self.seen)
    @rule(data=st.data())
    def take(self, data: st.DataObject) -> None:
        tokens = data.draw(st.sampled_from(self.seen))
        if known := lookup(self.cache, tokens):
            assert_same(take(self.cache, tokens[:known]), rows_of(tokens[:known]))
            assert lookup(self.cache, tokens) == known, "taking keeps"

    @invariant()
    def stays_in_budget(self) -> None:
        cache = self.cache
        assert cache.num_bytes <= cache._memory.nbytes <= self.num_blocks * BLOCK_BYTES
        places = [*itertools.chain(*cache._places.values()), *cache._free]
        assert sorted(places) == list(range(len(places))), "each place is a block's or free, and low ones come first"

    @invariant()
    def who_listens_knows_what_is_held(self) -> None:
        assert self.mirror.blocks.keys() == self.cache._places.keys() - self.cache._parents.keys()
        for key in self.mirror.blocks:
            text = self.mirror.text(key)
            assert keys_of(self.cache, text)[-1] == key, "its tokens are those that it is the key of"

    @invariant()
    def no_block_outlives_what_it_builds_on(self) -> None:
        reachable: set[bytes] = set()
        for tokens in self.seen:
            keys = keys_of(self.cache, tokens)
            reachable.update(keys[: self.cache.lookup(keys)])
        blocks = self.cache._places.keys() - self.cache._parents.keys()
        assert reachable == blocks, "a block that no lookup reaches is lost memory"


class Snapshots(Prefixes):
    """The same with states, each snapshot of which takes two places or three."""

    num_blocks = 12
    state_bytes = (400, 36)

    def __init__(self) -> None:
        super().__init__()
        self.lengths: set[tuple[int, ...]] = set()  # texts whose states have been put

    def states_of(self, tokens: Sequence[int]) -> list[np.ndarray]:
        rng = np.random.default_rng([len(tokens), *tokens])
        return [rng.integers(0, 256, size, np.uint8) for size in self.state_bytes]

    @rule(tokens=tokens_strategy)
    def put_states(self, tokens: list[int]) -> None:
        tokens = tokens[: self.cache.max_tokens]
        if len(tokens) < BLOCK_SIZE:
            return
        self.put(tokens)
        keys = keys_of(self.cache, tokens)
        start = len(keys) * BLOCK_SIZE
        self.cache.put_snapshot(keys, tokens[start:], self.states_of(tokens), rows_of(tokens, start))
        self.lengths.add(tuple(tokens))
        assert self.find(tokens) == len(tokens), "what was put last is there"

    def find(self, tokens: list[int]) -> int:
        """How many tokens can be gone on from; what is found is what was put."""
        keys = keys_of(self.cache, tokens)
        known = self.cache.find(keys, tokens, len(tokens))
        if known.num_tokens:
            data, states = self.cache.take_known(keys, known)
            assert_same(list(data), rows_of(tokens[: known.num_tokens]))
            assert_same(states, self.states_of(tokens[: known.num_tokens]))
        return known.num_tokens

    @rule(tokens=tokens_strategy, most=st.integers(0, 100))
    def look(self, tokens: list[int], most: int) -> None:
        keys = keys_of(self.cache, tokens)
        assert tuple(tokens[: self.find(tokens)]) in {(), *self.lengths}
        found = self.cache.find(keys, tokens, most).num_tokens
        held = [each.num_tokens for tails in self.cache._snapshots.values() for each in tails.values()]
        assert found <= most
        assert found == 0 or found in held

    @invariant()
    def no_snapshot_outlives_its_block(self) -> None:
        assert {block for block, _ in self.cache._parents.values()} <= self.cache._places.keys()
        assert self.cache._parents.keys() <= self.cache._places.keys()
        assert sum(map(len, self.cache._snapshots.values())) == self.cache.num_snapshots


TestPrefixes, TestSnapshots = Prefixes.TestCase, Snapshots.TestCase
for machine in (TestPrefixes, TestSnapshots):
    machine.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


def test_a_budget_that_holds_no_states_is_off_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    cache = PrefixCache(b"model", SLOT_BYTES, 10 * BLOCK_BYTES, (7 * BLOCK_BYTES,))
    assert cache.max_tokens == 0
    assert keys_of(cache, prompt(1, 2)) == []
    assert "the prefix cache is off" in caplog.text


def test_a_models_owner_hears_of_its_blocks() -> None:
    prefixes = PrefixCache(b"fake", shape().slot_bytes, 4 * BLOCK_SIZE * shape().bytes_per_token, shape().state_bytes)
    limits = Limits(max_batch=4, max_seq_len=250, prefill_chunk=64)
    engine, mirror = Engine(FakeRunner(256), limits, (), prefixes), Mirror()  # type: ignore[arg-type]
    engine.watch_prefixes(mirror)
    engine.submit(Request(prompt=prompt(1, 2, tail=3), config=GenerationConfig(max_new_tokens=1)))
    while engine.has_work:
        engine.step()
    (last,) = [key for key in mirror.blocks if mirror.text(key) == prompt(1, 2)]
    assert mirror.blocks[last][0] in mirror.blocks
