"""Archives as data sets: what is read, how it is called, and all that is refused. Archives are made here, by hand."""

import bz2
import errno
import gc
import gzip
import io
import lzma
import os
import pickle
import random
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import tempfile
import textwrap
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fewshot.errors import ArchiveError, DatasetError, FewshotError, ImageError, OutputError
from fewshot.images import archive
from fewshot.images.archive import ArchiveTree, Limits
from fewshot.images.audit import audit
from fewshot.images.dataset import ImageDataset
from fewshot.images.layout import collect_training
from fewshot.images.reader import read_image, source_name
from fewshot.images.sources import dataset_name, load_dataset, load_splits, load_train_and_test, load_training


def picture(seed=0, size=(6, 8)):
    """Make (pixels, encoded bytes) of a small PNG."""
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return pixels, buffer.getvalue()


PNG = picture()[1]
FILES = ("photos/cat/1.png", "photos/cat/old/2.png", "photos/dog/1.png")


def write_zip(path, *members, compression=zipfile.ZIP_DEFLATED):
    """Write (name, bytes) or (ZipInfo, bytes) members; names alone get pictures of their own."""
    with zipfile.ZipFile(path, "w", compression) as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # duplicate names
        for seed, member in enumerate(members):
            name, content = (member, picture(seed)[1]) if isinstance(member, str) else member
            archive.writestr(name, content)
    return path


def tar_info(name, size=0, **fields):
    info = tarfile.TarInfo(name)
    info.size = size
    for field, value in fields.items():
        setattr(info, field, value)
    return info


def write_tar(path, *members, mode="w", **options):
    """Write (name, bytes) or (TarInfo, bytes) members; names alone get pictures of their own."""
    with tarfile.open(path, mode, **options) as archive:
        for seed, member in enumerate(members):
            name, content = (member, picture(seed)[1]) if isinstance(member, str) else member
            info = name if isinstance(name, tarfile.TarInfo) else tar_info(name, len(content))
            archive.addfile(info, io.BytesIO(content))
    return path


SUFFIX = {write_zip: ".zip", write_tar: ".tar"}


def found(dataset):
    return list(zip(dataset.names, dataset.labels, strict=True))


def refused(path, code, **limits):
    with pytest.raises(ArchiveError) as caught:
        collect_training(ArchiveTree(path, Limits(**limits)))
    assert caught.value.code == code
    assert caught.value.source == str(path)
    assert str(caught.value).startswith(f"{path}: ")
    return caught.value


@pytest.fixture(autouse=True)
def unpacked(tmp_path_factory, monkeypatch):
    """Give the folder below which archives are unpacked; nothing of them may be left there."""
    place = tmp_path_factory.mktemp("unpacked")
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    yield place
    gc.collect()
    assert list(place.iterdir()) == []


# --- what is read


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".ZIP"])
def test_an_archive_is_the_folder_that_was_packed(tmp_path, suffix, unpacked):
    path = tmp_path / f"photos{suffix}"
    if suffix.lower() == ".zip":
        write_zip(path, *FILES)
    else:
        mode = next((m for mark, m in (("gz", "w:gz"), ("bz", "w:bz2"), ("xz", "w:xz")) if mark in suffix), "w")
        write_tar(path, *FILES, mode="w:gz" if suffix == ".tgz" else mode)
    for load in (load_dataset, load_training):
        dataset = load(path)
        expected = [(f"{path}/{name}", name.split("/")[1]) for name in FILES]
        assert found(dataset) == expected
        for seed, source in enumerate(dataset.sources):
            np.testing.assert_array_equal(read_image(source), picture(seed)[0])
    assert dataset_name(path) == "photos"
    assert stat.S_IMODE(next(unpacked.iterdir()).stat().st_mode) == 0o700
    files = [file for _, _, files in os.walk(unpacked) for file in files]
    assert all(file.removesuffix(".png").isdigit() for file in files)


