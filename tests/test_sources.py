"""Data sets by name: what is collected, under which labels, and what errors tell to do. No network."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.datasets
from PIL import Image

from fewshot.errors import DatasetError, ImageError, MissingExtraError, UnknownNameError
from fewshot.images.audit import audit
from fewshot.images.dataset import ImageDataset
from fewshot.images.reader import read_image, read_payload, source_name
from fewshot.images.sources import IndexedImage, data_folder, dataset_name, load_dataset, load_splits


def pixels(seed=0, size=(6, 8)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def make_folder(root, *names):
    for seed, name in enumerate(names):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(seed)).save(root / name)
    return root


class Pictures:
    """A data set as torchvision writes them, with pictures made of their number."""

    classes = ("ant", "bee", "cow")
    sizes = {"train": 4, "valid": 2, "test": 3}  # noqa: RUF012
    reads = 0

    def __init__(self, root, split="train", transform=None, download=False):
        if split not in self.sizes:
            raise ValueError(f"Unknown value '{split}' for argument split.")
        self.root, self.split = root, split
        if download:
            Path(root, "pictures").write_text("here")
        if not Path(root, "pictures").exists():
            raise RuntimeError("Dataset not found or corrupted. You can use download=True to download it")
        self._labels = [i % 3 for i in range(self.sizes[split])]

    def __len__(self):
        return len(self._labels)

    def __getitem__(self, index):
        type(self).reads += 1
        return Image.fromarray(pixels(10 * len(self.split) + index)), self._labels[index]


@pytest.fixture
def register(monkeypatch, tmp_path):
    """Make a class known to torchvision, and keep its files in a folder of the test."""
    monkeypatch.setenv("FEWSHOT_DATA", str(tmp_path / "data"))

    def add(maker, name="Pictures"):
        monkeypatch.setattr(torchvision.datasets, name, maker, raising=False)
        return f"torchvision:{name}"

    return add


def labels_and_pixels(dataset):
    return [
        (label, read_image(source).tobytes()) for label, source in zip(dataset.labels, dataset.sources, strict=True)
    ]


# --- paths


def test_a_data_set_is_taken_as_it_is():
    dataset = ImageDataset.from_paths(["a.jpg", "b.jpg"])
    assert load_dataset(dataset) is dataset
    assert dataset_name(dataset) == "images"


@pytest.mark.parametrize("kind", [str, Path])
def test_a_folder_is_collected(tmp_path, kind):
    folder = make_folder(tmp_path / "photos", "cat/1.png", "dog/1.png")
    dataset = load_dataset(kind(folder))
    assert dataset.counts() == {"cat": 1, "dog": 1}
    assert dataset_name(kind(folder)) == "photos"


def test_the_splits_of_a_folder_are_used_together_or_apart(tmp_path):
    folder = make_folder(tmp_path, "train/a/1.png", "train/b/2.png", "valid/a/3.png", "test/b/4.png")
    whole, splits = load_dataset(folder), load_splits(folder)
    assert list(splits) == ["train", "val", "test"]
    assert [split.counts() for split in splits.values()] == [{"a": 1, "b": 1}, {"a": 1}, {"b": 1}]
    assert sorted(whole.sources) == sorted(source for split in splits.values() for source in split.sources)
    assert whole.counts() == {"a": 2, "b": 2}
    assert any("train, val, test" in note and "4 images" in note for note in whole.notes)


def test_a_split_keeps_its_name(tmp_path):
    assert list(load_splits(make_folder(tmp_path, "Train/a/1.png", "Val/a/3.png"))) == ["train", "val"]


def test_a_csv_is_read(tmp_path):
    make_folder(tmp_path, "1.png")
    (tmp_path / "photos.csv").write_text("image,label\n1.png,cat\n")
    assert load_dataset(str(tmp_path / "photos.csv")).labels == ("cat",)
    assert dataset_name(tmp_path / "photos.csv") == "photos"


def test_leaf_folders_are_classes(tmp_path):
    names = ("Greek/alpha/1.png", "Greek/alpha/2.png", "Greek/beta/1.png", "Latin/alpha/1.png", "stray.png")
    folder = make_folder(tmp_path / "letters", *names)
    (folder / "Latin" / "notes.txt").write_text("x")
    dataset = load_dataset(f"leaves:{folder}")
    assert dataset.counts() == {"Greek/alpha": 2, "Greek/beta": 1, "Latin/alpha": 1}
    for source, label in zip(dataset.sources, dataset.labels, strict=True):
        assert Path(source).parent == folder / label
    skipped, loose = dataset.findings
    assert (skipped.code, skipped.images) == ("SKIPPED_FILES", (str(folder / "Latin" / "notes.txt"),))
    assert (loose.code, loose.images) == ("LOOSE_IMAGES", (str(folder / "stray.png"),))
    assert loose.message.startswith("1 image outside any class folder was left out")
    assert dataset_name(f"leaves:{folder}/") == "letters"


def test_leaf_folders_are_labels_like_any_others(tmp_path):
    folder = make_folder(tmp_path / "t", "a/caf\u00e9/1.png", "a/cafe\u0301/2.png", "\u200b/3.png")
    dataset = load_dataset(f"leaves:{folder}")
    assert dataset.counts() == {ascii("\u200b"): 1, "a/caf\u00e9": 2}
    assert [finding.code for finding in dataset.findings] == ["MERGED_LABELS"]


def test_a_folder_with_images_and_folders_of_images_is_a_class_beside_them(tmp_path):
    folder = make_folder(tmp_path, "cat/1.png", "cat/young/1.png")
    assert load_dataset(f"leaves:{folder}").counts() == {"cat": 1, "cat/young": 1}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("{root}/missing", "No such folder.*Check the path"),
        ("missing.zip", "No such folder"),
        ("{root}/missing.csv", "No such file"),
        ("{root}/empty", "No images.*one folder per class"),
        ("{root}/file", "is a file"),
        ("leaves:{root}/missing", "No such folder"),
        ("leaves:{root}/empty", "No images"),
        ("leaves:{root}/flat", "All 2 images.*into such folders"),
        ("leaves:", "nothing after the colon"),
        ("torchvision:", "nothing after the colon"),
    ],
)
def test_what_cannot_be_read_says_what_to_do(tmp_path, spec, message):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    make_folder(tmp_path, "flat/1.png", "flat/2.png")
    with pytest.raises(DatasetError, match=message):
        load_dataset(spec.format(root=tmp_path))


@pytest.mark.parametrize(
    ("spec", "close"),
    [("friuts", "'fruits'"), ("torchvison:MNIST", "'torchvision:NAME'"), ("leafs:x", "leaves:FOLDER")],
)
def test_unknown_names_list_the_closest(spec, close):
    for load in (load_dataset, load_splits):
        with pytest.raises(UnknownNameError, match=r"Unknown data set.*folder") as caught:
            load(spec)
        assert close in str(caught.value)


def test_what_has_no_splits_is_told_so(tmp_path):
    folder = make_folder(tmp_path / "photos", "cat/1.png", "dog/1.png")
    for spec in (folder, f"leaves:{folder}", load_dataset(folder)):
        with pytest.raises(DatasetError, match="has no fixed splits"):
            load_splits(spec)


# --- fruits


def test_the_fruits_are_joined_and_each_picture_is_there_once(fruits):
    whole = load_dataset("fruits")
    assert (
        len(set(whole.sources)) == len(whole) == len({source for split in fruits.values() for source in split.sources})
    )
    assert whole.class_names == fruits["train"].class_names
    label_of = {
        source: label for split in fruits.values() for source, label in zip(split.sources, split.labels, strict=True)
    }
    assert all(label_of[source] == label for source, label in zip(whole.sources, whole.labels, strict=True))
    assert len(set(whole.names)) == len(whole)
    assert dataset_name("fruits") == "fruits"
    assert load_splits("fruits").keys() == {"train", "val", "test"}


def test_pictures_that_two_splits_share_are_there_once(monkeypatch):
    first = ImageDataset.from_paths([b"1", b"2"], ["a", "b"])
    second = ImageDataset.from_paths([b"2", b"3"], ["b", "b"])
    named = [replace(one, image_names=names) for one, names in ((first, ("x", "y")), (second, ("z", "w")))]
    monkeypatch.setattr("fewshot.images.sources._fruits", lambda: {"train": named[0], "test": named[1]})
    whole = load_dataset("fruits")
    assert whole.sources == (b"1", b"2", b"3")
    assert whole.names == ("x", "y", "w")


def test_without_the_demo_extra_its_command_is_given(monkeypatch):
    def fail():
        raise MissingExtraError("pip install 'fewshot[demo]'")

    monkeypatch.setattr("fewshot.images.fruits.load_fruits", fail)
    with pytest.raises(MissingExtraError, match="demo"):
        load_dataset("fruits")


# --- torchvision


def test_a_data_set_of_torchvision_is_listed_without_being_read(register):
    spec = register(Pictures)
    Pictures.reads = 0
    whole, splits = load_dataset(spec), load_splits(spec)
    assert Pictures.reads == 0
    assert {key: len(split) for key, split in splits.items()} == {"train": 4, "val": 2, "test": 3}
    assert splits["train"].labels == ("ant", "bee", "cow", "ant")
    assert splits["val"].names == ("Pictures/val/0", "Pictures/val/1")
    joined = [pair for split in splits.values() for pair in labels_and_pixels(split)]
    assert labels_and_pixels(whole) == joined
    np.testing.assert_array_equal(read_image(splits["test"].sources[1]), pixels(41))
    assert dataset_name(spec) == "Pictures"


def test_it_is_downloaded_where_it_is_not_there_and_not_again(register, tmp_path):
    calls = []

    class Counted(Pictures):
        def __init__(self, root, split="train", transform=None, download=False):
            calls.append(download)
            super().__init__(root, split, transform, download)

    spec = register(Counted)
    load_dataset(spec)
    assert (tmp_path / "data" / "pictures").exists()
    assert calls.count(True) == 1
    calls.clear()
    load_dataset(spec)
    assert not any(calls)


def test_a_train_parameter_gives_two_splits(register):
    class Binary(Pictures):
        def __init__(self, root, train=True, download=False):
            super().__init__(root, "train" if train else "test", None, download)
            self.targets = torch.tensor(self._labels)

    splits = load_splits(register(Binary))
    assert {key: len(split) for key, split in splits.items()} == {"train": 4, "test": 3}


def test_where_no_split_is_called_train_trainval_is_it(register):
    class Trainval(Pictures):
        sizes = {"trainval": 4, "test": 3}  # noqa: RUF012

    assert {key: len(split) for key, split in load_splits(register(Trainval)).items()} == {"train": 4, "test": 3}


def test_fake_data_is_listed_by_reading_its_labels_once(register):
    class Small(torchvision.datasets.FakeData):
        def __init__(self):
            super().__init__(size=12, image_size=(3, 8, 8), num_classes=3)

    spec = register(Small, "FakeData")
    dataset, reference = load_dataset(spec), Small()
    assert dataset.labels == tuple(str(reference[i][1]) for i in range(12))
    np.testing.assert_array_equal(read_image(dataset.sources[5]), np.asarray(reference[5][0]))
    with pytest.raises(DatasetError, match="FakeData has no fixed splits"):
        load_splits(spec)
    assert audit(dataset).dataset.names == tuple(f"FakeData/all/{i}" for i in range(12))


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"classes": ["ant", "bee", "cow"]}, ("ant", "bee", "cow")),
        ({"classes": [("crane", "bird"), ("crane",), ("crane",)]}, ("crane, bird", "crane (1)", "crane (2)")),
        ({"classes": None, "class_to_idx": {"x": 0, "y": 1, "other y": 1, "z": 2}}, ("x", "y", "z")),
        ({"classes": None}, ("0", "1", "2")),
    ],
)
def test_labels_are_named_as_the_data_set_names_them(register, attributes, expected):
    assert load_splits(register(type("Named", (Pictures,), attributes)))["test"].labels == expected


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor, lambda labels: torch.tensor(labels, dtype=torch.uint8)])
@pytest.mark.parametrize("attribute", ["targets", "labels"])
def test_labels_are_taken_from_where_torchvision_keeps_them(register, attribute, kind):
    class Elsewhere(Pictures):
        def __init__(self, root, split="train", download=False):
            super().__init__(root, split, None, download)
            setattr(self, attribute, kind([2 - label for label in self._labels]))

    assert load_splits(register(Elsewhere))["test"].labels == ("cow", "bee", "ant")


@pytest.mark.parametrize("label", [{"box": 1}, [0, 1], 0.5, "cat", None])
def test_a_data_set_without_integer_labels_is_refused_after_one_item(register, label):
    class Boxes(Pictures):
        reads = 0

        def __init__(self, root, split="train", download=False):
            super().__init__(root, split, None, download)
            self.count = len(self._labels)
            self._labels = [label] * 1000

        def __len__(self):
            return self.count

    with pytest.raises(DatasetError, match="integer label"):
        load_dataset(register(Boxes))
    assert Boxes.reads == 1


def test_unknown_data_sets_of_torchvision_list_the_closest(register):
    for spec in ("torchvision:Flowers", "torchvision:flowers102"):
        with pytest.raises(UnknownNameError, match=r"Did you mean.*'Flowers102'"):
            load_dataset(spec)
    # Neither a function nor a module of torchvision.datasets is a data set.
    for spec in ("torchvision:utils", "torchvision:wrap_dataset_for_transforms_v2"):
        with pytest.raises(UnknownNameError):
            load_dataset(spec)


def test_a_download_that_fails_says_where_files_go(register, tmp_path):
    class Offline(Pictures):
        def __init__(self, root, split="train", download=False):
            if download:
                raise OSError("Network is unreachable")
            super().__init__(root, split)

    with pytest.raises(DatasetError, match=r"Network is unreachable.*by hand.*FEWSHOT_DATA") as caught:
        load_dataset(register(Offline))
    assert str(tmp_path / "data") in str(caught.value)


def test_what_torchvision_cannot_download_says_where_files_go(register):
    class ByHand(Pictures):
        def __init__(self, root, split="train"):
            super().__init__(root, split)

    with pytest.raises(DatasetError, match=r"cannot download.*by hand"):
        load_dataset(register(ByHand))


def test_a_data_set_that_needs_more_than_a_name_is_refused():
    with pytest.raises(DatasetError, match=r"also needs annFile.*from_paths"):
        load_dataset("torchvision:CocoDetection")


def test_splits_of_other_names_are_refused_with_the_reason(register):
    class Odd(Pictures):
        sizes = {"letters": 3}  # noqa: RUF012

    with pytest.raises(DatasetError, match=r"no split called train, val or test \(Unknown value 'test'"):
        load_dataset(register(Odd))


def test_downloads_are_kept_where_the_variable_says(monkeypatch, tmp_path):
    monkeypatch.setenv("FEWSHOT_DATA", str(tmp_path))
    assert data_folder() == tmp_path
    monkeypatch.delenv("FEWSHOT_DATA")
    assert data_folder().name == "data"
    assert "fewshot" in data_folder().parts


# --- images read late


class Items(list):
    """A map-style data set."""


def test_an_indexed_image_is_read_as_what_it_gives(tmp_path):
    path = tmp_path / "1.png"
    Image.fromarray(pixels(3)).save(path)
    for item in (Image.fromarray(pixels(3)), pixels(3), path.read_bytes(), path, str(path)):
        source = IndexedImage(Items([(item, 0)]), 0, "set/0")
        np.testing.assert_array_equal(read_image(source), pixels(3))
        payload = read_payload(source)
        assert payload.name == source_name(source) == "set/0"
        assert payload.digest == read_payload(item).digest
        again = pickle.loads(pickle.dumps(source))
        np.testing.assert_array_equal(read_image(again), pixels(3))


@pytest.mark.parametrize(
    ("item", "code"),
    [
        (None, "BAD_ARRAY"),
        (torch.zeros(3, 4, 4), "BAD_ARRAY"),
        (np.zeros((2, 2, 3)), "BAD_ARRAY"),
        (b"", "EMPTY"),
        (b"<html>", "NOT_AN_IMAGE"),
        ("/no/such/file.png", "VANISHED"),
        (IndexedImage(Items([(pixels(), 0)]), 0, "inner"), "BAD_ARRAY"),
    ],
)
def test_what_is_no_image_is_an_image_error_that_names_the_source(item, code):
    with pytest.raises(ImageError) as caught:
        read_image(IndexedImage(Items([(item, 0)]), 0, "set/7"))
    assert (caught.value.code, caught.value.source) == (code, "set/7")


@pytest.mark.parametrize(("error", "code"), [(KeyError("x"), "CORRUPT"), (FileNotFoundError("x"), "VANISHED")])
def test_whatever_a_data_set_raises_is_an_image_error(error, code):
    class Broken:
        name = "broken"

        def load(self):
            raise error

    with pytest.raises(ImageError) as caught:
        read_image(Broken())
    assert (caught.value.code, caught.value.source) == (code, "broken")


def test_a_source_without_a_name_is_named_by_its_kind():
    class Nameless:
        def load(self):
            return pixels()

    assert source_name(Nameless()) == "<Nameless>"
    np.testing.assert_array_equal(read_image(Nameless()), pixels())
