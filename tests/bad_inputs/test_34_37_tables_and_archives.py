"""Rows 34, 35 and 37 (and 21, for archives): labels, tables and archives."""

import csv
import io
import json
import os
import struct
import sys
import tarfile
import time
import tracemalloc
import unicodedata
import zipfile

import numpy as np
import pytest
from PIL import Image

from fewshot import FewShotClassifier, ImageDataset
from fewshot.cli import main
from fewshot.errors import ArchiveError, DatasetError
from fewshot.images.audit import audit
from fewshot.images.reader import read_image
from fewshot.images.sources import load_dataset

COMPARE = ("--strategies", "prototypical", "--json", "--out")
FIT = ("--head", "prototypical", "--augmentation", "none")


def encoded(seed):
    """Make a PNG of noise around a colour: no two are alike."""
    chance = np.random.default_rng(seed)
    pixels = np.clip(chance.integers(0, 220, 3) + chance.integers(0, 35, (24, 24, 3)), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def make(root, *names):
    for seed, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(seed))
    return root


def codes(dataset):
    return {finding.code: finding for finding in dataset.findings}


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


@pytest.fixture
def table(tmp_path):
    """Write a table beside three images; text, or bytes as they are."""
    make(tmp_path, "1.png", "2.png", "3.png", "ünï cödé.png", "a;b.png", "a,b.png")

    def write(content, name="t.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode(encoding))
        return path

    return write


def refused(path, match, **options):
    with pytest.raises(DatasetError, match=match) as caught:
        ImageDataset.from_csv(path, **options)
    assert str(path) in str(caught.value)
    return str(caught.value)


def names(dataset):
    return [os.path.basename(source) for source in dataset.sources]


# --- 34: labels

SAME = [
    (1, "1", 1.0, np.int64(1), np.float32(1.0), np.str_("1"), " 1", "1\n", "\ufeff1", "1\u200b"),
    ("café", "cafe\u0301", " café ", "\u00a0café", "caf\u200bé", "café\u2003", "ca\u00adfé"),
    ("red apple", "red\u00a0apple", "red\u202fapple", "red apple\x00", "\x07red apple", "\u200ered apple\u200f"),
]


@pytest.mark.parametrize("forms", SAME, ids=["1", "café", "red apple"])
def test_34_labels_that_look_the_same_are_one_class_with_a_warning(forms):
    images = [encoded(i) for i in range(len(forms) + 1)]
    dataset = ImageDataset.from_paths(images, [*forms, "other"])
    assert dataset.class_names == tuple(sorted((str(forms[0]), "other")))
    (finding,) = dataset.findings
    assert (finding.code, finding.severity) == ("MERGED_LABELS", "warning")
    # Each way of writing is told so that one can see it.
    assert finding.message.isprintable()
    assert "one class" in finding.message


DIFFERENT = [("Cat", "cat", "case"), ("1", "1.0", "number"), ("1", "01", "number"), ("a b", "a  b", "spaces")]


@pytest.mark.parametrize(("one", "other", "why"), DIFFERENT)
def test_34_labels_that_hardly_differ_are_two_classes_with_a_warning(one, other, why):
    dataset = ImageDataset.from_paths([encoded(i) for i in range(3)], [one, other, "dog"])
    assert set(dataset.class_names) == {one, other, "dog"}
    (finding,) = dataset.findings
    assert (finding.code, finding.severity) == ("SIMILAR_LABELS", "warning")
    assert repr(one) in finding.message
    assert repr(other) in finding.message
    assert why in finding.message
    assert "dog" not in finding.message


APART = [
    *("A", "2", "é", "e", "👨\u200d👩\u200d👧", "👨👩👧", "нет", "می\u200cخواهم", "1e5", "12345678901234567890"),
]


@pytest.mark.parametrize("other", APART)
def test_34_labels_that_differ_stay_apart_without_a_word(other):
    dataset = ImageDataset.from_paths([encoded(0), encoded(1)], ["12345678901234567891", other])
    assert len(dataset.class_names) == 2
    assert dataset.findings == ()


def test_34_class_folders_are_labels_too(tmp_path, run):
    nfc, nfd = (unicodedata.normalize(form, "é") for form in ("NFC", "NFD"))
    root = make(tmp_path / "t", f"{nfc}/1.png", f"{nfd}/2.png", "dog/3.png", "dog /4.png", "Dog/5.png", "\u00a0/6.png")
    dataset = ImageDataset.from_folder(root)
    assert dataset.counts() == {"Dog": 1, "dog": 2, nfc: 2, ascii("\u00a0"): 1}
    assert [finding.code for finding in dataset.findings] == ["MERGED_LABELS", "MERGED_LABELS", "SIMILAR_LABELS"]
    code, printed, _ = run("fit", root, "-o", tmp_path / "m", *FIT, "--json")
    assert code == 0
    notes = json.loads(printed)["notes"]
    assert any("'dog '" in note and "one class" in note for note in notes)
    assert any("'Dog' and 'dog'" in note and "case" in note for note in notes)


@pytest.mark.parametrize("label", [None, float("nan"), "", "  ", "\u200b", "\ufeff"])
def test_34_labels_that_are_none_are_refused(label):
    with pytest.raises(ValueError, match=r"1 of 2 labels are missing, the first at 1"):
        ImageDataset.from_paths([encoded(0), encoded(1)], ["a", label])


# --- 35: tables

ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le-bom", "utf-16-be-bom", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_35_encodings_with_a_byte_order_mark_are_read(table, encoding, newline):
    text = newline.join(["image,label", "ünï cödé.png,käse", "1.png,b", ""])
    if encoding.endswith("-bom"):
        codec = encoding.removesuffix("-bom")
        path = table("\ufeff".encode(codec) + text.encode(codec))
    else:
        path = table(text, encoding=encoding)
    dataset = ImageDataset.from_csv(path)
    assert names(dataset) == ["ünï cödé.png", "1.png"]
    assert dataset.labels == ("käse", "b")


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "shift_jis", "utf-16-le", "utf-16-be"])
def test_35_other_encodings_say_how_to_save(table, encoding):
    text = "image,label\n1.png,日本\n" if encoding == "shift_jis" else "image,label\n1.png,käse\n"
    message = refused(table(text, encoding=encoding), r"UTF-8|UTF-16")
    assert "Save it as CSV" in message


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_35_delimiters_of_any_country_are_recognised(table, delimiter):
    output = io.StringIO()
    writer = csv.writer(output, delimiter=delimiter)
    writer.writerows([["id", "image", "note", "label"], [1, "a;b.png", "x, y; z\tw|v", "a"], [2, "a,b.png", "", "b"]])
    for name in ("t.csv", "t.tsv"):
        dataset = load_dataset(table(output.getvalue(), name))
        assert names(dataset) == ["a;b.png", "a,b.png"]
        assert dataset.labels == ("a", "b")


