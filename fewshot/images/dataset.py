"""ImageDataset: labelled images from a folder, a CSV, a list of paths or arrays, and how they were understood."""

from __future__ import annotations

import csv
import operator
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot.errors import DatasetError, InvalidInputError
from fewshot.images.findings import Finding, messages
from fewshot.images.reader import ImageLike, read_image, source_name

IMAGE_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .png .webp .gif .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm .avif .jp2 .ico .heic .heif".split()
)
TRAIN_NAMES, TEST_NAMES = ("train", "training"), ("test", "val", "valid", "validation")
_NOT_CLASSES = frozenset(("__MACOSX", "__pycache__", "@eaDir"))


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
        real file once. Files are listed here, not decoded: an unreadable one is reported where images are used.

        Raises:
            DatasetError: no such folder, or no image in any class folder.
        """
        folder = Path(root)
        _require_folder(folder)
        findings: list[Finding] = []
        splits = find_splits(folder)
        if splits:
            names = ", ".join(sorted(path.name for path in splits.values()))
            said = f"{folder} holds the splits {names}; {splits['train'].name} is used."
            findings.append(Finding("SPLITS", said))
            folder = splits["train"]
        sources, labels, written = [], [], []
        for class_folder in sorted(path for path in folder.iterdir() if _is_class_folder(path)):
            files, skipped = _image_files(class_folder)
            if skipped:
                said = f"{len(skipped)} files in {class_folder.name} have no image suffix and were left out."
                findings.append(Finding("SKIPPED_FILES", said, tuple(skipped), "warning"))
            if not files:
                said = f"{class_folder.name} has no images and was dropped."
                findings.append(Finding("EMPTY_CLASS", said, (str(class_folder),), "warning"))
                continue
            written.append(class_folder.name)
            sources += files
            labels += [normalise_label(class_folder.name)] * len(files)
        if not sources:
            loose = sum(path.suffix.lower() in IMAGE_SUFFIXES for path in folder.iterdir())
            hint = f" {loose} images lie in it directly, outside any class folder." if loose else ""
            raise DatasetError(
                f"No images found in {folder}.{hint} Put them into one folder per class, for example "
                f"{folder / 'cat' / '1.jpg'} and {folder / 'dog' / '1.jpg'}."
            )
        loose_files = [str(p) for p in folder.iterdir() if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES]
        if loose_files:
            said = f"{len(loose_files)} images outside any class folder were left out."
            findings.append(Finding("LOOSE_IMAGES", said, tuple(loose_files), "warning"))
        findings += _merged(written)
        return cls(tuple(sources), tuple(labels), transform=transform, findings=tuple(findings))

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

        Args:
            path: the CSV, UTF-8 with or without a byte-order mark.
            image_column: the column with image paths.
            label_column: the column with labels.
            root: where relative paths start; the CSV's own folder if not given.
            transform: see the class.

        Raises:
            DatasetError: no such file, a missing column, an empty cell or a missing image, with its row number.
        """
        table = Path(path)
        base = Path(root) if root is not None else table.parent
        try:
            with table.open(encoding="utf-8-sig", newline="") as handle:
                reader = csv.DictReader(handle)
                columns = list(reader.fieldnames or ())
                # Blank lines yield no row but count for whoever looks for the row in a spreadsheet.
                rows = [(reader.line_num, row) for row in reader]
        except FileNotFoundError:
            raise DatasetError(f"No such file: {table}.") from None
        except OSError as error:
            raise DatasetError(f"{table} cannot be read: {error.strerror}.") from None
        except (UnicodeDecodeError, csv.Error) as error:
            raise DatasetError(f"{table} is not a UTF-8 CSV: {error}.") from None
        for column in (image_column, label_column):
            if column not in columns:
                raise DatasetError(
                    f"{table} has no column {column!r}; its columns are {columns}. Name them with image_column= and "
                    "label_column=."
                )
        problems, sources, labels, written = [], [], [], []
        for number, row in rows:
            image, label = (row[image_column] or "").strip(), normalise_label(row[label_column] or "")
            if not image or not label:
                problems.append(f"row {number}: empty {image_column if not image else label_column}")
            elif not os.path.exists(base / image):
                problems.append(f"row {number}: no such image {base / image}")
            else:
                sources.append(str(base / image))
                labels.append(label)
                written.append(row[label_column])
        if problems:
            more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
            raise DatasetError(f"{table}: {'; '.join(problems[:5])}{more}.")
        if not sources:
            raise DatasetError(f"{table} has a header but no rows.")
        return cls(tuple(sources), tuple(labels), transform=transform, findings=_merged(written))

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
        written = tuple(labels)
        missing = [i for i, label in enumerate(written) if is_missing(label) or not normalise_label(label)]
        if missing:
            raise InvalidInputError(f"{len(missing)} of {len(written)} labels are missing, the first at {missing[0]}.")
        return cls(sources, tuple(map(normalise_label, written)), transform=transform, findings=_merged(written))

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


