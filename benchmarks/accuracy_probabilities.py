"""Section `probabilities`: how far heads are as sure as they are right."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from accuracy_common import AUTO, YARDSTICK, Setting, heads_of
from accuracy_tables import header, row
from numpy.typing import NDArray

from fewshot.metrics import expected_calibration_error
from fewshot.report.benchmark import BenchmarkReport
from fewshot.strategies import Strategy

SHOTS = (1, 2, 5)


def section(setting: Setting) -> Iterator[str]:
    """Print expected calibration errors, and the reliability of auto's answers."""
    yield "## Probabilities\n"
    yield (
        "Expected calibration error (ECE) in %, 15 bins of confidence: of all answers to a data set, as a mean over "
        "data sets, and of the answers to all data sets in one. Temperatures come from the training images alone.\n"
    )
    names = [*heads_of("inductive"), *heads_of("transductive")]
    plain = Strategy("auto, plain", "auto", None, representation="plain")
    strategies = [AUTO, plain, YARDSTICK, *(Strategy(name, name, None, representation="auto") for name in names)]
    report = setting.run(strategies, SHOTS)
    every = [one.name for one in strategies]
    for k_shot in SHOTS:
        sets = report.datasets_at(k_shot)
        yield f"**{k_shot} training image{'s' if k_shot > 1 else ''} per class**\n"
        yield from header(["strategy", *sets, "mean", "pooled", "log-loss"])
        for name in every:
            errors = [expected_calibration_error(bins(report, [one], name, k_shot)) for one in sets]
            pooled = expected_calibration_error(bins(report, sets, name, k_shot))
            losses = [np.mean(found.log_loss) for one in sets if (found := report.find(one, name, k_shot)) is not None]
            figures = [*errors, float(np.mean(errors)), pooled]
            yield row([name, *(f"{100 * error:.1f}" for error in figures), f"{np.mean(losses):.3f}"])
        yield ""
    yield from reliability(report, "auto")


def reliability(report: BenchmarkReport, name: str) -> Iterator[str]:
    """Table how often answers of each confidence are right, over all data sets."""
    yield f"**Reliability of `{name}`**, all data sets in one, in %: share of answers: mean confidence → share right.\n"
    yield from header(["confidence", *(f"{k} shot{'s' if k > 1 else ''}" for k in SHOTS)])
    found = [bins(report, report.datasets_at(k_shot), name, k_shot) for k_shot in SHOTS]
    n_bins = len(found[0])
    for position in range(n_bins):
        cells = []
        for one in found:
            count, sure, right = one[position]
            share = 100 * count / one[:, 0].sum()
            cells.append(f"{share:.1f}: {100 * sure / count:.1f} → {100 * right / count:.1f}" if count else "–")
        if any(one[position][0] for one in found):
            yield row([f"{100 * position / n_bins:.0f} to {100 * (position + 1) / n_bins:.0f}", *cells])
    yield ""


def bins(report: BenchmarkReport, sets: Sequence[str], name: str, k_shot: int) -> NDArray[np.float64]:
    """Add the (n_bins, 3) bins of several data sets; see fewshot.metrics."""
    series = [report.find(one, name, k_shot) for one in sets]
    return np.sum([np.array(one.calibration) for one in series if one is not None], axis=0)
