"""check: everything that is wrong with a data set, at once, for people and for programs."""

import json
import subprocess
import sys

import pytest
from scenes import pan, saved, scene, write
from typer.testing import CliRunner

import fewshot
from fewshot.cli.root import app
from fewshot.images.audit import audit
from fewshot.images.data_report import DataReport, describe
from fewshot.images.dataset import ImageDataset
from fewshot.images.findings import Finding, messages, summarised


def make(root, counts, start=0):
    """Write scenes for each class, none like another."""
    seed = start
    for label, count in counts.items():
        for number in range(count):
            seed += 1
            write(root / label / f"{label}{'abcdefghijklmnopqrstuvwxyz'[number]}.png", scene(seed))
    return root


def run(*arguments):
    return CliRunner().invoke(app, ["check", *map(str, arguments)])


def codes(report):
    return {finding.code: finding for finding in report.findings}


def test_a_good_folder_is_good(tmp_path):
    report = fewshot.check(make(tmp_path, {"cat": 3, "dog": 3}))
    assert (report.verdict, report.findings, report.exit_code(strict=True)) == ("good", (), 0)
    assert report.train.classes == {"cat": 3, "dog": 3}
    assert (report.train.n_given, report.train.n_used, report.test) == (6, 6, None)
    assert {use.name: use.possible for use in report.uses} == {
        "fit": True,
        "cross-validation": True,
        "episodes": True,
    }


def test_all_problems_are_told_at_once(tmp_path):
    make(tmp_path, {"cat": 4, "dog": 4})
    for name in ("cat/broken1.jpg", "dog/broken2.jpg"):
        (tmp_path / name).write_bytes(b"<html>")
    write(tmp_path / "dog/taken_for_a_dog.png", scene(1))
    (tmp_path / "empty").mkdir()
    (tmp_path / "bird").mkdir()
    (tmp_path / "bird/only.png").write_bytes(b"")
    report = fewshot.check(tmp_path)
    found = codes(report)
    assert {code for code, finding in found.items() if finding.severity == "error"} == {
        "TOO_MANY_UNREADABLE",
        "UNREADABLE_CLASS",
        "LABEL_CONFLICT",
    }
    assert {"NOT_AN_IMAGE", "EMPTY", "EMPTY_CLASS"} <= set(found)
    assert report.counts()["NOT_AN_IMAGE"] == 2
    assert (report.verdict, report.exit_code()) == ("problems", 1)
    assert not any(use.possible for use in report.uses)


def test_one_class_is_a_problem(tmp_path):
    report = fewshot.check(make(tmp_path, {"cat": 3}))
    assert codes(report)["TOO_FEW_CLASSES"].severity == "error"


def test_nothing_to_load_is_a_report_too(tmp_path):
    report = fewshot.check(tmp_path)
    (finding,) = report.findings
    assert (finding.code, finding.severity, report.train, report.exit_code()) == ("CANNOT_LOAD", "error", None, 1)
    assert "No images found" in finding.message
    assert json.loads(json.dumps(report.to_dict()))["train"] is None


def test_splits_are_recognised_and_leaks_are_taken_out(tmp_path):
    make(tmp_path / "train", {"cat": 4, "dog": 4})
    make(tmp_path / "test", {"cat": 4, "dog": 3}, start=100)
    write(tmp_path / "test/cat/same.png", scene(1))
    write(tmp_path / "test/dog/smaller.png", scene(5).resize((90, 70)))
    report = fewshot.check(tmp_path)
    found = codes(report)
    assert found["LEAKAGE"].images == (str(tmp_path / "test/cat/same.png"), str(tmp_path / "train/cat/cata.png"))
    assert found["NEAR_LEAKAGE"].images == (
        str(tmp_path / "test/dog/smaller.png"),
        str(tmp_path / "train/dog/doga.png"),
    )
    assert (report.test.n_given, report.test.n_used, report.test.classes) == (9, 7, {"cat": 4, "dog": 3})
    kept = fewshot.check(tmp_path / "train", tmp_path / "test", keep_near_duplicates=True)
    assert kept.test.n_used == 8
    assert "was kept" in codes(kept)["NEAR_LEAKAGE"].message


