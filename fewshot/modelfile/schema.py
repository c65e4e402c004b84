"""What ``config.json`` may hold, in every schema that was ever released, and how an older one becomes the newest.

A new schema takes a new table, one function from the last one, and golden files (``python -m tests.golden``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fewshot.classifier import MAX_SEED
from fewshot.errors import ModelFileError
from fewshot.modelfile.documents import document_digest

SCHEMA_VERSION = 2
MAX_CONFIG_BYTES = 4 << 20

Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=200)]
# Beyond these a head would not fit into memory, compute for hours, or overflow.
Whole: TypeAlias = Annotated[int, Field(ge=-1_000_000, le=1_000_000)]
Number: TypeAlias = Annotated[float, Field(ge=-1e30, le=1e30, allow_inf_nan=False)]
Scalar: TypeAlias = bool | Whole | Number | Name | None
Parameter: TypeAlias = Scalar | Annotated[list[Scalar], Field(max_length=100)]
Text: TypeAlias = Annotated[str, Field(max_length=2_000)]
Fact: TypeAlias = Scalar | Text | Annotated[dict[Name, Number], Field(max_length=100)]
# Plain strings where a lone surrogate may stand, as in paths: pydantic cannot measure one.
Label: TypeAlias = bool | int | Annotated[float, Field(allow_inf_nan=False)] | str
Size: TypeAlias = Annotated[int, Field(ge=0, le=1 << 40)]
Shape: TypeAlias = Annotated[list[Size], Field(max_length=8)]
Dtype: TypeAlias = Literal["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"]
Digest: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]


class _Table(BaseModel):
    """Nothing is converted and nothing is ignored."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class OwnHead(_Table):
    """A head of this package, or of another one that registers heads."""

    name: Name
    parameters: Annotated[dict[Name, Parameter], Field(max_length=50)]
    facts: Annotated[dict[Name, Fact], Field(max_length=20)]


class SklearnHead(_Table):
    """One of scikit-learn's classifiers, and the version that it was fitted with."""

    sklearn: Name
    version: Name | None
    parameters: Annotated[dict[Name, Parameter], Field(max_length=50)]


class TensorEntry(_Table):
    """Type and shape of a tensor, as safetensors writes them; the type is not known of models of schema 1."""

    dtype: Dtype | None
    shape: Shape


class _Common(_Table):
    fewshot: Name
    classes: Annotated[list[Label], Field(min_length=2)]
    class_dtype: Annotated[str, Field(pattern=r"^(str|[<>=|]?(U[1-9][0-9]{0,4}|[iu][1248]|f[248]|b1))$")]
    backbone: str | None
    backbone_fingerprint: Name | None
    augmentation: Name
    n_views: Annotated[int, Field(ge=1, le=1_000_000)]
    random_state: Annotated[int, Field(ge=0, le=MAX_SEED)]


class _Own1(_Table):
    name: Name
    parameters: Annotated[dict[Name, Parameter], Field(max_length=50)]


class _Sklearn1(_Table):
    sklearn: Name
    parameters: Annotated[dict[Name, Parameter], Field(max_length=50)]


class _Schema1(_Common):
    schema_: Annotated[Literal[1], Field(alias="schema")]
    head: _Own1 | _Sklearn1
    tensors: Annotated[dict[Name, Shape], Field(max_length=10_000)]


class Config(_Common):
    """The newest schema.

    Attributes:
        n_features: width of the features that the head takes; ``None`` for heads that take pictures.
        tensors: what ``model.safetensors`` holds.
        tensors_digest: of that file; ``None`` for a model of schema 1, which has none.
    """

    schema_: Annotated[Literal[2], Field(alias="schema")]
    head: OwnHead | SklearnHead
    n_features: Annotated[int, Field(ge=1, le=1 << 24)] | None
    tensors: Annotated[dict[Name, TensorEntry], Field(min_length=1, max_length=10_000)]
    tensors_digest: Digest | None


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


_TABLES: dict[int, type[_Table]] = {1: _Schema1, 2: Config}
_MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _from_1}


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


def _check(table: type[_Table], document: Any) -> _Table:
    try:
        return table.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part)[:60] for part in first["loc"]) or "it"
        raise ModelFileError(f"config.json: {place!r}: {first['msg']}") from None
    # Pydantic's core gives up on text that holds half of a character.
    except UnicodeEncodeError as error:
        raise ModelFileError(f"config.json: {error}") from None
