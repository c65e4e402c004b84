"""Frozen features or trained stages: each where it is better, both saved as one."""

import copy
import dataclasses
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from tiny_networks import halves, make_network

import fewshot
from fewshot import FewShotClassifier
from fewshot.augment import load_policy
from fewshot.errors import FeatureError, InvalidInputError, ModelFileError
from fewshot.finetune import auto, tuning
from fewshot.finetune.auto import AutoFineTune
from fewshot.finetune.base import TrainingSetup
from fewshot.finetune.selection import HeldOut, fit_scale, make_folds, spread
from fewshot.fitting import training_policy
from fewshot.heads.auto import AutoHead
from fewshot.representation import load_representation
from fewshot.representation.tuned import TunedRepresentation

NO_VIEWS = load_policy("none")
FROZEN = {"head": "auto", "augmentation": "none", "cache": False}


@pytest.fixture(scope="module")
def network():
    return make_network()


def fit(head, network, images, codes, seed=0):
    return head.fit_images(images, codes, TrainingSetup(network, NO_VIEWS, 1, seed))


@pytest.fixture(scope="module")
def trained(network):
    """One that is trained on what frozen features do not tell apart well."""
    return fit(AutoFineTune(learning_rates=(1e-2,), steps=40, batch_size=8), network, *halves(8, 0))


def log_loss(proba, truth):
    return -np.log(proba[np.arange(len(truth)), truth]).mean()


def test_what_frozen_features_do_not_tell_apart_well_is_trained(trained, network):
    asked, truth = halves(40, 1)
    frozen = FewShotClassifier(network, **FROZEN).fit(*halves(8, 0)).predict_proba(asked)
    answers = trained.predict_proba_images(asked)
    assert log_loss(answers, truth) < log_loss(frozen, truth)
    assert (answers.argmax(axis=1) == truth).mean() > (frozen.argmax(axis=1) == truth).mean()
    assert trained.share_ in (0.5, 1.0)
    assert trained.learning_rate_ == 1e-2
    assert trained.validation_[1e-2] < trained.validation_[0.0]
    assert "held-out images prefer" in trained.note_
    assert {row["phase"] for row in trained.history_} == {"0.01, half 1", "0.01, half 2", "0.01, both", "final"}


def test_the_frozen_features_are_judged_by_images_that_they_were_not_learned_from(trained, network):
    images, codes = halves(8, 0)
    representation = load_representation("auto", network)
    parts = representation.parts(images)
    vectors = representation.space(parts).vectors(parts)[:, 0]
    fold = make_folds(codes, np.arange(8), np.random.default_rng([0, 1]))
    logits, order = [], []
    for away in (fold == 0, fold == 1):
        head = AutoHead().fit(vectors[~away], codes[~away])
        logits.append(head._scores(vectors[away]) / spread(head._scores(vectors[~away])))
        order += codes[away].tolist()
    table, order = torch.cat(logits), np.array(order)
    table = torch.log_softmax(table * fit_scale(HeldOut(table, order, np.arange(8))), dim=1)
    assert trained.validation_[0.0] == pytest.approx(-table.numpy()[np.arange(8), order].mean(), rel=1e-6)


def test_a_temperature_is_no_reason_to_train(network, monkeypatch):
    """What says the same of every image, more or less surely, is not better."""
    head = AutoFineTune(learning_rates=(1e-2,), steps=1, batch_size=2)
    frozen = []
    ask = AutoFineTune._frozen_held_out

    def remember(*arguments):
        frozen.append(ask(*arguments))
        return frozen[0]

    def repeat(self, rates, *_):
        return {rate: dataclasses.replace(frozen[0], logits=3 * frozen[0].logits) for rate in rates}, []

    monkeypatch.setattr(AutoFineTune, "_frozen_held_out", remember)
    monkeypatch.setattr(AutoFineTune, "_try_rates", repeat)
    fit(head, network, *halves(8, 0))
    assert head.share_ == 0
    assert set(head.validation_) == {0.0, 1e-2}


