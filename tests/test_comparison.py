"""compare: every strategy answers the same images, honestly."""

import json
import re

import numpy as np
import pytest
from PIL import Image
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import FixedThresholdClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import fewshot
from fewshot import FewShotClassifier, ImageDataset, Strategy
from fewshot.comparison import default_n_views
from fewshot.errors import DatasetError, ImageError, InvalidInputError, UnknownNameError
from fewshot.finetune.fine_tune import FineTune
from fewshot.finetune.simple_cnn import TunedSimpleCNNHead
from fewshot.strategies import make_strategies

FROZEN = ["prototypical", "linear-probe", "prototypical-heavy", "linear-probe-heavy"]


def without_times(report):
    return re.sub(r'"(\w+_seconds)": [0-9.e-]+', r'"\1": 0', report.to_json())


def test_all_strategies_on_one_photo_each(two_fruits, monkeypatch):
    monkeypatch.setattr(
        TunedSimpleCNNHead.__init__, "__kwdefaults__", TunedSimpleCNNHead.__init__.__kwdefaults__ | {"min_steps": 3}
    )
    train, test = two_fruits
    events = []
    report = fewshot.compare(train.subset([0, 4]), test, n_views=2, on_event=events.append)
    rows = {row.strategy: row for row in report.summary()}
    assert list(rows) == [strategy.name for strategy in make_strategies("all")]
    assert all(rows[name].accuracy.value > 0.8 for name in FROZEN)
    assert all(row.n_test == len(test) for row in rows.values())
    assert set(rows["fine-tune"].differences) == {"simple-cnn", "simple-cnn-tuned"}
    losses = [event.row["loss"] for event in events if event.kind == "history" and event.subject == "simple-cnn"]
    assert len(losses) == 5
    assert {event.subject for event in events if event.kind == "finished"} == set(rows)
    assert "fine-tune" in report.to_html()


def test_how_far_a_network_is_trained_is_told(two_fruits):
    events = []
    mine = Strategy("mine", FineTune(learning_rates=(1e-5,), steps=2, batch_size=2), "light")
    fewshot.compare(*two_fruits, strategies=["linear-probe", mine], n_views=1, on_event=events.append)
    told = [(event.done, event.total) for event in events if event.strategy == "mine"]
    # Features of each image and one view of it; then two halves, and everything where that helps.
    assert told[: told.index((1, 6))][-1] == (2 * len(two_fruits[0]),) * 2
    assert told[-1] == (6, 6)


def test_its_answers_are_those_of_the_classifier_a_user_would_fit(two_fruits):
    train, test = two_fruits
    report = fewshot.compare(train, test, strategies=["linear-probe-heavy"], n_views=3, random_state=5)
    own = {"head": "linear-probe", "representation": "plain"}
    classifier = FewShotClassifier(augmentation="heavy", n_views=3, random_state=5, **own).fit(train)
    np.testing.assert_allclose(report.proba("linear-probe-heavy"), classifier.predict_proba(test.sources), atol=1e-6)


def test_the_figures_are_those_of_its_answers(two_fruits):
    train, test = two_fruits
    report = fewshot.compare(train.subset([0, 4]), test, strategies=["simple-cnn", "prototypical"])
    right = np.array(report.predictions("prototypical")) == np.array(test.labels)
    row = report.summary()[1]
    assert row.accuracy.value == pytest.approx(right.mean())
    assert report.confusion("prototypical").sum() == len(test)
    assert np.trace(report.confusion("prototypical")) == right.sum()
    chosen = report.proba("prototypical")[np.arange(len(test)), test.targets]
    assert row.log_loss == pytest.approx(-np.log(chosen).mean())
    difference = report.compare("prototypical", "simple-cnn")
    assert row.differences["simple-cnn"] == difference
    assert difference.value == pytest.approx(right.mean() - report.correct("simple-cnn").mean())
    assert difference.low <= difference.value <= difference.high


