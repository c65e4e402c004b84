"""Representations: five views, a whitening and a gate, and the same answers from vectors and from inner products."""

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.linalg import fractional_matrix_power
from tiny_networks import make_network

from fewshot import (
    FewShotClassifier,
    ImageDataset,
    Strategy,
    benchmark,
    compare,
    list_heads,
    load,
    load_backbone,
    read_image,
    sample_episode,
)
from fewshot.backbones.packaged import restore_classifier
from fewshot.backbones.with_classes import with_classes
from fewshot.episodes import EpisodeSampler, Protocol
from fewshot.errors import ImageError, InvalidInputError, JournalError, ModelFileError, UnknownNameError
from fewshot.evaluation import FeatureTask, logits_of
from fewshot.features import extract_views, extract_with
from fewshot.fitting import answers, fit_on_views
from fewshot.gram import EpisodeSpace
from fewshot.heads import make_head
from fewshot.heads.base import Head, TransductiveHead
from fewshot.known import judge
from fewshot.representation import load_representation, tuned, whitening
from fewshot.representation.base import Parts, Space
from fewshot.representation.tuned import POSTERIOR_SHARE, SURE, UNSURE, shares
from fewshot.representation.whitening import SHRINK, Whitening, read_statistics
from fewshot.store import FeatureStore
from fewshot.views import FixedViews
from tests.made_statistics import make_statistics


@pytest.fixture
def statistics(tmp_path, monkeypatch):
    """Made-up statistics of Lite0 in the place of those that are shipped."""
    folder = tmp_path / "statistics"
    folder.mkdir()
    monkeypatch.setattr(whitening, "STATISTICS", folder)
    return make_statistics(folder)


@pytest.fixture(scope="module")
def images(fruits):
    return fruits["test"].sources[:3]


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


# Views


