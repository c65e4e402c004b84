"""Episodes: depend on (seed, index) alone, are nested, fair, and refused where the data cannot serve them."""

import itertools
from collections import Counter

import numpy as np
import pytest
from scipy import stats

from fewshot import sample_episode
from fewshot.counter import mix, rounded, shuffled, unit
from fewshot.episodes import EpisodeBatch, EpisodeSampler, Protocol
from fewshot.errors import DatasetError, InvalidInputError

LABELS = np.repeat(["ant", "bee", "cat", "dog", "elk", "fox", "gnu"], [30, 31, 32, 33, 34, 35, 36])
UNEVEN = [
    Protocol((2, 6), 2, 5),
    Protocol(3, (1, 10), 5),
    Protocol(4, 3, 6, imbalance=2.0),
    Protocol((2, 7), (1, 5), 4, imbalance=0.5),
    Protocol(None, 2, None),
]


def same(a, b):
    return all(
        np.array_equal(getattr(a, name), getattr(b, name))
        for name in ("index", "support", "query", "support_labels", "query_labels", "classes")
    )


@pytest.mark.parametrize("protocol", [Protocol(5, 1, 15), Protocol(2, 5, 3), *UNEVEN], ids=Protocol.describe)
def test_an_episode_is_what_it_says(protocol):
    sampler = EpisodeSampler(LABELS, protocol, seed=3)
    names = np.unique(LABELS)
    for episode in sampler.draw(range(40)):
        together = np.concatenate([episode.support, episode.query])
        assert len(set(together.tolist())) == len(together)
        assert len(set(episode.classes.tolist())) == episode.n_way
        assert (LABELS[episode.support] == names[episode.classes][episode.support_labels]).all()
        assert (LABELS[episode.query] == names[episode.classes][episode.query_labels]).all()
        assert set(episode.support_labels.tolist()) == set(range(episode.n_way))
        low, high = protocol.k_shot if isinstance(protocol.k_shot, tuple) else (protocol.k_shot,) * 2
        shots = np.bincount(episode.support_labels)
        assert shots.min() >= low
        assert shots.max() <= high
        if protocol.n_query is not None:
            assert len(episode.query) == protocol.n_query * episode.n_way
        else:
            assert len(together) == np.isin(LABELS, names[episode.classes]).sum()


@pytest.mark.parametrize("protocol", [Protocol(5, 1, 15), *UNEVEN], ids=Protocol.describe)
def test_an_episode_depends_on_seed_and_index_alone(protocol):
    whole = list(EpisodeSampler(LABELS, protocol, seed=1).draw(range(30)))
    for part in ([17], [29, 3], range(10, 13)):
        for episode in EpisodeSampler(LABELS, protocol, seed=1).draw(part):
            assert same(episode, whole[episode.index])
    again = sample_episode(
        LABELS,
        n_way=protocol.n_way,
        k_shot=protocol.k_shot,
        n_query=protocol.n_query,
        imbalance=protocol.imbalance,
        seed=1,
        index=17,
    )
    assert same(again, whole[17])
    other = list(EpisodeSampler(LABELS, protocol, seed=2).draw(range(30)))
    assert not any(same(a, b) for a, b in zip(whole, other, strict=True))


def test_support_is_nested_and_queries_are_the_same_at_every_number_of_shots():
    one, five = (sample_episode(LABELS, n_way=5, k_shot=k, n_query=9, seed=4, index=11) for k in (1, 5))
    assert set(one.support) <= set(five.support)
    np.testing.assert_array_equal(one.query, five.query)
    two = sample_episode(LABELS, n_way=2, k_shot=1, n_query=9, seed=4, index=11)
    np.testing.assert_array_equal(two.support, one.support[:2])


def test_support_is_nested_where_queries_are_imbalanced():
    labels = np.repeat(np.arange(5), 40)
    for index in range(50):
        one, five = (
            sample_episode(labels, n_way=5, k_shot=k, n_query=8, imbalance=0.5, seed=4, index=index) for k in (1, 5)
        )
        assert set(one.support) <= set(five.support)


