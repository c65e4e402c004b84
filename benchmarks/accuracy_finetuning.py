"""Section `finetuning`: training the last stages against the frozen default, and two images of two classes."""

from __future__ import annotations

from collections.abc import Iterator

from accuracy_common import AUTO, MOST_SHOTS, YARDSTICK, Setting
from accuracy_tables import accuracies

from fewshot.strategies import STRATEGIES

SHOTS = (1, 5, 10)
MANY = 20
TUNED = ("fine-tune", "auto-fine-tune")
SCRATCH = ("simple-cnn", "simple-cnn-tuned")
N_VIEWS = 8


def section(setting: Setting) -> Iterator[str]:
    """Print gains and costs."""
    few = setting.few()
    yield "## Fine-tuning against the frozen default\n"
    yield (
        f"The first {few.episodes} episodes of each data set, for all rows alike; policy `heavy`, {N_VIEWS} views of "
        "each image. So few episodes show large differences only. A cell's difference is to `auto`; ms: to train and "
        "to answer an episode, for `auto` and `yardstick` without their features.\n"
    )
    strategies = [AUTO, YARDSTICK, *(STRATEGIES[name] for name in TUNED)]
    names = [strategy.name for strategy in strategies]
    for k_shot in (*SHOTS, MANY):
        sets = few.with_classes_of(max(k_shot, MOST_SHOTS) + 5)
        if sets.datasets:
            yield f"**5-way, {k_shot} training image{'s' if k_shot > 1 else ''} per class**\n"
            report = sets.run(strategies, (k_shot,), label=f"finetuning-{k_shot}", n_views=N_VIEWS)
            yield from accuracies(report, k_shot, names, ["auto", "yardstick"])
    yield "**Two images: 2-way, 1 training image per class**\n"
    pair = [*strategies, *(STRATEGIES[name] for name in SCRATCH)]
    report = few.run(pair, (1,), label="two-images", n_views=N_VIEWS, n_way=2)
    yield from accuracies(report, 1, [strategy.name for strategy in pair], ["auto", *SCRATCH])
