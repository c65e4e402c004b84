"""Section `heads`: auto, and every inductive head, against the yardstick; and what an episode costs a user."""

from __future__ import annotations

import time
from collections.abc import Iterator

from accuracy_common import AUTO, JOINED, LITE0, YARDSTICK, Setting, heads_of, joined, served, short
from accuracy_tables import accuracies, header, row, verdict

from fewshot import FewShotClassifier, ImageDataset, sample_episode
from fewshot.strategies import Strategy

SHOTS = (1, 2, 5, 10)


def section(setting: Setting) -> Iterator[str]:
    """Print a table per number of shots, the verdict, and the costs."""
    yield "## Heads against the yardstick\n"
    yield (
        "`yardstick`: logistic regression, C = 1, on L2-normalised features of one central view of "
        "`efficientnet_lite0`. Other heads are inductive, on representation `auto`.\n"
    )
    tuned = [Strategy(name, name, None, representation="auto") for name in heads_of("inductive")]
    reports = [setting.run([YARDSTICK, AUTO, *tuned], SHOTS)]
    backbones, automatic = [LITE0], ["auto"]
    for backbone in JOINED:
        refusal = served(backbone)
        if refusal:
            yield f"`{short(backbone)}` was left out: {refusal}\n"
            continue
        name = f"auto, {short(backbone)}"
        reports.append(setting.run([Strategy(name, "auto", None, representation="auto")], SHOTS, backbone))
        backbones.append(backbone)
        automatic.append(name)
    report = joined(reports)
    for k_shot in SHOTS:
        yield f"**{k_shot} training image{'s' if k_shot > 1 else ''} per class**\n"
        yield from accuracies(report, k_shot, ["yardstick", *automatic, *(one.name for one in tuned)])
    for name in automatic:
        yield verdict(report, name, "yardstick", SHOTS)
    yield ""
    yield from costs(setting, backbones)


def costs(setting: Setting, backbones: list[str]) -> Iterator[str]:
    """Time a user's whole path on one 5-way 5-shot episode with 75 queries, nothing stored before."""
    dataset = next(iter(setting.datasets.values()))
    yield "**What an episode costs a user**: 5-way 5-shot, 75 queries, `FewShotClassifier`, nothing stored before.\n"
    yield from header(["backbone", "representation", "head", "s per image", "s per episode", "of it the head, s"])
    yield _cost(dataset, LITE0, "plain", YARDSTICK.head, "yardstick")
    for backbone in backbones:
        yield _cost(dataset, backbone, "auto", "auto", "auto")
    yield ""


def _cost(dataset: ImageDataset, backbone: str, representation: str, head: object, name: str) -> str:
    episode = sample_episode(dataset.labels, k_shot=5)
    support, query = dataset.subset(episode.support), dataset.subset(episode.query)
    classifier = FewShotClassifier(
        backbone, head, augmentation="none", cache=False, representation=representation, random_state=0
    )
    classifier.fit(support)  # what is loaded once is not an episode's cost
    start = time.perf_counter()
    classifier.fit(support)
    classifier.predict_proba(query)
    whole = time.perf_counter() - start
    assert classifier.representation_ is not None
    start = time.perf_counter()
    for part in (support, query):
        classifier.representation_.parts(part.sources)
    features = time.perf_counter() - start
    n = len(support) + len(query)
    cells = [f"{features / n:.3f}", f"{whole:.2f}", f"{max(whole - features, 0):.2f}"]
    return row([short(backbone), representation, name, *cells])
