"""ImageDataset: labelled images from a folder, a CSV, a list of paths or arrays, and how they were understood."""

from __future__ import annotations

import operator
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import DatasetError, InvalidInputError
from fewshot.images.findings import Finding, messages
from fewshot.images.folders import DiskTree, list_images
from fewshot.images.formats import IMAGE_SUFFIXES
from fewshot.images.labels import Labels, as_labels, is_missing, normalise_label
from fewshot.images.layout import collect_training, understand
from fewshot.images.reader import ImageLike, read_image, source_name
from fewshot.images.tables import read_table

# What other modules know from here, wherever it is written.
__all__ = [
    "IMAGE_SUFFIXES",
    "ImageDataset",
    "as_labels",
    "as_sources",
    "find_splits",
    "is_missing",
    "list_images",
    "normalise_label",
]


# Compared by identity: arrays have no single truth value to compare by.
@dataclass(frozen=True, eq=False, repr=False)
class ImageDataset:
    """Images with labels: a sequence of (image, label) pairs, and a map-style PyTorch data set.

    ``dataset[i]`` reads image ``i`` and returns ``(image, label)``, where ``label`` is the position of its class
    in ``class_names`` and ``image`` is a PIL image, or whatever ``transform`` makes of it.

    Attributes:
        sources: where the images are: paths, bytes, PIL images or uint8 arrays.
        labels: (n,) class name of each image.
        class_names: the distinct labels, sorted; the order of probabilities everywhere.
        image_names: how to name the images in messages and reports, where their sources do not say it.
        transform: applied to the PIL image by indexing, as in torchvision; nothing else uses it.
        findings: what was understood and what was left out when the images were collected.
    """

    sources: tuple[ImageLike, ...]
    labels: tuple[str, ...]
    class_names: tuple[str, ...] = ()
    image_names: tuple[str, ...] | None = None
    transform: Callable[[Any], Any] | None = None
    findings: tuple[Finding, ...] = ()

    def __post_init__(self) -> None:
        if len(self.sources) != len(self.labels):
            raise InvalidInputError(
                f"Got {len(self.sources)} images and {len(self.labels)} labels; give one label for each image."
            )
        # Always sorted: heads order their probabilities so.
        object.__setattr__(self, "class_names", tuple(sorted(set(self.class_names or self.labels))))
        strangers = sorted(set(self.labels) - set(self.class_names))
        if strangers:
            raise InvalidInputError(f"Labels {strangers} are not among class_names {list(self.class_names)}.")

    @classmethod
    def from_folder(
        cls, root: str | os.PathLike[str], *, transform: Callable[[Any], Any] | None = None
    ) -> ImageDataset:
        """Collect ``root/<class>/**/<image>``; where ``root`` holds ``train`` and ``test`` folders, take ``train``.

        Hidden files, ``Thumbs.db`` and ``__MACOSX`` are no classes and no images; symbolic links are followed, each
        real file of a class once. Files are listed here, not decoded: an unreadable one is reported where images are
        used. Every file is either a source or named in a finding, by itself or by a folder that holds it.

        Raises:
            DatasetError: no such folder, no image in any class folder, a class that may not be read, or splits without
                one to train on.
        """
        found = collect_training(DiskTree(root))
        return cls(found.sources, found.labels, transform=transform, findings=found.findings)

    @classmethod
    def from_csv(
        cls,
        path: str | os.PathLike[str],
        *,
        image_column: str = "image",
        label_column: str = "label",
        root: str | os.PathLike[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
    ) -> ImageDataset:
        """Read image paths and labels from a CSV with a header row; relative paths start at ``root``.

        Columns may be separated by commas, semicolons, tabs or vertical bars. Up to 5 % of missing images are left out
        with a finding that gives their rows.

        Args:
            path: the CSV: UTF-8 with or without a byte-order mark, or UTF-16 or UTF-32 with one.
            image_column: the column with image paths.
            label_column: the column with labels.
            root: where relative paths start; the CSV's own folder if not given.
            transform: see the class.

        Raises:
            DatasetError: no such file or no CSV, a missing column, an empty cell or a broken row, and more than 5 % of
                the images or all of a class missing, with row numbers.
        """
        found = read_table(path, image_column=image_column, label_column=label_column, root=root)
        return cls(found.sources, found.labels, transform=transform, findings=found.findings)

    @classmethod
    def from_paths(
        cls,
        paths: Iterable[ImageLike],
        labels: Iterable[object] | None = None,
        *,
        transform: Callable[[Any], Any] | None = None,
    ) -> ImageDataset:
        """Take images and labels as they are; without labels each image is a class of its own, named by its file.

        Raises:
            DatasetError: no images.
            InvalidInputError: the numbers of images and labels differ, or a label is missing (None, NaN or empty).
        """
        sources = as_sources(paths)
        if not sources:
            raise DatasetError("Got no images; give at least one path.")
        if labels is None:
            return cls(sources, _one_class_each(sources), transform=transform)
        written, known = tuple(labels), Labels()
        names = tuple("" if is_missing(label) else known.normalise(label) for label in written)
        missing = [i for i, name in enumerate(names) if not name]
        if missing:
            raise InvalidInputError(f"{len(missing)} of {len(written)} labels are missing, the first at {missing[0]}.")
        return cls(sources, names, transform=transform, findings=known.findings())

    @classmethod
    def from_arrays(
        cls,
        images: Iterable[NDArray[np.uint8]],
        labels: Iterable[object],
        *,
        transform: Callable[[Any], Any] | None = None,
    ) -> ImageDataset:
        """Take uint8 arrays (H, W, 3), as a list or one array (n, H, W, 3), with a label for each."""
        return cls.from_paths(images, labels, transform=transform)

    def __len__(self) -> int:
        return len(self.sources)

    def __repr__(self) -> str:
        return f"<ImageDataset of {len(self)} images: {self.counts()}>"

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        index = operator.index(index)
        image: Any = Image.fromarray(read_image(self.sources[index]))
        if self.transform is not None:
            image = self.transform(image)
        return image, self.class_names.index(self.labels[index])

    @property
    def targets(self) -> NDArray[np.int64]:
        """(n,) position of each image's class in ``class_names``."""
        position = {name: index for index, name in enumerate(self.class_names)}
        return np.array([position[label] for label in self.labels], dtype=np.int64)

    @property
    def names(self) -> tuple[str, ...]:
        """(n,) a printable name of each image: its path, or a description."""
        if self.image_names is not None:
            return self.image_names
        return tuple(source_name(source) for source in self.sources)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was understood and what was left out, one sentence each."""
        return messages(self.findings)

    def counts(self) -> dict[str, int]:
        """Count images per class, in the order of ``class_names``."""
        counter = Counter(self.labels)
        return {name: counter[name] for name in self.class_names}

    def subset(self, indices: Sequence[int] | NDArray[np.intp]) -> ImageDataset:
        """Keep the images at ``indices``, in that order; the class names stay."""
        return replace(
            self,
            sources=tuple(self.sources[int(i)] for i in indices),
            labels=tuple(self.labels[int(i)] for i in indices),
            image_names=None if self.image_names is None else tuple(self.image_names[int(i)] for i in indices),
        )


def as_sources(images: Iterable[ImageLike] | ImageDataset) -> tuple[ImageLike, ...]:
    """List the images (of a data set, too), refusing the single path or image that was meant to be in a list."""
    from PIL import Image

    if isinstance(images, ImageDataset):
        return images.sources
    if isinstance(images, (str, bytes, os.PathLike, Image.Image)) or (
        isinstance(images, np.ndarray) and images.ndim <= 3 and images.dtype == np.uint8
    ):
        raise InvalidInputError(f"Got one image ({source_name(images)}); give a list of images: [image].")
    return tuple(images)


def find_splits(root: str | os.PathLike[str]) -> dict[str, Path]:
    """Find the folders to train and to test on at the top of ``root``: both, or an empty dictionary.

    Where there is no ``test``, ``val`` takes its place.

    Raises:
        DatasetError: no such folder.
    """
    splits = understand(DiskTree(root)).splits
    test = splits.get("test") or splits.get("val")
    if "train" not in splits or test is None:
        return {}
    return {"train": Path(splits["train"].path), "test": Path(test.path)}


def _one_class_each(sources: Sequence[ImageLike]) -> tuple[str, ...]:
    labels = Labels()
    stems = [
        labels.of_file(Path(source).stem) if isinstance(source, (str, os.PathLike)) else f"image-{position}"
        for position, source in enumerate(sources)
    ]
    repeated = {stem for stem, count in Counter(stems).items() if count > 1}
    names = tuple(f"{stem}-{position}" if stem in repeated else stem for position, stem in enumerate(stems))
    # A file may itself be called like a numbered one; then all of them are numbered.
    return (
        names if len(set(names)) == len(names) else tuple(f"{position}-{stem}" for position, stem in enumerate(stems))
    )
