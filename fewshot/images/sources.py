"""Data sets by name: a folder, a CSV, the fruits, leaf folders and the classification data sets of torchvision.

::

    "photos"                    a folder with one folder per class, or with such train, val and test folders in it
    "photos.csv"                image paths and labels
    "fruits"                    the demo's photographs
    "leaves:omniglot"           every folder that directly holds images is a class, such as omniglot/Greek/character01
    "torchvision:Flowers102"    a class of torchvision.datasets
"""

from __future__ import annotations

import inspect
import os
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from fewshot.errors import DatasetError
from fewshot.images.dataset import ImageDataset, find_splits, list_images, normalise_label
from fewshot.images.findings import Finding
from fewshot.images.reader import ImageLike
from fewshot.names import unknown_name

DatasetSpec: TypeAlias = "ImageDataset | str | os.PathLike[str]"

_FORMS = ("fruits", "leaves:FOLDER", "torchvision:NAME")
_HINT = "A folder with one folder per class or a .csv file is given by its path."
# What the makers of data sets call their splits. trainval is all there is to train on where train is not offered.
_SPLITS = {"train": ("train", "trainval"), "val": ("val", "valid", "validation"), "test": ("test",)}
_GIVEN = ("root", "split", "train", "download")


_READING = threading.Lock()


@dataclass(frozen=True, eq=False, slots=True)
class IndexedImage:
    """An image of a map-style data set, read when it is asked for: only its number is kept.

    Attributes:
        dataset: whose item ``index`` is a pair of an image and a label.
        index: which.
        name: of the image, for messages and reports.
    """

    dataset: Any
    index: int
    name: str

    def load(self) -> ImageLike:
        """Read the image, as the data set gives it."""
        # One at a time: data sets need not be safe for threads (torchvision's FakeData draws from torch's generator).
        with _READING:
            image: ImageLike = self.dataset[self.index][0]
        return image


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
        parts = _split_folders(Path(rest))
        return _join(_from_folders(parts)) if parts else _with_hint(ImageDataset.from_folder(rest), Path(rest))
    if kind == "fruits":
        return _join(_fruits(), once=True)
    return _join(_from_torchvision(rest))


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
            splits = _from_folders(_split_folders(Path(rest)))
        elif kind == "fruits":
            splits = _fruits()
        elif kind == "torchvision":
            splits = _from_torchvision(rest)
    if len(splits) < 2:
        raise DatasetError(
            f"{dataset_name(spec)} has no fixed splits. Draw episodes from all of its images, or give a folder with "
            "train and test folders in it."
        )
    return splits


def dataset_name(spec: DatasetSpec) -> str:
    """Name a data set for tables: ``"Flowers102"``, ``"fruits"``, or the last part of the path."""
    if isinstance(spec, ImageDataset):
        return "images"
    prefix, colon, rest = os.fspath(spec).partition(":")
    if colon and prefix == "torchvision":
        return rest
    path = Path(os.path.abspath(rest if colon and prefix == "leaves" else spec))
    return path.stem if path.suffix.lower() == ".csv" else path.name or str(path)


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


def data_folder() -> Path:
    """Where downloaded data sets are kept: ``FEWSHOT_DATA``, else ``data`` in the user's cache folder."""
    from platformdirs import user_cache_path

    folder = os.environ.get("FEWSHOT_DATA")
    return Path(folder).expanduser() if folder else user_cache_path("fewshot", appauthor=False) / "data"


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
    if text.lower().endswith(".csv"):
        return "csv", text
    if not os.path.exists(text):
        # One letter before the colon is a drive.
        if (colon and len(prefix) > 1) or not any(mark in text for mark in ("/", "\\", ".", ":")):
            raise unknown_name("data set", text, _FORMS, f"No folder has that name either. {_HINT}")
        raise DatasetError(f"No such folder: {text}. Check the path; known names are {', '.join(_FORMS)}.")
    return "folder", text


def _from_leaves(folder: Path) -> ImageDataset:
    by_class: dict[str, list[str]] = {}
    loose: list[str] = []
    for path in list_images(folder):
        relative = Path(path).parent.relative_to(folder)
        if relative == Path():
            loose.append(path)
        else:
            by_class.setdefault(normalise_label(relative.as_posix()), []).append(path)
    if not by_class:
        raise DatasetError(
            f"All {len(loose)} images lie in {folder} directly. Every folder below it that holds images is a class; "
            f"put them into such folders, for example {folder / 'cat' / '1.jpg'}."
        )
    names = sorted(by_class)
    said = f"{len(loose)} images outside any class folder were left out."
    return ImageDataset(
        tuple(path for name in names for path in by_class[name]),
        tuple(name for name in names for _ in by_class[name]),
        findings=(Finding("LOOSE_IMAGES", said, tuple(loose), "warning"),) if loose else (),
    )


def _with_hint(dataset: ImageDataset, folder: Path) -> ImageDataset:
    """Note where the classes hold nothing but folders: they may be one level too high."""
    classes = [folder / name for name in dataset.class_names if (folder / name).is_dir()]
    if not classes or any(path.is_file() for one in classes for path in one.iterdir()):
        return dataset
    hint = f"The classes of {folder} hold folders only; leaves:{folder} takes each of these for a class."
    return replace(dataset, findings=(*dataset.findings, Finding("NOTE", hint)))