def test_both_answer_by_the_mean_of_their_log_probabilities(trained):
    asked, _ = halves(6, 1)
    head, answers = copy.copy(trained), {}
    for head.share_ in (0.0, 0.5, 1.0):
        answers[head.share_] = head.predict_proba_images(asked)
    together = np.sqrt(answers[0.0] * answers[1.0])
    np.testing.assert_allclose(answers[0.5], together / together.sum(axis=1, keepdims=True), atol=1e-9)


@pytest.mark.parametrize("each", [1, 4])
def test_nothing_is_trained_where_it_cannot_be_judged_or_has_nothing_to_gain(each, two_fruits):
    train, test = two_fruits
    chosen = train.subset([0, 4]) if each == 1 else train
    kept = FewShotClassifier(head="auto-fine-tune", augmentation="heavy", n_views=2).fit(chosen)
    frozen = FewShotClassifier(**FROZEN).fit(chosen)
    np.testing.assert_allclose(kept.predict_proba(test), frozen.predict_proba(test), atol=1e-6)
    assert kept.history_ == []
    assert kept.head_.share_ == kept.head_.learning_rate_ == kept.head_.n_views_ == 0
    assert kept.head_.note_.startswith("kept head 'auto' on frozen features: ")
    assert ("none can be held out" if each == 1 else "nothing was trained") in kept.explain_choice()


def test_frozen_features_stay_where_training_is_not_clearly_better(network):
    # Colours that pooled features tell apart badly, and one step that changes next to nothing.
    head = fit(AutoFineTune(learning_rates=(1e-7,), steps=1, batch_size=2), network, *halves(8, 0))
    assert (head.share_, head.learning_rate_) == (0.0, 0.0)
    assert set(head.validation_) == {0.0, 1e-7}
    assert "clearly better" in head.note_


def test_a_last_training_that_fails_leaves_the_frozen_features(network, monkeypatch):
    images, codes = halves(8, 0)
    frozen = FewShotClassifier(network, **FROZEN).fit(images, codes)
    monkeypatch.setattr(auto, "choose", lambda losses: 2)
    monkeypatch.setattr(tuning, "_log_loss", lambda logits, codes, scale: np.nan)
    head = fit(AutoFineTune(learning_rates=(1e-2,), steps=2, batch_size=2), network, images, codes)
    assert (head.share_, head.learning_rate_) == (0.0, 0.0)
    assert "did not succeed" in head.note_
    np.testing.assert_allclose(head.predict_proba_images(images), frozen.predict_proba(images), atol=1e-6)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_what_was_saved_answers_the_same(share, trained, network):
    images, _ = halves(4, 1)
    head = copy.copy(trained)
    head.share_ = share
    again = AutoFineTune()
    again.restore_facts(head.facts())
    stated = {name: (t.dtype, t.shape) for name, t in again.blank_tensors(2, network).items()}
    assert stated == {name: (t.dtype, t.shape) for name, t in head.tensors().items()}
    assert any(name.startswith("frozen.") for name in stated) == (share < 1)
    again.restore({name: tensor.clone() for name, tensor in head.tensors().items()}, head.classes_, network)
    expected = head.predict_proba_images(images)
    np.testing.assert_allclose(again.predict_proba_images(images), expected, atol=1e-6)


def test_a_trained_one_answers_the_same_when_loaded(two_fruits, monkeypatch, tmp_path):
    train, test = two_fruits
    monkeypatch.setattr(auto, "_SURE", -1.0)
    monkeypatch.setattr(auto, "choose", lambda losses: 1)
    monkeypatch.setattr(tuning, "_log_loss", lambda logits, codes, scale: 0.0)
    head = AutoFineTune(steps=2, batch_size=4)
    classifier = FewShotClassifier(head=head, n_views=1, cache=False).fit(train)
    assert classifier.head_.share_ == 0.5
    classifier.save(tmp_path / "model")
    again = fewshot.load(tmp_path / "model")
    np.testing.assert_allclose(again.predict_proba(test), classifier.predict_proba(test), atol=1e-6)
    assert "the mean of" in again.explain_choice()


