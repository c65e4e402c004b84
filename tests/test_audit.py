"""The audit: what is left out, what stops a run, and what is only noted."""

import io

import numpy as np
import pytest
from PIL import Image

from fewshot.errors import DatasetError, ImageError
from fewshot.images.audit import audit
from fewshot.images.dataset import ImageDataset
from fewshot.images.leakage import without_leakage
from fewshot.images.reader import read_payload


def picture(seed):
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def make_dataset(root, counts, bad=(), start=0):
    """Write pictures for each class; those named in ``bad`` are HTML."""
    seed = start
    for label, count in counts.items():
        (root / label).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            seed += 1
            name = f"{label}/{number:03}.png"
            (root / name).write_bytes(b"<html>" if name in bad else picture(seed))
    return ImageDataset.from_folder(root)


def test_a_good_dataset_is_kept_whole(tmp_path):
    dataset = make_dataset(tmp_path, {"cat": 3, "dog": 2})
    audited = audit(dataset)
    assert audited.dataset.sources == dataset.sources
    assert audited.digests == tuple(read_payload(source).digest for source in dataset.sources)
    assert audited.skipped == audited.notes == ()


def test_an_unreadable_image_is_left_out_and_named(tmp_path):
    dataset = make_dataset(tmp_path, {"cat": 30, "dog": 30}, bad=["cat/007.png"])
    audited = audit(dataset)
    assert len(audited.dataset) == len(audited.digests) == 59
    assert audited.dataset.sources == tuple(s for s in dataset.sources if not s.endswith("cat/007.png"))
    (error,) = audited.skipped
    assert (error.code, error.source) == ("NOT_AN_IMAGE", str(tmp_path / "cat/007.png"))
    assert any("cat/007.png" in note and "NOT_AN_IMAGE" in note for note in audited.notes)


@pytest.mark.parametrize(("total", "bad", "stops"), [(40, 2, False), (40, 3, True), (20, 1, False), (19, 1, True)])
def test_more_than_one_in_twenty_unreadable_images_stop_the_run(tmp_path, total, bad, stops):
    names = [f"cat/{i:03}.png" for i in range(bad)]
    dataset = make_dataset(tmp_path, {"cat": total - 5, "dog": 5}, bad=names)
    if not stops:
        assert len(audit(dataset).skipped) == bad
        return
    with pytest.raises(DatasetError, match=f"{bad} of {total}") as caught:
        audit(dataset)
    assert names[0] in str(caught.value)
    assert "5%" in str(caught.value)


def test_a_class_without_a_readable_image_stops_the_run(tmp_path):
    dataset = make_dataset(tmp_path, {"cat": 60, "dog": 1}, bad=["dog/000.png"])
    with pytest.raises(DatasetError, match=r"'dog'.*NOT_AN_IMAGE") as caught:
        audit(dataset)
    assert "'cat'" not in str(caught.value)


def test_strict_raises_the_first_unreadable_image(tmp_path):
    dataset = make_dataset(tmp_path, {"cat": 30, "dog": 30}, bad=["cat/007.png", "dog/001.png"])
    with pytest.raises(ImageError, match=r"cat/007\.png"):
        audit(dataset, strict=True)


def test_strict_keeps_a_good_dataset(tmp_path):
    dataset = make_dataset(tmp_path, {"cat": 2, "dog": 2})
    assert audit(dataset, strict=True).dataset.sources == dataset.sources


def test_files_that_change_or_vanish_are_left_out(tmp_path):
    dataset = make_dataset(tmp_path, {"cat": 30, "dog": 30})
    (tmp_path / "cat/000.png").unlink()
    (tmp_path / "dog/000.png").write_bytes(b"")
    assert [error.code for error in audit(dataset).skipped] == ["VANISHED", "EMPTY"]


def test_a_truncated_pil_image_is_left_out():
    broken = Image.open(io.BytesIO(picture(0)[:-30]))
    good = [picture(i) for i in range(1, 30)]
    audited = audit(ImageDataset.from_paths([broken, *good], ["cat"] * 15 + ["dog"] * 15))
    assert [error.code for error in audited.skipped] == ["TRUNCATED"]


