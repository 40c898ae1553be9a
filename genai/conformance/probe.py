"""One row tried on the installed runtime: does it load, on what kernels, is it right, does it write in place."""

from __future__ import annotations

import re
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import Literal, TypeAlias

import numpy as np
import onnx

from genai.config import EngineConfig
from genai.conformance.case import Array, Case, np_dtype
from genai.conformance.oracles import expected
from genai.conformance.oracles.node import Floats
from genai.errors import GenAIError, GraphRunError
from genai.runtime.ort import Binding, InferenceSession, first_line, import_onnxruntime, wrapped_errors
from genai.runtime.providers import provider_for
from genai.runtime.providers.base import Buffer, Bytes

How: TypeAlias = Literal["kernel", "inlined", "failing"]
Loop: TypeAlias = Literal["in place", "copied", "safe", "unsafe", ""]

_TOLERANCE = {"float32": 1e-5, "float16": 5e-3, "bfloat16": 4e-2}
"""Of the largest number expected. Most seen of right rows: 7e-7, 1.5e-3, 1.2e-2."""
_SMALL, _LARGE, _VALID = 64, 1 << 18, 5
"""Slots of a cache that a write in place takes the same time for. A copy of the large one takes 100 times as long."""
_COPY_FACTOR = 8
_HALF_BYTES = ("int4", "uint4")
_PREFIX = re.compile(
    r"^(?:.*Status Message: )?(?:\d+ : [A-Z_]+ : )?(?:Exception during initialization: )?(?:/\S+:\d+ .*? was false\. )?"
)
_SUFFIX = re.compile(r" node with name '[^']*'$")
_LENGTHS = ((256, 64), (2048, 64), (2048, 2047))
"""(capacity, valid) at which time is looked at: 8 times the first, then 32 times the second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What came of a row.

    how: a kernel of its own, the operator's function inlined, or failing, at loading or running; num_nodes: what the
    runtime made of the one node, casts and copies too; is_partly_on_cpu: some have no kernel on the device; others: the
    nodes that are not the operator itself, by type; error: the largest difference to the oracle's, as a part of the
    largest number expected, None where it fails or there is nothing to compare with; is_right: within the type's
    tolerance; loop: what happens where a cache's output is bound to its input's memory: "in place" and "copied" where
    it was told by time, else "safe", or "unsafe" if the result is another then; growth: how many times longer it takes
    with 8 times the capacity, and with 32 times the valid length; message: the runtime's, where it fails, or the
    reference's, where that does.
    """

    how: How
    num_nodes: int = 0
    is_partly_on_cpu: bool = False
    others: Mapping[str, int] = field(default_factory=dict)
    error: float | None = None
    is_right: bool = False
    loop: Loop = ""
    growth: Mapping[str, float] = field(default_factory=dict)
    message: str = ""

    @property
    def verdict(self) -> str:
        """In a word: right, differs (from the oracle, by more than the type's rounding), unchecked, or failing."""
        if self.how == "failing":
            return "failing"
        if self.error is None:
            return "unchecked"
        return "right" if self.is_right else "differs"


def probe(case: Case, device: Literal["cpu", "cuda"], *, timings: bool = False) -> Result:
    """Try a row. timings: also how its time grows; it takes half a second and is noisy."""
    try:
        loaded = _Loaded(case, device)
    except GenAIError as error:
        return Result(how="failing", message=_shortened(error))
    how: How = "kernel" if loaded.num_own else "inlined"
    told = Result(
        how=how,
        num_nodes=loaded.num_own + sum(loaded.others.values()),
        is_partly_on_cpu=loaded.is_partly_on_cpu,
        others=loaded.others,
    )
    try:
        wanted = expected(case)
    except Exception as error:  # the reference's own, of whatever kind
        return replace(told, message=f"no reference: {first_line(error)}")
    try:
        difference, is_right = _compared(case, loaded.run(case, wanted, ()), wanted)
    except GraphRunError as error:
        return replace(told, how="failing", message=_shortened(error))
    told = replace(told, error=difference, is_right=is_right)
    if case.loops:
        told = replace(told, loop=_loop(case, loaded, wanted))
    if timings and case.growth:
        told = replace(told, growth=_growth(case, loaded))
    return told


