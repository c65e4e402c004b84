"""Where features are stored, and how much of them: environment, a settings file beside the store, defaults."""

from __future__ import annotations

import json
import os
import re
import sys
import warnings
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from fewshot.errors import InvalidInputError
from fewshot.files import show_size, write_file

SCHEMA_VERSION = 2
DEFAULT_LIMIT = 2 << 30
"""Bytes."""

_SETTINGS = "fewshot-cache.json"
_UNITS = {"b": 1} | {
    f"{letter}{ending}": base**power
    for power, letter in enumerate("kmgt", 1)
    for ending, base in (("b", 1000), ("ib", 1024))
}
_SIZE = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*([a-z]*)", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Place:
    """Where the store is.

    Attributes:
        path: the SQLite file.
        origin: what decided it: ``"FEWSHOT_CACHE"``, ``"XDG_CACHE_HOME"``, ``"default"`` or ``"argument"``.
    """

    path: Path
    origin: str


@dataclass(frozen=True)
class Limit:
    """How large the store may become.

    Attributes:
        size: in bytes; 0 keeps nothing.
        origin: ``"argument"``, ``"FEWSHOT_CACHE_LIMIT"``, ``"setting"`` (of ``fewshot cache limit``) or ``"default"``.
    """

    size: int
    origin: str


def default_place() -> Place:
    """Find the store: in ``FEWSHOT_CACHE``, else in the user's cache folder (``XDG_CACHE_HOME`` on Linux).

    Where no home folder is known, the path starts with ``~`` and cannot be written.
    """
    name = f"features-{SCHEMA_VERSION}.sqlite"
    chosen = os.environ.get("FEWSHOT_CACHE")
    if chosen:
        return Place(_absolute(chosen) / name, "FEWSHOT_CACHE")
    xdg = os.environ.get("XDG_CACHE_HOME", "").strip()
    # The XDG rules: a relative path is no path.
    if xdg and os.path.isabs(xdg) and sys.platform != "win32":
        return Place(Path(xdg) / "fewshot" / name, "XDG_CACHE_HOME")
    if sys.platform.startswith("linux"):
        return Place(_absolute("~/.cache/fewshot") / name, "default")
    from platformdirs import user_cache_path

    return Place(user_cache_path("fewshot", appauthor=False) / name, "default")


def default_store_path() -> Path:
    """Where features are kept: ``FEWSHOT_CACHE``, else the user's cache folder (``XDG_CACHE_HOME`` on Linux)."""
    return default_place().path


def find_limit(path: Path) -> Limit:
    """Find the limit of the store at ``path``: ``FEWSHOT_CACHE_LIMIT``, else the setting beside it, else 2 GiB.

    Raises:
        InvalidInputError: ``FEWSHOT_CACHE_LIMIT`` is no size.
    """
    text = os.environ.get("FEWSHOT_CACHE_LIMIT")
    if text:
        return Limit(parse_size(text, "FEWSHOT_CACHE_LIMIT"), "FEWSHOT_CACHE_LIMIT")
    try:
        settings = path.with_name(_SETTINGS)
        content = settings.read_bytes()
    except (OSError, ValueError):
        # No setting, or no path at all, as whoever writes there will hear.
        return Limit(DEFAULT_LIMIT, "default")
    try:
        size = json.loads(content)["limit_bytes"]
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise ValueError(f"limit_bytes is {size!r}")
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        warnings.warn(
            f"{settings} is damaged ({type(error).__name__}: {error}); the feature store keeps to its default of "
            f"{show_size(DEFAULT_LIMIT)}. `fewshot cache limit SIZE` writes it anew.",
            RuntimeWarning,
            stacklevel=4,
        )
        return Limit(DEFAULT_LIMIT, "default")
    return Limit(size, "setting")


def keep_limit(path: Path, size: int) -> None:
    """Keep a limit in bytes for every later use of the store at ``path``.

    Raises:
        OutputError: the settings file beside the store cannot be written.
    """
    write_file(path.with_name(_SETTINGS), json.dumps({"limit_bytes": size}) + "\n")


def parse_size(text: str, name: str = "size") -> int:
    """Read a size such as ``"5GB"``, ``"500 MiB"``, ``"1.5 TB"`` or ``"0"`` into bytes.

    kB, MB, GB and TB are powers of 1000, KiB, MiB, GiB and TiB powers of 1024. A bare number is bytes; a bare small
    one is refused, because "5" is seldom meant so.

    Raises:
        InvalidInputError: anything else.
    """
    match = _SIZE.fullmatch(text.strip())
    unit = match[2].lower() if match else ""
    if match is None or (unit and unit not in _UNITS):
        raise InvalidInputError(f"{name}={text!r} is no size; give a number and a unit, such as 5GB, 500MiB or 0.")
    number = Fraction(match[1])
    if not unit and 0 < number < 1 << 20:
        raise InvalidInputError(f"{name}={text!r} has no unit; give one, such as {text.strip()}GB or {text.strip()}MB.")
    return int(number * _UNITS.get(unit, 1))


def _absolute(folder: str) -> Path:
    try:
        path = Path(folder).expanduser()
    except RuntimeError:
        # Neither HOME nor the user's entry says where home is.
        return Path(folder)
    return path if folder.startswith("~") else Path(os.path.abspath(path))
