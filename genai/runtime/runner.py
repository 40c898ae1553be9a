"""Rows and tokens in, logits out: the graph's inputs kept in fixed buffers, bound once for each shape.

A run covers neighbouring rows of the cache, each bringing up to T new tokens, right-padded:

    row 0   ████████▒▒▒···      █ valid before   ▒ new tokens   · free
    row 1   ███▒○○·········     ○ padding: written behind the valid part, overwritten by the next run

A reserved slot that rows begin with counts for places in the cache, not for the tokens' positions. In caches of a row's
last tokens places are counted from the first of them. A graph with states is told how many tokens of each row are its
own: padding leaves no trace in them.

Between two runs of one shape a few small arrays change in place. On the host nothing is allocated then, and nothing
rebound; a device is sent what has changed.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from genai import contract
from genai.errors import CapacityError, NotFiniteError
from genai.runtime.adapters import NOBODY, AdapterMemory, AdapterUse
from genai.runtime.cache import KVCache
from genai.runtime.cache_shape import View
from genai.runtime.finite import settle, settle_prompt
from genai.runtime.layout import Group
from genai.runtime.logits import FloatArray, LogitsMemory
from genai.runtime.ort import Binding
from genai.runtime.same_bits import Padding
from genai.runtime.session import Session

IntArray = npt.NDArray[np.int64]

_MAX_SHAPES = 24
"""Shapes kept bound; the least recently used goes. A conversation needs one per capacity it passes through."""
_CHANGING = (contract.INPUT_IDS, contract.POSITION_IDS, contract.WRITE_INDICES, contract.NONPAD_KV_SEQLEN)
"""The inputs that are others in every run of a shape."""
_OF_WINDOWS = (contract.WINDOW_WRITE_INDICES, contract.WINDOW_KV_SEQLEN)
_OF_ADAPTERS = (contract.ADAPTER_ROWS, contract.ADAPTER_PLACES, contract.ADAPTER_SCALES)
_SCORE_BYTES = 64 * 2**20
"""Largest logits of one scoring run."""
_ATTENTION_BYTES = 256 * 2**20
"""Largest scores [heads, T, S] of one run in attention, which CPU kernels hold as a whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundShape:
    """One shape of run: its buffers and their bindings.

    input_ids: [B, N]; position_ids: [B, T], N = T but for a lone token that is run twice; write_indices,
    nonpad_kv_seqlen: [B]; logits_positions: [B, P]; window_write_indices, window_kv_seqlen: [B], of a graph with caches
    of rows' last tokens; offsets: [T] from a place in the cache to the positions of the tokens from there on;
    adapter_rows: [G, M], empty where no row uses an adapter; adapter_places: [B, 2]; adapter_scales: [B, 1, 1].
    """

    input_ids: IntArray
    position_ids: IntArray
    write_indices: IntArray
    nonpad_kv_seqlen: IntArray
    logits_positions: IntArray
    window_write_indices: IntArray
    window_kv_seqlen: IntArray
    offsets: IntArray
    adapter_rows: IntArray
    adapter_places: IntArray
    adapter_scales: FloatArray
    token_counts: IntArray | None
    binding: Binding


