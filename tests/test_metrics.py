"""Metrics of many episodes at once, against scikit-learn one episode at a time."""

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, log_loss

from fewshot.errors import InvalidInputError
from fewshot.metrics import N_BINS, calibration_bins, episode_metrics, expected_calibration_error

BOTH = [calibration_bins, lambda proba, labels: episode_metrics(torch.log(proba), labels)["calibration"].numpy()]


def episodes(*batch, n_query=30, n_way=5, scale=2.0, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(n_way, (*batch, n_query), generator=generator)
    logits = scale * torch.randn(*batch, n_query, n_way, generator=generator, dtype=torch.float64)
    return logits.to(dtype), labels


def naive_bins(proba, labels):
    bins = np.zeros((N_BINS, 3))
    for row, label in zip(proba, labels, strict=True):
        confidence = max(row)
        (position,) = [m for m in range(N_BINS) if m / N_BINS < confidence <= (m + 1) / N_BINS]
        bins[position] += 1, confidence, int(np.argmax(row)) == label
    return bins


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
@pytest.mark.parametrize("n_way", [2, 5, 20])
def test_each_episode_is_scored_as_by_scikit_learn(n_way, dtype, tolerance):
    logits, labels = episodes(3, 4, n_way=n_way, dtype=dtype)
    found = episode_metrics(logits, labels)
    assert set(found) == {"accuracy", "balanced_accuracy", "log_loss", "brier", "calibration"}
    bins = np.zeros((N_BINS, 3))
    for index in np.ndindex(3, 4):
        proba, true = torch.softmax(logits[index].double(), -1).numpy(), labels[index].numpy()
        answers = proba.argmax(axis=1)
        truth = np.eye(n_way)[true]
        # scikit-learn's macro average is over the classes that have queries, too.
        expected = {
            "accuracy": accuracy_score(true, answers),
            "balanced_accuracy": np.mean(
                [accuracy_score(true[true == c], answers[true == c]) for c in np.unique(true)]
            ),
            "log_loss": log_loss(true, proba, labels=range(n_way)),
            "brier": np.mean(((proba - truth) ** 2).sum(axis=1)),
        }
        if set(answers) <= set(true):
            assert expected["balanced_accuracy"] == pytest.approx(balanced_accuracy_score(true, answers))
        for name, value in expected.items():
            assert found[name].shape == (3, 4)
            assert found[name].dtype == torch.float64
            assert found[name][index].item() == pytest.approx(value, abs=tolerance)
        bins = bins + naive_bins(proba, true)
    np.testing.assert_allclose(found["calibration"], bins, atol=100 * tolerance)


def test_accuracies_of_float32_and_float64_logits_are_the_same_numbers():
    logits, labels = episodes(20, n_query=75)
    wide, narrow = episode_metrics(logits, labels), episode_metrics(logits.float(), labels)
    assert torch.equal(wide["accuracy"], narrow["accuracy"])
    assert torch.equal(wide["balanced_accuracy"], narrow["balanced_accuracy"])
    assert torch.equal(wide["calibration"][..., 0], narrow["calibration"][..., 0])


def test_half_precision_is_computed_in_single():
    logits, labels = episodes(2, dtype=torch.float16)
    found, expected = episode_metrics(logits, labels), episode_metrics(logits.float(), labels)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_one_episode_has_no_batch_dimensions_and_the_logits_stay():
    logits, labels = episodes(2)
    before = logits.clone()
    many, one = episode_metrics(logits, labels), episode_metrics(logits[1], labels[1])
    assert torch.equal(logits, before)
    assert one["accuracy"].shape == ()
    assert one["calibration"].shape == (N_BINS, 3)
    for name, value in one.items():
        if name != "calibration":
            torch.testing.assert_close(value, many[name][1])
    rest = episode_metrics(logits[0], labels[0])["calibration"]
    torch.testing.assert_close(one["calibration"] + rest, many["calibration"])


def test_balanced_accuracy_is_over_classes_with_queries():
    labels = torch.tensor([0, 0, 0, 2])
    logits = torch.nn.functional.one_hot(torch.tensor([0, 0, 1, 2]), 4).double()
    found = episode_metrics(logits, labels)
    assert found["accuracy"] == 0.75
    assert found["balanced_accuracy"].item() == pytest.approx((2 / 3 + 1) / 2)


def test_of_equal_logits_the_first_class_is_the_answer():
    found = episode_metrics(torch.zeros(1, 3, 4), torch.tensor([[0, 1, 3]]))
    assert found["accuracy"].item() == pytest.approx(1 / 3)
    assert found["log_loss"].item() == pytest.approx(np.log(4))
    assert found["brier"].item() == pytest.approx(0.75)


def test_large_logits_neither_overflow_nor_lose_the_loss():
    found = episode_metrics(torch.tensor([[1e4, 0.0], [1e4, 0.0]]), torch.tensor([0, 1]))
    assert found["log_loss"].item() == pytest.approx(5e3)
    assert found["brier"].item() == pytest.approx(1.0)
    impossible = episode_metrics(torch.tensor([[0.0, -torch.inf]]), torch.tensor([1]))
    assert impossible["log_loss"].item() == np.inf


def test_nan_logits_are_seen_in_the_losses():
    found = episode_metrics(torch.full((2, 3), torch.nan), torch.tensor([0, 1]))
    assert found["log_loss"].isnan()
    assert found["brier"].isnan()


@pytest.mark.parametrize(
    ("logits", "labels"), [((3, 2), (4,)), ((5, 3, 2), (3,)), ((3,), ()), ((2, 0, 3), (2, 0)), ((2, 3, 0), (2, 3))]
)
def test_shapes_that_do_not_fit_are_refused(logits, labels):
    with pytest.raises(InvalidInputError, match="n_query, n_way"):
        episode_metrics(torch.zeros(logits), torch.zeros(labels, dtype=torch.int64))


# --- calibration


@pytest.mark.parametrize("n_way", [2, 5])
def test_bins_are_those_of_a_loop(n_way):
    logits, labels = episodes(n_query=400, n_way=n_way)
    proba = torch.softmax(logits, -1).numpy()
    bins = calibration_bins(proba, labels)
    np.testing.assert_allclose(bins, naive_bins(proba, labels.numpy()))
    assert bins[:, 0].sum() == 400


@pytest.mark.parametrize("function", BOTH)
def test_certain_answers_are_in_the_last_bin(function):
    bins = function(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))
    np.testing.assert_array_equal(bins[-1], [2, 2, 1])
    assert not bins[:-1].any()


