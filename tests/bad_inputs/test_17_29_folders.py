"""Rows 17 to 29: names, links, permissions, and how folders are understood."""

import contextlib
import csv
import io
import json
import os
import re
import shutil
import signal
import socket
import stat
import sys
import tempfile
import threading
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewshot import FewShotClassifier, ImageDataset, compare, load
from fewshot.cli import main
from fewshot.errors import DatasetError, ImageError
from fewshot.images.audit import audit
from fewshot.images.reader import read_image
from fewshot.images.sources import load_dataset, load_splits

QUICK = ("--strategies", "prototypical")
FIT = ("--head", "prototypical", "--augmentation", "none")


def encoded(seed):
    """Make a PNG of noise around a colour: no two are alike."""
    chance = np.random.default_rng(seed)
    pixels = np.clip(chance.integers(0, 220, 3) + chance.integers(0, 35, (24, 24, 3)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def make(root, *names, start=0):
    for seed, name in enumerate(names, start):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(seed))
    return root


def codes(dataset):
    return {finding.code: finding for finding in dataset.findings}


def collected(dataset, root):
    return [(os.path.relpath(s, root), label) for s, label in zip(dataset.sources, dataset.labels, strict=True)]


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the command line in this process: (exit code, standard output, standard error)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fewshot", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        printed = capsys.readouterr()
        return stop.value.code or 0, printed.out, printed.err

    return call


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Give a model of two colours; which ones does not matter here."""
    folder = tmp_path_factory.mktemp("model")
    dataset = ImageDataset.from_folder(make(folder / "train", "a/1.png", "b/1.png", start=900))
    classifier = FewShotClassifier(head="prototypical", augmentation=None).fit(dataset)
    classifier.save(folder / "model")
    return folder / "model"


@pytest.fixture
def within_seconds():
    """Fail a test that waits for something that never comes."""

    def late(*_):
        raise AssertionError("blocked")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


class _Page(HTMLParser):
    """Collects a page's tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.words = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]

    def handle_data(self, data):
        self.words.append(data)


# --- 17, 18: names

UNUSUAL = (
    *("Äpfel 苹果", "🍎", "two\nlines", "tab\there", "not\udcff\udc80text", "ends ", "quo\"te'", "a,b;c", "%s{}$(x)"),
)
MARKUP = (
    *("<script>alert(1)", "<img src=x onerror=alert(1)>", "=cmd()", "+1+1", "-1-1", "@SUM(A1)", "[red]x", "`x` | y"),
)


@pytest.fixture(params=[UNUSUAL, MARKUP], ids=["unusual", "markup"])
def named_folder(request, tmp_path):
    """Make a folder of classes with these names, and of images with these names."""
    names = request.param
    make(tmp_path / "test", *[f"{name}/{name}2.png" for name in names], start=50)
    return make(tmp_path / "train", *[f"{name}/{name}1.png" for name in names]), names


def label_of(name):
    return unicodedata.normalize("NFC", name).strip()


def test_17_18_names_survive_fitting_and_predicting(named_folder, tmp_path, run):
    folder, names = named_folder
    code, printed, errors = run("fit", folder, "-o", tmp_path / "m", *FIT, "--json")
    assert (code, errors) == (0, "")
    assert json.loads(printed)["classes"] == {label_of(name): 1 for name in sorted(names, key=label_of)}
    code, printed, _ = run("predict", tmp_path / "m", folder, "--json")
    predictions = json.loads(printed)["predictions"]
    assert code == 0
    expected = {str(folder / name / f"{name}1.png"): label_of(name) for name in names}
    # Surrogates are escaped in JSON, and come back as they were.
    assert {row["image"]: row["label"] for row in predictions} == expected
    # For people, one line each, whatever is in the name.
    code, printed, _ = run("predict", tmp_path / "m", folder)
    assert code == 0
    assert len(printed.splitlines()) == len(names)


def test_17_18_names_are_escaped_and_guarded_in_csv(named_folder, tmp_path, run, monkeypatch):
    folder, names = named_folder
    assert run("fit", folder, "-o", tmp_path / "m", *FIT)[0] == 0
    code, printed, _ = run("predict", tmp_path / "m", folder, "--csv")
    assert code == 0
    rows = list(csv.reader(io.StringIO(printed)))
    assert len({len(row) for row in rows}) == 1
    assert len(rows) == 1 + len(names)
    for cell in (cell for row in rows for cell in row):
        assert not re.match(r"[=+@\t\r]|-[^0-9]", cell)
    guarded = {label_of(name).encode("utf-8", "backslashreplace").decode() for name in names}
    assert {row[1].removeprefix("'") for row in rows[1:]} == guarded
    # Named from within the folder, the paths themselves begin as formulas do.
    monkeypatch.chdir(folder)
    code, printed, _ = run("predict", tmp_path / "m", "--csv", "--", *names)
    assert code == 0
    assert len(list(csv.reader(io.StringIO(printed)))) == 1 + len(names)
    assert not any(row[0].startswith(("=", "+", "@", "-")) for row in csv.reader(io.StringIO(printed)))


def test_17_18_names_are_text_in_reports(named_folder, tmp_path, run):
    folder, names = named_folder
    out = tmp_path / "out"
    code, _, _ = run("compare", folder, "--test", tmp_path / "test", *QUICK, "--out", out)
    assert code == 0
    data = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert data["class_names"] == sorted(map(label_of, names))
    page = _Page((out / "report.html").read_text(encoding="utf-8"))
    text = " ".join(page.words)
    for name in names:
        shown = label_of(name).encode("utf-8", "backslashreplace").decode()
        assert " ".join(shown.split()) in " ".join(text.split())
    assert not any(attribute.startswith("on") for attribute in page.attributes)
    (out / "report.md").read_text(encoding="utf-8")


# --- 19: long names


def test_19_names_of_255_bytes_work(tmp_path, run):
    long = "é" * 125 + ".png"  # 254 bytes
    folder = make(tmp_path / "t", f"{'c' * 255}/{long}", f"{'d' * 255}/{'x' * 251}.png")
    code, printed, _ = run("fit", folder, "-o", tmp_path / "m", *FIT, "--json")
    assert code == 0
    assert json.loads(printed)["classes"] == {"c" * 255: 1, "d" * 255: 1}
    assert run("predict", tmp_path / "m", folder)[0] == 0


@pytest.fixture
def deep_folder(tmp_path):
    """Make a class whose images lie deeper than a path can say at once."""
    root = make(tmp_path / "deep", "dog/1.png", "cat/1.png", start=1)
    handle = os.open(root / "cat", os.O_RDONLY)
    name = "f" * 200
    for _ in range(25):
        os.mkdir(name, dir_fd=handle)
        below = os.open(name, os.O_RDONLY, dir_fd=handle)
        os.close(handle)
        handle = below
    with os.fdopen(os.open("deep.png", os.O_WRONLY | os.O_CREAT, dir_fd=handle), "wb") as file:
        file.write(encoded(3))
    os.symlink("..", "up", dir_fd=handle)
    os.close(handle)
    yield root
    shutil.rmtree(root)


@pytest.mark.skipif(os.scandir not in os.supports_fd, reason="this system cannot walk below a folder")
def test_19_paths_longer_than_the_system_takes_at_once_work(deep_folder, tmp_path, run):
    dataset = ImageDataset.from_folder(deep_folder)
    assert dataset.counts() == {"cat": 2, "dog": 1}
    (deep,) = [source for source in dataset.sources if source.endswith("deep.png")]
    assert len(os.fsencode(deep)) > 4096
    np.testing.assert_array_equal(read_image(deep), np.asarray(Image.open(io.BytesIO(encoded(3)))))
    assert codes(dataset)["LINKS"].images == (f"{os.path.dirname(deep)}/up",)
    code, printed, _ = run("fit", deep_folder, "-o", tmp_path / "m", *FIT, "--json")
    assert code == 0
    assert json.loads(printed)["classes"] == {"cat": 2, "dog": 1}
    code, printed, _ = run("predict", tmp_path / "m", deep_folder, "--json")
    assert {row["image"] for row in json.loads(printed)["predictions"]} == set(dataset.sources)


# --- 20, 21: links


def test_20_symlink_loops_end_and_each_real_file_counts_once(tmp_path, run, within_seconds):
    root = make(tmp_path / "t", "cat/1.png", "cat/more/2.png", "dog/3.png")
    (root / "cat/self").symlink_to(root / "cat")
    (root / "cat/more/up").symlink_to("..")
    (root / "cat/root").symlink_to(root)
    (root / "whole").symlink_to(root)
    (root / "above").symlink_to(tmp_path)
    (root / "dog/broken").symlink_to("broken")
    (root / "dog/a").symlink_to("b")
    (root / "dog/b").symlink_to("a")
    (root / "dog/again.png").symlink_to("3.png")
    dataset = ImageDataset.from_folder(root)
    assert collected(dataset, root) == [("cat/1.png", "cat"), ("cat/more/2.png", "cat"), ("dog/3.png", "dog")]
    links = {os.path.relpath(path, root) for path in codes(dataset)["LINKS"].images}
    assert links == {"cat/self", "cat/more/up", "cat/root", "whole", "above", "dog/again.png"}
    broken = {os.path.relpath(path, root) for path in codes(dataset)["NOT_A_FILE"].images}
    assert broken == {"dog/broken", "dog/a", "dog/b"}
    code, printed, _ = run("fit", root, "-o", tmp_path / "m", *FIT, "--json")
    assert code == 0
    assert json.loads(printed)["classes"] == {"cat": 2, "dog": 1}


def test_20_folders_that_link_to_each_other_do_not_multiply(tmp_path, within_seconds):
    root = tmp_path / "t"
    names = [f"c{i}" for i in range(12)]
    make(root, *[f"{name}/{name}.png" for name in names])
    for one in names:
        for other in names:
            if one != other:
                (root / one / f"to-{other}").symlink_to(root / other)
    dataset = ImageDataset.from_folder(root)
    # In each class its own image and the eleven others', each once.
    assert dataset.counts() == dict.fromkeys(sorted(names), 12)


def test_20_two_classes_that_are_one_folder_are_a_conflict(tmp_path, run):
    root = make(tmp_path / "t", "cat/1.png", "dog/2.png")
    (root / "feline").symlink_to(root / "cat")
    assert ImageDataset.from_folder(root).counts() == {"cat": 1, "dog": 1, "feline": 1}
    code, _, errors = run("fit", root, "-o", tmp_path / "m", *FIT)
    assert code == 1
    assert "LABEL_CONFLICT" in errors
    assert "cat" in errors
    assert "feline" in errors


def test_20_hard_links_are_found_by_their_content(tmp_path):
    root = make(tmp_path / "t", "cat/1.png", "dog/2.png")
    os.link(root / "cat/1.png", root / "cat/again.png")
    assert ImageDataset.from_folder(root).counts() == {"cat": 2, "dog": 1}
    audited = audit(ImageDataset.from_folder(root))
    assert audited.dataset.counts() == {"cat": 1, "dog": 1}
    assert {"DUPLICATE"} <= {finding.code for finding in audited.findings}


def test_21_links_out_of_a_folder_of_ones_own_are_followed(tmp_path, run):
    elsewhere = make(tmp_path / "elsewhere", "a.png", "b/c.png")
    root = make(tmp_path / "root", "cat/1.png", start=7)
    (root / "cat/linked.png").symlink_to(elsewhere / "a.png")
    (root / "dog").symlink_to(elsewhere / "b")
    dataset = ImageDataset.from_folder(root)
    assert collected(dataset, root) == [("cat/1.png", "cat"), ("cat/linked.png", "cat"), ("dog/c.png", "dog")]
    code, printed, _ = run("fit", root, "-o", tmp_path / "m", *FIT, "--json")
    assert code == 0
    assert json.loads(printed)["classes"] == {"cat": 2, "dog": 1}


# --- 22: permissions


@pytest.fixture
def open_folder():
    """Make a folder that other users may enter."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        yield Path(name)
        for parent, folders, _ in os.walk(name):
            for folder in folders:
                os.chmod(os.path.join(parent, folder), 0o755)


def as_nobody(question):
    """Answer a question as a user without rights, in a process of its own; JSON in and out."""
    Image.init()
    receiver, sender = os.pipe()
    child = os.fork()
    if child == 0:
        answer = {"error": "died"}
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            answer = question()
        except DatasetError as error:
            answer = {"refused": str(error)}
        except BaseException as error:
            answer = {"error": repr(error)}
        finally:
            os.write(sender, json.dumps(answer).encode())
            os._exit(0)
    os.close(sender)
    with os.fdopen(receiver, "rb") as pipe:
        answer = json.loads(pipe.read())
    os.waitpid(child, 0)
    assert "error" not in answer, answer
    return answer


pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no permissions of this kind")


@needs_fork
def test_22_an_unreadable_folder_in_a_class_is_listed(open_folder):
    make(open_folder, "cat/1.png", "cat/closed/2.png", "dog/3.png")
    os.chmod(open_folder / "cat/closed", 0)

    def question():
        dataset = ImageDataset.from_folder(open_folder)
        return {"counts": dataset.counts(), "findings": [finding.to_dict() for finding in dataset.findings]}

    answer = as_nobody(question)
    assert answer["counts"] == {"cat": 1, "dog": 1}
    (finding,) = answer["findings"]
    assert (finding["code"], finding["severity"]) == ("PERMISSION", "warning")
    assert finding["images"] == [str(open_folder / "cat/closed")]


@needs_fork
@pytest.mark.parametrize("closed", ["dog", ""])
def test_22_an_unreadable_class_or_data_set_stops(open_folder, closed):
    make(open_folder, "cat/1.png", "dog/3.png")
    os.chmod(open_folder / closed, 0o300)
    answer = as_nobody(lambda: ImageDataset.from_folder(open_folder).counts())
    os.chmod(open_folder / closed, 0o755)
    assert "PERMISSION" in answer["refused"] or "may not be read" in answer["refused"]
    assert str(open_folder / closed) in answer["refused"]
    assert "check the permissions" in answer["refused"]


@needs_fork
def test_22_an_unreadable_file_is_listed_where_it_is_read(open_folder):
    make(open_folder, *[f"cat/{i}.png" for i in range(30)], "dog/3.png")
    os.chmod(open_folder / "cat/7.png", 0)

    def question():
        audited = audit(ImageDataset.from_folder(open_folder))
        return {"counts": audited.dataset.counts(), "skipped": [[e.code, e.source] for e in audited.skipped]}

    answer = as_nobody(question)
    assert answer["counts"] == {"cat": 29, "dog": 1}
    assert answer["skipped"] == [["PERMISSION", str(open_folder / "cat/7.png")]]


# --- 23: what is no file


def test_23_pipes_sockets_and_devices_are_skipped_without_blocking(tmp_path, run, model, within_seconds, monkeypatch):
    root = make(tmp_path / "t", "cat/1.png", "dog/2.png")
    os.mkfifo(root / "cat/pipe.jpg")
    os.mkfifo(root / "loose.jpg")
    monkeypatch.chdir(root / "dog")  # names of sockets are short
    server = socket.socket(socket.AF_UNIX)
    server.bind("socket.jpg")
    expected = {root / "cat/pipe.jpg", root / "loose.jpg", root / "dog/socket.jpg"}
    (root / "cat/linked.jpg").symlink_to("pipe.jpg")
    expected.add(root / "cat/linked.jpg")
    with contextlib.suppress(OSError):
        os.mknod(root / "cat/zero.jpg", stat.S_IFCHR | 0o666, os.makedev(1, 5))
        expected.add(root / "cat/zero.jpg")
    dataset = ImageDataset.from_folder(root)
    server.close()
    assert dataset.counts() == {"cat": 1, "dog": 1}
    finding = codes(dataset)["NOT_A_FILE"]
    assert (finding.severity, set(finding.images)) == ("warning", set(map(str, expected)))
    code, printed, _ = run("fit", root, "-o", tmp_path / "m", *FIT, "--json")
    assert code == 0
    assert any("pipe" in note for note in json.loads(printed)["notes"])
    code, printed, _ = run("predict", model, root, "--json")
    assert code == 0
    assert len(json.loads(printed)["predictions"]) == 2
    code, printed, _ = run("predict", model, root / "cat/pipe.jpg", "--json")
    assert code == 1
    assert json.loads(printed)["errors"][0]["code"] == "NOT_A_FILE"


# --- 24: files that change


def test_24_a_file_that_vanishes_after_it_was_listed_is_left_out(tmp_path):
    root = make(tmp_path / "t", *[f"cat/{i}.png" for i in range(30)], "dog/1.png")
    dataset = ImageDataset.from_folder(root)
    (root / "cat/3.png").unlink()
    audited = audit(dataset)
    assert audited.dataset.counts() == {"cat": 29, "dog": 1}
    assert [(error.code, error.source) for error in audited.skipped] == [("VANISHED", str(root / "cat/3.png"))]
    with pytest.raises(ImageError, match="VANISHED"):
        audit(dataset, strict=True)


def test_24_a_link_to_nothing_is_listed_as_vanished(tmp_path):
    root = make(tmp_path / "t", "cat/1.png", "dog/1.png")
    (root / "cat/gone.png").symlink_to(root / "nowhere.png")
    finding = codes(ImageDataset.from_folder(root))["VANISHED"]
    assert finding.images == (str(root / "cat/gone.png"),)


def test_24_a_folder_may_change_while_it_is_walked(tmp_path, within_seconds):
    root = make(tmp_path / "t", "cat/1.png", "dog/1.png")
    stop = threading.Event()

    def change():
        while not stop.is_set():
            for i in range(20):
                (root / f"cat/{i}").mkdir(exist_ok=True)
                (root / f"cat/{i}/x.png").write_bytes(b"x")
            for i in range(20):
                (root / f"cat/{i}/x.png").unlink()
                (root / f"cat/{i}").rmdir()

    thread = threading.Thread(target=change)
    thread.start()
    try:
        for _ in range(100):
            dataset = ImageDataset.from_folder(root)
            assert {str(root / "cat/1.png"), str(root / "dog/1.png")} <= set(dataset.sources)
            assert set(codes(dataset)) <= {"VANISHED"}
    finally:
        stop.set()
        thread.join()


def test_24_features_are_kept_by_content_not_by_name(tmp_path, model):
    classifier = load(model)
    root = make(tmp_path / "t", "1.png")
    before = classifier.predict_proba([root / "1.png"])
    (root / "1.png").write_bytes(encoded(901))
    after = classifier.predict_proba([root / "1.png"])
    assert np.abs(before - after).max() > 1e-3
    np.testing.assert_allclose(after, classifier.predict_proba([encoded(901)]), atol=1e-5)


# --- 25, 26: what systems leave behind

LEFT_BEHIND = (".DS_Store", "Thumbs.db", "thumbs.db", "._1.png", "desktop.ini", "Desktop.ini", ".hidden.png", "Icon\r")
NOT_CLASSES = (
    *(".ipynb_checkpoints", "__MACOSX", "@eaDir", "$RECYCLE.BIN", "lost+found", "System Volume Information", ".git"),
    *("__pycache__", ".Trash-1000", "#recycle"),
)


def test_25_files_of_systems_are_ignored_and_counted(tmp_path, run):
    root = make(tmp_path / "t", "cat/1.png", "dog/2.png")
    paths = [place / name for place in (root, root / "cat") for name in LEFT_BEHIND]
    for path in paths:
        path.write_bytes(b"x")
    dataset = ImageDataset.from_folder(root)
    assert dataset.counts() == {"cat": 1, "dog": 1}
    (finding,) = dataset.findings
    assert (finding.code, finding.severity, finding.images) == ("IGNORED", "info", tuple(sorted(map(str, paths))))
    code, printed, _ = run("fit", root, "-o", tmp_path / "m", *FIT, "--json")
    assert code == 0
    assert json.loads(printed)["classes"] == {"cat": 1, "dog": 1}


@pytest.mark.parametrize("name", NOT_CLASSES)
def test_26_folders_of_systems_are_not_classes(tmp_path, name):
    root = make(tmp_path / "t", "cat/1.png", "dog/2.png", f"{name}/3.png", f"cat/{name}/4.png", f"{name}/cat/5.png")
    dataset = ImageDataset.from_folder(root)
    assert dataset.counts() == {"cat": 1, "dog": 1}
    assert codes(dataset)["IGNORED"].images == tuple(sorted((str(root / name), str(root / "cat" / name))))


# --- 27: how folders are understood


def test_27_nested_folders_belong_to_the_class_above(tmp_path):
    root = make(tmp_path / "t", "cat/2020/may/1.png", "cat/2.png", "dog/x/y/z/1.png")
    assert ImageDataset.from_folder(root).counts() == {"cat": 2, "dog": 1}


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "test"), ("Train", "Test"), ("TRAINING", "validation"), ("train", "val"), ("training", "Valid")],
)
@pytest.mark.parametrize("wrapping", ["", "photos"])
def test_27_splits_are_recognised_and_said(tmp_path, run, train, test, wrapping):
    root = tmp_path / "photos"
    make(root / wrapping, f"{train}/cat/1.png", f"{train}/dog/2.png", f"{test}/cat/3.png", f"{test}/dog/4.png")
    dataset = ImageDataset.from_folder(root)
    assert {os.path.relpath(source, root / wrapping) for source in dataset.sources} == {
        f"{train}/cat/1.png",
        f"{train}/dog/2.png",
    }
    finding = codes(dataset)["SPLITS"]
    assert train in finding.message
    assert test in finding.message
    assert finding.images == (str(root / wrapping / test),)
    assert ("WRAPPER" in codes(dataset)) == bool(wrapping)
    assert load_dataset(root).counts() == {"cat": 2, "dog": 2}
    assert len(load_splits(root)) == 2
    code, printed, _ = run("compare", root, *QUICK, "--out", tmp_path / "out", "--json")
    report = json.loads(printed)
    assert (code, report["protocol"]) == (0, "test-set")
    assert any("trained on" in note and "tested on" in note for note in report["notes"])
    assert len(report["test_images"]) == 2


def test_27_splits_without_one_to_train_on_are_not_classes(tmp_path, run):
    root = make(tmp_path / "t", "val/cat/1.png", "val/dog/2.png", "test/cat/3.png", "test/dog/4.png")
    with pytest.raises(DatasetError, match=r"val.*test.*nothing called train.*own path"):
        ImageDataset.from_folder(root)
    assert list(load_splits(root)) == ["val", "test"]
    assert load_dataset(root).counts() == {"cat": 2, "dog": 2}
    code, _, errors = run("fit", root, "-o", tmp_path / "m", *FIT)
    assert code == 1
    assert "nothing called train" in errors


def test_27_what_lies_beside_splits_is_named(tmp_path):
    root = make(tmp_path / "t", "train/cat/1.png", "train/dog/2.png", "test/cat/3.png", "bird/4.png", "stray.png")
    (root / "labels.txt").write_text("x")
    found = codes(ImageDataset.from_folder(root))
    assert found["SKIPPED_FOLDERS"].images == (str(root / "bird"),)
    assert found["LOOSE_IMAGES"].images == (str(root / "stray.png"),)
    assert found["SKIPPED_FILES"].images == (str(root / "labels.txt"),)
    assert {found[code].severity for code in ("SKIPPED_FOLDERS", "LOOSE_IMAGES", "SKIPPED_FILES")} == {"warning"}


def test_27_a_folder_that_wraps_one_of_its_own_name_is_looked_into(tmp_path):
    root = make(tmp_path / "photos", "photos/cat/1.png", "photos/dog/2.png")
    dataset = ImageDataset.from_folder(root)
    assert dataset.counts() == {"cat": 1, "dog": 1}
    assert "photos" in codes(dataset)["WRAPPER"].message
    # One of another name is a class: a class may hold folders.
    other = make(tmp_path / "other", "cat/2020/1.png", "cat/2021/2.png")
    assert ImageDataset.from_folder(other).counts() == {"cat": 2}


def test_27_images_without_a_suffix_are_listed(tmp_path):
    root = make(tmp_path / "t", "cat/1.png", "cat/download", "cat/photo.jpg.part", "dog/2.png")
    (root / "dog/read me.txt").write_text("x")
    dataset = ImageDataset.from_folder(root)
    skipped = [finding for finding in dataset.findings if finding.code == "SKIPPED_FILES"]
    assert [finding.images for finding in skipped] == [
        (str(root / "cat/download"), str(root / "cat/photo.jpg.part")),
        (str(root / "dog/read me.txt"),),
    ]
    assert "download, " in skipped[0].message
    assert "begin as images do" in skipped[0].message
    assert "as images do" not in skipped[1].message


def test_27_what_was_understood_is_printed(tmp_path, run):
    root = make(tmp_path / "t", "cat/1.png", "dog/2.png", "stray.png")
    (root / "empty").mkdir()
    code, _, errors = run("fit", root, "-o", tmp_path / "m", *FIT)
    assert code == 0
    assert "cat: 1 image" in errors
    assert "1 image outside any class folder" in errors
    assert "empty has no images" in errors


# --- 28, 29: too little


def test_28_empty_classes_are_named_and_dropped(tmp_path, run):
    root = make(tmp_path / "t", "cat/1.png", "dog/2.png")
    for name in ("zebra", "empty/below", "text"):
        (root / name).mkdir(parents=True)
    (root / "text/notes.txt").write_text("x")
    dataset = ImageDataset.from_folder(root)
    assert dataset.class_names == ("cat", "dog")
    empty = [finding for finding in dataset.findings if finding.code == "EMPTY_CLASS"]
    assert [finding.images for finding in empty] == [(str(root / name),) for name in ("empty", "text", "zebra")]
    code, printed, _ = run("fit", root, "-o", tmp_path / "m", *FIT, "--json")
    notes = json.loads(printed)["notes"]
    assert code == 0
    assert all(any(name in note and "dropped" in note for note in notes) for name in ("zebra", "empty", "text"))


@pytest.mark.parametrize("names", [("cat/1.png", "cat/2.png"), ("cat/1.png",)])
def test_29_one_class_states_the_minimum(tmp_path, run, names):
    root = make(tmp_path / "t", *names)
    code, _, errors = run("fit", root, "-o", tmp_path / "m", *FIT)
    assert code == 1
    assert re.search(r"1 class .*'cat'.*at least 2 classes", errors)
    with pytest.raises(DatasetError, match="at least 2 classes"):
        compare(root, strategies=["prototypical"])


@pytest.mark.parametrize("make_folder", [lambda root: root.mkdir(), lambda root: make(root, "1.png")])
def test_29_no_class_states_what_is_needed(tmp_path, run, make_folder):
    make_folder(tmp_path / "t")
    code, _, errors = run("fit", tmp_path / "t", "-o", tmp_path / "m", *FIT)
    assert code == 1
    assert "one folder per class, for example" in errors


def test_29_one_image_per_class_works(tmp_path, run):
    root = make(tmp_path / "t", "cat/1.png", "dog/2.png")
    assert run("fit", root, "-o", tmp_path / "m", *FIT)[0] == 0
    code, printed, _ = run("predict", tmp_path / "m", root, "--json")
    assert code == 0
    assert [row["label"] for row in json.loads(printed)["predictions"]] == ["cat", "dog"]
    code, printed, _ = run("compare", root, *QUICK, "--out", tmp_path / "out", "--json")
    assert code == 0
    assert any("cannot be estimated" in note for note in json.loads(printed)["notes"])
