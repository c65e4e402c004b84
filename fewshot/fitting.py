"""The steps of fitting a classifier of images, and of asking one: for the estimator, comparisons and benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fewshot.augment import AugmentationLike, Policy, load_policy
from fewshot.errors import ImageError, InvalidInputError
from fewshot.heads.auto import AutoHead
from fewshot.heads.base import Head, TransductiveHead
from fewshot.heads.prototypical import PrototypicalHead
from fewshot.images.dataset import ImageDataset, as_labels, as_sources
from fewshot.images.reader import ImageLike, read_image
from fewshot.representation import RepresentationLike, check_representation
from fewshot.representation.base import Representation

MAX_SEED = 2**32 - 1
"""What numpy's older generators, and scikit-learn with them, take."""


def training_policy(
    augmentation: AugmentationLike, representation: Representation | None = None, *, head: Any = None
) -> Policy:
    """Resolve the augmentation of a classifier, by the representation that its head learns from, or by the head.

    Augmented views of an image have less to add where an image's vector is the mean of several views already, and each
    is represented by itself alone.

    Raises:
        UnknownNameError: no policy has its name.
    """
    if isinstance(augmentation, str) and augmentation == "auto":
        if representation is None:
            augmentation = getattr(head, "usual_policy", "light")
        else:
            augmentation = "light" if representation.name == "plain" else "none"
    return load_policy(augmentation)


def check_takes_pictures(representation: RepresentationLike) -> None:
    """Refuse a representation for a head that takes pictures, and so has no use for it.

    Raises:
        UnknownNameError: no representation has this name.
        InvalidInputError: one that says how features are made.
    """
    name = representation.name if isinstance(representation, Representation) else check_representation(representation)
    if name not in ("plain", "auto"):
        raise InvalidInputError(
            f"representation={name!r} says how the features are made that a head learns from; this head trains on "
            "pictures. Leave it at 'auto'."
        )


def fit_on_views(head: Any, features: NDArray[np.float32], labels: NDArray[Any], seed: int) -> Any:
    """Fit a head on (n, 1 + n_views, d) features, every view with its image's (n,) label."""
    n, views, width = features.shape
    unseeded = [
        name
        for name, value in head.get_params(deep=True).items()
        if value is None and (name == "random_state" or name.endswith("__random_state"))
    ]
    if unseeded:
        head.set_params(**dict.fromkeys(unseeded, seed))
    tell_views(head, views)
    return head.fit(features.reshape(n * views, width), np.repeat(labels, views))


def tell_views(head: Any, views: int) -> Any:
    """Tell a head that asks for it how many views of each image its rows are."""
    if "views" in head.get_params(deep=False) and isinstance(head, Head):
        head.set_params(views=views)
    return head


def answers(head: Any, features: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """Ask any classifier about features.

    Returns:
        (n, n_classes) class probabilities, of a classifier that has none 1 for the predicted class; and (n,) positions
        of the predicted classes, which of scikit-learn's classifiers are not always the most probable ones.
    """
    hits: NDArray[np.bool_] = np.asarray(head.predict(features))[:, None] == head.classes_[None, :]
    if hasattr(head, "predict_proba"):
        return np.asarray(head.predict_proba(features), dtype=np.float64), hits.argmax(axis=1)
    return hits.astype(np.float64), hits.argmax(axis=1)


def as_seed(random_state: int | np.random.RandomState | None) -> int:
    """Turn scikit-learn's ``random_state`` into one seed; ``None`` draws a fresh one.

    Raises:
        InvalidInputError: a negative number, or something else.
    """
    if random_state is None:
        return int(np.random.default_rng().integers(2**31))
    if isinstance(random_state, np.random.RandomState):
        return int(random_state.randint(2**31 - 1))
    is_number = isinstance(random_state, (int, np.integer)) and not isinstance(random_state, bool)
    if not is_number or not 0 <= random_state <= MAX_SEED:
        raise InvalidInputError(f"random_state={random_state!r}: needs a whole number from 0 to {MAX_SEED}, or None.")
    return int(random_state)


def readable(images: tuple[ImageLike, ...], errors: dict[int, ImageError]) -> tuple[ImageLike, ...]:
    """Keep the images that decode, and enter the others into ``errors`` by their position."""
    for position, image in enumerate(images):
        try:
            read_image(image)
        except ImageError as error:
            errors[position] = error
    return tuple(image for position, image in enumerate(images) if position not in errors)


def check_joint(head: Any, count: int, most: int, *, single_class: bool) -> None:
    """Refuse images without a label where nothing can be made of them.

    Raises:
        InvalidInputError: a head that judges every image by itself, a single class, or more images than ``most``.
    """
    if single_class:
        raise InvalidInputError("unlabeled: with one class there is nothing to label them with; leave them out.")
    if not isinstance(head, (TransductiveHead, AutoHead)):
        raise InvalidInputError(
            f"unlabeled: {head!r} judges every image by itself and learns nothing from images without a label. Use "
            "head='auto', or a transductive head such as 'self-training'."
        )
    if count > most:
        raise InvalidInputError(
            f"unlabeled: {count} images; at most {most} are labelled together. Choose some of them."
        )


def one_class_head(head: Any) -> PrototypicalHead:
    """Give the head that a single class has.

    Raises:
        InvalidInputError: another one was asked for.
    """
    if isinstance(head, AutoHead):
        return PrototypicalHead()
    if not isinstance(head, PrototypicalHead):
        raise InvalidInputError(
            "single_class=True: with one class there is nothing to choose between; use head='auto'."
        )
    return head


def fit_one_class(head: PrototypicalHead, features: NDArray[np.float32], labels: NDArray[Any]) -> None:
    """Give a head its one class, which its own ``fit`` rightly refuses: there is nothing to tell apart."""
    rows = torch.from_numpy(features.reshape(-1, features.shape[2]).astype(np.float64))
    with torch.no_grad():
        head.state_ = head._fit(rows, torch.zeros(len(rows), dtype=torch.int64), 1)
    head.classes_, head.n_features_in_ = np.unique(labels), features.shape[2]


def images_and_labels(
    X: Sequence[ImageLike] | ImageDataset, y: Sequence[Any] | None, *, least: int
) -> tuple[tuple[ImageLike, ...], NDArray[Any]]:
    """Check training images, and that there is a label for each and there are at least so many classes.

    Raises:
        InvalidInputError: with what is missing.
    """
    if isinstance(X, ImageDataset):
        if y is not None:
            raise InvalidInputError("An ImageDataset brings its own labels; leave y out.")
        images, labels = X.sources, np.array(X.labels)
    elif y is None:
        raise InvalidInputError("fit needs labels: fit(images, labels), or fit(dataset).")
    else:
        images, labels = as_sources(X), as_labels(y)
    if labels.ndim != 1 or len(images) != len(labels):
        raise InvalidInputError(
            f"Got {len(images)} images and labels of shape {labels.shape}; give one label for each image."
        )
    if not len(images):
        raise InvalidInputError("Got no images; a classifier needs at least one image of each of 2 classes.")
    classes = np.unique(labels)
    if len(classes) < least:
        raise InvalidInputError(
            f"Got {len(classes)} class ({classes.tolist()[0]!r}); a classifier needs at least 2. To ask only whether "
            "an image is of this one: fit(..., single_class=True), then predict(..., reject=True)."
        )
    if least == 1 and len(classes) > 1:
        raise InvalidInputError(f"single_class=True: got {len(classes)} classes. Leave it out, or all but one class.")
    return images, labels