def test_a_test_set_that_is_the_training_set_is_a_problem(tmp_path):
    make(tmp_path, {"cat": 2, "dog": 2})
    assert codes(fewshot.check(tmp_path, tmp_path))["NOTHING_TO_TEST"].severity == "error"


def test_classes_of_one_set_only_are_told(tmp_path):
    make(tmp_path / "train", {"cat": 2, "dog": 2})
    make(tmp_path / "test", {"cat": 2, "eel": 2}, start=100)
    found = codes(fewshot.check(tmp_path))
    assert found["UNKNOWN_CLASS"].severity == "error"
    assert "'eel'" in found["UNKNOWN_CLASS"].message
    assert "dog" in found["UNTESTED_CLASS"].message


@pytest.mark.parametrize(("counts", "severity"), [((2, 3), None), ((2, 4), "info"), ((2, 20), "warning")])
def test_unequal_classes_are_noted_and_very_unequal_ones_warned_of(tmp_path, counts, severity):
    found = codes(fewshot.check(make(tmp_path, dict(zip(("cat", "dog"), counts, strict=True)))))
    assert (found["IMBALANCE"].severity if "IMBALANCE" in found else None) == severity


def test_one_image_per_class_can_be_trained_on_but_not_cross_validated(tmp_path):
    report = fewshot.check(make(tmp_path, {"cat": 1, "dog": 3}))
    uses = {use.name: use for use in report.uses}
    assert uses["fit"].possible
    assert not uses["cross-validation"].possible
    assert "cat" in uses["cross-validation"].reason
    assert not uses["episodes"].possible
    assert report.exit_code() == 0


def test_versions_of_one_picture_do_not_make_folds(tmp_path):
    make(tmp_path, {"dog": 3}, start=50)
    write(tmp_path / "cat/a.png", scene(1))
    write(tmp_path / "cat/b.jpg", scene(1))
    report = fewshot.check(tmp_path)
    assert codes(report)["NEAR_DUPLICATE"].images == (str(tmp_path / "cat/a.png"), str(tmp_path / "cat/b.jpg"))
    assert not {use.name: use.possible for use in report.uses}["cross-validation"]


def test_one_picture_in_two_classes_in_two_versions_is_warned_of(tmp_path):
    make(tmp_path, {"cat": 3, "dog": 3})
    write(tmp_path / "dog/cat.jpg", scene(1), quality=60)
    finding = codes(fewshot.check(tmp_path))["NEAR_CONFLICT"]
    assert finding.severity == "warning"
    assert "'cat' and 'dog'" in finding.message


def test_mirror_images_of_two_classes_are_no_conflict(tmp_path):
    make(tmp_path, {"b": 3, "q": 3})
    write(tmp_path / "d/mirrored.png", scene(1).transpose(0))
    assert not {"NEAR_CONFLICT", "NEAR_DUPLICATE"} & set(codes(fewshot.check(tmp_path)))


def test_frames_of_one_video_are_one_finding(tmp_path):
    make(tmp_path, {"cat": 12, "dog": 3})
    for number, frame in enumerate(pan(10), 1):
        write(tmp_path / f"cat/clip_{number:03}.png", frame)
    report = fewshot.check(tmp_path)
    finding = codes(report)["FRAMES"]
    assert len(finding.images) == 10
    for word in ("clip_001.png", "clip_010.png", "'cat'", "(10)", "Split by video"):
        assert word in finding.message
    assert "NEAR_DUPLICATE" not in codes(report)


def test_a_video_in_both_sets_is_told(tmp_path):
    make(tmp_path / "train", {"cat": 12, "dog": 3})
    make(tmp_path / "test", {"cat": 3, "dog": 3}, start=100)
    for number, frame in enumerate(pan(16, step=16), 1):
        write(tmp_path / f"{'test' if number % 2 else 'train'}/cat/clip_{number:03}.png", frame)
    assert len(codes(fewshot.check(tmp_path))["FRAME_LEAKAGE"].images) == 16