def test_same_seed_same_json_whatever_the_number_of_processes(two_fruits, monkeypatch):
    train, _ = two_fruits
    strategies = ["simple-cnn", *FROZEN]
    first = fewshot.compare(train, strategies=strategies, n_views=2, repeats=1, random_state=3)
    again = fewshot.compare(train, strategies=strategies, n_views=2, repeats=1, random_state=3, cache=False)
    parallel = fewshot.compare(train, strategies=strategies, n_views=2, repeats=1, random_state=3, n_jobs=2)
    other = fewshot.compare(train, strategies=strategies, n_views=2, repeats=1, random_state=4)
    assert without_times(first) == without_times(again) == without_times(parallel)
    assert without_times(first) != without_times(other)


def test_without_a_test_set_every_image_is_predicted_by_others(two_fruits):
    train, _ = two_fruits
    report = fewshot.compare(train, strategies=["prototypical"], repeats=3)
    assert report.protocol == "cross-validation"
    predicted = np.concatenate([result.test for result in report.results])
    assert sorted(predicted) == sorted(list(range(len(train))) * 3)
    assert report.correct("prototypical").shape == (len(train),)
    assert report.summary()[0].n_test == len(train)
    assert all(report.nearest[i] != i for i in range(len(train)))
    assert any("3 times 4-fold" in note for note in report.notes)


def test_one_image_per_class_gives_words_and_no_number(two_fruits):
    train, test = two_fruits
    pair = train.subset([0, 4])
    report = fewshot.compare(pair, strategies=["linear-probe", "prototypical"])
    assert report.protocol == "none"
    assert any("cannot be estimated" in note for note in report.notes)
    assert all(row.accuracy is None and row.log_loss is None for row in report.summary())
    with pytest.raises(InvalidInputError, match="no labels"):
        report.correct("linear-probe")
    for text in (report.to_markdown(), report.to_html()):
        assert "cannot be estimated" in text
    agreed = fewshot.compare(pair, strategies=["linear-probe", "prototypical"], unlabeled=test.sources)
    assert agreed.protocol == "unlabelled"
    assert 0.8 <= agreed.agreement("linear-probe", "prototypical") <= 1
    assert agreed.summary()[0].accuracy is None
    assert all(image.label is None for image in agreed.test_images)


def test_any_classifier_and_any_name_can_be_a_strategy(two_fruits):
    train, test = two_fruits
    mine = Strategy("nearest", KNeighborsClassifier(n_neighbors=1), "light")
    report = fewshot.compare(train, test, strategies=[mine, "prototypical"], n_views=1)
    assert [row.strategy for row in report.summary()] == ["nearest", "prototypical"]
    assert report.baselines == ("nearest",)
    assert report.strategies[0].augmentation == "light"


def test_another_policy_takes_the_place_of_heavy(two_fruits):
    train, test = two_fruits
    report = fewshot.compare(train, test, strategies=["linear-probe-heavy"], augmentation="light", n_views=1)
    (strategy,) = report.strategies
    assert (strategy.name, strategy.augmentation) == ("linear-probe-light", "light")


def test_folders_with_train_and_test_inside_are_understood(fruit_folder):
    whole = fewshot.compare(fruit_folder, strategies=["prototypical"])
    parts = fewshot.compare(fruit_folder / "train", fruit_folder / "test", strategies=["prototypical"])
    assert whole.protocol == "test-set"
    (note,) = whole.notes
    assert "trained on train, tested on test" in note
    assert whole.summary()[0].accuracy == parts.summary()[0].accuracy
    assert [r.proba for r in whole.results] == [r.proba for r in parts.results]


def test_classes_in_another_order_change_nothing(two_fruits):
    train, test = two_fruits
    turned = ImageDataset(train.sources, train.labels, class_names=("Orange", "Granny-Smith"))
    a, b = (fewshot.compare(one, test, strategies=["prototypical"]) for one in (train, turned))
    assert a.summary()[0].accuracy == b.summary()[0].accuracy
    assert a.class_names == b.class_names == ("Granny-Smith", "Orange")


