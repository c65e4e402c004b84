"""FewShotClassifier: augmentation, backbone and head behind fit and predict. The estimator users meet."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from fewshot.augment import AugmentationLike, Policy, load_policy
from fewshot.backbones import DEFAULT_BACKBONE, load_backbone
from fewshot.backbones.base import Backbone, Progress
from fewshot.errors import ImageError, InvalidInputError
from fewshot.features import check_n_views, check_varied
from fewshot.finetune.base import ImageHead, TrainingSetup
from fewshot.heads import make_head
from fewshot.heads.base import Head
from fewshot.images.dataset import ImageDataset, as_labels, as_sources
from fewshot.images.reader import ImageLike, read_image, source_name
from fewshot.representation import RepresentationLike, check_representation, load_representation
from fewshot.representation.base import Representation
from fewshot.store import FeatureStore

_BLOCK = 256

MAX_SEED = 2**32 - 1
"""What numpy's older generators, and scikit-learn with them, take."""


class Prediction(NamedTuple):
    """What a classifier says of one image.

    Attributes:
        image: its name: the path, or a description of the object.
        label: the predicted label; ``None`` where the image cannot be read.
        proba: (n_classes,) class probabilities; ``None`` where the image cannot be read.
        error: why the image cannot be read.
    """

    image: str
    label: Any
    proba: NDArray[np.float64] | None
    error: ImageError | None


class FewShotClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """A scikit-learn classifier of images, for as few as one image per class.

    Images are paths, bytes, PIL images or uint8 arrays (H, W, 3), in a list.

    Args:
        backbone: a name for :func:`fewshot.load_backbone`, or a backbone.
        head: a name from :func:`fewshot.list_heads`, a head, or any scikit-learn classifier.
        augmentation: a name from :func:`fewshot.list_augmentations`, an albumentations ``Compose``, ``None``, or
            ``"auto"``: ``"light"``, and ``"none"`` with a representation that averages views of its own.
        n_views: augmented views per training image, besides the image itself.
        random_state: seed of everything random; the same seed gives the same classifier.
        cache: keep features on disk, so that the same images are computed once.
        representation: what is made of the backbone's features: ``"plain"``, ``"averaged"``, ``"tuned"`` or ``"auto"``;
            see :mod:`fewshot.representation`. Heads that train on pictures take no other than ``"plain"``, and leave
            ``"auto"`` alone.

    Attributes:
        classes_: (n_classes,) labels, sorted; the order of probabilities.
        backbone_: the loaded backbone; ``None`` for heads that use none.
        head_: the fitted head.
        representation_: what makes the head's features of images; ``None`` for heads that take pictures.
        space_: what the training images say of it; ``None`` likewise.
        history_: training curve of a head that trains a network; empty otherwise.
        seed_: the seed that ``random_state`` came to.
        support_: features and class positions that a scikit-learn head was fitted on, for saving; ``None`` otherwise.

    Example:
        >>> import numpy as np
        >>> red, blue = np.zeros((2, 64, 64, 3), dtype=np.uint8)
        >>> red[..., 0] = blue[..., 2] = 200
        >>> classifier = FewShotClassifier(augmentation="none", cache=False).fit([red, blue], ["red", "blue"])
        >>> classifier.predict([blue]).tolist()
        ['blue']
    """

    def __init__(
        self,
        backbone: str | Backbone = DEFAULT_BACKBONE,
        head: Any = "linear-probe",
        augmentation: AugmentationLike = "auto",
        n_views: int = 16,
        random_state: int | np.random.RandomState | None = 0,
        cache: bool = True,
        representation: RepresentationLike = "plain",
    ) -> None:
        self.backbone = backbone
        self.head = head
        self.augmentation = augmentation
        self.n_views = n_views
        self.random_state = random_state
        self.cache = cache
        self.representation = representation

    def fit(
        self, X: Sequence[ImageLike] | ImageDataset, y: Sequence[Any] | None = None, *, progress: Progress | None = None
    ) -> Self:
        """Train on images.

        Args:
            X: images, or an :class:`~fewshot.ImageDataset`, which brings its labels.
            y: (n,) labels; ``None`` only with a data set.
            progress: called with (pictures done, pictures in all) during feature extraction.

        Raises:
            InvalidInputError: fewer than two classes, labels that do not fit, ``n_views`` below 1.
            UnknownNameError: a backbone, head or policy nobody registered.
            ImageError: an image cannot be read.
            FeatureError: the backbone gives NaN, or the same features for every image.
        """
        head = make_head(self.head)
        if not isinstance(self.augmentation, str) or self.augmentation != "auto":
            load_policy(self.augmentation)
        views = check_n_views(self.n_views)
        images, labels = _images_and_labels(X, y)
        seed = as_seed(self.random_state)
        backbone = load_backbone(self.backbone) if getattr(head, "needs_backbone", True) else None
        # A fit that fails leaves the classifier as it was, so everything is assigned at the end.
        support, history, representation, space = None, [], None, None
        if isinstance(head, ImageHead):
            check_takes_pictures(self.representation)
            head.fit_images(images, labels, TrainingSetup(backbone, training_policy(self), views, seed))
            history = head.history_
        else:
            assert backbone is not None  # noqa: S101 - for the type checker
            representation = load_representation(self.representation, backbone)
            parts = representation.parts(
                images,
                augmentation=training_policy(self, representation),
                n_views=views,
                seed=seed,
                store=self._store(),
                progress=progress,
            )
            space = representation.space(parts)
            features = space.vectors(parts)
            check_varied(features[:, 0], labels, backbone.spec, [source_name(image) for image in images])
            fit_on_views(head, features, labels, seed)
            if not isinstance(head, Head):
                # A scikit-learn classifier is saved as what it was fitted on; see fewshot.modelfile.
                codes = np.searchsorted(head.classes_, np.repeat(labels, features.shape[1]))
                support = (features.reshape(-1, features.shape[2]), codes)
        self.backbone_, self.head_, self.classes_ = backbone, head, head.classes_
        self.representation_, self.space_ = representation, space
        self.history_, self.support_, self.seed_ = history, support, seed
        return self

    def predict_proba(
        self, X: Sequence[ImageLike] | ImageDataset, *, progress: Progress | None = None
    ) -> NDArray[np.float64]:
        """Estimate (n, n_classes) class probabilities; rows sum to 1, columns follow ``classes_``.

        Raises:
            ImageError: an image cannot be read.
            NotFittedError: ``fit`` was not called.
        """
        return self._answer(X, progress)[0]

    def predict(self, X: Sequence[ImageLike] | ImageDataset) -> NDArray[Any]:
        """Predict the (n,) labels of images.

        Raises:
            ImageError: an image cannot be read.
            NotFittedError: ``fit`` was not called.
        """
        return self._answer(X)[1]

    def predict_each(
        self, X: Sequence[ImageLike] | ImageDataset, *, strict: bool = False, progress: Progress | None = None
    ) -> Iterator[Prediction]:
        """Predict images one after the other, in blocks: memory does not grow with their number.

        An image that cannot be read gets its error and the others are predicted. A transductive head labels the images
        of each block together.

        Args:
            X: images.
            strict: raise the first unreadable image instead.
            progress: called with (images done, images in all).

        Yields:
            A :class:`Prediction` for each image, in order.

        Raises:
            ImageError: with ``strict``, an image cannot be read.
            NotFittedError: ``fit`` was not called.
        """
        check_is_fitted(self)
        images = as_sources(X)
        for start in range(0, len(images), _BLOCK):
            block = images[start : start + _BLOCK]
            errors: dict[int, ImageError] = {}
            rows = zip(*self._answer(block, errors=None if strict else errors), strict=True)
            for position, image in enumerate(block):
                if position in errors:
                    yield Prediction(source_name(image), None, None, errors[position])
                else:
                    proba, label = next(rows)
                    yield Prediction(source_name(image), label, proba, None)
            if progress is not None:
                progress(start + len(block), len(images))

    def _answer(
        self,
        X: Sequence[ImageLike] | ImageDataset,
        progress: Progress | None = None,
        errors: dict[int, ImageError] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """Give (n, n_classes) probabilities and (n,) labels of images.

        Images that cannot be read are raised; where ``errors`` is given, they are entered there by their position
        instead, and the answers are those of the others.
        """
        check_is_fitted(self)
        images = as_sources(X)
        if not images:
            return np.empty((0, len(self.classes_))), self.classes_[:0]
        if isinstance(self.head_, ImageHead):
            images = images if errors is None else _readable(images, errors)
            proba = self.head_.predict_proba_images(images) if images else np.empty((0, len(self.classes_)))
            return proba, self.classes_[proba.argmax(axis=1)]
        assert self.representation_ is not None  # noqa: S101 - for the type checker
        assert self.space_ is not None  # noqa: S101
        parts = self.representation_.parts(images, store=self._store(), progress=progress, errors=errors)
        found = self.space_.vectors(parts)[:, 0]
        features = found if not errors else np.delete(found, list(errors), axis=0)
        if not len(features):
            return np.empty((0, len(self.classes_))), self.classes_[:0]
        proba, predicted = answers(self.head_, features)
        return proba, self.classes_[predicted]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a model folder: ``config.json``, ``model.safetensors`` and ``README.md``. No pickle.

        Raises:
            ModelFileError: the head cannot be saved, or the folder cannot be written.
        """
        from fewshot.modelfile import save

        save(self, path)

    def _store(self) -> FeatureStore | None:
        return FeatureStore() if self.cache else None

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        # Images come as lists of paths or objects, not as a numeric array.
        tags.input_tags.two_d_array = False
        tags.input_tags.string = True
        tags.no_validation = True
        return tags


def training_policy(classifier: FewShotClassifier, representation: Representation | None = None) -> Policy:
    """Resolve the augmentation of a classifier, by the representation that its head learns from.

    Augmented views of an image have less to add where an image's vector is the mean of several views already, and each
    is represented by itself alone.

    Raises:
        UnknownNameError: no policy has its name.
    """
    chosen = classifier.augmentation
    if isinstance(chosen, str) and chosen == "auto":
        chosen = "light" if representation is None or representation.name == "plain" else "none"
    return load_policy(chosen)


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
            "pictures. Use representation='plain'."
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
    return head.fit(features.reshape(n * views, width), np.repeat(labels, views))


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


def _readable(images: tuple[ImageLike, ...], errors: dict[int, ImageError]) -> tuple[ImageLike, ...]:
    """Keep the images that decode, and enter the others into ``errors`` by their position."""
    for position, image in enumerate(images):
        try:
            read_image(image)
        except ImageError as error:
            errors[position] = error
    return tuple(image for position, image in enumerate(images) if position not in errors)


def _images_and_labels(
    X: Sequence[ImageLike] | ImageDataset, y: Sequence[Any] | None
) -> tuple[tuple[ImageLike, ...], NDArray[Any]]:
    if isinstance(X, ImageDataset):
        if y is not None:
            raise InvalidInputError("An ImageDataset brings its own labels; leave y out.")
        return X.sources, np.array(X.labels)
    if y is None:
        raise InvalidInputError("fit needs labels: fit(images, labels), or fit(dataset).")
    images, labels = as_sources(X), as_labels(y)
    if labels.ndim != 1 or len(images) != len(labels):
        raise InvalidInputError(
            f"Got {len(images)} images and labels of shape {labels.shape}; give one label for each image."
        )
    if not len(images):
        raise InvalidInputError("Got no images; a classifier needs at least one image of each of 2 classes.")
    classes = np.unique(labels)
    if len(classes) < 2:
        raise InvalidInputError(f"Got {len(classes)} class ({classes.tolist()[0]!r}); a classifier needs at least 2.")
    return images, labels