def test_archives_are_told_apart_by_content_and_found_by_name(tmp_path):
    write_zip(tmp_path / "really-zip.tar.gz", *FILES)
    write_tar(tmp_path / "really-tar.zip", *FILES, mode="w:gz")
    write_tar(tmp_path / "plain.tgz", *FILES)
    for name in ("really-zip.tar.gz", "really-tar.zip", "plain.tgz"):
        assert load_dataset(tmp_path / name).counts() == {"cat": 2, "dog": 1}
    folder = tmp_path / "folder.zip" / "cat"
    folder.mkdir(parents=True)
    (folder / "1.png").write_bytes(PNG)
    assert load_dataset(folder.parent).counts() == {"cat": 1}


@pytest.mark.parametrize("wrapping", ["", "photos/", "./", "other/"])
def test_splits_of_archives_are_those_of_folders(tmp_path, wrapping):
    names = [f"{wrapping}{name}" for name in ("Train/a/1.png", "Train/b/1.png", "valid/a/2.png", "test/b/2.png")]
    path = write_zip(tmp_path / "photos.zip", *names)
    assert list(load_splits(path)) == ["train", "val", "test"]
    train, test = load_train_and_test(path)
    assert (train.counts(), test.counts()) == ({"a": 1, "b": 1}, {"b": 1})
    assert load_dataset(path).counts() == {"a": 2, "b": 2}
    assert load_training(path).counts() == {"a": 1, "b": 1}


def test_what_a_mac_adds_is_ignored_and_the_rest_is_listed(tmp_path):
    path = write_zip(
        tmp_path / "photos.zip",
        *FILES,
        ("__MACOSX/photos/cat/._1.png", b"x"),
        ("photos/.DS_Store", b"x"),
        ("photos/cat/notes.txt", b"x"),
        ("photos/dog/more.zip", b"PK\3\4"),
        ("photos/empty/", b""),
        ("photos/stray.png", PNG),
    )
    dataset = load_dataset(path)
    assert dataset.counts() == {"cat": 2, "dog": 1}
    findings = {code: [f for f in dataset.findings if f.code == code] for code in {f.code for f in dataset.findings}}
    assert findings["IGNORED"][0].images == (f"{path}/__MACOSX", f"{path}/photos/.DS_Store")
    assert [f.images for f in findings["SKIPPED_FILES"]] == [
        (f"{path}/photos/cat/notes.txt",),
        (f"{path}/photos/dog/more.zip",),
    ]
    assert "not opened" in findings["SKIPPED_FILES"][1].message
    assert findings["EMPTY_CLASS"][0].images == (f"{path}/photos/empty",)
    assert findings["LOOSE_IMAGES"][0].images == (f"{path}/photos/stray.png",)
    assert findings.keys() == {"IGNORED", "SKIPPED_FILES", "EMPTY_CLASS", "LOOSE_IMAGES", "WRAPPER"}


def test_images_are_called_by_their_place_in_the_archive(tmp_path):
    path = write_zip(tmp_path / "p.zip", *FILES, *[(f"photos/dog/{i}.png", picture(i)[1]) for i in range(2, 40)])
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("photos/cat/bad.png", b"<html>")
    audited = audit(load_dataset(path))
    (bad,) = audited.skipped
    assert (bad.code, bad.source) == ("NOT_AN_IMAGE", f"{path}/photos/cat/bad.png")
    assert source_name(audited.dataset.sources[0]) == f"{path}/photos/cat/1.png"


@pytest.mark.parametrize("name", ["Äpfel", "🍎 red", "=cmd()", "<script>", "two\nlines", "苹果", "x" * 250, "a:b"])
def test_unusual_names_of_classes_work(tmp_path, name):
    for path in (
        write_zip(tmp_path / "a.zip", f"{name}/1.png", "plain/1.png"),
        write_tar(tmp_path / "a.tar", f"{name}/1.png", "plain/1.png", format=tarfile.PAX_FORMAT),
        write_tar(tmp_path / "b.tar", f"{name}/1.png", "plain/1.png", format=tarfile.GNU_FORMAT),
    ):
        dataset = load_dataset(path)
        assert set(dataset.class_names) == {name, "plain"}
        assert all(read_image(source).shape == (6, 8, 3) for source in dataset.sources)


