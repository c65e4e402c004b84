"""Section `ablation`: each ingredient of the tuned representation, and of auto, on and off."""

from __future__ import annotations

from collections.abc import Iterator

from accuracy_common import AUTO, LITE0, YARDSTICK, Setting
from accuracy_tables import accuracies, header, percent, points, row
from accuracy_variants import Switches, Variant, check, familiar_only, halves, unfamiliar_only

from fewshot.backbones import load_backbone
from fewshot.heads.auto import AutoHead
from fewshot.heads.linear_probe import LinearProbe
from fewshot.report.benchmark import BenchmarkReport
from fewshot.strategies import Strategy

SHOTS = (1, 2, 5, 10)
VARIANTS = {
    "central view only": Switches(views=False),
    "without the posterior": Switches(posterior=False),
    "without whitening": Switches(whitening=False),
    "without whitening and roots": Switches(whitening=False, root=False),
    "averaged views alone": Switches(posterior=False, gate=familiar_only),
    "gate: familiar always": Switches(gate=familiar_only),
    "gate: unfamiliar always": Switches(gate=unfamiliar_only),
    "gate: halves always": Switches(gate=halves),
}
LADDER = {
    "1 averaged views": Switches(posterior=False, gate=familiar_only),
    "2 and posterior": Switches(gate=familiar_only),
    "3 and gate to roots": Switches(whitening=False),
    "4 and whitening": Switches(),
}


def section(setting: Setting) -> Iterator[str]:
    """Print what is lost without each, and what each adds to those before."""
    yield "## Ablation\n"
    yield (
        "Each row but the first changes one thing of `auto` with `efficientnet_lite0`. A cell's difference is to "
        "`auto`: where it is below 0, what was changed helps.\n"
    )
    backbone = load_backbone(LITE0)
    check(backbone, next(iter(setting.datasets.values())).sources[:40])
    chosen = {name: on for name, on in VARIANTS.items() if name in setting.rows}
    if setting.rows:
        variants = [Strategy(name, "auto", None, representation=Variant(backbone, on)) for name, on in chosen.items()]
        # Of small data sets fewer images are asked about, and larger numbers of shots are left out.
        fewest = min(min(one.counts().values()) for one in setting.datasets.values())
        shots = [k_shot for k_shot in SHOTS if k_shot < fewest]
        report = setting.run([AUTO, YARDSTICK, *variants], shots, most_shots=max(shots))
        for k_shot in shots:
            yield f"**{k_shot} training image{'s' if k_shot > 1 else ''} per class**\n"
            yield from accuracies(report, k_shot, ["auto", "yardstick", *chosen], ["auto"])
        return
    made = {name: Variant(backbone, on) for name, on in {**VARIANTS, **LADDER}.items()}
    variants = [Strategy(name, "auto", None, representation=one) for name, one in made.items()]
    heads = {
        "head: ridge": "ridge",
        "head: gda": "gda",
        "head: linear-probe, C = 1": LinearProbe(C=1.0),
        "head: linear-probe, C = 30": LinearProbe(C=30.0),
        "head: average, never a choice": AutoHead(max_folds=1),
    }
    other = [Strategy(name, head, None, representation="auto") for name, head in heads.items()]
    plain = Strategy("representation: plain", "auto", None, representation="plain")
    report = setting.run([AUTO, YARDSTICK, *variants, *other, plain], SHOTS)
    names = [info.name for info in report.strategies if info.name not in LADDER]
    for k_shot in SHOTS:
        yield f"**{k_shot} training image{'s' if k_shot > 1 else ''} per class**\n"
        yield from accuracies(report, k_shot, names, ["auto"])
    yield "**One after the other**, with the head `auto` in all rows but the first:\n"
    steps = ["yardstick", "representation: plain", *LADDER]
    for k_shot in SHOTS:
        yield f"*{k_shot} training image{'s' if k_shot > 1 else ''} per class*\n"
        yield from _ladder(report, k_shot, steps)


def _ladder(report: BenchmarkReport, k_shot: int, steps: list[str]) -> Iterator[str]:
    sets = report.datasets_at(k_shot)
    yield from header(["ingredients", *sets, "mean", "mean minus yardstick", "mean minus the row before"])
    for position, name in enumerate(steps):
        cells = [percent(found) for one in sets if (found := report.accuracy(one, name, k_shot)) is not None]
        overall = report.overall(name, k_shot)
        before = [steps[0], steps[position - 1]] if position else []
        gains = [points(report.compare(name, other, k_shot).difference) for other in before]
        yield row([name, *cells, "–" if overall is None else percent(overall), *(gains or ["–", "–"])])
    yield ""
