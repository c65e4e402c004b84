"""benchmark: real photos, end to end; the same results on every engine and after every interruption."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

import fewshot
from fewshot import Strategy
from fewshot.engines import make_engine
from fewshot.errors import DatasetError, InvalidInputError, JournalError, MissingExtraError, UnknownNameError
from fewshot.heads.linear_probe import LinearProbe
from fewshot.heads.prototypical import PrototypicalHead
from fewshot.identity import as_text
from fewshot.journal import canonical, read_journal
from fewshot.planning import list_datasets, resolve_strategies
from fewshot.report.benchmark import BenchmarkReport
from fewshot.results import load_run

SMALL = {"n_way": 2, "k_shots": (1, 2), "n_query": 2, "n_episodes": 70}


@pytest.fixture(scope="module")
def photos(two_fruits):
    """Ten photos of each of two fruits, as one data set."""
    train, test = two_fruits
    return fewshot.ImageDataset(
        (*train.sources, *test.sources), (*train.labels, *test.labels), image_names=(*train.names, *test.names)
    )


def text(folder):
    return canonical(read_journal(folder / "journal.jsonl")[1])


def test_real_photos_end_to_end(photos, tmp_path):
    events = []
    report = fewshot.benchmark({"two fruits": photos}, **SMALL, out=tmp_path, on_event=events.append)
    assert [info.name for info in report.strategies] == ["prototypical", "linear-probe", "ridge", "gda", "knn"]
    assert report.shots == ("1", "2")
    assert len(report.summary()) == 10
    assert all(row.n_episodes == 70 for row in report.summary())
    assert report.accuracy("two fruits", "linear-probe", 1).value > 0.8
    assert report.compare("linear-probe", "prototypical").n == 70
    assert report.reference == "linear-probe"
    assert (events[-1].subject, events[-1].done, events[-1].total) == ("episodes", 700, 700)
    assert report.examples[0].support_pictures
    assert "two fruits" in report.to_html()
    assert "two fruits" in report.to_markdown()
    again = BenchmarkReport.from_dict(json.loads(report.to_json()))
    assert again.to_dict() == report.to_dict()


def test_the_figures_are_those_of_the_classifier_a_user_would_fit(photos):
    report = fewshot.benchmark({"two fruits": photos}, **SMALL | {"n_episodes": 3}, strategies=["ridge"])
    for index, found in enumerate(report.find("two fruits", "ridge", 2).accuracy):
        episode = fewshot.sample_episode(photos.labels, n_way=2, k_shot=2, n_query=2, index=index)
        support, query = photos.subset(episode.support), photos.subset(episode.query)
        classifier = fewshot.FewShotClassifier(head="ridge", augmentation=None).fit(support)
        assert found == pytest.approx(classifier.score(query.sources, np.array(query.labels)))


def test_the_journal_alone_gives_the_same_report(photos, fruit_folder, tmp_path):
    report = fewshot.benchmark(fruit_folder, **SMALL, out=tmp_path / "run")
    assert load_run(tmp_path / "run") == report
    assert load_run(tmp_path / "run").examples[0].support_pictures


def test_a_run_that_is_not_complete_is_reported_as_far_as_it_came(fruit_folder, tmp_path):
    fewshot.benchmark(fruit_folder, **SMALL, out=tmp_path / "run")
    path = tmp_path / "run" / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]))
    report = load_run(tmp_path / "run")
    assert report.notes[0] == "The run is not complete: 7 of 10 cells are missing."
    assert len(report.series) == 3
    assert "not complete" in report.to_html()
    path.write_bytes(lines[0])
    with pytest.raises(JournalError, match="Not one cell"):
        load_run(tmp_path / "run")


@pytest.mark.parametrize("engine", ["local", "joblib"])
def test_an_interrupted_run_goes_on_to_the_same_results_on_any_engine(photos, tmp_path, engine):
    arguments = SMALL | {"strategies": ["prototypical", "tim", "simple-cnn"], "trained_episodes": 2}
    whole = fewshot.benchmark({"two fruits": photos}, **arguments, out=tmp_path / "whole")
    path = tmp_path / "part" / "journal.jsonl"
    path.parent.mkdir()
    lines = (tmp_path / "whole" / "journal.jsonl").read_bytes().splitlines(keepends=True)
    # As a crash would leave it: some cells in another order, and half a line.
    path.write_bytes(lines[0] + lines[5] + lines[2] + lines[6][:50])
    report = fewshot.benchmark(
        {"two fruits": photos}, **arguments, out=tmp_path / "part", resume=True, engine=engine, n_jobs=2
    )
    assert text(tmp_path / "part") == text(tmp_path / "whole")
    assert [row.accuracy for row in report.summary()] == [row.accuracy for row in whole.summary()]


def test_ray_gives_the_same_results(photos, tmp_path):
    pytest.importorskip("ray")
    arguments = SMALL | {"strategies": ["prototypical", "linear-probe"]}
    fewshot.benchmark({"two fruits": photos}, **arguments, out=tmp_path / "local")
    fewshot.benchmark({"two fruits": photos}, **arguments, out=tmp_path / "ray", engine="ray", n_jobs=2)
    assert text(tmp_path / "ray") == text(tmp_path / "local")


def test_workers_that_live_on_do_not_answer_for_another_run(photos):
    one = SMALL | {"n_episodes": 20, "engine": "joblib", "n_jobs": 1, "strategies": ["ridge"]}
    for change in ({"seed": 0}, {"seed": 1}, {"seed": 1, "strategies": ["knn"]}):
        found = fewshot.benchmark({"two fruits": photos}, **one | change)
        expected = fewshot.benchmark({"two fruits": photos}, **one | change | {"engine": "local"})
        assert [s.log_loss for s in found.series] == [s.log_loss for s in expected.series]


def test_joblib_takes_classifiers_that_no_module_holds(photos):
    class Mine(KNeighborsClassifier):
        pass

    strategies = [
        Strategy("mine", Mine(1)),
        Strategy("weighed", KNeighborsClassifier(2, weights=lambda d: 1 / (d + 1))),
    ]
    one = SMALL | {"n_episodes": 3, "strategies": strategies}
    found = fewshot.benchmark({"two fruits": photos}, **one, engine="joblib", n_jobs=2)
    expected = fewshot.benchmark({"two fruits": photos}, **one)
    assert [s.accuracy for s in found.series] == [s.accuracy for s in expected.series]


def test_parameters_are_told_apart_by_what_they_are():
    def weigh(power):
        return lambda d: 1 / (d**power + 1)

    assert as_text(weigh(1)) == as_text(weigh(1)) != as_text(weigh(2))
    assert as_text({"w": np.arange(3000)}) != as_text({"w": np.arange(3000)[::-1]})
    assert " at 0x" not in as_text([object(), lambda x: (lambda y: y + 1)(x)])

    class Weight:
        def __init__(self, power):
            self.power = power

    assert as_text(Weight(1)) == as_text(Weight(1)) != as_text(Weight(2))


def test_two_data_sets_of_the_same_images_are_two_data_sets(photos):
    report = fewshot.benchmark({"a": photos, "b": photos}, **SMALL | {"n_episodes": 3}, strategies="ridge")
    assert {series.dataset for series in report.series} == {"a", "b"}


def test_parameters_out_of_range_are_refused_before_anything_is_computed(photos, monkeypatch):
    monkeypatch.setattr("fewshot.representation.plain.extract_with", lambda *_, **__: pytest.fail("extracted"))
    for head in (PrototypicalHead(metric="cosin"), LinearProbe(C=-1)):
        with pytest.raises((InvalidInputError, UnknownNameError)):
            fewshot.benchmark({"two fruits": photos}, **SMALL, strategies=[Strategy("s", head)])


def test_a_joined_backbone_costs_what_its_networks_cost(photos):
    report = fewshot.benchmark(
        {"two fruits": photos},
        **SMALL | {"n_episodes": 2},
        strategies="ridge",
        backbones=["efficientnet_lite0", "efficientnet_lite2", "efficientnet_lite0+efficientnet_lite2"],
        cache=False,
    )
    single = [report.find("two fruits", f"ridge@{name}", 1).extract_seconds for name in ("lite0", "lite2")]
    assert report.find("two fruits", "ridge@lite0+lite2", 1).extract_seconds == pytest.approx(sum(single), abs=1e-5)


def test_a_killed_run_goes_on_to_the_same_results(fruit_folder, tmp_path):
    """SIGKILL while cells are written, then the rest."""
    options = "--ways 2 --shots 1,2,3 --queries 2 --episodes 2000 --strategies default,tim".split()
    command = [sys.executable, "-m", "fewshot", "bench", str(fruit_folder), *options, "--out"]
    environment = os.environ | {"FEWSHOT_RUNTIME": "pytorch"}
    killed = tmp_path / "killed"
    process = subprocess.Popen(
        [*command, str(killed)], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        if (killed / "journal.jsonl").exists() and (killed / "journal.jsonl").stat().st_size > 40_000:
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(read_journal(killed / "journal.jsonl")[1]) < 36
    subprocess.run([*command, str(killed), "--resume"], env=environment, check=True, capture_output=True)
    subprocess.run([*command, str(tmp_path / "whole")], env=environment, check=True, capture_output=True)
    assert text(killed) == text(tmp_path / "whole")


def test_several_backbones_are_told_apart_by_name(photos):
    backbones = ["efficientnet_lite0", "efficientnet_lite0+efficientnet_lite2"]
    report = fewshot.benchmark(
        {"two fruits": photos},
        **SMALL | {"n_episodes": 5},
        strategies=["ridge", "simple-cnn"],
        trained_episodes=1,
        backbones=backbones,
    )
    names = [info.name for info in report.strategies]
    assert names == ["simple-cnn", "ridge@lite0", "ridge@lite0+lite2"]
    assert report.strategies[2].backbone == "efficientnet_lite0+efficientnet_lite2"
    assert any("first 1 of the 5 episodes" in note for note in report.notes)
    assert report.compare("simple-cnn", names[1]).n == 1
    assert report.examples[-1].kind == "slowest"


def test_fixed_splits_learn_from_one_and_ask_about_the_other(fruit_folder):
    report = fewshot.benchmark(
        fruit_folder,
        n_way=None,
        k_shots=2,
        n_query=None,
        n_episodes=6,
        fixed_split=True,
        strategies=["linear-probe", "linear-probe-heavy", KNN],
        augmentation="light",
        n_views=2,
    )
    assert [row.strategy for row in report.summary()] == ["linear-probe", "linear-probe-light", "1-nn"]
    assert "training split" in report.protocol
    train = fewshot.ImageDataset.from_folder(fruit_folder / "train")
    test = fewshot.ImageDataset.from_folder(fruit_folder / "test")
    one_query = round(report.summary()[0].accuracy.value * 6 * len(test), 6)
    assert one_query == round(one_query)
    assert report.datasets[0].n_images == len(train) + len(test)


KNN = Strategy("1-nn", KNeighborsClassifier(1))


def test_ranges_and_imbalance(photos):
    report = fewshot.benchmark(
        {"two fruits": photos}, n_way=2, k_shots=[(1, 4)], n_query=3, imbalance=1.0, n_episodes=8, strategies="ridge"
    )
    assert report.shots == ("1-4",)
    assert "Dirichlet" in report.protocol


def test_what_the_data_cannot_serve_is_refused_before_anything_is_extracted(photos, monkeypatch):
    monkeypatch.setattr("fewshot.representation.plain.extract_with", lambda *_, **__: pytest.fail("extracted"))
    with pytest.raises(DatasetError, match=r"two fruits, 2-way, 9-shot.*Granny-Smith \(10\), Orange \(10\)"):
        fewshot.benchmark({"two fruits": photos}, **SMALL | {"k_shots": (1, 9)})
    with pytest.raises(DatasetError, match="Episodes need 5 classes; the data has 2"):
        fewshot.benchmark({"two fruits": photos}, **SMALL | {"n_way": 5})


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"strategies": ["ridgee"]}, UnknownNameError, "ridge"),
        ({"strategies": ["ridge", "ridge"]}, InvalidInputError, "given twice"),
        ({"backbones": []}, InvalidInputError, "backbones"),
        ({"reference": "gda", "strategies": ["ridge"]}, UnknownNameError, "reference strategy 'gda'"),
        ({"engine": "dask"}, UnknownNameError, "joblib"),
        ({"engine": "joblib", "address": "x:1"}, InvalidInputError, "address"),
        ({"n_jobs": 0}, InvalidInputError, "n_jobs=0"),
        ({"k_shots": None}, InvalidInputError, "k_shots=None"),
        ({"overrides": {"two fruits": {"k_shots": (1, 1)}}}, InvalidInputError, "twice"),
        ({"overrides": {"two fruits": None}}, InvalidInputError, "overrides"),
        ({"strategies": 3}, InvalidInputError, "strategies=3"),
        ({"backbones": 3}, InvalidInputError, "backbone=3"),
        ({"imbalance": "two"}, InvalidInputError, "imbalance='two'"),
        ({"n_episodes": 0}, InvalidInputError, "n_episodes=0"),
        ({"k_shots": ()}, InvalidInputError, "k_shots"),
        ({"k_shots": (1, 1)}, InvalidInputError, "twice"),
        ({"resume": True}, InvalidInputError, "out="),
        ({"overrides": {"three fruits": {}}}, UnknownNameError, "two fruits"),
        ({"overrides": {"two fruits": {"shots": 3}}}, UnknownNameError, "k_shots"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused(photos, change, error, words):
    with pytest.raises(error, match=words):
        fewshot.benchmark({"two fruits": photos}, **SMALL | change)


def test_other_data_or_settings_do_not_continue_a_journal(photos, tmp_path):
    fewshot.benchmark({"two fruits": photos}, **SMALL | {"n_episodes": 3}, out=tmp_path, strategies="ridge")
    with pytest.raises(JournalError, match=r"n_episodes was 3 and is 4"):
        fewshot.benchmark(
            {"two fruits": photos}, **SMALL | {"n_episodes": 4}, out=tmp_path, strategies="ridge", resume=True
        )
    fewer = photos.subset(range(1, len(photos)))
    with pytest.raises(JournalError, match=r"datasets.two fruits.digest was"):
        fewshot.benchmark(
            {"two fruits": fewer}, **SMALL | {"n_episodes": 3}, out=tmp_path, strategies="ridge", resume=True
        )


def test_ray_that_is_not_installed_is_named_with_its_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'fewshot\[ray\]'"):
        make_engine("ray")


def test_data_sets_get_names_of_their_own(photos, tmp_path):
    assert list(list_datasets(["a/pets", "b/pets", "fruits"])) == ["a/pets", "b/pets", "fruits"]
    assert list(list_datasets([photos, photos])) == ["images 1", "images 2"]
    with pytest.raises(InvalidInputError, match="none given"):
        list_datasets([])


def test_default_and_all_stand_for_strategies():
    everything = [strategy.name for strategy in resolve_strategies("all")]
    assert len(set(everything)) == len(everything)
    assert {"tim", "ridge", "simple-cnn", "linear-probe-heavy", "fine-tune"} <= set(everything)
    assert [s.name for s in resolve_strategies(["default", "tim"])][-1] == "tim"
