"""The command line: what it prints, writes and returns."""

import csv
import io
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fewshot
from fewshot import ImageDataset, commands
from fewshot.cli import main
from fewshot.journal import count_records
from tests import processes


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process: (exit code, standard output, standard error)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fewshot", *map(str, arguments)])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return call


def test_compare_prints_a_table_and_writes_three_reports(run, fruit_folder, tmp_path):
    out = tmp_path / "out"
    code, printed, _ = run(
        "compare", fruit_folder / "train", "--test", fruit_folder / "test", "--out", out,
        "--strategies", "simple-cnn,linear-probe", "--seed", 1,
    )  # fmt: skip
    assert code == 0
    assert "linear-probe" in printed
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json", "report.md"]
    data = json.loads((out / "report.json").read_text())
    assert data["seed"] == 1
    assert [row["strategy"] for row in data["summary"]] == ["simple-cnn", "linear-probe"]


def test_compare_as_json_prints_nothing_else(run, fruit_folder, tmp_path):
    code, printed, errors = run(
        "compare", fruit_folder, "--strategies", "prototypical", "--json", "--out", tmp_path / "o"
    )
    assert code == 0
    assert json.loads(printed)["protocol"] == "test-set"
    assert errors == ""


def test_simple_cnn_shows_each_epoch_and_its_loss(run, fruit_folder, tmp_path):
    _, _, errors = run("compare", fruit_folder, "--strategies", "simple-cnn", "--out", tmp_path / "o")
    assert [f"epoch {i}" in errors for i in range(1, 6)] == [True] * 5
    assert "loss" in errors


def test_compare_on_single_images_says_that_nothing_can_be_estimated(run, two_fruits, fruit_folder, tmp_path):
    single = tmp_path / "single"
    for i in (0, 4):
        path = single / two_fruits[0].labels[i] / "photo.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(two_fruits[0].sources[i])
    code, printed, _ = run(
        "compare", single, "--strategies", "prototypical,linear-probe", "--out", tmp_path / "o",
        "--unlabeled", fruit_folder / "test",
    )  # fmt: skip
    assert code == 0
    assert "cannot be estimated" in printed
    assert "Agreement" in printed
    assert "accuracy %" not in printed


