"""Suites: benchmarks as TOML files, with the command line's options over them."""

from pathlib import Path

import pytest

from fewshot.errors import DatasetError, InvalidInputError, UnknownNameError
from fewshot.suites import suite_from_options

STANDARD = Path(__file__).parent.parent / "benchmarks" / "suites" / "standard.toml"


@pytest.fixture
def suite(tmp_path):
    def make(text, *datasets, data=None, **options):
        path = tmp_path / "suite.toml"
        path.write_text(text)
        return suite_from_options(path, data, datasets, options)

    return make


def test_the_standard_suite_is_read(tmp_path):
    found = suite_from_options(STANDARD, tmp_path, (), {})
    assert list(found.arguments["datasets"]) == ["fruits", "clothing10", "signdigits10", "omniglot8"]
    assert found.arguments["datasets"]["omniglot8"] == f"leaves:{tmp_path}/omniglot8"
    assert found.arguments["overrides"] == {"omniglot8": {"n_query": 10}}
    assert found.arguments["k_shots"] == (1, 5, 10)
    assert len(found.arguments["backbones"]) == 3


def test_without_the_data_folder_its_sets_are_left_out_and_said():
    found = suite_from_options(STANDARD, None, (), {})
    assert list(found.arguments["datasets"]) == ["fruits"]
    assert len(found.notes) == 3
    assert "--data FOLDER" in found.notes[0]


def test_options_go_over_what_is_written(suite):
    text = 'ways = 5\nshots = "1-10"\nepisodes = 9\nstrategies = ["ridge"]\n[[datasets]]\nsource = "a"\nshots = [2]\n'
    found = suite(text, "b", ways="2-4", queries="all", strategies="knn, gda", out="x", views=None)
    assert found.out == "x"
    assert found.arguments == {
        "datasets": {"a": "a", "b": "b"},
        "overrides": {"a": {"k_shots": (2,)}},
        "n_way": (2, 4),
        "k_shots": ((1, 10),),
        "n_query": None,
        "n_episodes": 9,
        "strategies": ["knn", "gda"],
    }


def test_options_alone_are_a_suite():
    found = suite_from_options(None, None, ["a/train", "b/train"], {"ways": "all", "shots": "1,5,10"})
    assert found.arguments["n_way"] is None
    assert found.arguments["k_shots"] == (1, 5, 10)
    assert set(found.arguments["datasets"].values()) == {"a/train", "b/train"}


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("ways = ", InvalidInputError, "is not TOML"),
        ("way = 5", UnknownNameError, "ways"),
        ("[[datasets]]\nsource='a'\nquery=1", UnknownNameError, "queries"),
        ("[[datasets]]\nname='a'", InvalidInputError, "no source"),
        ("datasets = ['a']", InvalidInputError, "tables"),
        ("ways = 'five'\n[[datasets]]\nsource='a'", InvalidInputError, "ways='five'.*2-10, or all"),
        ("shots = '1,x'\n[[datasets]]\nsource='a'", InvalidInputError, "shots='x'"),
        ("", InvalidInputError, "fewshot bench fruits"),
        ("[[datasets]]\nsource='a'\n[[datasets]]\nsource='b'\nname='a'", InvalidInputError, "Two data sets"),
        ("strategies = 3\n[[datasets]]\nsource='a'", InvalidInputError, "list of names"),
    ],
)
def test_what_cannot_be_understood_is_refused(suite, text, error, words):
    with pytest.raises(error, match=words):
        suite(text)


def test_a_suite_that_is_not_there(tmp_path):
    with pytest.raises(DatasetError, match="cannot be read"):
        suite_from_options(tmp_path / "nothing.toml", None, (), {})
