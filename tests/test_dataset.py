"""ImageDataset: what is collected from folders, CSV files, lists and arrays, and under which labels."""

import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from fewshot.errors import DatasetError, ImageError, InvalidInputError
from fewshot.images.dataset import ImageDataset, as_sources, find_splits, list_images, normalise_label
from fewshot.images.findings import Finding


def pixels(seed=0, size=(6, 8)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def write_image(path, seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as handle:
        Image.fromarray(pixels(seed)).save(handle, "PNG")
    return path


def make_folder(root, *names):
    for seed, name in enumerate(names):
        write_image(root / name, seed)
    return root


def found(dataset, root):
    """The collected files, relative to the folder, with their labels."""
    return [(os.path.relpath(s, root), label) for s, label in zip(dataset.sources, dataset.labels, strict=True)]


# --- folders


def test_a_folder_per_class(tmp_path):
    make_folder(tmp_path, "dog/1.png", "cat/2.jpg", "cat/1.png")
    dataset = ImageDataset.from_folder(tmp_path)
    assert found(dataset, tmp_path) == [("cat/1.png", "cat"), ("cat/2.jpg", "cat"), ("dog/1.png", "dog")]
    assert dataset.class_names == ("cat", "dog")
    assert dataset.counts() == {"cat": 2, "dog": 1}
    assert dataset.targets.tolist() == [0, 0, 1]
    assert dataset.names == tuple(map(str, dataset.sources))
    assert dataset.notes == ()
    assert len(dataset) == 3
    again = ImageDataset.from_folder(str(tmp_path))
    assert (again.sources, again.labels) == (dataset.sources, dataset.labels)


def test_images_in_nested_folders_belong_to_the_class_above(tmp_path):
    make_folder(tmp_path, "cat/2020/may/1.png", "cat/2.png", "dog/x/1.png")
    assert ImageDataset.from_folder(tmp_path).counts() == {"cat": 2, "dog": 1}


def test_what_systems_leave_behind_is_neither_class_nor_image(tmp_path):
    make_folder(
        tmp_path,
        "cat/1.png",
        "dog/1.png",
        "cat/._1.png",
        "cat/.hidden/2.png",
        "cat/__MACOSX/3.png",
        ".ipynb_checkpoints/1.png",
        "__MACOSX/cat/1.png",
        "__pycache__/1.png",
        "@eaDir/1.png",
    )
    for name in ("cat/Thumbs.db", "cat/desktop.ini", "cat/.DS_Store", ".DS_Store", "Thumbs.db"):
        (tmp_path / name).write_bytes(b"x")
    dataset = ImageDataset.from_folder(tmp_path)
    assert found(dataset, tmp_path) == [("cat/1.png", "cat"), ("dog/1.png", "dog")]
    (finding,) = dataset.findings
    assert (finding.code, finding.severity) == ("IGNORED", "info")
    assert "12 files or folders" in finding.message
    ignored = ("._1.png", ".hidden", "__MACOSX", "Thumbs.db", "desktop.ini", ".DS_Store")
    top = (".ipynb_checkpoints", "__MACOSX", "__pycache__", "@eaDir", ".DS_Store", "Thumbs.db")
    expected = [str(tmp_path / "cat" / name) for name in ignored] + [str(tmp_path / name) for name in top]
    assert sorted(finding.images) == sorted(expected)


def test_files_without_an_image_suffix_are_left_out_and_counted(tmp_path):
    make_folder(tmp_path, "cat/1.png", "cat/UPPER.PNG", "dog/1.jpeg")
    (tmp_path / "cat/notes.txt").write_text("x")
    (tmp_path / "cat/labels.csv").write_text("x")
    dataset = ImageDataset.from_folder(tmp_path)
    assert dataset.counts() == {"cat": 2, "dog": 1}
    (note,) = dataset.notes
    assert "2" in note
    assert "cat" in note


@pytest.mark.parametrize(
    "suffix",
    (
        "jpg jpeg jpe jfif mpo png apng webp gif bmp dib tif tiff ppm pgm pbm pnm pfm avif avifs jp2 j2k j2c jpc jpf "
        "jpx ico heic heif hif JPG TIFF J2K"
    ).split(),
)
def test_image_suffixes_are_listed(tmp_path, suffix):
    make_folder(tmp_path, f"cat/1.{suffix}")
    assert len(ImageDataset.from_folder(tmp_path)) == 1


@pytest.mark.parametrize("suffix", "psd eps fits svg pdf cur txt".split())
def test_suffixes_of_formats_that_are_off_are_not_listed(tmp_path, suffix):
    make_folder(tmp_path, "cat/1.png", f"cat/2.{suffix}")
    assert len(ImageDataset.from_folder(tmp_path)) == 1


def test_an_unreadable_file_is_listed_and_reported_only_where_it_is_used(tmp_path):
    make_folder(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "cat/2.png").write_bytes(b"<html>")
    dataset = ImageDataset.from_folder(tmp_path)
    assert len(dataset) == 3
    with pytest.raises(ImageError, match="NOT_AN_IMAGE"):
        dataset[1]


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Training", "val"), ("train", "validation")])
def test_train_and_test_folders_are_splits_and_no_classes(tmp_path, train, test):
    make_folder(tmp_path, f"{train}/cat/1.png", f"{train}/dog/1.png", f"{test}/cat/2.png")
    dataset = ImageDataset.from_folder(tmp_path)
    assert found(dataset, tmp_path) == [(f"{train}/cat/1.png", "cat"), (f"{train}/dog/1.png", "dog")]
    assert any(train in note and test in note for note in dataset.notes)
    assert find_splits(tmp_path) == {"train": tmp_path / train, "test": tmp_path / test}


def test_test_is_preferred_to_val(tmp_path):
    make_folder(tmp_path, "train/a/1.png", "val/a/2.png", "test/a/3.png")
    assert find_splits(tmp_path)["test"].name == "test"


def test_a_class_may_be_called_train(tmp_path):
    make_folder(tmp_path, "train/1.png", "bus/1.png")
    assert find_splits(tmp_path) == {}
    assert ImageDataset.from_folder(tmp_path).class_names == ("bus", "train")


def test_an_empty_class_is_named_and_dropped(tmp_path):
    make_folder(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "zebra").mkdir()
    dataset = ImageDataset.from_folder(tmp_path)
    assert dataset.class_names == ("cat", "dog")
    assert any("zebra" in note and "dropped" in note for note in dataset.notes)


def test_loose_images_beside_classes_are_left_out_and_counted(tmp_path):
    make_folder(tmp_path, "cat/1.png", "dog/1.png", "stray.png", "other.jpg")
    dataset = ImageDataset.from_folder(tmp_path)
    assert len(dataset) == 2
    assert any("2 images outside" in note for note in dataset.notes)


def test_a_folder_of_loose_images_is_told_how_to_sort_them(tmp_path):
    make_folder(tmp_path, "1.png", "2.png")
    with pytest.raises(DatasetError, match=r"No images.*2 images.*one folder per class"):
        ImageDataset.from_folder(tmp_path)


def test_empty_missing_and_wrong_folders_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_bytes(b"x")
    for collect in (ImageDataset.from_folder, list_images):
        with pytest.raises(DatasetError, match="No images"):
            collect(tmp_path / "empty")
        with pytest.raises(DatasetError, match="No such folder"):
            collect(tmp_path / "missing")
        with pytest.raises(DatasetError, match="is a file"):
            collect(tmp_path / "file")


def test_symlink_loops_end_and_give_each_file_once_under_its_own_class(tmp_path):
    make_folder(tmp_path, "cat/1.png", "cat/more/3.png", "dog/2.png")
    (tmp_path / "cat/self").symlink_to(tmp_path / "cat")
    (tmp_path / "cat/more/up").symlink_to(tmp_path / "cat")
    (tmp_path / "cat/root").symlink_to(tmp_path)
    (tmp_path / "cat/above").symlink_to(tmp_path.parent)
    (tmp_path / "dog/broken").symlink_to(tmp_path / "dog/broken")
    dataset = ImageDataset.from_folder(tmp_path)
    assert found(dataset, tmp_path) == [("cat/1.png", "cat"), ("cat/more/3.png", "cat"), ("dog/2.png", "dog")]
    assert sorted(os.path.relpath(p, tmp_path) for p in list_images(tmp_path)) == [
        "cat/1.png",
        "cat/more/3.png",
        "dog/2.png",
    ]


def test_links_out_of_the_folder_are_followed(tmp_path):
    elsewhere = make_folder(tmp_path / "elsewhere", "a.png", "b.png")
    root = make_folder(tmp_path / "root", "cat/1.png")
    (root / "cat/linked.png").symlink_to(elsewhere / "a.png")
    (root / "dog").symlink_to(elsewhere)
    assert ImageDataset.from_folder(root).counts() == {"cat": 2, "dog": 2}


def test_a_file_linked_twice_within_a_class_is_one_image(tmp_path):
    make_folder(tmp_path, "cat/1.png", "dog/1.png")
    (tmp_path / "cat/again.png").symlink_to(tmp_path / "cat/1.png")
    assert ImageDataset.from_folder(tmp_path).counts() == {"cat": 1, "dog": 1}


@pytest.mark.parametrize(
    "name", ["Äpfel", "🍎 red", "two\nlines", "<script>alert(1)", "=cmd()", "a" * 255, "苹果", "\udcff"]
)
def test_unusual_class_and_file_names_work(tmp_path, name):
    make_folder(tmp_path, f"{name}/{name[:200]}.png", "plain/1.png")
    dataset = ImageDataset.from_folder(tmp_path)
    assert set(dataset.class_names) == {name, "plain"}
    for position in range(2):
        image, _ = dataset[position]
        assert image.size == (8, 6)


def test_the_order_does_not_depend_on_the_file_system(tmp_path):
    names = [f"{c}/{i}.png" for c in "ba" for i in (10, 9, 1)]
    make_folder(tmp_path / "one", *names)
    make_folder(tmp_path / "two", *reversed(names))
    one, two = (found(ImageDataset.from_folder(tmp_path / r), tmp_path / r) for r in ("one", "two"))
    assert one == two == sorted(one)


def test_class_folders_that_differ_only_in_unicode_form_are_one_class_and_noted(tmp_path):
    composed, decomposed = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
    make_folder(tmp_path, f"{composed}/1.png", f"{decomposed}/2.png", "dog/1.png")
    if len(list(tmp_path.iterdir())) == 2:
        pytest.skip("this file system merges the names itself")
    dataset = ImageDataset.from_folder(tmp_path)
    assert dataset.counts() == {"dog": 1, composed: 2}
    assert any("one class" in note and composed in note for note in dataset.notes)


# --- CSV


@pytest.fixture
def write_csv(tmp_path):
    make_folder(tmp_path, "images/1.png", "images/2.png")

    def write(text, encoding="utf-8"):
        path = tmp_path / "labels.csv"
        path.write_bytes(text.encode(encoding))
        return path

    return write


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_a_csv_is_read_with_and_without_byte_order_mark(write_csv, tmp_path, encoding, newline):
    path = write_csv(newline.join(["image,label", "images/1.png,café", 'images/2.png,"a, b"', ""]), encoding)
    dataset = ImageDataset.from_csv(path)
    assert found(dataset, tmp_path) == [("images/1.png", "café"), ("images/2.png", "a, b")]


def test_relative_paths_start_at_the_csv_or_at_the_given_root(write_csv, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path.parent)
    absolute = tmp_path / "images/2.png"
    path = write_csv(f"image,label\nimages/1.png,a\n{absolute},b\n")
    assert [
        os.path.samefile(s, tmp_path / f"images/{i}.png") for i, s in enumerate(ImageDataset.from_csv(path).sources, 1)
    ]
    path = write_csv("image,label\n1.png,a\n2.png,b\n")
    dataset = ImageDataset.from_csv(path, root=tmp_path / "images")
    assert found(dataset, tmp_path) == [("images/1.png", "a"), ("images/2.png", "b")]


def test_columns_can_be_named_and_others_are_ignored(write_csv):
    path = write_csv("id,file,kind\n7,images/1.png,a\n8,images/2.png,b\n")
    dataset = ImageDataset.from_csv(path, image_column="file", label_column="kind")
    assert dataset.labels == ("a", "b")


@pytest.mark.parametrize("header", ["image name,label", "file,label", "image", ""])
def test_a_missing_column_lists_the_columns_there_are(write_csv, header):
    path = write_csv(f"{header}\nimages/1.png,a\n" if header else "")
    with pytest.raises(DatasetError, match="no column") as caught:
        ImageDataset.from_csv(path)
    message = str(caught.value)
    assert str(path) in message
    assert all(column in message for column in header.split(","))
    assert "image_column=" in message


def test_missing_images_are_reported_with_their_rows(write_csv):
    # Rows are counted as a spreadsheet or an editor shows them: the header is 1, and blank ones count.
    path = write_csv("image,label\nimages/1.png,a\ngone.png,b\n\n\nalso-gone.png,b\n")
    with pytest.raises(DatasetError) as caught:
        ImageDataset.from_csv(path)
    message = str(caught.value)
    assert "row 3" in message
    assert "gone.png" in message
    assert "row 6" in message
    assert "row 2" not in message


@pytest.mark.parametrize("row", ["images/1.png,", "images/1.png,  ", "images/1.png", ",a", "  ,a"])
def test_empty_cells_are_reported_with_their_rows(write_csv, row):
    with pytest.raises(DatasetError, match=r"row 2.*empty"):
        ImageDataset.from_csv(write_csv(f"image,label\n{row}\nimages/2.png,b\n"))


def test_many_problems_are_summarised(write_csv):
    path = write_csv("image,label\n" + "".join(f"gone-{i}.png,a\n" for i in range(30)))
    with pytest.raises(DatasetError, match="25 more") as caught:
        ImageDataset.from_csv(path)
    assert len(str(caught.value)) < 2000


def test_a_csv_that_cannot_be_used_is_refused(write_csv, tmp_path):
    with pytest.raises(DatasetError, match="no rows"):
        ImageDataset.from_csv(write_csv("image,label\n"))
    with pytest.raises(DatasetError, match="UTF-8"):
        ImageDataset.from_csv(write_csv("image,label\nimages/1.png,é\n", "latin-1"))
    with pytest.raises(DatasetError, match="No such file"):
        ImageDataset.from_csv(tmp_path / "missing.csv")
    with pytest.raises(DatasetError, match="cannot be read"):
        ImageDataset.from_csv(tmp_path)
    with pytest.raises(DatasetError, match="no such image"):
        ImageDataset.from_csv(write_csv(f"image,label\n{'a' * 5000},b\n"))


def test_labels_of_a_csv_are_normalised_and_merging_is_noted(write_csv):
    dataset = ImageDataset.from_csv(write_csv("image,label\nimages/1.png, cat\nimages/2.png,cat\n"))
    assert dataset.class_names == ("cat",)
    assert any("one class" in note for note in dataset.notes)


# --- lists and arrays


def test_two_images_are_two_classes_named_by_their_files(tmp_path):
    paths = [write_image(tmp_path / "apple.png", 1), write_image(tmp_path / "pear.png", 2)]
    dataset = ImageDataset.from_paths(paths)
    assert dataset.labels == dataset.class_names == ("apple", "pear")
    for position, (image, label) in enumerate(dataset):
        assert label == position
        np.testing.assert_array_equal(np.asarray(image), pixels(position + 1))


@pytest.mark.parametrize(
    "paths",
    [
        ["a/x.png", "b/x.png"],
        ["a/x.png", "b/x.png", "x-0.png"],
        ["x-1.png", "x.png", "y/x.png"],
        ["é.png", "e\u0301.png"],
        ["x.png", "\u200b.png"],
    ],
)
def test_without_labels_no_two_images_share_a_class(paths):
    dataset = ImageDataset.from_paths(paths)
    assert len(dataset.class_names) == len(paths)
    assert all("x" in label or "é" in label or "200b" in label for label in dataset.labels)


def test_without_labels_images_that_are_no_files_are_numbered():
    dataset = ImageDataset.from_paths([pixels(0), pixels(1)])
    assert dataset.labels == ("image-0", "image-1")


def test_every_kind_of_image_can_be_listed(tmp_path):
    path = write_image(tmp_path / "1.png", 3)
    dataset = ImageDataset.from_paths([path, str(path), path.read_bytes(), Image.open(path), pixels(3)], list("abcde"))
    for image, _ in dataset:
        np.testing.assert_array_equal(np.asarray(image), pixels(3))


@pytest.mark.parametrize("stacked", [False, True])
def test_arrays_are_taken_as_a_list_or_as_one_array(stacked):
    images = [pixels(i) for i in range(3)]
    dataset = ImageDataset.from_arrays(np.stack(images) if stacked else images, np.array([2, 0, 2]))
    assert dataset.labels == ("2", "0", "2")
    assert dataset.targets.tolist() == [1, 0, 1]
    for image, expected in zip(dataset, images, strict=True):
        np.testing.assert_array_equal(np.asarray(image[0]), expected)


def test_generators_are_used_once():
    dataset = ImageDataset.from_arrays((pixels(i) for i in range(3)), (i % 2 for i in range(3)))
    assert dataset.counts() == {"0": 2, "1": 1}


@pytest.mark.parametrize("labels", [["a"], ["a", "b", "c"], []])
def test_different_numbers_of_images_and_labels_are_refused(labels):
    with pytest.raises(InvalidInputError, match=rf"2 images.*{len(labels)} labels"):
        ImageDataset.from_paths(["a.png", "b.png"], labels)


def test_no_images_are_refused():
    with pytest.raises(DatasetError, match="at least one"):
        ImageDataset.from_paths([])


@pytest.mark.parametrize("one", ["a.png", b"bytes", pixels(), Image.new("RGB", (2, 2))], ids=type)
def test_one_image_instead_of_a_list_is_refused(one):
    with pytest.raises(InvalidInputError, match=r"one image.*list"):
        as_sources(one)


def test_labels_outside_the_given_class_names_are_refused():
    with pytest.raises(InvalidInputError, match="zebra"):
        ImageDataset(("a", "b"), ("cat", "zebra"), class_names=("cat", "dog"))


# --- labels


@pytest.mark.parametrize(
    "forms",
    [
        (1, "1", 1.0, np.int64(1), np.float32(1), " 1 ", np.str_("1")),
        ("é", "e\u0301", " é\n"),
        (2.5, "2.5"),
        (-3, "-3", -3.0),
    ],
)
def test_labels_that_mean_the_same_are_the_same(forms):
    assert len({normalise_label(form) for form in forms}) == 1


def test_labels_that_differ_stay_different():
    labels = ["a", "A", "1", "01", "é", "e", "a b", "a  b", 1.5]
    assert len({normalise_label(label) for label in labels}) == len(labels)


def test_merged_labels_are_noted():
    dataset = ImageDataset.from_paths(["a", "b", "c"], [1, "1", "two"])
    assert dataset.class_names == ("1", "two")
    (note,) = dataset.notes
    assert "one class" in note
    assert "two" not in note


def test_labels_that_are_written_alike_are_not_noted():
    assert ImageDataset.from_paths(["a", "b"], ["x", "x"]).notes == ()


# --- as a data set


def test_indexing_applies_the_transform():
    dataset = ImageDataset.from_arrays([pixels(0), pixels(1)], ["b", "a"], transform=lambda image: image.size)
    assert dataset[0] == ((8, 6), 1)
    assert dataset[-1] == ((8, 6), 0)
    assert dataset[np.int64(1)] == dataset[1]
    with pytest.raises(IndexError):
        dataset[2]


def test_a_dataset_feeds_a_torch_loader():
    import torch
    from torch.utils.data import DataLoader

    def to_tensor(image):
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)

    images = [pixels(i) for i in range(5)]
    dataset = ImageDataset.from_arrays(images, ["b", "a", "b", "a", "c"], transform=to_tensor)
    batches = list(DataLoader(dataset, batch_size=2, shuffle=False))
    assert [tuple(batch.shape) for batch, _ in batches] == [(2, 3, 6, 8), (2, 3, 6, 8), (1, 3, 6, 8)]
    np.testing.assert_array_equal(torch.cat([b for b, _ in batches]).permute(0, 2, 3, 1).numpy(), np.stack(images))
    assert torch.cat([labels for _, labels in batches]).tolist() == [1, 0, 1, 0, 2] == dataset.targets.tolist()


def test_a_subset_keeps_order_names_classes_and_transform():
    dataset = ImageDataset(
        ("a.png", "b.png", "c.png"),
        ("x", "y", "z"),
        image_names=("A", "B", "C"),
        transform=len,
        findings=(Finding("NOTE", "noted"),),
    )
    subset = dataset.subset(np.array([2, 0]))
    assert subset.sources == ("c.png", "a.png")
    assert subset.labels == ("z", "x")
    assert subset.names == ("C", "A")
    assert subset.class_names == ("x", "y", "z")
    assert subset.counts() == {"x": 1, "y": 0, "z": 1}
    assert subset.targets.tolist() == [2, 0]
    assert subset.transform is len
    assert subset.notes == ("noted",)
    assert dataset.names == ("A", "B", "C")
    assert ImageDataset(("a.png", "b.png"), ("x", "y")).subset([1]).names == ("b.png",)


@pytest.mark.parametrize("missing", [None, float("nan"), "", "  "])
def test_a_missing_label_is_refused_rather_than_made_a_class(missing):
    with pytest.raises(InvalidInputError, match="1 of 2 labels are missing"):
        ImageDataset.from_paths(["a.jpg", "b.jpg"], ["cat", missing])


def test_labels_of_numpy_and_of_python_are_the_same_without_a_note():
    dataset = ImageDataset.from_paths(["a.jpg", "b.jpg", "c.jpg"], ["cat", np.str_("cat"), np.array(["dog"])[0]])
    assert dataset.labels == ("cat", "cat", "dog")
    assert dataset.notes == ()


def test_columns_of_a_table_that_are_not_used_are_named(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "1.png")
    (tmp_path / "t.csv").write_text("image,label,split\n1.png,a,test\n")
    (finding,) = ImageDataset.from_csv(tmp_path / "t.csv").findings
    assert finding.code == "UNUSED_COLUMNS"
    assert "split" in finding.message
