"""Rows 30 to 33: data that is too little, unequal, in both sets, or in two classes."""

import json

import numpy as np
import pytest
from scenes import scene, write
from typer.testing import CliRunner

import fewshot
from fewshot.cli.root import app
from fewshot.errors import DatasetError, InvalidInputError


@pytest.fixture
def no_features(monkeypatch):
    """Fail as soon as a feature is asked for."""

    def refuse(*_, **__):
        pytest.fail("a feature was extracted")

    monkeypatch.setattr("fewshot.representation.plain.extract_with", refuse)


def make(root, counts, start=0):
    seed = start
    for label, count in counts.items():
        for number in range(count):
            seed += 1
            write(root / label / f"{label}{'abcdefghijklmnopqrstuvwxyz'[number]}.png", scene(seed, (80, 60)))
    return root


def test_30_too_many_shots_fail_before_any_feature_and_list_the_short_classes(tmp_path, no_features):
    make(tmp_path, {"cat": 6, "dog": 2, "eel": 3, "fox": 6})
    with pytest.raises(DatasetError) as caught:
        fewshot.benchmark(tmp_path, strategies=["prototypical"], n_way=4, k_shots=3, n_query=2, n_episodes=4)
    for short in ("dog", "eel"):
        assert short in str(caught.value)
    for enough in ("cat", "fox"):
        assert enough not in str(caught.value).replace(str(tmp_path), "")


def test_30_too_many_ways_fail_before_any_feature(tmp_path, no_features):
    make(tmp_path, {"cat": 3, "dog": 3})
    with pytest.raises(DatasetError, match=r"5.*2|2.*5"):
        fewshot.benchmark(tmp_path, strategies=["prototypical"], n_way=5, k_shots=1, n_query=1, n_episodes=4)


def test_30_on_the_command_line_the_short_classes_are_named_with_exit_code_1(tmp_path):
    make(tmp_path / "data", {"cat": 6, "dog": 2})
    arguments = ["bench", tmp_path / "data", "--ways", "2", "--shots", "5", "--queries", "1", "--out", tmp_path / "out"]
    result = CliRunner().invoke(app, [*map(str, arguments), "--strategies", "prototypical"])
    assert isinstance(result.exception, DatasetError)  # main() turns it into exit code 1
    assert "dog" in str(result.exception)
    assert not (tmp_path / "out/journal.jsonl").exists()


def test_30_given_features_are_refused_likewise():
    labels = np.repeat(["many", "few"], [20, 3])
    features = np.random.default_rng(0).normal(size=(23, 4))
    with pytest.raises(DatasetError, match="few"):
        fewshot.evaluate_features(features, labels, heads=["prototypical"], n_way=2, k_shot=5, n_query=5)


def test_30_images_lost_to_the_audit_are_counted_before_any_feature(tmp_path, no_features):
    make(tmp_path, {"cat": 4, "dog": 3})
    write(tmp_path / "dog/copy.png", scene(5, (80, 60)))  # the fourth image of the class is a repeat
    with pytest.raises(DatasetError, match=r"dog \(3\)"):
        fewshot.benchmark(tmp_path, strategies=["prototypical"], n_way=2, k_shots=2, n_query=2, n_episodes=4)


def test_31_balanced_accuracy_is_beside_the_accuracy_in_every_form_of_a_comparison(tmp_path):
    make(tmp_path / "train", {"cat": 2, "dog": 2})
    make(tmp_path / "test", {"cat": 9, "dog": 2}, start=100)
    result = CliRunner().invoke(
        app, ["compare", str(tmp_path), "--strategies", "prototypical", "--out", str(tmp_path / "out"), "--json"]
    )
    data = json.loads(result.stdout)
    report = fewshot.Report.from_dict(data)
    right = np.array(report.predictions("prototypical")) == [image.label for image in report.test_images]
    is_cat = np.array([image.label == "cat" for image in report.test_images])
    expected = (right[is_cat].mean() + right[~is_cat].mean()) / 2
    assert data["summary"][0]["balanced_accuracy"] == pytest.approx(expected)
    assert any(finding["code"] == "IMBALANCE" for finding in data["data"]["findings"])
    assert "balanced accuracy" in report.to_markdown()
    assert "balanced" in report.to_html()
    from fewshot import console

    with console.out.capture() as shown:
        console.print_report(report)
    if abs(expected - right.mean()) > 1e-3:
        assert f"{100 * expected:.1f}" in shown.get()
    assert "Read the balanced accuracy" in " ".join(shown.get().split())


def test_31_balanced_accuracy_is_in_the_tables_of_a_benchmark_where_queries_are_unequal():
    rng = np.random.default_rng(0)
    labels = np.repeat(["many", "few"], [40, 8])
    features = rng.normal(size=(48, 4)) + (labels == "few")[:, None]
    report = fewshot.evaluate_features(features, labels, heads=["prototypical"], n_way=2, n_query=None, n_episodes=50)
    (row,) = report.summary()
    assert row.balanced_accuracy != pytest.approx(row.accuracy.value, abs=1e-3)
    from fewshot import console

    with console.out.capture() as shown:
        console.print_benchmark(report)
    assert "balanced" in shown.get()
    for text in (shown.get(), report.to_markdown(), report.to_html()):
        assert f"{100 * row.balanced_accuracy:.1f}" in text
    assert report.to_dict()["summary"][0]["balanced_accuracy"] == pytest.approx(row.balanced_accuracy)


