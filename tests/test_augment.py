"""Every registered policy: a view depends on image, index and seed alone."""

import os
import random
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import albumentations as A
import numpy as np
import pytest

from fewshot.augment import POLICIES, list_augmentations, load_policy, view_seed
from fewshot.errors import InvalidInputError, UnknownNameError

SIZE = 48
WITH_VIEWS = [name for name in POLICIES if load_policy(name).has_views]


def picture(seed=0, height=80, width=110):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def view(policy, image=None, index=1, seed=0, size=SIZE):
    policy = policy if hasattr(policy, "view") else load_policy(policy)
    return policy.view(picture() if image is None else image, index=index, seed=seed, size=size)


class Fill(A.ImageOnlyTransform):
    """Paint everything in a random grey below ``limit``."""

    def __init__(self, limit=100, p=1.0):
        super().__init__(p=p)
        self.limit = limit

    def get_params(self):
        return {"grey": self.py_random.randrange(self.limit)}

    def apply(self, img, grey, **_):
        return np.full_like(img, grey)


def test_the_policies_are_listed():
    assert list_augmentations() == sorted(POLICIES)
    assert {"none", "light", "heavy"} <= set(POLICIES)
    assert sorted(WITH_VIEWS) == sorted(set(POLICIES) - {"none"})


@pytest.mark.parametrize("name", WITH_VIEWS)
def test_a_view_is_uint8_and_square_and_leaves_the_image_alone(name):
    for height, width in ((80, 110), (SIZE, SIZE), (1, 1), (1, 300), (300, 7)):
        image = picture(height=height, width=width)
        before = image.copy()
        for size in (SIZE, 97):
            result = view(name, image, size=size)
            assert result.shape == (size, size, 3)
            assert result.dtype == np.uint8
            assert result.flags.writeable
        np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", WITH_VIEWS)
def test_the_same_view_is_the_same_pixels(name):
    first = view(name, index=3, seed=7)
    np.random.seed(99)  # noqa: NPY002 - global state must not matter
    random.seed(99)
    view(name, picture(5), index=9)
    np.testing.assert_array_equal(view(name, picture().copy(), index=3, seed=7), first)


@pytest.mark.parametrize("name", WITH_VIEWS)
def test_another_index_seed_or_image_gives_another_view(name):
    reference = view(name)
    assert not np.array_equal(view(name, index=2), reference)
    assert not np.array_equal(view(name, seed=1), reference)
    assert not np.array_equal(view(name, picture(1)), reference)
    assert len({view(name, index=i).tobytes() for i in range(20)}) == 20


def test_images_views_and_seeds_do_not_share_their_random_numbers():
    images = [picture(i) for i in range(8)] + [picture(0, 110, 80), picture(0)[:, ::-1]]
    seeds = [view_seed(image, index=i, seed=s) for image in images for i in range(12) for s in range(12)]
    # index 1 with seed 12 is not index 11 with seed 2 either
    seeds += [view_seed(images[0], index=1, seed=12), view_seed(images[0], index=11, seed=22)]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**32 for seed in seeds)


@pytest.mark.parametrize("seed", [0, -1, 2**40])
def test_any_whole_number_is_a_seed(seed):
    np.testing.assert_array_equal(view("heavy", seed=seed), view("heavy", seed=seed))


@pytest.mark.parametrize("name", WITH_VIEWS)
def test_the_order_of_rendering_does_not_matter(name):
    jobs = [(i, index, seed) for i in range(2) for index in range(4) for seed in (0, 5)]
    images = [picture(i) for i in range(2)]
    forward = {job: view(name, images[job[0]], job[1], job[2]) for job in jobs}
    shuffled = random.Random(1).sample(jobs, len(jobs))
    backward = {job: view(name, images[job[0]], job[1], job[2]) for job in shuffled}
    for job in jobs:
        np.testing.assert_array_equal(forward[job], backward[job])


@pytest.mark.parametrize("name", WITH_VIEWS)
def test_threads_render_what_one_thread_renders(name):
    policy = load_policy(name)
    jobs = [(picture(i), index) for i in range(4) for index in range(1, 9)]
    serial = [view(policy, image, index) for image, index in jobs]
    with ThreadPoolExecutor(4) as pool:
        parallel = list(pool.map(lambda job: view(policy, *job), jobs))
    for one, other in zip(serial, parallel, strict=True):
        np.testing.assert_array_equal(one, other)