@pytest.mark.parametrize(("share", "refused"), [(0.0, True), (0.5, True), (1.0, False)])
def test_frozen_features_made_in_another_way_are_refused_where_they_answer(share, refused, trained, network):
    again = AutoFineTune()
    again.restore_facts(trained.facts() | {"fingerprint_": "another", "share_": share})
    with pytest.raises(InvalidInputError, match="train it again") if refused else nullcontext():
        again.blank_tensors(2, network)


def test_facts_that_it_cannot_have_or_do_without_are_refused(trained):
    with pytest.raises(InvalidInputError, match=r"0, 0\.5 or 1"):
        AutoFineTune().restore_facts(trained.facts() | {"share_": 0.3})
    for name in ("share_", "fingerprint_"):
        with pytest.raises(InvalidInputError, match=f"'{name}', which is missing"):
            AutoFineTune().restore_facts({key: value for key, value in trained.facts().items() if key != name})


def test_a_model_whose_frozen_features_were_wider_is_refused_by_name(two_fruits, monkeypatch, tmp_path):
    train, _ = two_fruits
    FewShotClassifier(head=AutoFineTune(), n_views=1, cache=False).fit(train.subset([0, 4])).save(tmp_path / "model")
    monkeypatch.setattr(TunedRepresentation, "__init__", _narrower)
    with pytest.raises(ModelFileError, match=r"model.*in another way than this version"):
        fewshot.load(tmp_path / "model")


def _narrower(self, backbone, made=TunedRepresentation.__init__):
    made(self, backbone)
    self.widths, self.fingerprint = {"familiar": 8, "unfamiliar": 8}, "another"


@pytest.mark.parametrize(("preferred", "share", "told"), [(0, 0.0, (9,)), (2, 1.0, (7, 8, 9))])
def test_progress_comes_to_its_end_whatever_is_preferred(preferred, share, told, network, monkeypatch):
    monkeypatch.setattr(auto, "choose", lambda losses: preferred)
    monkeypatch.setattr(tuning, "_log_loss", lambda logits, codes, scale: 0.0)
    seen = []
    setup = TrainingSetup(network, NO_VIEWS, 1, 0, progress=lambda *told: seen.append(told))
    head = AutoFineTune(learning_rates=(1e-2,), steps=3, batch_size=2).fit_images(*halves(8, 0), setup)
    assert head.share_ == share
    # Two halves, and everything where the trained stages are preferred.
    assert [one for one in seen if one[1] == 9] == [(done, 9) for done in (*range(1, 7), *told)]


def test_nothing_is_told_of_training_where_there_is_none(network):
    seen = []
    setup = TrainingSetup(network, NO_VIEWS, 1, 0, progress=lambda *told: seen.append(told))
    AutoFineTune(steps=7).fit_images(*halves(2, 0), setup)
    # The two pictures and their views; an image of each class leaves no half to hold out.
    assert seen
    assert all(total != 21 for _, total in seen)


def test_pictures_that_are_all_alike_are_refused(network):
    picture = np.full((32, 32, 3), 90, dtype=np.uint8)
    with pytest.raises(FeatureError, match="the same features"):
        fit(AutoFineTune(), network, [picture] * 4, np.array([0, 0, 1, 1]))


def test_it_is_trained_on_heavy_views_unless_others_are_asked_for():
    assert training_policy("auto", head=AutoFineTune()).name == "heavy"
    assert training_policy("light", head=AutoFineTune()).name == "light"


def test_the_same_seed_gives_the_same_answers_and_leaves_random_numbers_alone(network):
    images, codes = halves(8, 0)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    first, again = (
        fit(AutoFineTune(learning_rates=(1e-2,), steps=3, batch_size=4), network, images, codes) for _ in range(2)
    )
    torch.testing.assert_close(torch.rand(3), expected)
    np.testing.assert_array_equal(first.predict_proba_images(images), again.predict_proba_images(images))
    assert first.history_ == again.history_ != []