def test_32_a_test_image_that_is_a_training_image_is_counted_listed_and_left_out(tmp_path):
    make(tmp_path / "train", {"cat": 3, "dog": 3})
    make(tmp_path / "test", {"cat": 3, "dog": 3}, start=100)
    write(tmp_path / "test/cat/renamed.png", scene(1, (80, 60)))
    report = fewshot.compare(tmp_path, strategies=["prototypical"])
    assert len(report.test_images) == 6
    assert str(tmp_path / "test/cat/renamed.png") not in {image.name for image in report.test_images}
    (leak,) = [finding for finding in report.data["findings"] if finding["code"] == "LEAKAGE"]
    assert leak["images"] == [str(tmp_path / "test/cat/renamed.png"), str(tmp_path / "train/cat/cata.png")]
    assert any("renamed.png" in note and "taken out" in note for note in report.notes)
    assert fewshot.check(tmp_path).counts()["LEAKAGE"] == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image.resize((50, 38)),
        lambda image: image.crop((0, 0, 75, 57)),
        lambda image: image.transpose(0),
        lambda image: image.point(lambda value: value * 0.7),
    ],
    ids=["smaller", "cropped", "mirrored", "darker"],
)
def test_32_near_duplicates_of_training_images_are_left_out_too_unless_they_are_to_be_kept(tmp_path, change):
    make(tmp_path / "train", {"cat": 3, "dog": 3})
    make(tmp_path / "test", {"cat": 3, "dog": 3}, start=100)
    write(tmp_path / "test/cat/changed.png", change(scene(1, (80, 60))))
    found = fewshot.check(tmp_path)
    assert found.counts()["NEAR_LEAKAGE"] == 1
    assert found.test.n_used == 6
    assert fewshot.check(tmp_path, keep_near_duplicates=True).test.n_used == 7


def test_33_one_picture_in_two_classes_stops_training_and_both_are_listed(tmp_path):
    make(tmp_path, {"cat": 3, "dog": 3})
    write(tmp_path / "dog/other.png", scene(1, (80, 60)))
    for run in (
        lambda: fewshot.compare(tmp_path, strategies=["prototypical"]),
        lambda: fewshot.benchmark(tmp_path, strategies=["prototypical"], n_way=2, k_shots=1, n_query=1, n_episodes=2),
    ):
        with pytest.raises(DatasetError, match="LABEL_CONFLICT") as caught:
            run()
        assert str(tmp_path / "cat/cata.png") in str(caught.value)
        assert str(tmp_path / "dog/other.png") in str(caught.value)


def test_33_check_lists_every_conflict_at_once(tmp_path):
    make(tmp_path, {"cat": 3, "dog": 3})
    for number in (1, 2):
        write(tmp_path / f"dog/other{'ab'[number - 1]}.png", scene(number, (80, 60)))
    report = fewshot.check(tmp_path)
    conflicts = [set(finding.images) for finding in report.findings if finding.code == "LABEL_CONFLICT"]
    assert conflicts == [
        {str(tmp_path / "cat/cata.png"), str(tmp_path / "dog/othera.png")},
        {str(tmp_path / "cat/catb.png"), str(tmp_path / "dog/otherb.png")},
    ]
    assert report.exit_code() == 1


def test_33_between_training_and_test_the_labels_are_told(tmp_path):
    make(tmp_path / "train", {"cat": 3, "dog": 3})
    make(tmp_path / "test", {"cat": 3, "dog": 3}, start=100)
    write(tmp_path / "test/dog/other.png", scene(1, (80, 60)))
    notes = fewshot.compare(tmp_path, strategies=["prototypical"]).notes
    assert any("LABEL_CONFLICT" in note and "'dog'" in note and "'cat'" in note for note in notes)


def test_30_demo_shots_that_are_not_there_are_refused_with_the_number_there_is(fruits, tmp_path):
    from fewshot.demo import run_demo

    with pytest.raises(InvalidInputError, match="needs 1 to"):
        run_demo(tmp_path, classes=["Kaiser", "Orange"], k_shot=500)


def test_33_a_version_of_a_training_picture_under_another_label_is_told_and_stays_in_the_test_set(tmp_path):
    make(tmp_path / "train", {"cat": 3, "dog": 3})
    make(tmp_path / "test", {"cat": 3, "dog": 3}, start=100)
    write(tmp_path / "test/dog/other.png", scene(1, (80, 60)).resize((60, 45)))
    report = fewshot.check(tmp_path)
    (finding,) = [one for one in report.findings if one.code == "NEAR_LEAKAGE"]
    assert "NEAR_CONFLICT" in finding.message
    assert report.test.n_used == 7


def test_32_pictures_that_all_look_alike_are_kept_and_that_is_said_once(tmp_path):
    make(tmp_path / "train", {"cat": 3, "dog": 3})
    make(tmp_path / "test", {"cat": 3, "dog": 3}, start=100)
    for number in (1, 2, 4):
        folder = tmp_path / "test" / ("cat" if number < 4 else "dog")
        write(folder / f"version{'abcd'[number - 1]}.png", scene(number, (80, 60)).resize((60, 45)))
    report = fewshot.compare(tmp_path, strategies=["prototypical"])
    (finding,) = [one for one in report.data["findings"] if one["code"] == "ALL_ALIKE"]
    assert "3 of 9" in finding["message"]
    assert len(report.test_images) == 9
    assert not any(one["code"] == "NEAR_LEAKAGE" for one in report.data["findings"])