def test_fixed_views_are_what_they_are_said_to_be(backbone):
    network, views = backbone.networks[0], FixedViews()
    picture = np.random.default_rng(0).integers(0, 255, (120, 200, 3), dtype=np.uint8)
    central = network.preprocess(picture)
    mirror, squashed, both, close = (views.draw(network, picture, index=i, seed=0) for i in range(1, 5))
    np.testing.assert_array_equal(mirror, central[:, ::-1])
    whole = Image.fromarray(picture).resize((network.image_size,) * 2, Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(squashed, np.asarray(whole))
    np.testing.assert_array_equal(both, np.asarray(whole)[:, ::-1])
    np.testing.assert_array_equal(close, network.preprocess(picture[12:108, 20:180]))


@pytest.mark.parametrize("size", [(1, 1), (2, 300), (300, 1)])
def test_fixed_views_of_the_smallest_pictures_have_the_networks_size(backbone, size):
    network = backbone.networks[0]
    picture = np.full((*size, 3), 90, np.uint8)
    for index in range(1, 5):
        assert FixedViews().draw(network, picture, index=index, seed=0).shape == (network.image_size,) * 2 + (3,)


def test_fixed_views_are_stored_apart_from_all_others_and_for_every_seed(backbone, images, tmp_path):
    store = FeatureStore(tmp_path / "features.sqlite")
    extract_views(backbone, images, augmentation="light", n_views=4, store=store)
    fixed = extract_with(backbone, images, FixedViews(), 4, store=store)
    pixels = [FixedViews().draw(backbone.networks[0], read_image(i), index=2, seed=0) for i in images]
    np.testing.assert_allclose(fixed[:, 2], _forward(backbone.networks[0], pixels), rtol=1e-4, atol=1e-4)
    before = len(store)
    assert before == len(images) * (1 + 4 + 4)
    np.testing.assert_array_equal(extract_with(backbone, images, FixedViews(), 4, store=store), fixed)
    assert len(store) == before


def _forward(network, pixels):
    with torch.no_grad():
        return network.model(network.normalise(np.stack(pixels))).numpy()


# The network that gives more


def test_a_network_with_classes_gives_features_and_probabilities_of_one_pass(backbone, images):
    network = with_classes(backbone.networks[0])
    rows = network.extract(images)
    np.testing.assert_allclose(rows[:, :1280], backbone.extract(images), rtol=1e-3, atol=1e-4)
    model = restore_classifier("efficientnet_lite0")
    pixels = np.stack([network.preprocess(read_image(image)) for image in images])
    with torch.no_grad():
        expected = torch.softmax(model(network.normalise(pixels)), dim=1).numpy()
    np.testing.assert_allclose(rows[:, 1280:], expected, atol=1e-5)
    assert network.fingerprint != backbone.networks[0].fingerprint
    assert with_classes(backbone.networks[0]) is network
    with pytest.raises(InvalidInputError, match="is no packaged backbone"):
        with_classes(make_network().networks[0])


# Whitening


def test_whitening_of_full_rank_is_the_root_of_the_shrunk_inverse():
    rng = np.random.default_rng(1)
    factor = rng.normal(size=(12, 40))
    covariance, mean, x = factor @ factor.T / 40, rng.normal(size=12), rng.normal(size=(5, 12))
    shrunk = covariance + SHRINK * np.trace(covariance) / 12 * np.eye(12)
    expected = (x - mean) @ fractional_matrix_power(shrunk, -0.5)
    np.testing.assert_allclose(Whitening.of(mean, covariance, rank=12).apply(x), expected, atol=1e-10)
    np.testing.assert_allclose(Whitening.of(mean, covariance, rank=50).apply(x), expected, atol=1e-10)


def test_whitening_of_low_rank_gives_the_other_directions_one_scale():
    rng = np.random.default_rng(2)
    factor = rng.normal(size=(12, 40))
    values, vectors = np.linalg.eigh(factor @ factor.T / 40)
    values[:9] = values[:9].mean()
    flat = (vectors * values) @ vectors.T
    mean, x = rng.normal(size=12), rng.normal(size=(2, 5, 12))
    expected = (x - mean) @ fractional_matrix_power(flat + SHRINK * values.mean() * np.eye(12), -0.5)
    np.testing.assert_allclose(Whitening.of(mean, factor @ factor.T / 40, rank=3).apply(x), expected, atol=1e-10)


def test_statistics_are_read_as_they_were_written(statistics):
    found = read_statistics(whitening.statistics_path("efficientnet_lite0"))
    mean, covariance = statistics
    np.testing.assert_allclose(found.whitening.mean, mean, rtol=1e-3, atol=1e-4)
    exact = Whitening.of(mean, covariance, rank=40)
    np.testing.assert_allclose(found.whitening.eigenvalues, exact.eigenvalues)
    assert found.whitening.rest == exact.rest
    x = np.random.default_rng(3).normal(size=(4, 1280))
    cosine = (unit(found.whitening.apply(x)) * unit(exact.apply(x))).sum(axis=1)
    assert cosine.min() > 0.99999


# Representations


def test_plain_is_what_extract_views_gives(backbone, images):
    representation = load_representation("plain", backbone)
    parts = representation.parts(images, augmentation="light", n_views=2, seed=3)
    vectors = representation.space(parts).vectors(parts)
    np.testing.assert_array_equal(vectors, extract_views(backbone, images, augmentation="light", n_views=2, seed=3))


@pytest.mark.parametrize("spec", ["efficientnet_lite0", "efficientnet_lite0+efficientnet_lite1"])
def test_averaged_is_the_unit_mean_of_five_views(spec, images):
    backbone = load_backbone(spec)
    representation = load_representation("averaged", backbone)
    parts = representation.parts(images)
    found = representation.space(parts).vectors(parts)[:, 0]
    expected = []
    for network in backbone.networks:
        pixels = [[network.preprocess(read_image(i)) for i in images]]
        pixels += [[FixedViews().draw(network, read_image(i), index=v, seed=0) for i in images] for v in range(1, 5)]
        expected.append(unit(np.mean([_forward(network, view) for view in pixels], axis=0)))
    np.testing.assert_allclose(found, unit(np.concatenate(expected, axis=1)), atol=1e-5)
    assert representation.space(parts).width == found.shape[1]


def _naive_tuned(backbone, images, statistics, w):
    """The (n, n) inner products of the definition, with a full matrix per whitening."""
    network = with_classes(backbone.networks[0])
    rows = extract_with(network, images, FixedViews(), 4).astype(np.float64).mean(axis=1)
    last, posterior = rows[:, :1280], rows[:, 1280:]

    def whitened(values, mean, covariance):
        eigenvalues, vectors = np.linalg.eigh(covariance)
        eigenvalues[:-40] = eigenvalues[:-40].mean()
        scales = 1 / np.sqrt(eigenvalues + 2 * eigenvalues.mean())
        return unit((np.sign(values) * np.abs(values) ** 0.5 - mean) @ (vectors * scales) @ vectors.T)

    parts = [unit(last), posterior**0.5, whitened(last, *statistics)]
    a, p, b = (part @ part.T for part in parts)
    entropy = -(posterior * np.log(posterior)).sum(axis=1)
    familiar = (1 - POSTERIOR_SHARE) * a + POSTERIOR_SHARE * p
    return w * familiar + (1 - w) * b, entropy


def test_tuned_is_what_its_definition_says(backbone, images, statistics):
    representation = load_representation("tuned", backbone)
    parts = representation.parts(images)
    _, entropy = _naive_tuned(backbone, images, statistics, 0.5)
    np.testing.assert_allclose(parts.entropy, entropy, atol=1e-4)
    for w in (0.0, 0.4, 1.0):
        vectors = Space({"familiar": w, "unfamiliar": 1 - w}, representation.widths).vectors(parts)[:, 0]
        expected, _ = _naive_tuned(backbone, images, statistics, w)
        # What is shipped is rounded to float16.
        np.testing.assert_allclose(vectors @ vectors.T, expected, atol=2e-3)
        np.testing.assert_allclose((vectors**2).sum(axis=1), 1, atol=1e-4)


def test_the_gate_is_one_number_for_all_images():
    entropy = np.array([0.0, SURE, (SURE + UNSURE) / 2, UNSURE, 6.9])
    found = shares(entropy)
    np.testing.assert_allclose(found["familiar"], [1, 1, 0.5, 0, 0], atol=1e-12)
    np.testing.assert_allclose(found["familiar"] + found["unfamiliar"], 1)
    arrays = {name: np.ones((2, 1, 3), np.float32) for name in found}
    # One sure image and one that is not: their mean decides.
    assert Parts(arrays, np.array([SURE - 1, UNSURE + 1]), shares).shares()["familiar"] == pytest.approx(0.5)


def test_tuned_joined_networks_have_equal_shares(images, statistics, tmp_path):
    make_statistics(whitening.STATISTICS, "efficientnet_lite1", seed=1)
    joined = load_representation("tuned", load_backbone("efficientnet_lite0+efficientnet_lite1"))
    parts = joined.parts(images)
    alone = [load_representation("tuned", load_backbone(f"efficientnet_lite{i}")).parts(images) for i in (0, 1)]
    for name, array in parts.arrays.items():
        products = [np.einsum("id,jd->ij", one.arrays[name][:, 0], one.arrays[name][:, 0]) for one in alone]
        np.testing.assert_allclose(array[:, 0] @ array[:, 0].T, np.mean(products, axis=0), atol=1e-5)
    np.testing.assert_allclose(parts.entropy, np.mean([one.entropy for one in alone], axis=0))


def test_an_augmented_view_is_represented_by_itself(backbone, images, statistics):
    representation = load_representation("tuned", backbone)
    parts = representation.parts(images, augmentation="light", n_views=2, seed=1)
    assert parts.n_rows == 3
    without = representation.parts(images)
    for name in parts.arrays:
        np.testing.assert_array_equal(parts.arrays[name][:, 0], without.arrays[name][:, 0])
    np.testing.assert_array_equal(parts.entropy, without.entropy)
    drawn = extract_views(with_classes(backbone.networks[0]), images, augmentation="light", n_views=2, seed=1)[
        :, 1:, :1280
    ]
    found = parts.arrays["familiar"][:, 1:, :1280] / np.sqrt(1 - POSTERIOR_SHARE)
    np.testing.assert_allclose(found, unit(drawn), atol=1e-5)


@pytest.mark.parametrize("name", ["averaged", "tuned"])
def test_progress_counts_all_pictures_and_unreadable_ones_are_noted(name, backbone, images, statistics):
    seen, errors = [], {}
    mixed = [images[0], b"no picture", images[1]]
    representation = load_representation(name, backbone)
    parts = representation.parts(
        mixed, augmentation="light", n_views=1, progress=lambda *a: seen.append(a), errors=errors
    )
    assert list(errors) == [1]
    assert np.isnan(parts.first[1]).all()
    good = representation.parts([images[0], images[1]], augmentation="light", n_views=1)
    np.testing.assert_array_equal(parts.first[[0, 2]], good.first)
    assert seen == sorted(seen)
    assert {total for _, total in seen} == {3 * 7}
    with pytest.raises(ImageError):
        representation.parts(mixed)
    assert representation.parts([]).first.shape == (0, next(iter(representation.widths.values())))


def test_names_and_what_they_need(backbone, statistics, tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean 'tuned'"):
        load_representation("tunde", backbone)
    other = load_backbone("efficientnet_lite2")
    with pytest.raises(InvalidInputError, match=r"knows these backbones.*efficientnet_lite0.*'averaged'"):
        load_representation("tuned", other)
    assert load_representation("auto", backbone).name == "tuned"
    assert load_representation("auto", other).name == "averaged"
    assert load_representation("auto", load_backbone("efficientnet_lite0+efficientnet_lite2")).name == "averaged"
    made = load_representation("averaged", other)
    assert load_representation(made, other) is made
    with pytest.raises(InvalidInputError, match=r"by efficientnet_lite2, not by efficientnet_lite0"):
        load_representation(made, backbone)


def test_statistics_of_other_weights_are_refused(backbone, tmp_path, monkeypatch):
    monkeypatch.setattr(whitening, "STATISTICS", tmp_path)
    make_statistics(tmp_path, weights_sha256="0" * 64)
    with pytest.raises(InvalidInputError, match="other weights"):
        load_representation("tuned", backbone)


# Episodes


def made_up_parts(n_classes=8, per_class=20, n_views=0, seed=0):
    """Unit parts around class centres, with entropies on both sides of the gate."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(n_classes), per_class)
    arrays = {}
    for name, width in (("familiar", 90), ("unfamiliar", 70)):
        centres = rng.normal(size=(n_classes, width))
        rows = centres[labels][:, None] + 2.5 * rng.normal(size=(len(labels), 1 + n_views, width))
        arrays[name] = unit(rows).astype(np.float32)
    return Parts(arrays, 3.4 + 1.5 * rng.normal(size=n_classes)[labels], shares), labels


ISOMETRIC = [name for name in list_heads() if isinstance(make_head(name), Head) and make_head(name).isometric]


@pytest.mark.parametrize("n_views", [0, 2])
@pytest.mark.parametrize("k_shot", [1, 3])
@pytest.mark.parametrize("name", ISOMETRIC)
def test_episodes_of_parts_give_the_answers_of_their_vectors(name, k_shot, n_views):
    parts, labels = made_up_parts(n_views=n_views)
    sampler = EpisodeSampler(labels, Protocol(4, k_shot, 6), seed=1)
    batch = next(iter(sampler.batches(range(12))))
    task = FeatureTask(parts, sampler, dtype=torch.float64)
    found = task.evaluate({name: make_head(name)}, range(12))[name]
    for position, episode in enumerate(batch):
        support, query = parts.take(episode.support), parts.take(episode.query)
        space = Space(support.shares(), {key: array.shape[-1] for key, array in parts.arrays.items()})
        head = fit_on_views(make_head(name), space.vectors(support), episode.support_labels, 0)
        proba, predicted = answers(head, space.vectors(query)[:, 0])
        right = proba[np.arange(len(proba)), episode.query_labels]
        assert found.log_loss[position] == pytest.approx(-np.log(right).mean(), abs=1e-4)
        assert found.accuracy[position] == pytest.approx((predicted == episode.query_labels).mean(), abs=1e-6)


@pytest.mark.parametrize("budget", [1 << 30, 0], ids=["all products", "each episode's products"])
@pytest.mark.parametrize("jointly", [False, True])
def test_coordinates_of_parts_keep_lengths_and_inner_products(jointly, budget):
    parts, labels = made_up_parts()
    batch = next(iter(EpisodeSampler(labels, Protocol(5, 3, 7)).batches(range(6))))
    support, query = (torch.from_numpy(np.array(rows)) for rows in (batch.support, batch.query))
    space = EpisodeSpace(parts=parts, dtype=torch.float64, budget=budget)
    s, q = space.coordinates(support, query, jointly=jointly)
    for i in range(len(support)):
        chosen = parts.take(batch.support[i]).shares()
        vectors = Space(chosen, {key: array.shape[-1] for key, array in parts.arrays.items()}).vectors(parts)[:, 0]
        vectors = vectors.astype(np.float64)
        ours, theirs = vectors[batch.support[i]], vectors[batch.query[i]]
        np.testing.assert_allclose(s[i] @ s[i].T, ours @ ours.T, atol=1e-6)
        np.testing.assert_allclose(q[i] @ s[i].T, theirs @ ours.T, atol=1e-6)
        np.testing.assert_allclose(q[i].norm(dim=-1), np.linalg.norm(theirs, axis=1), atol=1e-6)


def test_a_scikit_learn_classifier_gets_the_vectors_of_each_episode():
    from sklearn.neighbors import KNeighborsClassifier

    parts, labels = made_up_parts(n_views=1)
    sampler = EpisodeSampler(labels, Protocol(3, 2, 5), seed=2)
    batch = next(iter(sampler.batches(range(5))))
    found = FeatureTask(parts, sampler).evaluate({"knn": KNeighborsClassifier(1)}, range(5))["knn"]
    for position, episode in enumerate(batch):
        support = parts.take(episode.support)
        space = Space(support.shares(), {key: array.shape[-1] for key, array in parts.arrays.items()})
        head = fit_on_views(KNeighborsClassifier(1), space.vectors(support), episode.support_labels, 0)
        proba, chosen = answers(head, space.vectors(parts.take(episode.query))[:, 0])
        right = logits_of(proba, chosen).argmax(axis=1) == episode.query_labels
        assert found.accuracy[position] == pytest.approx(right.mean())


# The estimator


@pytest.mark.parametrize("name", ["averaged", "tuned", "auto"])
def test_a_classifier_is_saved_with_its_representation(name, two_fruits, statistics, tmp_path):
    train, test = two_fruits
    classifier = FewShotClassifier(head="ridge", augmentation="none", representation=name, cache=False).fit(train)
    expected = "tuned" if name == "auto" else name
    assert classifier.representation_.name == expected
    proba = classifier.predict_proba(test.sources[:4])
    parts = classifier.representation_.parts(test.sources[:4])
    vectors = classifier.space_.vectors(parts)[:, 0]
    np.testing.assert_array_equal(judge(classifier.head_, vectors, classifier.known_.temperature)[0], proba)
    classifier.save(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert loaded.representation == expected
    assert loaded.space_.shares == classifier.space_.shares
    np.testing.assert_array_equal(loaded.predict_proba(test.sources[:4]), proba)
    each = [found.proba for found in loaded.predict_each([*test.sources[:2], b"x", test.sources[2]])]
    assert each[2] is None
    np.testing.assert_allclose([each[0], each[1], each[3]], proba[:3], atol=1e-6)


def test_a_model_of_other_statistics_is_refused(two_fruits, statistics, tmp_path, monkeypatch):
    classifier = FewShotClassifier(augmentation="none", representation="tuned", cache=False).fit(two_fruits[0])
    classifier.save(tmp_path / "model")
    other = tmp_path / "other"
    other.mkdir()
    make_statistics(other, seed=9)
    monkeypatch.setattr(whitening, "STATISTICS", other)
    with pytest.raises(ModelFileError, match="made in another way"):
        load(tmp_path / "model")


def test_heads_that_take_pictures_take_no_representation(two_fruits):
    images, labels = two_fruits[0].sources[:4], ["a", "b", "a", "b"]
    with pytest.raises(InvalidInputError, match="trains on pictures"):
        FewShotClassifier(head="simple-cnn", representation="averaged").fit(images, labels)
    with pytest.raises(UnknownNameError, match="representation"):
        FewShotClassifier(representation="best").fit(images, labels)


def test_the_gate_does_not_depend_on_how_queries_are_asked(statistics, two_fruits):
    train, test = two_fruits
    classifier = FewShotClassifier(augmentation="none", representation="tuned", cache=False).fit(train)
    together = classifier.predict_proba(test.sources[:3])
    alone = np.concatenate([classifier.predict_proba([image]) for image in test.sources[:3]])
    np.testing.assert_allclose(alone, together, atol=1e-6)


def test_transductive_heads_are_among_those_tested():
    assert any(isinstance(make_head(name), TransductiveHead) for name in ISOMETRIC)


def test_augmentation_is_light_for_plain_features_and_none_for_averaged_ones(two_fruits):
    train = two_fruits[0].subset([0, 4])
    for name, rows in (("plain", 2 * 3), ("averaged", 2)):
        classifier = FewShotClassifier(head="knn", n_views=2, representation=name, cache=False).fit(train)
        assert len(classifier.head_.state_["support"]) == rows


# Benchmarks and comparisons

SMALL = {"n_way": 2, "k_shots": 2, "n_query": 2, "n_episodes": 12, "strategies": ["ridge", "linear-probe"]}


def _photos(two_fruits):
    train, test = two_fruits
    names = (*train.names, *test.names)
    return ImageDataset((*train.sources, *test.sources), (*train.labels, *test.labels), image_names=names)


def test_a_benchmarks_figures_are_those_of_the_classifier_a_user_would_fit(two_fruits, statistics):
    photos = _photos(two_fruits)
    report = benchmark({"two fruits": photos}, **SMALL, representation="tuned")
    assert {info.representation for info in report.strategies} == {"tuned"}
    series = report.find("two fruits", "ridge", 2)
    labels = np.array(photos.labels)
    for index in range(3):
        episode = sample_episode(photos.labels, n_way=2, k_shot=2, n_query=2, seed=0, index=index)
        classifier = FewShotClassifier(head="ridge", representation="tuned", random_state=0)
        classifier.fit([photos.sources[i] for i in episode.support], labels[episode.support])
        asked = tuple(photos.sources[i] for i in episode.query)
        proba = classifier.predict_proba(asked)
        # A benchmark reports the head's own probabilities, without a temperature.
        own = classifier.head_.predict_proba(classifier._features(asked))
        truth = np.searchsorted(classifier.classes_, labels[episode.query])
        assert series.accuracy[index] == pytest.approx((proba.argmax(axis=1) == truth).mean(), abs=1e-6)
        assert series.log_loss[index] == pytest.approx(-np.log(own[np.arange(4), truth]).mean(), abs=1e-4)


def test_a_run_is_resumed_with_the_same_representation_only(two_fruits, statistics, tmp_path):
    data = {"two fruits": _photos(two_fruits)}
    first = benchmark(data, **SMALL, representation="tuned", out=tmp_path / "run")
    again = benchmark(data, **SMALL, representation="tuned", out=tmp_path / "run", resume=True)
    assert again.find("two fruits", "ridge", 2).log_loss == first.find("two fruits", "ridge", 2).log_loss
    for other in ("averaged", "plain", None):
        with pytest.raises(JournalError, match="strategies"):
            benchmark(data, **SMALL, representation=other, out=tmp_path / "run", resume=True)
    make_statistics(whitening.STATISTICS, seed=5)
    tuned._read.cache_clear()
    with pytest.raises(JournalError, match="strategies"):
        benchmark(data, **SMALL, representation="tuned", out=tmp_path / "run", resume=True)
    tuned._read.cache_clear()


def test_processes_give_the_figures_of_threads(two_fruits, statistics):
    data = {"two fruits": _photos(two_fruits)}
    local, processes = (
        benchmark(data, **SMALL, representation="tuned", engine=engine, n_jobs=2) for engine in ("local", "joblib")
    )
    for name in SMALL["strategies"]:
        assert processes.find("two fruits", name, 2).log_loss == local.find("two fruits", name, 2).log_loss


def test_fixed_splits_with_augmented_views(fruit_folder, statistics):
    report = benchmark(
        fruit_folder,
        n_way=None,
        k_shots=2,
        n_query=None,
        n_episodes=4,
        fixed_split=True,
        strategies=["linear-probe-heavy", Strategy("averaged", "ridge", representation="averaged")],
        augmentation="light",
        n_views=2,
        representation="tuned",
    )
    assert {info.name: info.representation for info in report.strategies} == {
        "linear-probe-light": "tuned",
        "averaged": "averaged",
    }
    assert min(row.accuracy.value for row in report.summary()) > 0.5


def test_a_comparison_says_what_the_classifier_says(two_fruits, statistics):
    train, test = two_fruits
    report = compare(train, test, strategies=["ridge", "simple-cnn"], representation="auto", n_views=1)
    made = {info.name: info.representation for info in report.strategies}
    assert made == {"ridge": "tuned", "simple-cnn": None}
    classifier = FewShotClassifier(head="ridge", representation="tuned").fit(train)
    found = next(result for result in report.results if result.strategy == "ridge")
    np.testing.assert_allclose(found.proba, classifier.predict_proba(test.sources), atol=1e-6)


def test_a_strategy_that_trains_on_pictures_takes_no_representation(two_fruits):
    strategy = Strategy("cnn", "simple-cnn", representation="averaged")
    with pytest.raises(InvalidInputError, match="trains on pictures"):
        compare(*two_fruits, strategies=[strategy])
    with pytest.raises(UnknownNameError, match="representation"):
        benchmark({"two fruits": two_fruits[0]}, **SMALL, representation="best")
