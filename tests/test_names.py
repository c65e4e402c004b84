"""Tables of names, and what an unknown name is told."""

import subprocess
import sys
import types
from importlib.metadata import EntryPoint

import pytest

from fewshot import names
from fewshot.augment import POLICIES, list_augmentations
from fewshot.errors import FewshotError, UnknownNameError
from fewshot.heads import HEADS
from fewshot.names import NameTable, unknown_name
from fewshot.strategies import STRATEGIES, make_strategies

GROUP = "fewshot.things"


@pytest.fixture
def table():
    return NameTable("thing", {"prototype": "fewshot.names:NameTable", "other": "fewshot.errors:FewshotError"}, GROUP)


@pytest.fixture
def plugins(monkeypatch):
    """Register entry points, as installed packages would."""
    found = []
    monkeypatch.setattr(names, "entry_points", lambda group: [point for point in found if point.group == group])
    return lambda name, value, group=GROUP: found.append(EntryPoint(name, value, group))


def test_a_table_is_a_mapping_from_names_to_import_paths(table):
    assert dict(table) == {"prototype": "fewshot.names:NameTable", "other": "fewshot.errors:FewshotError"}
    assert len(table) == 2
    assert "prototype" in table
    assert "nothing" not in table
    assert table.get("nothing") is None
    assert table.get("nothing", "else") == "else"
    assert table.get("other") == "fewshot.errors:FewshotError"


def test_loading_imports_what_a_name_stands_for(table):
    assert table.load("prototype") is NameTable
    assert table.load("other") is FewshotError


@pytest.mark.parametrize("look_up", ["load", "describe", "__getitem__"])
def test_an_unknown_name_is_told_the_closest(table, look_up):
    with pytest.raises(UnknownNameError) as caught:
        getattr(table, look_up)("prototipe")
    message = str(caught.value)
    assert "thing" in message
    assert "'prototipe'" in message
    assert "Did you mean 'prototype'?" in message
    assert "other, prototype" in message


def test_the_case_of_a_name_does_not_hide_the_closest():
    assert "Did you mean 'heavy'" in str(unknown_name("policy", "HEAVY", ["light", "heavy"]))


def test_nothing_is_guessed_for_a_name_like_no_other():
    message = str(unknown_name("policy", "zzzzzz", ["light", "heavy"], hint="Or give a Compose."))
    assert "Did you mean" not in message
    assert "heavy, light" in message
    assert message.endswith("Or give a Compose.")


@pytest.mark.parametrize("name", [3, None, ("a",)])
def test_a_name_of_another_type_is_an_unknown_name(table, name):
    with pytest.raises(UnknownNameError, match="Unknown thing"):
        table.load(name)


def test_describing_reads_the_first_line_of_the_docstring(table):
    assert table.describe("other") == FewshotError.__doc__.splitlines()[0]
    assert table.describe("prototype") == NameTable.__doc__.splitlines()[0]


def test_describing_what_has_no_source_gives_nothing():
    odd = NameTable(
        "thing",
        {
            "gone": "no_such_package.module:x",
            "gone-module": "fewshot.no_such_module:x",
            "gone-name": "fewshot.names:no_such_name",
            "built-in": "sys:exit",
            "undocumented": "fewshot.report:nothing",
        },
    )
    assert [odd.describe(name) for name in odd] == [""] * 5


@pytest.mark.parametrize("registered", [HEADS, POLICIES], ids=["heads", "policies"])
def test_every_registered_name_loads_and_is_described(registered):
    for name in registered:
        assert callable(registered.load(name))
        assert registered.describe(name)


def test_listing_and_describing_import_nothing_heavy():
    code = (
        "import sys; from fewshot.augment import POLICIES; from fewshot.heads import HEADS\n"
        "for table in (POLICIES, HEADS):\n    [table.describe(name) for name in table]\n"
        "print([name for name in ('torch', 'albumentations', 'sklearn', 'timm') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"


def test_entry_points_extend_a_table(table, plugins, monkeypatch):
    module = types.ModuleType("some_plugin")
    module.Thing = type("Thing", (), {})
    monkeypatch.setitem(sys.modules, "some_plugin", module)
    plugins("extra", "some_plugin:Thing")
    plugins("elsewhere", "some_plugin:Thing", group="fewshot.others")
    assert sorted(table) == ["extra", "other", "prototype"]
    assert len(table) == 3
    assert table.load("extra") is module.Thing
    with pytest.raises(UnknownNameError, match="extra"):
        table.load("extr")


def test_entry_points_cannot_replace_what_is_built_in(table, plugins):
    plugins("other", "os:remove")
    assert table.load("other") is FewshotError


def test_a_table_without_a_group_has_no_plugins(plugins):
    plugins("extra", "os:remove", group=None)
    assert list(NameTable("thing", {"a": "os:path"})) == ["a"]


def test_a_plugin_that_is_gone_breaks_only_itself(table, plugins):
    plugins("gone", "no_such_package:Thing")
    assert table.describe("gone") == ""
    assert table.describe("other")
    with pytest.raises(ImportError, match="no_such_package"):
        table.load("gone")


def test_a_policy_from_another_package_is_listed(plugins):
    plugins("rotate", "some_plugin:rotate", group="fewshot.augmentations")
    assert list_augmentations() == sorted(["none", "light", "heavy", "rotate"])


def test_a_mistyped_strategy_is_told_the_closest():
    with pytest.raises(UnknownNameError, match="Did you mean 'linear-probe'"):
        make_strategies(["linear-prob"])


def test_a_strategy_given_twice_is_refused():
    with pytest.raises(ValueError, match="prototypical given twice"):
        make_strategies(["prototypical", "prototypical"])
    with pytest.raises(ValueError, match="no strategy given"):
        make_strategies([])


def test_all_strategies_are_meant_by_all_and_by_none():
    everything = [s.name for s in make_strategies(None)]
    assert everything == [s.name for s in make_strategies("all")]
    # What takes minutes runs only where it is named.
    assert [name for name in STRATEGIES if name not in everything] == [
        "auto-fine-tune",
        "norm-tuning",
        "lora",
        "fine-tune-full",
    ]
    assert [s.name for s in make_strategies("prototypical")] == ["prototypical"]


def test_the_parts_of_every_strategy_are_registered():
    for strategy in STRATEGIES.values():
        assert strategy.head in HEADS
        assert strategy.augmentation is None or strategy.augmentation in POLICIES
        assert strategy.description
