"""What results depend on, as text: different values are told apart, and equal ones are equal in every process."""

import functools
import json
import operator
import os
import re
import subprocess
import sys
import threading
from collections import OrderedDict
from fractions import Fraction

import numpy as np
import pytest
import scipy.sparse
import torch
from sklearn.neighbors import KNeighborsClassifier

from fewshot import features
from fewshot.identity import as_text, machine_identity


class Weight:
    def __init__(self, power):
        self.power = power

    def weigh(self, distance):
        return 1 / (distance**self.power + 1)


class Slots:
    __slots__ = ("power",)

    def __init__(self, power):
        self.power = power


def closure(power):
    return lambda distance: distance**power


def recursive(step):
    def count(n):
        return 0 if n <= 0 else 1 + count(n - step)

    return count


def with_empty_cell(constant):
    def early():
        return later, constant

    result = early
    if constant is None:
        later = 1
    return result


def cyclic(end):
    items = [1, end]
    items.append(items)
    return items


def kept(power):
    @functools.lru_cache
    def weigh(distance):
        return distance**power

    return weigh


def long_array(middle):
    array = np.zeros(5000)
    array[2500] = middle
    return array


MAKERS = {
    "bound method": lambda n: Weight(n).weigh,
    "method of a C type": lambda n: [n].append,
    "object": Weight,
    "object with slots": Slots,
    "object in an array": lambda n: np.array([Weight(n), None]),
    "closure": closure,
    "recursive function": recursive,
    "function with an empty cell": lambda n: with_empty_cell(n),
    "cached function": kept,
    "partial": lambda n: functools.partial(closure, n),
    "cycle": cyclic,
    "object in a cycle": lambda n: cyclic(Weight(n)),
    "generator of random numbers": np.random.default_rng,
    "random state": np.random.RandomState,
    "C object": operator.itemgetter,
    "pattern": lambda n: re.compile(f"a{{{n}}}"),
    "fraction": lambda n: Fraction(1, n + 1),
    "ordered dictionary": lambda n: OrderedDict(a=n),
    "array": long_array,
    "array of records": lambda n: np.array([(1, n)], dtype=[("a", int), ("b", float)]),
    "tensor": lambda n: torch.from_numpy(long_array(n)),
    "half tensor": lambda n: torch.tensor(n).bfloat16(),
    "sparse matrix": lambda n: scipy.sparse.csr_matrix(np.array([[0, n], [1, 0]])),
    "set": lambda n: {"a", "b", "c", str(n)},
    "text": lambda n: "a" * 2000 + str(n) + "a" * 2000,
    "number": float,
    "numpy's number": np.float32,
    "classifier": lambda n: KNeighborsClassifier(n, metric_params={"w": long_array(n)}),
}


@pytest.mark.parametrize("what", MAKERS)
def test_different_values_are_told_apart_and_equal_ones_are_equal(what):
    make = MAKERS[what]
    assert as_text(make(1)) == as_text(make(1)) != as_text(make(2))
    assert " at 0x" not in as_text(make(1))
    assert len(as_text(make(1))) < 20_000


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (1, True), (0.0, -0.0), ("1", 1), ([1], [[1]]), (None, "None")])
def test_values_that_compare_equal_but_are_others_are_told_apart(one, other):
    assert as_text(one) != as_text(other)


def test_equal_values_are_equal_in_every_process():
    program = (
        "import json\n"
        f"from {__name__} import MAKERS, as_text\n"
        "print(json.dumps({what: as_text(make(1)) for what, make in MAKERS.items()}))"
    )
    elsewhere = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONHASHSEED": "123", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    ).stdout
    assert json.loads(elsewhere) == {what: as_text(make(1)) for what, make in MAKERS.items()}


def deep(levels):
    items = []
    for _ in range(levels):
        items = [items]
    return items


@pytest.mark.parametrize("make", [threading.Lock, lambda: (i for i in ()), lambda: deep(100_000)])
def test_what_cannot_be_told_apart_is_equal_to_nothing(make):
    value = make()
    assert as_text(value) != as_text(value)
    assert as_text([value]) != as_text([value])


def test_a_function_of_a_script_depends_on_what_it_takes_from_there():
    def text(**names):
        exec("weigh = lambda distances: [d**POWER for d in distances]", scope := {"__name__": "__main__", **names})
        return as_text(scope["weigh"])

    assert text(POWER=1, OTHER=1) == text(POWER=1, OTHER=2) != text(POWER=2, OTHER=1)


def test_every_version_that_stored_features_depend_on_is_a_part_of_a_runs_identity():
    versions = machine_identity()["versions"]
    stored = {str(part) for part in (*features._versions()[1:], *features._view_versions()[1:])}
    assert stored <= set(versions.values())
    assert {"libjpeg", "cv2", "albucore", "python", "fewshot"} <= versions.keys()
    assert "none" not in (versions["libjpeg"], versions["cv2"], versions["albucore"])
