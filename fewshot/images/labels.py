"""Labels: what counts as one class however it is written, and what counts as none."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import InvalidInputError
from fewshot.images.findings import Finding

# Characters without width that never tell two words apart: soft hyphen, zero-width space, word joiner, byte-order mark.
# Joiners (U+200C, U+200D) do, in Persian, in Indic scripts and in emoji, so they stay.
_INVISIBLE = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")


def is_missing(label: object) -> bool:
    """Whether a label stands for none: None, NaN, or pandas' NA and NaT."""
    return (
        label is None
        or (isinstance(label, (float, np.floating)) and bool(np.isnan(label)))
        or type(label).__name__ in ("NAType", "NaTType")
    )


def as_labels(y: Any) -> NDArray[Any]:
    """Turn labels into an array, refusing those that numpy would silently turn into others: None, NaN, mixed kinds.

    Raises:
        InvalidInputError: such labels, or not one for each image.
    """
    try:
        written = list(y)
    except TypeError:
        raise InvalidInputError(f"y={y!r}: give one label for each image, in a list.") from None
    missing = [i for i, label in enumerate(written) if is_missing(label)]
    if missing:
        raise InvalidInputError(f"{len(missing)} of {len(written)} labels are missing, the first at {missing[0]}.")
    strings = sum(isinstance(label, str) for label in written)
    if 0 < strings < len(written):
        raise InvalidInputError("Labels are partly strings and partly not; make them all strings: list(map(str, y)).")
    labels = np.asarray(y if isinstance(y, np.ndarray) or hasattr(y, "__array__") else written)
    if labels.ndim != 1:
        raise InvalidInputError(f"labels of shape {labels.shape}: give one label for each image.")
    return labels


def normalise_label(label: object) -> str:
    """Turn a label into the string it is compared by.

    The same are 1, 1.0 and ``"1"``; "é" in one or two code points; a space and a non-breaking space; a label with and
    without spaces, control characters or marks without width at its ends, or zero-width spaces and byte-order marks
    anywhere. Upper and lower case differ, and so do one and two spaces between words.
    """
    if isinstance(label, (float, np.floating)) and float(label).is_integer():
        label = int(label)
    text = unicodedata.normalize("NFC", str(label).translate(_INVISIBLE))
    if text.isascii() and text.isprintable():
        return text.strip()
    text = "".join(" " if unicodedata.category(mark) == "Zs" else mark for mark in text)
    start, end = 0, len(text)
    while start < end and _is_blank(text[start]):
        start += 1
    while end > start and _is_blank(text[end - 1]):
        end -= 1
    return text[start:end]


def _is_blank(mark: str) -> bool:
    """Whether a character shows nothing: space, separator, control or format character."""
    return unicodedata.category(mark) in ("Zs", "Zl", "Zp", "Cc", "Cf")


class Labels:
    """Normalises labels one by one, each way of writing only once, and knows afterwards what was merged."""

    def __init__(self) -> None:
        self._known: dict[tuple[type, object], str] = {}

    def normalise(self, label: object) -> str:
        """Normalise a label; see :func:`normalise_label`."""
        # By type too: 1 and True are one key of a dictionary. What has no hash is known by how it is written.
        key: tuple[type, object] = (type(label), label)
        try:
            name = self._known.get(key)
        except TypeError:
            key, name = (type(label), str(label)), None
        if name is None:
            name = self._known[key] = normalise_label(label)
        return name

    def of_file(self, name: str) -> str:
        """Label a class by the name of its folder or file; one of nothing but invisible characters is written out."""
        return self.normalise(name) or self.normalise(ascii(name))

    def findings(self) -> tuple[Finding, ...]:
        """Note labels that are written differently and are one class, and classes that hardly differ."""
        forms: dict[str, set[str]] = defaultdict(set)
        for (_, label), name in self._known.items():
            plain = label.item() if isinstance(label, np.generic) else label
            # What looks the same on the screen is told apart by its escapes.
            forms[name].add(ascii(plain) if isinstance(plain, str) and plain != name else repr(plain))
        merged = [
            Finding("MERGED_LABELS", f"{_and(written)} are one class, {show(name)!r}.", severity="warning")
            for name, written in sorted(forms.items())
            if len(written) > 1
        ]
        return (*merged, *_similar(forms))


def show(text: str) -> str:
    """Write a name on one line of a message: line breaks, control characters and lone surrogates are escaped."""
    if text.isprintable():
        return text
    return "".join(mark if mark.isprintable() else mark.encode("unicode_escape").decode() for mark in text)


def _similar(names: Iterable[str]) -> list[Finding]:
    """Note classes that are kept apart by case, by spaces or by how a number is written only."""
    rules: tuple[tuple[str, Callable[[str], str]], ...] = (
        ("upper and lower case or spaces", lambda name: " ".join(name.casefold().split())),
        ("how a number is written", _as_number),
    )
    found = []
    names = sorted(names)
    for difference, key in rules:
        groups: dict[str, list[str]] = defaultdict(list)
        for name in names:
            groups[key(name)].append(name)
        found += [
            Finding(
                "SIMILAR_LABELS",
                f"The classes {_and(map(repr, map(show, group)))} differ only in {difference} and are kept apart; "
                "rename them if they are one.",
                severity="warning",
            )
            for group in groups.values()
            if len(group) > 1
        ]
    return found


def _as_number(name: str) -> str:
    """Write 1, 01, +1 and 1.0 alike; anything else stays."""
    if not (name.isascii() and _NUMBER.fullmatch(name)):
        return name
    sign = "-" if name.startswith("-") else ""
    whole, _, part = name.lstrip("+-").partition(".")
    return f"{sign}{whole.lstrip('0')}.{part.rstrip('0')}"


def _and(words: Iterable[str]) -> str:
    return " and ".join(sorted(words))