def test_names_that_are_no_text_are_kept_in_tars_and_read_as_utf8_in_zips(tmp_path):
    path = write_tar(
        tmp_path / "a.tar",
        "caf\udce9/1.png",
        "b/1.png",
        format=tarfile.GNU_FORMAT,
        encoding="utf-8",
        errors="surrogateescape",
    )
    assert load_dataset(path).class_names == ("b", "caf\udce9")
    # As macOS packs: UTF-8 without the bit that says so.
    raw = write_zip(tmp_path / "b.zip", ("cafxx/1.png", PNG), ("dog/1.png", PNG)).read_bytes()
    (tmp_path / "b.zip").write_bytes(raw.replace(b"cafxx", "café".encode()))
    assert load_dataset(tmp_path / "b.zip").class_names == ("café", "dog")


def test_backslashes_of_windows_programs_separate_in_zips(tmp_path):
    raw = write_zip(tmp_path / "a.zip", "cat/1.png", "dog/1.png").read_bytes()
    (tmp_path / "a.zip").write_bytes(raw.replace(b"cat/1.png", b"cat\\1.png").replace(b"dog/1.png", b"dog\\1.png"))
    assert load_dataset(tmp_path / "a.zip").counts() == {"cat": 1, "dog": 1}


def test_streams_of_xz_and_gzip_may_follow_each_other(tmp_path):
    raw = write_tar(tmp_path / "a.tar", *FILES).read_bytes()
    for name, compress, padding in (
        ("a.txz", lzma.compress, b"\0" * 8),
        ("a.tgz", gzip.compress, b""),
        ("a.tbz2", bz2.compress, b""),
    ):
        (tmp_path / name).write_bytes(compress(raw[:1000]) + padding + compress(raw[1000:]))
        assert load_dataset(tmp_path / name).counts() == {"cat": 2, "dog": 1}


# --- what becomes of the unpacked files


def test_unpacked_files_go_with_the_last_image_and_not_before(tmp_path, unpacked):
    dataset = load_dataset(write_zip(tmp_path / "a.zip", *FILES))
    last = dataset.subset([1]).sources[0]
    copy = pickle.loads(pickle.dumps(last))
    del dataset
    gc.collect()
    assert copy == last
    np.testing.assert_array_equal(read_image(copy), picture(1)[0])
    del last
    gc.collect()
    assert list(unpacked.iterdir()) == []
    with pytest.raises(ImageError) as caught:
        read_image(copy)
    assert (caught.value.code, caught.value.source) == ("VANISHED", f"{tmp_path / 'a.zip'}/photos/cat/old/2.png")


def test_a_fork_removes_nothing(tmp_path, unpacked):
    dataset = load_dataset(write_zip(tmp_path / "a.zip", *FILES))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # forking beside threads of torch
        child = os.fork()
    if child == 0:
        del dataset
        gc.collect()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert all(read_image(source).shape == (6, 8, 3) for source in dataset.sources)


