"""The documents: their code runs, their commands are CI's, and the example head passes the common tests."""

import ast
import doctest
import importlib
import pkgutil
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from sklearn.utils.estimator_checks import check_estimator

import fewshot

ROOT = Path(__file__).parent.parent
MODULES = sorted(m.name for m in pkgutil.walk_packages(fewshot.__path__, "fewshot."))


def blocks(document, language="python"):
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


@pytest.fixture
def pets(tmp_path, fruits, monkeypatch):
    """Lay out the files that the README's examples name, with photos that really differ."""
    train = fruits["train"]
    photos = {
        name: [train.sources[i] for i in np.flatnonzero(np.array(train.labels) == label)[:4]]
        for name, label in (("cat", "Orange"), ("dog", "Watermelon"))
    }
    for name, sources in photos.items():
        (tmp_path / f"{name}.jpg").write_bytes(sources[0])
        for split, chosen in (("train", sources[:2]), ("test", sources[2:])):
            for position, source in enumerate(chosen):
                path = tmp_path / "pets" / split / name / f"{position}.jpg"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(source)
    (tmp_path / "new.jpg").write_bytes(photos["dog"][3])
    (tmp_path / "pets.csv").write_text("image,label\ncat.jpg,cat\ndog.jpg,dog\n")
    monkeypatch.chdir(tmp_path)


def test_the_readmes_python_runs(pets, capsys):
    namespace = {}
    assert blocks("README.md")
    for block in blocks("README.md"):
        exec(compile(block, "README.md", "exec"), namespace)
    assert namespace["classifier"].predict(["new.jpg"]).tolist() == ["dog"]
    assert Path("report.html").exists()


@pytest.mark.parametrize(
    "document",
    ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "benchmarks/README.md", "docs/bad_inputs.md"],
)
def test_links_between_documents_lead_somewhere(document):
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", text):
        assert (ROOT / document).parent.joinpath(target).exists(), target
    assert not re.search(r"\b[A-Z]+_TABLE\b", text)


@pytest.mark.parametrize("name", MODULES)
def test_docstring_examples_run(name):
    outcome = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert outcome.failed == 0


def test_some_docstrings_have_examples():
    found = [name for name in MODULES if doctest.DocTestFinder().find(importlib.import_module(name), name) for _ in [0]]
    examples = sum(
        len(test.examples)
        for name in found
        for test in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(name), name)
    )
    assert examples >= 8


def test_ci_runs_the_readmes_test_command():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for command in ("pip install '.[demo]' && fewshot demo", "pip install '.[test]' && pytest"):
        assert f"\n{command}\n" in readme
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_the_example_head_is_a_good_head(two_fruits, monkeypatch):
    (source,) = blocks("CONTRIBUTING.md")
    module = types.ModuleType("fewshot.heads.nearest_neighbour")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(compile(source, "nearest_neighbour.py", "exec"), module.__dict__)
    line = re.search(r'^   `"nearest-neighbour": "(.*)",`$', (ROOT / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    monkeypatch.setitem(fewshot.heads.HEADS._built_in, "nearest-neighbour", line[1])
    assert all(row["status"] != "failed" for row in check_estimator(module.NearestNeighbour(), on_skip=None))
    train, test = two_fruits
    classifier = fewshot.FewShotClassifier(head="nearest-neighbour", augmentation="none").fit(train)
    # The same answers as scikit-learn's, which is the closed form of this method.
    from sklearn.neighbors import KNeighborsClassifier

    reference = KNeighborsClassifier(n_neighbors=1, metric="cosine")
    expected = fewshot.FewShotClassifier(head=reference, augmentation="none").fit(train).predict(test.sources)
    assert classifier.predict(test.sources).tolist() == expected.tolist()


def test_each_bad_input_of_the_table_has_its_tests():
    """Rows are numbered from 1 to 50, each links to tests that begin with its number, and no test is left out."""
    there = {
        (int(number), node.name, path.name)
        for path in (ROOT / "tests/bad_inputs").glob("test_*.py")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and (numbers := re.match(r"test(_\d\d)+_(?!bit)", node.name))
        for number in re.findall(r"\d\d", numbers.group())
    }
    rows = re.findall(
        r"^\| (\d+) \|.*$", table := (ROOT / "docs/bad_inputs.md").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert [int(number) for number in rows] == list(range(1, 51))
    linked = set()
    for line in table.splitlines():
        for name, file in re.findall(r"\[`?(test_\d\d_\w+)`?\]\(\.\./tests/bad_inputs/(\w+\.py)\)", line):
            linked.add((int(line.split("|")[1]), name, file))
    assert linked == there


def test_every_public_thing_has_a_docstring():
    missing = []
    for name in MODULES:
        module = importlib.import_module(name)
        missing += [name] * (not module.__doc__)
        for attribute, value in vars(module).items():
            if not attribute.startswith("_") and getattr(value, "__module__", None) == name and callable(value):
                missing += [f"{name}.{attribute}"] * (not value.__doc__)
    assert not missing


def test_the_project_names_no_machine_and_no_secret_place():
    for path in [*ROOT.glob("*.md"), *ROOT.glob("fewshot/**/*.py"), *ROOT.glob("benchmarks/**/*")]:
        if path.is_file():
            assert "/root/" not in path.read_text(encoding="utf-8", errors="replace"), path
