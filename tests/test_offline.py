"""No network: neither needed nor tried by import, fit, predict and demo with the packaged weights."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Python's own audit events see every attempt, also one whose failure would be swallowed.
WATCH = """
import sys
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "urllib.Request"):
        # Pairs of local sockets are no network.
        if not (event == "socket.connect" and isinstance(arguments[1], (str, bytes))):
            print("TRIED", event, arguments[1:], file=sys.stderr, flush=True)
sys.addaudithook(watch)
"""

FIT_AND_PREDICT = """
import fewshot
classifier = fewshot.FewShotClassifier(n_views=2, cache=False).fit(fewshot.ImageDataset.from_folder("train"))
classifier.save("model")
report = fewshot.compare("train", "test", strategies=["prototypical", "fine-tune"], cache=False)
print(fewshot.load("model").predict(fewshot.ImageDataset.from_folder("test").sources), report.summary()[0].accuracy)
"""

# The whole demo, on fewer photos and with fewer steps: what it reaches for is the same.
DEMO = """
import sys, fewshot.cli, fewshot.demo
from fewshot.finetune.simple_cnn import TunedSimpleCNNHead
from fewshot.finetune.fine_tune import FineTune
fewshot.demo._POOL = 6
for head, setting in ((TunedSimpleCNNHead, "min_steps"), (FineTune, "steps")):
    head.__init__.__kwdefaults__[setting] = 2
sys.argv = "fewshot demo --out demo --classes Orange,Granny-Smith --views 2 --seconds 0".split()
fewshot.cli.main()
"""

COMMANDS = {
    "import": "import fewshot, fewshot.cli, fewshot.classifier, fewshot.comparison, fewshot.benchmarking",
    "fit, predict, compare": FIT_AND_PREDICT,
    "demo": DEMO,
}


def _without_interfaces() -> list[str]:
    """Start a command in a network namespace that has no interface, where that is allowed."""
    command = ["unshare", "--map-root-user", "--net"]
    if not shutil.which("unshare") or subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("network namespaces are not allowed here")
    return command


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    # HF_HUB_OFFLINE is what other tests use; here nothing may help.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_the_watch_notices_what_goes_out(tmp_path):
    code = "import socket, contextlib\nwith contextlib.suppress(OSError): socket.create_connection(('127.0.0.1', 9))"
    assert "TRIED socket.connect" in _run([sys.executable, "-c", WATCH + code], tmp_path).stderr


@pytest.mark.parametrize("what", COMMANDS)
def test_nothing_goes_out_and_nothing_is_needed(what, fruit_folder):
    done = _run([*_without_interfaces(), sys.executable, "-c", WATCH + COMMANDS[what]], fruit_folder)
    assert done.returncode == 0, done.stderr
    assert "TRIED" not in done.stderr


def test_a_namespace_without_interfaces_reaches_nothing(tmp_path):
    code = "import socket; socket.create_connection(('127.0.0.1', 9), timeout=1)"
    done = _run([*_without_interfaces(), sys.executable, "-c", code], tmp_path)
    assert "Network is unreachable" in done.stderr
