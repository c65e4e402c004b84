"""What an image-level head is: a classifier that needs pixels, because it trains a network."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from torch import Tensor

from fewshot.augment import Policy
from fewshot.backbones.base import Backbone, Progress
from fewshot.errors import InvalidInputError
from fewshot.images.reader import ImageLike

HistoryRow: TypeAlias = "dict[str, float | int | str]"
"""One line of a training curve: ``phase``, ``step`` or ``epoch``, ``loss`` and perhaps more."""
OnStep: TypeAlias = "Callable[[HistoryRow], None]"


@dataclass(frozen=True)
class TrainingSetup:
    """Everything a training run needs besides images and labels.

    Attributes:
        backbone: the pretrained networks; ``None`` for heads that start from nothing.
        policy: how augmented views are made.
        n_views: augmented views per image.
        seed: of views, initial weights and the order of batches.
        on_step: called with each line of the training curve; of trainings side by side when all have ended.
        progress: called with (pictures done, pictures in all) while a pretrained network's features are computed, then
            with (steps done, steps in all) while it is trained; not where nothing is to be trained. Steps are told
            from the threads that train, one call at a time.
    """

    backbone: Backbone | None
    policy: Policy
    n_views: int
    seed: int
    on_step: OnStep | None = None
    progress: Progress | None = None


class ImageHead(ClassifierMixin, BaseEstimator, metaclass=ABCMeta):  # type: ignore[misc]
    """A classifier on images.

    Attributes:
        needs_backbone: whether it starts from a pretrained network.
        chooses_views: whether it decides itself how many augmented views it sees.
        usual_policy: augmentation where none is asked for.
        earlier: values of parameters that models were saved without, before there were these parameters.
        kept: names and types of what training found besides tensors, which a saved model keeps as JSON.
        classes_: (n_classes,) the labels, sorted.
        history_: the training curve.
    """

    needs_backbone: ClassVar[bool]
    chooses_views: ClassVar[bool] = False
    usual_policy: ClassVar[str] = "light"
    earlier: ClassVar[Mapping[str, Any]] = {}
    kept: ClassVar[Mapping[str, type]] = {}
    classes_: NDArray[Any]
    history_: list[HistoryRow]

    def check_backbone(self, backbone: Backbone) -> None:
        """Refuse a backbone the head cannot use.

        Raises:
            InvalidInputError: with what to use instead.
        """

    def fit_images(self, images: Sequence[ImageLike], y: NDArray[Any], setup: TrainingSetup) -> Self:
        """Train on images with (n,) labels.

        Raises:
            InvalidInputError: fewer than two classes, or a setup the head cannot use.
            ImageError: an image cannot be read.
        """
        self.classes_, codes = np.unique(np.asarray(y), return_inverse=True)
        if len(self.classes_) < 2:
            raise InvalidInputError(
                f"Got {len(self.classes_)} class ({self.classes_.tolist()[0]!r}); a classifier needs at least 2."
            )
        self.history_ = []
        self._train(images, codes.astype(np.int64), setup)
        return self

    @abstractmethod
    def _train(self, images: Sequence[ImageLike], codes: NDArray[np.int64], setup: TrainingSetup) -> None:
        """Train on images with (n,) class positions."""

    @abstractmethod
    def predict_proba_images(self, images: Sequence[ImageLike]) -> NDArray[np.float64]:
        """Estimate (n, n_classes) class probabilities."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Give what was learned, for saving."""

    @abstractmethod
    def blank_tensors(self, n_classes: int, backbone: Backbone | None) -> dict[str, Tensor]:
        """Give tensors of the shapes and types that :meth:`restore` needs, on any device, whatever their values.

        Raises:
            InvalidInputError: a backbone the head cannot use.
        """

    def facts(self) -> dict[str, Any]:
        """Give what training found besides tensors, as JSON can hold it."""
        found = {name: getattr(self, name) for name in self.kept if hasattr(self, name)}
        return {n: {repr(k): v for k, v in x.items()} if isinstance(x, dict) else x for n, x in found.items()}

    def restore_facts(self, facts: Mapping[str, Any]) -> None:
        """Take back what :meth:`facts` gave, before anything else: which tensors are kept may depend on it.

        Raises:
            InvalidInputError: a name the head does not keep, or a value of another type.
        """
        for name, value in facts.items():
            kind = self.kept.get(name)
            # JSON writes 1.0 as 1 in other programs' hands.
            number = kind is float and isinstance(value, int) and not isinstance(value, bool)
            if kind is None or not (type(value) is kind or number):
                raise InvalidInputError(f"{type(self).__name__} keeps no {name!r} of type {type(value).__name__}.")
            try:
                setattr(self, name, {float(k): float(v) for k, v in value.items()} if kind is dict else kind(value))
            except (TypeError, ValueError):
                raise InvalidInputError(f"{name!r} of {type(self).__name__} needs numbers.") from None

    @abstractmethod
    def restore(self, tensors: Mapping[str, Tensor], classes: NDArray[Any], backbone: Backbone | None) -> None:
        """Take back what :meth:`tensors` gave.

        Raises:
            KeyError: a tensor is missing.
            RuntimeError: a tensor has another shape than the network.
        """

    def _record(self, row: HistoryRow, setup: TrainingSetup) -> None:
        self.history_.append(row)
        if setup.on_step is not None:
            setup.on_step(row)
