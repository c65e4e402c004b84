"""Rows 47 and 50 of the bad inputs: no GPU and little memory; Ctrl-C and SIGTERM."""

import json
import os
import re
import shlex
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from fewshot.backbones import base
from fewshot.backbones.base import Network, run_network
from fewshot.cli import main
from fewshot.errors import FewshotError
from fewshot.features import extract_views
from fewshot.finetune.simple_cnn import SimpleCNN, SimpleCNNHead
from fewshot.finetune.trainer import train
from fewshot.journal import canonical, read_journal
from fewshot.store import FeatureStore
from tests.processes import finish, lines, make_pictures, start, wait_until

QUICK = ("--strategies", "simple-cnn,prototypical", "--repeats", 1)


class SmallMemory(Network):
    """A network that runs out of memory with more than ``most`` pictures; features depend on the batch in last bits."""

    spec, fingerprint, n_features, image_size = "small", "0" * 32, 3, 8

    def __init__(self, most, error, batch_size=8):
        self.most, self.error, self.batch_size = most, error, batch_size
        self.seen = []

    def preprocess(self, image):
        return np.asarray(image)[:8, :8]

    def forward(self, pixels):
        self.seen.append(len(pixels))
        if len(pixels) > self.most:
            raise self.error
        return pixels.mean(axis=(1, 2)).astype(np.float32) + np.float32(1e-3) * len(pixels)


OUT_OF_MEMORY = [
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: you tried to allocate"
    ),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 400 bytes."),
]


def pictures(count):
    return [np.full((8, 8, 3), i, dtype=np.uint8) for i in range(count)]


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=["python", "cuda", "linux", "windows"])
def test_47_the_batch_is_halved_until_it_fits_and_a_warning_says_so(error):
    network = SmallMemory(2, error)
    with pytest.warns(RuntimeWarning, match=r"small goes on with \d pictures at a time") as said:
        features = network.extract(pictures(11))
    assert [word.message.args[0].split("with ")[1][0] for word in said] == ["4", "2"]
    assert network.batch_size == 2
    # All from batches of two, the last one filled up; as if two had been the size from the beginning.
    np.testing.assert_array_equal(features, SmallMemory(2, error, batch_size=2).extract(pictures(11)))


def test_47_what_fits_with_no_picture_at_all_is_an_error_that_says_what_to_do():
    with (
        pytest.warns(RuntimeWarning, match="at a time"),
        pytest.raises(FewshotError, match=r"not even with one picture.*smaller backbone"),
    ):
        SmallMemory(0, MemoryError()).extract(pictures(3))


def test_47_other_errors_are_not_taken_for_a_lack_of_memory():
    network = SmallMemory(0, RuntimeError("shapes do not fit"))
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        run_network(network, [lambda: np.zeros((8, 8, 3), np.uint8)])
    assert network.batch_size == 8


def test_47_features_of_smaller_batches_are_stored_apart_from_the_usual_ones(tmp_path):
    images = pictures(5)
    usual = SmallMemory(8, MemoryError())
    store = FeatureStore(tmp_path / "f.sqlite")
    expected = extract_views(usual, images, store=store)
    small = SmallMemory(2, MemoryError())
    with pytest.warns(RuntimeWarning, match="at a time"):
        found = extract_views(small, [*images, np.full((8, 8, 3), 99, np.uint8)], store=store)
    alone = SmallMemory(2, MemoryError(), batch_size=2).extract([*images, np.full((8, 8, 3), 99, np.uint8)])
    np.testing.assert_array_equal(found[:, 0], alone)
    # The usual ones are as they were, and found again.
    usual.seen.clear()
    np.testing.assert_array_equal(extract_views(usual, images, store=store), expected)
    assert not usual.seen
    small.seen.clear()
    np.testing.assert_array_equal(extract_views(small, images, store=store), found[:5])
    assert not small.seen