def test_fit_predict_and_their_forms(run, fruit_folder, tmp_path):
    model = tmp_path / "model"
    code, _, errors = run("fit", fruit_folder / "train", "-o", model, "--head", "prototypical", "--views", 2)
    assert code == 0
    assert "Orange: 4 images" in errors
    assert sorted(p.name for p in model.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    test = ImageDataset.from_folder(fruit_folder / "test")
    expected = fewshot.load(model).predict_proba(test.sources)

    code, printed, _ = run("predict", model, fruit_folder / "test")
    assert code == 0
    lines = [line.split("\t") for line in printed.splitlines()]
    assert [line[0] for line in lines] == list(test.sources)
    assert np.mean([line[1] for line in lines] == np.array(test.labels)) >= 0.9

    _, printed, _ = run("predict", model, test.sources[0], test.sources[-1], "--csv")
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert list(rows[0]) == ["image", "label", "Granny-Smith", "Orange", "error"]
    np.testing.assert_allclose([float(rows[1]["Granny-Smith"]), float(rows[1]["Orange"])], expected[-1], atol=1e-5)

    _, printed, _ = run("predict", model, test.sources[0], "--json")
    answer = json.loads(printed)["predictions"][0]
    assert answer["label"] == max(answer["proba"], key=answer["proba"].get)


@pytest.mark.parametrize(("head", "subject"), [("prototypical", "features"), ("fine-tune", "features, then training")])
def test_fit_tells_what_it_is_at(head, subject, two_fruits, fruit_folder, tmp_path):
    told = []
    pair = two_fruits[0].subset([0, 4])
    for source, label in zip(pair.sources, pair.labels, strict=True):
        path = tmp_path / "pair" / label / "only.jpg"
        path.parent.mkdir(parents=True)
        path.write_bytes(source)
    parameters = {"head": head, "augmentation": "none", "representation": "auto", "cache": False}
    commands.fit_folder(tmp_path / "pair", tmp_path / "model", parameters=parameters, on_event=told.append)
    assert {(event.kind, event.subject) for event in told} == {("progress", subject)}
    assert told[-1].done == told[-1].total > 0


def test_predict_lists_unreadable_images_and_predicts_the_rest(run, fruit_folder, tmp_path):
    model = tmp_path / "model"
    run("fit", fruit_folder / "train", "-o", model, "--views", 1)
    good = ImageDataset.from_folder(fruit_folder / "test").sources[0]
    bad = tmp_path / "=cmd().jpg"
    bad.write_text("hello")
    code, printed, errors = run("predict", model, bad, good)
    assert code == 0
    assert good in printed
    assert "NOT_AN_IMAGE" in errors
    code, printed, _ = run("predict", model, bad, good, "--csv")
    rows = list(csv.DictReader(io.StringIO(printed)))
    assert [row["error"] for row in rows] == ["NOT_AN_IMAGE", ""]
    monkey = os.path.relpath(bad, tmp_path)
    assert monkey.startswith("=")
    assert not rows[0]["image"].startswith("=")
    _, printed, _ = run("predict", model, bad, good, "--json")
    assert json.loads(printed)["errors"][0]["code"] == "NOT_AN_IMAGE"
    assert run("predict", model, bad)[0] == 1
    assert run("predict", model, bad, good, "--strict")[0] == 1
    assert run("predict", model, good, "--csv", "--json")[0] == 2


def test_a_formula_in_a_name_is_defused_in_csv():
    from fewshot.commands import prediction_rows

    stream = io.StringIO()
    prediction_rows(
        ["=A1", "b"], [("=cmd().jpg", "=A1", [0.5, 0.5], None), ("\udc80.jpg", "b", [0, 1], None)], [], stream
    )
    rows = list(csv.reader(io.StringIO(stream.getvalue())))
    assert rows[0][2] == "'=A1"
    assert rows[1][:2] == ["'=cmd().jpg", "'=A1"]
    stream.getvalue().encode()


def test_augment_draws_the_image_and_the_views_that_training_would_use(run, two_fruits, tmp_path):
    photo, sheet = tmp_path / "photo.jpg", tmp_path / "sheet.png"
    photo.write_bytes(two_fruits[0].sources[0])
    assert run("augment", photo, "-o", sheet, "--policy", "heavy", "--views", 5, "--size", 64, "--seed", 2)[0] == 0
    from fewshot.augment import load_policy

    picture = np.asarray(Image.open(sheet))
    assert picture.shape == (2 * 66 + 2, 3 * 66 + 2, 3)
    view = load_policy("heavy").view(fewshot.read_image(photo), index=4, seed=2, size=64)
    np.testing.assert_array_equal(picture[2 + 66 : 66 + 66, 2 + 66 : 66 + 66], view)
    code, _, errors = run("augment", photo, "-o", tmp_path / "sheet.xyz")
    assert (code, ".png" in errors) == (1, True)
    assert run("augment", photo, "--policy", "none")[0] == 2


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("backbones", "efficientnet_lite0"),
        ("heads", "linear-probe"),
        ("augmentations", "heavy"),
        ("strategies", "fine-tune"),
        ("doctor", "torch"),
    ],
)
def test_lists_name_and_describe_everything(command, name, run):
    code, printed, _ = run(command)
    assert code == 0
    assert name in printed
    code, printed, _ = run(command, "--json")
    rows = json.loads(printed)
    assert name in rows
    assert all(rows.values()) or command == "backbones"


