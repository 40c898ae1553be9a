"""Models named by hub id, `organisation/name[@revision][:file]`, fetched by `huggingface_hub` into its own cache.

Without a file the repository's safetensors weights are taken, or the best of its GGUF files of four bits; with one,
that GGUF file, by its name or its form (`organisation/name:Q4_K_M`), see `gguf_choice`. All parts of a split file are
fetched. Of a repository of ONNX files, as transformers.js has them, one graph is fetched with its weights and
tokenizer: that of the precision, or the one named (`organisation/name:q4`), see `genai.convert.files`. As others write
it, a name may begin with `hf.co/` and end with `:latest`, which says no more than nothing.
"""

from __future__ import annotations

import fnmatch
import glob
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from genai.build.gguf.file_names import form_of, stem_of
from genai.config import Precision
from genai.convert.files import choose_graph, weights_of
from genai.errors import DownloadError, GenAIError, ModelNotFoundError, UnsupportedModelError
from genai.models.gguf_choice import choose_gguf, listed, models_in
from genai.progress import Progress

_LOG = logging.getLogger(__name__)
_ID = re.compile(
    r"((https?://)?(hf\.co|huggingface\.co)/)?"
    r"(?P<repo>[\w-][\w.-]*/[\w.-]*[\w-])(@(?P<revision>[\w./-]+))?(:(?P<file>[^:]+))?",
    re.ASCII,
)
_WANTED = (
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template*",
    "additional_chat_templates/*.jinja",
    "*.safetensors",
    "*.safetensors.index.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
)
_POOLING = "[0-9]*_Pooling/config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubId:
    """A repository on the hub; revision: a branch, tag or commit (None: the default branch); file: one model in it.

    As a string it is the name that all spellings of it share.
    """

    repo: str
    revision: str | None = None
    file: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubId | None:
        """Read `[hf.co/]organisation/name[@revision][:file]`; None if the text does not look like one."""
        found = _ID.fullmatch(text)
        if found is None:
            return None
        file = None if found["file"] in (None, "latest") else form_of(found["file"]) or found["file"]
        return cls(repo=found["repo"], revision=found["revision"], file=file)

    def __str__(self) -> str:
        at, of = f"@{self.revision}" if self.revision else "", f":{self.file}" if self.file else ""
        return f"{self.repo}{at}{of}"

    @property
    def label(self) -> str:
        """A short name for folders."""
        return self.repo.replace("/", "--") + (f"-{stem_of(Path(self.file))}" if self.file else "")


