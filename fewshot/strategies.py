"""Strategies: named combinations of augmentation, backbone and head, as the command line and the API know them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from fewshot.augment import AugmentationLike
from fewshot.errors import InvalidInputError
from fewshot.heads import HEADS
from fewshot.names import unknown_name


@dataclass(frozen=True)
class Strategy:
    """One way to get from a few images to a classifier.

    Attributes:
        name: shown in every table.
        head: a head's name, a head, or any scikit-learn classifier.
        augmentation: policy of the training views.
        description: one sentence for people.
        representation: one of :data:`fewshot.representation.REPRESENTATIONS`: what is made of the backbone's features.
    """

    name: str
    head: Any
    augmentation: AugmentationLike = None
    description: str = ""
    representation: str = "plain"


_BUILT_IN = (
    Strategy(
        "simple-cnn",
        "simple-cnn",
        None,
        "small CNN from scratch, five epochs, no augmentation: the baseline as usually written",
    ),
    Strategy(
        "simple-cnn-tuned",
        "simple-cnn-tuned",
        "heavy",
        "the same CNN given a fair chance: augmentation, enough steps, schedule, weight decay",
    ),
    Strategy(
        "auto",
        "auto",
        None,
        "frozen backbone, several views and what the images call for; linear heads averaged: what `fit` does by itself",
        "auto",
    ),
    Strategy("prototypical", "prototypical", None, "frozen backbone, nearest class mean by cosine"),
    Strategy("linear-probe", "linear-probe", None, "frozen backbone, logistic regression on L2-normalised features"),
    Strategy(
        "prototypical-heavy",
        "prototypical",
        "heavy",
        "class means over the images and augmented views of each",
    ),
    Strategy(
        "linear-probe-heavy",
        "linear-probe",
        "heavy",
        "logistic regression on the images and augmented views of each",
    ),
    Strategy(
        "fine-tune",
        "fine-tune",
        "heavy",
        "from the linear probe, trains the last two stages on augmented views if the images show that it helps",
    ),
)

# Each takes as long as all of the above together, or several times that.
_BY_NAME = (
    Strategy(
        "auto-fine-tune",
        "auto-fine-tune",
        "heavy",
        "what `auto` does, or the last stages trained on augmented views, or both, as held-out training images prefer",
    ),
    Strategy(
        "norm-tuning",
        "norm-tuning",
        "heavy",
        "from the linear probe, trains the normalisation layers of the whole network if the images show that it helps",
    ),
    Strategy(
        "lora",
        "lora",
        "heavy",
        "from the linear probe, trains low-rank changes of all linear maps if the images show that it helps",
    ),
    Strategy(
        "fine-tune-full",
        "fine-tune-full",
        "heavy",
        "from the linear probe, trains all layers, early ones more slowly, if the images show that it helps",
    ),
)

STRATEGIES = {strategy.name: strategy for strategy in (*_BUILT_IN, *_BY_NAME)}
BASELINES = ("simple-cnn", "simple-cnn-tuned")
"""Strategies that differences are taken to, where they take part."""


def list_strategies() -> list[str]:
    """List the names that ``strategies=`` takes, baselines first; the last are slow, and run only where named."""
    return list(STRATEGIES)


def make_strategies(strategies: Iterable[str | Strategy] | str | None) -> list[Strategy]:
    """Resolve names and strategies; ``None`` or ``"all"`` means every built-in one but the slow ones.

    Slow are ``auto-fine-tune``, and those that train within a whole network, ``norm-tuning``, ``lora`` and
    ``fine-tune-full``: they run where they are named.

    A head's name, a head or a scikit-learn classifier is a strategy, too: on the images as they are.

    Raises:
        UnknownNameError: no strategy has this name; the message lists the closest.
        InvalidInputError: none at all, or one name twice.
    """
    if strategies is None or strategies == "all":
        return list(_BUILT_IN)
    chosen = []
    for item in [strategies] if isinstance(strategies, (str, Strategy)) else strategies:
        if item == "":
            continue
        if isinstance(item, Strategy):
            chosen.append(item)
        elif item in STRATEGIES:
            chosen.append(STRATEGIES[item])
        elif item in HEADS:
            chosen.append(Strategy(item, item, None, HEADS.describe(item)))
        elif not isinstance(item, str) and hasattr(item, "fit"):
            chosen.append(Strategy(repr(item), item))
        else:
            raise unknown_name("strategy", item, {"all", *STRATEGIES, *HEADS})
    names = [strategy.name for strategy in chosen]
    repeated = sorted({name for name in names if names.count(name) > 1})
    if not chosen or repeated:
        problem = f"{', '.join(repeated)} given twice" if repeated else "no strategy given"
        raise InvalidInputError(f"strategies: {problem}; choose from {', '.join(STRATEGIES)}.")
    return chosen