def test_35_what_excel_writes_about_the_delimiter_is_no_row(table):
    path = table("sep=;\r\nimage;label\r\n1.png;a\r\n2.png;\r\n")
    refused(path, "row 3: empty label")  # as Excel counts them
    assert ImageDataset.from_csv(table("sep=#\nimage#label\n1.png#a\n2.png#b\n")).labels == ("a", "b")


def test_35_columns_are_found_whatever_is_around_their_names(table):
    dataset = ImageDataset.from_csv(table(" image , label ,x\n1.png,a,\n2.png,b,\n"))
    assert dataset.labels == ("a", "b")


@pytest.mark.parametrize(
    ("header", "close"),
    [
        ("images,label", "'images'"),
        ("imgae,label", "'imgae'"),
        ("image,Labels", "'Labels'"),
    ],
)
def test_35_a_missing_column_suggests_the_closest(table, header, close):
    message = refused(table(f"{header}\n1.png,a\n"), "has no column")
    assert f"Did you mean {close}" in message
    assert "image_column=" in message


def test_35_columns_are_found_whatever_their_case_unless_that_leaves_a_choice(table, tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    assert ImageDataset.from_csv(table("Image;LABEL\n1.png;a\n")).labels == ("a",)
    refused(table("Image,IMAGE,label\n1.png,1.png,a\n"), "has no column")


def test_35_a_column_twice_is_refused_only_where_it_matters(table):
    refused(table("image,label,label\n1.png,a,b\n"), "2 columns called 'label'")
    assert ImageDataset.from_csv(table("image,label,x,x\n1.png,a,1,2\n")).labels == ("a",)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("1.png,a\n2.png\n", "row 3: empty label"),
        ("1.png,a\n\n\n,b\n", "row 5: empty image"),
        ("1.png,a\n2.png,b,c\n", "row 3: 3 cells, but 2 columns; put a cell that holds the delimiter in quotes"),
        ('1.png,a\n2.png,"b\n3.png,c\n', r"row 3 cannot be read: a cell begins with a quote .* never closed"),
        ('1.png,a\n"2.png"x,b\n', "row 3 cannot be read: a quoted cell must end"),
        ('"1.png",a\n2.png,"two\nlines"\n3.png,\n', "row 4: empty label"),
        ("1.png,a\nhttps://x.org/2.png,b\n", "row 3: https://x.org/2.png is an address.*download"),
        ("1.png,a\ns3://bucket/2.png,b\n", "row 3: s3://bucket/2.png is an address"),
        ("1.png,a\nfile:///2.png,b\n", "row 3: file:///2.png is an address"),
        ("1.png,a\n2.png,\u200b\n", "row 3: empty label"),
        ("1.png,a\n2\0.png,b\n", "line 3 holds NUL"),
        (f"1.png,a\n2.png,{'x' * 200_000}\n", "row 3 cannot be read"),
        ("1.png,a\n2.png,b\n" + "3.png," + "x" * 5_000_000, "line 4 has over .* characters"),
    ],
)
def test_35_faults_are_told_with_the_row_of_the_spreadsheet(table, rows, message):
    refused(table("image,label\n" + rows), message)


