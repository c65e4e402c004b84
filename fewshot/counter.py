"""Random numbers from a counter: whole arrays of them, each a function of its key alone.

The finaliser of SplitMix64 (Guy Steele, Doug Lea and Christine Flood, "Fast Splittable Pseudorandom Number
Generators", 2014) turns keys into random bits. Keys are made from a seed and what a number is for, so that any number
can be computed again without those before it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Keys = NDArray[np.uint64]
Positions = NDArray[np.int64]

STEP = np.uint64(0x9E3779B97F4A7C15)
"""What keys are spaced by: 2**64 divided by the golden ratio."""
# Arrays to shuffle are made for at most this many entries at a time.
_MAX_ENTRIES = 1 << 22


def mix(values: Keys) -> Keys:
    """Apply SplitMix64's finaliser: every bit of the input changes about half of those of the output."""
    z = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def unit(values: Keys) -> NDArray[np.float64]:
    """Turn random bits into numbers strictly between 0 and 1."""
    return ((values >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def below(values: Keys, limit: Positions) -> Positions:
    """Turn random bits into whole numbers from 0 to limit - 1; limits are far below 2**32, so that none is favoured."""
    return ((values >> np.uint64(32)) * limit.astype(np.uint64) >> np.uint64(32)).astype(np.int64)


def shuffled(keys: Keys, purpose: np.uint64, sizes: Positions, count: int) -> Positions:
    """Shuffle 0..size-1 once per key; give the first ``count`` of each, (len(keys), count).

    Rows with fewer than ``count`` go on repeating an entry; their surplus is never used.
    """
    width = int(sizes.max())
    rows = max(1, _MAX_ENTRIES // width)
    if len(keys) > rows:
        parts = [shuffled(keys[i : i + rows], purpose, sizes[i : i + rows], count) for i in range(0, len(keys), rows)]
        return np.concatenate(parts)
    deck = np.tile(np.arange(width, dtype=np.int32), (len(keys), 1)).ravel()
    first = np.arange(len(keys)) * width
    steps = np.arange(count)
    bits = mix(keys[:, None] + purpose + (steps.astype(np.uint64) + np.uint64(1)) * STEP)
    left = np.maximum(sizes[:, None] - steps, 1)
    start = np.minimum(steps, sizes[:, None] - 1)
    chosen = first[:, None] + start + below(bits, left)
    here = first[:, None] + start
    result = np.empty((count, len(keys)), dtype=np.int64)
    for step in range(count):
        at = chosen[:, step]
        result[step] = deck[at]
        # What lay here moves to where the chosen one was; this place is never looked at again.
        deck[at] = deck[here[:, step]]
    return result.T


def rounded(shares: NDArray[np.float64], total: Positions, room: Positions) -> Positions:
    """Turn (b, n_way) shares into whole numbers that add up to ``total`` (b,), none above its room."""
    total = np.minimum(total, room.sum(axis=1))
    counts: Positions = np.zeros(shares.shape, dtype=np.int64)
    # What a full class cannot take goes to the others, in proportion; a few rounds settle it.
    while (missing := total - counts.sum(axis=1)).any():
        open_shares = np.where(counts < room, np.maximum(shares, 1e-300), 0.0)
        exact = missing[:, None] * open_shares / np.maximum(open_shares.sum(axis=1, keepdims=True), 1e-300)
        whole = np.minimum(np.floor(exact).astype(np.int64), room - counts)
        counts += whole
        left = total - counts.sum(axis=1)
        # The largest remainders get one more each.
        remainder = np.where(counts < room, exact - np.floor(exact), -1.0)
        order = np.argsort(-remainder, axis=1, kind="stable")
        rank = np.argsort(order, axis=1, kind="stable")
        counts += (rank < left[:, None]) & (remainder >= 0)
    return counts
