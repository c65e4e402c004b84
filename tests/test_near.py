"""Near-duplicates and frames of videos: what counts as the same picture, and what only looks like it."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps
from scenes import pan, scene

from fewshot.images.frames import MIN_FRAMES, frame_runs
from fewshot.images.near import SIDE, alike_in_colour, connected, fingerprint, near_pairs, tint


def prints_of(images):
    return np.array([fingerprint(np.asarray(image.convert("RGB"))) for image in images])


def as_jpeg(image, quality):
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")


def labelled(image):
    marked = image.copy()
    ImageDraw.Draw(marked).rectangle((112, 108, 155, 116), fill="white")
    return marked


CHANGES = {
    "JPEG": lambda image: as_jpeg(image, 30),
    "smaller": lambda image: image.resize((40, 30)),
    "larger": lambda image: image.resize((320, 240)),
    "other shape": lambda image: image.resize((160, 160)),
    "cropped in a corner": lambda image: image.crop((0, 0, 147, 110)),
    "cropped in the middle": lambda image: image.crop((6, 5, 154, 115)),
    "darker": lambda image: ImageEnhance.Brightness(image).enhance(0.7),
    "less contrast": lambda image: ImageEnhance.Contrast(image).enhance(0.6),
    "gamma": lambda image: image.point([round(255 * (i / 255) ** 1.5) for i in range(256)] * 3),
    "grey": lambda image: image.convert("L"),
    "blurred": lambda image: image.filter(ImageFilter.GaussianBlur(1.5)),
    "label": labelled,
    "black bars": lambda image: ImageOps.pad(image, (160, 160), color="black"),
    "turned a little": lambda image: image.rotate(2, Image.Resampling.BICUBIC),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found_among_other_pictures(change):
    pictures = [scene(seed) for seed in range(12)]
    copies = [CHANGES[change](picture) for picture in pictures]
    pairs = near_pairs(prints_of([*pictures, *copies]))
    found = {(pair.first, pair.second) for pair in pairs if not pair.mirrored}
    assert len(found & {(i, i + 12) for i in range(12)}) >= 11
    assert found <= {(i, i + 12) for i in range(12)}


def test_between_two_sets_each_copy_finds_its_original_whichever_was_changed():
    pictures = [scene(seed) for seed in range(8)]
    cropped = [picture.crop((0, 0, 147, 110)) for picture in pictures]
    for mine, theirs in ((cropped, pictures), (pictures, cropped)):
        pairs = near_pairs(prints_of(mine), prints_of(theirs))
        assert [(pair.first, pair.second) for pair in pairs] == [(i, i) for i in range(8)]
        assert all(0.98 < pair.similarity <= 1 for pair in pairs)


def test_a_mirror_image_is_found_and_said_to_be_one():
    (pair,) = near_pairs(prints_of([scene(1), ImageOps.mirror(scene(1)), scene(2)]))
    assert (pair.first, pair.second, pair.mirrored) == (0, 1, True)


def test_different_scenes_are_no_pairs():
    assert near_pairs(prints_of([scene(seed) for seed in range(150)])) == []


def test_drawings_on_white_ground_are_no_pairs():
    rng = np.random.default_rng(0)
    drawings = []
    for _ in range(80):
        drawing = Image.new("RGB", (105, 105), "white")
        points = [tuple(point) for point in rng.integers(15, 90, (4, 2)).tolist()]
        ImageDraw.Draw(drawing).line(points, fill="black", width=3)
        drawings.append(drawing)
    assert near_pairs(prints_of(drawings)) == []


def test_simple_things_in_another_place_are_other_pictures():
    def bar(x):
        drawing = Image.new("RGB", (100, 100), "white")
        ImageDraw.Draw(drawing).rectangle((x, 20, x + 6, 80), fill="black")
        return drawing

    assert near_pairs(prints_of([bar(30), bar(60)])) == []
    assert len(near_pairs(prints_of([bar(30), as_jpeg(bar(30), 60)]))) == 1


def test_pictures_that_show_nothing_are_no_pairs():
    plain = [Image.new("RGB", (40, 40), (level, level, level)) for level in (0, 1, 200, 255)]
    assert near_pairs(prints_of(plain)) == []


def test_of_many_copies_enough_pairs_are_given_to_connect_them():
    pictures = [as_jpeg(scene(seed), quality) for seed in (1, 2) for quality in range(30, 90, 5)]
    pairs = near_pairs(prints_of(pictures))
    groups = connected(len(pictures), [(pair.first, pair.second) for pair in pairs])
    assert groups.tolist() == [0] * 12 + [12] * 12
    assert len(pairs) == 22  # a tree of each: all pairs would be quadratic in number


def test_nothing_is_found_among_nothing():
    assert near_pairs(np.empty((0, SIDE, SIDE), np.uint8)) == []
    assert near_pairs(prints_of([scene(1)]), np.empty((0, SIDE, SIDE), np.uint8)) == []


def test_progress_reaches_the_end():
    seen = []
    near_pairs(prints_of([scene(seed) for seed in range(5)]), progress=lambda done, total: seen.append((done, total)))
    assert seen[-1] == (5, 5)


def test_a_pair_that_is_not_allowed_takes_no_other_pairs_place():
    picture, copy = scene(1), as_jpeg(scene(1), 40)
    prints = prints_of([picture, ImageOps.mirror(picture), copy])

    def as_taken(first, seconds, mirrored):
        return np.full(len(seconds), not mirrored)

    (pair,) = near_pairs(prints, allowed=as_taken)
    assert (pair.first, pair.second, pair.mirrored) == (0, 2, False)

    def only_the_last(first, seconds, mirrored):
        return seconds == 2

    (pair,) = near_pairs(prints[:1], prints, allowed=only_the_last)
    assert (pair.first, pair.second) == (0, 2)


def look_alikes(n):
    """Make thumbnails of one base with smooth variation, as X-rays have: none is another's copy."""
    rng = np.random.default_rng(0)

    def smooth(cells):
        small = Image.fromarray(rng.integers(0, 255, (cells, cells), dtype=np.uint8))
        return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=float)

    base = smooth(6)
    return np.array([np.clip(base + 0.3 * (smooth(10) - 128), 0, 255) for _ in range(n)]).astype(np.uint8)