def test_35_extra_cells_that_are_empty_do_no_harm(table):
    assert ImageDataset.from_csv(table("image,label\n1.png,a,,\n2.png,b, \n")).labels == ("a", "b")


def test_35_all_faults_are_counted_and_five_are_shown(table):
    message = refused(table("image,label\n" + "1.png,\n" * 30), "25 more")
    assert [f"row {row}:" in message for row in (2, 6, 7)] == [True, True, False]


def test_35_paths_relative_absolute_in_the_home_and_of_windows(table, tmp_path, monkeypatch):
    make(tmp_path, "sub/in.png", "home/h.png", "~odd.png")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    rows = ["1.png", f"{tmp_path}/2.png", "./sub/../3.png", "~/h.png", "sub\\in.png", "~odd.png"]
    dataset = ImageDataset.from_csv(table("image,label\n" + "".join(f"{row},x\n" for row in rows)))
    expected = ["1.png", "2.png", "3.png", "home/h.png", "sub/in.png", "~odd.png"]
    assert [os.path.realpath(source) for source in dataset.sources] == [str(tmp_path / name) for name in expected]
    for source, name in zip(dataset.sources, expected, strict=True):
        np.testing.assert_array_equal(read_image(source), read_image(tmp_path / name))
    (tmp_path / "sub/t.csv").write_text("image,label\n1.png,a\n")
    assert ImageDataset.from_csv(tmp_path / "sub/t.csv", root=tmp_path).labels == ("a",)
    with pytest.raises(DatasetError, match="path of Windows"):
        ImageDataset.from_csv(table("image,label\nC:\\photos\\1.png,a\n"))


def test_35_many_missing_files_stop_with_their_rows(table, tmp_path):
    message = refused(table("image,label\n1.png,a\n" + "".join(f"gone{i}.png,a\n" for i in range(9))), "9 of 10 images")
    assert f"row 3: no such image {tmp_path / 'gone0.png'}" in message
    assert "row 7:" in message
    assert "row 8:" not in message
    assert "4 more" in message
    assert "root=" in message


def test_35_few_missing_files_are_left_out_and_listed_with_their_rows(tmp_path):
    make(tmp_path, *[f"{i}.png" for i in range(40)])
    rows = [f"{i}.png,{'ab'[i % 2]}" for i in range(40)]
    rows[10] = "gone.png,a"
    os.mkfifo(tmp_path / "pipe.png")
    rows[21] = "pipe.png,b"
    (tmp_path / "t.csv").write_text("image,label\n" + "\n".join(rows))
    dataset = ImageDataset.from_csv(tmp_path / "t.csv")
    assert len(dataset) == 38
    found = codes(dataset)
    assert found["VANISHED"].images == (str(tmp_path / "gone.png"),)
    assert "row 12: no such image" in found["VANISHED"].message
    assert found["NOT_A_FILE"].images == (str(tmp_path / "pipe.png"),)
    assert "row 23:" in found["NOT_A_FILE"].message
    assert {finding.severity for finding in dataset.findings} == {"warning"}
    with pytest.raises(DatasetError, match=r"NOT_A_FILE|VANISHED"):
        audit(dataset, strict=True)