def _split_folders(folder: Path) -> dict[str, Path]:
    """Find a folder's train, val and test folders: at least two, or none."""
    if not folder.is_dir() or not (found := find_splits(folder)):
        return {}
    # find_splits takes val for test where there is no test; here each is what it is called.
    parts = {"train": found["train"]}
    for key in ("val", "test"):
        for path in sorted(folder.iterdir()):
            if path.is_dir() and path.name.lower() in _SPLITS[key]:
                parts.setdefault(key, path)
    return parts


def _from_folders(parts: Mapping[str, Path]) -> dict[str, ImageDataset]:
    return {key: ImageDataset.from_folder(path) for key, path in parts.items()}


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


def _from_torchvision(name: str) -> dict[str, ImageDataset]:
    """Build the splits of a torchvision data set; one called ``"all"`` where there are none."""
    import torchvision.datasets

    maker = getattr(torchvision.datasets, name, None)
    if not (isinstance(maker, type) and hasattr(maker, "__getitem__")):
        raise unknown_name("torchvision data set", name, torchvision.datasets.__all__)
    parameters = inspect.signature(maker).parameters
    needed = [
        p.name
        for p in parameters.values()
        if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in _GIVEN
    ]
    if needed:
        raise DatasetError(
            f"torchvision's {name} also needs {', '.join(needed)}, which no name can say. Make it yourself, and give "
            "its images and labels to ImageDataset.from_paths."
        )
    candidates: dict[str, list[dict[str, object]]] = {"all": [{}]}
    if "split" in parameters:
        candidates = {key: [{"split": value} for value in values] for key, values in _SPLITS.items()}
    elif "train" in parameters:
        candidates = {"train": [{"train": True}], "test": [{"train": False}]}
    built: dict[str, Any] = {}
    refusal: ValueError | None = None
    for key, options in candidates.items():
        for given in options:
            try:
                built[key] = _build(maker, name, given)
                break
            except DatasetError:
                raise
            # torchvision refuses a split that it does not know so, before it looks for any file.
            except ValueError as error:
                refusal = error
    if not built:
        raise DatasetError(
            f"torchvision's {name} has no split called train, val or test ({refusal}). Make it yourself, and give its "
            "images and labels to ImageDataset.from_paths."
        ) from refusal
    return {key: _as_images(dataset, f"{name}/{key}") for key, dataset in built.items()}


def _build(maker: Any, name: str, options: Mapping[str, object]) -> Any:
    parameters, folder = inspect.signature(maker).parameters, data_folder()
    given = dict(options) | ({"root": str(folder)} if "root" in parameters else {})
    downloads = "download" in parameters
    try:
        # First what is there: some classes would download again, some refuse to download what was put there by hand.
        return maker(**given)
    except ValueError:
        raise
    except Exception as error:
        if not downloads:
            raise _cannot_get(name, folder, error, "torchvision cannot download it") from error
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return maker(**given, download=True)
    except Exception as error:
        raise _cannot_get(name, folder, error, "The download failed") from error


def _cannot_get(name: str, folder: Path, error: Exception, what: str) -> DatasetError:
    reason = " ".join(str(error).split()).rstrip(".") or "no reason given"
    return DatasetError(
        f"torchvision's {name} is not in {folder}. {what} ({type(error).__name__}: {reason}). Put its files there by "
        f"hand, laid out as the documentation of torchvision.datasets.{name} says, or set FEWSHOT_DATA to the folder "
        "that was given to torchvision as root."
    )


def _as_images(dataset: Any, name: str) -> ImageDataset:
    """List a map-style data set's images without reading them."""
    targets = _targets(dataset, name)
    label_of = _label_names(dataset, sorted(set(targets)))
    names = tuple(f"{name}/{index}" for index in range(len(targets)))
    sources = tuple(IndexedImage(dataset, index, image_name) for index, image_name in enumerate(names))
    return ImageDataset(sources, tuple(label_of[target] for target in targets), image_names=names)


def _targets(dataset: Any, name: str) -> list[int]:
    """Find (n,) integer labels: where torchvision keeps them, or else by reading every item once."""
    for attribute in ("targets", "labels", "_labels"):
        values = getattr(dataset, attribute, None)
        if values is not None and len(values) == len(dataset):
            return _integers(values, name)
    # One first: reading all takes long, and is in vain where the labels are none.
    _integers([dataset[index][1] for index in range(min(1, len(dataset)))], name)
    return _integers([dataset[index][1] for index in range(len(dataset))], name)


def _integers(values: Any, name: str) -> list[int]:
    try:
        labels = np.asarray(values)
    except (TypeError, ValueError):
        labels = np.empty(0)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DatasetError(
            f"{name} of torchvision has no integer label for each image; only data sets for classification can be used."
        )
    found: list[int] = labels.tolist()
    return found


def _label_names(dataset: Any, targets: list[int]) -> dict[int, str]:
    """Name labels as the data set does, if it does; a name that two of them share gets the label's number."""
    written: dict[int, object] = {}
    classes, positions = getattr(dataset, "classes", None), getattr(dataset, "class_to_idx", None)
    if isinstance(classes, (list, tuple)):
        written = dict(enumerate(classes))
    elif isinstance(positions, Mapping):
        written = {int(position): word for word, position in reversed(list(positions.items()))}
    # ImageNet gives several words for each class.
    words = {t: written.get(t, t) for t in targets}
    names = {t: normalise_label(", ".join(w) if isinstance(w, (list, tuple)) else w) for t, w in words.items()}
    uses = Counter(names.values())
    return {t: f"{name} ({t})" if uses[name] > 1 else name for t, name in names.items()}
