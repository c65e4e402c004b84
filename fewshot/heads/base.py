"""What a head is: a classifier on features, its mathematics written once for a batch of episodes."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from typing import Any, ClassVar, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from fewshot.errors import InvalidInputError

State: TypeAlias = "dict[str, Tensor]"
"""What a head has learned: named tensors, each with the episodes' leading batch dimensions."""
Shape: TypeAlias = "tuple[int | str, ...]"
"""Sizes of a tensor; a name stands for a size that is free, and the same wherever the name is used."""


class Head(ClassifierMixin, BaseEstimator, metaclass=ABCMeta):  # type: ignore[misc]
    """A scikit-learn classifier on features.

    A subclass implements :meth:`_fit` and :meth:`_logits` in torch, for any number of leading batch dimensions: a
    single ``fit`` is a batch of one in float64, a benchmark evaluates hundreds of episodes as one tensor operation.

    Attributes:
        isometric: whether the answers depend on inner products of features alone, so that any rotation of the
            features, and any space that keeps their inner products, gives the same answers. A benchmark then works
            in the few dimensions that an episode's support spans.
        calibrated: whether its probabilities are as sure as they are right by themselves; those of other heads are
            given a temperature by :mod:`fewshot.calibration`.
        classes_: (n_classes,) the labels, sorted; the order of probabilities.
        n_features_in_: width of the features it was fitted on.
        state_: what was learned.
    """

    isometric: ClassVar[bool] = False
    calibrated: ClassVar[bool] = False

    @property
    def learns_from(self) -> str:
        """What of the support the answers depend on, so that a benchmark need not move the rest.

        ``"support"``; ``"means"``, where class means of the features would teach the same; or ``"unit means"``, where
        those of the L2-normalised features would. A head of the latter two implements :meth:`_logits_of_means`.
        """
        return "support"

    def _logits_of_means(self, products: Tensor, mean_lengths: Tensor, query_lengths: Tensor) -> Tensor:
        """Score queries by their inner products with class means.

        Args:
            products: (*batch, n_way, n_query) inner products.
            mean_lengths: (*batch, n_way) lengths of the means.
            query_lengths: (*batch, n_query) lengths of the queries.

        Returns:
            (*batch, n_way, n_query) logits.
        """
        raise NotImplementedError

    classes_: NDArray[Any]
    n_features_in_: int
    state_: State

    def fit(self, X: ArrayLike, y: ArrayLike) -> Self:
        """Learn from features.

        Args:
            X: (n, d) features.
            y: (n,) labels of any kind, at least two distinct ones.

        Raises:
            InvalidInputError: fewer than two classes, or a parameter out of range.
            ValueError: NaN, infinity or shapes that do not fit.
        """
        self._check_parameters()
        X, y = validate_data(self, X, y, dtype=np.float64)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise InvalidInputError(
                f"Got {len(self.classes_)} class ({self.classes_.tolist()[0]!r}); a classifier needs at least 2."
            )
        support = torch.from_numpy(np.array(X))
        with torch.no_grad():
            self.state_ = self._fit(support, torch.from_numpy(codes), len(self.classes_))
        return self

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Estimate (n, n_classes) class probabilities of (n, d) features; rows sum to 1."""
        return torch.softmax(self._scores(X), dim=-1).numpy()

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """Predict the (n,) labels of (n, d) features."""
        scores = self._scores(X)
        labels: NDArray[Any] = self.classes_[scores.argmax(dim=-1).numpy()]
        return labels

    def _scores(self, X: ArrayLike) -> Tensor:
        check_is_fitted(self)
        X = validate_data(self, X, dtype=np.float64, reset=False)
        with torch.no_grad():
            return self._logits(self.state_, torch.from_numpy(np.array(X)))

    def state_shapes(self, n_way: int, n_features: int) -> dict[str, Shape]:
        """State the shapes of what :meth:`fit` keeps, all of it float64, so that a saved model can be checked.

        A head without it works, and cannot be saved.
        """
        raise NotImplementedError

    def _check_parameters(self) -> None:
        """Raise InvalidInputError where a constructor argument is out of range."""

    @abstractmethod
    def _fit(self, support: Tensor, labels: Tensor, n_way: int) -> State:
        """Learn from (*batch, n_support, d) features and (*batch, n_support) class positions 0..n_way-1."""

    @abstractmethod
    def _logits(self, state: State, query: Tensor) -> Tensor:
        """Score (*batch, n_query, d) features: (*batch, n_query, n_way) logits."""


class TransductiveHead(Head):
    """A head that labels all queries jointly: what it says of one depends on which others are asked with it.

    A subclass implements :meth:`_label_jointly`. ``fit`` keeps the support; ``predict`` labels the features it is given
    as one query set, changes nothing, and says the same when asked again.
    """

    def _fit(self, support: Tensor, labels: Tensor, n_way: int) -> State:
        return {"support": support, "member": torch.nn.functional.one_hot(labels, n_way).to(support.dtype)}

    def state_shapes(self, n_way: int, n_features: int) -> dict[str, Shape]:
        """State the shapes of the support and of its classes."""
        return {"support": ("n_support", n_features), "member": ("n_support", n_way)}

    def _logits(self, state: State, query: Tensor) -> Tensor:
        return self._label_jointly(state["support"], state["member"], query)

    @abstractmethod
    def _label_jointly(self, support: Tensor, member: Tensor, query: Tensor) -> Tensor:
        """Score queries jointly.

        Args:
            support: (*batch, n_support, d) features.
            member: (*batch, n_support, n_way) one-hot classes, in the dtype of the features.
            query: (*batch, n_query, d) features, all of them at once.

        Returns:
            (*batch, n_query, n_way) logits.
        """


def l2_normalise(features: Tensor) -> Tensor:
    """Scale (..., d) vectors to length 1; a zero vector stays zero."""
    norm: Tensor = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    return features / norm.clamp_min(torch.finfo(features.dtype).tiny)


def check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Refuse a parameter value that is not among its choices, naming the closest.

    Raises:
        UnknownNameError: with the choices.
    """
    if value not in choices:
        from fewshot.names import unknown_name

        raise unknown_name(name, value, choices)


def check_positive(name: str, value: object) -> None:
    """Refuse a parameter that is not a finite number above 0.

    Raises:
        InvalidInputError: with what was received.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)) or not 0 < float(value) < np.inf:
        raise InvalidInputError(f"{name}={value!r}: needs a number above 0.")


def check_count(name: str, value: object) -> None:
    """Refuse a parameter that is not a whole number of at least 1.

    Raises:
        InvalidInputError: with what was received.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise InvalidInputError(f"{name}={value!r}: needs a whole number of at least 1.")
