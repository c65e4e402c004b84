"""TIM: transductive information maximisation (transductive).

Malik Boudiaf, Imtiaz Masud Ziko, Jerome Rony, Jose Dolz, Pablo Piantanida and Ismail Ben Ayed, "Transductive
Information Maximization For Few-Shot Learning", 2020, arXiv:2008.11297. Prototypes start at the means of the support
features and are moved by gradient steps until the support is classified well, every query is labelled with confidence,
and the labels of the queries are spread over the classes. Where the classes are known to be unequally frequent among
the queries, the alpha-entropies of alpha-TIM (Olivier Veilleux et al., "Realistic Evaluation of Transductive Few-Shot
Learning", 2021, arXiv:2204.11181) spread them less.

With unit features f, prototypes w (n_way, d), logits z = cos(f, w) / temperature and p = softmax(z), minimised is

    - support_weight  mean over the support of log p[its class]
    - marginal_weight H(mean over the queries of p)  +  conditional_weight mean over the queries of H(p)

where H(p) = -sum p log p, or (1 - sum p^alpha) / (alpha - 1). By the chain rule, its gradient in z is (p - y) / n for a
support feature of one-hot class y, and for a query p (a - sum p a) with a = (marginal_weight h(mean p) -
conditional_weight h(p)) / n, where h = -H' up to a constant; in w it is the part that is orthogonal to w, over |w|.

Adam with its usual second moment per coordinate depends on the axes that features are given in, and its step on their
number. Here the second moment is one per prototype, of the whole gradient, so that a prototype moves by at most about
``step_size`` whatever the space, and never leaves the span of the features.
"""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from fewshot.heads.base import TransductiveHead, check_count, check_positive, l2_normalise


class TIMHead(TransductiveHead):
    """Prototypes moved to make queries' labels confident and, all together, spread over the classes.

    It assumes queries of all classes in about equal numbers, the less the larger ``alpha_divergence`` is: the labels
    of one query alone, or of queries of one class, are drawn towards the other classes.

    Args:
        steps: gradient steps.
        step_size: how far a prototype moves in one step, against unit features. The default gets as far as Adam with
            a learning rate of 1e-4 per coordinate gets in about a thousand coordinates; it moves them by 0.0036 in
            all, a part of which goes into coordinates that hardly matter.
        temperature: divides cosines.
        support_weight: weight of the cross-entropy on the support.
        marginal_weight: weight of the entropy of the queries' mean probabilities, which is maximised.
        conditional_weight: weight of the mean entropy of a query's probabilities, which is minimised.
        alpha_divergence: order of both entropies; 1 is Shannon's and TIM, 5 is alpha-TIM's.

    Example:
        >>> head = TIMHead().fit([[1.0, 0.0], [0.0, 1.0]], ["cat", "dog"])
        >>> head.predict([[0.9, 0.2], [0.3, 0.9]]).tolist()
        ['cat', 'dog']
    """

    isometric: ClassVar[bool] = True

    def __init__(
        self,
        *,
        steps: int = 50,
        step_size: float = 0.0022,
        temperature: float = 0.1,
        support_weight: float = 1.0,
        marginal_weight: float = 1.0,
        conditional_weight: float = 0.1,
        alpha_divergence: float = 1.0,
    ) -> None:
        self.steps = steps
        self.step_size = step_size
        self.temperature = temperature
        self.support_weight = support_weight
        self.marginal_weight = marginal_weight
        self.conditional_weight = conditional_weight
        self.alpha_divergence = alpha_divergence

    def _check_parameters(self) -> None:
        check_count("steps", self.steps)
        for name, value in self.get_params().items():
            if name != "steps":
                check_positive(name, value)

    def _label_jointly(self, support: Tensor, member: Tensor, query: Tensor) -> Tensor:
        support, query = l2_normalise(support), l2_normalise(query)
        features = torch.cat([support, query], dim=-2)
        prototypes = member.mT @ support / member.sum(dim=-2).unsqueeze(-1)
        first, second = torch.zeros_like(prototypes), prototypes.new_zeros(*prototypes.shape[:-1], 1)
        for step in range(1, self.steps + 1):
            gradient = self._gradient(prototypes, features, member)
            first = torch.lerp(gradient, first, _DECAY)
            second = torch.lerp(gradient.square().sum(dim=-1, keepdim=True), second, _SQUARE_DECAY)
            length = (second / (1 - _SQUARE_DECAY**step)).sqrt() + _STILL
            prototypes = prototypes - self.step_size / (1 - _DECAY**step) * first / length
        return query @ l2_normalise(prototypes).mT / self.temperature

    def _gradient(self, prototypes: Tensor, features: Tensor, member: Tensor) -> Tensor:
        """Gradient of the objective in (*batch, n_way, d) prototypes; features are the support's, then the queries'."""
        n_support, n_query = member.shape[-2], features.shape[-2] - member.shape[-2]
        norm: Tensor = torch.linalg.vector_norm(prototypes, dim=-1, keepdim=True).clamp_min(_SHORTEST)
        direction = prototypes / norm
        # Classes come before features here: a softmax over few classes is several times faster that way round.
        log_proba = torch.log_softmax(direction @ features.mT / self.temperature, dim=-2)
        log_guess = log_proba[..., n_support:]
        proba, guess = log_proba[..., :n_support].exp(), log_guess.exp()
        log_mean = guess.mean(dim=-1, keepdim=True).log()
        confident = self.conditional_weight * self._entropy_slope(log_guess)
        value = self.marginal_weight * self._entropy_slope(log_mean) - confident
        on_query = guess * (value - (guess * value).sum(dim=-2, keepdim=True)) / n_query
        on_support = (proba - member.mT) * (self.support_weight / n_support)
        pull = torch.cat([on_support, on_query], dim=-1) @ features / self.temperature
        return (pull - (pull * direction).sum(dim=-1, keepdim=True) * direction) / norm

    def _entropy_slope(self, log_proba: Tensor) -> Tensor:
        """The derivative of -H in p, up to a constant; continuous in alpha."""
        over = self.alpha_divergence - 1
        # What underflows would have a slope without bounds below order 1.
        log_proba = log_proba.clamp_min(math.log(torch.finfo(log_proba.dtype).tiny))
        slope: Tensor = log_proba if over == 0 else torch.expm1(over * log_proba) * ((over + 1) / over)
        return slope


# Adam's. A gradient is about 1 long at the start; one that is rounding, as between equal prototypes, must not be scaled
# up to a full step.
_DECAY, _SQUARE_DECAY, _STILL = 0.9, 0.999, 1e-6
# A prototype of features that cancel has no direction but rounding's, and a gradient without bounds; this bounds both.
_SHORTEST = 0.01
