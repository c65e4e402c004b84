"""A model folder as it lies on the disk: opened once, its files read without following links or waiting."""

from __future__ import annotations

import errno
import itertools
import os
import stat
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from fewshot.errors import ModelFileError
from fewshot.modelfile.replacing import STAGED
from fewshot.modelfile.schema import MAX_CONFIG_BYTES
from fewshot.modelfile.weights import FILE_NAME, MAX_BYTES

FILES = frozenset(("config.json", FILE_NAME, "README.md"))
_PICKLES = (".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".ckpt", ".dill")
# What comes along with a folder that is shared, versioned or mounted. None of it is opened.
_HARMLESS = frozenset(
    """.git .gitattributes .gitignore .cache LICENSE LICENSE.md LICENSE.txt
    .DS_Store Thumbs.db desktop.ini lost+found""".split()
)
_MAX_NAMES = 100


class NoModelError(ModelFileError):
    """There is no model folder at this place."""


class ModelFolder:
    """An open folder. What takes its place meanwhile does not mix with it.

    Raises:
        ModelFileError: there is no such folder.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._handle = -1
        if not self.path.is_dir():
            raise NoModelError(f"there is no such folder. {_HINT.format(self.path)}")
        # Where the system opens files relative to an open folder, a folder that is replaced stays readable.
        if os.open in os.supports_dir_fd:
            try:
                self._handle = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            except OSError as error:
                raise ModelFileError(f"it cannot be opened: {error.strerror}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._handle >= 0:
            os.close(self._handle)

    @property
    def replaced(self) -> bool:
        """Whether another folder has taken this one's place."""
        try:
            return self._handle >= 0 and not os.path.samestat(os.stat(self.path), os.fstat(self._handle))
        except OSError:
            return True

    def open(self, name: str) -> BinaryIO:
        """Open a regular file.

        Raises:
            ModelFileError: missing, or a link, folder, pipe or device.
        """
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        try:
            if self._handle >= 0:
                handle = os.open(name, flags, dir_fd=self._handle)
            else:
                handle = os.open(_no_link(self.path / name), flags)
        except FileNotFoundError:
            kind = NoModelError if name == "config.json" else ModelFileError
            raise kind(f"it has no {name}. {_HINT.format(self.path)}") from None
        except OSError as error:
            link = " (links are not followed)" if error.errno == errno.ELOOP else ""
            raise ModelFileError(f"{name} cannot be read: {error.strerror}{link}") from None
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            os.close(handle)
            raise ModelFileError(f"{name} is not a file but something else")
        return os.fdopen(handle, "rb")

    def read(self, name: str) -> bytes:
        """Read a file whole.

        Raises:
            ModelFileError: missing, not a file, or larger than any that is written.
        """
        limit = MAX_BYTES if name == FILE_NAME else MAX_CONFIG_BYTES
        with self.open(name) as file:
            try:
                data = file.read(limit + 1)
            except OSError as error:
                raise ModelFileError(f"{name} cannot be read: {error.strerror}") from None
        if len(data) > limit:
            raise ModelFileError(f"{name} is larger than {limit >> 20} MB, more than is ever written")
        return data

    def refuse_others(self) -> None:
        """Refuse a folder that holds anything but a model and what is known to come along with one.

        Only names are looked at: nothing else is opened, and no folder in it is entered.

        Raises:
            ModelFileError: with the names.
        """
        try:
            with os.scandir(self.path) as entries:
                names = [entry.name for entry in itertools.islice(entries, _MAX_NAMES + 1)]
        except OSError as error:
            raise ModelFileError(f"it cannot be listed: {error.strerror}") from None
        if len(names) > _MAX_NAMES:
            raise ModelFileError(f"it holds more than {_MAX_NAMES} files and is no model folder")
        others = sorted(name for name in names if name not in FILES | _HARMLESS and not name.startswith(STAGED))
        pickles = [name for name in others if name.lower().endswith(_PICKLES)]
        if pickles:
            raise ModelFileError(
                f"it holds {_some(pickles)}: a pickle can run code when it is read, so such a folder is refused. "
                "Remove it if you trust the rest."
            )
        if others:
            raise ModelFileError(
                f"it holds {_some(others)}, which is no part of a model. Move it elsewhere if you trust the rest."
            )


_HINT = "`fewshot fit PHOTOS -o {0}` or classifier.save makes a model folder."


def _no_link(path: Path) -> Path:
    if path.is_symlink():
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    return path


def _some(names: list[str]) -> str:
    return ", ".join(repr(name[:60]) for name in names[:5])
