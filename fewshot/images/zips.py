"""Members of ZIP archives, read with the standard library's zipfile and checked where that is trusting."""

from __future__ import annotations

import io
import stat
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from typing import BinaryIO

from fewshot.images.labels import show
from fewshot.images.members import BLOCK, Member, Meter

_ENCRYPTED = 0x1 | 0x40 | 0x2000
_UTF8 = 0x800
_LOCAL_HEADER = 30
# Others would be decompressed without a limit on their memory.
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def zip_members(file: BinaryIO, meter: Meter) -> Iterator[Member]:
    """Give the members of a ZIP archive, each to be read before the next.

    Raises:
        ArchiveError: it is damaged, or holds what is refused.
    """
    with meter.reading("ZIP"), zipfile.ZipFile(_Bounded(file, meter)) as archive:
        infos = archive.infolist()
        # At once, before anything is unpacked.
        if len(infos) > meter.limits.members:
            raise meter.refuse("TOO_MANY", f"holds {len(infos):,} files and folders")
        for info in infos:
            _check(info, meter)
        _check_overlap(infos, archive.start_dir, meter)
        for info in infos:
            yield Member(_name(info), info.is_dir() or info.filename.endswith("\\"), _blocks(archive, info, meter))


class _Bounded(io.RawIOBase):
    """A file of which no more is read at once than the names in an archive may need."""

    def __init__(self, file: BinaryIO, meter: Meter) -> None:
        self._file = file
        self._meter = meter

    def read(self, size: int = -1) -> bytes:
        limits = self._meter.limits
        # The list of members is read at once: for each its name, and up to 100 bytes besides.
        if size > limits.name_bytes + 100 * limits.members:
            raise self._meter.refuse("TOO_MANY", f"says that its list of members takes {size:,} bytes")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def seekable(self) -> bool:
        return True


def _check(info: zipfile.ZipInfo, meter: Meter) -> None:
    mode = info.external_attr >> 16
    name = show(info.filename)
    if info.flag_bits & _ENCRYPTED:
        raise meter.refuse("ENCRYPTED", f"{name} is protected by a password; unpack it and give the folder")
    if stat.S_ISLNK(mode):
        raise meter.refuse("LINK", f"{name} is a link, which an archive of images needs not; pack the files themselves")
    if stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise meter.refuse("DEVICE", f"{name} is a device, pipe or socket; pack files and folders only")
    if info.compress_type not in _METHODS:
        raise meter.refuse(
            "UNSUPPORTED", f"{name} is compressed by method {info.compress_type}; pack it as usual, or give the folder"
        )


def _check_overlap(infos: list[zipfile.ZipInfo], end: int, meter: Meter) -> None:
    """Refuse members that share bytes: a small archive can hold the same content thousands of times so."""
    ordered = sorted(infos, key=lambda info: info.header_offset)
    following = end
    for info in reversed(ordered):
        if info.header_offset + _LOCAL_HEADER + info.compress_size > following:
            raise meter.refuse("OVERLAP", f"{show(info.filename)} overlaps what comes after it; pack the folder again")
        following = info.header_offset


def _name(info: zipfile.ZipInfo) -> str:
    """Read a name as it was meant: macOS writes UTF-8 without saying so, and some programs separate by backslashes."""
    name = info.filename
    if not info.flag_bits & _UTF8:
        # Where it is no UTF-8, it is what the format says, or the makers' own code page, which nothing tells.
        with suppress(UnicodeError):
            name = name.encode("cp437").decode("utf-8")
    return name.replace("\\", "/")


def _blocks(archive: zipfile.ZipFile, info: zipfile.ZipInfo, meter: Meter) -> Iterator[bytes]:
    meter.consumed += info.compress_size
    length = 0
    # Blocks are read by whoever uses them, outside of what goes through the members.
    with meter.reading("ZIP"), archive.open(info) as content:
        while block := content.read(BLOCK):
            length += len(block)
            meter.add(len(block))
            yield block
    if length != info.file_size:
        raise meter.refuse(
            "CORRUPT", f"{show(info.filename)} has {length} bytes, but says {info.file_size}; get it again"
        )