class _Loaded:
    """A row's model in a session, and what the runtime made of its node."""

    def __init__(self, case: Case, device: Literal["cpu", "cuda"]) -> None:
        self._provider = provider_for(EngineConfig(device=device, num_threads=1))
        self.is_partly_on_cpu = False
        has_fallback = self._provider.kind != "CPU"
        try:
            self._session, made = self._load(case, is_alone=has_fallback)
        except GraphRunError:
            if not has_fallback:
                raise
            self._session, made = self._load(case, is_alone=False)
            self.is_partly_on_cpu = True
        nodes = Counter((node.domain or "ai.onnx", node.op_type) for node in _all_nodes(made.graph))
        self.num_own = nodes.pop((case.domain, case.operator), 0)
        self.others = {kind: count for (_, kind), count in nodes.most_common()}

    def _load(self, case: Case, *, is_alone: bool) -> tuple[InferenceSession, onnx.ModelProto]:
        """The session, and the model as it has it. is_alone: refuse what would be left to the CPU."""
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 4
        if is_alone:
            options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
        given = (self._provider.execution_provider, dict(self._provider.options))
        with tempfile.TemporaryDirectory() as folder, wrapped_errors():
            file = Path(folder) / "optimized.onnx"
            options.optimized_model_filepath = str(file)
            session: InferenceSession = ort.InferenceSession(
                case.model().SerializeToString(), options, providers=[given]
            )
            return session, onnx.load(file)

    def run(self, case: Case, shapes: Mapping[str, Array | Floats], loops: Sequence[str]) -> dict[str, Array]:
        """Outputs by name, each with the shape of that of `shapes`. loops: outputs that share their input's memory."""
        binding, buffers = self._bound(case, shapes, loops)
        self._run(binding)
        found = {}
        for name, wanted in shapes.items():
            dtype = case.output_dtype(name)
            found[name] = _from_bytes(buffers[name].read(0, _size(dtype, wanted.shape)), dtype, wanted.shape)
        return found

    def seconds(self, cases: Sequence[Case], shapes: Sequence[Mapping[str, Array]], rounds: int) -> list[list[float]]:
        """The times of runs of each, in turns."""
        bound = [self._bound(case, each, tuple(case.loops)) for case, each in zip(cases, shapes, strict=True)]
        times: list[list[float]] = [[] for _ in cases]
        for _ in range(rounds):
            for number, (binding, _) in enumerate(bound):
                self._run(binding)
                start = time.perf_counter()
                self._run(binding)
                times[number].append(time.perf_counter() - start)
        return times

    def _run(self, binding: Binding) -> None:
        with wrapped_errors():
            self._session.run_with_iobinding(binding.handle)

    def _bound(
        self, case: Case, shapes: Mapping[str, Array | Floats], loops: Sequence[str]
    ) -> tuple[Binding, dict[str, Buffer]]:
        binding, buffers = self._provider.binding(self._session), {}
        fed = {each.name: each for each in case.given() if not each.is_weight and each.same_as is None}
        values = case.values()
        for name, given in fed.items():
            data = _to_bytes(values[name], given.dtype or case.dtype)
            buffers[name] = self._provider.allocate(max(len(data), 1))
            buffers[name].write(0, data)
            with wrapped_errors():
                binding.bind_input(name, given.dtype or case.dtype, given.shape, buffers[name].pointer)
        for name, wanted in shapes.items():
            if name in loops:
                buffers[name] = buffers[case.loops[name]]
            else:
                buffers[name] = self._provider.allocate(_size(case.output_dtype(name), wanted.shape))
            with wrapped_errors():
                binding.bind_output(name, case.output_dtype(name), wanted.shape, buffers[name].pointer)
        return binding, buffers


