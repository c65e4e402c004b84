"""The public names, and what importing the package costs."""

import re
import subprocess
import sys

import pytest

import fewshot


def test_all_lists_exactly_the_public_names():
    assert sorted(fewshot.__all__) == fewshot.__all__
    assert set(fewshot.__all__) == set(fewshot._HOMES)
    assert len(fewshot.__all__) <= 18


@pytest.mark.parametrize("name", fewshot.__all__)
def test_every_public_name_can_be_imported_and_has_a_docstring(name):
    assert getattr(fewshot, name).__doc__


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing_like_this"):
        _ = fewshot.nothing_like_this


@pytest.mark.parametrize(
    "statement", ["import fewshot", "import fewshot.cli; fewshot.cli.app", "dir(__import__('fewshot'))"]
)
def test_import_and_help_load_nothing_heavy(statement):
    heavy = "{'torch', 'timm', 'torchvision', 'albumentations', 'sklearn', 'scipy', 'numpy', 'cv2'}"
    code = f"{statement}; import sys; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_help_of_the_command_line_loads_nothing_heavy():
    code = (
        "import sys\nfrom fewshot.cli import app\n"
        "try:\n    app(['--help'])\nexcept SystemExit as e:\n    assert e.code == 0\n"
        "assert not {'torch', 'timm', 'numpy'} & set(sys.modules), 'heavy'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "compare" in done.stdout


def test_what_a_notebook_shows_is_short(two_fruits):
    train, test = two_fruits
    report = fewshot.compare(train, test, strategies=["prototypical", "linear-probe"])
    assert len(repr(report)) < 200
    assert len(repr(train)) < 200
    difference = str(report.compare("prototypical", "linear-probe"))
    assert re.fullmatch(r"-?\d\.\d{3} \[-?\d\.\d{3}, -?\d\.\d{3}\]", difference)
