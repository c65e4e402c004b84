"""Whatever a model folder holds, loading it gives a classifier that works or a FewshotError."""

import contextlib
import copy
import io
import json
import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fewshot.errors import FewshotError, InvalidInputError, ModelFileError
from fewshot.images.dataset import as_labels
from fewshot.modelfile.documents import document_digest, parse_json, write_json
from fewshot.modelfile.labels import describe_labels, restore_labels
from fewshot.modelfile.schema import Config, read_config
from fewshot.modelfile.weights import read_header
from tests.golden import GOLDEN

fuzz = pytest.importorskip("tests.fuzz", reason="limits of memory need a Unix")

KINDS = ("linear-probe", "knn", "tim", "prototypical", "sklearn-knn")
CONFIGS = [
    json.loads((GOLDEN / schema / kind / "config.json").read_text(encoding="utf-8"))
    for schema in ("schema-1", "schema-2")
    for kind in KINDS
]
# What JSON can hold. Half of these are not what the place they are put in wants; the rest is, and out of range.
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**22), 10**22)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.sampled_from(fuzz.INTERESTING).map(copy.deepcopy),  # lists and tables among them are changed later
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)
QUICK = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def places(value, path=()):
    """List the paths of all that a document holds."""
    yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


@st.composite
def changed_configs(draw):
    """Draw a model's number and its configuration with one to three entries replaced, removed or added."""
    number = draw(st.integers(0, len(CONFIGS) - 1))
    config = copy.deepcopy(CONFIGS[number])
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from([path for path in places(config) if path]))
        inner = config
        for key in way:
            inner = inner[key]
        what = draw(st.sampled_from(("replace", "replace", "replace", "remove", "add")))
        if what == "remove":
            del inner[last]
        elif what == "add" and isinstance(inner, dict):
            inner[draw(st.text(max_size=8))] = draw(VALUES)
        else:
            inner[last] = draw(VALUES)
    return number, config


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    class Some(fuzz.ModelTarget):
        kinds = KINDS

    return Some(tmp_path_factory.mktemp("models"))


@QUICK
@given(drawn=changed_configs())
@pytest.mark.filterwarnings("ignore")
def test_a_changed_configuration_gives_a_classifier_that_works_or_an_error(models, drawn):
    number, config = drawn
    text = write_json(config) if config.get("schema") != 1 else json.dumps(config).encode()
    fuzz.run_one(models, bytes([number]) + text)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(drawn=changed_configs())
def test_a_changed_configuration_is_a_configuration_or_an_error(drawn):
    with contextlib.suppress(ModelFileError):
        assert isinstance(read_config(drawn[1] | {"digest": document_digest(drawn[1])}), Config)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_are_json_or_an_error(data):
    with contextlib.suppress(ModelFileError):
        json.dumps(parse_json(data, "it"), allow_nan=False)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.dictionaries(
        st.text(), st.text() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)
    )
)
def test_a_written_document_is_read_back(document):
    document.pop("digest", None)
    found = parse_json(write_json(document), "it")
    assert found.pop("digest") == document_digest(document)
    assert found == document


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(st.text(max_size=10), min_size=2, unique=True)
    | st.lists(st.text(st.characters(codec=None, exclude_categories=()), max_size=4), min_size=2, unique=True)
    | st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2, unique=True)
    | st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, unique=True)
    | st.just([False, True])
)
def test_labels_come_back_as_they_were(labels):
    try:
        classes = np.unique(as_labels(labels))
    except InvalidInputError:
        return
    if len(classes) < 2:
        return
    described = json.loads(json.dumps(describe_labels(classes)))
    found = restore_labels(described["classes"], described["class_dtype"])
    assert found.dtype == classes.dtype
    assert found.tolist() == classes.tolist()


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.binary(max_size=64), st.dictionaries(st.text(max_size=5), VALUES, max_size=3), st.integers(-3, 3))
def test_any_header_of_tensors_is_one_or_an_error(rest, header, off):
    text = json.dumps(header).encode()
    data = max(0, len(text) + off).to_bytes(8, "little") + text + rest
    with contextlib.suppress(ModelFileError):
        entries = read_header(io.BytesIO(data), len(data))
        assert sum(math.prod(entry.shape) for entry in entries.values()) <= len(rest)


@pytest.mark.parametrize("name", fuzz.TARGETS)
@pytest.mark.filterwarnings("ignore")
def test_a_second_of_fuzzing_finds_nothing(name, tmp_path):
    runs, finds = fuzz.fuzz_plainly(fuzz.TARGETS[name](tmp_path), 1.0, seed=1, finds=tmp_path / "finds")
    assert runs > 5
    assert not finds


@pytest.mark.filterwarnings("ignore")
def test_the_fuzzer_reports_what_it_finds(tmp_path):
    class Broken(fuzz.CsvTarget):
        def run(self, data):
            if data not in self.seeds():
                raise ZeroDivisionError("found")
            with contextlib.suppress(FewshotError):
                super().run(data)

    _, finds = fuzz.fuzz_plainly(Broken(tmp_path), 0.1, seed=0, finds=tmp_path / "finds")
    assert len(finds) == 1
    assert "ZeroDivisionError at test_fuzz_models.py" in finds.pop()
    assert len(list((tmp_path / "finds").iterdir())) == 1