class Runner:
    """Runs a contract graph over the rows of its cache.

    output: what the graph gives; what is called logits [V] below are embeddings [H] if it gives those; vocab_size: of
    what goes in; num_heads: of queries; prefill_chunk: most tokens of a row in one run; logits: where runs write them;
    graph_seconds: time spent inside runs of the graph, for benchmarks; padding: positions that are added to runs;
    can_repeat: whether the graph takes a lone token twice, so that it needs no position added; adapters: those that
    rows may use, of a graph with room for some.
    """

    def __init__(
        self,
        session: Session,
        cache: KVCache,
        *,
        output: contract.Output,
        vocab_size: int,
        num_heads: int,
        prefill_chunk: int,
        adapters: AdapterMemory | None = None,
        can_repeat: bool = False,
    ) -> None:
        self.cache = cache
        self.vocab_size = vocab_size
        self.adapters = adapters
        self._output = output
        self.logits = LogitsMemory()
        self.graph_seconds = 0.0
        self.padding = Padding()
        self._session = session
        self._num_heads = num_heads
        self._prefill_chunk = prefill_chunk
        self.can_repeat = can_repeat
        self._shapes: OrderedDict[tuple[int, ...], BoundShape] = OrderedDict()
        self._changing = (
            *_CHANGING,
            *(_OF_WINDOWS if cache.window is not None else ()),
            *(_OF_ADAPTERS if adapters is not None else ()),
            *((contract.TOKEN_COUNTS,) if cache.has_states else ()),
        )

    def pad(self, padding: Padding) -> None:
        """Add positions to runs from now on; there are no rows."""
        self.padding = padding
        self.cache.policy = replace(self.cache.policy, spare=padding.most)
        self._shapes.clear()

    def prefill(self, row: int, tokens: Sequence[int]) -> FloatArray:
        """Add tokens to a row, in chunks; returns the last one's logits [V], valid until the next run.

        Raises: CapacityError if the row cannot be made long enough; GraphRunError.
        """
        start = 0
        while start < len(tokens):
            end = start + self.chunk(row)
            logits = self.prefill_chunk(row, tokens[start:end])
            start = end
        return logits

    def prefill_chunk(self, row: int, tokens: Sequence[int]) -> FloatArray:
        """Add a piece of a prompt to a row in one run; returns the last one's logits [V], valid until the next run.

        They are NaN if they alone are not finite. Raises: as `run_row`.
        """
        last: FloatArray = self._run_alone(row, tokens, 1, settle_prompt)[0]
        return last

    def chunk(self, row: int) -> int:
        """Most tokens that a row may bring to one run now: attention's scores stay small, however long the row is."""
        longest = self.cache.slots(self.cache.valid(row) + self._prefill_chunk)
        return self.most_tokens(1, self.cache.policy.capacity(longest))

    def most_tokens(self, num_rows: int, capacity: int) -> int:
        """Most tokens that each of so many rows of this capacity may bring to one run."""
        return min(self._prefill_chunk, max(1, _ATTENTION_BYTES // (4 * self._num_heads * num_rows * capacity)))

    def score_chunk(self, row: int) -> int:
        """As `chunk`, of a run that gives logits for each token, so that they stay small, too."""
        return min(self.chunk(row), max(1, _SCORE_BYTES // (4 * self._output.width)))

    def score(self, row: int, tokens: Sequence[int]) -> FloatArray:
        """Add tokens to a row; returns the logits that follow each of them, [len(tokens), V]."""
        result = np.empty((len(tokens), self._output.width), np.float32)
        start = 0
        while start < len(tokens):
            part = tokens[start : start + self.score_chunk(row)]
            result[start : start + len(part)] = self.run_row(row, part, len(part))
            start += len(part)
        return result

    def run_row(self, row: int, tokens: Sequence[int], num_logits: int) -> FloatArray:
        """Add tokens to a row in one run at a tight capacity, to prefill, to verify a draft or to score.

        Returns the logits [num_logits, V] that follow the last of them, valid until the next run.
        Raises: CapacityError if the row cannot be made long enough; NotFiniteError if they are no finite numbers, and
        the row is as before; GraphRunError.
        """
        return self._run_alone(row, tokens, num_logits, settle)

    def _run_alone(
        self, row: int, tokens: Sequence[int], num_logits: int, last_look: Callable[..., list[bool]]
    ) -> FloatArray:
        """Run one row. last_look: `settle`, or `settle_prompt` for what is a prompt's."""
        valid = self.cache.valid(row)
        self.cache.reserve({row: valid + len(tokens)})
        self.cache.make_room([row], self.padding.positions(1, len(tokens)))
        bound = self._shape(self.cache.view(row, valid + len(tokens)), [row], len(tokens), num_logits)
        bound.input_ids[0, : len(tokens)] = tokens
        bound.input_ids[0, len(tokens) :] = tokens[-1]
        bound.write_indices[0] = self.cache.slots(valid)
        bound.window_write_indices[0] = bound.write_indices[0] - self.cache.base(row)
        if bound.token_counts is not None:
            bound.token_counts[0] = len(tokens)
        with self.cache.kept(row):
            for look in (settle, last_look):  # what others may have left behind the valid part is gone the second time
                logits = self._run(bound, num_logits)
                if all(look(self.cache, [row], [len(tokens)], logits)):
                    own: FloatArray = logits[0]
                    return own
        raise NotFiniteError

    def advance(self, group: Group, tokens: Sequence[Sequence[int]]) -> FloatArray:
        """Add tokens to the rows of a group in one run: one each to decode, several to verify drafts.

        tokens: for each row of the group in order; an empty one leaves its row as it is. Returns the logits that follow
        each token, [rows, T, V] with T the most tokens of any row, valid until the next run. A row that has one token
        whose logits are not finite numbers is left as it is, and they are NaN throughout (`finite.settle`). With
        states, which the run has changed, it is as it was when they were kept, or holds nothing.
        Raises: CapacityError unless every row, those left alone too, has room for T more tokens.
        """
        num_tokens = max(map(len, tokens))
        self.cache.make_room(group.rows, self.padding.positions(len(group.rows), num_tokens))
        bound = self._padded(self.cache.group_view(group, num_tokens), group.rows, tokens, num_tokens)
        logits = self._run(bound, num_tokens)
        settle(self.cache, group.rows, [len(new) for new in tokens], logits)
        return logits

    def prefill_rows(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> FloatArray:
        """Add tokens to neighbours of a group in one run, some to each; returns the logits [rows, V] after the last.

        They are valid until the next run. A row whose logits are not finite numbers is left as it is, and they are NaN.
        Raises: CapacityError unless every row has room for as many tokens as the longest gets.
        """
        self.cache.make_room(rows, self.padding.positions(len(rows), max(map(len, tokens))))
        bound = self._padded(self.cache.rows_view(rows), rows, tokens, 1)
        bound.logits_positions[:] = [[len(new) - 1] for new in tokens]
        bound.binding.send((contract.LOGITS_POSITIONS,))
        logits = self._run(bound, 1)
        settle(self.cache, rows, [len(new) for new in tokens], logits)
        last: FloatArray = logits[:, 0]
        return last

    def _padded(self, view: View, rows: Sequence[int], tokens: Sequence[Sequence[int]], num_logits: int) -> BoundShape:
        """A run of several rows with its tokens, all padded to the longest. Raises: CapacityError."""
        num_tokens = max(map(len, tokens))
        bound = self._shape(view, rows, num_tokens, num_logits)
        filler = next(new for new in tokens if new)[-1]  # never what another run has left here
        for index, (row, new) in enumerate(zip(rows, tokens, strict=True)):
            bound.input_ids[index, : len(new)] = new
            bound.input_ids[index, len(new) :] = new[-1] if new else filler
            bound.write_indices[index] = self.cache.slots(self.cache.valid(row))
            bound.window_write_indices[index] = bound.write_indices[index] - self.cache.base(row)
        if bound.token_counts is not None:
            bound.token_counts[:] = [len(new) for new in tokens]
        if bound.write_indices.max() + bound.offsets.size > view.capacity:
            raise CapacityError(f"a row is full at {view.capacity} tokens; reserve before running")
        if bound.offsets.size > self.cache.longest_run:
            raise CapacityError(f"a run of {bound.offsets.size} positions; rows have room for {self.cache.longest_run}")
        return bound

    def _run(self, bound: BoundShape, num_logits: int) -> FloatArray:
        """Run a step whose tokens and write indices are set; returns the first of its logits, [B, num_logits, V]."""
        np.add(bound.write_indices[:, None], bound.offsets, out=bound.position_ids)
        np.add(bound.write_indices, bound.offsets.size, out=bound.nonpad_kv_seqlen)
        np.add(bound.window_write_indices, bound.offsets.size, out=bound.window_kv_seqlen)
        before = self.logits.num_bytes
        logits = self.logits.take((*bound.logits_positions.shape, self._output.width))
        bound.binding.bind_host_output(self._output.name, logits)
        if self.logits.num_bytes != before:
            for other in self._shapes.values():
                if other is not bound:
                    other.binding.release_output(self._output.name)  # in the memory that there was before
        started = time.perf_counter()
        bound.binding.send(self._changing)
        self._session.run(bound.binding)
        self.graph_seconds += time.perf_counter() - started
        asked_for: FloatArray = logits[:, :num_logits]
        return asked_for

    def _shape(self, view: View, rows: Sequence[int], num_tokens: int, num_logits: int) -> BoundShape:
        use = NOBODY if self.adapters is None else self.adapters.use_of(rows)
        key = (
            view.start, view.num_rows, view.capacity, num_tokens, num_logits, view.first_state,
            view.window_start, view.window_capacity, use.first, *use.shape,
        )  # fmt: skip
        bound = self._shapes.get(key)
        if bound is None:
            bound = self._shapes[key] = self._bound(view, num_tokens, num_logits, use)
            if len(self._shapes) > _MAX_SHAPES:
                self._shapes.popitem(last=False)
        self._shapes.move_to_end(key)
        use.fill(bound.adapter_rows, bound.adapter_places, bound.adapter_scales)
        return bound

    def _bound(self, view: View, num_tokens: int, num_logits: int, use: AdapterUse) -> BoundShape:
        rows = view.num_rows
        of_tokens = np.arange(self.padding.positions(rows, num_tokens))
        of_logits = np.arange(self.padding.positions(rows, num_logits)) + num_tokens - num_logits
        own = of_tokens
        if self.padding.repeats and rows == num_tokens == 1:
            own, of_logits = own[:1], of_logits[:1]
        binding = self._session.binding()
        bound = BoundShape(
            input_ids=np.zeros((rows, of_tokens.size), np.int64),
            position_ids=np.zeros((rows, own.size), np.int64),
            write_indices=np.zeros(rows, np.int64),
            nonpad_kv_seqlen=np.zeros(rows, np.int64),
            window_write_indices=np.zeros(rows, np.int64),
            window_kv_seqlen=np.zeros(rows, np.int64),
            logits_positions=np.tile(np.minimum(of_logits, num_tokens - 1), (rows, 1)),
            offsets=own - self.cache.reserved_slots,
            adapter_rows=np.zeros(use.shape, np.int64),
            adapter_places=np.zeros((rows, 2), np.int64),
            adapter_scales=np.zeros((rows, 1, 1), np.float32),
            token_counts=np.zeros(rows, np.int64) if self.cache.has_states else None,
            binding=binding,
        )
        binding.bind_host_input(contract.INPUT_IDS, bound.input_ids)
        binding.bind_host_input(contract.POSITION_IDS, bound.position_ids)
        binding.bind_host_input(contract.WRITE_INDICES, bound.write_indices)
        binding.bind_host_input(contract.NONPAD_KV_SEQLEN, bound.nonpad_kv_seqlen)
        binding.bind_host_input(contract.LOGITS_POSITIONS, bound.logits_positions)
        if self.cache.window is not None:
            binding.bind_host_input(contract.WINDOW_WRITE_INDICES, bound.window_write_indices)
            binding.bind_host_input(contract.WINDOW_KV_SEQLEN, bound.window_kv_seqlen)
        if self.adapters is not None:
            binding.bind_host_input(contract.ADAPTER_ROWS, bound.adapter_rows)
            binding.bind_host_input(contract.ADAPTER_PLACES, bound.adapter_places)
            binding.bind_host_input(contract.ADAPTER_SCALES, bound.adapter_scales)
            self.adapters.bind(binding, use)
        dtype = self.cache.shape.dtype
        for cache, (pointer, capacity) in zip(self.cache.shape.caches, self.cache.pointers(view), strict=True):
            shape = (rows, capacity, cache.width)
            binding.bind_input(cache.name, dtype, shape, pointer)
            binding.bind_output(contract.updated(cache.name), dtype, shape, pointer)
        if bound.token_counts is not None:
            binding.bind_host_input(contract.TOKEN_COUNTS, bound.token_counts)
        for state, pointer in zip(self.cache.shape.states, self.cache.state_pointers(view), strict=True):
            binding.bind_input(state.name, state.dtype, (rows, *state.shape), pointer)
            binding.bind_output(contract.updated(state.name), state.dtype, (rows, *state.shape), pointer)
        return bound
