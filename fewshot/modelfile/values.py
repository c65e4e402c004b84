"""Values that ``config.json`` and the header of the tensors may hold, each checked at the cost of reading it."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BeforeValidator, Field

MAX_CLASSES = 100_000
_MAX_NAME, _MAX_TEXT, _MAX_WHOLE, _MAX_NUMBER = 200, 2_000, 1 << 32, 1e30


def at_most(limit: int) -> BeforeValidator:
    """Refuse a long list or table before it is looked into: pydantic makes an error of every bad entry."""

    def check(value: Any) -> Any:
        if isinstance(value, (list, dict)) and len(value) > limit:
            raise ValueError(f"{len(value)} entries; at most {limit} are taken")
        return value

    return BeforeValidator(check)


def _scalar(value: Any, longest: int = _MAX_NAME) -> Any:
    # Beyond these a head would not fit into memory, compute for hours, or overflow.
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str) and 1 <= len(value) <= longest:
        return value
    if isinstance(value, (int, float)) and abs(value) <= (_MAX_WHOLE if isinstance(value, int) else _MAX_NUMBER):
        return value
    raise ValueError(
        f"needed is true, false, null, a text of up to {longest} characters, a whole number up to {_MAX_WHOLE} or "
        f"another number up to {_MAX_NUMBER:g}"
    )


def _parameter(value: Any) -> Any:
    if not isinstance(value, list):
        return _scalar(value)
    if len(value) > 100:
        raise ValueError(f"a list of {len(value)} entries; at most 100 are taken")
    return [_scalar(item) for item in value]


def _fact(value: Any) -> Any:
    if not isinstance(value, dict):
        return value if value == "" else _scalar(value, _MAX_TEXT)
    if len(value) > 100:
        raise ValueError(f"a table of {len(value)} entries; at most 100 are taken")
    for key, number in value.items():
        if len(key) > _MAX_NAME or type(number) not in (int, float) or abs(number) > _MAX_NUMBER:
            raise ValueError(f"in a table only names and numbers up to {_MAX_NUMBER:g} are taken")
    return value


def _labels(values: list[Any]) -> list[Any]:
    if not 1 <= len(values) <= MAX_CLASSES:
        raise ValueError(f"{len(values)} classes; from 1 to {MAX_CLASSES} are taken")
    for position, value in enumerate(values):
        if type(value) not in (bool, int, float, str):
            raise ValueError(f"entry {position} is neither a text, a number, true nor false")
    return values


Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=_MAX_NAME)]
# One check for each in place of a union, of which pydantic would report every part. Plain strings where a lone
# surrogate may stand, as in paths: pydantic cannot measure one.
Parameters: TypeAlias = Annotated[dict[Name, Annotated[Any, AfterValidator(_parameter)]], at_most(50)]
Facts: TypeAlias = Annotated[dict[Name, Annotated[Any, AfterValidator(_fact)]], at_most(20)]
Labels: TypeAlias = Annotated[list[Any], AfterValidator(_labels)]
Size: TypeAlias = Annotated[int, Field(ge=0, le=1 << 40)]
Shape: TypeAlias = Annotated[list[Size], at_most(8)]
AT_MOST_TENSORS = at_most(10_000)
Dtype: TypeAlias = Literal["F64", "F32", "F16", "BF16", "I64", "I32", "I16", "I8", "U8", "BOOL"]
Digest: TypeAlias = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