def is_missing(label: object) -> bool:
    """Whether a label stands for none: None, NaN, or pandas' NA and NaT."""
    return (
        label is None
        or (isinstance(label, (float, np.floating)) and bool(np.isnan(label)))
        or type(label).__name__ in ("NAType", "NaTType")
    )


def as_labels(y: Any) -> NDArray[Any]:
    """Turn labels into an array, refusing those that numpy would silently turn into others: None, NaN, mixed kinds.

    Raises:
        InvalidInputError: such labels, or not one for each image.
    """
    try:
        written = list(y)
    except TypeError:
        raise InvalidInputError(f"y={y!r}: give one label for each image, in a list.") from None
    missing = [i for i, label in enumerate(written) if is_missing(label)]
    if missing:
        raise InvalidInputError(f"{len(missing)} of {len(written)} labels are missing, the first at {missing[0]}.")
    strings = sum(isinstance(label, str) for label in written)
    if 0 < strings < len(written):
        raise InvalidInputError("Labels are partly strings and partly not; make them all strings: list(map(str, y)).")
    labels = np.asarray(y if isinstance(y, np.ndarray) or hasattr(y, "__array__") else written)
    if labels.ndim != 1:
        raise InvalidInputError(f"labels of shape {labels.shape}: give one label for each image.")
    return labels


def normalise_label(label: object) -> str:
    """Turn a label into the string it is compared by: 1 and "1", "é" in one or two code points, are the same."""
    if isinstance(label, (float, np.floating)) and float(label).is_integer():
        label = int(label)
    return unicodedata.normalize("NFC", str(label)).strip()


def _merged(labels: Iterable[object]) -> tuple[Finding, ...]:
    """Note the labels that are written differently and are one class nevertheless."""
    written: dict[str, set[str]] = defaultdict(set)
    for label in labels:
        plain = label.item() if isinstance(label, np.generic) else label
        written[normalise_label(label)].add(repr(plain))
    return tuple(
        Finding("MERGED_LABELS", f"{' and '.join(sorted(forms))} are one class, {name!r}.", severity="warning")
        for name, forms in sorted(written.items())
        if len(forms) > 1
    )


def find_splits(root: Path) -> dict[str, Path]:
    """Find ``train`` and ``test`` folders at the top of ``root``: both, or an empty dictionary."""
    found: dict[str, Path] = {}
    for path in sorted(root.iterdir()):
        if path.is_dir() and path.name.lower() in TRAIN_NAMES:
            found.setdefault("train", path)
    for name in TEST_NAMES:
        for path in sorted(root.iterdir()):
            if path.is_dir() and path.name.lower() == name:
                found.setdefault("test", path)
    return found if len(found) == 2 else {}


def list_images(root: str | os.PathLike[str]) -> list[str]:
    """List the image files anywhere below a folder, sorted, whatever their folders mean.

    Raises:
        DatasetError: no such folder, or no image in it.
    """
    folder = Path(root)
    _require_folder(folder)
    files, _ = _image_files(folder)
    if not files:
        raise DatasetError(f"No images found in {folder}.")
    return files


def _require_folder(folder: Path) -> None:
    if not folder.exists():
        raise DatasetError(f"No such folder: {folder}.")
    if not folder.is_dir():
        raise DatasetError(f"{folder} is a file; give the folder that holds one folder per class.")


def _is_class_folder(path: Path) -> bool:
    return path.is_dir() and not path.name.startswith(".") and path.name not in _NOT_CLASSES


def _image_files(folder: Path) -> tuple[list[str], list[str]]:
    """List image files below ``folder``, each real file and real folder once, and the other files."""
    images: list[str] = []
    others: list[str] = []
    seen: set[str] = set()
    top = os.path.realpath(folder)
    for parent, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        # A link to an ancestor would be walked for ever, and one above the class folder leads into other classes.
        if real in seen or (real != top and os.path.join(top, "").startswith(os.path.join(real, ""))):
            folders[:] = []
            continue
        seen.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in _NOT_CLASSES)
        for name in sorted(names):
            path = os.path.join(parent, name)
            if name.startswith(".") or name in ("Thumbs.db", "desktop.ini") or os.path.realpath(path) in seen:
                continue
            seen.add(os.path.realpath(path))
            (images if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES else others).append(path)
    return sorted(images), others


def _one_class_each(sources: Sequence[ImageLike]) -> tuple[str, ...]:
    stems = [
        normalise_label(Path(os.fspath(source)).stem) if isinstance(source, (str, os.PathLike)) else f"image-{position}"
        for position, source in enumerate(sources)
    ]
    repeated = {stem for stem, count in Counter(stems).items() if count > 1}
    names = tuple(f"{stem}-{position}" if stem in repeated else stem for position, stem in enumerate(stems))
    # A file may itself be called like a numbered one; then all of them are numbered.
    return (
        names if len(set(names)) == len(names) else tuple(f"{position}-{stem}" for position, stem in enumerate(stems))
    )
