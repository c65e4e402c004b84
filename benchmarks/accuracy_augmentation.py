"""Section `augmentation`: whether auto learns more from augmented views of each image besides its own five."""

from __future__ import annotations

from collections.abc import Iterator

from accuracy_common import AUTO, Setting
from accuracy_tables import accuracies

from fewshot.strategies import Strategy

SHOTS = (1, 5)
N_VIEWS = 4
POLICIES = ("light", "heavy")


def section(setting: Setting) -> Iterator[str]:
    """Print what views add."""
    yield "## Augmented views beside the averaged ones\n"
    yield (
        f"`auto` learns from an image as the mean of five fixed views. In the rows below it learns from {N_VIEWS} "
        "augmented views of each image, too. A cell's difference is to `auto` without.\n"
    )
    views = [Strategy(f"auto, {policy} views", "auto", policy, representation="auto") for policy in POLICIES]
    report = setting.run([AUTO, *views], SHOTS, n_views=N_VIEWS)
    for k_shot in SHOTS:
        yield f"**{k_shot} training image{'s' if k_shot > 1 else ''} per class**\n"
        yield from accuracies(report, k_shot, [AUTO.name, *(view.name for view in views)], ["auto"])
