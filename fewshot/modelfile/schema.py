"""What ``config.json`` may hold, in every schema that was ever released, and how an older one becomes the newest.

A new schema takes a new table, one function from the last one, and golden files (``python -m tests.golden``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)

from fewshot.errors import ModelFileError
from fewshot.fitting import MAX_SEED
from fewshot.modelfile.documents import document_digest
from fewshot.modelfile.values import AT_MOST_TENSORS, Digest, Dtype, Facts, Labels, Name, Parameters, Shape, at_most

SCHEMA_VERSION = 3
MAX_CONFIG_BYTES = 4 << 20


def _kind_of_head(value: Any) -> str:
    return "sklearn" if isinstance(value, dict) and "sklearn" in value else "own"


class Table(BaseModel):
    """Nothing is converted and nothing is ignored."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _few(cls, value: Any) -> Any:
        if isinstance(value, dict) and len(value) > 20:
            raise ValueError(f"{len(value)} entries, more than are known")
        return value


class OwnHead(Table):
    """A head of this package, or of another one that registers heads."""

    name: Name
    parameters: Parameters
    facts: Facts


class SklearnHead(Table):
    """One of scikit-learn's classifiers, and the version that it was fitted with."""

    sklearn: Name
    version: Name | None
    parameters: Parameters


_Finite: TypeAlias = Annotated[float, Field(allow_inf_nan=False)]


class RepresentationEntry(Table):
    """What makes the head's features, and the shares that its training images gave the parts."""

    name: Name
    fingerprint: Name
    shares: Annotated[dict[Name, Annotated[float, Field(ge=0, le=1)]], Field(min_length=1), at_most(20)]


class EvidenceEntry(Table):
    """See :class:`fewshot.expected.Evidence`."""

    n_way: Annotated[int, Field(ge=2, le=1_000_000)]
    k_shot: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    separation: _Finite | None
    right: _Finite | None
    likely: _Finite | None
    n_held: Annotated[int, Field(ge=0)]


class KnownEntry(Table):
    """What is known of the training images besides their vectors; no threshold means that nothing is novel."""

    temperature: Annotated[float, Field(ge=1e-6, le=1e6)]
    novelty_threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None
    evidence: EvidenceEntry | None
    unlabeled: bool


class TensorEntry(Table):
    """Type and shape of a tensor, as safetensors writes them; the type is not known of models of schema 1."""

    dtype: Dtype | None
    shape: Shape


class _Common(Table):
    fewshot: Name
    classes: Labels
    class_dtype: Annotated[str, Field(pattern=r"^(str|[<>=|]?(U[1-9][0-9]{0,4}|[iu][1248]|f[248]|b1))$")]
    backbone: str | None
    backbone_fingerprint: Name | None
    augmentation: Name
    n_views: Annotated[int, Field(ge=1, le=1_000_000)]
    random_state: Annotated[int, Field(ge=0, le=MAX_SEED)]


class _Own1(Table):
    name: Name
    parameters: Parameters


class _Sklearn1(Table):
    sklearn: Name
    parameters: Parameters


class _Schema1(_Common):
    schema_: Annotated[Literal[1], Field(alias="schema")]
    head: Annotated[Annotated[_Own1, Tag("own")] | Annotated[_Sklearn1, Tag("sklearn")], Discriminator(_kind_of_head)]
    tensors: Annotated[dict[Name, Shape], AT_MOST_TENSORS]


class _Features(_Common):
    """What schemas 2 and 3 have in common."""

    head: Annotated[
        Annotated[OwnHead, Tag("own")] | Annotated[SklearnHead, Tag("sklearn")], Discriminator(_kind_of_head)
    ]
    n_features: Annotated[int, Field(ge=1, le=1 << 24)] | None
    tensors: Annotated[dict[Name, TensorEntry], Field(min_length=1), AT_MOST_TENSORS]
    tensors_digest: Digest | None


class _Schema2(_Features):
    schema_: Annotated[Literal[2], Field(alias="schema")]


class Config(_Features):
    """The newest schema.

    Attributes:
        n_features: width of the features that the head takes; ``None`` for heads that take pictures.
        tensors: what ``model.safetensors`` holds.
        tensors_digest: of that file; ``None`` for a model of schema 1, which has none.
        representation: what makes the features; ``None`` for heads that take pictures.
        known: what is known of the training images; ``None`` for heads that take pictures, and of older models.
    """

    schema_: Annotated[Literal[3], Field(alias="schema")]
    representation: RepresentationEntry | None
    known: KnownEntry | None


def _from_1(config: dict[str, Any]) -> dict[str, Any]:
    """Schema 2 says the types of tensors, what an image head found besides, the width of features, and a digest."""
    head = dict(config["head"])
    if "sklearn" in head:
        # Written out by scikit-learn for parameters that are not to be used.
        kept = {key: value for key, value in head["parameters"].items() if value not in ("deprecated", "warn")}
        head |= {"parameters": kept, "version": None}
    else:
        head["facts"] = {}
    shapes = config["tensors"]
    # Of every head of schema 1 that takes features, one of these is as wide as they are.
    wide = [shapes[name] for name in ("weight", "prototypes", "support", "features") if shapes.get(name)]
    return config | {
        "schema": 2,
        "head": head,
        "n_features": wide[0][-1] if wide else None,
        "tensors": {name: {"dtype": None, "shape": shape} for name, shape in shapes.items()},
        "tensors_digest": None,
    }


def _from_2(config: dict[str, Any]) -> dict[str, Any]:
    """Schema 3 says what is made of the backbone's features: before, they were taken as they are."""
    plain = {"name": "plain", "fingerprint": "plain", "shares": {"features": 1.0}}
    return config | {"schema": 3, "representation": None if config["n_features"] is None else plain, "known": None}


_TABLES: dict[int, type[Table]] = {1: _Schema1, 2: _Schema2, 3: Config}
_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1, 2: _from_2}


def read_config(document: Any) -> Config:
    """Check a parsed ``config.json`` of any schema; an older one is brought to the newest.

    Raises:
        ModelFileError: of a newer schema, damaged, or with an entry missing, unknown or out of range.
    """
    schema = document.get("schema") if isinstance(document, dict) else None
    if isinstance(schema, bool) or not isinstance(schema, int) or schema < 1:
        raise ModelFileError(f"config.json has schema {str(schema)[:40]!r}, which no version of fewshot writes")
    if schema > SCHEMA_VERSION:
        raise ModelFileError(
            f"it has schema {schema}; this version of fewshot reads up to {SCHEMA_VERSION}. Run: pip install --upgrade "
            "fewshot"
        )
    if schema > 1:
        document = dict(document)
        if document.pop("digest", None) != document_digest(document):
            raise ModelFileError("config.json was damaged, or edited, after it was saved: its digest does not fit")
    _check(_TABLES[schema], document)
    for version in range(schema, SCHEMA_VERSION):
        document = _MIGRATIONS[version](document)
    config = _check(Config, document)
    assert isinstance(config, Config)  # noqa: S101 - for the type checker
    if schema > 1 and (config.tensors_digest is None or any(e.dtype is None for e in config.tensors.values())):
        raise ModelFileError("config.json lacks the digest or a type of its tensors")
    return config


def _check(table: type[Table], document: Any) -> Table:
    try:
        return table.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part)[:60] for part in first["loc"]) or "it"
        raise ModelFileError(f"config.json: {place!r}: {first['msg'].removeprefix('Value error, ')}") from None
    # Pydantic's core gives up on text that holds half of a character.
    except UnicodeEncodeError as error:
        raise ModelFileError(f"config.json: {error}") from None
