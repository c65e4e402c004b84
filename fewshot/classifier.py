"""FewShotClassifier: augmentation, backbone and head behind fit and predict. The estimator users meet."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.validation import check_is_fitted

from fewshot.augment import AugmentationLike, load_policy
from fewshot.backbones import DEFAULT_BACKBONE, load_backbone
from fewshot.backbones.base import Backbone, Progress
from fewshot.backbones.timm import TimmNetwork
from fewshot.errors import ImageError, InvalidInputError
from fewshot.expected import ExpectedAccuracy, expected_accuracy
from fewshot.features import check_n_views, check_varied
from fewshot.finetune.base import ImageHead, TrainingSetup
from fewshot.fitting import (
    answers,
    as_seed,
    check_joint,
    check_takes_pictures,
    fit_on_views,
    fit_one_class,
    images_and_labels,
    one_class_head,
    readable,
    training_policy,
)
from fewshot.heads import make_head
from fewshot.heads.auto import AutoHead
from fewshot.heads.base import Head, TransductiveHead
from fewshot.heads.self_training import SelfTrainingHead
from fewshot.images.dataset import ImageDataset, as_sources
from fewshot.images.reader import ImageLike, source_name
from fewshot.known import MAX_UNLABELED, advise, check_known, judge, learn
from fewshot.representation import RepresentationLike, load_representation
from fewshot.representation.base import Parts, Representation, Space
from fewshot.store import FeatureStore
from fewshot.suggestions import suggest
from fewshot.views import FixedViews

_BLOCK = 256
_TOGETHER = 4096
"""Images that are labelled jointly, at most."""
_FEW_IMAGES = 5
"""With fewer images of a class, views of each say how far an image may be from its class."""


class Prediction(NamedTuple):
    """What a classifier says of one image.

    Attributes:
        image: its name: the path, or a description of the object.
        label: the predicted label; ``None`` where the image cannot be read, and where it is of none of the classes
            and that was asked for.
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
        head: a name from :func:`fewshot.list_heads`, a head, or any scikit-learn classifier. ``"auto"`` chooses by the
            training images; :meth:`explain_choice` says what and why.
        augmentation: a name from :func:`fewshot.list_augmentations`, an albumentations ``Compose``, ``None``, or
            ``"auto"``: ``"light"``, ``"none"`` with a representation that averages views of its own, ``"heavy"`` for
            heads that train a pretrained network.
        n_views: augmented views per training image, besides the image itself.
        random_state: seed of everything random; the same seed gives the same classifier.
        cache: keep features on disk, so that the same images are computed once.
        representation: what is made of the backbone's features: ``"plain"``, ``"averaged"``, ``"tuned"`` or ``"auto"``;
            see :mod:`fewshot.representation`. Heads that train on pictures have no use for it: ``"plain"`` and
            ``"auto"`` are left alone, and others refused.

    Attributes:
        classes_: (n_classes,) labels, sorted; the order of probabilities.
        backbone_: the loaded backbone; ``None`` for heads that use none.
        head_: the fitted head.
        representation_: what makes the head's features of images; ``None`` for heads that take pictures.
        space_: what the training images say of it; ``None`` likewise.
        history_: training curve of a head that trains a network; empty otherwise.
        seed_: the seed that ``random_state`` came to.
        support_: features and class positions that a scikit-learn head was fitted on, for saving; ``None`` otherwise.
        known_: the training images as vectors, and what they say besides classes; ``None`` for heads on pictures.

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
        head: Any = "auto",
        augmentation: AugmentationLike = "auto",
        n_views: int = 16,
        random_state: int | np.random.RandomState | None = 0,
        cache: bool = True,
        representation: RepresentationLike = "auto",
    ) -> None:
        self.backbone = backbone
        self.head = head
        self.augmentation = augmentation
        self.n_views = n_views
        self.random_state = random_state
        self.cache = cache
        self.representation = representation

    def fit(
        self,
        X: Sequence[ImageLike] | ImageDataset,
        y: Sequence[Any] | None = None,
        *,
        unlabeled: Sequence[ImageLike] | ImageDataset | None = None,
        single_class: bool = False,
        progress: Progress | None = None,
    ) -> Self:
        """Train on images.

        Args:
            X: images, or an :class:`~fewshot.ImageDataset`, which brings its labels.
            y: (n,) labels; ``None`` only with a data set.
            unlabeled: images of the same classes without a label, such as those to predict later. Queries are then
                labelled together with them, by a transductive head; ``head="auto"`` takes self-training.
            single_class: take images of one class. Then nothing is to choose between, and what there is to ask is
                whether an image is of it: ``predict(..., reject=True)``.
            progress: called with (pictures done, pictures in all) while features are computed, which may be in several
                rounds, and with (steps done, steps in all), from other threads, one call at a time, while a head trains
                a pretrained network.

        Raises:
            InvalidInputError: fewer than two classes, labels that do not fit, ``n_views`` below 1, unlabelled images
                for a head that has no use for them.
            UnknownNameError: a backbone, head or policy nobody registered.
            ImageError: an image cannot be read.
            FeatureError: the backbone gives NaN, or the same features for every image.
        """
        head = make_head(self.head)
        if not isinstance(self.augmentation, str) or self.augmentation != "auto":
            load_policy(self.augmentation)
        views = check_n_views(self.n_views)
        images, labels = images_and_labels(X, y, least=1 if single_class else 2)
        others = as_sources(unlabeled) if unlabeled is not None and len(unlabeled) else None
        if others is not None:
            check_joint(head, len(others), MAX_UNLABELED, single_class=single_class)
        if len(set(labels.tolist())) == 1:
            head = one_class_head(head)
        seed = as_seed(self.random_state)
        backbone = load_backbone(self.backbone) if getattr(head, "needs_backbone", True) else None
        # A fit that fails leaves the classifier as it was, so everything is assigned at the end.
        support, history, representation, space, known = None, [], None, None, None
        if isinstance(head, ImageHead):
            check_takes_pictures(self.representation)
            policy = training_policy(self.augmentation, head=head)
            head.fit_images(images, labels, TrainingSetup(backbone, policy, views, seed, progress=progress))
            history = head.history_
        else:
            assert backbone is not None  # noqa: S101 - for the type checker
            representation = load_representation(self.representation, backbone)
            parts, each = self._training_parts(representation, images, labels, views, seed, progress)
            space = representation.space(parts)
            features = space.vectors(parts)
            check_varied(features[:, 0], labels, backbone.spec, [source_name(image) for image in images])
            if len(set(labels.tolist())) == 1:
                fit_one_class(head, features, labels)
            else:
                fit_on_views(head, features, labels, seed)
            others_seen = None if others is None else self._vectors(representation, space, others, progress=progress)
            drawn = None if each is None else space.vectors(each)[:, 1:]
            known = learn(head, features, np.searchsorted(head.classes_, labels), drawn, others_seen)
            if not isinstance(head, Head):
                # A scikit-learn classifier is saved as what it was fitted on; see fewshot.modelfile.
                codes = np.searchsorted(head.classes_, np.repeat(labels, features.shape[1]))
                support = (features.reshape(-1, features.shape[2]), codes)
        self.backbone_, self.head_, self.classes_ = backbone, head, head.classes_
        self.representation_, self.space_ = representation, space
        self.history_, self.support_, self.known_, self.seed_ = history, support, known, seed
        return self

    def predict_proba(
        self,
        X: Sequence[ImageLike] | ImageDataset,
        *,
        transductive: bool = False,
        progress: Progress | None = None,
    ) -> NDArray[np.float64]:
        """Estimate (n, n_classes) class probabilities; rows sum to 1, columns follow ``classes_``.

        Args:
            X: images.
            transductive: label them jointly, so that each is judged by the others, too; self-training does it where the
                head does not do so anyway.
            progress: called with (pictures done, pictures in all).

        Raises:
            ImageError: an image cannot be read.
            InvalidInputError: ``transductive`` for a head that takes pictures.
            NotFittedError: ``fit`` was not called.
        """
        return self._answer(X, progress, transductive=transductive)[0]

    def predict(
        self, X: Sequence[ImageLike] | ImageDataset, *, transductive: bool = False, reject: bool = False
    ) -> NDArray[Any]:
        """Predict the (n,) labels of images.

        Args:
            X: images.
            transductive: see :meth:`predict_proba`.
            reject: give ``None`` for an image that is of none of the classes: whose :meth:`novelty_score` is above
                ``known_.novelty_threshold``.

        Raises:
            ImageError: an image cannot be read.
            InvalidInputError: ``transductive`` or ``reject`` for a head that takes pictures.
            NotFittedError: ``fit`` was not called.
        """
        return self._answer(X, transductive=transductive, reject=reject)[1]

    def predict_each(
        self,
        X: Sequence[ImageLike] | ImageDataset,
        *,
        strict: bool = False,
        transductive: bool = False,
        reject: bool = False,
        progress: Progress | None = None,
    ) -> Iterator[Prediction]:
        """Predict images one after the other, in blocks: memory does not grow with their number.

        An image that cannot be read gets its error and the others are predicted. A transductive head labels the images
        of each block together: 256 of them, or 4096 where that was asked for.

        Args:
            X: images.
            strict: raise the first unreadable image instead.
            transductive: see :meth:`predict_proba`.
            reject: see :meth:`predict`.
            progress: called with (images done, images in all).

        Yields:
            A :class:`Prediction` for each image, in order.

        Raises:
            ImageError: with ``strict``, an image cannot be read.
            InvalidInputError: ``transductive`` or ``reject`` for a head that takes pictures.
            NotFittedError: ``fit`` was not called.
        """
        check_is_fitted(self)
        images = as_sources(X)
        size = _TOGETHER if transductive else _BLOCK
        for start in range(0, len(images), size):
            block = images[start : start + size]
            errors: dict[int, ImageError] = {}
            answered = self._answer(block, errors=None if strict else errors, transductive=transductive, reject=reject)
            rows = zip(*answered, strict=True)
            for position, image in enumerate(block):
                if position in errors:
                    yield Prediction(source_name(image), None, None, errors[position])
                else:
                    proba, label = next(rows)
                    yield Prediction(source_name(image), label, proba, None)
            if progress is not None:
                progress(start + len(block), len(images))

    def novelty_score(self, X: Sequence[ImageLike] | ImageDataset) -> NDArray[np.float64]:
        """Say how far images are from all classes: (n,) scores, 0 where one is a class's prototype.

        Above ``known_.novelty_threshold`` an image is of none of the classes; see :mod:`fewshot.novelty`.

        Raises:
            ImageError: an image cannot be read.
            InvalidInputError: the head takes pictures.
            NotFittedError: ``fit`` was not called.
        """
        check_is_fitted(self)
        known = check_known(self.known_, "novelty_score", self.head_)
        return known.detector.score(self._features(as_sources(X)))

    def suggest(self, unlabeled: Sequence[ImageLike] | ImageDataset, n: int) -> NDArray[np.intp]:
        """Choose the images whose labels would teach most.

        While classes have one label or two, those are typical images; later, images that the classifier is in doubt
        about. They are chosen as a set: asked for more of them, it may choose others.

        Args:
            unlabeled: images.
            n: how many to choose.

        Returns:
            (min(n, n_images),) positions, the most wanted of the set first.

        Raises:
            ImageError: an image cannot be read.
            InvalidInputError: the head takes pictures, or ``n`` is below 1.
            NotFittedError: ``fit`` was not called.
        """
        check_is_fitted(self)
        known = check_known(self.known_, "suggest", self.head_)
        features = self._features(as_sources(unlabeled))
        return suggest(features, n, labelled_features=known.features, labels=known.codes, seed=self.seed_)

    def expected_accuracy(self, *, coverage: float = 0.8) -> ExpectedAccuracy:
        """Say which accuracy to expect on new images, before there is a test set: an interval, all in 0..1.

        It says what the same evidence was worth on other data sets; with one image per class that is little, and the
        interval is wide. Images without a label do not count. See :mod:`fewshot.expected`.

        Args:
            coverage: share of data sets whose accuracy is to lie within, from 0.5 to 0.95 by 0.05.

        Raises:
            InvalidInputError: the head cannot be asked about images left out, or ``coverage`` is none of these.
            NotFittedError: ``fit`` was not called.
        """
        check_is_fitted(self)
        known = check_known(self.known_, "expected_accuracy", self.head_)
        if known.evidence is None:
            what = "one class" if len(self.classes_) == 1 else repr(self.head_)
            raise InvalidInputError(
                f"expected_accuracy has nothing to go by with {what}: it needs several classes and a head of this "
                "package that judges every image by itself. Test images tell, for any head: see fewshot.compare."
            )
        return expected_accuracy(known.evidence, coverage=coverage)

    def explain_choice(self) -> str:
        """Say what was chosen by the training images, and why.

        Raises:
            NotFittedError: ``fit`` was not called.
        """
        check_is_fitted(self)
        said = [self._chosen()]
        if self.space_ is not None and "familiar" in self.space_.shares:
            share = self.space_.shares["familiar"]
            said.append(
                f"The images are taken to be {100 * share:.0f} % familiar to the network, by how sure it is of its own "
                "classes."
            )
        if self.known_ is not None and isinstance(self.head_, AutoHead) and self._could_train():
            said.append(advise(self.known_))
        return " ".join(filter(None, said))

    def _could_train(self) -> bool:
        """Whether the backbone is one whose stages may be known, and no images without a label were given."""
        networks = () if self.backbone_ is None else self.backbone_.networks
        joint = self.known_ is not None and self.known_.unlabeled is not None
        return len(networks) == 1 and isinstance(networks[0], TimmNetwork) and not joint

    def _chosen(self) -> str:
        """Say which head there is, and why."""
        if len(self.classes_) == 1:
            return "There is one class and nothing to choose between; what an image may be is this class or none."
        if self.known_ is not None and self.known_.unlabeled is not None:
            head = repr(self.head_) if isinstance(self.head_, TransductiveHead) else "'self-training'"
            count = len(self.known_.unlabeled)
            return f"Every new image is labelled together with {count} images that had no label, by {head}."
        if isinstance(self.head_, AutoHead):
            return self.head_.explain()
        note = getattr(self.head_, "note_", "")
        return f"The head is {self.head_!r}, as asked{f'; it {note}' if note else ''}."

    def _answer(
        self,
        X: Sequence[ImageLike] | ImageDataset,
        progress: Progress | None = None,
        errors: dict[int, ImageError] | None = None,
        *,
        transductive: bool = False,
        reject: bool = False,
    ) -> tuple[NDArray[np.float64], NDArray[Any]]:
        """Give (n, n_classes) probabilities and (n,) labels of images.

        Images that cannot be read are raised; where ``errors`` is given, they are entered there by their position
        instead, and the answers are those of the others.
        """
        check_is_fitted(self)
        images = as_sources(X)
        if reject or (transductive and not isinstance(self.head_, TransductiveHead)):
            check_known(self.known_, "rejection" if reject else "labelling jointly", self.head_)
        nothing = np.empty((0, len(self.classes_))), self.classes_[:0].astype(object if reject else self.classes_.dtype)
        if not images:
            return nothing
        if isinstance(self.head_, ImageHead):
            images = images if errors is None else readable(images, errors)
            proba = self.head_.predict_proba_images(images) if images else np.empty((0, len(self.classes_)))
            return proba, self.classes_[proba.argmax(axis=1)]
        features = self._features(images, progress, errors)
        if not len(features):
            return nothing
        proba, predicted = self._judge(features, transductive)
        labels = self.classes_[predicted]
        if reject:
            labels = labels.astype(object)
            labels[check_known(self.known_, "rejection").detector.is_novel(features)] = None
        return proba, labels

    def _judge(self, features: NDArray[np.float32], transductive: bool) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """Ask the head, or one that labels jointly, about (n, d) features: see :func:`answers`."""
        known, head = self.known_, self.head_
        if len(self.classes_) < 2:
            return np.ones((len(features), 1)), np.zeros(len(features), dtype=np.intp)
        if known is None or not (transductive or known.unlabeled is not None or isinstance(head, TransductiveHead)):
            return judge(head, features, 1.0 if known is None else known.temperature)
        if not isinstance(head, TransductiveHead):
            head = SelfTrainingHead().fit(known.features, self.classes_[known.codes])
        parts = [self._judge_together(head, features[i : i + _TOGETHER]) for i in range(0, len(features), _TOGETHER)]
        return np.concatenate([proba for proba, _ in parts]), np.concatenate([predicted for _, predicted in parts])

    def _judge_together(
        self, head: TransductiveHead, features: NDArray[np.float32]
    ) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
        """Label queries jointly with each other, and with the images without a label that training was given."""
        assert self.known_ is not None  # noqa: S101 - for the type checker
        others = self.known_.unlabeled
        if others is not None:
            # An image that is asked about does not count twice.
            asked = {row.tobytes() for row in features}
            others = others[[row.tobytes() not in asked for row in others]]
            features, n_queries = np.concatenate([others, features]), len(features)
            proba, predicted = answers(head, features)
            return proba[-n_queries:], predicted[-n_queries:]
        return answers(head, features)

    def _features(
        self,
        images: tuple[ImageLike, ...],
        progress: Progress | None = None,
        errors: dict[int, ImageError] | None = None,
    ) -> NDArray[np.float32]:
        """Compute (n, d) features as the head learned from; images that cannot be read are left out, or raised."""
        assert self.representation_ is not None  # noqa: S101 - for the type checker
        assert self.space_ is not None  # noqa: S101
        return self._vectors(self.representation_, self.space_, images, progress, errors)

    def _vectors(
        self,
        representation: Representation,
        space: Space,
        images: tuple[ImageLike, ...],
        progress: Progress | None = None,
        errors: dict[int, ImageError] | None = None,
    ) -> NDArray[np.float32]:
        if not images:
            return np.empty((0, space.width), np.float32)
        parts = representation.parts(images, store=self._store(), progress=progress, errors=errors)
        found = space.vectors(parts)[:, 0]
        return found if not errors else np.delete(found, list(errors), axis=0)

    def _training_parts(
        self,
        representation: Representation,
        images: tuple[ImageLike, ...],
        labels: NDArray[Any],
        n_views: int,
        seed: int,
        progress: Progress | None,
    ) -> tuple[Parts, Parts | None]:
        """Compute the parts of training images and their augmented views, and those of views of each by themselves.

        The latter say how far an image may be from its class, where classes have few images and views are computed in
        any case: the fixed ones of a representation that averages them, else the augmented ones. Else there are none.
        """
        policy = training_policy(self.augmentation, representation)
        few = np.unique(labels, return_counts=True)[1].min() < _FEW_IMAGES
        averages = representation.name != "plain"
        if averages and few and not policy.has_views:
            each = representation.parts(images, augmentation=FixedViews(), store=self._store(), progress=progress)
            return each.central(), each
        parts = representation.parts(
            images, augmentation=policy, n_views=n_views, seed=seed, store=self._store(), progress=progress
        )
        if averages and few:
            views = FixedViews()
            return parts, representation.parts(images, augmentation=views, store=self._store(), progress=progress)
        return parts, parts if few and policy.has_views and n_views > 1 else None

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
