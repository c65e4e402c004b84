"""Members of archives: what all kinds of archives have in common, and the limits that hold while one is read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fewshot.errors import ArchiveError, FewshotError
from fewshot.images.labels import show

BLOCK = 2**18
"""Bytes read and written at once: so much of a member is in memory."""

_DRIVE = re.compile(r"[A-Za-z]:([\\/]|$)")
_BY_HAND = "unpack it yourself, if you trust it, and give the folder"


@dataclass(frozen=True)
class Limits:
    """What an archive may hold at most.

    Attributes:
        members: files and folders.
        name_bytes: characters of all names together; those of one are at most 4,096.
        total_bytes: bytes unpacked.
        ratio: bytes unpacked for each byte of the archive, looked at from ``free_bytes`` unpacked on. Flate reaches
            1,032 for nothing but zeros; photos hardly shrink, and drawings as bitmaps about fiftyfold.
        free_bytes: see ``ratio``.
        header_bytes: of the header of one member.
    """

    members: int = 200_000
    name_bytes: int = 32 * 2**20
    total_bytes: int = 20 * 2**30
    ratio: int = 200
    free_bytes: int = 64 * 2**20
    header_bytes: int = 2**20


@dataclass(frozen=True)
class Member:
    """A file or folder in an archive: its name as it is written there, and its content in blocks, to be read once."""

    name: str
    is_folder: bool
    blocks: Iterator[bytes]


class Meter:
    """Counts what comes out of an archive against what went in, whatever its headers say.

    Attributes:
        archive: its path, for messages.
        limits: what is allowed.
        consumed: bytes of the archive read so far.
    """

    def __init__(self, archive: str, limits: Limits) -> None:
        self.archive = archive
        self.limits = limits
        self.consumed = 0
        self._produced = 0
        self._members = 0
        self._name_bytes = 0

    def refuse(self, code: str, reason: str) -> ArchiveError:
        """Build the error that refuses the archive."""
        return ArchiveError(code, self.archive, reason)

    def truncated(self) -> ArchiveError:
        """Build the error for an archive of which the end is missing."""
        return self.refuse("TRUNCATED", "ends before its last file does; get it again")

    @contextmanager
    def reading(self, kind: str) -> Iterator[None]:
        """Turn whatever reading a damaged archive raises into an error of ours.

        Libraries raise their own errors, those of compression (zlib.error, lzma.LZMAError), struct.error and more.

        Raises:
            ArchiveError: ``TRUNCATED`` or ``CORRUPT``.
        """
        try:
            yield
        except FewshotError:
            raise
        except EOFError:
            raise self.truncated() from None
        except Exception as error:
            reason = f"is no {kind} archive, or damaged ({error}); get it again"
            raise self.refuse("CORRUPT", reason) from error

    def count(self, name_bytes: int) -> None:
        """Count one file or folder.

        Raises:
            ArchiveError: ``TOO_MANY``.
        """
        self._members += 1
        self._name_bytes += name_bytes
        if self._members > self.limits.members or self._name_bytes > self.limits.name_bytes:
            raise self.refuse(
                "TOO_MANY",
                f"holds more than {self.limits.members:,} files and folders, or names of more than "
                f"{self.limits.name_bytes:,} characters; {_BY_HAND}",
            )

    def add(self, size: int) -> None:
        """Count bytes that were unpacked.

        Raises:
            ArchiveError: ``TOO_LARGE`` or ``RATIO``.
        """
        self._produced += size
        if self._produced > self.limits.total_bytes:
            raise self.refuse("TOO_LARGE", f"unpacks to more than {self.limits.total_bytes:,} bytes; {_BY_HAND}")
        if self._produced > self.limits.free_bytes and self._produced > self.limits.ratio * self.consumed:
            raise self.refuse(
                "RATIO",
                f"unpacks to over {self.limits.ratio} times its size, as archives made to fill disks do; {_BY_HAND}",
            )


def split_name(name: str, meter: Meter) -> tuple[str, ...]:
    """Split a member's name at its slashes.

    Raises:
        ArchiveError: ``UNSAFE_NAME`` for a path from the root, with a drive or with ``..``; ``TOO_LARGE`` for one that
            no system would take.
    """
    if len(name) > 4096:
        raise meter.refuse("TOO_LARGE", f"holds a name of {len(name):,} characters; {_BY_HAND}")
    slashed = name.replace("\\", "/")
    if slashed.startswith("/") or _DRIVE.match(name) or ".." in slashed.split("/") or "\0" in name:
        raise meter.refuse(
            "UNSAFE_NAME",
            f"holds {show(name)!r}, which leads out of the folder it would be unpacked to; pack the folder again",
        )
    return tuple(part for part in name.split("/") if part not in ("", "."))