def test_ranges_contain_the_episodes_of_their_classes():
    """A class's images do not depend on how many classes or shots there are."""
    ranged = EpisodeSampler(LABELS, Protocol((2, 5), (1, 5), 9), seed=4)
    for episode in ranged.draw(range(20)):
        full = sample_episode(LABELS, n_way=5, k_shot=5, n_query=9, seed=4, index=episode.index)
        assert set(episode.support) <= set(full.support)
        assert set(episode.query) <= set(full.query)


def test_every_class_and_every_image_is_drawn_equally_often():
    labels = np.repeat(np.arange(4), [3, 4, 5, 6])
    classes, support, first_query = Counter(), Counter(), Counter()
    n = 20000
    for episode in EpisodeSampler(labels, Protocol(2, 1, 1), seed=0).draw(range(n)):
        classes[tuple(episode.classes.tolist())] += 1
        support[int(episode.support[0])] += 1
        first_query[int(episode.support[0]), int(episode.query[0])] += 1
    pairs = list(itertools.permutations(range(4), 2))
    assert stats.chisquare([classes[pair] for pair in pairs]).pvalue > 1e-3
    expected = 1 / (4 * np.bincount(labels)[labels])
    assert stats.chisquare([support[i] for i in range(len(labels))], n * expected).pvalue > 1e-3
    both = [(i, j) for i, j in itertools.product(range(18), repeat=2) if i != j and labels[i] == labels[j]]
    size = np.bincount(labels)
    expected = [n / (4 * size[labels[i]] * (size[labels[i]] - 1)) for i, _ in both]
    assert stats.chisquare([first_query[pair] for pair in both], expected).pvalue > 1e-3


def test_a_shuffle_gives_every_permutation_equally_often():
    keys = mix(np.arange(60000, dtype=np.uint64))
    found = Counter(map(tuple, shuffled(keys, np.uint64(0), np.full(len(keys), 4), 4).tolist()))
    assert len(found) == 24
    assert stats.chisquare(list(found.values())).pvalue > 1e-3


def test_a_large_shuffle_is_made_in_parts_that_do_not_show(monkeypatch):
    keys, sizes = mix(np.arange(50, dtype=np.uint64)), np.arange(20, 70)
    whole = shuffled(keys, np.uint64(7), sizes, 10)
    monkeypatch.setattr("fewshot.counter._MAX_ENTRIES", 200)
    np.testing.assert_array_equal(shuffled(keys, np.uint64(7), sizes, 10), whole)


def test_shares_of_the_queries_follow_dirichlets_distribution():
    sampler = EpisodeSampler(np.repeat(np.arange(5), 2000), Protocol(5, 1, 200, imbalance=2.0), seed=0)
    counts = np.array([np.bincount(e.query_labels, minlength=5) for e in sampler.draw(range(4000))])
    assert (counts.sum(axis=1) == 1000).all()
    shares = counts / 1000
    # Each share of Dirichlet(2, 2, 2, 2, 2) is Beta(2, 8).
    assert stats.kstest(shares[:, 0], stats.beta(2, 8).cdf).pvalue > 1e-3
    np.testing.assert_allclose(shares.mean(axis=0), 0.2, atol=0.01)


def test_a_small_concentration_gives_almost_all_queries_to_one_class():
    sampler = EpisodeSampler(np.repeat(np.arange(5), 500), Protocol(5, 1, 20, imbalance=1e-3), seed=0)
    counts = np.array([np.bincount(e.query_labels, minlength=5) for e in sampler.draw(range(200))])
    assert (counts.max(axis=1) >= 90).mean() > 0.95
    assert stats.chisquare(np.bincount(counts.argmax(axis=1), minlength=5)).pvalue > 1e-3


