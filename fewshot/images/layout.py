"""Understanding a tree of folders: where the classes are, which folders are splits, and what belongs to neither.

::

    photos/cat/1.jpg                   classes
    photos/cat/2020/may/1.jpg          the same: what is below a class is of that class
    photos/train/cat/1.jpg             splits: train, val and test, by whatever name
    photos/photos/train/cat/1.jpg      the same in a wrapping folder
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from fewshot.errors import DatasetError
from fewshot.images.findings import Finding
from fewshot.images.labels import Labels, show
from fewshot.images.reader import ImageLike
from fewshot.images.tree import File, Folder, LeftOut, Tree, counted, join, listing, loose_images, skipped_files

SPLIT_NAMES: Mapping[str, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class Layout:
    """What the top of a tree was understood as.

    Attributes:
        folder: the one that holds the classes or the splits.
        folders: those in it.
        files: those in it.
        splits: the folders of two or three splits, in the order train, val, test; empty where there are none.
        findings: how it was understood.
        left: what was left out at the top; what is left out below may be added.
    """

    folder: Folder
    folders: tuple[Folder, ...]
    files: tuple[File, ...]
    splits: Mapping[str, Folder]
    findings: tuple[Finding, ...]
    left: LeftOut


@dataclass(frozen=True)
class Collected:
    """Images of one folder of classes: (n,) sources, (n,) labels, how they were understood and what was left out."""

    sources: tuple[ImageLike, ...]
    labels: tuple[str, ...]
    findings: tuple[Finding, ...]


def understand(tree: Tree) -> Layout:
    """Find the splits at the top of a tree, or in the single folder that wraps everything."""
    left = LeftOut()
    folder, findings = tree.root, []
    folders, files = tree.contents(folder, left)
    splits = _splits(folders)
    if not splits and len(folders) == 1 and not any(file.is_image for file in files):
        wrapped, below = folders[0], LeftOut()
        inner_folders, inner_files = tree.contents(wrapped, below)
        splits = _splits(inner_folders)
        if splits or (_only_wraps(tree, wrapped) and _holds_classes(inner_folders, inner_files)):
            said = f"{show(folder.path)} holds nothing but the folder {show(wrapped.name)}, which was looked into."
            findings = [Finding("WRAPPER", said), *_unsuffixed(folder, files)]
            folder, folders, files = wrapped, inner_folders, inner_files
            left.update(below)
    return Layout(folder, tuple(folders), tuple(files), splits, tuple(findings), left)


def collect_training(tree: Tree, layout: Layout | None = None, tested: str | None = None) -> Collected:
    """Collect the images of all classes, or, where there are splits, of those in the split to train on.

    Args:
        tree: the folder or archive.
        layout: what it was understood as, if that is known.
        tested: the split that is used for testing, to say so.

    Raises:
        DatasetError: no image in any class folder, a class that may not be read, or splits without one to train on.
    """
    layout = layout or understand(tree)
    if not layout.splits:
        return collect_classes(tree, layout)
    if "train" not in layout.splits:
        paths = " and ".join(show(folder.path) for folder in layout.splits.values())
        raise DatasetError(
            f"{show(layout.folder.path)} holds {paths}, but nothing called train or training. Give the folder to train "
            "on by its own path, or rename it."
        )
    train = collect_split(tree, layout, "train", layout.left)
    unused = tuple(folder.path for split, folder in layout.splits.items() if split not in ("train", tested))
    splits = Finding("SPLITS", _use_of_splits(layout, tested), unused)
    return replace(train, findings=(*layout.findings, splits, *beside_splits(layout), *train.findings))


def collect_classes(tree: Tree, layout: Layout) -> Collected:
    """Collect the images of all classes, where there are no splits.

    Raises:
        DatasetError: no image in any class folder, or a class that may not be read.
    """
    found = _collect(tree, layout.folder, layout.folders, layout.files, layout.left)
    return replace(found, findings=(*layout.findings, *found.findings))


def collect_split(tree: Tree, layout: Layout, split: str, left: LeftOut | None = None) -> Collected:
    """Collect the images of all classes in one split, noting in ``left`` what was left out.

    Raises:
        DatasetError: no image in any of its class folders, or a class that may not be read.
    """
    left = LeftOut() if left is None else left
    folder = layout.splits[split]
    folders, files = tree.contents(folder, left)
    return _collect(tree, folder, folders, files, left)


def beside_splits(layout: Layout) -> list[Finding]:
    """Note what lies beside the splits and belongs to none."""
    known = {folder.path for folder in layout.splits.values()}
    others = tuple(folder.path for folder in layout.folders if folder.path not in known)
    images = tuple(file.path for file in layout.files if file.is_image)
    findings = []
    if others:
        were = "was" if len(others) == 1 else "were"
        said = f"{counted(len(others), 'folder')} beside the splits {were} left out: {listing(others)}."
        findings.append(Finding("SKIPPED_FOLDERS", said, others, "warning"))
    if images:
        findings.append(loose_images(images))
    return [*findings, *_unsuffixed(layout.folder, layout.files)]


def _use_of_splits(layout: Layout, tested: str | None) -> str:
    names = {split: show(folder.name) for split, folder in layout.splits.items()}
    use = f"{names['train']} is used" if tested is None else f"trained on {names['train']}, tested on {names[tested]}"
    return f"{show(layout.folder.path)} holds the splits {', '.join(names.values())}: {use}."


def _splits(folders: list[Folder]) -> dict[str, Folder]:
    """Tell which folders are splits: at least two of train, val and test, or none."""
    found: dict[str, Folder] = {}
    for split, names in SPLIT_NAMES.items():
        for name in names:
            for folder in folders:
                if folder.name.lower() == name:
                    found.setdefault(split, folder)
    return found if len(found) > 1 else {}


def _only_wraps(tree: Tree, folder: Folder) -> bool:
    """Whether the single folder of a tree is its wrapping, not its only class."""
    return tree.unwraps or folder.name.lower() == tree.root.name.lower()


def _holds_classes(folders: Sequence[Folder], files: Sequence[File]) -> bool:
    """Whether a folder looks like one of classes; those of a class may lie in a folder, too, but seldom in several."""
    return len(folders) > 1 or (len(folders) == 1 and not any(file.is_image for file in files))


def _collect(tree: Tree, top: Folder, folders: Sequence[Folder], files: Sequence[File], left: LeftOut) -> Collected:
    """Collect the images of each folder in ``top``; ``left`` holds what was left out of ``top`` itself."""
    sources: list[ImageLike] = []
    labels: list[str] = []
    findings: list[Finding] = []
    names = Labels()
    for folder in folders:
        below = tree.walk(folder, left)
        images = [file for file in below if file.is_image]
        findings += _unsuffixed(folder, below)
        if not images:
            _refuse_closed(folder, left)
            said = f"{show(folder.name)} has no images and was dropped."
            findings.append(Finding("EMPTY_CLASS", said, (folder.path,), "warning"))
            continue
        sources += [file.source for file in images]
        labels += [names.of_file(folder.name)] * len(images)
    loose = tuple(file.path for file in files if file.is_image)
    findings = [*left.findings(), *findings, *([loose_images(loose)] if loose else []), *_unsuffixed(top, files)]
    if not sources:
        raise _no_images(top, loose, findings)
    return Collected(tuple(sources), tuple(labels), (*findings, *names.findings()))


def _refuse_closed(folder: Folder, left: LeftOut) -> None:
    """Stop where a whole class may not be read: it must not fall out of the training."""
    closed = [
        path for path in left.paths("PERMISSION") if path == folder.path or path.startswith(join(folder.path, ""))
    ]
    if closed:
        raise DatasetError(
            f"No image of {show(folder.name)!r} can be read: {listing(closed)} may not be read; check the permissions, "
            "or remove the folder. [PERMISSION]"
        )


def _unsuffixed(folder: Folder, files: Sequence[File]) -> list[Finding]:
    others = [file.path for file in files if not file.is_image]
    return [skipped_files(others, folder.name)] if others else []


def _no_images(folder: Folder, loose: tuple[str, ...], findings: list[Finding]) -> DatasetError:
    hint = f" {len(loose)} images lie in it directly, outside any class folder." if loose else ""
    reasons = [f.message for f in findings if f.code in ("PERMISSION", "VANISHED", "NOT_A_FILE", "UNREADABLE")]
    hint += "".join(f" {reason}" for reason in reasons)
    path = show(folder.path)
    return DatasetError(
        f"No images found in {path}.{hint} Put them into one folder per class, for example "
        f"{join(path, 'cat')}/1.jpg and {join(path, 'dog')}/1.jpg."
    )
