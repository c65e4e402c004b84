"""The audit: what is left out, what stops a run, and what is only noted."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageOps
from scenes import pan, saved, scene

from fewshot.errors import DatasetError, ImageError
from fewshot.images.alike import belonging
from fewshot.images.audit import audit
from fewshot.images.dataset import ImageDataset
from fewshot.images.frames import FrameRun
from fewshot.images.leakage import find_leaks, without_leakage
from fewshot.images.near import NearPair
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


def dataset_of(images, labels):
    return ImageDataset.from_arrays([np.asarray(image) for image in images], list(labels))


def darker(image):
    return image.point(lambda value: value * 0.8)


def codes(audited):
    return [finding.code for finding in audited.findings]


def test_a_mirror_image_of_another_class_hides_no_version_of_a_picture():
    b = scene(1)
    found = audit(dataset_of([b, ImageOps.mirror(b), darker(b), scene(2), scene(3)], "bdbbd"))
    assert found.groups.tolist() == [0, 1, 0, 3, 4]
    assert codes(found) == ["NEAR_DUPLICATE"]


def test_a_mirror_image_of_another_class_hides_no_leak():
    b = scene(1)
    train = audit(dataset_of([darker(b), ImageOps.mirror(b), scene(2)], "bdb"))
    test = audit(dataset_of([b, *(scene(seed) for seed in range(10, 16))], "bdbdbdb"))
    assert [(leak.test, leak.train, leak.exact) for leak in find_leaks(train, test)] == [(0, 0, False)]
    assert len(without_leakage(train, test).dataset) == 6


def test_an_image_of_another_class_hides_no_version_of_a_picture():
    versions = [scene(1), darker(scene(1)), scene(1).resize((120, 90))]
    found = audit(dataset_of([*versions, scene(2), scene(3)], "abaab"))
    assert found.groups.tolist() == [0, 1, 0, 3, 4]
    assert codes(found) == ["NEAR_CONFLICT"]


def test_a_test_image_that_training_has_under_another_label_stays_and_is_told():
    train = audit(dataset_of([scene(1), scene(2), scene(3)], "aab"))
    test = audit(dataset_of([darker(scene(1)), *(scene(seed) for seed in range(10, 16))], "bababab"))
    cleaned = without_leakage(train, test)
    assert cleaned.dataset.labels == test.dataset.labels
    (finding,) = cleaned.findings
    assert (finding.code, finding.severity) == ("NEAR_LEAKAGE", "warning")
    for words in ("stays in the test set", "NEAR_CONFLICT", "'a'", "'b'"):
        assert words in finding.message


def parts(n, seed):
    """Photograph one part with a fixed camera: noise, and a small thing elsewhere on it."""
    rng, base = np.random.default_rng(seed), np.asarray(scene(77, (128, 128)), dtype=float)
    pictures = []
    for _ in range(n):
        picture = np.clip(base + rng.normal(0, 4, base.shape), 0, 255).astype(np.uint8)
        top, left = rng.integers(20, 100, 2)
        picture[top : top + 10, left : left + 10] = (250, 20, 20)
        pictures.append(picture)
    return pictures


def test_data_that_all_look_alike_are_kept_whole_with_one_warning():
    train = audit(dataset_of(parts(12, 1), "ab" * 6))
    assert codes(train) == ["ALL_ALIKE"]
    assert train.groups.tolist() == list(range(12))
    (finding,) = train.findings
    assert finding.severity == "warning"
    assert "flattered" in finding.message
    test = replace(audit(dataset_of(parts(12, 2), "ab" * 6)), findings=())
    cleaned = without_leakage(train, test)
    assert len(cleaned.dataset) == 12
    assert codes(cleaned) == ["ALL_ALIKE"]
    assert "12 of 12" in cleaned.findings[0].message


@pytest.mark.parametrize(("n_versions", "n_kept"), [(2, 8), (3, 10)])
def test_up_to_a_fifth_of_a_test_set_is_taken_out_for_being_alike(n_versions, n_kept):
    train = audit(dataset_of([scene(seed) for seed in range(8)], "abababab"))
    mine = [*(darker(scene(seed)) for seed in range(n_versions)), *(scene(seed) for seed in range(50, 60 - n_versions))]
    test = audit(dataset_of(mine, "ababababab"))
    assert len(without_leakage(train, test).dataset) == n_kept


def test_exact_copies_are_taken_out_however_many_look_alike():
    train = audit(dataset_of(parts(6, 1), "ababab"))
    test = audit(dataset_of([parts(6, 1)[0], *parts(5, 2)], "ababab"))
    assert len(without_leakage(train, test).dataset) == 5


def test_one_logo_in_two_colours_is_no_near_duplicate():
    def logo(colour):
        drawing = Image.new("RGB", (128, 128), "white")
        ImageDraw.Draw(drawing).ellipse((20, 20, 108, 108), outline=colour, width=14)
        ImageDraw.Draw(drawing).polygon([(30, 100), (64, 30), (98, 100)], outline=colour, width=6)
        return drawing

    found = audit(dataset_of([logo("#c81414"), logo("#143cc8"), logo("#0a780a"), scene(1)], "abab"))
    assert found.groups.tolist() == [0, 1, 2, 3]
    assert not found.findings


def test_a_class_that_is_one_video_is_not_made_one_unit():
    frames = [*pan(10), *(scene(seed, (240, 180)) for seed in range(100, 104))]
    names = (*(f"clip_{i:03}.png" for i in range(10)), "a.png", "b.png", "c.png", "d.png")
    dataset = ImageDataset(tuple(saved(image) for image in frames), ("v",) * 10 + ("p",) * 4, image_names=names)
    runs = [FrameRun("v", tuple(range(10)))]
    groups, findings = belonging(dataset, [], runs)
    assert groups.tolist() == list(range(14))
    assert [finding.code for finding in findings] == ["ONE_VIDEO"]
    larger = replace(dataset, labels=("v",) * 11 + ("p",) * 3)
    groups, findings = belonging(larger, [], runs)
    assert groups.tolist() == [0] * 10 + [10, 11, 12, 13]
    assert findings == []


def test_near_duplicates_within_a_video_do_not_make_the_data_all_alike():
    dataset = ImageDataset(tuple(saved(scene(i)) for i in range(14)), ("v",) * 11 + ("p",) * 3)
    pairs = [NearPair(i, i + 1, 0.99, False) for i in range(9)]
    groups, findings = belonging(dataset, pairs, [FrameRun("v", tuple(range(10)))])
    assert groups.tolist() == [0] * 10 + [10, 11, 12, 13]
    assert findings == []
    groups, findings = belonging(dataset, pairs, [])
    assert groups.tolist() == list(range(14))
    assert [finding.code for finding in findings] == ["ALL_ALIKE"]


def test_a_class_of_a_few_versions_of_one_picture_is_one_unit():
    versions = [scene(1), darker(scene(1)), scene(1).resize((120, 90))]
    found = audit(dataset_of([*versions, scene(2), scene(3)], "aaabb"))
    assert found.groups.tolist() == [0, 0, 0, 3, 4]
    assert codes(found) == ["NEAR_DUPLICATE"]


def test_a_single_near_duplicate_in_a_small_test_set_is_taken_out():
    train = audit(dataset_of([scene(1), scene(2), scene(3)], "aab"))
    cleaned = without_leakage(train, audit(dataset_of([darker(scene(1)), scene(10), scene(11)], "aab")))
    assert codes(cleaned) == ["NEAR_LEAKAGE"]
    assert len(cleaned.dataset) == 2


def test_a_test_set_of_nothing_but_look_alikes_is_kept_however_small():
    train = audit(dataset_of([scene(1), scene(2), scene(3)], "aab"))
    cleaned = without_leakage(train, audit(dataset_of([darker(scene(1)), darker(scene(3))], "ab")))
    assert codes(cleaned) == ["ALL_ALIKE"]
    assert len(cleaned.dataset) == 2
