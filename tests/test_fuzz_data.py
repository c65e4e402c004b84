"""Whatever a folder, a table or an archive holds: a data set whose parts agree, or an error of ours.

A few seconds by default; for longer, ``HYPOTHESIS_PROFILE=long pytest tests/test_fuzz_data.py``.
"""

import csv
import io
import os
import shutil
import stat
import tarfile
import tempfile
import warnings
import zipfile
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, example, given, settings
from hypothesis import strategies as st

from fewshot.errors import FewshotError
from fewshot.images.dataset import ImageDataset, find_splits, list_images, normalise_label
from fewshot.images.folders import find_images
from fewshot.images.labels import show
from fewshot.images.sources import load_dataset, load_splits, load_train_and_test, load_training

_CHECKS = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]
settings.register_profile("short", max_examples=60, deadline=None, suppress_health_check=_CHECKS, derandomize=True)
settings.register_profile("long", max_examples=5_000, deadline=None, suppress_health_check=_CHECKS)
profile = settings.get_profile(os.environ.get("HYPOTHESIS_PROFILE", "short"))

# --- names

KNOWN = (
    *("cat", "dog", "Cat", "cat ", "cat\u00a0", "café", "cafe\u0301", "train", "Train", "TRAINING", "val", "valid"),
    *("test", "photos", "a", ".DS_Store", "Thumbs.db", "__MACOSX", ".git", "lost+found", "1.png", "2.JPG", "._1.png"),
    *("x.zip", "notes.txt", "no suffix", ".png", "a.png ", "\udcff.png", "\n", " ", "\u200b", "=cmd().png", "-", "..."),
    *("<script>.png", "x" * 255, "*", "\\", "C:", "CON", "a\tb"),
)
names = st.one_of(
    st.sampled_from(KNOWN),
    st.text(st.characters(exclude_characters="/\0", exclude_categories=("Cs",)), min_size=1, max_size=12).filter(
        lambda name: name not in (".", "..") and len(name.encode()) < 256
    ),
)


@st.composite
def trees(draw):
    """Draw what to make: (kind, path below the root, target of a link)."""
    places = [()]
    steps = []
    for _ in range(draw(st.integers(0, 14))):
        where = (*draw(st.sampled_from(places)), draw(names))
        kind = draw(st.sampled_from(["folder", "folder", "image", "image", "image", "link", "pipe", "file"]))
        target = None
        if kind == "folder":
            places.append(where)
        elif kind == "link":
            target = draw(st.sampled_from([(), ("..",), ("nowhere",), *places, *[step[1] for step in steps]]))
        steps.append((kind, where, target))
    return steps


LOOPS = [
    *(("folder", ("cat",), None), ("image", ("cat", "1"), None)),
    *(("link", ("cat", "self"), ()), ("link", ("dog",), ("cat",))),
]
SPLITS = [*(("folder", (name,), None) for name in ("train", "test", "cat")), ("image", ("train", "1"), None)]


def build(root, steps):
    """Make a tree as far as the file system allows."""
    for kind, where, target in steps:
        path = os.path.join(root, *where)
        # A name may be taken, or not allowed here.
        with suppress(OSError):
            if kind == "folder":
                os.mkdir(path)
            elif kind == "link":
                os.symlink(os.path.join(root, *target), path)
            elif kind == "pipe":
                os.mkfifo(path)
            else:
                with open(path + ".png" * (kind == "image"), "x"):
                    pass


@contextmanager
def folder():
    place = tempfile.mkdtemp(prefix="fuzz-")
    try:
        yield os.path.join(place, "photos")
    finally:
        shutil.rmtree(place)


# --- what must hold


def outcome(load, *arguments):
    """Give a data set, or the error that refuses it; any other error is none of ours."""
    try:
        dataset = load(*arguments)
    except FewshotError as error:
        event("refused")
        return None, str(error)
    event("understood")
    check(dataset)
    return dataset, ""


def check(dataset):
    """Check what holds for every data set."""
    assert len(dataset) == len(dataset.sources) == len(dataset.labels) == len(dataset.names) > 0
    assert sum(dataset.counts().values()) == len(dataset)
    assert min(dataset.counts().values()) > 0
    assert dataset.class_names == tuple(sorted(set(dataset.labels)))
    for label in dataset.class_names:
        assert label
        assert normalise_label(label) == label
    for finding in dataset.findings:
        assert finding.code
        assert finding.code.isupper()
        assert finding.message.isprintable(), finding.message
        assert finding.severity in ("info", "warning")
        assert len(set(finding.images)) == len(finding.images)