@pytest.mark.parametrize(
    ("arguments", "code", "word"),
    [
        (("compare", "{one}"), 1, "at least 2 classes"),
        (("compare", "{empty}"), 1, "No images found"),
        (("compare", "{missing}"), 1, "No such folder"),
        (("compare", "{text}"), 1, "NOT_AN_IMAGE"),
        (("compare", "{good}", "--strategies", "linear-prob"), 2, "'linear-probe'"),
        (("compare", "{good}", "--backbone", "efficientnet_lit0"), 2, "'efficientnet_lite0'"),
        (("compare", "{good}", "--augmentation", "haevy"), 2, "'heavy'"),
        (("compare", "{good}", "--views", "0"), 2, "n_views=0"),
        (("compare", "{good}", "--test", "{other}"), 1, "'Kiwi'"),
        (("fit", "{good}", "-o", "{out}", "--head", "prototypcal"), 2, "'prototypical'"),
        (("fit", "{good}", "-o", "{out}", "--views", "0"), 2, "n_views=0"),
        (("fit", "{one}", "-o", "{out}"), 1, "at least 2 classes"),
        (("fit", "{good}", "-o", "{good}"), 1, "not a model folder"),
        (("predict", "{good}", "{good}"), 1, "not a model folder"),
        (("augment", "{missing}"), 1, "VANISHED"),
        (("augment", "{photo}", "--policy", "hevy"), 2, "'heavy'"),
        (("augment", "{photo}", "--views", "0"), 2, "n_views=0"),
        (("demo", "--classes", "Orange,Aple", "--out", "{out}"), 2, "fruit"),
        (("demo", "--classes", "Orange", "--out", "{out}"), 2, "two different"),
        (("demo", "--ways", "99", "--out", "{out}"), 2, "ways=99"),
        (("demo", "--shots", "0", "--out", "{out}"), 2, "shots=0"),
        (("compare",), 2, "Missing argument"),
        (("compare", "{good}", "--sed", "1"), 2, "--seed"),
        (("nonsense",), 2, "nonsense"),
    ],
)
def test_bad_input_gets_a_clear_error_and_an_exit_code(arguments, code, word, run, fruit_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    photo = ImageDataset.from_folder(fruit_folder / "train").sources[0]
    places = {name: tmp_path / name for name in ("one", "empty", "missing", "text", "other", "out")}
    for name, classes in (("one", ["a"]), ("text", ["a", "b"]), ("other", ["Orange", "Kiwi"])):
        for position, label in enumerate(classes):
            (places[name] / label).mkdir(parents=True)
            data = b"hello" if name == "text" else Path(photo).read_bytes() + bytes([position])
            (places[name] / label / "1.jpg").write_bytes(data)
    places["empty"].mkdir()
    places |= {"good": fruit_folder / "train", "photo": photo}
    got, printed, errors = run(*(argument.format(**places) for argument in arguments))
    assert got == code
    assert word in errors
    assert "Traceback" not in errors
    assert printed == ""


def test_colours_and_bars_only_on_a_terminal(fruit_folder, tmp_path):
    arguments = ["-m", "fewshot", "compare", fruit_folder, "--strategies", "prototypical", "--out", tmp_path / "o"]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, arguments)], capture_output=True, check=True, env=os.environ
    )
    assert b"\x1b" not in done.stdout + done.stderr
    assert b"prototypical" in done.stdout


def test_the_version_is_shown(run):
    assert run("--version")[1].strip() == f"fewshot {fewshot.__version__}"


@pytest.mark.parametrize("command", ["compare", "demo", "fit"])
def test_an_output_that_cannot_be_written_is_refused_before_anything_is_computed(command, run, fruit_folder, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"x")
    arguments = {
        "compare": ["compare", fruit_folder, "--out", file],
        "demo": ["demo", "--out", file],
        "fit": ["fit", fruit_folder, "-o", file / "model"],
    }[command]
    code, _, errors = run(*arguments)
    assert code == 1
    assert "written" in errors
    assert "done" not in errors
    assert file.read_bytes() == b"x"


def test_predict_fails_where_nothing_could_be_predicted_in_every_format(run, fruit_folder, tmp_path):
    run("fit", fruit_folder, "-o", tmp_path / "model", "--augmentation", "none")
    (tmp_path / "bad.jpg").write_bytes(b"text")
    for option in ([], ["--csv"], ["--json"]):
        assert run("predict", tmp_path / "model", tmp_path / "bad.jpg", *option)[0] == 1


def test_the_table_keeps_its_digits_on_a_narrow_terminal(run, fruit_folder, tmp_path, monkeypatch):
    from fewshot import console

    monkeypatch.setattr(console.out, "width", 50)
    _, printed, _ = run("compare", fruit_folder, "--strategies", "simple-cnn,prototypical", "--out", tmp_path / "o")
    assert "…" not in printed