def test_threads_share_no_random_numbers_of_a_users_pipeline():
    class Slow(A.ImageOnlyTransform):
        def get_params(self):
            time.sleep(0.002)  # long enough for other threads to seed theirs
            return {"grey": self.py_random.randrange(256)}

        def apply(self, img, grey, **_):
            return np.full_like(img, grey)

    policy = load_policy(A.Compose([Slow(p=1.0)]))
    serial = [view(policy, index=index)[0, 0, 0] for index in range(24)]
    with ThreadPoolExecutor(4) as pool:
        parallel = list(pool.map(lambda index: view(policy, index=index)[0, 0, 0], range(24)))
    assert parallel == serial


@pytest.mark.parametrize("name", WITH_VIEWS)
def test_a_policy_loaded_twice_has_the_same_text_and_views(name):
    one, two = load_policy(name), load_policy(name)
    assert one.spec == two.spec
    assert A.__version__ in one.spec
    np.testing.assert_array_equal(view(one), view(two))


def test_every_policy_has_its_own_text():
    assert len({load_policy(name).spec for name in POLICIES}) == len(POLICIES)


def test_light_views_change_exposure_by_no_more_than_they_say():
    # 15 % of contrast and 15 % of the full range of brightness, around a grey of 128; colours stay grey.
    grey = np.full((60, 90, 3), 128, np.uint8)
    values = np.stack([view("light", grey, index) for index in range(60)])
    assert 128 * 0.85 - 255 * 0.15 - 1 <= values.min() < 115
    assert 141 < values.max() <= 128 * 1.15 + 255 * 0.15 + 1
    assert (values == values[:, :1, :1, :1]).all()


def test_light_views_are_cropped_and_mirrored():
    # The red channel holds the column and the green one the row, so a view says what it shows.
    height, width = 100, 120
    rows, columns = np.mgrid[0:height, 0:width]
    image = np.stack([columns * 2, rows * 2, np.zeros_like(rows)], axis=2).astype(np.uint8)
    policy = load_policy("light")
    mirrored, areas = 0, []
    for index in range(60):
        shown = view(policy, image, index).astype(float)
        horizontal = shown[:, -1, 0].mean() - shown[:, 0, 0].mean()
        vertical = shown[-1, :, 1].mean() - shown[0, :, 1].mean()
        assert vertical > 0
        mirrored += horizontal < 0
        areas.append(abs(horizontal) * vertical / (238 * 198))
    assert 15 <= mirrored <= 45
    # A contrast of 0.85..1.15 changes both differences.
    assert 0.5 * 0.85**2 * 0.9 <= min(areas) < 0.7
    assert 0.8 < max(areas) <= 1.15**2


@pytest.mark.parametrize("augmentation", [None, "none"])
def test_no_augmentation_has_no_views(augmentation):
    policy = load_policy(augmentation)
    assert policy.name == "none"
    assert not policy.has_views
    with pytest.raises(InvalidInputError, match="no views"):
        view(policy)


def test_a_loaded_policy_is_taken_as_it_is():
    policy = load_policy("light")
    assert load_policy(policy) is policy


@pytest.mark.parametrize(("typo", "guess"), [("hevy", "heavy"), ("Light", "light"), ("nome", "none")])
def test_a_typo_is_told_the_closest_name(typo, guess):
    with pytest.raises(UnknownNameError, match=f"Did you mean '{guess}'") as caught:
        load_policy(typo)
    assert all(name in str(caught.value) for name in POLICIES)


@pytest.mark.parametrize("odd", [3, lambda image: image, [A.HorizontalFlip()], object()], ids=type)
def test_what_is_neither_name_nor_pipeline_is_refused(odd):
    with pytest.raises(InvalidInputError, match="heavy, light, none"):
        load_policy(odd)


def nested():
    return A.Compose(
        [
            A.SomeOf([A.OneOf([A.Blur(p=1), A.HueSaturationValue(p=1)], p=1), A.Rotate(p=1), A.RandomGamma(p=1)], n=2),
            A.Sequential([A.GaussNoise(p=1)], p=0.5),
        ],
        p=0.9,
    )


@pytest.mark.parametrize("make", [nested, lambda: A.Compose([Fill()]), lambda: A.RandomBrightnessContrast(p=1)])
def test_a_users_pipeline_is_seeded_and_resized(make):
    policy = load_policy(make())
    assert policy.name == "custom"
    result = view(policy, index=4)
    assert result.shape == (SIZE, SIZE, 3)
    assert result.dtype == np.uint8
    assert result.flags.writeable
    view(policy, index=5)
    np.testing.assert_array_equal(view(load_policy(make()), index=4), result)
    assert len({view(policy, index=i).tobytes() for i in range(10)}) > 3


