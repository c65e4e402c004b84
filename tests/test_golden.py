"""Model folders of every schema ever released are still read, and answer as they did."""

import json

import numpy as np
import pytest

import fewshot
from fewshot import list_heads
from fewshot.modelfile import SCHEMA_VERSION
from tests.golden import GOLDEN, answers, unpack

FOLDERS = sorted(path.parent for path in GOLDEN.glob("schema-*/*/config.json"))


@pytest.mark.parametrize("source", FOLDERS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_golden_model_answers_as_it_did(source, tmp_path):
    expected = json.loads((source / "expected.json").read_text(encoding="utf-8"))
    classifier = fewshot.load(unpack(source, tmp_path / "model"))
    assert classifier.classes_.tolist() == expected["classes"]
    assert classifier.classes_.dtype.str == expected["dtype"]
    # Heads on features compute in float64; networks and solvers in float32, on other machines with other rounding.
    exact = not hasattr(classifier.head_, "predict_proba_images") and not source.name.startswith("sklearn")
    tolerance = 1e-9 if exact else 1e-4
    np.testing.assert_allclose(answers(classifier), expected["proba"], atol=tolerance, rtol=0)


@pytest.mark.parametrize("source", FOLDERS, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_a_golden_model_saved_again_is_of_the_newest_schema(source, tmp_path):
    classifier = fewshot.load(unpack(source, tmp_path / "model"))
    classifier.save(tmp_path / "model")
    assert json.loads((tmp_path / "model/config.json").read_text(encoding="utf-8"))["schema"] == SCHEMA_VERSION
    again = fewshot.load(tmp_path / "model")
    np.testing.assert_array_equal(answers(again), answers(classifier))


def test_every_schema_has_golden_models_of_every_head():
    for schema in range(1, SCHEMA_VERSION + 1):
        folder = GOLDEN / f"schema-{schema}"
        kinds = {path.name for path in folder.glob("*")}
        assert kinds, f"schema {schema} has no golden models: run `python -m tests.golden` once, before it is released"
        assert any(kind.startswith("sklearn") for kind in kinds)
    # A head that came after a schema can only be in later ones.
    assert set(list_heads()) <= kinds, f"run `python -m tests.golden` for {set(list_heads()) - kinds}"
    assert sum(path.stat().st_size for path in GOLDEN.rglob("*") if path.is_file()) < 1.5e6


def test_golden_models_of_the_newest_schema_are_what_is_written_today(tmp_path):
    source = GOLDEN / f"schema-{SCHEMA_VERSION}" / "linear-probe"
    fewshot.load(unpack(source, tmp_path / "model")).save(tmp_path / "again")
    kept, written = (json.loads((folder / "config.json").read_text()) for folder in (source, tmp_path / "again"))
    assert written.keys() == kept.keys(), "the schema changed, and its number did not"
    assert written["head"].keys() == kept["head"].keys()