def test_python_m_fewshot_is_the_command_line():
    done = subprocess.run([sys.executable, "-m", "fewshot", "--version"], capture_output=True, text=True, check=True)
    assert fewshot.__version__ in done.stdout


@pytest.mark.parametrize(
    ("strategy", "head", "policy"),
    [
        ("prototypical", "PrototypicalHead", "none"),
        ("linear-probe-heavy", "LinearProbe", "heavy"),
        ("prototypical-light", "PrototypicalHead", "light"),
    ],
)
def test_fit_takes_what_compare_shows(strategy, head, policy, run, fruit_folder, tmp_path):
    code, _, errors = run("fit", fruit_folder, "-o", tmp_path / "model", "--strategy", strategy, "--views", 1)
    assert code == 0, errors
    model = fewshot.load(tmp_path / "model")
    assert (type(model.head_).__name__, model.augmentation) == (head, policy)


def test_fit_says_what_fine_tuning_chose(run, fruit_folder, tmp_path, monkeypatch):
    from fewshot.finetune.fine_tune import FineTune

    monkeypatch.setattr(FineTune.__init__, "__kwdefaults__", FineTune.__init__.__kwdefaults__ | {"steps": 2})
    _, _, errors = run("fit", fruit_folder, "-o", tmp_path / "model", "--head", "fine-tune", "--views", 1)
    assert "held-out images" in errors
    for strategy in ("linear-prob", "all"):
        code, _, errors = run("fit", fruit_folder, "-o", tmp_path / "m", "--strategy", strategy)
        assert (code, "Unknown strategy" in errors) == (2, True)
    code, _, errors = run(
        "fit", fruit_folder, "-o", tmp_path / "m", "--strategy", "fine-tune", "--augmentation", "light"
    )
    assert (code, "either" in errors) == (2, True)


def test_what_compare_suggests_can_be_run(run, fruit_folder, tmp_path):
    spaced = tmp_path / "my pets"
    (fruit_folder / "train").rename(spaced)
    _, _, errors = run("compare", spaced, "--strategies", "prototypical", "--out", tmp_path / "o", "--seed", 3)
    command = shlex.split(errors.rsplit("keep it: ", 1)[1])
    arguments = [{"MODEL": str(tmp_path / "model"), "NAME": "prototypical"}.get(word, word) for word in command[1:]]
    assert run(*arguments)[0] == 0
    assert fewshot.load(tmp_path / "model").random_state == 3


def grow(disk, size):
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


SMALL = ("--strategies", "prototypical,linear-probe-heavy", "--views", 1)


def test_a_comparison_whose_report_does_not_fit_is_printed_kept_and_written_later(run, fruit_folder, small_disk):
    disk = small_disk(80_000)
    command = ("compare", fruit_folder, *SMALL, "--out", disk)
    code, printed, errors = run(*command)
    assert code == 1
    assert "prototypical" in printed
    assert re.search(r"report\.html \([\d.]+ [kM]B\)", errors)
    assert "the disk is full" in errors
    assert "the same command writes the report without computing them again" in errors
    assert not (disk / "report.html").exists()
    assert (disk / "compare-journal.jsonl").exists()
    code, printed, _ = run(*command, "--json")
    assert code == 1
    assert json.loads(printed)["summary"]
    grow(disk, 4_000_000)
    code, _, errors = run(*command)
    assert code == 0
    assert "2 of 2 cells are finished" in errors
    assert sorted(path.name for path in disk.iterdir()) == ["report.html", "report.json", "report.md"]


def test_a_comparison_whose_cells_cannot_be_kept_says_how_to_go_on(run, fruit_folder, small_disk):
    disk = small_disk(4096)
    code, printed, errors = run("compare", fruit_folder / "train", *SMALL, "--repeats", 6, "--out", disk)
    assert (code, printed) == (1, "")
    assert "compare-journal.jsonl cannot be written: the disk is full (0 B are free in" in errors
    assert "Cells that are finished are kept: go on with the same command." in errors
    assert count_records(disk / "compare-journal.jsonl") > 0