def test_35_a_class_without_any_file_stops(tmp_path):
    make(tmp_path, *[f"{i}.png" for i in range(40)])
    rows = "".join(f"{i}.png,a\n" for i in range(40))
    (tmp_path / "t.csv").write_text(f"image,label\n{rows}gone.png,rare\n")
    refused(tmp_path / "t.csv", "no image of 'rare' can be used: row 42")


def test_35_a_folder_as_image_is_named(table, tmp_path):
    (tmp_path / "folder").mkdir()
    refused(table("image,label\nfolder,a\n"), "row 2: .*folder is a folder")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no column 'image'"),
        (b"\xef\xbb\xbf", "no column 'image'"),
        (b"image,label\n", "a header but no rows"),
        (b"image,label\n\n\n", "a header but no rows"),
        (b"PK\3\4" + bytes(100), "Excel workbook.*save it as CSV"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(100), "old Excel workbook"),
        (b"PAR1" + bytes(100), "Parquet"),
        (b"\x1f\x8b" + bytes(100), "gzip.*unpack"),
        (b"SQLite format 3\0", "SQLite"),
        (b"  <!DOCTYPE html><html>", "HTML"),
        (b"\x89PNG\r\n\x1a\n", "picture"),
        (bytes(1000), "NUL"),
        (b"\xff\xfe" + b"\0\xd8" * 10, "UTF-8 text"),
    ],
)
def test_35_what_is_no_table_is_named(table, content, message):
    refused(table(content), message)


def test_35_what_is_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    refused(tmp_path / "pipe.csv", "not an ordinary file")
    refused(tmp_path / "missing.csv", "No such file")
    refused(tmp_path, "this is a folder")
    with pytest.raises(DatasetError):
        ImageDataset.from_csv("nul\0.csv")


def test_35_a_million_rows_are_read_quickly_and_a_file_without_lines_in_little_memory(table, tmp_path):
    path = table("image,label\n" + "".join(f"{i % 3 + 1}.png,class {i % 100}\n" for i in range(100_000)))
    begin = time.perf_counter()
    assert len(ImageDataset.from_csv(path)) == 100_000
    assert time.perf_counter() - begin < 20
    path = tmp_path / "long.csv"
    path.write_bytes(b"image,label\n1.png," + b"x" * 100_000_000)
    tracemalloc.start()
    refused(path, "over .* characters")
    assert tracemalloc.get_traced_memory()[1] < 40_000_000
    tracemalloc.stop()


def test_35_tables_are_taken_by_every_command(tmp_path, run):
    make(tmp_path, *[f"{i}.png" for i in range(6)])
    (tmp_path / "t.csv").write_text("image;label\n" + "".join(f"{i}.png;{'ab'[i % 2]}\n" for i in range(6)))
    code, printed, _ = run("fit", tmp_path / "t.csv", "-o", tmp_path / "m", *FIT, "--json")
    assert code == 0
    assert json.loads(printed)["classes"] == {"a": 3, "b": 3}
    code, printed, _ = run(
        "compare", tmp_path / "t.csv", "--strategies", "prototypical", "--out", tmp_path / "o", "--json"
    )
    assert code == 0
    assert len(json.loads(printed)["train_images"]) == 6
    (tmp_path / "bad.csv").write_text("image,label\ngone.png,a\n")
    code, _, errors = run("fit", tmp_path / "bad.csv", "-o", tmp_path / "n", *FIT)
    assert code == 1
    assert "row 2: no such image" in errors


# --- 37 and 21: archives


