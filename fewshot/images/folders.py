"""Walking folders on a disk: links, loops, what may not be read, and what changes meanwhile.

Links are followed, for the folder is the user's own. Within a class each real file counts once, and a link to a folder
that is being walked already, or that holds the class, leads nowhere. Hard links are files of their own: the audit
finds that they are the same picture. Nothing is opened but folders, so a pipe called ``1.jpg`` blocks nobody.
"""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

from fewshot.errors import DatasetError
from fewshot.images.findings import Finding
from fewshot.images.labels import show
from fewshot.images.paths import scan_path, stat_path
from fewshot.images.tree import File, Folder, LeftOut, is_archive_name, is_ignored, join, skipped_files


class DiskTree:
    """A folder on a disk.

    Raises:
        DatasetError: no such folder, or it may not be read.
    """

    unwraps = False

    def __init__(self, root: str | os.PathLike[str]) -> None:
        # Not os.path.normpath, which takes link/.. for nothing.
        self.root = Folder(str(Path(root)), os.path.basename(os.path.abspath(root)))
        _require_folder(self.root.path)

    def contents(self, folder: Folder, left: LeftOut) -> tuple[list[Folder], list[File]]:
        """List the folders and files directly in a folder, sorted; links to folders that hold it lead nowhere."""
        folders, files, links = _scan(folder.path, left)
        around: set[object] | None = None
        for path in links:
            found = _behind(path, left)
            if found is None:
                continue
            if not stat.S_ISDIR(found.st_mode):
                files.append(path)
                continue
            around = _around(folder.path) if around is None else around
            if _identity(found, path) in around:
                left.add("LINKS", path)
            else:
                folders.append(path)
        return (
            [Folder(path, os.path.basename(path)) for path in sorted(folders)],
            [File(path, path) for path in sorted(files)],
        )

    def walk(self, folder: Folder, left: LeftOut) -> list[File]:
        """List the files anywhere below a folder, sorted, each real file once."""
        seen = _around(folder.path, itself=False)
        files: list[str] = []
        links: list[str] = []
        _walk(folder.path, seen, files, links, left)
        # Real folders come first, so that what is listed does not depend on the names of links.
        linked: list[tuple[str, os.stat_result]] = []
        while links:
            waiting, links = sorted(links), []
            for path in waiting:
                found = _behind(path, left)
                if found is None:
                    continue
                if stat.S_ISDIR(found.st_mode):
                    _walk(path, seen, files, links, left)
                else:
                    linked.append((path, found))
        return [File(path, path) for path in sorted(files + _once(files, linked, left))]


def find_images(root: str | os.PathLike[str]) -> tuple[list[str], list[Finding]]:
    """List the image files anywhere below a folder, sorted, whatever their folders mean, and say what was left out.

    Raises:
        DatasetError: no such folder, or no image in it.
    """
    tree, left = DiskTree(root), LeftOut()
    files = tree.walk(tree.root, left)
    findings = left.findings()
    if others := tuple(file.path for file in files if not file.is_image):
        findings.append(skipped_files(others, tree.root.path))
    images = [file.path for file in files if file.is_image]
    if not images:
        hints = "".join(f" {finding.message}" for finding in findings if finding.severity != "info")
        raise DatasetError(f"No images found in {show(tree.root.path)}.{hints}")
    return images, findings


def list_images(root: str | os.PathLike[str]) -> list[str]:
    """List the image files anywhere below a folder, sorted, whatever their folders mean.

    Raises:
        DatasetError: no such folder, or no image in it.
    """
    return find_images(root)[0]


def _require_folder(path: str) -> None:
    try:
        found = stat_path(path)
    except PermissionError:
        raise DatasetError(f"{path} may not be read; check the permissions. [PERMISSION]") from None
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno == errno.ELOOP:
            raise DatasetError(f"{path} is a loop of links; give a folder.") from None
        raise DatasetError(f"No such folder: {path}.") from None
    if not stat.S_ISDIR(found.st_mode):
        if is_archive_name(path):
            raise DatasetError(f"{path} is a file. Archives are read by fewshot.images.sources.load_dataset.")
        raise DatasetError(f"{path} is a file; give the folder that holds one folder per class.")


def _scan(path: str, left: LeftOut) -> tuple[list[str], list[str], list[str]]:
    """List (folders, files, links) in a folder, in no order; everything else is noted."""
    folders: list[str] = []
    files: list[str] = []
    links: list[str] = []
    try:
        with scan_path(path) as entries:
            for entry in entries:
                below = join(path, entry.name)
                try:
                    if is_ignored(entry.name):
                        left.add("IGNORED", below)
                    elif entry.is_symlink():
                        links.append(below)
                    elif entry.is_dir(follow_symlinks=False):
                        folders.append(below)
                    elif entry.is_file(follow_symlinks=False):
                        files.append(below)
                    else:
                        left.add("NOT_A_FILE", below)
                # Where the listing does not say what a thing is, asking may fail for that one.
                except OSError as error:
                    left.error(error, below)
    # What was listed before the error is kept; the rest is what the finding is about.
    except OSError as error:
        left.error(error, path)
    return folders, files, links


def _walk(top: str, seen: set[object], files: list[str], links: list[str], left: LeftOut) -> None:
    """Collect files and links below a folder, entering no folder that was ``seen``."""
    waiting = [top]
    while waiting:
        path = waiting.pop()
        try:
            identity = _identity(stat_path(path), path)
        except (OSError, ValueError) as error:
            left.error(error, path)
            continue
        if identity in seen:
            left.add("LINKS", path)
            continue
        seen.add(identity)
        folders, found, linked = _scan(path, left)
        waiting += folders
        files += found
        links += linked


def _behind(link: str, left: LeftOut) -> os.stat_result | None:
    """Look at what a link leads to; None, and a note, where that is neither a file nor a folder."""
    try:
        found = stat_path(link)
    except OSError as error:
        if error.errno == errno.ELOOP:
            left.add("NOT_A_FILE", link)
        else:
            left.error(error, link)
        return None
    if not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
        left.add("NOT_A_FILE", link)
        return None
    return found


def _once(files: list[str], linked: list[tuple[str, os.stat_result]], left: LeftOut) -> list[str]:
    """Keep the links to files that are not there already."""
    if not linked:
        return []
    there: set[object] = set()
    for path in files:
        try:
            there.add(_identity(stat_path(path), path))
        # It is listed all the same; that it is gone is said where it is read.
        except (OSError, ValueError):
            continue
    kept = []
    for path, found in linked:
        identity = _identity(found, path)
        if identity in there:
            left.add("LINKS", path)
        else:
            there.add(identity)
            kept.append(path)
    return kept


def _around(path: str, *, itself: bool = True) -> set[object]:
    """Identities of the folders that hold a folder, and its own."""
    found: set[object] = set()
    real = os.path.realpath(path)
    while True:
        try:
            if itself:
                found.add(_identity(stat_path(real), real))
        # A folder above may be closed to us; then no link can lead there either.
        except (OSError, ValueError):
            pass
        itself = True
        above = os.path.dirname(real)
        if above == real:
            return found
        real = above


def _identity(found: os.stat_result, path: str) -> object:
    """What a file or folder is the same by, however it is called; some network drives number nothing."""
    return (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(path)