def test_a_benchmark_whose_report_does_not_fit_is_printed_and_written_later(run, fruit_folder, small_disk):
    disk = small_disk(60_000)
    code, printed, errors = run(
        "bench", fruit_folder / "train", "--ways", 2, "--shots", 1, "--queries", 1, "--episodes", 20,
        "--strategies", "prototypical,knn", "--out", disk,
    )  # fmt: skip
    assert code == 1
    assert "prototypical" in printed
    assert "the disk is full" in errors
    assert errors.strip().splitlines()[-1].strip() == shlex.join(["fewshot", "report", str(disk)])
    grow(disk, 4_000_000)
    assert run("report", disk)[0] == 0
    assert (disk / "report.html").exists()


def test_a_sheet_or_a_photo_that_does_not_fit_is_an_error_and_leaves_nothing(run, two_fruits, tmp_path, small_disk):
    disk, photo = small_disk(8192), tmp_path / "photo.jpg"
    photo.write_bytes(two_fruits[0].sources[0])
    code, _, errors = run("augment", photo, "-o", disk / "sheet.png", "--size", 64)
    assert code == 1
    assert re.search(r"sheet\.png \([\d.]+ kB\) cannot be written: the disk is full \([\d.]+ k?B are free in", errors)
    code, _, errors = run("demo", "--out", disk / "demo")
    assert code == 1
    assert "B) cannot be written: the disk is full" in errors
    assert list(disk.iterdir()) == []


def test_a_folder_that_got_no_results_is_taken_away_again(run, fruit_folder, tmp_path):
    (tmp_path / "there").mkdir()
    for out in (tmp_path / "a" / "b", tmp_path / "there"):
        assert run("compare", tmp_path / "missing", "--out", out)[0] == 1
    assert not (tmp_path / "a").exists()
    assert (tmp_path / "there").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="this system has no /dev/full")
@pytest.mark.parametrize("arguments", [("strategies",), ("strategies", "--json"), ("--help",)])
def test_standard_output_that_cannot_be_written_is_an_error(arguments):
    with open("/dev/full", "w") as full:
        code, _, errors = processes.run(*arguments, stdout=full)
    assert (code, errors) == (1, "Error: Standard output cannot be written: No space left on device.\n")


def test_a_reader_that_goes_away_ends_the_command_quietly():
    process = processes.start("strategies", "--json")
    process.stdout.close()
    assert (process.stderr.read(), process.wait()) == ("", 141)
    process.stderr.close()


def test_closed_standard_files_are_no_hindrance(tmp_path):
    command = shlex.join([sys.executable, "-m", "fewshot", "strategies", "--json"])
    done = subprocess.run(["sh", "-c", f"{command} >&- 2>&- <&-"], check=False)
    assert done.returncode == 0


