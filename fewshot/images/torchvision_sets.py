"""The classification data sets of torchvision: found, downloaded where need be, and listed without being read."""

from __future__ import annotations

import inspect
import os
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fewshot.errors import DatasetError
from fewshot.images.dataset import ImageDataset
from fewshot.images.labels import normalise_label
from fewshot.images.reader import ImageLike
from fewshot.names import unknown_name

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


def load_torchvision(name: str) -> dict[str, ImageDataset]:
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


def data_folder() -> Path:
    """Where downloaded data sets are kept: ``FEWSHOT_DATA``, else ``data`` in the user's cache folder."""
    from platformdirs import user_cache_path

    folder = os.environ.get("FEWSHOT_DATA")
    return Path(folder).expanduser() if folder else user_cache_path("fewshot", appauthor=False) / "data"


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
