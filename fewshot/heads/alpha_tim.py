"""alpha-TIM: transductive information maximisation for queries of unequally frequent classes (transductive).

Olivier Veilleux, Malik Boudiaf, Pablo Piantanida and Ismail Ben Ayed, "Realistic Evaluation of Transductive Few-Shot
Learning", 2021, arXiv:2204.11181. As TIM, it moves prototypes until the support is classified well, every query is
labelled with confidence and the labels are spread over the classes; with alpha-entropies in place of Shannon's the
spread may be uneven at little cost. :mod:`fewshot.heads.tim` has the objective and its gradient.

The paper takes 1,000 steps of Adam at a rate of 1e-4. Here the defaults are 50 longer ones: on features of training
photographs, one per class, they give 24 in 25 queries the label that those 1,000 steps give, and so do 1,000 short
steps of this implementation; longer steps, or more of them, change the accuracy by a tenth of a point.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from fewshot.heads.base import TransductiveHead, check_positive
from fewshot.heads.tim import TIMHead


class AlphaTIMHead(TransductiveHead):
    """TIM with alpha-entropies, which does not take the queries' classes to be equally frequent.

    Args:
        steps: gradient steps.
        step_size: how far a prototype moves in one step, against unit features.
        temperature: divides cosines while prototypes are moved.
        support_weight: weight of the cross-entropy on the support.
        marginal_weight: weight of the entropy of the queries' mean probabilities, which is maximised.
        conditional_weight: weight of the mean entropy of a query's probabilities, which is minimised.
        alpha_divergence: order of both entropies: the larger, the more uneven the classes may be.
        answer_temperature: divides the cosines to the final prototypes: how sure the probabilities are, never which
            class wins. The objective asks for confidence, so that at ``temperature`` they are far too sure.

    Example:
        >>> head = AlphaTIMHead().fit([[1.0, 0.0], [0.0, 1.0]], ["cat", "dog"])
        >>> head.predict([[0.9, 0.2], [0.3, 0.9]]).tolist()
        ['cat', 'dog']
    """

    isometric: ClassVar[bool] = True

    def __init__(
        self,
        *,
        steps: int = 50,
        step_size: float = 0.02,
        temperature: float = 1 / 15,
        support_weight: float = 1.0,
        marginal_weight: float = 1.0,
        conditional_weight: float = 1.0,
        alpha_divergence: float = 5.0,
        answer_temperature: float = 0.15,
    ) -> None:
        self.steps = steps
        self.step_size = step_size
        self.temperature = temperature
        self.support_weight = support_weight
        self.marginal_weight = marginal_weight
        self.conditional_weight = conditional_weight
        self.alpha_divergence = alpha_divergence
        self.answer_temperature = answer_temperature

    def _check_parameters(self) -> None:
        self._tim()._check_parameters()
        check_positive("answer_temperature", self.answer_temperature)

    def _tim(self) -> TIMHead:
        return TIMHead(**{name: value for name, value in self.get_params().items() if name != "answer_temperature"})

    def _label_jointly(self, support: Tensor, member: Tensor, query: Tensor) -> Tensor:
        return self._tim()._label_jointly(support, member, query) * (self.temperature / self.answer_temperature)
