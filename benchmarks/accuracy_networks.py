"""Section `networks`: training within a whole network against the frozen default and against the last stages."""

from __future__ import annotations

from collections.abc import Iterator

from accuracy_common import AUTO, YARDSTICK, Setting
from accuracy_finetuning import N_VIEWS
from accuracy_tables import accuracies

from fewshot.strategies import STRATEGIES

SHOT = 5
TUNED = ("auto-fine-tune", "norm-tuning", "lora", "fine-tune-full")


def section(setting: Setting) -> Iterator[str]:
    """Print gains and costs."""
    few = setting.few()
    yield "## Training within a whole network\n"
    yield (
        f"5-way, {SHOT} training images per class, the first {few.episodes} episodes of each data set, for all rows "
        f"alike; policy `heavy`, {N_VIEWS} views of each image. A cell's difference is to `auto`; ms: to train and to "
        "answer an episode, for `auto` and `yardstick` without their features.\n"
    )
    strategies = [AUTO, YARDSTICK, *(STRATEGIES[name] for name in TUNED)]
    report = few.run(strategies, (SHOT,), label="networks", n_views=N_VIEWS)
    yield from accuracies(report, SHOT, [strategy.name for strategy in strategies], ["auto", "auto-fine-tune"])