@pytest.mark.parametrize("how", ["exit", "error", "SIGINT"])
def test_nothing_is_left_behind_when_a_program_ends(tmp_path, how):
    write_zip(tmp_path / "a.zip", *FILES)
    code = f"""
        import os, sys, signal
        from fewshot.images.sources import load_dataset
        import fewshot.images.archive as archive
        how = {how!r}
        if how == "SIGINT":
            add = archive.ArchiveTree._add
            def interrupted(self, member, meter):
                add(self, member, meter)
                os.kill(os.getpid(), signal.SIGINT)
            archive.ArchiveTree._add = interrupted
        dataset = load_dataset({str(tmp_path / "a.zip")!r})
        print(os.listdir(os.environ["TMPDIR"]))
        if how == "error":
            raise RuntimeError
    """
    place = tmp_path / "place"
    place.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env=os.environ | {"TMPDIR": str(place)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == {"exit": 0, "error": 1, "SIGINT": -signal.SIGINT}[how], done.stderr
    assert ("fewshot-" in done.stdout) == (how != "SIGINT")
    assert list(place.iterdir()) == []


# --- what is refused

UNSAFE = [
    "../out.png",
    "cat/../../out.png",
    "/etc/out.png",
    "C:/out.png",
    "C:\\out.png",
    "\\\\server\\out.png",
    "a/..\\x.png",
]


@pytest.mark.parametrize("name", UNSAFE)
@pytest.mark.parametrize("make", [write_zip, write_tar])
def test_names_that_lead_out_are_refused(tmp_path, make, name):
    path = make(tmp_path / f"a{SUFFIX[make]}", "cat/1.png", name)
    error = refused(path, "UNSAFE_NAME")
    assert "pack the folder again" in error.message
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(
    ("mode", "code"),
    [(stat.S_IFLNK, "LINK"), (stat.S_IFIFO, "DEVICE"), (stat.S_IFCHR, "DEVICE"), (stat.S_IFSOCK, "DEVICE")],
)
def test_links_and_devices_in_zips_are_refused(tmp_path, mode, code):
    info = zipfile.ZipInfo("cat/2.png")
    info.external_attr = (mode | 0o777) << 16
    assert "cat/2.png" in refused(write_zip(tmp_path / "a.zip", "cat/1.png", (info, b"/etc/passwd")), code).message


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (tarfile.SYMTYPE, "LINK"),
        (tarfile.LNKTYPE, "LINK"),
        (tarfile.CHRTYPE, "DEVICE"),
        (tarfile.BLKTYPE, "DEVICE"),
        (tarfile.FIFOTYPE, "DEVICE"),
        (tarfile.GNUTYPE_SPARSE, "SPARSE"),
        (b"M", "UNSUPPORTED"),
    ],
)
def test_links_devices_and_holes_in_tars_are_refused(tmp_path, kind, code):
    info = tar_info("cat/2.png", type=kind, linkname="cat/1.png")
    assert "cat/2.png" in refused(write_tar(tmp_path / "a.tar", "cat/1.png", (info, b"")), code).message


def test_holes_of_pax_are_refused(tmp_path):
    info = tar_info("cat/2.png", pax_headers={"GNU.sparse.major": "1", "GNU.sparse.minor": "0"})
    refused(write_tar(tmp_path / "a.tar", "cat/1.png", (info, b""), format=tarfile.PAX_FORMAT), "SPARSE")


def test_passwords_are_named_as_what_is_in_the_way(tmp_path):
    raw = bytearray(write_zip(tmp_path / "a.zip", "cat/1.png").read_bytes())
    raw[raw.index(b"PK\1\2") + 8] |= 1
    (tmp_path / "a.zip").write_bytes(raw)
    assert "password" in refused(tmp_path / "a.zip", "ENCRYPTED").message


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_methods_without_bounded_memory_are_refused(tmp_path, method):
    refused(write_zip(tmp_path / "a.zip", "cat/1.png", compression=method), "UNSUPPORTED")


@pytest.mark.parametrize("make", [write_zip, write_tar])
@pytest.mark.parametrize(
    "names", [("cat/1.png", "cat/1.png"), ("cat/1.png", "./cat//1.png"), ("cat", "cat/1.png"), ("cat/1.png", "cat")]
)
def test_the_same_name_twice_is_refused(tmp_path, make, names):
    refused(make(tmp_path / f"a{SUFFIX[make]}", *names), "DUPLICATE_NAME")


def test_a_folder_may_be_named_twice(tmp_path):
    path = write_zip(tmp_path / "a.zip", ("cat/", b""), "cat/1.png", ("cat/", b""), "dog/1.png")
    assert load_dataset(path).counts() == {"cat": 1, "dog": 1}


