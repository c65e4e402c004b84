"""Archives as data sets: ``photos.zip`` and ``photos.tar.gz`` are understood as the folder that was packed.

An archive is a stranger's: whatever it says is checked while it is read, and it is read once, from start to end.
Images are copied into a private folder under numbers, never under the names in the archive, so that no name can lead
anywhere else. What an honest archive of photos never holds (names with ``..``, links, devices, passwords, members that
overlap, thousandfold compression) makes the whole archive be refused with an :class:`~fewshot.errors.ArchiveError`:

``UNSAFE_NAME`` · ``LINK`` · ``DEVICE`` · ``ENCRYPTED`` · ``SPARSE`` · ``OVERLAP`` · ``DUPLICATE_NAME`` · ``TOO_MANY`` ·
``TOO_LARGE`` · ``RATIO`` · ``UNSUPPORTED`` · ``TRUNCATED`` · ``CORRUPT``
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from dataclasses import dataclass, field
from pathlib import Path

from fewshot.errors import ArchiveError, DatasetError
from fewshot.files import cannot_write
from fewshot.images.labels import show
from fewshot.images.members import Limits, Member, Meter, split_name
from fewshot.images.tars import tar_members
from fewshot.images.tree import File, Folder, LeftOut, is_ignored
from fewshot.images.zips import zip_members

_ZIP_MARKS = (b"PK\x03\x04", b"PK\x05\x06")


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """An image of an archive, unpacked.

    Attributes:
        path: where it was unpacked to.
        name: how it is called: the archive's path and its own in it.
        keeper: what keeps the unpacked files; they are removed with the last image that holds it. Copies in other
            processes hold none.
    """

    path: str
    name: str
    keeper: object = field(default=None, repr=False, compare=False)

    def load(self) -> str:
        """Give the path of the unpacked file."""
        return self.path

    def __reduce__(self) -> tuple[type[ArchivedImage], tuple[str, str]]:
        return type(self), (self.path, self.name)


class ArchiveTree:
    """An archive, unpacked and to be understood as a folder.

    Raises:
        DatasetError: no such file, or it may not be read.
        ArchiveError: it is damaged, or holds what is refused; see the module.
        OutputError: the disk is full.
    """

    unwraps = True

    def __init__(self, path: str | os.PathLike[str], limits: Limits | None = None) -> None:
        name = str(Path(path))
        self.root = Folder(name, os.path.basename(os.path.abspath(path)).partition(".")[0])
        self._top = _Node()
        self._keeper = _Unpacked()
        meter = Meter(show(name), limits or Limits())
        try:
            self._unpack(name, meter)
        # An interrupted unpacking, too, leaves nothing behind.
        except BaseException:
            self._keeper.remove()
            raise

    def contents(self, folder: Folder, left: LeftOut) -> tuple[list[Folder], list[File]]:
        """List the folders and files directly in a folder, sorted."""
        node = self._find(folder)
        for name in (*node.folders, *node.files):
            if is_ignored(name):
                left.add("IGNORED", f"{folder.path}/{name}")
        folders = [Folder(f"{folder.path}/{name}", name) for name in sorted(node.folders) if not is_ignored(name)]
        return folders, [node.files[name] for name in sorted(node.files) if not is_ignored(name)]

    def walk(self, folder: Folder, left: LeftOut) -> list[File]:
        """List the files anywhere below a folder, sorted."""
        found: list[File] = []
        waiting = [folder]
        while waiting:
            folders, files = self.contents(waiting.pop(), left)
            waiting += folders
            found += files
        return sorted(found, key=lambda file: file.path)

    def _find(self, folder: Folder) -> _Node:
        node = self._top
        for part in filter(None, folder.path.removeprefix(self.root.path).split("/")):
            node = node.folders[part]
        return node

    def _unpack(self, path: str, meter: Meter) -> None:
        try:
            with open(path, "rb") as file:
                mark = file.read(4)
                file.seek(0)
                is_zip = mark in _ZIP_MARKS or (path.lower().endswith(".zip") and not mark.startswith(b"\x1f\x8b"))
                for member in zip_members(file, meter) if is_zip else tar_members(file, meter):
                    self._add(member, meter)
        except FileNotFoundError:
            raise DatasetError(f"No such file: {meter.archive}.") from None
        except OSError as error:
            raise DatasetError(f"{meter.archive} cannot be read: {error.strerror or error}.") from None

    def _add(self, member: Member, meter: Meter) -> None:
        """Place a member in the tree, and unpack it if it is an image."""
        parts = split_name(member.name, meter)
        if not parts:  # the folder that was packed, as "./"
            return
        *above, last = parts
        node = self._top
        for part in (*above, last) if member.is_folder else above:
            if part in node.files:
                raise meter.refuse("DUPLICATE_NAME", f"{show(member.name)} lies in what is also a file")
            if part not in node.folders:
                meter.count(len(part))
                node.folders[part] = _Node()
            node = node.folders[part]
        if member.is_folder:
            return
        if last in node.files or last in node.folders:
            raise meter.refuse("DUPLICATE_NAME", f"{show(member.name)} is there more than once")
        meter.count(len(last))
        name = "/".join((self.root.path, *parts))
        file = File(name, name)
        if file.is_image and not any(map(is_ignored, parts)):
            unpacked = self._keeper.write(os.path.splitext(last)[1].lower(), member)
            file = File(name, ArchivedImage(unpacked, name, self._keeper))
        node.files[last] = file


class _Node:
    """A folder of an archive."""

    __slots__ = ("files", "folders")

    def __init__(self) -> None:
        self.folders: dict[str, _Node] = {}
        self.files: dict[str, File] = {}


class _Unpacked:
    """A private folder of unpacked files, removed when nobody needs it any more, or at exit."""

    def __init__(self) -> None:
        try:
            self._folder = tempfile.mkdtemp(prefix="fewshot-")  # for this user only
        except OSError as error:
            raise cannot_write(tempfile.gettempdir(), error) from error
        self._count = 0
        # A fork has this object, too, and must not remove what its parent still needs.
        self.remove = weakref.finalize(self, _remove, self._folder, os.getpid())

    def write(self, suffix: str, member: Member) -> str:
        """Write a member under the next number; the suffix is one of those known for images."""
        self._count += 1
        # Folders of a thousand: some file systems are slow with more.
        folder = os.path.join(self._folder, str(self._count // 1000))
        path = os.path.join(folder, f"{self._count}{suffix}")
        with _Output(path, folder) as output:
            for block in member.blocks:
                output.write(block)
        return path


class _Output:
    """A new file, whose errors are told apart from those of the archive that is being read."""

    def __init__(self, path: str, folder: str) -> None:
        self._path = path
        try:
            os.makedirs(folder, exist_ok=True)
            self._file = open(path, "xb")  # noqa: SIM115 - closed by this object's own exit
        except OSError as error:
            raise cannot_write(path, error) from error

    def write(self, block: bytes) -> None:
        try:
            self._file.write(block)
        except OSError as error:
            raise cannot_write(self._path, error) from error

    def __enter__(self) -> _Output:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._file.close()
        except OSError as error:
            raise cannot_write(self._path, error) from error


def _remove(folder: str, owner: int) -> None:
    if os.getpid() == owner:
        shutil.rmtree(folder, ignore_errors=True)


__all__ = ["ArchiveError", "ArchiveTree", "ArchivedImage", "Limits"]
