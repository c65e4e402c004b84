"""What a benchmark's renderings show: every figure computed once, so that tables and pictures agree."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from functools import cached_property

from fewshot.report.benchmark import BenchmarkReport, BenchmarkRow
from fewshot.report.model import StrategyInfo
from fewshot.significance import PairedTest, Ranks, holm
from fewshot.stats import Interval

_LEAST_COST = 1e-4
"""Seconds below which a cost is not told apart: clocks are no better, and a logarithm needs a number."""


class Findings:
    """The figures of a report, looked up by strategy and number of shots.

    Args:
        report: what was found.
    """

    def __init__(self, report: BenchmarkReport) -> None:
        self.report = report
        self.rows: dict[tuple[str, str, str], BenchmarkRow] = {
            (row.dataset, row.strategy, row.k_shot): row for row in report.summary()
        }
        self.datasets = tuple(one.name for one in report.datasets)
        self.infos = {info.name: info for info in report.strategies}
        self.shots = tuple(k for k in report.shots if any(key[2] == k for key in self.rows))
        self.several_sets = len(self.datasets) > 1

    def sets(self, k_shot: str) -> tuple[str, ...]:
        """Data sets that have this number of shots at all: means and ranks are over these."""
        return self._sets[k_shot]

    @cached_property
    def _sets(self) -> dict[str, tuple[str, ...]]:
        return {k: self.report.datasets_at(k) for k in self.shots}

    @cached_property
    def _full(self) -> dict[tuple[str, str], int]:
        return {(name, k): self.report.full_episodes(name, k) for k in self.shots for name in self.sets(k)}

    def full(self, k_shot: str, strategy: str) -> bool:
        """Whether a strategy has every episode of each data set it was run on: few and many make no fair order."""
        return all(self.full_on(row) for row in self.of(k_shot, strategy))

    def full_on(self, row: BenchmarkRow) -> bool:
        """Whether a row is a mean over as many episodes as any of its data set and number of shots."""
        return row.n_episodes == self._full[row.dataset, row.k_shot]

    def thin(self, k_shot: str) -> list[str]:
        """Strategies with a mean that takes no part in an order, for it is over fewer episodes than others'."""
        return [name for name in self.complete(k_shot) if not self.full(k_shot, name)]

    def episodes(self, k_shot: str, strategy: str | None = None) -> tuple[int, int]:
        """The least and the largest number of episodes over data sets, of a strategy or of those that have all."""
        found = [row.n_episodes for row in self.of(k_shot, strategy) if strategy is not None or self.full_on(row)]
        return min(found), max(found)

    def ran(self, k_shot: str) -> list[StrategyInfo]:
        """Strategies that were run at this number of shots, on any data set."""
        return [info for info in self.report.strategies if self.of(k_shot, info.name)]

    def of(self, k_shot: str, strategy: str | None = None) -> list[BenchmarkRow]:
        """Rows of a number of shots, of one strategy if it is named."""
        return [row for (_, name, k), row in self.rows.items() if k == k_shot and strategy in (None, name)]

    @cached_property
    def overall(self) -> dict[tuple[str, str], Interval]:
        """Mean over data sets by (strategy, shots), of strategies that were run on all that have these shots."""
        found = {(info.name, k): self.report.overall(info.name, k) for k in self.shots for info in self.ran(k)}
        return {key: interval for key, interval in found.items() if interval is not None}

    @cached_property
    def leads(self) -> dict[tuple[str, str], tuple[PairedTest, float]]:
        """Difference of these means to the reference's with its corrected p-value, by (strategy, shots)."""
        reference = self.report.reference
        found: dict[tuple[str, str], tuple[PairedTest, float]] = {}
        for k in self.shots:
            names = [name for name in self.complete(k) if name != reference]
            if (reference, k) not in self.overall:
                continue
            if self.several_sets:
                tests = [self.report.compare(name, reference, k) for name in names]
                adjusted = [float(p) for p in holm([test.p_value for test in tests])]
                found |= {(name, k): (test, p) for name, test, p in zip(names, tests, adjusted, strict=True)}
                continue
            # The mean over one data set is that data set's, and so is the difference.
            for name in names:
                row = self.rows[self.datasets[0], name, k]
                if row.difference is not None and row.p_holm is not None:
                    found[name, k] = (row.difference, row.p_holm)
        return found

    def complete(self, k_shot: str) -> list[str]:
        """Strategies that have a mean over all data sets with this number of shots."""
        return [info.name for info in self.report.strategies if (info.name, k_shot) in self.overall]

    def order(self, k_shot: str) -> list[str]:
        """Strategies from the most to the least accurate on average; of equals the one with the lower log-loss.

        Those with fewer episodes than others are left out: their means are of other episodes.
        """
        names = [name for name in self.complete(k_shot) if self.full(k_shot, name)]
        return sorted(names, key=lambda name: (-self.overall[name, k_shot].value, self.mean_loss(name, k_shot)))

    def mean_loss(self, strategy: str, k_shot: str) -> float:
        """Mean log-loss over data sets."""
        return _mean(row.log_loss for row in self.of(k_shot, strategy))

    def best(self, k_shot: str) -> str | None:
        """The strategy with the highest mean; ``None`` where none has all episodes of all data sets."""
        return next(iter(self.order(k_shot)), None)

    @cached_property
    def near(self) -> dict[str, list[str]]:
        """By number of shots, what the episodes do not separate from the best, at 5 % and corrected for the number."""
        return {k: self._near(k) for k in self.shots}

    def _near(self, k_shot: str) -> list[str]:
        best, *others = self.order(k_shot) or [""]
        adjusted = [float(p) for p in holm([self.report.compare(best, name, k_shot).p_value for name in others])]
        # Written so that a p-value that is no number separates nothing.
        return [name for name, p in zip(others, adjusted, strict=True) if not p < 0.05]

    def among_best(self) -> str | None:
        """Name a strategy that is the best or not separated from the best at every number of shots."""
        names = [name for name in self.infos if all(name in [self.best(k), *self.near[k]] for k in self.shots)]
        return max(names, key=lambda name: sum(self.overall[name, k].value for k in self.shots), default=None)

    @cached_property
    def ranks(self) -> dict[str, Ranks]:
        """Mean ranks by number of shots, where there are data sets and strategies enough."""
        found = {k: self.report.ranks(k) for k in self.shots}
        return {k: ranks for k, ranks in found.items() if ranks is not None}

    def mean_rank(self, strategy: str, k_shot: str) -> float | None:
        """Mean rank of a strategy over data sets."""
        ranks = self.ranks.get(k_shot)
        return None if ranks is None else dict(zip(ranks.names, ranks.mean_ranks, strict=True)).get(strategy)

    def usual_episodes(self, k_shot: str) -> int:
        """The number of episodes that most figures are means over."""
        return Counter(row.n_episodes for row in self.of(k_shot)).most_common(1)[0][0]

    def best_on(self, dataset: str, k_shot: str) -> str | None:
        """The strategy with the highest accuracy on a data set, of those that have all its episodes."""
        rows = [row for row in self.of(k_shot) if row.dataset == dataset and self.full_on(row)]
        return max(rows, key=lambda row: row.accuracy.value).strategy if rows else None

    def cost(self, strategy: str, k_shot: str) -> float:
        """Seconds per episode: the features' share, where they were not stored already, and training."""
        return _mean(
            max(_LEAST_COST, row.extract_seconds / row.n_episodes + row.fit_seconds)
            for row in self.of(k_shot, strategy)
        )


def bounded(interval: Interval) -> bool:
    """Whether an interval says anything: of one episode it has no ends, or those of all accuracies."""
    return math.isfinite(interval.low) and math.isfinite(interval.high) and (interval.low > 0 or interval.high < 1)


def _mean(values: Iterable[float]) -> float:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else 0.0