def _loop(case: Case, loaded: _Loaded, wanted: Mapping[str, Floats]) -> Loop:
    """What happens where a cache is one buffer, read and written."""
    try:
        _, is_right = _compared(case, loaded.run(case, wanted, tuple(case.loops)), wanted)
        if not is_right:
            return "unsafe"
        if case.growth is None:
            return "safe"
        cases = [case.grown(slots, _VALID) for slots in (_SMALL, _LARGE)]
        small, large = (min(each) for each in loaded.seconds(cases, [_shapes(each) for each in cases], rounds=9))
    except GraphRunError:
        return "unsafe"
    return "copied" if large > _COPY_FACTOR * small else "in place"


def _growth(case: Case, loaded: _Loaded) -> dict[str, float]:
    cases = [case.grown(capacity, valid) for capacity, valid in _LENGTHS]
    base, capacity, valid = (
        median(each) for each in loaded.seconds(cases, [_shapes(each) for each in cases], rounds=25)
    )
    return {"capacity": capacity / base, "valid": valid / capacity}


def _shapes(case: Case) -> dict[str, Array]:
    """Arrays with the shapes of a grown row's outputs: a cache's is its input's, the other is the first input's."""
    given = {each.name: each for each in case.given()}
    first = next(case.given())
    return {
        name: np.broadcast_to(np.zeros((), np.float32), given[case.loops.get(name, first.name)].shape)
        for name in case.outputs
        if name
    }


def _compared(case: Case, got: Mapping[str, Array], wanted: Mapping[str, Floats]) -> tuple[float, bool]:
    """(the largest difference, whether it is within the tolerance); NaN in what is wanted is not looked at."""
    worst = 0.0
    for name, whole in wanted.items():
        seen = ~np.isnan(whole)
        found, right = np.asarray(got[name], np.float64)[seen], whole[seen]
        with np.errstate(invalid="ignore"):
            difference = np.where(found == right, 0, np.abs(found - right))
        difference = np.where(np.isnan(difference), np.inf, difference)
        largest = float(np.abs(right[np.isfinite(right)]).max(initial=1e-30))
        worst = max(worst, float(difference.max(initial=0)) / largest)
    tolerance = case.tolerance if case.tolerance is not None else _TOLERANCE.get(case.dtype, 0)
    return worst, worst <= tolerance


def _all_nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    found = list(graph.node)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g") and node.op_type in ("If", "Loop", "Scan"):
                found += _all_nodes(attribute.g)
    return found


def _size(dtype: str, shape: Sequence[int]) -> int:
    bits = 4 if dtype in _HALF_BYTES else 8 * np_dtype(dtype).itemsize
    return int(np.prod(shape, dtype=np.int64)) * bits // 8


def _to_bytes(array: Array, dtype: str) -> Bytes:
    if dtype in _HALF_BYTES:
        halves = array.astype(np.int8).view(np.uint8).reshape(-1, 2) & 15
        return np.asarray(halves[:, 0] | halves[:, 1] << 4, np.uint8)
    return np.frombuffer(np.ascontiguousarray(array).tobytes(), np.uint8)


def _from_bytes(data: Bytes, dtype: str, shape: Sequence[int]) -> Array:
    if dtype in _HALF_BYTES:
        halves = np.stack([data & 15, data >> 4], axis=-1).reshape(shape).astype(np.int16)
        return np.where(halves > 7, halves - 16, halves) if dtype == "int4" else halves
    return np.frombuffer(data.tobytes(), np_dtype(dtype)).reshape(shape).astype(np.float64)


def _shortened(error: GenAIError) -> str:
    """What the runtime said, in one line, without its prefixes and the C++ that it comes from."""
    text = " ".join(str(error.__cause__ or error).split()).removeprefix("[ONNXRuntimeError] : ")
    return _SUFFIX.sub("", _PREFIX.sub("", text)).removeprefix("Error in execution: ")[:300]