def fetch(hub_id: HubId, progress: Progress, precision: Precision = "auto") -> Path:
    """Bring a repository's newest matching files here: a folder with safetensors weights, one GGUF file or ONNX graph.

    precision: chooses among ONNX files. Files that are already in the cache are not fetched again; interrupted
    downloads are resumed.
    Raises: ModelNotFoundError, DownloadError, UnsupportedModelError (no weights that can be read).
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    from genai.models.hub_progress import bars_to

    try:
        progress(f"asking the hub for {hub_id.repo}", 0, 0)
        info = huggingface_hub.HfApi().model_info(hub_id.repo, revision=hub_id.revision)
        names = [sibling.rfilename for sibling in info.siblings or []]
        files = choose_files(hub_id, names, precision)
        _say_choice(hub_id, files, models_in(names), progress)
        folder = huggingface_hub.snapshot_download(
            hub_id.repo,
            revision=info.sha,
            allow_patterns=[glob.escape(file) for file in files],
            tqdm_class=bars_to(progress, hub_id.repo),
        )
    except GenAIError:  # ours already; some are OSErrors too
        raise
    except HFValidationError as error:
        raise ModelNotFoundError(f"{hub_id.repo!r} is not a hub id: {_line(error)}") from None
    except (HfHubHTTPError, OSError, RuntimeError) as error:
        raise _translated(hub_id, error) from None
    except Exception as error:  # the HTTP client's own errors, which are not the same in every release
        if not _is_http_error(error):
            raise
        raise _translated(hub_id, error) from None
    return Path(folder, files[0]) if files[0].endswith((".gguf", ".onnx")) else Path(folder)


def _say_choice(hub_id: HubId, files: Sequence[str], models: Sequence[str], progress: Progress) -> None:
    if files[0].endswith(".onnx"):
        progress(f"{hub_id.repo}: {files[0]}", 0, 0)
    elif files[0].endswith(".gguf"):
        chosen = f"{files[0]} and {len(files) - 1} more parts" if len(files) > 1 else files[0]
        progress(f"{hub_id.repo}: {chosen}", 0, 0)
        if hub_id.file is None and len(models) > 1:
            _LOG.warning("%s: taking %s; name another as %s:FORM, of %s", hub_id, chosen, hub_id, listed(models))


def choose_files(hub_id: HubId, names: Sequence[str], precision: Precision = "auto") -> list[str]:
    """Which of a repository's files to fetch: those of one GGUF, or configuration, tokenizer and weights.

    Weights are safetensors or, where there are none, those of one ONNX graph, which comes first.
    Raises: ModelNotFoundError, UnsupportedModelError.
    """
    ggufs = [name for name in names if name.endswith(".gguf")]
    graphs = [name for name in names if name.endswith(".onnx")]
    if hub_id.file and graphs and (hub_id.file.endswith(".onnx") or not ggufs):
        return _of_graph(hub_id, names, graphs, precision)
    if hub_id.file:
        return choose_gguf(hub_id.repo, hub_id.file, ggufs)
    wanted = [name for name in names if any(fnmatch.fnmatch(name, pattern) for pattern in _WANTED) and "/" not in name]
    weights = [name for name in wanted if name.endswith(".safetensors")]
    named_as_usual = [name for name in weights if name.startswith("model")]
    if weights and "config.json" in names:
        # Some repositories hold the same weights twice, under the original authors' names.
        chosen = [name for name in wanted if name not in weights or name in (named_as_usual or weights)]
        return chosen + [name for name in names if fnmatch.fnmatch(name, _POOLING)]
    if ggufs:
        return choose_gguf(hub_id.repo, None, ggufs)
    if graphs:
        return _of_graph(hub_id, names, graphs, precision)
    raise UnsupportedModelError(
        f"{hub_id.repo} has no safetensors weights with a config.json, and no GGUF or ONNX file"
    )


def _of_graph(hub_id: HubId, names: Sequence[str], graphs: Sequence[str], precision: Precision) -> list[str]:
    """One ONNX graph, its weights, and the configuration and tokenizer beside or above it."""
    graph = choose_graph(hub_id.repo, graphs, precision, hub_id.file)
    folder = PurePosixPath(graph).parent
    beside = ["" if folder.name in ("", "onnx") and len(folder.parts) <= 1 else f"{folder}/"]
    wanted = [f"{place}{pattern}" for place in beside for pattern in (*_WANTED, "genai_config.json")]
    others = [
        name
        for name in names
        if not name.endswith((".safetensors", ".safetensors.index.json"))
        and any(fnmatch.fnmatch(name, pattern) and name.count("/") == pattern.count("/") for pattern in wanted)
    ]
    return [graph, *weights_of(graph, names), *others]


def _translated(hub_id: HubId, error: Exception) -> ModelNotFoundError | DownloadError:
    """An error of the hub's client as one of ours, one line long."""
    from huggingface_hub import errors

    at = f" at revision {hub_id.revision!r}" if hub_id.revision else ""
    match error:
        case errors.GatedRepoError():
            return DownloadError(
                f"{hub_id.repo} is gated: accept its terms on its page on the hub, then log in with `hf auth login`"
            )
        case errors.RepositoryNotFoundError():
            return ModelNotFoundError(
                f"the hub has no model {hub_id.repo!r}, or it is private (then log in with `hf auth login`)"
            )
        case errors.RevisionNotFoundError() | errors.EntryNotFoundError() if not isinstance(
            error, errors.LocalEntryNotFoundError
        ):
            return ModelNotFoundError(f"{hub_id.repo} has not what was asked for{at}: {_line(error)}")
        case errors.OfflineModeIsEnabled():
            return DownloadError(f"{hub_id.repo} is not here, and HF_HUB_OFFLINE forbids to fetch it")
        case _:
            return DownloadError(f"cannot fetch {hub_id.repo} from the hub{at}: {_line(error)}; the same call resumes")


def _is_http_error(error: Exception) -> bool:
    return any(kind.__module__.partition(".")[0].startswith(("httpx", "httpcore")) for kind in type(error).__mro__)


def _line(error: Exception) -> str:
    """An error's first line, without the client's advice."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