def test_too_many_members_are_refused(tmp_path):
    names = [f"cat/{i}.png" for i in range(30)]
    for path in (write_zip(tmp_path / "a.zip", *names), write_tar(tmp_path / "a.tar", *names)):
        refused(path, "TOO_MANY", members=20)
        refused(path, "TOO_MANY", name_bytes=100)
        # Folders that are only implied take memory, too.
        collect_training(ArchiveTree(path, Limits(members=31)))
    deep = [(f"{'x/' * 30}{i}.png", PNG) for i in range(2)]
    for path in (write_zip(tmp_path / "a.zip", *deep), write_tar(tmp_path / "a.tar", *deep)):
        refused(path, "TOO_MANY", members=20)


def test_names_that_no_system_takes_are_refused(tmp_path):
    name = "/".join(["y" * 200] * 25) + "/1.png"
    refused(write_zip(tmp_path / "a.zip", name), "TOO_LARGE")
    refused(write_tar(tmp_path / "a.tar", name, format=tarfile.GNU_FORMAT), "TOO_LARGE")


@pytest.mark.parametrize("suffix", [".zip", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_what_swells_when_unpacked_is_refused_after_little(tmp_path, suffix, unpacked):
    path, zeros = tmp_path / f"a{suffix}", bytes(70 * 2**20)
    if suffix == ".zip":
        write_zip(path, ("cat/1.png", zeros))
    else:
        write_tar(path, ("cat/1.png", zeros), mode=f"w:{suffix[5:]}")
    assert path.stat().st_size < 100_000
    tracemalloc.start()
    refused(path, "RATIO", free_bytes=10 * 2**20)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 * 2**20  # xz looks back 8 MB
    refused(path, "TOO_LARGE", total_bytes=10 * 2**20)
    # A drawing as bitmap shrinks much, too, and is small.
    collect_training(ArchiveTree(path, Limits(free_bytes=80 * 2**20)))


def test_zeros_after_the_end_of_a_tar_are_counted(tmp_path):
    raw = write_tar(tmp_path / "a.tar", "cat/1.png").read_bytes()
    (tmp_path / "a.tgz").write_bytes(gzip.compress(raw + bytes(20 * 2**20)))
    refused(tmp_path / "a.tgz", "RATIO", free_bytes=2**20)


def test_what_a_zip_says_about_sizes_is_not_believed(tmp_path):
    """The list of members says 100 bytes, the data unpack to a megabyte; and the other way round."""
    for length, told in ((2**20, 100), (100, 2**20)):
        path = write_zip(tmp_path / "a.zip", ("cat/1.png", bytes(length)))
        raw = bytearray(path.read_bytes())
        struct.pack_into("<L", raw, raw.index(b"PK\1\2") + 24, told)
        path.write_bytes(raw)
        refused(path, "CORRUPT")


def overlapping(copies):
    """Write a ZIP whose members all are the same bytes: each points to the one local header there is."""
    content = bytes(10_000)
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = compressor.compress(content) + compressor.flush()
    name, crc = b"cat/000.png", zlib.crc32(content)
    fields = (20, 0, 8, 0, 0, crc, len(packed), len(content), len(name), 0)
    body = b"PK\3\4" + struct.pack("<5H3L2H", *fields) + name + packed
    listed = b"".join(b"PK\1\2" + struct.pack("<6H3L5H2L", 20, *fields, 0, 0, 0, 0, 0) + name for _ in range(copies))
    end = b"PK\5\6" + struct.pack("<4H2LH", 0, 0, copies, copies, len(listed), len(body), 0)
    return body + listed + end


def test_members_that_share_bytes_are_refused(tmp_path):
    (tmp_path / "a.zip").write_bytes(overlapping(1))
    collect_training(ArchiveTree(tmp_path / "a.zip"))
    (tmp_path / "a.zip").write_bytes(overlapping(300))
    refused(tmp_path / "a.zip", "OVERLAP")


def test_a_list_of_members_of_many_gigabytes_is_not_read(tmp_path):
    raw = write_zip(tmp_path / "a.zip", "cat/1.png").read_bytes()
    at = raw.index(b"PK\5\6")
    _, start = struct.unpack_from("<2L", raw, at + 12)
    zip64 = b"PK\6\6" + struct.pack("<Q2H2L4Q", 44, 45, 45, 0, 0, 2**40, 2**40, 2**40, start)
    zip64 += b"PK\6\7" + struct.pack("<LQL", 0, at, 1)
    end = b"PK\5\6" + struct.pack("<4H2LH", 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    (tmp_path / "a.zip").write_bytes(raw[:at] + zip64 + end)
    refused(tmp_path / "a.zip", "CORRUPT")
    with open(tmp_path / "big.zip", "wb") as file:  # sparse: a gigabyte that is said to be a list of members
        file.truncate(2**30)
        file.seek(0, 2)
        file.write(b"PK\5\6" + struct.pack("<4H2LH", 0, 0, 1, 1, 2**30, 0, 0))
    tracemalloc.start()
    refused(tmp_path / "big.zip", "TOO_MANY")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


@pytest.mark.parametrize("kind", [b"x", b"g", b"L", b"K"])
def test_giant_headers_of_tars_are_refused(tmp_path, kind):
    giant = tar_info("header", 50 * 2**20, type=kind)
    raw = giant.tobuf(tarfile.USTAR_FORMAT) + bytes(50 * 2**20)
    (tmp_path / "a.tgz").write_bytes(gzip.compress(raw))
    refused(tmp_path / "a.tgz", "TOO_LARGE")
    # And so is a giant one in pieces.
    piece = tar_info("header", 512, type=kind).tobuf(tarfile.USTAR_FORMAT)
    content = b"13 comment=x\n" * 39 + b"\0" * 5
    (tmp_path / "b.tgz").write_bytes(gzip.compress((piece + content) * 3000))
    refused(tmp_path / "b.tgz", "TOO_LARGE")


@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz", ".tar.bz2", ".tar.xz"])
def test_wherever_an_archive_ends_early_it_is_refused(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".zip":
        write_zip(path, *FILES)
    else:
        write_tar(path, *FILES, mode=f"w:{suffix[5:]}" if suffix != ".tar" else "w")
    raw = path.read_bytes()
    # The last records of a tar are zeros, of which one suffices.
    end = len(raw.rstrip(b"\0")) if suffix == ".tar" else len(raw)
    for cut in sorted({*range(0, end, max(1, end // 60)), end - 1}):
        path.write_bytes(raw[:cut])
        with pytest.raises(ArchiveError) as caught:
            load_dataset(path)
        assert caught.value.code in ("TRUNCATED", "CORRUPT")
        assert "get it again" in caught.value.message


@pytest.mark.parametrize("make", [write_zip, write_tar])
def test_checksums_are_checked(tmp_path, make):
    path = make(tmp_path / f"a{SUFFIX[make]}", *FILES)
    raw = bytearray(path.read_bytes())
    at = raw.index(picture(1)[1][40:80]) if make is write_tar else raw.index(b"PK\3\4", 10) + 60
    raw[at] ^= 1
    path.write_bytes(raw)
    if make is write_zip:
        assert "get it again" in refused(path, "CORRUPT").message
    else:  # a tar has checksums of its headers only; the picture's own are checked where it is read
        raw[raw.index(b"photos/cat/old")] ^= 1
        path.write_bytes(raw)
        assert "broken header" in refused(path, "CORRUPT").message


def test_a_gzip_checksum_is_checked_behind_the_last_member(tmp_path):
    path = write_tar(tmp_path / "a.tgz", *FILES, mode="w:gz")
    raw = bytearray(path.read_bytes())
    raw[-8] ^= 1
    path.write_bytes(raw)
    refused(path, "CORRUPT")


def test_archives_appended_to_each_other_are_refused(tmp_path):
    one, two = write_tar(tmp_path / "1.tar", "cat/1.png"), write_tar(tmp_path / "2.tar", "dog/1.png")
    (tmp_path / "a.tar").write_bytes(one.read_bytes() + two.read_bytes())
    assert "appended" in refused(tmp_path / "a.tar", "CORRUPT").message


@pytest.mark.parametrize(
    "content", [b"", b"x", b"x" * 2000, b"<html>" * 200, PNG, b"\x1f\x8b", b"BZh9", b"\xfd7zXZ\0", b"PK\3\4"]
)
@pytest.mark.parametrize("suffix", [".zip", ".tar", ".tar.gz"])
def test_what_is_no_archive_is_refused(tmp_path, content, suffix):
    (tmp_path / f"a{suffix}").write_bytes(content)
    with pytest.raises(ArchiveError, match=r"a\..*get it again"):
        load_dataset(tmp_path / f"a{suffix}")


def test_empty_archives_and_archives_without_images_say_what_is_needed(tmp_path):
    for path in (
        write_zip(tmp_path / "a.zip"),
        write_tar(tmp_path / "a.tar"),
        write_zip(tmp_path / "b.zip", ("x/1.txt", b"")),
    ):
        with pytest.raises(DatasetError, match=r"No images.*one folder per class"):
            load_dataset(path)
    with pytest.raises(DatasetError, match=r"No images.*2 images lie in it directly"):
        load_dataset(write_zip(tmp_path / "c.zip", "1.png", "2.png"))


def test_missing_archives_and_others_are_named(tmp_path):
    with pytest.raises(DatasetError, match="No such"):
        load_dataset(tmp_path / "missing.zip")
    with pytest.raises(DatasetError, match="No such"):
        load_training(tmp_path / "missing.zip")
    path = write_zip(tmp_path / "a.zip", *FILES)
    with pytest.raises(DatasetError, match=r"archive.*load_dataset"):
        ImageDataset.from_folder(path)


def test_errors_survive_processes():
    error = ArchiveError("RATIO", "a.zip", "swells")
    again = pickle.loads(pickle.dumps(error))
    assert (again.code, again.source, str(again)) == ("RATIO", "a.zip", "a.zip: swells [RATIO]")


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, monkeypatch, unpacked):
    def full(self, block):
        raise archive.cannot_write(self._path, OSError(errno.ENOSPC, "No space left on device"))

    monkeypatch.setattr(archive._Output, "write", full)
    with pytest.raises(OutputError, match="disk is full"):
        load_dataset(write_zip(tmp_path / "a.zip", *FILES))
    assert list(unpacked.iterdir()) == []


def test_large_members_are_read_in_flat_memory(tmp_path):
    noise = random.Random(0).randbytes(2**20) * 48  # 48 MB that flate cannot shrink: it looks back 32 kB only
    for path in (
        write_zip(tmp_path / "a.zip", ("a/1.png", noise)),
        write_tar(tmp_path / "a.tgz", ("a/1.png", noise), mode="w:gz", compresslevel=1),
    ):
        tracemalloc.start()
        tree = ArchiveTree(path)
        assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
        tracemalloc.stop()
        del tree


def test_bytes_flipped_anywhere_are_refused_or_harmless(tmp_path):
    """No damage gives anything but a data set or an error of ours."""
    chance = random.Random(0)
    for path in (
        write_zip(tmp_path / "a.zip", *FILES),
        write_tar(tmp_path / "a.tar", *FILES, format=tarfile.PAX_FORMAT),
        write_tar(tmp_path / "a.tgz", *FILES, mode="w:gz"),
        write_tar(tmp_path / "a.txz", *FILES, mode="w:xz"),
    ):
        raw = path.read_bytes()
        for _ in range(150):
            damaged = bytearray(raw)
            for _ in range(chance.randint(1, 4)):
                damaged[chance.randrange(min(len(raw), 4000))] = chance.choice(
                    (0, 1, 127, 128, 255, chance.randrange(256))
                )
            path.write_bytes(damaged)
            try:
                dataset = load_dataset(path)
            except FewshotError:
                continue
            assert all(name.startswith(f"{path}/") for name in dataset.names)
            assert all(Path(source.path).is_file() for source in dataset.sources)
