"""Opening an ONNX file that anyone may have made: nothing outside of its folder is read, nothing absurd is believed.

To a folder of the Hub's cache belong the blobs that its links lead to.

Checked before anything else looks at the model: the file parses, every weight lies where it says and is as long as its
shape says, every name is defined before it is used, nothing calls itself, and no size that is written in the file is
beyond what this process could ever need.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
import onnx_ir as ir
from google.protobuf.message import Message

from genai.config import Precision
from genai.convert.files import choose_graph, folder_of, graphs_in
from genai.errors import ConfigError, ModelError, ModelNotFoundError, UnsupportedModelError, WeightsError

MAX_GRAPH_BYTES = 2**31 - 1
"""Protobuf's own limit for the file without its external data."""
MAX_ELEMENTS = 2**32
"""Elements of the largest tensor that a graph may speak of."""
_DOMAINS = {"ai.onnx": ""}
"""Two names of one."""
_SHAPED_BY_INPUT = {"ConstantOfShape": 0, "Expand": 1, "Tile": 1}


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxFile:
    """A graph's file, and the folder with the configuration and tokenizer that belong to it."""

    path: Path
    folder: Path


def find_onnx(source: Path, precision: Precision | None = None, asked: str | None = None) -> OnnxFile:
    """The graph that a path means: a file, or a folder with one, also in its subfolder `onnx`.

    precision, asked: choose one of several, see `genai.convert.files`.
    Raises: ModelNotFoundError that says what is there; ConfigError for a choice where there is none.
    """
    if source.is_file():
        if asked is not None:
            raise ConfigError(
                f"{source} is one file, of which {asked!r} cannot be chosen: give its folder, or leave it out"
            )
        return OnnxFile(path=source, folder=folder_of(source))
    if not source.is_dir():
        raise ModelNotFoundError(f"{source}: no such file or folder")
    if names := graphs_in(source):
        return OnnxFile(path=source / choose_graph(str(source), names, precision, asked), folder=source)
    is_checkpoint = any(source.glob("*.safetensors")) or any(source.glob("*.gguf"))
    hint = f"; it is a checkpoint: genai build {source} -o OUT" if is_checkpoint else ""
    raise ModelNotFoundError(f"{source} has no model.onnx and no other ONNX file{hint}")


def read_onnx(path: Path) -> ir.Model:
    """Read a graph; its external weights stay in their files until they are used.

    Raises: ModelError, WeightsError, UnsupportedModelError.
    """
    proto = _parsed(path)
    bodies = [_body(function) for function in proto.functions]
    _check_functions(proto)
    _check_nodes(proto)
    entry = _hub_entry(path.parent)
    for tensor in _tensors(proto):
        _check_tensor(tensor, path.parent, entry)
    for graph in _graphs([proto.graph, *bodies]):
        _check_sizes(graph)
    for graph in (proto.graph, *bodies):
        _check_names(graph, set())
    try:
        model = ir.serde.deserialize_model(proto)
        for own in (model.graph, *(function.graph for function in model.functions.values())):
            ir.external_data.set_base_dir(own, entry or path.parent)
        model.graph.sort()
    except Exception as error:  # the reader has no common base for its errors
        raise ModelError(f"{path} is damaged: {' '.join(str(error).split())[:300]}") from None
    return model


def _parsed(path: Path) -> onnx.ModelProto:
    try:
        size = path.stat().st_size
        if size > MAX_GRAPH_BYTES:
            raise ModelError(f"{path} has {size:,} bytes; an ONNX file without its external data has at most 2 GiB")
        proto = onnx.load_model(path, load_external_data=False)
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror})") from None
    except Exception as error:  # protobuf's own, which it does not export in one place
        if isinstance(error, ModelError):
            raise
        raise ModelError(f"{path} is no ONNX file, or is damaged") from None
    if not proto.graph.node or not proto.graph.output:
        raise ModelError(f"{path} holds no graph")
    return proto


def _body(function: onnx.FunctionProto) -> onnx.GraphProto:
    """A function's body as a graph."""
    body = onnx.GraphProto(name=function.name, node=function.node)
    body.input.extend(onnx.ValueInfoProto(name=name) for name in function.input)
    body.output.extend(onnx.ValueInfoProto(name=name) for name in function.output)
    return body


