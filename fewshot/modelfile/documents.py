"""JSON from files that nobody vouches for: of bounded depth, without surprises, and with a digest of itself."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections import Counter
from typing import Any

from fewshot.errors import ModelFileError

_MAX_DEPTH = 16
_MAX_DIGITS = 20
_MAX_CHARACTERS = 100
# An escape is one piece, so that an escaped quote ends no string. No pattern for a whole string: one that is never
# closed would be tried from each of its quotes.
_PIECES = re.compile(r'\\.|["\[\]{}]', re.DOTALL)


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
        _check_depth(text)
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


def _check_depth(text: str) -> None:
    level, inside = 0, False
    for match in _PIECES.finditer(text):
        piece = match[0]
        if piece == '"':
            inside = not inside
        elif not inside and piece in "[]{}":
            level += 1 if piece in "[{" else -1
            if level > _MAX_DEPTH:
                raise ValueError(f"nested more than {_MAX_DEPTH} levels deep")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"a key stands twice: {twice[:100]!r}")
    return found


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not a number")


def _whole(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a whole number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    if len(text) > _MAX_CHARACTERS:
        raise ValueError(f"a number of {len(text)} characters")
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:40]} is beyond floating-point numbers")
    return number
