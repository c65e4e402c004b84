"""Section `finetuning`: what trains a network on the images against the frozen default, and two images in all."""

from __future__ import annotations

from collections.abc import Iterator

from accuracy_common import AUTO, YARDSTICK, Setting
from accuracy_tables import accuracies

from fewshot.report.benchmark import BenchmarkReport
from fewshot.strategies import STRATEGIES

SHOTS = (1, 5, 10)
MANY = 20
TUNED = ("fine-tune", "norm-tuning", "lora", "fine-tune-full")
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
    report = few.run(strategies, SHOTS, label="finetuning", n_views=N_VIEWS)
    for k_shot in SHOTS:
        yield f"**5-way, {k_shot} training image{'s' if k_shot > 1 else ''} per class**\n"
        yield from _table(report, k_shot, ["auto", "yardstick"])
    larger = few.with_classes_of(MANY + 5)
    if larger.datasets:
        yield f"**5-way, {MANY} training images per class**\n"
        report = larger.run(strategies, (MANY,), label=f"finetuning-{MANY}", n_views=N_VIEWS)
        yield from _table(report, MANY, ["auto", "yardstick"])
    yield "**Two images: 2-way, 1 training image per class**\n"
    pair = [*strategies, *(STRATEGIES[name] for name in SCRATCH)]
    report = few.run(pair, (1,), label="two-images", n_views=N_VIEWS, n_way=2)
    yield from _table(report, 1, ["auto", *SCRATCH])


def _table(report: BenchmarkReport, k_shot: int, references: list[str]) -> Iterator[str]:
    yield from accuracies(report, k_shot, [info.name for info in report.strategies], references)
