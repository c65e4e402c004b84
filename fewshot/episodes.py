"""Episodes: which images are learned from and which are asked about, drawn anew for each index.

Episode ``i`` is a function of the seed and ``i`` alone, so that any episode can be drawn again anywhere, in any order.
Support sets are nested: with the same seed and index, the support at one shot is part of the support at five, the
classes of a 2-way episode are among those of a 5-way one, and the queries are the same.

Hundreds of episodes are drawn as one array operation: random numbers come from a counter rather than a state, and each
class's images are shuffled by Fisher and Yates' method, as far as needed, for all episodes at once.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaincinv

from fewshot.counter import STEP, Keys, Positions, below, mix, rounded, shuffled, unit
from fewshot.errors import DatasetError, InvalidInputError
from fewshot.images.dataset import as_labels


@dataclass(frozen=True, eq=False)
class Episode:
    """One draw.

    Attributes:
        index: which episode.
        support: (n_support,) positions in the data set of the images to learn from, class after class.
        query: (n_query,) positions of the images to ask about, class after class.
        support_labels: (n_support,) class of each within the episode, 0..n_way-1.
        query_labels: (n_query,) likewise.
        classes: (n_way,) which classes of the data set these are, as positions in the sorted distinct labels.
    """

    index: int
    support: Positions
    query: Positions
    support_labels: Positions
    query_labels: Positions
    classes: Positions

    @property
    def n_way(self) -> int:
        """Number of classes."""
        return len(self.classes)

    def alone(self) -> EpisodeBatch:
        """Give this episode as a batch of one."""
        rows = {name: value[None] for name, value in vars(self).items() if name != "index"}
        return EpisodeBatch(np.array([self.index], dtype=np.int64), **rows)


@dataclass(frozen=True)
class Protocol:
    """How episodes are drawn.

    Attributes:
        n_way: classes per episode; a pair (least, most) for a number drawn for each episode; ``None`` for all.
        k_shot: support images per class; a pair for a number drawn for each class of each episode.
        n_query: queries per class; ``None`` for all images that are not support.
        imbalance: concentration of the Dirichlet distribution that the classes' shares of the queries are drawn from
            (``n_query`` is then their mean number per class; 2 is the usual choice, from Olivier Veilleux et al.,
            "Realistic evaluation of transductive few-shot learning", 2021, arXiv:2204.11181); ``None`` for equal
            shares. No class gives more than half of its images.
    """

    n_way: int | tuple[int, int] | None = 5
    k_shot: int | tuple[int, int] = 1
    n_query: int | None = 15
    imbalance: float | None = None

    def __post_init__(self) -> None:
        for name in ("n_way", "k_shot", "n_query"):
            object.__setattr__(self, name, _plain_number(getattr(self, name)))
        _check_range("n_way", self.n_way, 2)
        _check_range("k_shot", self.k_shot, 1)
        if self.k_shot is None:
            raise InvalidInputError("k_shot=None: needs a whole number of support images per class, or a pair.")
        if self.n_query is not None:
            _check_range("n_query", self.n_query, 1)
        if self.imbalance is not None:
            is_number = isinstance(self.imbalance, (int, float, np.number)) and not isinstance(self.imbalance, bool)
            if not is_number or not 0 < float(self.imbalance) < np.inf:
                raise InvalidInputError(f"imbalance={self.imbalance!r}: needs a number above 0, such as 2.")
            object.__setattr__(self, "imbalance", float(self.imbalance))
            if self.n_query is None:
                raise InvalidInputError("imbalance= draws how many queries each class has, so n_query= must be given.")

    @property
    def is_uniform(self) -> bool:
        """Whether all episodes have the same numbers of classes, support images and queries per class."""
        return not isinstance(self.n_way, tuple) and not isinstance(self.k_shot, tuple) and self.imbalance is None

    @property
    def shots(self) -> str:
        """How tables write the number of shots."""
        return _written(self.k_shot)

    def describe(self) -> str:
        """Say in words how episodes are drawn."""
        ways = "all classes" if self.n_way is None else f"{_written(self.n_way, ' to ')}-way"
        queries = "all other images as queries" if self.n_query is None else f"{self.n_query} queries per class"
        if self.imbalance is not None:
            queries += f" on average, in shares drawn from a Dirichlet distribution of concentration {self.imbalance:g}"
        return f"{ways}, {_written(self.k_shot, ' to ')}-shot, {queries}"


def sample_episode(
    labels: ArrayLike,
    *,
    n_way: int | tuple[int, int] | None = 5,
    k_shot: int | tuple[int, int] = 1,
    n_query: int | None = 15,
    imbalance: float | None = None,
    seed: int = 0,
    index: int = 0,
) -> Episode:
    """Draw one episode; it depends on the seed and the index alone.

    Args:
        labels: (n,) labels of any kind.
        n_way: see :class:`Protocol`, as for the next three.
        k_shot: support images per class.
        n_query: queries per class.
        imbalance: of the queries.
        seed: of all episodes.
        index: which episode, from 0.

    Raises:
        InvalidInputError: an argument out of range.
        DatasetError: too few classes, or too few images in some, which are named.

    Example:
        >>> episode = sample_episode(["cat"] * 9 + ["dog"] * 9, n_way=2, k_shot=1, n_query=5, seed=0, index=7)
        >>> len(episode.support), len(episode.query)
        (2, 10)
    """
    if isinstance(index, bool) or not isinstance(index, (int, np.integer)) or not 0 <= index < 2**63:
        raise InvalidInputError(f"index={index!r}: needs a whole number from 0.")
    sampler = EpisodeSampler(labels, Protocol(n_way, k_shot, n_query, imbalance), seed=seed)
    return next(iter(sampler.draw(range(index, index + 1))))


@dataclass(frozen=True, eq=False)
class EpisodeBatch:
    """Episodes of equal shape, as arrays.

    Attributes:
        indices: (b,) which episodes.
        support: (b, n_support) positions in the data set.
        query: (b, n_query) positions.
        support_labels: (b, n_support) classes within the episode.
        query_labels: (b, n_query) likewise.
        classes: (b, n_way) which classes of the data set.
    """

    indices: Positions
    support: Positions
    query: Positions
    support_labels: Positions
    query_labels: Positions
    classes: Positions

    @property
    def n_way(self) -> int:
        """Number of classes in each."""
        return int(self.classes.shape[1])

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, part: slice) -> EpisodeBatch:
        return EpisodeBatch(**{name: value[part] for name, value in vars(self).items()})

    def __iter__(self) -> Iterator[Episode]:
        for i, index in enumerate(self.indices.tolist()):
            yield Episode(
                index,
                self.support[i],
                self.query[i],
                self.support_labels[i],
                self.query_labels[i],
                self.classes[i],
            )


class EpisodeSampler:
    """Draws episodes from labels.

    Args:
        labels: (n,) labels of any kind.
        protocol: how.
        seed: of all episodes.
        is_query: (n,) which images are asked about and never learned from, where the data set has a fixed split; the
            others are learned from and never asked about. Without, an image can be either.

    Raises:
        DatasetError: too few classes, or too few images in some, which are named.
    """

    def __init__(
        self, labels: ArrayLike, protocol: Protocol, *, seed: int = 0, is_query: NDArray[np.bool_] | None = None
    ) -> None:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 2**64:
            raise InvalidInputError(f"seed={seed!r}: needs a whole number from 0.")
        self.protocol = protocol
        self.class_names, codes = np.unique(as_labels(labels), return_inverse=True)
        self._key = mix(np.array([seed], dtype=np.uint64) + STEP)
        pools = [np.ones(len(codes), bool)] if is_query is None else [~is_query, is_query]
        # One table of images per pool, padded to the largest class.
        self._members = [_members(codes, pool, len(self.class_names)) for pool in pools]
        self._sizes = [np.array([len(m) for m in members]) for members in self._members]
        self._tables = [_padded(members) for members in self._members]
        self._check()

    def draw(self, indices: Sequence[int] | range) -> EpisodeBatch | list[Episode]:
        """Draw episodes: one batch where the protocol gives all the same shape, else a list."""
        numbers = np.asarray(indices, dtype=np.uint64)
        keys = mix(self._key ^ mix(numbers * STEP + np.uint64(1)))
        most = self._ways()[1]
        classes = shuffled(keys, _CLASSES, np.full(len(keys), len(self.class_names)), most)
        shots, queries = self._counts(keys, classes)
        class_keys = mix(keys[:, None] ^ mix(classes.astype(np.uint64) * STEP + _MEMBERS))
        support, query = self._positions(class_keys, classes, shots, queries)
        if self.protocol.is_uniform and (shots == shots[0, 0]).all() and (queries == queries[0, 0]).all():
            return self._batch(numbers, classes, support, query, int(shots[0, 0]), int(queries[0, 0]))
        ways = self._drawn_ways(keys)
        return [
            _episode(int(number), classes[i, :way], support[i], query[i], shots[i, :way], queries[i, :way])
            for i, (number, way) in enumerate(zip(numbers, ways.tolist(), strict=True))
        ]

    def batches(self, indices: Sequence[int] | range) -> list[EpisodeBatch]:
        """Draw episodes and put those of equal shape together, in order of their first index."""
        drawn = self.draw(indices)
        if isinstance(drawn, EpisodeBatch):
            return [drawn]
        groups: dict[tuple[int, int, int], list[Episode]] = {}
        for episode in drawn:
            groups.setdefault((episode.n_way, len(episode.support), len(episode.query)), []).append(episode)
        return [
            EpisodeBatch(
                np.array([episode.index for episode in group], dtype=np.int64),
                *(
                    np.stack([getattr(episode, name) for episode in group])
                    for name in ("support", "query", "support_labels", "query_labels", "classes")
                ),
            )
            for group in groups.values()
        ]

    @property
    def most_entries(self) -> int:
        """About how many numbers an episode takes while it is drawn."""
        per_class = int(max(sizes.max() for sizes in self._sizes))
        if self.protocol.n_query is not None and self.protocol.imbalance is None:
            per_class = min(per_class, self.protocol.n_query + self._shots()[1])
        return self._ways()[1] * per_class

    def _ways(self) -> tuple[int, int]:
        """Least and most classes of an episode."""
        n_way = self.protocol.n_way
        if n_way is None:
            return len(self.class_names), len(self.class_names)
        return n_way if isinstance(n_way, tuple) else (n_way, n_way)

    def _shots(self) -> tuple[int, int]:
        k_shot = self.protocol.k_shot
        return k_shot if isinstance(k_shot, tuple) else (k_shot, k_shot)

    def _drawn_ways(self, keys: Keys) -> Positions:
        low, high = self._ways()
        return low + below(mix(keys + _WAYS), np.full(len(keys), high - low + 1))

    def _counts(self, keys: Keys, classes: Positions) -> tuple[Positions, Positions]:
        """Draw (b, n_way) numbers of support images and of queries per class."""
        low, high = self._shots()
        class_keys = keys[:, None] ^ mix(classes.astype(np.uint64) * STEP + _SHOTS)
        shots = low + below(mix(class_keys), np.full(classes.shape, high - low + 1))
        taken = shots if len(self._sizes) == 1 else np.zeros_like(shots)
        room = self._sizes[-1][classes] - taken
        if self.protocol.n_query is None:
            return shots, room
        if self.protocol.imbalance is None:
            return shots, np.minimum(room, self.protocol.n_query)
        ways = self._drawn_ways(keys)
        taking_part = np.arange(classes.shape[1]) < ways[:, None]
        share_keys = keys[:, None] ^ mix(classes.astype(np.uint64) * STEP + _QUERIES)
        shares = _dirichlet(share_keys, self.protocol.imbalance, taking_part)
        # At most half of a class, whatever is left of it: the queries, and support that is nested, must not depend on
        # the number of shots. Where even that is more than is left, every class gives its equal share at most.
        half = np.maximum(self.protocol.n_query, self._sizes[-1][classes] // 2)
        room = np.where(half <= room, half, self.protocol.n_query)
        return shots, rounded(shares, self.protocol.n_query * ways, np.where(taking_part, room, 0))

    def _positions(
        self, class_keys: Keys, classes: Positions, shots: Positions, queries: Positions
    ) -> tuple[Positions, Positions]:
        """Draw positions of support and queries: (b, n_way, most) arrays, of which the counts say what is used."""
        if len(self._tables) == 2:
            support = self._shuffled_members(0, class_keys, classes, int(shots.max()))
            query_keys = mix(class_keys + STEP)
            return support, self._shuffled_members(1, query_keys, classes, int(queries.max()))
        # Where the number of queries does not depend on the shots, they come first: then they are the same at all.
        leading = queries if self.protocol.n_query is not None else shots
        order = self._shuffled_members(0, class_keys, classes, int((shots + queries).max()))
        most = int(max(shots.max(), queries.max()))
        rest = np.minimum(leading[:, :, None] + np.arange(most), order.shape[2] - 1)
        trailing = np.take_along_axis(order, rest, axis=2)
        return (trailing, order) if self.protocol.n_query is not None else (order, trailing)

    def _shuffled_members(self, pool: int, keys: Keys, classes: Positions, count: int) -> Positions:
        """Shuffle the images of each episode's classes as far as the first ``count``: (b, n_way, count)."""
        n, n_way = classes.shape
        flat = classes.ravel()
        order = shuffled(keys.ravel(), np.uint64(0), self._sizes[pool][flat], count)
        return self._tables[pool][flat[:, None], order].reshape(n, n_way, count)

    def _batch(
        self,
        numbers: Keys,
        classes: Positions,
        support: Positions,
        query: Positions,
        shots: int,
        queries: int,
    ) -> EpisodeBatch:
        n, n_way = classes.shape
        support_labels = np.repeat(np.arange(n_way), shots)
        query_labels = np.repeat(np.arange(n_way), queries)
        return EpisodeBatch(
            numbers.astype(np.int64),
            support[:, :, :shots].reshape(n, -1),
            query[:, :, :queries].reshape(n, -1),
            np.broadcast_to(support_labels, (n, len(support_labels))),
            np.broadcast_to(query_labels, (n, len(query_labels))),
            classes,
        )

    def _check(self) -> None:
        """Refuse a protocol that the data cannot serve, naming the classes that are too small."""
        _, ways = self._ways()
        n_classes = len(self.class_names)
        if n_classes < max(2, ways):
            shown = ", ".join(map(str, self.class_names[:10])) + (", ..." if n_classes > 10 else "")
            raise DatasetError(
                f"Episodes need {max(2, ways)} classes; the data has {n_classes} ({shown}). Lower n_way (--ways)."
            )
        _, shots = self._shots()
        queries = 1 if self.protocol.n_query is None else self.protocol.n_query
        if len(self._sizes) == 1:
            self._refuse_small(self._sizes[0], shots + queries, f"{shots} to learn from and {queries} to ask about")
        else:
            self._refuse_small(self._sizes[0], shots, f"{shots} to learn from, in the training split")
            self._refuse_small(self._sizes[1], queries, f"{queries} to ask about, in the test split")

    def _refuse_small(self, sizes: Positions, needed: int, what: str) -> None:
        short = np.flatnonzero(sizes < needed)
        if len(short):
            shown = ", ".join(f"{self.class_names[c]} ({sizes[c]})" for c in short[:10])
            more = f" and {len(short) - 10} more" if len(short) > 10 else ""
            raise DatasetError(
                f"Every class needs {needed} images ({what}); too few have: {shown}{more}. Lower k_shot (--shots) "
                "or n_query (--queries), or take these classes out."
            )


