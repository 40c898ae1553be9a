"""Names of GGUF files as uploaders give them, and which of them a hub name means."""

from __future__ import annotations

import pytest

from genai.build.gguf.file_names import form_of
from genai.errors import ModelNotFoundError
from genai.models.gguf_choice import PREFERRED, choose_gguf, listed

PLAIN = ["M-BF16.gguf", "M-IQ4_XS.gguf", "M-Q2_K.gguf", "M-Q4_K_M.gguf", "M-Q4_K_S.gguf", "M-Q8_0.gguf", "M-f16.gguf"]
BIG = [
    "BF16/R-BF16-00001-of-00002.gguf",
    "BF16/R-BF16-00002-of-00002.gguf",
    "Q4_K_M/R-Q4_K_M-00002-of-00002.gguf",
    "Q4_K_M/R-Q4_K_M-00001-of-00002.gguf",
    "R-UD-Q4_K_XL.gguf",
    "R-UD-Q2_K_XL.gguf",
    "mmproj-F16.gguf",
    "imatrix_unsloth.gguf",
]
IMATRIX = ["M.i1-Q4_K_M.gguf", "M.i1-IQ2_M.gguf", "M.i1-Q6_K.gguf", "M.imatrix.gguf"]


@pytest.mark.parametrize(
    ("names", "asked", "chosen"),
    [
        (PLAIN, None, ["M-Q4_K_M.gguf"]),
        (PLAIN, "q4_k_s", ["M-Q4_K_S.gguf"]),
        (PLAIN, "F16", ["M-f16.gguf"]),
        (PLAIN, "M-q8_0.GGUF", ["M-Q8_0.gguf"]),
        (PLAIN, "iq4", ["M-IQ4_XS.gguf"]),  # a part of the name, and no form
        (BIG, None, [f"Q4_K_M/R-Q4_K_M-0000{part}-of-00002.gguf" for part in (1, 2)]),
        (BIG, "Q4_K_M", [f"Q4_K_M/R-Q4_K_M-0000{part}-of-00002.gguf" for part in (1, 2)]),
        (BIG, "bf16", [f"BF16/R-BF16-0000{part}-of-00002.gguf" for part in (1, 2)]),
        (BIG, "R-BF16-00002-of-00002.gguf", [f"BF16/R-BF16-0000{part}-of-00002.gguf" for part in (1, 2)]),
        (BIG, "BF16/R-BF16", [f"BF16/R-BF16-0000{part}-of-00002.gguf" for part in (1, 2)]),
        (BIG, "UD-Q4_K_XL", ["R-UD-Q4_K_XL.gguf"]),
        (BIG, "Q2_K_XL", ["R-UD-Q2_K_XL.gguf"]),
        (IMATRIX, None, ["M.i1-Q4_K_M.gguf"]),
        (IMATRIX, "Q6_K", ["M.i1-Q6_K.gguf"]),
        (["F16-is-in-its-name-Q5_K_M.gguf", "M-F16.gguf"], None, ["F16-is-in-its-name-Q5_K_M.gguf"]),
        (["M-F16.gguf", "M-Q4_0_4_4.gguf"], None, ["M-F16.gguf"]),  # a form that is no more
        (["only.gguf"], None, ["only.gguf"]),
        (["M-UD-Q4_K_M.gguf", "M-Q4_K_M.gguf"], None, ["M-Q4_K_M.gguf"]),
        (["M-UD-Q4_K_M.gguf", "M-Q4_K_M.gguf"], "Q4_K_M", ["M-Q4_K_M.gguf"]),
    ],
)
def test_what_is_meant(names: list[str], asked: str | None, chosen: list[str]) -> None:
    assert choose_gguf("o/n", asked, names) == chosen


@pytest.mark.parametrize(
    ("names", "asked", "message"),
    [
        (PLAIN, "Q5_K_M", "o/n has no file 'Q5_K_M'; its GGUF files: BF16, F16, IQ4_XS, Q2_K, Q4_K_M, Q4_K_S, Q8_0"),
        (BIG, "F16", "o/n has no file 'F16'; its GGUF files: BF16, Q4_K_M, UD-Q2_K_XL, UD-Q4_K_XL"),
        (PLAIN, "M-Q4", "o/n has several files 'M-Q4'; its GGUF files: M-Q4_K_M.gguf, M-Q4_K_S.gguf"),
        (
            ["a-Q4_0.gguf", "b-Q4_0.gguf"],
            None,
            "several GGUF files of one form; name one, as o/n:FILE, of: a-Q4_0.gguf, b",
        ),
        (["a-Q4_0.gguf", "b-Q4_0.gguf", "c.gguf"], "Q8_0", "its GGUF files: a-Q4_0.gguf, b-Q4_0.gguf, c.gguf"),
        (BIG, "mmproj-F16.gguf", "o/n:mmproj-F16.gguf is no model but lies beside one; its GGUF files: BF16, Q4"),
        (["mmproj-F16.gguf"], None, "o/n has no GGUF file of a model"),
        ([], "Q4_0", "o/n has no file 'Q4_0'; its GGUF files: none"),
        (BIG[:1], "BF16", "o/n has only 1 of the 2 parts of R-BF16"),
    ],
)
def test_what_is_not_there(names: list[str], asked: str | None, message: str) -> None:
    with pytest.raises(ModelNotFoundError) as caught:
        choose_gguf("o/n", asked, names)
    assert message in str(caught.value)


def test_the_order_is_of_forms_each_once() -> None:
    assert len(set(PREFERRED)) == len(PREFERRED)
    assert [form_of(form) for form in PREFERRED] == list(PREFERRED)


def test_what_can_be_asked_for() -> None:
    assert listed(["b/x-Q4_0.gguf", "y-q8_0.gguf", "z-Q8_0.gguf", "w.gguf"]) == "Q4_0, w.gguf, y-q8_0.gguf, z-Q8_0.gguf"
