"""From a model's name to a model package on disk: find, pull, build on demand, list, remove."""

from __future__ import annotations

import dataclasses
import logging
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from genai import config
from genai.build.gguf.file_names import parts_of, stem_of
from genai.config import CONFIG_FILE, DEVICES, MAX_RANK, PRECISIONS, Precision
from genai.convert.files import folder_of
from genai.errors import ConfigError, ModelNotFoundError
from genai.extras import require
from genai.models import foreign, hub, store, wheels
from genai.models.adapters import Room
from genai.models.catalog import KnownModel, known_models, not_found
from genai.models.mistaken import what_it_is_instead
from genai.progress import Progress, silent

Builder = Literal["genai", "mobius"]
BUILDERS: tuple[Builder, ...] = ("genai", "mobius")

_LOG = logging.getLogger(__name__)
_PACKAGE_NAME = re.compile(rf"(?P<label>[^.].*)-(?P<precision>{'|'.join(PRECISIONS)})-(?P<key>[^-]+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class BuiltPackage:
    """A model package in the cache."""

    path: Path
    precision: Precision
    num_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """What is here of a model. weights: the pulled GGUF of a known model, or None; known: it is in the catalogue."""

    name: str
    known: bool
    description: str = ""
    license: str = ""
    weights: Path | None = None
    num_weights_bytes: int = 0
    packages: tuple[BuiltPackage, ...] = ()


def package(
    name: str | Path,
    *,
    precision: Precision = "auto",
    device: str = "auto",
    max_seq_len: int | None = None,
    room: Room | None = None,
    progress: Progress = silent,
) -> Path:
    """The model package of a model, pulled and built, or converted, first if that has not been done.

    name: a known name, a package folder (used as it is), a Hugging Face folder, a .gguf file, somebody's ONNX model (a
    file or folder), or a hub id; room: for adapters, if it is to have some.
    Raises: ModelNotFoundError, DownloadError, ConfigError, and what the builder raises.
    """
    options = _BuildOptions(precision=precision, device=device, max_seq_len=max_seq_len)
    if room is not None:
        options = dataclasses.replace(options, lora_slots=room.lora_slots, max_rank=room.max_rank)
    name = str(name)
    folder = Path(name).expanduser()
    if name not in known_models() and is_package(folder):
        _check_precision(folder, precision)
        return folder
    source, label = _source(name, progress, precision)
    return _built(source, label, options, progress)


def pull(name: str | Path, *, precision: Precision = "auto", progress: Progress = silent) -> Path:
    """Bring a model's weights here: a GGUF file, an ONNX graph or a folder. A hub id is asked for anew each time.

    precision: chooses among a repository's ONNX files. Raises: ModelNotFoundError, DownloadError.
    """
    if model := known_models().get(str(name)):
        return _pull_known(model, progress)
    if hub_id := hub.HubId.parse(str(name)):
        path = hub.fetch(hub_id, progress, precision)
        store.remember(f"hub {hub_id}", "", str(path))
        if foreign.is_foreign(path):
            store.remember(f"hub {hub_id} {precision}", "", str(path))
        return path
    raise not_found(str(name))


def checkpoint(name: str | Path, *, progress: Progress = silent) -> Path:
    """A model's weights as they are: a file or folder that is here, or what `pull` brings.

    Raises: ModelNotFoundError that says what to do with what is no checkpoint, DownloadError.
    """
    path = Path(name).expanduser()
    if str(name) in known_models() or not path.exists():
        return pull(name, progress=progress)
    if complaint := what_it_is_instead(path):
        raise ModelNotFoundError(complaint)
    return path


def build(
    name: str | Path,
    output: Path,
    *,
    precision: Precision = "auto",
    device: str = "auto",
    max_seq_len: int | None = None,
    builder: Builder = "genai",
    lora_slots: int = 0,
    max_rank: int = MAX_RANK,
    merge_lora: Path | None = None,
    progress: Progress = silent,
) -> Path:
    """Build a package folder outside the cache from a known name, a Hugging Face folder, a .gguf file or a hub id.

    builder: "mobius" is for architectures that are not built here, and takes folders and hub ids; lora_slots: how many
    adapters it has room for, none above the rank `max_rank`; merge_lora: one that becomes part of the weights.
    Raises: ModelNotFoundError, DownloadError, ConfigError, and what the builder raises.
    """
    options = _BuildOptions(
        precision=precision, device=device, max_seq_len=max_seq_len, lora_slots=lora_slots, max_rank=max_rank
    )
    if builder not in BUILDERS:
        raise ConfigError(f"builder={builder!r}: must be one of {', '.join(BUILDERS)}")
    if is_package(Path(name).expanduser()):
        raise ConfigError(f"{name} is a built package already; give the weights that it was built from")
    if builder == "mobius":
        if lora_slots or merge_lora is not None:
            raise ConfigError("adapters are for what is built here: leave out --builder mobius, or the adapters")
        require("mobius", "--builder mobius")
        from genai.convert.mobius import build_by_mobius

        source, _ = _source(str(name), progress)
        return build_by_mobius(
            source, output, precision=precision, device=_resolved(device), max_seq_len=max_seq_len, progress=progress
        )
    from genai.build.package import build_package

    source, _ = _source(str(name), progress)
    if foreign.is_foreign(source):
        raise ConfigError(f"{name} is an ONNX model already: genai convert {name} {output} -p {precision}")
    chosen = dataclasses.asdict(dataclasses.replace(options, device=_resolved(device)))
    return build_package(source, output, **chosen, merge_lora=merge_lora, progress=progress)


def list_models() -> list[ModelStatus]:
    """Every known model, then what else has been built."""
    built: dict[str, list[BuiltPackage]] = {}
    for path in sorted(store.packages_folder().glob("*/genai.json")):
        if found := _PACKAGE_NAME.fullmatch(path.parent.name):
            built.setdefault(found["label"], []).append(
                BuiltPackage(
                    path=path.parent,
                    precision=next(p for p in PRECISIONS if p == found["precision"]),
                    num_bytes=store.tree_bytes(path.parent),
                )
            )
    known = []
    for model in known_models().values():
        weights = _weights(model)
        known.append(
            ModelStatus(
                name=model.name,
                known=True,
                description=model.description,
                license=model.license,
                weights=weights,
                num_weights_bytes=model.size if weights else 0,
                packages=tuple(built.pop(store.label_of(model.name), ())),
            )
        )
    return known + [
        ModelStatus(name=label, known=False, packages=tuple(packages)) for label, packages in sorted(built.items())
    ]


def remove(name: str) -> int:
    """Delete a model's weights, its packages and what an interrupted pull left; returns the bytes that this freed.

    Weights that the hub's client keeps in its own cache, and files of the user's own, are not touched.
    Raises: ModelNotFoundError if nothing of it is here.
    """
    hub_id = hub.HubId.parse(name)
    label = hub_id.label if hub_id else name
    status = next((model for model in list_models() if model.name in (name, store.label_of(label))), None)
    doomed = [package.path for package in status.packages] if status else []
    if name in known_models():
        doomed += [store.weights_folder(name), store.downloads_folder(name)]
    doomed = [path for path in doomed if path.exists()]
    if not doomed:
        raise ModelNotFoundError(f"nothing of {name!r} is here; `genai models` lists what is")
    freed = sum(store.tree_bytes(path) for path in doomed)
    for path in doomed:
        (path / CONFIG_FILE).unlink(missing_ok=True)  # a removal that is cut short leaves no package
        shutil.rmtree(path)
    return freed


def is_package(folder: Path) -> bool:
    """Whether a folder is a model package."""
    return (folder / CONFIG_FILE).is_file()


@dataclass(frozen=True, slots=True, kw_only=True)
class _BuildOptions:
    """What to build, checked."""

    precision: Precision
    device: str
    max_seq_len: int | None
    lora_slots: int = 0
    max_rank: int = MAX_RANK

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise ConfigError(f"precision={self.precision!r}: must be one of {', '.join(PRECISIONS)}")
        if self.device not in DEVICES:
            raise ConfigError(f"device={self.device!r}: must be one of {', '.join(DEVICES)}")
        if self.max_seq_len is not None and self.max_seq_len < 1:
            raise ConfigError(f"max_seq_len={self.max_seq_len}: must be at least 1")
        if self.lora_slots < 0:
            raise ConfigError(f"lora_slots={self.lora_slots}: must be at least 0")
        if self.max_rank < 1:
            raise ConfigError(f"max_rank={self.max_rank}: must be at least 1")


def _source(name: str, progress: Progress, precision: Precision = "auto") -> tuple[Path, str]:
    """A model's weights, here, and a label for its packages. precision: chooses among ONNX files."""
    if model := known_models().get(name):
        return _pull_known(model, progress), model.name
    path = Path(name).expanduser()
    if path.is_file() and path.suffix == ".gguf":
        # The folder's links are followed, not the file's own: the hub's cache has the contents under other names.
        return parts_of(path.parent.resolve() / path.name)[0], stem_of(path)
    if path.exists() and foreign.is_foreign(path):
        graph = foreign.graph_of(path, precision)
        graph = graph.parent.resolve() / graph.name  # links to contents in the hub's cache are not followed
        return graph, folder_of(graph).name
    if path.exists():
        if complaint := what_it_is_instead(path):
            raise ModelNotFoundError(complaint)
        return path.resolve(), path.resolve().name
    hub_id = hub.HubId.parse(name)
    if hub_id is None:
        raise not_found(name)
    return _pulled(hub_id, precision) or pull(name, precision=precision, progress=progress), hub_id.label


def _pulled(hub_id: hub.HubId, precision: Precision) -> Path | None:
    """What was pulled before; of ONNX files that of this precision, or None."""
    graph, weights = (store.recall(f"hub {hub_id}{which}", "") for which in (f" {precision}", ""))
    if graph and Path(graph).exists():
        return Path(graph)
    return Path(weights) if weights and Path(weights).exists() and not foreign.is_foreign(Path(weights)) else None


def _pull_known(model: KnownModel, progress: Progress) -> Path:
    if weights := _weights(model):
        return weights
    with store.locked(model.name, progress):
        if weights := _weights(model):  # another process has just pulled it
            return weights
        if model.terms:
            _LOG.warning("%s", model.terms)
        target = store.weights_folder(model.name) / model.file
        wheels.pull_weights(model, target, progress)
    return target


def _weights(model: KnownModel) -> Path | None:
    """The pulled weights; they have their final name only after their checksum was verified."""
    path = store.weights_folder(model.name) / model.file
    return path if path.is_file() and path.stat().st_size == model.size else None


def _built(source: Path, label: str, options: _BuildOptions, progress: Progress) -> Path:
    """The package of a source and options, from the cache or built into it."""
    device = _resolved(options.device)
    question = f"package {source} {options.precision} {device} {options.max_seq_len}"
    if options.lora_slots:
        question += f" {options.lora_slots} adapters of rank {options.max_rank}"
    files = foreign.files_of(source) if foreign.is_foreign(source) else None
    stamp = store.fingerprint(source, files) + _builder_stamp()
    name = store.recall(question, stamp)
    if name and is_package(store.packages_folder() / name):
        return store.packages_folder() / name
    name = _build(source, label, dataclasses.replace(options, device=device), progress)
    store.remember(question, stamp, name)
    return store.packages_folder() / name


def _build(source: Path, label: str, options: _BuildOptions, progress: Progress) -> str:
    """Build a package into the cache, unless it is there under its key; returns its folder's name."""
    from genai.build.open import source_digest
    from genai.build.package import build_package, package_key

    chosen = dataclasses.asdict(options)
    is_foreign = foreign.is_foreign(source)
    if is_foreign:
        if chosen.pop("lora_slots"):
            raise ConfigError(f"{label} is an ONNX model, and its package has no room for adapters: give its weights")
        del chosen["max_rank"]
    sha256 = foreign.digest_of(source) if is_foreign else source_digest(source, progress)
    key = package_key(source, **chosen, sha256=sha256)
    name = f"{store.label_of(label)}-{options.precision}-{key}"
    target = store.packages_folder() / name
    with store.locked(name, progress):
        for leftover in store.packages_folder().glob(f".{name}.*"):  # of builds that were killed
            shutil.rmtree(leftover, ignore_errors=True)
        if not is_package(target):
            if is_foreign:
                foreign.convert_graph(source, target, **chosen, progress=progress)
            else:
                build_package(source, target, **chosen, sha256=sha256, progress=progress)
    return name


def _builder_stamp() -> str:
    """Changes when the builder's code does, so that keys are worked out anew; importing it would take a second."""
    folders = [Path(config.__file__).with_name(name) for name in ("build", "convert")]
    return str(max(file.stat().st_mtime_ns for folder in folders for file in folder.rglob("*.py")))


def _resolved(device: str) -> str:
    """The device to build for. A named one need not be on this machine; `auto` is what would run here."""
    if device != "auto":
        return device
    from genai.runtime.providers import choose_device

    return choose_device("auto")


def _check_precision(folder: Path, precision: Precision) -> None:
    if precision == "auto":
        return
    built = config.ModelConfig.read(folder).provenance.precision
    if built != precision:
        raise ConfigError(f"{folder} was built in {built}, not {precision}: build it again from its weights")