# What a random number is for: each purpose has a stream of its own, so that changing one count changes no other.
_CLASSES, _WAYS, _SHOTS, _QUERIES, _MEMBERS = (np.uint64(purpose << 32) for purpose in range(1, 6))


def _dirichlet(keys: Keys, concentration: float, taking_part: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Draw (b, n_way) shares from Dirichlet's distribution, over the classes that take part.

    Gamma variables are drawn as logarithms, since those of a small concentration are mostly too small for floats: a
    variable of shape a is one of shape a + 1 times a uniform one to the power of 1 / a (George Marsaglia and Wai Wan
    Tsang, "A simple method for generating gamma variables", 2000).
    """
    bits = mix(keys)
    logs = np.log(gammaincinv(concentration + 1, unit(bits))) + np.log(unit(mix(bits + STEP))) / concentration
    logs = np.where(taking_part, logs, -np.inf)
    return np.asarray(np.exp(logs - logs.max(axis=1, keepdims=True)))


def _members(codes: Positions, pool: NDArray[np.bool_], n_classes: int) -> list[Positions]:
    order = np.argsort(codes, kind="stable")
    order = order[pool[order]]
    ends = np.searchsorted(codes[order], np.arange(n_classes + 1))
    return [order[a:b] for a, b in itertools.pairwise(ends)]


def _padded(members: list[Positions]) -> Positions:
    table = np.zeros((len(members), max((len(m) for m in members), default=1)), dtype=np.int64)
    for row, positions in zip(table, members, strict=True):
        row[: len(positions)] = positions
    return table


def _episode(
    index: int, classes: Positions, support: Positions, query: Positions, shots: Positions, queries: Positions
) -> Episode:
    ways = np.arange(len(classes))
    return Episode(
        index,
        np.concatenate([support[c, : shots[c]] for c in ways]),
        np.concatenate([query[c, : queries[c]] for c in ways]),
        np.repeat(ways, shots),
        np.repeat(ways, queries),
        classes,
    )


def _written(value: int | tuple[int, int], dash: str = "-") -> str:
    return f"{value[0]}{dash}{value[1]}" if isinstance(value, tuple) else str(value)


def _plain_number(value: Any) -> Any:
    """Turn numpy's whole numbers, and pairs given as lists, into Python's."""
    if isinstance(value, np.integer):
        return int(value)
    if isinstance(value, (list, tuple)):
        return tuple(_plain_number(part) for part in value)
    return value


def _check_range(name: str, value: object, least: int) -> None:
    """Refuse what is neither a whole number of at least ``least`` nor a rising pair of them."""
    if value is None:
        return
    parts = value if isinstance(value, tuple) else (value, value)
    whole = all(isinstance(part, (int, np.integer)) and not isinstance(part, bool) for part in parts)
    if len(parts) != 2 or not whole or not least <= parts[0] <= parts[1]:
        raise InvalidInputError(f"{name}={value!r}: needs a whole number, at least {least}, or a rising pair of them.")
