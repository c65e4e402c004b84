"""Data sets by name: a folder, an archive, a CSV, the fruits, leaf folders and the data sets of torchvision.

::

    "photos"                    a folder with one folder per class, or with such train, val and test folders in it
    "photos.zip"                the same, packed; .tar, .tar.gz, .tar.bz2 and .tar.xz too
    "photos.csv"                image paths and labels; .tsv too
    "fruits"                    the demo's photographs
    "leaves:omniglot"           every folder that directly holds images is a class, such as omniglot/Greek/character01
    "torchvision:Flowers102"    a class of torchvision.datasets
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from fewshot.errors import DatasetError
from fewshot.images.archive import ArchiveTree
from fewshot.images.dataset import ImageDataset
from fewshot.images.findings import Finding
from fewshot.images.folders import DiskTree, find_images
from fewshot.images.labels import Labels
from fewshot.images.layout import (
    Collected,
    Layout,
    beside_splits,
    collect_classes,
    collect_split,
    collect_training,
    understand,
)
from fewshot.images.reader import ImageLike
from fewshot.images.tables import TABLE_SUFFIXES
from fewshot.images.torchvision_sets import IndexedImage, data_folder, load_torchvision
from fewshot.images.tree import ARCHIVE_SUFFIXES, LeftOut, Tree, is_archive_name, loose_images
from fewshot.names import unknown_name

__all__ = [
    "DatasetSpec",
    "IndexedImage",
    "data_folder",
    "dataset_name",
    "load_dataset",
    "load_splits",
    "load_train_and_test",
    "load_training",
    "name_datasets",
]

DatasetSpec: TypeAlias = "ImageDataset | str | os.PathLike[str]"

_FORMS = ("fruits", "leaves:FOLDER", "torchvision:NAME")
_HINT = "A folder with one folder per class, an archive of it or a .csv file is given by its path."


def load_dataset(spec: DatasetSpec) -> ImageDataset:
    """Collect all images of a data set, those of its splits together.

    Args:
        spec: an :class:`ImageDataset`, which is returned as it is, or one of the forms in the module. A folder that is
            called like one of them is given as ``./fruits``.

    Raises:
        UnknownNameError: a name that is none of these.
        DatasetError: nothing to read there, or a download that failed, with what to do.
        MissingExtraError: ``"fruits"`` without the packages of the ``demo`` extra.
    """
    if isinstance(spec, ImageDataset):
        return spec
    kind, rest = _parse(spec)
    if kind == "leaves":
        return _from_leaves(Path(rest))
    if kind == "csv":
        return ImageDataset.from_csv(rest)
    if kind == "folder":
        tree = _tree(rest)
        layout = understand(tree)
        if layout.splits:
            return _join(_from_splits(tree, layout))
        return _with_hint(_dataset(collect_classes(tree, layout)), tree, layout)
    if kind == "fruits":
        return _join(_fruits(), once=True)
    return _join(load_torchvision(rest))


def load_splits(spec: DatasetSpec) -> dict[str, ImageDataset]:
    """Collect the images of a data set that comes with fixed splits.

    Args:
        spec: see :func:`load_dataset`.

    Returns:
        Those of ``"train"``, ``"val"`` and ``"test"`` that there are, two at least, under the names that the data set
        itself uses: a ``valid`` folder is ``"val"``, even where there is no ``test``.

    Raises:
        DatasetError: no fixed splits, or as :func:`load_dataset`.
        UnknownNameError: a name that is none of the known forms.
        MissingExtraError: ``"fruits"`` without the packages of the ``demo`` extra.
    """
    splits: dict[str, ImageDataset] = {}
    if not isinstance(spec, ImageDataset):
        kind, rest = _parse(spec)
        if kind == "folder":
            tree = _tree(rest)
            splits = _from_splits(tree, understand(tree))
        elif kind == "fruits":
            splits = _fruits()
        elif kind == "torchvision":
            splits = load_torchvision(rest)
    if len(splits) < 2:
        raise DatasetError(
            f"{dataset_name(spec)} has no fixed splits. Draw episodes from all of its images, or give a folder with "
            "train and test folders in it."
        )
    return splits


def load_training(path: DatasetSpec) -> ImageDataset:
    """Collect the images to train on: those of a folder, an archive or a table; of its train split where it has one.

    Unlike :func:`load_dataset`, this takes any string for a path.

    Raises:
        DatasetError: nothing to read there, or splits without one to train on.
    """
    if isinstance(path, ImageDataset):
        return path
    if _is_table(os.fspath(path)):
        return ImageDataset.from_csv(path)
    return _dataset(collect_training(_tree(os.fspath(path))))


def load_train_and_test(path: DatasetSpec) -> tuple[ImageDataset, ImageDataset | None]:
    """Collect the images to train on, and those to test on where there are splits; without test, val takes its place.

    Raises:
        DatasetError: as :func:`load_training`.
    """
    if isinstance(path, ImageDataset):
        return path, None
    if _is_table(os.fspath(path)):
        return ImageDataset.from_csv(path), None
    tree = _tree(os.fspath(path))
    layout = understand(tree)
    tested = next((split for split in ("test", "val") if split in layout.splits), None)
    train = _dataset(collect_training(tree, layout, tested))
    return train, None if tested is None else _dataset(collect_split(tree, layout, tested))


def dataset_name(spec: DatasetSpec) -> str:
    """Name a data set for tables: ``"Flowers102"``, ``"fruits"``, or the last part of the path."""
    if isinstance(spec, ImageDataset):
        return "images"
    prefix, colon, rest = os.fspath(spec).partition(":")
    if colon and prefix == "torchvision":
        return rest
    path = Path(os.path.abspath(rest if colon and prefix == "leaves" else spec))
    for suffix in (*TABLE_SUFFIXES, *ARCHIVE_SUFFIXES):
        if path.name.lower().endswith(suffix) and not path.is_dir():
            return path.name[: -len(suffix)] or path.name
    return path.name or str(path)


def name_datasets(specs: Sequence[DatasetSpec]) -> list[str]:
    """Name several data sets, all differently: by the last part of a path, and by as many as are needed.

    Example:
        >>> name_datasets(["a/pets", "b/pets", "fruits", "c/train"])
        ['a/pets', 'b/pets', 'fruits', 'c/train']
    """
    names = [dataset_name(spec) for spec in specs]
    parts = [_path_parts(spec) for spec in specs]
    for depth in range(2, 6):
        repeated = {name for name in names if names.count(name) > 1 or name in ("train", "test")}
        for i, path in enumerate(parts):
            # Longer names do not tell the same path from itself.
            if names[i] in repeated and len(path) >= depth and parts.count(path) == 1:
                names[i] = "/".join(path[-depth:])
    return [f"{name} {names[:i].count(name) + 1}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _path_parts(spec: DatasetSpec) -> tuple[str, ...]:
    """Parts of the path of a folder or CSV, without the root; empty for what is no path."""
    if isinstance(spec, ImageDataset):
        return ()
    text = os.fspath(spec)
    if text == "fruits" or text.startswith("torchvision:"):
        return ()
    return Path(os.path.abspath(text.removeprefix("leaves:"))).parts[1:]


def _parse(spec: str | os.PathLike[str]) -> tuple[str, str]:
    """Tell the form of a spec, and what follows its prefix."""
    text = os.fspath(spec)
    prefix, colon, rest = text.partition(":")
    if isinstance(spec, str):
        if text == "fruits":
            return "fruits", ""
        if colon and prefix in ("leaves", "torchvision"):
            if not rest:
                raise DatasetError(f"{text!r} says nothing after the colon; give {prefix}:NAME or {prefix}:FOLDER.")
            return prefix, rest
    if _is_table(text):
        return "csv", text
    if not os.path.exists(text):
        if not isinstance(spec, str):
            raise DatasetError(f"No such folder: {text}. Check the path.")
        # One letter before the colon is a drive.
        if (colon and len(prefix) > 1) or not any(mark in text for mark in ("/", "\\", ".", ":")):
            raise unknown_name("data set", text, _FORMS, f"No folder has that name either. {_HINT}")
        raise DatasetError(f"No such folder: {text}. Check the path; known names are {', '.join(_FORMS)}.")
    return "folder", text


def _from_leaves(folder: Path) -> ImageDataset:
    files, findings = find_images(folder)
    by_class: dict[str, list[str]] = {}
    loose: list[str] = []
    labels = Labels()
    for path in files:
        relative = Path(path).parent.relative_to(folder)
        if relative == Path():
            loose.append(path)
        else:
            by_class.setdefault(labels.of_file(relative.as_posix()), []).append(path)
    if not by_class:
        raise DatasetError(
            f"All {len(loose)} images lie in {folder} directly. Every folder below it that holds images is a class; "
            f"put them into such folders, for example {folder / 'cat' / '1.jpg'}."
        )
    names = sorted(by_class)
    return ImageDataset(
        tuple(path for name in names for path in by_class[name]),
        tuple(name for name in names for _ in by_class[name]),
        findings=(*findings, *([loose_images(loose)] if loose else []), *labels.findings()),
    )


def _tree(path: str) -> Tree:
    """Open a folder or an archive."""
    if is_archive_name(path) and os.path.isfile(path):
        return ArchiveTree(path)
    return DiskTree(path)


def _is_table(path: str) -> bool:
    return path.lower().endswith(TABLE_SUFFIXES) and not os.path.isdir(path)


def _dataset(found: Collected) -> ImageDataset:
    return ImageDataset(found.sources, found.labels, findings=found.findings)


def _with_hint(dataset: ImageDataset, tree: Tree, layout: Layout) -> ImageDataset:
    """Note where the classes hold nothing but folders: they may be one level too high."""
    # The classes are listed a second time, and whatever is left out has been noted the first time.
    listed = [tree.contents(folder, LeftOut()) for folder in layout.folders]
    if any(files for _, files in listed) or not any(folders for folders, _ in listed) or tree.unwraps:
        return dataset
    hint = f"The classes of {layout.folder.path} hold folders only; leaves:{layout.folder.path} takes each of these "
    return replace(dataset, findings=(*dataset.findings, Finding("NOTE", f"{hint}for a class.")))


def _from_splits(tree: Tree, layout: Layout) -> dict[str, ImageDataset]:
    """Collect each split; what lies beside them is found in the first."""
    found = {split: collect_split(tree, layout, split) for split in layout.splits}
    first = next(iter(found), None)
    beside = (*layout.findings, *layout.left.findings(), *beside_splits(layout)) if first else ()
    return {
        split: _dataset(replace(part, findings=(*beside, *part.findings) if split == first else part.findings))
        for split, part in found.items()
    }


def _fruits() -> dict[str, ImageDataset]:
    from fewshot.images.fruits import load_fruits

    return load_fruits()


def _join(splits: Mapping[str, ImageDataset], *, once: bool = False) -> ImageDataset:
    """Put the images of all splits together; with ``once``, those that are given as the same bytes only once."""
    if len(splits) == 1:
        return next(iter(splits.values()))
    sources = [source for split in splits.values() for source in split.sources]
    labels = [label for split in splits.values() for label in split.labels]
    names = [name for split in splits.values() for name in split.names]
    findings = [finding for split in splits.values() for finding in split.findings]
    kept = list(range(len(sources)))
    if once:
        first: dict[ImageLike, int] = {}
        kept = sorted({first.setdefault(source, position) for position, source in enumerate(sources)})
    findings.append(Finding("SPLITS", f"The splits {', '.join(splits)} are used together: {len(kept)} images."))
    joined = ImageDataset(tuple(sources), tuple(labels), image_names=tuple(names), findings=tuple(findings))
    return joined.subset(kept)
