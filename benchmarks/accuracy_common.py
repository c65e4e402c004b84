"""What the sections of `accuracy.py` share: data sets, the yardstick, and episodes run as any user's benchmark is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fewshot import ImageDataset, benchmark
from fewshot.backbones import load_backbone
from fewshot.errors import InvalidInputError
from fewshot.heads import list_heads, make_head
from fewshot.heads.base import Head, TransductiveHead
from fewshot.heads.linear_probe import LinearProbe
from fewshot.images.sources import load_dataset
from fewshot.report.benchmark import BenchmarkReport
from fewshot.representation import load_representation
from fewshot.strategies import Strategy

LITE0 = "efficientnet_lite0"
JOINED = ("efficientnet_lite0+efficientnet_lite2", "efficientnet_lite0+efficientnet_lite1+efficientnet_lite2")
YARDSTICK = Strategy("yardstick", LinearProbe(C=1.0), None, "L2-normalised features of one view, logistic regression")
AUTO = Strategy("auto", "auto", None, representation="auto")
# So many images of each class are kept to learn from; the others can be asked about.
MOST_SHOTS = 10


@dataclass(frozen=True)
class Setting:
    """What was asked for on the command line.

    Attributes:
        datasets: by name.
        episodes: per data set and number of shots.
        trained_episodes: the same for what trains networks.
        journal: folder in which long runs keep what is finished, and go on with it; ``None`` for nowhere.
        rows: of the ablation, or kinds of peers; all where it names none.
    """

    datasets: dict[str, ImageDataset]
    episodes: int = 600
    trained_episodes: int = 5
    journal: Path | None = None
    rows: tuple[str, ...] = ()

    def few(self) -> Setting:
        """Draw as many episodes for all strategies as for those that train networks."""
        return replace(self, episodes=self.trained_episodes)

    def with_classes_of(self, n_images: int) -> Setting:
        """Keep the data sets whose smallest class has so many images."""
        kept = {name: one for name, one in self.datasets.items() if min(one.counts().values()) >= n_images}
        return replace(self, datasets=kept)

    def run(
        self,
        strategies: Sequence[Strategy],
        shots: Sequence[int],
        backbone: str = LITE0,
        label: str = "",
        most_shots: int = MOST_SHOTS,
        **options: Any,
    ) -> BenchmarkReport:
        """Run strategies on the same episodes, whichever call they are run by.

        Args:
            strategies: which; differences in the report's own tables are taken to the first.
            shots: numbers of support images per class.
            backbone: of all of them.
            most_shots: so many images of each class are kept to learn from.
            label: under which the run is kept in the journal, if it is.
            options: further arguments of :func:`fewshot.benchmark`.
        """
        most = max(most_shots, *shots)
        out = self.journal / label if self.journal is not None and label else None
        if out is not None:
            options |= {"out": out, "resume": out.exists()}
        return benchmark(
            self.datasets,
            strategies=strategies,
            backbones=backbone,
            k_shots=list(shots),
            n_episodes=self.episodes,
            trained_episodes=self.trained_episodes,
            overrides={name: {"n_query": n_query(one, most)} for name, one in self.datasets.items()},
            reference=strategies[0].name,
            **options,
        )


def n_query(dataset: ImageDataset, most_shots: int = MOST_SHOTS) -> int:
    """Queries per class: fifteen, or what is left of the smallest class; the same at all numbers of shots."""
    return min(15, min(dataset.counts().values()) - most_shots)


def find_datasets(folder: Path | None, only: Sequence[str] = ()) -> dict[str, ImageDataset]:
    """Load the embedded fruits and every data set in a folder, of those with splits the training split."""
    sources = {"fruits": "fruits"}
    for path in sorted(folder.iterdir()) if folder is not None else ():
        if path.is_dir():
            inner = path / "train" if (path / "train").is_dir() else path
            nested = any(deeper.is_dir() for sub in inner.iterdir() if sub.is_dir() for deeper in sub.iterdir())
            sources[path.name] = f"leaves:{inner}" if nested else str(inner)
    strangers = set(only) - sources.keys()
    if strangers:
        raise InvalidInputError(f"--only: no data set {', '.join(sorted(strangers))}; there are {', '.join(sources)}.")
    return {name: load_dataset(source) for name, source in sources.items() if not only or name in only}


def joined(reports: Sequence[BenchmarkReport]) -> BenchmarkReport:
    """Put runs of different strategies on the same episodes into one report."""
    first = reports[0]
    seen: set[str] = set()
    series, strategies = [], []
    for report in reports:
        fresh = [info for info in report.strategies if info.name not in seen]
        seen |= {info.name for info in fresh}
        strategies += fresh
        series += [one for one in report.series if one.strategy in {info.name for info in fresh}]
    return replace(first, series=tuple(series), strategies=tuple(strategies))


def served(backbone: str) -> str:
    """Say why a backbone cannot have the tuned representation; nothing where it can."""
    try:
        load_representation("tuned", load_backbone(backbone))
    except InvalidInputError as error:
        return str(error)
    return ""


def short(backbone: str) -> str:
    """Name a packaged backbone as tables do."""
    return backbone.replace("efficientnet_", "")


def heads_of(kind: str) -> list[str]:
    """Name all heads on features of a kind, ``"inductive"`` or ``"transductive"``, but for auto."""
    made = {name: make_head(name) for name in list_heads() if name != "auto"}
    wanted = kind == "transductive"
    return [n for n, head in made.items() if isinstance(head, Head) and isinstance(head, TransductiveHead) == wanted]