def test_remarks_on_pictures_are_collected(tmp_path):
    make(tmp_path, {"cat": 3, "dog": 3})
    for number in range(5):
        write(tmp_path / f"cat/tiny{number}.png", scene(number + 30, (4, 4)))
    report = fewshot.check(tmp_path)
    assert report.counts()["TINY"] == 5
    (note,) = messages(finding for finding in report.findings if finding.code == "TINY")
    assert "4 more" in note


def test_more_than_a_few_findings_of_a_code_become_one_with_all_images():
    found = [Finding("EMPTY", f"Left out: {i}.jpg.", (f"{i}.jpg",), "warning") for i in range(9)]
    assert summarised(found[:3]) == found[:3]
    (one,) = summarised(found)
    assert one.images == tuple(f"{i}.jpg" for i in range(9))
    assert one.severity == "warning"
    assert one.message == "Left out: 0.jpg. 8 more are like that [EMPTY]: 1.jpg, 2.jpg, 3.jpg and 5 more."


def test_what_a_report_says_as_json(tmp_path):
    make(tmp_path / "train", {"cat": 2, "dog": 2})
    make(tmp_path / "test", {"cat": 1, "dog": 2}, start=100)
    (tmp_path / "test/cat/broken.jpg").write_bytes(b"<html>")
    result = run(tmp_path, "--json")
    data = json.loads(result.stdout)
    assert result.exit_code == 1  # one of four test images is more than 5 %
    assert list(data) == ["schema", "verdict", "train", "test", "uses", "counts", "findings"]
    assert (data["schema"], data["verdict"]) == (1, "problems")
    assert data["test"] == {
        "source": str(tmp_path),
        "n_given": 4,
        "n_used": 3,
        "classes": {"cat": 1, "dog": 2},
        "imbalance": 2.0,
        "skipped": [
            {
                "image": str(tmp_path / "test/cat/broken.jpg"),
                "code": "NOT_AN_IMAGE",
                "message": "this is an HTML page, not an image, whatever its name says",
            }
        ],
    }
    assert {tuple(finding) for finding in data["findings"]} == {("code", "severity", "message", "images")}


def test_the_command_shows_what_a_person_needs(tmp_path):
    make(tmp_path, {"cat": 3, "dog": 3})
    write(tmp_path / "cat/copy.png", scene(1))
    result = run(tmp_path)
    assert result.exit_code == 0
    for words in (
        "6 images of 2 classes, 1 of 7 left out",
        "Warnings",
        "DUPLICATE",
        "copy.png",
        "3 folds",
        "1 warning",
    ):
        assert words in result.stdout


def test_strict_makes_warnings_fail(tmp_path):
    make(tmp_path, {"cat": 3, "dog": 3})
    write(tmp_path / "cat/copy.png", scene(1))
    assert (run(tmp_path).exit_code, run(tmp_path, "--strict").exit_code) == (0, 1)


def test_a_name_nobody_knows_is_a_wrong_use_of_the_command():
    done = subprocess.run([sys.executable, "-m", "fewshot", "check", "torchvision:Flowers1O2"], capture_output=True)
    assert done.returncode == 2


def test_check_loads_no_network_library(tmp_path):
    make(tmp_path, {"cat": 2, "dog": 2})
    code = f"import fewshot, sys; fewshot.check({str(tmp_path)!r}); assert not {{'torch', 'timm'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_data_sets_of_every_kind_are_taken(tmp_path, fruits):
    make(tmp_path / "pets", {"cat": 2, "dog": 2})
    rows = "\n".join(f"{path},{path.parent.name}" for path in sorted((tmp_path / "pets").rglob("*.png")))
    (tmp_path / "pets.csv").write_text(f"image,label\n{rows}\n")
    in_memory = ImageDataset.from_paths([saved(scene(seed)) for seed in range(4)], list("aabb"))
    for spec in (tmp_path / "pets.csv", f"leaves:{tmp_path / 'pets'}", in_memory):
        assert sorted(fewshot.check(spec).train.classes.values()) == [2, 2]