def _graphs(todo: list[onnx.GraphProto]) -> Iterator[onnx.GraphProto]:
    """These graphs and all within their nodes."""
    while todo:
        graph = todo.pop()
        yield graph
        todo += _subgraphs(graph.node)


def _subgraphs(nodes: list[onnx.NodeProto]) -> list[onnx.GraphProto]:
    return [
        graph
        for node in nodes
        for attribute in node.attribute
        for graph in ([attribute.g] if attribute.HasField("g") else list(attribute.graphs))
    ]


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor, wherever it stands: weights, attributes, functions and their defaults, training."""
    todo: list[Message] = [proto]
    while todo:
        message = todo.pop()
        if isinstance(message, onnx.TensorProto):
            yield message
        elif isinstance(message, onnx.SparseTensorProto):
            raise UnsupportedModelError("the model has sparse weights; they are not supported")
        else:
            for field, value in message.ListFields():
                if field.message_type is not None:
                    todo += [value] if isinstance(value, Message) else value


def _check_tensor(tensor: onnx.TensorProto, folder: Path, entry: Path | None) -> None:
    name = tensor.name or "a constant"
    if any(size < 0 for size in tensor.dims):
        raise WeightsError(f"{name!r} has the shape {list(tensor.dims)}")
    count = math.prod(tensor.dims)
    bits = _bits(tensor)
    if bits is None:
        if tensor.data_location == onnx.TensorProto.EXTERNAL or len(tensor.string_data) != count:
            raise WeightsError(f"{name!r} has a type that holds no numbers")
        return
    num_bytes = -(-count * bits // 8)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        _check_external(tensor, num_bytes, folder, entry)
    elif tensor.raw_data and len(tensor.raw_data) != num_bytes:
        raise WeightsError(f"{name!r} has {len(tensor.raw_data):,} bytes; its shape asks for {num_bytes:,}")
    elif not tensor.raw_data and count > tensor.ByteSize() * 8:
        raise WeightsError(f"{name!r} has the shape {list(tensor.dims)} but not that many values")


def _bits(tensor: onnx.TensorProto) -> int | None:
    try:
        dtype = ir.DataType(tensor.data_type)
        return None if dtype == ir.DataType.STRING else int(dtype.bitwidth)
    except (ValueError, TypeError):
        raise WeightsError(f"{tensor.name!r} has the unknown type {tensor.data_type}") from None


def _check_external(tensor: onnx.TensorProto, num_bytes: int, folder: Path, entry: Path | None) -> None:
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    posix, windows = PurePosixPath(location), PureWindowsPath(location)
    if (
        not location
        or "\0" in location
        or posix.is_absolute()
        or windows.anchor
        or ".." in (*posix.parts, *windows.parts)
    ):
        raise WeightsError(f"{tensor.name!r} lies in {location[:80]!r}: weights must be in the model's folder")
    path = folder / location
    places = [folder] if entry is None else [folder, entry / "blobs"]
    if not any(path.resolve().is_relative_to(place.resolve()) for place in places):
        raise WeightsError(f"{tensor.name!r} lies in {location[:80]!r}, a link that leads out of the model's folder")
    if not path.is_file():
        raise WeightsError(f"{tensor.name!r} lies in {location[:80]!r}, which is not there")
    try:
        offset = int(entries.get("offset") or 0)
        length = int(entries.get("length") or num_bytes)
    except ValueError:
        raise WeightsError(f"{tensor.name!r} has an offset or a length that is no number") from None
    size = path.stat().st_size
    if length != num_bytes or offset < 0 or offset + length > size:
        raise WeightsError(
            f"{tensor.name!r} takes {num_bytes:,} bytes by its shape; bytes {offset:,} to {offset + length:,} of "
            f"{location[:80]} ({size:,} bytes) were given"
        )
    if entry is not None:  # who reads the weights later follows links within one folder only
        _set_location(tensor, (folder.absolute() / location).relative_to(entry).as_posix())


def _set_location(tensor: onnx.TensorProto, location: str) -> None:
    for item in tensor.external_data:
        if item.key == "location":
            item.value = location


def _hub_entry(folder: Path) -> Path | None:
    """The entry of the Hub's cache that a folder belongs to: links in `ENTRY/snapshots/…` lead to `ENTRY/blobs`."""
    places = [folder.absolute(), *folder.absolute().parents]
    return next((place.parents[1] for place in places if place.parent.name == "snapshots"), None)


