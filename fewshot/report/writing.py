"""What all reports share: plain data for JSON, and files that are written."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np

from fewshot.files import write_file


def plain(value: Any) -> Any:
    """Turn dataclasses, named tuples and tuples into dictionaries and lists, floats rounded to nine digits."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return plain(value._asdict())
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, float):
        # JSON knows no infinity: the interval of a single draw has no ends.
        return round(value, 9) if np.isfinite(value) else None
    return value


def write_text(path: str | os.PathLike[str] | None, text: str) -> str:
    """Give back the text, or write it where a path is given, all of it or nothing, and give the path.

    Raises:
        OutputError: the file cannot be written.
    """
    if path is None:
        return text
    write_file(path, text)
    return os.fspath(path)