def test_warnings_are_sentences():
    program = (
        "import sys, warnings, fewshot.cli as cli\nsys.argv = ['fewshot']\n"
        "cli._call = lambda: warnings.warn('Look out.', RuntimeWarning, stacklevel=1)\ncli.main()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "Warning: Look out.\n")


def test_the_command_to_go_on_is_the_one_that_was_given(monkeypatch, tmp_path):
    from fewshot.cli import command_line

    script = tmp_path / "fewshot"
    script.touch(mode=0o755)
    monkeypatch.setattr(sys, "argv", [str(script), "bench", "a b", "--", "-x"])
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command_line("--resume") == "fewshot bench --resume 'a b' -- -x"
    # Of an environment that is not active, or not the first on the path.
    monkeypatch.setenv("PATH", "")
    assert command_line() == f"{script} bench 'a b' -- -x"
    for started in ("/x/fewshot/__main__.py", "/bin/pytest"):
        monkeypatch.setattr(sys, "argv", [started, "bench", "--resume"])
        assert command_line("--resume") == shlex.join([sys.executable, "-m", "fewshot", "bench", "--resume"])


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ("bench fruits --engine jobli", "'joblib'"),
        ("bench fruits --strategies linear-prob", "'linear-probe'"),
        ("bench fruits --shots x", "shots='x'"),
        ("bench", "No data set was given"),
        ("compare there --strategies knn,knn", "knn given twice"),
    ],
)
def test_what_is_wrong_with_a_command_is_said_before_torch_is_imported(arguments, word):
    program = (
        f"import sys\nsys.argv = {['fewshot', *arguments.split()]}\nimport fewshot.cli\n"
        "try:\n    fewshot.cli.main()\nexcept SystemExit as stop:\n    print(stop.code, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "2 False\n"
    assert word in done.stderr


def test_engines_are_known_by_the_same_names_everywhere():
    from fewshot import engines
    from fewshot.cli import early

    assert early.ENGINES == engines.ENGINES


def test_a_model_is_replaced_only_where_that_is_said(run, fruit_folder, tmp_path):
    fit = ("fit", fruit_folder / "train", "-o", tmp_path / "m", "--augmentation", "none", "--no-cache")
    assert run(*fit)[0] == 0
    before = (tmp_path / "m/config.json").read_bytes()
    code, _, errors = run(*fit, "--head", "ridge")
    assert code == 1
    assert "holds a model already" in errors
    assert (tmp_path / "m/config.json").read_bytes() == before
    assert run(*fit, "--head", "ridge", "--overwrite")[0] == 0
    assert (tmp_path / "m/config.json").read_bytes() != before


def test_a_heads_name_is_a_strategy_to_fit(run, fruit_folder, tmp_path):
    assert run("fit", fruit_folder / "train", "-o", tmp_path / "m", "--strategy", "ridge")[0] == 0
    assert "ridge" in (tmp_path / "m/config.json").read_text()
    code, _, errors = run("fit", fruit_folder / "train", "-o", tmp_path / "n", "--strategy", "rigde")
    assert code == 2
    assert "'ridge'" in errors


def test_questions_beyond_the_class_have_commands(run, fruit_folder, tmp_path):
    code, _, said = run("fit", fruit_folder / "train", "-o", tmp_path / "model")
    assert code == 0
    assert "Chose " in said
    assert "Expected accuracy on new images" in said
    stranger = tmp_path / "stranger.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(stranger)
    assert run("predict", tmp_path / "model", stranger, "--reject")[1].split("\t")[1:] == ["(none of these)", "\n"]
    answer = json.loads(run("predict", tmp_path / "model", stranger, "--reject", "--json")[1])["predictions"][0]
    assert answer["label"] is None
    assert sum(answer["proba"].values()) == pytest.approx(1)
    code, printed, _ = run("predict", tmp_path / "model", fruit_folder / "test", "--transductive")
    assert code == 0
    assert len(printed.splitlines()) == 12
    broken = fruit_folder / "test" / "Orange" / "broken.jpg"
    broken.write_bytes(b"no picture")
    code, printed, said = run("suggest", tmp_path / "model", fruit_folder / "test", "-n", 3)
    assert code == 0
    assert len(set(printed.splitlines())) == 3
    assert "broken.jpg" in said
    assert len(json.loads(run("suggest", tmp_path / "model", fruit_folder / "test", "--json")[1])["suggestions"]) == 10
    assert run("suggest", tmp_path / "model", broken)[0] == 1


def test_fit_takes_images_without_labels_and_a_single_class(run, fruit_folder, tmp_path):
    unlabeled = ("--unlabeled", fruit_folder / "test")
    assert run("fit", fruit_folder / "train", "-o", tmp_path / "model", *unlabeled)[0] == 0
    assert fewshot.load(tmp_path / "model").known_.unlabeled.shape[0] == 12
    code, _, said = run("fit", fruit_folder / "train", "-o", tmp_path / "other", "--head", "ridge", *unlabeled)
    assert code == 2
    assert "learns nothing from images without a label" in said
    apples = tmp_path / "apples"
    (fruit_folder / "train" / "Granny-Smith").rename(tmp_path / "Granny-Smith")
    apples.mkdir()
    (tmp_path / "Granny-Smith").rename(apples / "Granny-Smith")
    assert run("fit", apples, "-o", tmp_path / "one")[0] != 0
    assert "--reject" in run("fit", apples, "-o", tmp_path / "one", "--single-class")[2]
    assert fewshot.load(tmp_path / "one").classes_.tolist() == ["Granny-Smith"]