def test_a_users_pipeline_is_never_changed_by_rendering():
    pipeline = A.Compose([Fill(limit=77)])  # like none in another test, whose copy would be used again
    pipeline.set_random_seed(5)
    expected = [pipeline(image=picture())["image"][0, 0, 0] for _ in range(5)]
    pipeline.set_random_seed(5)
    policy = load_policy(pipeline)
    for index in range(3):
        view(policy, index=index)
    assert [pipeline(image=picture())["image"][0, 0, 0] for _ in range(5)] == expected


def test_pixels_that_no_transform_touches_are_the_resized_image():
    from PIL import Image

    result = view(load_policy(A.Compose([A.HorizontalFlip(p=0)])))
    expected = Image.fromarray(picture()).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(result, np.asarray(expected))


def test_pipelines_with_other_arguments_have_another_text_and_other_views():
    first, second = load_policy(A.Compose([Fill(limit=1)])), load_policy(A.Compose([Fill(limit=200)]))
    assert first.spec != second.spec
    assert view(first).max() == 0
    assert {view(second, index=i).max() for i in range(5)} != {0}


def test_long_array_arguments_are_in_the_text():
    class WithTable(A.ImageOnlyTransform):
        def __init__(self, table, p=1.0):
            super().__init__(p=p)
            self.table = table

        def apply(self, img, **_):
            return img

    table = np.zeros(5000)
    other = table.copy()
    other[2500] = 1  # in the part that numpy prints as "..."
    specs = {load_policy(A.Compose([WithTable(t)])).spec for t in (table, other, table.copy())}
    assert len(specs) == 2


def test_code_cannot_be_described_and_is_refused():
    class WithFunction(A.ImageOnlyTransform):
        def __init__(self, function, p=1.0):
            super().__init__(p=p)
            self.function = function

        def apply(self, img, **_):
            return self.function(img)

    def same(img, **_):
        return img

    for transform in (A.Lambda(image=same), A.Lambda(name="same", image=same), WithFunction(same)):
        with pytest.raises(InvalidInputError, match=r"cannot be described.*named class"):
            load_policy(A.Compose([A.HorizontalFlip(), transform]))


def to_float():
    return A.Compose([A.Normalize()])


def to_tensor():
    from albumentations.pytorch import ToTensorV2

    return A.Compose([ToTensorV2()])


@pytest.mark.parametrize("make", [to_float, to_tensor])
def test_a_pipeline_that_makes_no_uint8_picture_is_refused(make):
    with pytest.raises(InvalidInputError, match=r"uint8.*Normalize and ToTensorV2"):
        view(load_policy(make()))


def test_a_users_pipeline_that_fails_says_on_which_image():
    policy = load_policy(A.Compose([A.RandomCrop(500, 500, pad_if_needed=False)]))
    with pytest.raises(InvalidInputError, match="40x30 pixels"):
        policy.view(np.zeros((30, 40, 3), np.uint8), index=1, seed=0, size=224)


def test_an_edited_transform_is_another_policy():
    """Features of the old one must not be found under the new one's key."""

    def transform(method):
        return type("Mine", (A.ImageOnlyTransform,), {"apply": method})

    inverted = transform(lambda self, img, **_: 255 - img)
    kept = transform(lambda self, img, **_: img)
    same = transform(lambda self, img, **_: img)
    default = transform(lambda self, img, factor=2, **_: img)
    other_default = transform(lambda self, img, factor=3, **_: img)
    table = type("Mine", (same,), {"table": [1]})
    other_table = type("Mine", (same,), {"table": [2]})
    kinds = (kept, same, inverted, default, other_default, table, other_table)
    first, second, *others = [load_policy(A.Compose([kind()])).spec for kind in kinds]
    assert first == second
    assert len({first, *others}) == 1 + len(others)


def test_a_custom_transform_has_the_same_spec_in_every_process():
    code = (
        "import albumentations as A; from fewshot.augment import load_policy\n"
        "class Mine(A.ImageOnlyTransform):\n"
        "    def apply(self, img, **params): return img if {'a', 'b', 'c'} & set(params) else 255 - img\n"
        "print(load_policy(A.Compose([A.OneOf([Mine()])])).spec)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "random"}
    outputs = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment).stdout
        for _ in range(3)
    }
    assert len(outputs) == 1
    assert "Mine" in outputs.pop()