def test_classes_that_a_subset_has_lost_are_none(fruits):
    three = ("Granny-Smith", "Orange", "Watermelon")
    chosen = [i for name in three for i in np.flatnonzero(np.array(fruits["train"].labels) == name)[:3]]
    train = fruits["train"].subset(chosen)
    part = train.subset([i for i, label in enumerate(train.labels) if label != "Orange"])
    report = fewshot.compare(part, strategies=["prototypical"], repeats=1)
    assert report.protocol == "cross-validation"
    assert report.class_names == ("Granny-Smith", "Watermelon")


def test_a_picture_that_is_there_twice_is_not_trained_on_and_tested(two_fruits):
    train, _ = two_fruits
    doubled = ImageDataset.from_paths(train.sources * 2, train.labels * 2)
    once, twice = (fewshot.compare(one, strategies=["prototypical"]) for one in (train, doubled))
    assert once.summary()[0].accuracy == twice.summary()[0].accuracy
    repeats = [finding for finding in twice.data["findings"] if finding["code"] == "DUPLICATE"]
    assert len(repeats) == len(train)
    assert all("counts once" in finding["message"] for finding in repeats)
    assert any("counts once" in note and f"{len(train) - 1} more" in note for note in twice.notes)
    one_each = ImageDataset.from_paths([train.sources[0]] * 2 + [train.sources[4]] * 2, ["a", "a", "b", "b"])
    assert fewshot.compare(one_each, strategies=["prototypical"]).protocol == "none"


def test_answers_are_the_heads_own_and_not_the_largest_probability(two_fruits):
    train, test = two_fruits
    late = FixedThresholdClassifier(LogisticRegression(), threshold=0.9, pos_label="Orange")
    report = fewshot.compare(train, test, strategies=[Strategy("late", late)])
    classifier = FewShotClassifier(head=late, augmentation=None, representation="plain").fit(train)
    predicted = classifier.predict(test).tolist()
    assert report.predictions("late") == predicted
    assert predicted != np.array(report.class_names)[report.proba("late").argmax(axis=1)].tolist()
    right = np.array(predicted) == np.array(test.labels)
    assert report.summary()[0].accuracy.value == pytest.approx(right.mean())
    assert np.trace(report.confusion("late")) == right.sum()


def test_the_seed_reaches_estimators_inside_a_head(two_fruits):
    forest = Strategy("forest", make_pipeline(StandardScaler(), RandomForestClassifier(5)))
    a, b = (fewshot.compare(*two_fruits, strategies=[forest]).proba("forest") for _ in range(2))
    np.testing.assert_array_equal(a, b)


def test_strategies_that_cannot_use_a_backbone_are_left_out_or_refused(two_fruits, monkeypatch):
    monkeypatch.setattr(
        TunedSimpleCNNHead.__init__, "__kwdefaults__", TunedSimpleCNNHead.__init__.__kwdefaults__ | {"min_steps": 3}
    )
    joined = "efficientnet_lite0+efficientnet_lite0"
    report = fewshot.compare(two_fruits[0].subset([0, 4]), two_fruits[1], backbone=joined, n_views=1)
    assert "fine-tune" not in [row.strategy for row in report.summary()]
    assert any("fine-tune was left out" in note for note in report.notes)
    with pytest.raises(InvalidInputError, match="trains one timm network"):
        fewshot.compare(*two_fruits, backbone=joined, strategies=["prototypical", "fine-tune"])


def test_trying_a_backbone_leaves_the_head_as_it_was(backbone):
    from fewshot.preparation import prepare, usable

    usable, _ = usable(prepare(make_strategies("fine-tune"), "heavy"), backbone, strict=True)
    assert set(vars(usable[0].head)) == set(usable[0].head.get_params())


