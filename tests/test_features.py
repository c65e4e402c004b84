"""Features of images and their views, with and without a store."""

import numpy as np
import pytest

from fewshot.augment import load_policy
from fewshot.errors import InvalidInputError
from fewshot.features import extract_views
from fewshot.store import FeatureStore
from fewshot.threads import single_thread


@pytest.fixture(scope="module")
def images(fruits):
    return fruits["train"].sources[:3]


def test_the_first_view_is_the_image_itself(backbone, images):
    views = extract_views(backbone, images, augmentation="light", n_views=2, seed=5)
    assert views.shape == (3, 3, 1280)
    np.testing.assert_array_equal(views[:, 0], backbone.extract(images))
    np.testing.assert_array_equal(extract_views(backbone, images)[:, 0], views[:, 0])


def test_a_view_is_the_policys_view_through_the_network(backbone, images):
    from fewshot import read_image

    views = extract_views(backbone, images, augmentation="heavy", n_views=2, seed=5)
    network, policy = backbone.networks[0], load_policy("heavy")
    pixels = [policy.view(read_image(image), index=2, seed=5, size=network.image_size) for image in images]
    batch = np.stack([*pixels, pixels[-1]])
    with single_thread():
        np.testing.assert_array_equal(views[:, 2], network.forward(batch)[:3])


def test_more_views_keep_the_first_ones(backbone, images):
    few = extract_views(backbone, images, augmentation="heavy", n_views=1)
    many = extract_views(backbone, images, augmentation="heavy", n_views=3)
    np.testing.assert_array_equal(many[:, :2], few)


def test_the_store_changes_nothing_but_the_time(backbone, images, tmp_path, monkeypatch):
    store = FeatureStore(tmp_path / "features.sqlite")
    plain = extract_views(backbone, images, augmentation="light", n_views=2)
    first = extract_views(backbone, images, augmentation="light", n_views=2, store=store)
    assert len(store) == 9
    monkeypatch.setattr(type(backbone), "forward", lambda *_: pytest.fail("computed again"))
    again = extract_views(backbone, images, augmentation="light", n_views=2, store=store)
    np.testing.assert_array_equal(first, plain)
    np.testing.assert_array_equal(again, plain)


@pytest.mark.parametrize("change", [{"seed": 1}, {"augmentation": "heavy"}])
def test_what_changes_a_view_changes_its_key(backbone, images, tmp_path, change):
    store = FeatureStore(tmp_path / "features.sqlite")
    settings = {"augmentation": "light", "n_views": 1, "seed": 0}
    extract_views(backbone, images, store=store, **settings)
    other = extract_views(backbone, images, store=store, **settings | change)
    assert len(store) == 3 + 3 + 3  # the images themselves are shared
    np.testing.assert_array_equal(other, extract_views(backbone, images, **settings | change))


def test_progress_counts_every_picture_once(backbone, images):
    seen = []
    extract_views(
        backbone, images, augmentation="light", n_views=2, progress=lambda done, total: seen.append((done, total))
    )
    assert seen[-1] == (9, 9)
    assert seen == sorted(seen)


@pytest.mark.parametrize("n_views", [0, -1, 1.5, True, "4"])
def test_a_number_of_views_below_one_is_refused(backbone, images, n_views):
    with pytest.raises(InvalidInputError, match="n_views="):
        extract_views(backbone, images, augmentation="light", n_views=n_views)


def test_no_images_give_no_features(backbone):
    assert extract_views(backbone, [], augmentation="light", n_views=2).shape == (0, 3, 1280)


def test_unreadable_images_are_entered_and_the_others_extracted(backbone, images, tmp_path):
    (tmp_path / "not.jpg").write_bytes(b"<html>")
    cut = images[1][: len(images[1]) // 2]
    mixed = [images[0], str(tmp_path / "gone.jpg"), cut, images[1], str(tmp_path / "not.jpg"), cut, images[2]]
    errors = {}
    store = FeatureStore(tmp_path / "features.sqlite")
    views = extract_views(backbone, mixed, augmentation="light", n_views=2, store=store, errors=errors)
    codes = {position: error.code for position, error in sorted(errors.items())}
    assert codes == {1: "VANISHED", 2: "TRUNCATED", 4: "NOT_AN_IMAGE", 5: "TRUNCATED"}
    np.testing.assert_array_equal(views[[0, 3, 6]], extract_views(backbone, images, augmentation="light", n_views=2))
    assert np.isnan(views[[1, 2, 4, 5]]).all()
    assert len(store) == 9


def test_without_errors_the_first_unreadable_image_is_raised(backbone, images):
    from fewshot.errors import ImageError

    with pytest.raises(ImageError, match="TRUNCATED"):
        extract_views(backbone, [images[0], images[1][:500]])


def test_large_files_make_small_blocks(backbone, images, monkeypatch):
    import fewshot.features

    monkeypatch.setattr(fewshot.features, "_BLOCK_BYTES", len(images[0]))
    np.testing.assert_array_equal(extract_views(backbone, images)[:, 0], backbone.extract(images))
