"""JSON Schema's formats that can be a constraint, as regular expressions of whole strings in Rust's syntax.

llguidance knows some formats itself. Those that it takes more widely than the RFCs (30 February, leap seconds at any
time) are written here, and some that it has not. All are of Draft 2020-12, section 7.3, but OpenAPI's `byte`.
"""

from __future__ import annotations

NATIVE_FORMATS = frozenset({"duration", "email", "ipv4", "ipv6", "uuid"})
"""Formats that llguidance follows as their RFCs say."""

NUMBER_FORMATS = {
    "int32": (-(2**31), 2**31 - 1),
    "uint32": (0, 2**32 - 1),
    "int64": (-(2**53 - 1), 2**53 - 1),
    "uint64": (0, 2**53 - 1),
}
"""OpenAPI's integer formats as bounds; of 64 bits, only what every JSON reader keeps exactly (RFC 7493)."""


def _dates() -> str:
    year = "(?:[0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)"
    leap = "(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
    day31 = "(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    day30 = "(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    return f"(?:{year}-(?:{day31}|{day30}|02-(?:0[1-9]|1[0-9]|2[0-8]))|{leap}-02-29)"


def _uri(*, is_relative: bool) -> str:
    """RFC 3986, appendix A; hosts in brackets are left to the format `ipv6`."""
    character = r"[A-Za-z0-9\-._~!$&'()*+,;=:@]|%[0-9A-Fa-f]{2}"
    segment, first = f"(?:{character})*", rf"(?:{character.replace(':@', '@')})+"
    authority = r"(?:(?:[A-Za-z0-9\-._~!$&'()*+,;=:]|%[0-9A-Fa-f]{2})*@)?"
    authority += r"(?:[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2})*(?::[0-9]*)?"
    start = first if is_relative else f"(?:{character})+"
    path = f"(?://{authority}(?:/{segment})*|/(?:(?:{character})+(?:/{segment})*)?|{start}(?:/{segment})*|)"
    query = rf"(?:\?(?:{character}|[/?])*)?(?:\x23(?:{character}|[/?])*)?"
    return f"{'' if is_relative else '[A-Za-z][A-Za-z0-9+.-]*:'}{path}{query}"


_TIME = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,9})?(?:[zZ]|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_REFERENCE = f"(?:{_uri(is_relative=False)}|{_uri(is_relative=True)})"

PLAIN_EMAIL = r"^(?:[A-Za-z0-9_'+\-]+\.)*[A-Za-z0-9_'+\-]*[A-Za-z0-9_+\-]@(?:[A-Za-z0-9][A-Za-z0-9\-]*\.)+[A-Za-z]{2,}$"
"""E-mail addresses as zod takes them, whose own pattern looks ahead; all are of the format `email`."""

FORMATS = {
    "byte": "(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?",
    "date": _dates(),
    "date-time": f"{_dates()}[tT]{_TIME}",
    "hostname": rf"{_LABEL}(?:\.{_LABEL}){{0,3}}",
    "iri": _uri(is_relative=False),
    "iri-reference": _REFERENCE,
    "json-pointer": "(?:/(?:[^/~]|~[01])*)*",
    "time": _TIME,
    "uri": _uri(is_relative=False),
    "uri-reference": _REFERENCE,
}
"""Each format's strings, or some of them: a hostname has at most four labels (RFC 1123 ends at 253 characters)."""
