"""PT-MAP: power transform, and class centres of maximal posterior by optimal transport (transductive).

Yuqing Hu, Vincent Gripon and Stéphane Pateux, "Leveraging the Feature Distribution in Transfer-based Few-Shot
Learning", 2020, arXiv:2006.03806. Features are made less skewed by a power, scaled to length 1, and centred. Queries
are shared among the classes by exp(-sharpness |query - centre|^2), centres move part of the way to the means of their
support and of their shares of the queries, and so on.

As published, shares are an optimal transport: Sinkhorn's rounds scale them until every query is shared out and every
class has got the same amount of queries. Where classes are not equally frequent among the queries this forces wrong
answers (18 points are lost with Dirichlet's proportions in Olivier Veilleux et al., 2021, arXiv:2204.11181). So that is
done only where the balance is declared, ``balanced=True``. Otherwise the two steps that assume it are replaced:

- Shares are not scaled to equal amounts, but multiplied by the square root of how frequent each class seems to be: of
  the mean of its shares one epoch before.
- Support and queries are both centred with the mean of the support. Published is each with its own, but the mean of
  queries of few classes is where these classes are.

Both are p = softmax(v - sharpness |query - centre|^2) over classes, where the v (n_way) make the amounts equal, or are
half the logarithms of the frequencies. They are kept from epoch to epoch, so that few rounds in each are enough. The
published code reduces features by a QR decomposition first, which changes no distance and is left out.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fewshot.errors import InvalidInputError
from fewshot.heads.base import TransductiveHead, check_count, check_positive, l2_normalise


class PTMAPHead(TransductiveHead):
    """Class centres that queries, shared among the classes, have been averaged into.

    Args:
        balanced: declares that the queries have about equally many of each class, as published. With fewer queries than
            classes, which cannot be, it is not made use of.
        power: of the features; negative ones keep their sign. 1 leaves them as they are.
        sharpness: multiplies squared distances of features of length 1: lambda of the paper.
        rate: how much of the way a centre moves in one epoch: alpha of the paper.
        epochs: times that centres are moved.
        rounds: Sinkhorn's, in every epoch.
        temperature: divides the logits: how sure the probabilities are, never which class wins. Shares are surer than
            they are right.

    Example:
        >>> head = PTMAPHead().fit([[1.0, 0.0], [0.0, 1.0]], ["cat", "dog"])
        >>> head.predict([[0.9, 0.2], [0.3, 0.9]]).tolist()
        ['cat', 'dog']
    """

    def __init__(
        self,
        *,
        balanced: bool = False,
        power: float = 0.5,
        sharpness: float = 10.0,
        rate: float = 0.2,
        epochs: int = 20,
        rounds: int = 10,
        temperature: float = 3.0,
    ) -> None:
        self.balanced = balanced
        self.power = power
        self.sharpness = sharpness
        self.rate = rate
        self.epochs = epochs
        self.rounds = rounds
        self.temperature = temperature

    def _check_parameters(self) -> None:
        if not isinstance(self.balanced, bool):
            raise InvalidInputError(f"balanced={self.balanced!r}: needs True or False.")
        for name in ("power", "sharpness", "rate", "temperature"):
            check_positive(name, getattr(self, name))
        if self.rate > 1:
            raise InvalidInputError(f"rate={self.rate!r}: needs a number of at most 1.")
        check_count("epochs", self.epochs)
        check_count("rounds", self.rounds)

    @property
    def isometric(self) -> bool:  # type: ignore[override]
        """Whether inner products of features are enough: a power is of each number, so that axes matter."""
        return self.power == 1

    def _label_jointly(self, support: Tensor, member: Tensor, query: Tensor) -> Tensor:
        n_query, n_way = query.shape[-2], member.shape[-1]
        balanced = self.balanced and n_query >= n_way
        support, query = self._transformed(support), self._transformed(query)
        middle = support.mean(dim=-2, keepdim=True)
        support, query = _unit(support - middle), _unit(query - (query.mean(-2, keepdim=True) if balanced else middle))
        labelled, count = member.mT @ support, member.sum(dim=-2).unsqueeze(-1)
        centres, level = labelled / count, query.new_zeros(())
        for _ in range(self.epochs):
            log_share, level = self._shared(self._near(query, centres), level, balanced)
            share = log_share.exp()
            means = (labelled + share @ query) / (count + share.sum(dim=-1, keepdim=True))
            centres = torch.lerp(centres, means, self.rate)
        log_share, _ = self._shared(self._near(query, centres), level, balanced)
        return log_share.mT / self.temperature

    def _transformed(self, features: Tensor) -> Tensor:
        powered = features if self.power == 1 else features.sign() * features.abs() ** self.power
        return l2_normalise(powered)

    def _near(self, query: Tensor, centres: Tensor) -> Tensor:
        """Negative squared distances, less what is the same for all classes of a query: (*batch, n_way, n_query)."""
        # A softmax over few classes is several times faster that way round.
        return self.sharpness * (2 * centres @ query.mT - centres.square().sum(dim=-1, keepdim=True))

    def _shared(self, near: Tensor, level: Tensor, balanced: bool) -> tuple[Tensor, Tensor]:
        """Share queries among classes.

        Args:
            near: (*batch, n_way, n_query) logits.
            level: (*batch, n_way, 1) what is added to them, so far.
            balanced: whether classes get equal amounts.

        Returns:
            (*batch, n_way, n_query) logarithms of shares whose sum over classes is 1, and the level for the next ones.
        """
        share = torch.log_softmax(near + level, dim=-2)
        n_way, n_query = near.shape[-2:]
        if not balanced:
            return share, _PRIOR * (torch.logsumexp(share, dim=-1, keepdim=True) - math.log(n_query))
        for _ in range(self.rounds):
            level = level - torch.logsumexp(share, dim=-1, keepdim=True) + math.log(n_query / n_way)
            share = torch.log_softmax(near + level, dim=-2)
        return share, level


# How much of the classes' apparent frequencies is believed, on a logarithmic scale: none forces balance on classes that
# are near each other, and all of it lets a frequent class grow from epoch to epoch.
_PRIOR = 0.5
# Features that cancel have no direction but rounding's, which must not be scaled up to length 1.
_SHORTEST = 0.01


def _unit(vectors: Tensor) -> Tensor:
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / length.clamp_min(_SHORTEST)