def below(root):
    """List everything that is below a folder and no folder, without following links."""
    found = []
    for parent, folders, files in os.walk(root):
        found += [os.path.join(parent, name) for name in files]
        found += [path for name in folders if os.path.islink(path := os.path.join(parent, name))]
    return found


def check_complete(dataset, root):
    """Check that each file is an image of the data set, or named in a finding, by itself or by its folder."""
    sources = set(dataset.sources)
    named = {path for finding in dataset.findings for path in finding.images}
    for path in below(root):
        if path in sources:
            continue
        # A link to a folder is used where what is in it is.
        if os.path.islink(path) and any(source.startswith(path + os.sep) for source in (*sources, *named)):
            continue
        holders = {path, *map(str, Path(path).parents)}
        assert holders & named or (os.path.islink(path) and os.path.isdir(path) and not below(path)), path


@settings(profile)
@given(trees())
@example(LOOPS)
@example(SPLITS)
def test_any_folder_is_a_data_set_or_an_error(steps):
    with folder() as root:
        os.mkdir(root)
        build(root, steps)
        dataset, error = outcome(ImageDataset.from_folder, root)
        assert (dataset is None) == bool(error)
        if dataset is not None:
            assert len(set(dataset.sources)) == len(dataset)
            for source in dataset.sources:
                assert stat.S_ISREG(os.stat(source).st_mode)
                assert not os.path.basename(source).startswith(".")
            check_complete(dataset, root)
            again = ImageDataset.from_folder(root)
            assert (again.sources, again.labels, again.findings) == (dataset.sources, dataset.labels, dataset.findings)


@settings(profile)
@given(trees())
@example([("folder", ("\u200b",), None), ("image", ("\u200b", "1"), None)])
def test_any_folder_is_read_by_every_entrance_or_refused(steps):
    with folder() as root:
        os.mkdir(root)
        build(root, steps)
        for load in (load_dataset, load_training, lambda path: load_dataset(f"leaves:{path}")):
            with suppress(FewshotError):
                check(load(root))
        with suppress(FewshotError):
            train, test = load_train_and_test(root)
            check(train)
            assert (test is None) == (not find_splits(Path(root)))
        with suppress(FewshotError):
            splits = load_splits(root)
            assert len(splits) >= 2
            for split in splits.values():
                check(split)
        with suppress(FewshotError):
            images, findings = find_images(root)
            assert images == list_images(root) == sorted(set(images))
            assert all(finding.message.isprintable() for finding in findings)


# --- tables

CELLS = (
    *("image", "label", "Image", "1.png", "2.png", "gone.png", "", " ", "cat", "dog", '"', '""', '"a\nb"', "~", "~/x"),
    *(
        ".",
        "..",
        "/",
        "/etc/passwd",
        "C:\\x.png",
        "http://x/1.png",
        "sub",
        "1.png\\",
        "\ufeff",
        "\0",
        "=1+1",
        "1",
        "1.0",
    ),
    *("\u200b", "\udcff", "sep=;", "x" * 5000, "%", "é", "e\u0301", "\r", "\u2028", "\x1c", "nan"),
)
HEADERS = ([], *[["image,label"]] * 5, ["id,image,x,label"], ["sep=,", "image,label"])
STARTS = (b"image,label\n", b"\xff\xfe", b"\xef\xbb\xbf")
cells = st.one_of(st.sampled_from(CELLS), st.text(max_size=8))


def rows_of(delimiter):
    """Rows, most of them good: of several faults only the first would be seen."""
    image, label = st.sampled_from(["1.png", "2.png", "./sub/1.png"]), st.sampled_from(["cat", "dog", "cat ", '"a\nb"'])
    odd = st.lists(cells, min_size=1, max_size=4)
    row = st.integers(0, 19).flatmap(lambda chance: st.tuples(image, label) if chance else odd)
    return st.lists(row.map(delimiter.join), min_size=1, max_size=8)


