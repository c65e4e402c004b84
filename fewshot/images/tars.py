"""Members of tar archives, plain or compressed by gzip, bzip2 or xz, read from start to end in bounded memory.

The standard library parses the headers one by one; what lies between them is read here, since its own TarFile takes
a header of any length into memory, takes a broken header in the middle for the end, and follows links.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import tarfile
from collections.abc import Iterator
from typing import BinaryIO, Protocol

from fewshot.images.labels import show
from fewshot.images.members import BLOCK, Member, Meter

_RECORD = 512
_XZ_MEMORY = 512 * 2**20
_LONG_NAME, _LONG_LINK, _VOLUME = b"L", b"K", b"V"
_PAX, _PAX_GLOBAL = (b"x", b"X"), b"g"
_FILES, _FOLDER, _LINKS, _DEVICES, _SPARSE = (b"0", b"\0", b"7"), b"5", (b"1", b"2"), (b"3", b"4", b"6"), b"S"


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def tar_members(file: BinaryIO, meter: Meter) -> Iterator[Member]:
    """Give the members of a tar archive, each to be read before the next.

    Raises:
        ArchiveError: it is damaged, or holds what is refused.
    """
    with meter.reading("tar"):
        stream = _Stream(_decompressed(_Counted(file, meter)), meter)
    yield from _members(stream, meter)


class _Counted(io.RawIOBase):
    """A file that tells the meter how much of it was read."""

    def __init__(self, file: BinaryIO, meter: Meter) -> None:
        self._file = file
        self._meter = meter

    def read(self, size: int = -1) -> bytes:
        block = self._file.read(size)
        self._meter.consumed += len(block)
        return block

    def readable(self) -> bool:
        return True

    def peek(self) -> bytes:
        """Give the first bytes without reading them."""
        start = self._file.read(6)
        self._file.seek(0)
        return start


class _Xz:
    """Decompresses xz in bounded memory: its header may ask for gigabytes."""

    def __init__(self, file: _Counted) -> None:
        self._file = file
        self._decompressor = self._new()
        self._waiting = b""

    @staticmethod
    def _new() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

    def read(self, size: int, /) -> bytes:
        while True:
            if self._decompressor.eof:
                # Several streams may follow each other, with zeros between them.
                rest = self._decompressor.unused_data
                while not (rest := rest.lstrip(b"\0")):
                    if not (rest := self._file.read(BLOCK)):
                        return b""
                self._waiting, self._decompressor = rest, self._new()
            if self._decompressor.needs_input and not self._waiting:
                self._waiting = self._file.read(BLOCK)
                if not self._waiting:
                    raise EOFError
            given, self._waiting = self._waiting, b""
            if block := self._decompressor.decompress(given, size):
                return block


class _Stream:
    """What the archive holds, counted."""

    def __init__(self, file: _Readable, meter: Meter) -> None:
        self._file = file
        self._meter = meter

    def some(self, size: int) -> bytes:
        """Read up to ``size`` bytes; none only at the end."""
        with self._meter.reading("tar"):
            block = self._file.read(size)
        self._meter.add(len(block))
        return block

    def exactly(self, size: int) -> bytes:
        """Read ``size`` bytes, fewer only at the end."""
        blocks, missing = [], size
        while missing and (block := self.some(missing)):
            blocks.append(block)
            missing -= len(block)
        return b"".join(blocks)

    def blocks(self, size: int) -> Iterator[bytes]:
        """Read ``size`` bytes in blocks, and what fills the last record."""
        for missing, is_content in ((size, True), (-size % _RECORD, False)):
            while missing:
                block = self.some(min(missing, BLOCK))
                if not block:
                    raise self._meter.truncated()
                missing -= len(block)
                if is_content:
                    yield block


def _decompressed(file: _Counted) -> _Readable:
    start = file.peek()
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=file, mode="rb")
    if start.startswith(b"BZh"):
        return bz2.BZ2File(file)
    if start.startswith(b"\xfd7zXZ\0"):
        return _Xz(file)
    return file


def _members(stream: _Stream, meter: Meter) -> Iterator[Member]:
    pax: dict[str, str] = {}
    long_name, header_bytes, first = "", 0, True
    while (header := _header(stream, meter, first)) is not None:
        first = False
        if header.type in (_LONG_NAME, _LONG_LINK, *_PAX, _PAX_GLOBAL):
            # One member may have several of these.
            header_bytes += _RECORD + header.size
            if header_bytes > meter.limits.header_bytes:
                raise meter.refuse("TOO_LARGE", f"has a header of more than {meter.limits.header_bytes:,} bytes")
            content = b"".join(stream.blocks(header.size))
            if header.type == _LONG_NAME:
                long_name = content.rstrip(b"\0").decode("utf-8", "surrogateescape")
            elif header.type in _PAX:
                pax |= _pax_records(content, meter)
            continue
        name, size = pax.get("path") or long_name or header.name, header.size
        if "size" in pax:
            size = _number(pax["size"], meter)
        _check(header.type, name, pax, meter)
        long_name, pax, header_bytes = "", {}, 0
        if header.type == _FOLDER:
            yield Member(name, True, iter(()))
            continue
        blocks = stream.blocks(size)
        if header.type != _VOLUME:
            yield Member(name, False, blocks)
        for _ in blocks:  # what nobody wanted
            pass
    _check_end(stream, meter)


def _header(stream: _Stream, meter: Meter, first: bool) -> tarfile.TarInfo | None:
    """Read the next header; None at the mark of the end."""
    record = stream.exactly(_RECORD)
    if not record and not first:
        raise meter.truncated()
    try:
        header: tarfile.TarInfo = tarfile.TarInfo.frombuf(record, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        # Its class is not public, but the mark is: a record of zeros.
        if len(record) == _RECORD and not any(record):
            return None
        if not first and len(record) < _RECORD:
            raise meter.truncated() from None
        reason = "is no tar archive" if first else "has a broken header"
        raise meter.refuse("CORRUPT", f"{reason} ({error}); get it again") from None
    if header.size < 0:
        raise meter.refuse("CORRUPT", f"{show(header.name)} has {header.size} bytes; get it again")
    return header


def _check(kind: bytes, name: str, pax: dict[str, str], meter: Meter) -> None:
    shown = show(name)
    if kind in _LINKS:
        raise meter.refuse(
            "LINK", f"{shown} is a link, which an archive of images needs not; pack the files themselves (tar -h)"
        )
    if kind in _DEVICES:
        raise meter.refuse("DEVICE", f"{shown} is a device or pipe; pack files and folders only")
    if kind == _SPARSE or any(key.startswith("GNU.sparse") for key in pax):
        raise meter.refuse("SPARSE", f"{shown} is stored with holes; pack the folder again without --sparse")
    if kind not in (*_FILES, _FOLDER, _VOLUME):
        raise meter.refuse("UNSUPPORTED", f"{shown} is of kind {kind!r}; pack files and folders only")


def _pax_records(content: bytes, meter: Meter) -> dict[str, str]:
    """Parse records such as ``30 mtime=1234567890.1234567``: each begins with its own length."""
    records: dict[str, str] = {}
    while content.rstrip(b"\0"):
        digits, _, _ = content.partition(b" ")
        length = _number(digits.decode("ascii", "replace"), meter)
        key, equals, value = content[len(digits) + 1 : length].rstrip(b"\n").partition(b"=")
        if not equals or length > len(content):
            raise meter.refuse("CORRUPT", "has a broken header; get it again")
        records[key.decode("utf-8", "surrogateescape")] = value.decode("utf-8", "surrogateescape")
        content = content[length:]
    return records


def _number(text: str, meter: Meter) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise meter.refuse("CORRUPT", "has a broken number in a header; get it again")
    return int(text)


def _check_end(stream: _Stream, meter: Meter) -> None:
    """Read what follows the end, so that checksums are checked; only zeros may."""
    while block := stream.some(BLOCK):
        if block.strip(b"\0"):
            raise meter.refuse(
                "CORRUPT", "goes on after its end, as archives appended to each other do; pack the folder again"
            )