def test_among_look_alikes_few_are_compared_and_that_is_told(monkeypatch):
    from fewshot.images import near

    compared, cut = [], []
    original = near._similarity
    monkeypatch.setattr(near, "_similarity", lambda a, b: compared.append(1) or original(a, b))
    assert near_pairs(look_alikes(60), on_cut=cut.append) == []
    assert 60 < len(compared) <= 6 * 60
    assert cut == [60]


def test_after_many_comparisons_in_vain_the_rest_is_passed_over_but_copies_come_first(monkeypatch):
    from fewshot.images import near

    monkeypatch.setattr(near, "_MAX_MISSES", 64)
    prints, compared, cut = look_alikes(60), [], []
    prints = np.concatenate([prints, prints[:3] // 2 + 40])
    original = near._similarity
    monkeypatch.setattr(near, "_similarity", lambda a, b: compared.append(1) or original(a, b))
    pairs = near_pairs(prints, on_cut=cut.append)
    assert {(pair.first, pair.second) for pair in pairs} == {(0, 60), (1, 61), (2, 62)}
    assert len(compared) <= 128
    assert cut == [57]


def test_different_scenes_cut_no_search():
    cut = []
    near_pairs(prints_of([scene(seed) for seed in range(40)]), on_cut=cut.append)
    assert cut == []


def logo(colour, shift=0):
    drawing = Image.new("RGB", (128, 128), "white")
    draw = ImageDraw.Draw(drawing)
    draw.ellipse((50 + shift, 50, 78 + shift, 78), outline=colour, width=6)
    return drawing


def tints_of(images):
    return np.array([tint(np.asarray(image.convert("RGB"))) for image in images])


def test_one_logo_in_three_colours_is_three_pictures_however_small_it_is():
    red, blue, green = tints_of([logo(colour) for colour in ("#c81414", "#143cc8", "#0a780a")])
    assert not alike_in_colour(red, np.array([blue, green])).any()
    assert not alike_in_colour(blue, np.array([red, green])).any()
    assert alike_in_colour(red, tints_of([logo("#c81414", 5), logo("#c81414").convert("L")])).all()


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_keeps_its_colour(change):
    pictures = [scene(seed) for seed in range(12)]
    copies = tints_of([CHANGES[change](picture) for picture in pictures])
    originals = tints_of(pictures)
    assert all(alike_in_colour(originals[i], copies[i : i + 1])[0] for i in range(12))


def test_thumbnails_are_small_and_grey():
    found = fingerprint(np.asarray(scene(1, (1000, 30))))
    assert found.shape == (SIDE, SIDE)
    assert found.dtype == np.uint8


def test_groups_are_called_by_their_first_member():
    assert connected(6, [(4, 1), (5, 4), (2, 3)]).tolist() == [0, 1, 2, 2, 1, 1]


def videos_and_photos(n_frames=12, n_photos=20):
    frames, photos = pan(n_frames), [scene(seed, (240, 180)) for seed in range(100, 100 + n_photos)]
    names = [f"clip_{i:03}.png" for i in range(1, n_frames + 1)] + [f"DSC_{i:03}.png" for i in range(1, n_photos + 1)]
    return names, prints_of([*frames, *photos])


def test_frames_of_a_video_among_photographs_are_one_run():
    names, prints = videos_and_photos()
    (run,) = frame_runs(names, ["cat"] * len(names), prints)
    assert run.label == "cat"
    assert run.members == tuple(range(12))


def test_numbered_photographs_are_no_video():
    photos = prints_of([scene(seed) for seed in range(40)])
    assert frame_runs([f"IMG_{i:04}.jpg" for i in range(40)], ["a"] * 40, photos) == []


def test_the_order_is_that_of_the_numbers_not_of_the_names():
    frames = prints_of([*pan(12), *(scene(seed) for seed in range(20))])
    names = [f"f{i}.png" for i in range(1, 13)] + [f"other {i}" for i in range(20)]
    order = sorted(range(12), key=lambda i: names[i]) + list(range(12, 32))  # f1, f10, f11, f12, f2 ...
    (run,) = frame_runs([names[i] for i in order], ["a"] * 32, frames[order])
    assert [order[i] for i in run.members] == list(range(12))


def test_names_without_numbers_are_no_series():
    names, prints = videos_and_photos()
    letters = [f"{chr(97 + i % 26)}{chr(97 + i // 26)}.png" for i in range(len(names))]
    assert frame_runs(letters, ["cat"] * len(names), prints) == []


def test_a_cut_ends_a_run():
    frames = prints_of([*pan(8, seed=1), *pan(8, seed=2), *(scene(seed) for seed in range(20))])
    names = [f"f_{i:02}.png" for i in range(16)] + [f"photo {i}" for i in range(20)]
    assert [run.members for run in frame_runs(names, ["a"] * 36, frames)] == [tuple(range(8)), tuple(range(8, 16))]


def test_a_handful_of_shots_is_no_video():
    names, prints = videos_and_photos(n_frames=MIN_FRAMES - 1)
    assert frame_runs(names, ["cat"] * len(names), prints) == []