def _check_names(graph: onnx.GraphProto, outer: set[str]) -> None:
    """Every value is made once, and by something."""
    made = outer | {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        for output in node.output:
            if output and output in made:
                raise ModelError(f"the value {output[:80]!r} is made twice")
            made.add(output)
    for node in graph.node:
        for source in node.input:
            if source and source not in made:
                raise ModelError(f"{node.name or node.op_type} reads {source[:80]!r}, which nothing makes")
        for inner in _subgraphs([node]):
            _check_names(inner, made - set(node.output))  # a branch may call its outputs as its node does
    for output in graph.output:
        if output.name not in made:
            raise ModelError(f"the output {output.name[:80]!r} is made by nothing")


def _check_functions(proto: onnx.ModelProto) -> None:
    """A model's own functions do not call themselves."""
    calls = {
        (function.domain, function.name): {(node.domain, node.op_type) for node in function.node}
        for function in proto.functions
    }
    done: set[tuple[str, str]] = set()
    while ready := [key for key, called in calls.items() if key not in done and called & calls.keys() <= done]:
        done.update(ready)
    if stuck := calls.keys() - done:
        raise ModelError(f"the function {min(stuck)[1][:80]!r} calls itself")


def _check_nodes(proto: onnx.ModelProto) -> None:
    """Nodes have the inputs, outputs and kinds of attributes that the standard gives their operators."""
    for body, opsets in ((proto.graph, proto.opset_import), *((each, each.opset_import) for each in proto.functions)):
        versions = {_DOMAINS.get(opset.domain, opset.domain): opset.version for opset in opsets}
        for graph in _graphs([onnx.GraphProto(node=body.node)]):
            for node in graph.node:
                domain = _DOMAINS.get(node.domain, node.domain)
                if onnx.defs.has(node.op_type, domain) and domain in versions:
                    _check_node(node, domain, versions[domain])


def _check_node(node: onnx.NodeProto, domain: str, version: int) -> None:
    try:
        schema = onnx.defs.get_schema(node.op_type, version, domain)
    except onnx.defs.SchemaError:  # newer than the model's operators: whoever needs it says so
        return
    name = f"{(node.name or 'a node')[:80]!r} ({node.op_type})"
    given, made = len(node.input), len(node.output)
    is_needed = [each.option == onnx.defs.OpSchema.FormalParameterOption.Single for each in schema.inputs]
    if any(needed and not source for needed, source in zip(is_needed, node.input, strict=False)):
        raise ModelError(f"{name} leaves out an input that it needs")
    if not (schema.min_input <= given <= schema.max_input and schema.min_output <= made <= schema.max_output):
        raise ModelError(f"{name} has {given} inputs and {made} outputs, which is not what its operator has")
    for attribute in node.attribute:
        if attribute.name not in schema.attributes or attribute.ref_attr_name:
            continue
        kind = str(schema.attributes[attribute.name].type).rpartition(".")[2]
        if attribute.type != onnx.AttributeProto.AttributeType.Value(kind):
            raise ModelError(f"{name} has an attribute {attribute.name} of another kind than {kind}")


def _check_sizes(graph: onnx.GraphProto) -> None:
    """No constant makes a tensor that could not be meant."""
    constants = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            constants[node.output[0]] = node.attribute[0].t
    for node in graph.node:
        index = _SHAPED_BY_INPUT.get(node.op_type)
        tensor = constants.get(node.input[index]) if index is not None and len(node.input) > index else None
        if tensor is None or tensor.data_location == onnx.TensorProto.EXTERNAL or math.prod(tensor.dims) > 64:
            continue
        sizes = [abs(int(size)) for size in onnx.numpy_helper.to_array(tensor).reshape(-1)]
        check_elements(sizes, node.name or node.op_type)
    for value in (*graph.input, *graph.output, *graph.value_info):
        fixed = [dim.dim_value for dim in value.type.tensor_type.shape.dim if dim.HasField("dim_value")]
        check_elements(fixed, value.name)


def check_elements(sizes: list[int], name: str) -> None:
    """Raises: UnsupportedModelError for a tensor of absurd size."""
    if math.prod(size for size in sizes if size > 0) > MAX_ELEMENTS:
        raise UnsupportedModelError(
            f"{name[:80]!r} has {' × '.join(map(str, sizes))} elements; at most {MAX_ELEMENTS:,} are believed"
        )
