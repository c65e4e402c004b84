"""Ensemble: the mean of several heads' probabilities.

Josef Kittler, Mohamad Hatef, Robert Duin and Jiri Matas, "On Combining Classifiers", 1998 (the sum rule). Each member
learns from the same support, and a query's probabilities are the weighted mean of theirs. Members that err on different
queries are together right more often; and whichever is surest says most, so that their probabilities have to mean
something: each member keeps its own temperature. The default members' do. The linear probe's lie near to even, so that
it would have little say and only make the others' less sure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from fewshot.errors import InvalidInputError
from fewshot.heads.base import Head, Shape, State, TransductiveHead, check_positive


class EnsembleHead(Head):
    """Weighted mean of the probabilities of inductive heads.

    Args:
        members: names of heads, which are taken with their defaults, or heads; on training images of three data sets
            the default two were together as good as the better of them at one shot and at five, to a fifth of a point.
            A model is saved with names only.
        weights: one number above 0 for each member, of which only the ratios count; by default all are equal.

    Example:
        >>> head = EnsembleHead(members=("ridge", "gda")).fit([[1.0, 0.0], [0.0, 1.0]], ["cat", "dog"])
        >>> head.predict([[0.9, 0.2]]).item()
        'cat'
    """

    def __init__(
        self,
        *,
        members: Sequence[str | Head] = ("svm", "gda"),
        weights: Sequence[float] | None = None,
    ) -> None:
        self.members = members
        self.weights = weights

    @property
    def isometric(self) -> bool:  # type: ignore[override] # a constant of other heads; here the members say
        """Whether all members are."""
        return all(member.isometric for member in self._heads())

    def _check_parameters(self) -> None:
        heads = self._heads()
        for head in heads:
            head._check_parameters()
        if self.weights is None:
            return
        if not isinstance(self.weights, (list, tuple)) or len(self.weights) != len(heads):
            raise InvalidInputError(f"weights={self.weights!r}: needs one number for each of {len(heads)} members.")
        for position, weight in enumerate(self.weights):
            check_positive(f"weights[{position}]", weight)

    def _heads(self) -> list[Head]:
        if not isinstance(self.members, (list, tuple)) or not self.members:
            raise InvalidInputError(f"members={self.members!r}: needs a list of heads' names, or heads.")
        return [_inductive(member) for member in self.members]

    def _fit(self, support: Tensor, labels: Tensor, n_way: int) -> State:
        states = (head._fit(support, labels, n_way) for head in self._heads())
        return {_key(i, name): tensor for i, state in enumerate(states) for name, tensor in state.items()}

    def state_shapes(self, n_way: int, n_features: int) -> dict[str, Shape]:
        """State the shapes of what the members keep, under the member's position and its own name."""
        stated = (head.state_shapes(n_way, n_features) for head in self._heads())
        return {_key(i, name): shape for i, shapes in enumerate(stated) for name, shape in shapes.items()}

    def _logits(self, state: State, query: Tensor) -> Tensor:
        heads = self._heads()
        weights = [1.0] * len(heads) if self.weights is None else self.weights
        total = sum(weights)
        shares = []
        for i, (head, weight) in enumerate(zip(heads, weights, strict=True)):
            own = {name.removeprefix(_key(i, "")): part for name, part in state.items() if name.startswith(_key(i, ""))}
            shares.append(torch.log_softmax(head._logits(own, query), dim=-1) + math.log(weight / total))
        # The logarithm of the mean probability, also where the probabilities themselves would underflow.
        return torch.logsumexp(torch.stack(shares), dim=0)


def _key(position: int, name: str) -> str:
    return f"{position}.{name}"


def _inductive(member: object) -> Head:
    """Make a member of its name; what cannot be one is refused.

    Raises:
        UnknownNameError: no head has this name.
        InvalidInputError: it needs pictures, labels queries jointly, or is no head.
    """
    from fewshot.heads import make_head

    head = make_head(member) if isinstance(member, str) else member
    if isinstance(head, TransductiveHead):
        why = "labels queries jointly, so that its probabilities of one query depend on the others"
    elif hasattr(head, "fit_images"):
        why = "trains on pictures; members are given features"
    elif not isinstance(head, Head):
        why = "is neither a head's name nor a head of this package"
    else:
        return head
    raise InvalidInputError(f"members: {member!r} {why}. Choose among 'prototypical', 'ridge' and others like them.")