def test_a_class_that_cannot_give_its_share_leaves_it_to_the_others():
    room = np.array([[2, 50, 50], [0, 1, 100], [3, 3, 3]])
    counts = rounded(np.array([[0.9, 0.05, 0.05]] * 3), np.array([30, 30, 30]), room)
    assert (counts <= room).all()
    assert counts.sum(axis=1).tolist() == [30, 30, 9]
    assert counts[0].tolist() == [2, 14, 14]


def test_whole_numbers_are_as_near_to_the_shares_as_can_be():
    shares = np.random.default_rng(0).dirichlet([1] * 6, size=50)
    counts = rounded(shares, np.full(50, 37), np.full((50, 6), 100))
    assert (counts.sum(axis=1) == 37).all()
    assert (np.abs(counts - 37 * shares) < 1).all()


def test_random_numbers_look_random():
    bits = mix(np.arange(1 << 16, dtype=np.uint64))
    assert stats.kstest(unit(bits), "uniform").pvalue > 1e-3
    flipped = mix(np.arange(1 << 12, dtype=np.uint64)) ^ mix(np.arange(1 << 12, dtype=np.uint64) ^ np.uint64(1))
    share = np.mean([bin(int(x)).count("1") for x in flipped]) / 64
    assert 0.49 < share < 0.51


def test_with_a_fixed_split_support_and_queries_never_mix():
    is_query = np.arange(len(LABELS)) % 3 == 0
    for protocol in (Protocol(3, 2, 4), Protocol(None, 5, None), Protocol(3, (1, 5), 4, imbalance=1.0)):
        for episode in EpisodeSampler(LABELS, protocol, seed=0, is_query=is_query).draw(range(10)):
            assert not is_query[episode.support].any()
            assert is_query[episode.query].all()
    assert len(episode.query) == 12
    whole = next(iter(EpisodeSampler(LABELS, Protocol(None, 5, None), is_query=is_query).draw([0])))
    assert sorted(whole.query) == np.flatnonzero(is_query).tolist()


def test_episodes_of_equal_shape_come_as_one_batch():
    batch = EpisodeSampler(LABELS, Protocol(3, 2, 4)).draw(range(8))
    assert isinstance(batch, EpisodeBatch)
    assert (len(batch), batch.n_way, batch.support.shape, batch.query.shape) == (8, 3, (8, 6), (8, 12))
    groups = EpisodeSampler(LABELS, Protocol((2, 3), 2, 4)).batches(range(30))
    assert sorted(i for group in groups for i in group.indices.tolist()) == list(range(30))
    assert sorted(group.n_way for group in groups) == [2, 3]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"n_way": 8}, "Episodes need 8 classes; the data has 7"),
        ({"k_shot": 20, "n_query": 15}, r"35 images \(20 to learn from and 15 to ask about\).*ant \(30\).*elk \(34\)"),
        ({"k_shot": 30, "n_query": None}, r"ant \(30\)"),
    ],
)
def test_data_that_is_too_small_is_refused_with_the_classes(arguments, words):
    with pytest.raises(DatasetError, match=words):
        sample_episode(LABELS, **{"n_way": 5, "k_shot": 1, "n_query": 5} | arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        {"n_way": 1},
        {"n_way": (3, 2)},
        {"n_way": 2.5},
        {"k_shot": 0},
        {"k_shot": None},
        {"k_shot": True},
        {"n_query": 0},
        {"imbalance": 0},
        {"imbalance": 1.0, "n_query": None},
        {"index": -1},
        {"seed": -1},
        {"seed": 1.5},
    ],
    ids=str,
)
def test_arguments_out_of_range_are_refused(arguments):
    with pytest.raises(InvalidInputError):
        sample_episode(LABELS, **arguments)


def test_the_split_whose_classes_are_too_small_is_named():
    is_query = np.zeros(len(LABELS), bool)
    is_query[::20] = True
    with pytest.raises(DatasetError, match="in the test split"):
        EpisodeSampler(LABELS, Protocol(3, 1, 5), is_query=is_query)
    with pytest.raises(DatasetError, match="in the training split"):
        EpisodeSampler(LABELS, Protocol(3, 40, 1), is_query=is_query)