def test_a_repeated_picture_is_noted_and_counts_once(tmp_path):
    dataset = make_dataset(tmp_path, {"cat": 3, "dog": 3})
    (tmp_path / "cat/copy.png").write_bytes((tmp_path / "cat/001.png").read_bytes())
    audited = audit(ImageDataset.from_folder(tmp_path))
    assert audited.dataset.sources == dataset.sources
    assert len(set(audited.digests)) == len(audited.digests) == len(dataset)
    (note,) = audited.notes
    assert "cat/001.png" in note
    assert "cat/copy.png" in note
    assert "2 times" in note


def test_one_picture_under_two_labels_stops_the_run_and_names_both(tmp_path):
    make_dataset(tmp_path, {"cat": 3, "dog": 3})
    (tmp_path / "dog/copy.png").write_bytes((tmp_path / "cat/001.png").read_bytes())
    with pytest.raises(DatasetError, match="LABEL_CONFLICT") as caught:
        audit(ImageDataset.from_folder(tmp_path))
    for text in ("'cat'", "'dog'", "cat/001.png", "dog/copy.png"):
        assert text in str(caught.value)


def test_a_class_linked_into_another_is_a_conflict(tmp_path):
    make_dataset(tmp_path, {"cat": 2, "dog": 2})
    (tmp_path / "cat/link").symlink_to(tmp_path / "dog")
    with pytest.raises(DatasetError, match="LABEL_CONFLICT"):
        audit(ImageDataset.from_folder(tmp_path))


def test_arrays_are_compared_by_their_pixels():
    image = np.zeros((4, 4, 3), np.uint8)
    with pytest.raises(DatasetError, match="LABEL_CONFLICT"):
        audit(ImageDataset.from_arrays([image, image.copy()], ["a", "b"]))
    assert len(audit(ImageDataset.from_arrays([image, image.reshape(2, 8, 3)], ["a", "b"])).dataset) == 2


def test_notes_of_the_dataset_come_first(tmp_path):
    make_dataset(tmp_path, {"cat": 30, "dog": 30}, bad=["cat/000.png"])
    (tmp_path / "empty").mkdir()
    notes = audit(ImageDataset.from_folder(tmp_path)).notes
    assert len(notes) == 2
    assert "empty" in notes[0]
    assert "cat/000.png" in notes[1]


def test_image_names_are_used_where_sources_have_none():
    dataset = ImageDataset((picture(1), picture(1), picture(2)), ("a", "a", "b"), image_names=("one", "two", "three"))
    (note,) = audit(dataset).notes
    assert "one, two" in note


def test_test_images_that_were_trained_on_are_taken_out(tmp_path):
    train = make_dataset(tmp_path / "train", {"cat": 3, "dog": 3})
    make_dataset(tmp_path / "test", {"cat": 3, "dog": 3}, start=100)
    leaked = tmp_path / "test/cat/renamed.png"
    leaked.write_bytes((tmp_path / "train/cat/001.png").read_bytes())
    test = audit(ImageDataset.from_folder(tmp_path / "test"))
    cleaned = without_leakage(audit(train), test)
    assert str(leaked) in test.dataset.sources
    assert cleaned.dataset.sources == tuple(s for s in test.dataset.sources if s != str(leaked))
    assert cleaned.digests == tuple(read_payload(source).digest for source in cleaned.dataset.sources)
    (finding,) = cleaned.findings
    assert finding.code == "LEAKAGE"
    note = finding.message
    assert str(leaked) in note
    assert "train/cat/001.png" in note
    assert "Leakage" in note


def test_without_leakage_nothing_changes(tmp_path):
    train = audit(make_dataset(tmp_path / "train", {"cat": 2, "dog": 2}))
    test = audit(make_dataset(tmp_path / "test", {"cat": 2, "dog": 2}, start=100))
    assert without_leakage(train, test) == test


def test_a_test_set_that_is_the_training_set_is_refused(tmp_path):
    train = audit(make_dataset(tmp_path / "train", {"cat": 2, "dog": 2}))
    with pytest.raises(DatasetError, match="Every test image"):
        without_leakage(train, train)