@pytest.mark.parametrize("function", BOTH)
def test_calibration_error_of_a_case_by_hand(function):
    # Three answers at 0.9 of which two are right, one at 0.6 that is right.
    proba = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.6, 0.4]], dtype=torch.float64)
    bins = function(proba, torch.tensor([0, 1, 1, 0]))
    assert expected_calibration_error(bins) == pytest.approx((3 * abs(0.9 - 2 / 3) + 1 * abs(0.6 - 1)) / 4)


def test_bins_of_parts_add_up_to_the_bins_of_all():
    logits, labels = episodes(4)
    proba = torch.softmax(logits, -1)
    whole = calibration_bins(proba.reshape(-1, 5), labels.reshape(-1))
    parts = [calibration_bins(p, y) for p, y in zip(proba, labels, strict=True)]
    np.testing.assert_allclose(sum(parts), whole)
    batched = episode_metrics(logits, labels)["calibration"]
    assert expected_calibration_error(batched) == pytest.approx(expected_calibration_error(whole))


def test_honest_probabilities_have_a_small_calibration_error():
    logits, _ = episodes(n_query=20000)
    proba = torch.softmax(logits, -1)
    labels = torch.multinomial(proba, 1, generator=torch.Generator().manual_seed(1)).squeeze(-1)
    assert expected_calibration_error(calibration_bins(proba, labels)) < 0.02
    assert expected_calibration_error(calibration_bins(torch.softmax(5 * logits, -1), labels)) > 0.1


def test_without_answers_there_is_no_calibration_error():
    assert np.isnan(expected_calibration_error(np.zeros((N_BINS, 3))))
    assert calibration_bins(np.zeros((0, 3)), np.zeros(0)).shape == (N_BINS, 3)


@pytest.mark.parametrize("proba", [[[0.5, np.nan]], [[1.5, -0.5]], [0.5, 0.5], [[0.5, 0.5], [0.5, 0.5]]])
def test_what_are_no_probabilities_is_refused(proba):
    with pytest.raises(InvalidInputError, match="robabilities"):
        calibration_bins(proba, [0])
