"""Whether intervals and tests keep what they promise, by simulation where the truth is known.

python benchmarks/coverage.py

Classes are Gaussian, images scatter around their class, and a method assigns a query to the nearest mean of the support
images, of which it sees half the dimensions. All methods see equally much, so that none is better than another.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats
from torch import Tensor

from fewshot.significance import holm, paired_test
from fewshot.stats import (
    Interval,
    across_sets_interval,
    mean_interval,
    overall_interval,
    paired_interval,
    proportion_interval,
)

N_WAY, N_QUERY = 5, 15
DIMENSIONS, N_METHODS, SPREAD = 30, 6, 0.7
SHOTS, EPISODES, RUNS = (1, 5), (600, 30), 2000
CLASSES, IMAGES = 10, 60
N_SETS, GROUP, FURTHER = 40, 10, 30_000
N_IMAGES, TABLES = 100, 5000
CHUNK = 1000
Draws = NDArray[np.float64]


def accuracies(prototypes: Tensor, query: Tensor, n_methods: int) -> Tensor:
    """Share of right answers of nearest means.

    Args:
        prototypes: (n, N_WAY, DIMENSIONS) means of the support.
        query: (n, N_WAY, N_QUERY, DIMENSIONS), by true class.
        n_methods: each sees half of the dimensions, from a start of its own.

    Returns:
        (n, n_methods).
    """
    start = torch.arange(n_methods)[:, None] * DIMENSIONS // N_METHODS
    window = (start + torch.arange(DIMENSIONS // 2)) % DIMENSIONS
    seen = prototypes[:, None] * torch.zeros(n_methods, 1, DIMENSIONS).scatter_(-1, window[:, None], 1.0)
    scores = (seen.flatten(1, 2) @ query.flatten(1, 2).transpose(-1, -2)).unflatten(1, (n_methods, N_WAY))
    scores = (scores - seen.square().sum(-1, keepdim=True) / 2).unflatten(-1, (N_WAY, N_QUERY))
    # Right where the own class has the largest score; an argmax over five takes longer than all the rest.
    own, largest = scores.diagonal(dim1=2, dim2=3).transpose(-1, -2), scores.amax(2)
    return (own == largest).double().mean((-1, -2))


def open_episodes(k_shot: int, count: int, generator: torch.Generator) -> Draws:
    """Accuracies (count, N_METHODS) on episodes with classes and images of their own, in every episode new ones."""
    found = []
    for _ in range(count // CHUNK):
        classes = SPREAD * torch.randn(CHUNK, N_WAY, DIMENSIONS, generator=generator)
        # A mean of k images is as far from the centre of its class as one image, divided by the root of k.
        support = classes + torch.randn(CHUNK, N_WAY, DIMENSIONS, generator=generator) / k_shot**0.5
        query = classes[:, :, None] + torch.randn(CHUNK, N_WAY, N_QUERY, DIMENSIONS, generator=generator)
        found.append(accuracies(support, query, N_METHODS))
    return torch.cat(found).numpy()


def closed_episodes(k_shot: int, count: int, generator: torch.Generator) -> Draws:
    """Accuracies (count,) of one method on episodes drawn from one data set of CLASSES times IMAGES images."""
    images = SPREAD * torch.randn(CLASSES, 1, DIMENSIONS, generator=generator)
    images = (images + torch.randn(CLASSES, IMAGES, DIMENSIONS, generator=generator)).flatten(0, 1)
    found = []
    for start in range(0, count, CHUNK):
        n = min(CHUNK, count - start)
        # The first of random permutations of the classes, and of the images of each.
        chosen = torch.rand(n, CLASSES, generator=generator).topk(N_WAY).indices
        members = torch.rand(n, N_WAY, IMAGES, generator=generator).topk(k_shot + N_QUERY).indices
        rows = (chosen[:, :, None] * IMAGES + members).flatten()
        drawn = images.index_select(0, rows).view(n, N_WAY, k_shot + N_QUERY, DIMENSIONS)
        found.append(accuracies(drawn[:, :, :k_shot].mean(2), drawn[:, :, k_shot:], 1)[:, 0])
    return torch.cat(found).numpy()


def covered(intervals: Iterable[Interval], truths: Iterable[float]) -> str:
    """Percentage of intervals that hold their truth."""
    held = [low - 1e-12 <= truth <= high + 1e-12 for (_, low, high), truth in zip(intervals, truths, strict=True)]
    return f"{100 * np.mean(held):.1f}"


def print_open(k_shot: int, draws: Draws, n: int) -> None:
    """One line: an interval's coverage, and how often tests of no difference find one."""
    runs = draws[: RUNS * n].reshape(RUNS, n, N_METHODS)
    held = covered((mean_interval(run[:, 0]) for run in runs), [float(draws.mean())] * RUNS)
    p_values = np.array(
        [[paired_test(run[:, 0], run[:, other]).p_value for other in range(1, N_METHODS)] for run in runs]
    )
    adjusted = np.array([holm(row) for row in p_values])
    rates = ((p_values < 0.05), (p_values < 0.05).any(axis=1), (adjusted < 0.05).any(axis=1))
    figures = " | ".join(f"{100 * rate.mean():.1f}" for rate in rates)
    print(f"| {k_shot} | {n} | {100 * draws.mean():.1f} | {held} | {figures} |", flush=True)