texts = st.sampled_from(",;\t|").flatmap(
    lambda delimiter: st.builds(
        lambda header, rows, end, last: end.join([*(line.replace(",", delimiter) for line in header), *rows]) + last,
        st.sampled_from(HEADERS),
        rows_of(delimiter),
        st.sampled_from(["\n", "\r\n", "\r"]),
        st.sampled_from([*[""] * 6, "\n", "\0", '"']),
    )
)
codecs = st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32", "latin-1", "cp1252"])
tables = st.one_of(
    *[texts] * 4,
    st.builds(lambda text, codec: text.encode(codec, "replace"), texts, codecs),
    st.binary(max_size=200),
    st.builds(lambda start, rest: start + rest, st.sampled_from(STARTS), st.binary()),
)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    (folder / "sub").mkdir()
    for name in ("1.png", "2.png", "sub/1.png"):
        (folder / name).write_bytes(b"x")
    return folder


@settings(profile)
@given(tables)
@example("image,label\n1.png,cat\n\n2.png,dog\n")
@example('image,label\n"1.png,cat\n')
@example(b"\xff\xfei\0")
def test_any_table_is_a_data_set_or_an_error(place, content):
    path = place / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    dataset, error = outcome(ImageDataset.from_csv, path)
    if dataset is None:
        # One error, on one line, that names the table.
        assert str(path) in error
        assert "\n" not in error
        return
    for source in dataset.sources:
        assert stat.S_ISREG(os.stat(source).st_mode)


@settings(profile)
@given(
    st.lists(st.tuples(st.sampled_from(["1.png", "2.png", "sub/1.png", "gone.png"]), names), min_size=1, max_size=60)
)
def test_each_row_of_a_table_is_used_or_listed(place, rows):
    path = place / "rows.csv"
    with path.open("w", encoding="utf-8", errors="replace", newline="") as file:
        csv.writer(file).writerows([("image", "label"), *rows])
    dataset, error = outcome(ImageDataset.from_csv, path)
    gone = [number for number, (image, _) in enumerate(rows, 2) if image == "gone.png"]
    if dataset is None:
        assert "gone.png" in error or "empty label" in error
        return
    assert len(gone) <= len(rows) * 0.05
    listed = [image for finding in dataset.findings if finding.code == "VANISHED" for image in finding.images]
    assert listed == [str(place / "gone.png")] * len(gone)
    assert list(dataset.sources) == [str(place / image) for image, _ in rows if image != "gone.png"]


# --- archives

places = st.sampled_from(["cat", "dog", "train/cat", "test/cat", "photos/cat"])
members = st.lists(
    st.tuples(
        st.one_of(
            *[st.builds(lambda place, number: f"{place}/{number}.png", places, st.integers(0, 99))] * 4,
            st.lists(names, min_size=1, max_size=4).map("/".join),
            st.text(max_size=10),
        ),
        st.sampled_from([b"", b"x", b"PK\3\4"]),
        st.sampled_from(["0"] * 40 + ["5", "1", "3", "S", "x", "L"]),
    ),
    min_size=1,
    max_size=6,
)
flip = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255))
damage = st.one_of(st.just([]), st.lists(flip, max_size=2))


def packed(kind, files):
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # duplicate names
        if kind == "zip":
            with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
                for name, content, _ in files:
                    archive.writestr(zipfile.ZipInfo(name), content)
        else:
            with tarfile.open(fileobj=buffer, mode=kind, format=tarfile.PAX_FORMAT) as archive:
                for name, content, member in files:
                    info = tarfile.TarInfo(name)
                    info.type, info.size = member.encode(), len(content)
                    archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@settings(profile)
@given(st.sampled_from(["zip", "w", "w:gz", "w:xz"]), members, damage)
def test_any_archive_is_a_data_set_or_an_error(place, kind, files, flips):
    try:
        content = bytearray(packed(kind, files))
    except (UnicodeError, ValueError, OverflowError):
        return  # names that cannot be packed
    for at, byte in flips:
        content[int(at * len(content))] = byte
    path = place / ("a.zip" if kind == "zip" else "a.tar")
    path.write_bytes(content)
    before = set(os.listdir(place))
    dataset, error = outcome(load_dataset, path)
    assert show(error) == error
    if dataset is not None:
        assert all(name.startswith(f"{path}/") for name in dataset.names)
        assert all(Path(source.path).is_file() for source in dataset.sources)
    assert set(os.listdir(place)) == before