def pack(path, members):
    """Write an archive of (name, content) pairs."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members:
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
            for name, content in members:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


SPLIT = [
    ("photos/train/cat/1.png", encoded(1)),
    ("photos/train/dog/2.png", encoded(2)),
    ("photos/test/cat/3.png", encoded(3)),
    ("photos/test/dog/4.png", encoded(4)),
]


@pytest.mark.parametrize("name", ["photos.zip", "photos.tar", "photos.tar.gz"])
def test_37_archives_are_data_sets_for_every_command(tmp_path, run, name):
    path = pack(tmp_path / name, [*SPLIT, ("__MACOSX/photos/._x.png", b"x"), ("photos/train/cat/a.txt", b"x")])
    code, printed, _ = run("fit", path, "-o", tmp_path / "m", *FIT, "--json")
    assert code == 0
    fitted = json.loads(printed)
    assert fitted["classes"] == {"cat": 1, "dog": 1}
    assert any("no image suffix" in note for note in fitted["notes"])
    code, printed, _ = run("compare", path, *COMPARE, tmp_path / "o")
    assert code == 0
    report = json.loads(printed)
    assert report["protocol"] == "test-set"
    assert [image["name"] for image in report["test_images"]] == [f"{path}/{n}" for n, _ in SPLIT[2:]]
    assert f"{path}/{SPLIT[0][0]}" in (tmp_path / "o" / "report.html").read_text(encoding="utf-8")
    code, printed, _ = run("check", path, "--json")
    assert code == 0
    code, printed, _ = run(
        "bench", path, "--ways", 2, "--shots", 1, "--queries", 1, "--episodes", 2, "--strategies", "prototypical",
        "--out", tmp_path / "b", "--json",
    )  # fmt: skip
    assert code == 0
    assert json.loads(printed)["datasets"][0]["name"] == "photos"


def test_37_members_that_lead_out_and_huge_ratios_are_refused(tmp_path, run):
    good = [("cat/1.png", encoded(1)), ("dog/1.png", encoded(2))]
    for name in ("a.zip", "a.tar"):
        for member in ("../../evil.png", "/evil.png", "C:\\evil.png"):
            path = pack(tmp_path / name, [*good, (member, encoded(3))])
            status, _, errors = run("fit", path, "-o", tmp_path / "m", *FIT)
            assert status == 1
            assert "[UNSAFE_NAME]" in errors
            assert "evil.png" in errors
    bomb = pack(tmp_path / "bomb.zip", [*good, ("cat/2.png", bytes(100 * 2**20))])
    assert bomb.stat().st_size < 200_000
    status, _, errors = run("fit", bomb, "-o", tmp_path / "m", *FIT)
    assert status == 1
    assert "[RATIO]" in errors
    assert "200 times" in errors
    assert not (tmp_path / "m").exists()
    assert not list(tmp_path.rglob("evil*"))


def test_37_zip_entries_that_share_bytes_are_refused(tmp_path):
    path = pack(tmp_path / "a.zip", [("cat/1.png", encoded(1)), ("dog/1.png", encoded(2))])
    raw = bytearray(path.read_bytes())
    first, second = raw.index(b"PK\1\2"), raw.rindex(b"PK\1\2")
    # The second member says that it begins where the first does.
    struct.pack_into("<L", raw, second + 42, struct.unpack_from("<L", raw, first + 42)[0])
    path.write_bytes(raw)
    with pytest.raises(ArchiveError, match="OVERLAP"):
        load_dataset(path)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_21_links_are_refused_in_an_archive(tmp_path, run, kind):
    for target in ("/etc/passwd", "../../secret.png", "cat/1.png"):
        path = tmp_path / "a.tar"
        with tarfile.open(path, "w") as archive:
            info = tarfile.TarInfo("cat/1.png")
            info.size = len(encoded(1))
            archive.addfile(info, io.BytesIO(encoded(1)))
            link = tarfile.TarInfo("dog/2.png")
            link.type, link.linkname = kind, target
            archive.addfile(link)
        code, _, errors = run("fit", path, "-o", tmp_path / "m", *FIT)
        assert code == 1
        assert "[LINK]" in errors
        assert "dog/2.png" in errors


def test_21_symbolic_links_are_refused_in_a_zip(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("cat/1.png", encoded(1))
        info = zipfile.ZipInfo("dog")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc")
    with pytest.raises(ArchiveError, match=r"dog is a link.*\[LINK\]"):
        load_dataset(tmp_path / "a.zip")


def test_37_an_archive_trains_as_its_folder_does(tmp_path):
    members = [(f"{name}/{i}.png", encoded(10 * j + i)) for j, name in enumerate(("cat", "dog")) for i in range(3)]
    for name, content in members:
        (tmp_path / "t" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "t" / name).write_bytes(content)
    folder, packed = load_dataset(tmp_path / "t"), load_dataset(pack(tmp_path / "t.zip", members))
    fitted = [FewShotClassifier(head="prototypical", augmentation=None).fit(data) for data in (folder, packed)]
    queries = [encoded(100 + i) for i in range(4)]
    np.testing.assert_array_equal(*(one.predict_proba(queries) for one in fitted))