def test_two_strategies_with_one_name_are_refused_after_renaming_too(two_fruits):
    mine = Strategy("linear-probe-light", "linear-probe", "light")
    with pytest.raises(InvalidInputError, match="same name"):
        fewshot.compare(*two_fruits, strategies=["linear-probe-heavy", mine], augmentation="light")


def test_unlabelled_images_that_are_not_needed_are_mentioned(two_fruits, fruit_folder):
    report = fewshot.compare(two_fruits[0], unlabeled=fruit_folder / "test", strategies=["prototypical"])
    assert report.protocol == "cross-validation"
    assert any("not used" in note for note in report.notes)


def test_a_picture_that_vanishes_late_costs_its_thumbnail_only(fruit_folder, monkeypatch):
    from fewshot.report import pictures

    def gone(source):
        raise ImageError("VANISHED", str(source), "no such file")

    monkeypatch.setattr(pictures, "read_image", gone)
    report = fewshot.compare(fruit_folder, strategies=["prototypical", "linear-probe-heavy"], n_views=1)
    assert report.summary()[0].accuracy is not None
    assert "<img" not in report.to_html()


def test_unreadable_images_are_left_out_and_listed(two_fruits):
    train, test = two_fruits
    others = [Image.fromarray(np.full((8, 8, 3), shade, dtype=np.uint8)) for shade in range(12)]
    many = ImageDataset.from_paths([*test.sources, *others, b"broken"], [*test.labels * 2, "Orange"])
    report = fewshot.compare(train, many, strategies=["prototypical"])
    assert len(report.test_images) == 24
    assert any("NOT_AN_IMAGE" in note for note in report.notes)
    with pytest.raises(ImageError):
        fewshot.compare(train, many, strategies=["prototypical"], strict=True)
    with pytest.raises(DatasetError, match="1 of 9"):
        fewshot.compare(ImageDataset.from_paths([*train.sources, b"x"], [*train.labels, "Orange"]), test)


def test_training_images_in_the_test_set_are_taken_out_and_listed(two_fruits):
    train, test = two_fruits
    leaky = ImageDataset.from_paths([*test.sources, train.sources[0]], [*test.labels, train.labels[0]])
    report = fewshot.compare(train, leaky, strategies=["prototypical"])
    assert len(report.test_images) == len(test)
    assert any(note.startswith("Leakage") for note in report.notes)


def test_a_class_that_training_does_not_have_is_refused(two_fruits):
    train, test = two_fruits
    strange = ImageDataset.from_paths(test.sources, ["Kiwi", *test.labels[1:]])
    with pytest.raises(DatasetError, match="'Kiwi'"):
        fewshot.compare(train, strange, strategies=["prototypical"])


def test_a_class_without_test_images_is_mentioned(two_fruits):
    train, test = two_fruits
    report = fewshot.compare(train, test.subset(range(6)), strategies=["prototypical"])
    assert any("Orange" in note and "nothing is known" in note for note in report.notes)
    assert report.summary()[0].balanced_accuracy == report.summary()[0].accuracy.value


@pytest.mark.parametrize(
    ("settings", "error", "word"),
    [
        ({"strategies": ["linear-prob"]}, UnknownNameError, "'linear-probe'"),
        ({"strategies": []}, InvalidInputError, "no strategy"),
        ({"strategies": ["linear-probe"] * 2}, InvalidInputError, "twice"),
        ({"backbone": "efficientnet_lite"}, UnknownNameError, "'efficientnet_lite0'"),
        ({"augmentation": "haevy"}, UnknownNameError, "'heavy'"),
        ({"n_views": 0}, InvalidInputError, "n_views=0"),
        ({"repeats": 0}, InvalidInputError, "repeats=0"),
        ({"n_jobs": 0}, InvalidInputError, "n_jobs=0"),
        ({"random_state": "x"}, InvalidInputError, "random_state='x'"),
    ],
)
def test_bad_settings_are_named_before_anything_is_computed(settings, error, word, two_fruits):
    with pytest.raises(error, match=word):
        fewshot.compare(two_fruits[0], two_fruits[1], **settings)


