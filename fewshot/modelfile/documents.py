"""JSON from files that nobody vouches for: of bounded depth, without surprises, and with a digest of itself."""

from __future__ import annotations

import hashlib
import json
import math
import re
from typing import Any

from fewshot.errors import ModelFileError

_MAX_DEPTH = 16
_MAX_DIGITS = 20
_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)


def parse_json(data: bytes, name: str) -> Any:
    """Parse strict JSON: no NaN or infinity, no key twice, no number of hundreds of digits, no deep nesting.

    Args:
        data: the text in UTF-8.
        name: what it is, for messages.

    Raises:
        ModelFileError: with what is wrong with it.
    """
    try:
        text = data.decode("utf-8")
        if _depth(text) > _MAX_DEPTH:
            raise ValueError(f"nested more than {_MAX_DEPTH} levels deep")
        return json.loads(
            text, object_pairs_hook=_unique, parse_constant=_no_constant, parse_int=_whole, parse_float=_finite
        )
    except ValueError as error:
        raise ModelFileError(f"{name} is not valid JSON: {error}") from None


def write_json(document: dict[str, Any]) -> bytes:
    """Write a document with a digest of the rest of it as its last entry; a lone surrogate is escaped."""
    sealed = {**document, "digest": document_digest(document)}
    text = json.dumps(sealed, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    # JSON's escape of a surrogate is Python's.
    return text.encode("utf-8", "backslashreplace")


def document_digest(document: dict[str, Any]) -> str:
    """Digest what a document says, however it is laid out; an entry ``digest`` is left out."""
    rest = {key: value for key, value in document.items() if key != "digest"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.blake2b(text.encode("ascii"), digest_size=16).hexdigest()


def _depth(text: str) -> int:
    deepest = level = 0
    for bracket in re.findall(r"[\[\]{}]", _STRING.sub("", text)):
        level += 1 if bracket in "[{" else -1
        deepest = max(deepest, level)
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        raise ValueError(f"a key stands twice: {next(key for key in keys if keys.count(key) > 1)[:100]!r}")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number")


def _whole(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is beyond floating-point numbers")
    return number