def test_progress_counts_both_sets(tmp_path):
    make(tmp_path / "train", {"cat": 2, "dog": 2})
    make(tmp_path / "test", {"cat": 1, "dog": 1}, start=100)
    seen = []
    fewshot.check(tmp_path, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 6) for i in range(1, 7)]


def test_every_entry_point_reports_its_data(tmp_path):
    make(tmp_path / "train", {"cat": 3, "dog": 3})
    make(tmp_path / "test", {"cat": 2, "dog": 2}, start=100)
    write(tmp_path / "test/cat/near.jpg", scene(1), quality=70)
    compared = fewshot.compare(tmp_path, strategies=["prototypical"])
    assert [f["code"] for f in compared.data["findings"]] == ["SPLITS", "NEAR_LEAKAGE"]
    assert compared.data["test"]["n_used"] == 4
    assert fewshot.Report.from_dict(json.loads(compared.to_json())).data == json.loads(compared.to_json())["data"]
    older = json.loads(compared.to_json())
    del older["data"]
    assert fewshot.Report.from_dict(older).data is None
    kept = fewshot.compare(tmp_path, strategies=["prototypical"], keep_near_duplicates=True)
    assert kept.data["test"]["n_used"] == 5
    assert "near.jpg" in compared.to_html()


def test_cross_validation_keeps_versions_of_a_picture_together(tmp_path):
    make(tmp_path, {"cat": 3, "dog": 3})
    write(tmp_path / "cat/near.jpg", scene(1), quality=70)
    names = [image.name for image in fewshot.compare(tmp_path, strategies=["prototypical"]).train_images]
    pair = {names.index(str(tmp_path / "cat/cata.png")), names.index(str(tmp_path / "cat/near.jpg"))}
    report = fewshot.compare(tmp_path, strategies=["prototypical"])
    assert all(len(pair & set(result.test)) in (0, 2) for result in report.results)
    assert any("in one fold" in note for note in report.notes)
    apart = fewshot.compare(tmp_path, strategies=["prototypical"], keep_near_duplicates=True)
    assert not any("in one fold" in note for note in apart.notes)


def test_a_fixed_split_leaves_near_duplicates_out(tmp_path):
    make(tmp_path / "train", {"cat": 3, "dog": 3})
    make(tmp_path / "test", {"cat": 3, "dog": 3}, start=100)
    write(tmp_path / "test/cat/near.jpg", scene(1), quality=70)
    settings = {"n_way": 2, "k_shots": 1, "n_query": 2, "n_episodes": 4, "fixed_split": True}
    report = fewshot.benchmark(tmp_path, strategies=["prototypical"], **settings)
    (data,) = report.data.values()
    assert data["test"]["n_used"] == 6
    assert any("near.jpg" in note and "taken out" in note for note in report.notes)
    kept = fewshot.benchmark(tmp_path, strategies=["prototypical"], keep_near_duplicates=True, **settings)
    assert next(iter(kept.data.values()))["test"]["n_used"] == 7


def test_a_report_is_short_where_a_notebook_shows_it(tmp_path):
    report = describe(audit(ImageDataset.from_folder(make(tmp_path, {"cat": 2, "dog": 2}))))
    assert isinstance(report, DataReport)
    assert repr(report) == "<DataReport: good>"


def test_the_command_loads_no_network_library(tmp_path):
    make(tmp_path, {"cat": 2, "dog": 2})
    code = (
        "import sys\nfrom fewshot.cli.root import app\n"
        f"try:\n    app(['check', {str(tmp_path)!r}])\nexcept SystemExit as stop:\n    assert stop.code == 0\n"
        "assert not {'torch', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_test_set_that_is_no_use_leaves_training_as_good_as_it_was(tmp_path):
    from tests.processes import make_pictures

    train = make_pictures(tmp_path / "train", classes=2, per_class=3)
    other = make_pictures(tmp_path / "other", classes=3, per_class=1, seed=1)
    report = fewshot.check(train, other)
    assert "UNKNOWN_CLASS" in report.counts()
    assert {use.name: use.possible for use in report.uses} == {
        "fit": True,
        "test-set": False,
        "cross-validation": True,
        "episodes": True,
    }
    assert "UNKNOWN_CLASS" in str(report)
