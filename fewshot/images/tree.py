"""What a folder of images is made of, on a disk or in an archive: the common ground of walking and understanding."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from fewshot.errors import DatasetError
from fewshot.images.findings import Finding, Severity, shortened
from fewshot.images.formats import IMAGE_SUFFIXES, is_image
from fewshot.images.labels import show
from fewshot.images.paths import open_path
from fewshot.images.reader import ImageLike

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
# What systems, photo programs and network drives leave behind, in lower case; hidden files and folders besides.
_IGNORED = {
    *("thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "__macosx", "__pycache__", "@eadir", "#recycle", "@recycle"),
    *("$recycle.bin", "recycler", "lost+found", "system volume information"),
}
_LOOKED_INTO, _HEAD = 50, 64
_UNREAD = ("PERMISSION", "VANISHED", "NOT_A_FILE", "UNREADABLE")

# In the order in which findings are listed.
_WORDS: Mapping[str, tuple[str, Severity]] = {
    "PERMISSION": ("may not be read and {were} left out; check the permissions", "warning"),
    "VANISHED": ("{were} gone when {they} {were} to be read, or a link to nothing, and {were} left out", "warning"),
    "NOT_A_FILE": (
        "{are} no ordinary file{s} (a pipe, device, socket or loop of links) and {were} left out",
        "warning",
    ),
    "UNREADABLE": ("cannot be read and {were} left out", "warning"),
    "LINKS": ("{lead} to what is there already, or to a folder that holds {them}, and {were} not followed", "info"),
    "IGNORED": ("{were} ignored: hidden, or left there by a system", "info"),
}


@dataclass(frozen=True, slots=True)
class File:
    """A file as it is called in messages, and where it is read."""

    path: str
    source: ImageLike

    @property
    def is_image(self) -> bool:
        """Whether its name says that it is an image."""
        return os.path.splitext(self.path)[1].lower() in IMAGE_SUFFIXES


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder as it is called in messages, and its own name."""

    path: str
    name: str


class LeftOut:
    """What was left out, by code; every file and folder is named."""

    def __init__(self) -> None:
        self._paths: dict[str, list[str]] = {}

    def add(self, code: str, path: str) -> None:
        """Note one file or folder."""
        self._paths.setdefault(code, []).append(path)

    def update(self, other: LeftOut) -> None:
        """Take over what was noted elsewhere."""
        for code, paths in other._paths.items():
            self._paths.setdefault(code, []).extend(paths)

    def error(self, error: OSError | ValueError, path: str) -> None:
        """Note one that cannot be read, by what the system says."""
        if isinstance(error, PermissionError):
            self.add("PERMISSION", path)
        # Another kind of thing under the name that was listed: it was replaced meanwhile.
        elif isinstance(error, (FileNotFoundError, NotADirectoryError)):
            self.add("VANISHED", path)
        else:
            self.add("UNREADABLE", path)

    def paths(self, code: str) -> tuple[str, ...]:
        """Those noted under a code."""
        return tuple(self._paths.get(code, ()))

    def findings(self) -> list[Finding]:
        """One finding per code, with the names of all."""
        found = []
        for code, (words, severity) in _WORDS.items():
            if paths := sorted(self._paths.get(code, ())):
                many = len(paths) > 1
                forms = {"were": "were", "are": "are", "they": "they", "them": "them", "lead": "lead", "s": "s"}
                if not many:
                    forms = {"were": "was", "are": "is", "they": "it", "them": "it", "lead": "leads", "s": ""}
                subject = f"{len(paths)} files or folders" if many else show(paths[0])
                listed = f": {listing(paths)}" if many and code != "IGNORED" else ""
                found.append(Finding(code, f"{subject} {words.format_map(forms)}{listed}.", tuple(paths), severity))
        return found


def refuse_left_out(findings: Iterable[Finding]) -> None:
    """Stop where files or folders could not be read when a data set was collected: what ``strict`` means there.

    Raises:
        DatasetError: with the first such finding.
    """
    for finding in findings:
        if finding.code in _UNREAD:
            raise DatasetError(f"{finding.message} [{finding.code}]")


class Tree(Protocol):
    """A folder with all that is below it."""

    root: Folder
    unwraps: bool
    """Whether a single folder at the top is only a wrapping: archives are mostly made so."""

    def contents(self, folder: Folder, left: LeftOut) -> tuple[list[Folder], list[File]]:
        """List the folders and files directly in a folder, sorted."""
        ...

    def walk(self, folder: Folder, left: LeftOut) -> list[File]:
        """List the files anywhere below a folder, sorted, each real file once."""
        ...


def is_ignored(name: str) -> bool:
    """Whether a file or folder is none of the user's: hidden, or left there by a system."""
    return name.startswith(".") or name.lower() in _IGNORED


def is_archive_name(path: str) -> bool:
    """Whether a name ends like that of an archive that can be read."""
    return path.lower().endswith(ARCHIVE_SUFFIXES)


def join(folder: str, name: str) -> str:
    """Join paths as they are shown: nothing is put before what lies in the current folder."""
    return name if folder in ("", os.curdir) else os.path.join(folder, name)


def counted(number: int, noun: str) -> str:
    """Write a number with its noun: ``1 file``, ``2 files``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def skipped_files(files: Sequence[str], place: str) -> Finding:
    """Say which files of a place have no image suffix, and whether they are images nevertheless."""
    have = "has no image suffix and was" if len(files) == 1 else "have no image suffix and were"
    said = f"{counted(len(files), 'file')} in {show(place)} {have} left out: {listing(files)}."
    if images := holding_images(files):
        which = "" if len(images) == len(files) else f": {listing(images)}"
        begin = "It begins" if len(files) == 1 else f"{len(images)} of them begin"
        said += f" {begin} as images do{which}. Give them a suffix such as .jpg to use them."
    if any(map(is_archive_name, files)):
        said += " Archives in a data set are not opened."
    return Finding("SKIPPED_FILES", said, tuple(files), "warning")


def loose_images(images: Sequence[str]) -> Finding:
    """Say which images belong to no class."""
    were = "was" if len(images) == 1 else "were"
    said = f"{counted(len(images), 'image')} outside any class folder {were} left out: {listing(images)}."
    return Finding("LOOSE_IMAGES", said, tuple(images), "warning")


def listing(paths: Sequence[str]) -> str:
    """Name the first few, on one line, and say how many more there are."""
    return shortened([show(path) for path in paths])


def holding_images(paths: Sequence[str]) -> list[str]:
    """Tell which of the first few files begin as images do, whatever their names say."""
    found = []
    for path in paths[:_LOOKED_INTO]:
        try:
            with os.fdopen(open_path(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
                if is_image(file.read(_HEAD)):
                    found.append(path)
        # What cannot be read was left out anyway.
        except (OSError, ValueError):
            continue
    return found