@pytest.mark.parametrize(("fits", "passes"), [(4, 1 + 2), (2, 1 + 1 + 4)])
def test_47_after_halving_a_block_is_computed_once(fits, passes, tmp_path, monkeypatch):
    # One batch after the other, so that all is known of what is tried.
    monkeypatch.setattr(base, "workers", lambda _: ThreadPoolExecutor(1))
    monkeypatch.setattr("joblib.cpu_count", lambda: 1)
    network = SmallMemory(fits, MemoryError())
    batches = []
    with pytest.warns(RuntimeWarning, match="at a time"):
        found = extract_views(
            network, pictures(7), store=FeatureStore(tmp_path / "f"), progress=lambda done, _: batches.append(done)
        )
    # Two batches of eight are under way before the first one's failure is seen.
    assert [size for size in network.seen if size <= fits] == [fits] * -(-7 // fits)
    assert len(network.seen) <= passes
    assert batches == sorted(batches)
    assert batches[-1] == 7
    alone = SmallMemory(fits, MemoryError(), batch_size=fits).extract(pictures(7))
    np.testing.assert_array_equal(found[:, 0], alone)


def test_47_training_goes_on_with_parts_of_a_batch_and_comes_to_the_same():
    class Narrow(torch.nn.Linear):
        most = 8

        def forward(self, x):
            if len(x) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    def trained(most):
        torch.manual_seed(0)
        model = Narrow(6, 3).double()
        model.most = most
        rng = np.random.default_rng(0)
        batches = [(torch.tensor(rng.normal(size=(8, 6))), torch.tensor(rng.integers(0, 3, 8))) for _ in range(5)]
        losses = []
        train(model, batches, torch.optim.SGD(model.parameters(), lr=0.1), on_step=lambda _, loss: losses.append(loss))
        return model.weight.detach().numpy(), losses

    weights, losses = trained(8)
    with pytest.warns(RuntimeWarning, match="training goes on with [42] pictures"):
        small, small_losses = trained(3)
    np.testing.assert_allclose(small, weights, rtol=1e-9)
    np.testing.assert_allclose(small_losses, losses, rtol=1e-9)


def test_47_simple_cnn_predicts_with_smaller_batches_too():
    class Narrow(SimpleCNN):
        most = 4

        def forward(self, x):
            if len(x) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    head = SimpleCNNHead()
    head.classes_, head.model_ = np.array(["a", "b", "c"]), Narrow(3, seed=0)
    images = list(np.random.default_rng(0).integers(0, 256, (5, 20, 30, 3), np.uint8))
    expected = head.predict_proba_images(images)
    head.model_.most = 1
    with pytest.warns(RuntimeWarning, match="SimpleCNN goes on with [21] pictures? at a time"):
        np.testing.assert_allclose(head.predict_proba_images(images), expected, rtol=1e-5)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_47_without_a_gpu_the_cpu_is_used_and_the_report_says_so(tmp_path, here):
    code, out, _ = here(
        "compare", make_pictures(tmp_path / "set"), "--strategies", "prototypical", "--out", tmp_path / "o", "--json"
    )
    assert code == 0
    assert json.loads(out)["environment"]["device"].startswith("CPU")
    assert "CPU" in (tmp_path / "o" / "report.html").read_text()


def test_47_the_workers_of_a_batch_stop_when_the_process_is_to_end(monkeypatch):
    calls = []
    stop = threading.Event()

    def check():
        if stop.is_set():
            raise KeyboardInterrupt

    def compute(pixels):
        calls.append(1)
        stop.set()
        return pixels[:, 0, 0]

    monkeypatch.setattr(base.interrupts, "check", check)
    with pytest.raises(KeyboardInterrupt):
        list(base.map_batches([lambda: np.zeros((2, 2, 3), np.uint8)] * 400, 1, compute))
    assert len(calls) < 40


def report_of(folder):
    """What a report says, without times and without names of folders."""
    data = json.loads((folder / "report.json").read_text())

    def bare(value):
        if isinstance(value, dict):
            return {key: bare(item) for key, item in value.items() if not key.endswith("_seconds")}
        return [bare(item) for item in value] if isinstance(value, list) else value

    return bare(data)


def last_command(errors):
    """The command that the last line gives, ready to be run in this process or another."""
    words = shlex.split(errors.strip().splitlines()[-1])
    assert words[:3] == [sys.executable, "-m", "fewshot"]
    return words[3:]


@pytest.fixture
def here(monkeypatch, capsys):
    """Run the command line in this process, which has imported torch: (exit code, standard output, standard error)."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["fewshot", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        return stop.value.code or 0, *capsys.readouterr()

    return call


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_pictures(tmp_path_factory.mktemp("photos") / "a set")


def test_50_compare_keeps_finished_cells_and_the_command_it_prints_goes_on(photos, tmp_path, here):
    out = tmp_path / "the out"
    journal = out / "compare-journal.jsonl"
    process = start("compare", photos, *QUICK, "--out", out)
    # The last line may still be on its way to the disk, and is taken back then: two others are safe.
    wait_until(lambda: lines(journal) >= 4, process)
    process.send_signal(signal.SIGTERM)
    code, printed, errors = finish(process)
    assert (code, printed) == (143, "")
    kept = lines(journal) - 1
    assert f"Stopped by SIGTERM. {kept} finished cells are kept in {out}; the same command goes on:" in errors
    assert "Traceback" not in errors
    # And again, by Ctrl-C now.
    process = start(*last_command(errors))
    wait_until(lambda: lines(journal) >= kept + 2, process)
    os.killpg(process.pid, signal.SIGINT)
    code, _, errors = finish(process)
    assert code == 130
    assert f"Going on with an interrupted run: {kept} of 10 cells are finished." in errors
    code, printed, errors = here(*last_command(errors))
    assert code == 0, errors
    assert "linear" not in printed
    assert sorted(path.name for path in out.iterdir()) == ["report.html", "report.json", "report.md"]
    code, _, errors = here("compare", photos, *QUICK, "--out", tmp_path / "whole")
    assert code == 0, errors
    assert report_of(out) == report_of(tmp_path / "whole")


def test_50_json_is_whole_or_empty_and_cells_of_other_settings_are_not_mixed(photos, tmp_path, here):
    journal = tmp_path / "compare-journal.jsonl"
    process = start("compare", photos, *QUICK, "--out", tmp_path, "--json")
    wait_until(lambda: lines(journal) >= 3, process)
    process.send_signal(signal.SIGINT)
    code, printed, errors = finish(process)
    assert (code, printed) == (130, "")
    assert "the same command goes on" in errors
    with pytest.warns(RuntimeWarning, match="put aside as.*seed was 0 and is 1"):
        code, _, errors = here("compare", photos, "--strategies", "prototypical", "--seed", 1, "--out", tmp_path)
    assert code == 0
    assert "Going on" not in errors
    assert lines(tmp_path / "compare-journal-1.jsonl") >= 2


@pytest.mark.parametrize("engine", ["local", "joblib"])
def test_50_bench_keeps_finished_cells_and_the_command_it_prints_goes_on(engine, photos, tmp_path, here):
    settings = ["bench", photos, "--ways", 2, "--shots", "1,2", "--queries", 2, "--episodes", 3000, "--jobs", 2]
    settings += ["--strategies", "tim,laplacian-shot,bd-cspn", "--engine", engine, "--out"]
    out = tmp_path / "interrupted"
    process = start(*settings, out)
    wait_until(lambda: lines(out / "journal.jsonl") >= 3, process)
    # As a terminal does: the workers get it too, and are silent.
    os.killpg(process.pid, signal.SIGINT)
    code, printed, errors = finish(process)
    assert (code, printed) == (130, "")
    assert "Finished cells are kept in" in errors
    assert "Traceback" not in errors
    command = last_command(errors)
    assert "--resume" in command
    code, _, errors = here(*command)
    assert code == 0, errors
    assert here(*settings, tmp_path / "whole")[0] == 0
    texts = [canonical(read_journal(folder / "journal.jsonl")[1]) for folder in (out, tmp_path / "whole")]
    assert texts[0] == texts[1]


def test_50_fit_leaves_no_half_model(photos, tmp_path, here, monkeypatch):
    monkeypatch.setenv("FEWSHOT_CACHE", str(tmp_path / "cache"))
    process = start("fit", photos, "-o", tmp_path / "model", "--views", 24)
    wait_until(lambda: (tmp_path / "cache").exists(), process)
    process.send_signal(signal.SIGTERM)
    code, _, errors = finish(process)
    assert code == 143
    assert "No model was written. Features that were extracted are kept. Begin again:" in errors
    assert not (tmp_path / "model").exists()
    code, _, errors = here(*last_command(errors))
    assert code == 0, errors
    assert (tmp_path / "model" / "config.json").exists()


def test_50_predict_has_printed_what_it_says_it_has(photos, tmp_path, here):
    assert here("fit", photos, "-o", tmp_path / "model", "--augmentation", "none")[0] == 0
    many = make_pictures(tmp_path / "many", classes=2, per_class=400, side=16, seed=5)
    with open(tmp_path / "rows.csv", "w") as rows:
        process = start("predict", tmp_path / "model", many, "--csv", stdout=rows)
        wait_until(lambda: lines(tmp_path / "rows.csv") > 1, process)
        process.send_signal(signal.SIGINT)
        code, _, errors = finish(process)
    assert code == 130
    table = (tmp_path / "rows.csv").read_text()
    assert table.endswith("\n")
    said = int(re.search(r"(\d+) images were predicted; their rows are complete\.", errors)[1])
    # The signal may come between a row and its being counted.
    assert said <= table.count("\n") - 1 <= said + 1


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs /proc to see what is being imported")
def test_50_an_interrupt_during_imports_is_orderly_too(photos, tmp_path):
    process = start("compare", photos, "--out", tmp_path / "o")

    def torch_is_being_imported():
        with open(f"/proc/{process.pid}/maps") as maps:
            return "libtorch_cpu" in maps.read()

    wait_until(torch_is_being_imported, process)
    process.send_signal(signal.SIGTERM)
    code, _, errors = finish(process)
    assert code == 143
    assert "Traceback" not in errors
    assert "begin again:" in errors
    assert not (tmp_path / "o").exists()
