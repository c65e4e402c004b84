"""Expected accuracy: evidence against naive loops, and intervals that behave as intervals must."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.base import clone

from fewshot.calibration import MARGIN_SHARE
from fewshot.errors import InvalidInputError
from fewshot.expected import Evidence, accuracy, expected_accuracy, gather_evidence, lead, regressors
from fewshot.heads import make_head


def unit(row):
    return row / np.linalg.norm(row)


def images(n_way, k_shot, noise, seed=0, n_features=20, n_views=4):
    """Return (n, d) features, labels, and (n, n_views, d) views."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([f"class {i}" for i in range(n_way)], k_shot)
    rows = np.repeat(rng.gamma(1.0, size=(n_way, n_features)), k_shot, axis=0)
    rows = np.abs(rows + noise * rng.normal(size=rows.shape))
    return rows, labels, np.abs(rows[:, None] + 0.2 * rng.normal(size=(len(rows), n_views, n_features)))


@pytest.mark.parametrize("k_shot", [1, 3])
def test_separation_is_that_of_a_loop(k_shot):
    rows, labels, views = images(4, k_shot, 0.3)
    prototypes = [unit(np.mean([unit(r) for r in rows[labels == name]], axis=0)) for name in np.unique(labels)]
    apart = [min(1 - a @ b for b in prototypes if b is not a) for a in prototypes]
    among = [np.mean([1 - unit(v[i]) @ unit(v[j]) for i in range(4) for j in range(i)]) for v in views]
    expected = np.mean(np.log(apart)) - np.mean(np.log(among))
    assert gather_evidence(make_head("ridge"), rows, labels, views).separation == pytest.approx(expected)


