"""Self-training: a ridge that learns from the queries what it believes of them (transductive).

Henry Scudder, "Probability of error of some adaptive pattern-recognition machines", 1965: a classifier labels what is
unlabelled and learns from its own labels. With soft labels and classes free to have any share, nothing here takes the
queries to be balanced. On features of length 1, centred with the mean of the support and scaled to length 1 again:

1. Soft k-means (Mengye Ren et al., 2018, arXiv:1803.00676) shares the queries among the classes: p = softmax(cos /
   temperature + prior log(mean p)), where the mean over the queries is how frequent each class seems to be, and a
   prior of one half believes half of it, on a logarithmic scale. It is what one image per class needs most: it is
   seldom near the mean of its class.
2. With K images in the smallest class, the start is 1 / K of that and the rest is what :class:`RidgeHead` says of each
   query by itself: the more images, the less soft k-means knows better.
3. A ridge is fitted to the support at weight 1 and to the queries, as they are believed to be, at a lower one; its
   answers are the next belief. Two steps at one image per class and one more for each further one, up to ``steps``: an
   error grows from step to step, the less the more the support holds against it.

A weighted ridge minimises sum_i w_i |W x_i + b - y_i|^2 + alpha |W|^2. With weighted means x and y, and rows R =
sqrt(w) (X - x), its answers are y + (X - x) P (Y - y) with either of

    P  =  (R^T R + alpha I)^-1 R^T sqrt(w)  =  R^T (R R^T + alpha I)^-1 sqrt(w)

where only Y changes from step to step: P is found once.

**Few queries, or queries of few classes.** What the other queries tell of one grows with their number. Everything that
is not the ridge on the support (the centring, what queries weigh in soft k-means and in the ridge, the prior, soft
k-means' part of the start) is multiplied by a trust of m / (m + half_trust N), where m is the number of *other* queries
and N that of classes. A query by itself is answered exactly as by ``RidgeHead(alpha=alpha)``. The centre is the mean of
the support, not of the queries: where all of them are of one class, theirs is what that class looks like, and taking it
away costs most of the answers.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from fewshot.heads.base import TransductiveHead, check_count, check_positive, l2_normalise
from fewshot.heads.ridge import RidgeHead


class SelfTrainingHead(TransductiveHead):
    """Ridge fitted to the support and, softly, to its own answers; for queries of any class frequencies.

    Args:
        alpha: strength of the ridge's penalty.
        query_weight: weight of a query in the ridge, where a support feature's is 1.
        steps: at most so many times the ridge learns from its answers; K + 1 times with K images in the smallest class.
        guess_temperature: divides the ridge's scores where they become beliefs to learn from.
        cluster_steps: steps of soft k-means.
        cluster_temperature: divides cosines there.
        prior: power of the classes' estimated frequencies there; 0 takes all classes to be equally frequent.
        half_trust: number of other queries per class at which what they tell is trusted by a half.
        views: rows of the support there are of each image.
        temperature: divides the logits: how sure the probabilities are, never which class wins.

    Example:
        >>> head = SelfTrainingHead().fit([[1.0, 0.0], [0.0, 1.0]], ["cat", "dog"])
        >>> head.predict([[0.9, 0.2], [0.3, 0.9]]).tolist()
        ['cat', 'dog']
    """

    isometric: ClassVar[bool] = True

    def __init__(
        self,
        *,
        alpha: float = 0.1,
        query_weight: float = 0.3,
        steps: int = 5,
        guess_temperature: float = 0.3,
        cluster_steps: int = 10,
        cluster_temperature: float = 0.15,
        prior: float = 0.5,
        half_trust: float = 6.0,
        views: int = 1,
        temperature: float = 0.35,
    ) -> None:
        self.alpha = alpha
        self.query_weight = query_weight
        self.steps = steps
        self.guess_temperature = guess_temperature
        self.cluster_steps = cluster_steps
        self.cluster_temperature = cluster_temperature
        self.prior = prior
        self.half_trust = half_trust
        self.views = views
        self.temperature = temperature

    def _check_parameters(self) -> None:
        for name, value in self.get_params().items():
            if name in ("steps", "cluster_steps", "views"):
                check_count(name, value)
            elif name != "prior" or value != 0:
                check_positive(name, value)

    def _label_jointly(self, support: Tensor, member: Tensor, query: Tensor) -> Tensor:
        n_support, n_others, n_way = support.shape[-2], query.shape[-2] - 1, member.shape[-1]
        trust = n_others / (n_others + self.half_trust * n_way)
        features = l2_normalise(torch.cat([support, query], dim=-2))
        features = _unit(features - trust * features[..., :n_support, :].mean(dim=-2, keepdim=True))
        support, query = features[..., :n_support, :], features[..., n_support:, :]
        shots = member.sum(dim=-2).amin(dim=-1)[..., None, None] / self.views
        clustered = self._soft_kmeans(member.mT @ support, query, trust)
        belief = torch.lerp(self._alone(support, member, query), clustered, trust / shots)
        weight = features.new_full(features.shape[-2:-1], self.query_weight * trust)
        weight[:n_support] = 1
        centre, projection = _weighted_ridge(features, weight, self.alpha)
        seen = query - centre
        scores = belief
        for step in range(self.steps):
            targets = 2 * torch.cat([member, belief], dim=-2) - 1
            level = (weight @ targets / weight.sum()).unsqueeze(-2)
            answer = level + seen @ (projection @ (targets - level))
            # Episodes of one batch may have different numbers of images in their smallest classes.
            scores = torch.where(step <= shots, answer, scores)
            belief = torch.softmax(scores / self.guess_temperature, dim=-1)
        return scores / self.temperature

    def _alone(self, support: Tensor, member: Tensor, query: Tensor) -> Tensor:
        """What the ridge believes of each query by itself: (*batch, n_query, n_way) probabilities."""
        ridge = RidgeHead(alpha=self.alpha, normalize=False, temperature=self.guess_temperature)
        state = ridge._fit(support, member.argmax(dim=-1), member.shape[-1])
        return torch.softmax(ridge._logits(state, query), dim=-1)

    def _soft_kmeans(self, labelled: Tensor, query: Tensor, trust: float) -> Tensor:
        """Share (*batch, n_query, d) queries among classes.

        Args:
            labelled: (*batch, n_way, d) sums of the support's features. Only a prototype's direction matters, so that
                sums do for means.
            query: (*batch, n_query, d) features.
            trust: 0..1, in the queries.

        Returns:
            (*batch, n_query, n_way) probabilities.
        """
        tiny = torch.finfo(query.dtype).tiny
        prototypes, log_prior = labelled, labelled.new_zeros(())
        for step in range(self.cluster_steps + 1):
            share = torch.softmax(query @ _unit(prototypes).mT / self.cluster_temperature + log_prior, dim=-1)
            if step < self.cluster_steps:
                prototypes = labelled + trust * share.mT @ query
                log_prior = self.prior * trust * share.mean(dim=-2, keepdim=True).clamp_min(tiny).log()
        return share


def _weighted_ridge(features: Tensor, weight: Tensor, alpha: float) -> tuple[Tensor, Tensor]:
    """Find what a ridge on (*batch, n, d) features of (n,) weights does with any targets.

    Returns:
        (*batch, 1, d) weighted mean x of the features, and (*batch, d, n) projection P.
    """
    centre = (weight @ features / weight.sum()).unsqueeze(-2)
    root = weight.sqrt()
    rows = (features - centre) * root.unsqueeze(-1)
    n_rows, width = rows.shape[-2:]
    # Below the rounding of sums over rows of length 1 at most, a penalty would be lost.
    penalty = (alpha + n_rows * torch.finfo(rows.dtype).eps) * torch.eye(min(n_rows, width), dtype=rows.dtype)
    penalty = penalty.to(rows.device)
    if width > n_rows:
        projection = rows.mT @ torch.cholesky_inverse(torch.linalg.cholesky(rows @ rows.mT + penalty))
    else:
        projection = torch.cholesky_solve(rows.mT, torch.linalg.cholesky(rows.mT @ rows + penalty))
    return centre, projection * root


# Features that cancel have no direction but rounding's, which must not be scaled up to length 1.
_SHORTEST = 0.01


def _unit(vectors: Tensor) -> Tensor:
    """Scale (..., d) vectors to length 1, but for those that are next to nothing."""
    length: Tensor = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return vectors / length.clamp_min(_SHORTEST)