def print_closed(k_shot: int, draws: Draws, population: float, n: int) -> None:
    """One line: coverage of the data set's own accuracy and of the population's, for one data set and for several."""
    per_set = RUNS // N_SETS
    runs = draws[:, : per_set * n].reshape(N_SETS, per_set, n)
    # A data set's accuracy, for each run: the mean over all other episodes from it, a hundred times as many.
    truths = (draws.sum(axis=1, keepdims=True) - runs.sum(axis=2)) / (draws.shape[1] - n)
    intervals = [mean_interval(run) for run in runs.reshape(-1, n)]
    own, of_all = covered(intervals, truths.ravel()), covered(intervals, [population] * RUNS)
    rng = np.random.default_rng(k_shot)
    groups = [(rng.permutation(N_SETS)[:GROUP], rng.integers(per_set, size=GROUP)) for _ in range(RUNS)]
    together = covered((overall_interval(list(runs[g])) for g in groups), (truths[g].mean() for g in groups))
    print(f"| {k_shot} | {n} | {own} | {of_all} | {together} |", flush=True)


def print_across(k_shot: int, population: float, generator: torch.Generator) -> None:
    """One line: coverage of the population's accuracy by intervals over several data sets, all of them new."""
    n = EPISODES[-1]
    groups = [[closed_episodes(k_shot, n, generator) for _ in range(GROUP)] for _ in range(RUNS)]
    across = covered(map(across_sets_interval, groups), [population] * RUNS)
    print(f"| {k_shot} | {n} | {across} | {covered(map(overall_interval, groups), [population] * RUNS)} |", flush=True)


def print_test_set(accuracy: float) -> None:
    """One line: coverage of an accuracy on N_IMAGES images, exact, and of the difference of two methods."""
    intervals = [proportion_interval(np.arange(N_IMAGES) < right) for right in range(N_IMAGES + 1)]
    weights = stats.binom.pmf(np.arange(N_IMAGES + 1), N_IMAGES, accuracy)
    wilson = sum(w for w, (_, low, high) in zip(weights, intervals, strict=True) if low <= accuracy <= high)
    cells = []
    for other in (accuracy, accuracy - 0.05):
        # The answers of two methods go together with a correlation of one half.
        both = accuracy * other + 0.5 * np.sqrt(accuracy * (1 - accuracy) * other * (1 - other))
        shares = [both, accuracy - both, other - both, 1 - accuracy - other + both]
        drawn = np.random.default_rng(0).multinomial(N_IMAGES, shares, size=TABLES)
        tables, counts = np.unique(drawn, axis=0, return_counts=True)
        found = [paired_interval(*np.repeat([(1, 1), (1, 0), (0, 1), (0, 0)], t, axis=0).T) for t in tables]
        held = np.array(
            [low <= accuracy - other + 1e-12 and high >= accuracy - other - 1e-12 for _, low, high in found]
        )
        cells.append(f"{100 * (held * counts).sum() / TABLES:.1f}")
    print(f"| {accuracy} | {100 * wilson:.1f} | {cells[0]} | {cells[1]} |", flush=True)


def main() -> None:
    """Print four tables; all figures are percentages."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    error = 100 * 1.96 * np.sqrt(0.95 * 0.05 / RUNS)
    print(
        f"{N_WAY}-way, {N_WAY * N_QUERY} queries, {RUNS} runs: percentages near 95 and 5 are within {error:.1f}."
        "\n\n"
        "Every episode with new classes and images; methods that are all equally good, five tests against one.\n\n"
        "| shots | episodes | accuracy | coverage of 95 % interval | paired test finds a difference | "
        "any of five does | any of five, Holm |\n|---|---|---|---|---|---|---|"
    )
    population = {}
    for k_shot in SHOTS:
        draws = open_episodes(k_shot, RUNS * max(EPISODES), generator)
        population[k_shot] = float(draws.mean())
        for n in EPISODES:
            print_open(k_shot, draws, n)
    print(
        f"\nEpisodes from one data set of {CLASSES} classes with {IMAGES} images, {N_SETS} such data sets in turn: "
        "coverage of 95 % intervals.\n\n"
        "| shots | episodes | of that data set's accuracy | of the population's accuracy | "
        f"{GROUP} data sets, of their mean accuracy |\n|---|---|---|---|---|"
    )
    for k_shot in SHOTS:
        length = RUNS // N_SETS * max(EPISODES) + FURTHER
        sets = np.stack([closed_episodes(k_shot, length, generator) for _ in range(N_SETS)])
        for n in EPISODES:
            print_closed(k_shot, sets, population[k_shot], n)
    print(
        f"\n{GROUP} such data sets, new ones in every run: coverage of the population's accuracy by 95 % intervals.\n\n"
        "| shots | episodes each | interval across data sets | interval over episodes |\n|---|---|---|---|"
    )
    for k_shot in SHOTS:
        print_across(k_shot, population[k_shot], generator)
    print(
        f"\nA test set of {N_IMAGES} images: coverage of 95 % intervals, exact for one method.\n\n"
        "| accuracy | Wilson | Newcombe, both equal | Newcombe, 5 points apart |\n|---|---|---|---|"
    )
    for accuracy in (0.6, 0.7, 0.8, 0.9, 0.95, 0.98):
        print_test_set(accuracy)


if __name__ == "__main__":
    main()
