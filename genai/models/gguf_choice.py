"""Which of a repository's GGUF files a name means, and which one is taken where it does not say."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import PurePath

from genai.build.gguf.file_names import form_of, is_beside, part_of, quantization_of, stem_of
from genai.errors import ModelNotFoundError

PREFERRED = (
    *("Q4_K_M", "Q4_K_XL", "Q4_K_L", "Q4_K", "Q4_K_S", "MXFP4", "MXFP4_MOE", "IQ4_NL", "IQ4_XS", "Q4_1", "Q4_0", "Q4"),
    *("Q5_K_M", "Q5_K_XL", "Q5_K_L", "Q5_K", "Q5_K_S", "Q5_1", "Q5_0", "Q5", "Q6_K", "Q6_K_L", "Q6_K_XL", "Q6"),
    *("Q8_0", "Q8_K_XL", "Q8", "Q3_K_XL", "Q3_K_L", "Q3_K_M", "IQ3_M", "Q3_K", "Q3_K_S", "IQ3_S", "IQ3_XS", "IQ3_XXS"),
    *("Q3", "BF16", "F16", "F32", "Q2_K_XL", "Q2_K_L", "Q2_K", "IQ2_M", "Q2_K_S", "IQ2_S", "IQ2_XS", "IQ2_XXS", "Q2"),
    *("TQ2_0", "TQ1_0", "IQ1_M", "IQ1_S"),
)
"""Which form is taken where none is named: one of four bits, Q4_K_M before all; else of 5, 6, 8, 3, 16, 32, 2 and 1.

Forms that are not here come last. Of one form the plain file comes first, then "UD-", then "i1-"."""

_PREFIXES = ("", "UD-", "I1-")


def choose_gguf(repo: str, asked: str | None, names: Iterable[str]) -> list[str]:
    """The files of one model among a repository's GGUF files, the first part first.

    asked: a form ("Q4_K_M", in any case), a file, or a part of a file's name that no other model there has; None is the
    first that there is of `PREFERRED`.
    Raises: ModelNotFoundError, saying what there is.
    """
    names = sorted(names)
    models = _models(names)
    files = models[_best(repo, models) if asked is None else _asked(repo, asked, names, models)]
    part = part_of(PurePath(files[0]).name)
    if part and len(files) != part[2]:
        raise ModelNotFoundError(f"{repo} has only {len(files)} of the {part[2]} parts of {part[0]}")
    return files


def listed(names: Iterable[str]) -> str:
    """What can be asked for, in a line: forms, and the names of files that tell none or share one."""
    tags = {name: quantization_of(name) for name in names}
    shown = [tag if tag and list(tags.values()).count(tag) == 1 else name for name, tag in tags.items()]
    return ", ".join(sorted(shown)) or "none"


def models_in(names: Iterable[str]) -> list[str]:
    """The first file of each model."""
    return list(_models(sorted(names)))


def _models(names: Sequence[str]) -> dict[str, list[str]]:
    """Each model's files, by the first of them."""
    found: dict[PurePath, list[str]] = {}
    for name in names:
        path = PurePath(name)
        if path.suffix == ".gguf" and not is_beside(name):
            part = part_of(path.name)
            found.setdefault(path.with_name(f"{part[0]} in {part[2]}") if part else path, []).append(name)
    return {files[0]: files for files in found.values()}


def _asked(repo: str, asked: str, names: Sequence[str], models: Mapping[str, Sequence[str]]) -> str:
    found = _named(asked, models)
    if len(found) == 1:
        return found[0]
    if found:
        raise ModelNotFoundError(f"{repo} has several files {asked!r}; its GGUF files: {', '.join(found)}")
    beside = [name for name in names if is_beside(name) and asked.lower() in name.lower()]
    if beside and form_of(asked) is None:
        raise ModelNotFoundError(
            f"{repo}:{beside[0]} is no model but lies beside one; its GGUF files: {listed(models)}"
        )
    raise ModelNotFoundError(f"{repo} has no file {asked!r}; its GGUF files: {listed(models)}")


def _best(repo: str, models: Mapping[str, Sequence[str]]) -> str:
    if not models:
        raise ModelNotFoundError(f"{repo} has no GGUF file of a model")
    best = min(models, key=_rank)
    rivals = [name for name in models if _rank(name) == _rank(best)]
    if len(rivals) > 1:
        raise ModelNotFoundError(
            f"{repo} has several GGUF files of one form; name one, as {repo}:FILE, of: {', '.join(rivals)}"
        )
    return best


def _rank(name: str) -> tuple[int, int]:
    form = quantization_of(name) or ""
    prefix = max(prefix for prefix in _PREFIXES if form.startswith(prefix))
    plain = form.removeprefix(prefix)
    return PREFERRED.index(plain) if plain in PREFERRED else len(PREFERRED), _PREFIXES.index(prefix)


def _named(asked: str, models: Mapping[str, Sequence[str]]) -> list[str]:
    """The models that a name may mean: the file or one of its parts, a form, or a part of the name."""
    if exact := [name for name, files in models.items() if any(_is_called(file, asked) for file in files)]:
        return exact
    if (form := form_of(asked)) is None:
        return [name for name in models if asked.lower() in name.lower()]
    # A form is meant, and not what only contains its letters: BF16 is not F16.
    found = ([name for name in models if quantization_of(name) == prefix + form] for prefix in _PREFIXES)
    return next((names for names in found if names), [])


def _is_called(name: str, asked: str) -> bool:
    path = PurePath(name)
    return asked.lower() in {text.lower() for text in (name, path.name, path.stem, stem_of(path))}