def test_one_class_is_refused_with_the_minimum(two_fruits):
    with pytest.raises(DatasetError, match="at least 2"):
        fewshot.compare(two_fruits[0].subset(range(4)), strategies=["prototypical"])


def test_labels_and_unlabelled_images_exclude_each_other(two_fruits):
    with pytest.raises(InvalidInputError, match="either"):
        fewshot.compare(*two_fruits, strategies=["prototypical"], unlabeled=two_fruits[1].sources)


def test_the_json_holds_everything_and_comes_back(two_fruits, tmp_path):
    report = fewshot.compare(*two_fruits, strategies=["simple-cnn", "prototypical"])
    report.to_json(tmp_path / "a" / "report.json")
    data = json.loads((tmp_path / "a" / "report.json").read_text())
    assert fewshot.Report.from_dict(data) == report
    assert data["summary"][1]["accuracy"]["value"] == pytest.approx(report.summary()[1].accuracy.value, abs=1e-6)
    assert {"python", "torch", "timm", "albumentations", "backbone"} <= set(data["environment"])


def test_fewer_views_for_more_images():
    assert [default_n_views(n) for n in (1, 2, 40, 80, 600, 10**6)] == [16, 16, 16, 8, 4, 4]


def test_unreadable_unlabelled_images_stop_nothing(two_fruits, tmp_path):
    train, test = two_fruits
    pair = train.subset([0, 4])
    report = fewshot.compare(
        pair, unlabeled=[*test.sources[:2], b"<html>", b""], strategies=["prototypical"], augmentation="none"
    )
    assert len(report.test_images) == 2
    assert sum("Left out" in note for note in report.notes) == 2
    with pytest.raises(DatasetError, match="None of the 1 unlabelled images can be read"):
        fewshot.compare(pair, unlabeled=[b""], strategies=["prototypical"])


def test_classes_of_one_picture_in_versions_are_named_and_can_be_counted_all_the_same(two_fruits):
    import io

    from PIL import Image

    def smaller(source, quality):
        buffer = io.BytesIO()
        Image.open(io.BytesIO(source)).save(buffer, "JPEG", quality=quality)
        return buffer.getvalue()

    train = two_fruits[0]
    apples, oranges = train.sources[:4], train.sources[4:]
    images = [*apples, *(smaller(oranges[0], quality) for quality in (60, 75, 90))]
    labels = ["apple"] * 4 + ["orange"] * 3
    dataset = fewshot.ImageDataset.from_paths(images, labels)
    report = fewshot.compare(dataset, strategies=["prototypical"])
    assert report.protocol == "none"
    (note,) = [note for note in report.notes if "cannot be estimated" in note]
    assert "of orange there is one image only" in note
    assert "The 3 images of orange are versions of one picture" in note
    assert "--keep-near-duplicates" in note
    counted = fewshot.compare(dataset, strategies=["prototypical"], keep_near_duplicates=True)
    assert counted.protocol == "cross-validation"


def test_benchmarks_say_that_versions_of_a_picture_may_meet_in_an_episode(two_fruits):
    import io

    from PIL import Image

    buffer = io.BytesIO()
    train = two_fruits[0]
    Image.open(io.BytesIO(train.sources[0])).save(buffer, "JPEG", quality=70)
    dataset = fewshot.ImageDataset.from_paths([*train.sources, buffer.getvalue()], [*train.labels, train.labels[0]])
    report = fewshot.benchmark(dataset, strategies=["prototypical"], n_way=2, k_shots=1, n_query=1, n_episodes=4)
    assert any("An episode may learn from one and ask about another" in note for note in report.notes)