def test_held_out_evidence_is_that_of_naive_refits():
    rows, labels, _ = images(3, 4, 1.5)
    right, surprise = [], []
    for fold in range(4):
        out = np.arange(3) * 4 + fold
        kept = np.setdiff1d(np.arange(12), out)
        head = clone(make_head("linear-probe")).fit(rows[kept], labels[kept])
        logits, own = (head._logits(head.state_, torch.from_numpy(rows[part])).numpy() for part in (out, kept))
        margin = np.mean([row[c] - np.delete(row, c).max() for row, c in zip(own, kept // 4, strict=True)])
        right += (logits.argmax(axis=1) == np.arange(3)).tolist()
        surprise += (-log_softmax(logits / (MARGIN_SHARE * margin), axis=1).diagonal()).tolist()
    evidence = gather_evidence(make_head("linear-probe"), rows, labels)
    assert evidence.right == pytest.approx(lead((sum(right) + 0.5) / 13, 3))
    assert evidence.likely == pytest.approx(lead(np.exp(-np.mean(surprise)), 3), rel=1e-4)
    assert (evidence.n_way, evidence.k_shot, evidence.n_held) == (3, 4, 12)


def test_with_one_image_per_class_nothing_is_held_out():
    rows, labels, views = images(3, 1, 0.0)
    assert gather_evidence(make_head("ridge"), rows, labels) == Evidence(3, 1.0)
    assert gather_evidence(make_head("ridge"), rows, labels, views).right is None


@pytest.mark.parametrize("n_way", [2, 7])
def test_lead_is_the_inverse_of_a_softmax(n_way):
    logits = np.zeros(n_way)
    logits[0] = 1.7
    assert lead(np.exp(log_softmax(logits))[0], n_way) == pytest.approx(1.7)
    assert accuracy(1.7, n_way) == pytest.approx(np.exp(log_softmax(logits))[0])
    assert accuracy(0.0, n_way) == pytest.approx(1 / n_way)
    assert np.isfinite([lead(0.0, n_way), lead(1.0, n_way)]).all()


KINDS = [Evidence(5, 1.0), Evidence(5, 1.0, 1.5), Evidence(5, 5.0, None, 2.0, 1.5, 25)]


@pytest.mark.parametrize("evidence", KINDS, ids=str)
def test_a_wider_coverage_gives_a_wider_interval_that_holds_the_narrower(evidence):
    found = [expected_accuracy(evidence, coverage=level) for level in np.arange(0.5, 0.951, 0.05).round(2)]
    for narrow, wide in pairwise(found):
        assert 0 <= wide.low <= narrow.low <= narrow.high <= wide.high <= 1
    assert all(entry.low < entry.mid < entry.high for entry in found[6:])


def test_better_evidence_is_worth_more():
    leads = np.linspace(-1, 6, 8)
    middles = [expected_accuracy(Evidence(5, 5.0, None, m, m, 25)).mid for m in leads]
    assert middles == sorted(middles)
    assert middles[-1] - middles[0] > 0.4
    apart = [expected_accuracy(Evidence(5, 1.0, s)).mid for s in (0.5, 1.5, 2.5)]
    assert apart == sorted(apart)


def test_held_out_images_narrow_the_interval():
    one, several = (expected_accuracy(evidence) for evidence in (KINDS[0], KINDS[2]))
    assert several.high - several.low < (one.high - one.low) / 1.3


@pytest.mark.parametrize(("n_held", "share"), [(100, 0.5), (100, 0.8), (400, 0.95)])
def test_doubt_grows_as_the_chance_of_held_out_answers_does(n_held, share):
    drawn = np.random.default_rng(0).binomial(n_held, share, 4000)
    leads = [lead((right + 0.5) / (n_held + 1), 5) for right in drawn]
    doubts = [regressors(Evidence(5, n_held / 5, None, one, 2.0, n_held))[2] for one in leads]
    ratio = (np.mean(np.square(doubts)) - 1) / np.var(leads)
    assert ratio == pytest.approx(10, rel=0.1)


def test_answers_that_are_nearly_all_right_leave_more_doubt():
    def doubt(right, n_held):
        return regressors(Evidence(5, n_held / 5, None, lead((right + 0.5) / (n_held + 1), 5), 2.0, n_held))[2]

    assert doubt(50, 50) > 1.5 * doubt(40, 50)
    assert doubt(40, 50) > 1.2 * doubt(160, 200)


def test_intervals_hold_the_accuracy_on_photographs(fruits, backbone):
    pytest.importorskip("pyarrow")
    from fewshot.features import extract_views

    pool = fruits["train"]
    chosen = [i for name in pool.class_names[:8] for i in np.flatnonzero(np.array(pool.labels) == name)[:12]]
    features = extract_views(backbone, [pool.sources[i] for i in chosen])[:, 0].reshape(8, 12, -1)
    held = []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        classes, order = rng.choice(8, 5, replace=False), rng.permutation(12)
        support, query = (np.concatenate(features[classes][:, part]) for part in (order[:5], order[5:]))
        head = make_head("linear-probe").fit(support, np.repeat(range(5), 5))
        # All right out of few is no accuracy of 1; half a right and half a wrong answer more, as in the table.
        reached = (np.sum(head.predict(query) == np.repeat(range(5), 7)) + 0.5) / 36
        low, _, high = expected_accuracy(gather_evidence(head, support, np.repeat(range(5), 5)), coverage=0.8)
        held.append(low <= reached <= high)
    assert np.mean(held) >= 0.7


def test_what_does_not_fit_is_refused():
    rows, labels, views = images(3, 2, 0.3)
    with pytest.raises(InvalidInputError, match=r"coverage=0\.99"):
        expected_accuracy(KINDS[0], coverage=0.99)
    with pytest.raises(InvalidInputError, match="finite"):
        expected_accuracy(Evidence(5, 1.0, np.nan))
    for wrong in (views[:2], views[:, :1], views[..., :3], rows):
        with pytest.raises(InvalidInputError, match="two views"):
            gather_evidence(make_head("ridge"), rows, labels, wrong)


def test_a_lead_that_no_images_give_is_bounded():
    evidence = Evidence(5, 5.0, None, 800.0, 1.0, 25)
    low, mid, high = expected_accuracy(evidence)
    assert 0 < low <= mid <= high <= 1
