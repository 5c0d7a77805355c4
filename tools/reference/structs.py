"""Tables of the fields of msgspec structs: of the configuration, and of the files of a model folder."""

from collections.abc import Iterator
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import inspect as types

from reference.markdown import code, field_docs, table


class Row(NamedTuple):
    """A field as a table tells it."""

    name: str
    kind: str
    default: str
    meaning: str


def rows(kind: type[msgspec.Struct]) -> Iterator[Row]:
    """A row for each field."""
    info = types.type_info(kind)
    assert isinstance(info, types.StructType)
    docs = field_docs(kind)
    for field in info.fields:
        yield Row(field.name, words(field.type), _default(field), docs.get(field.name, ""))


def fields_table(kind: type[msgspec.Struct]) -> str:
    """All fields of a struct."""
    columns = ("field", "type", "default", "meaning")
    return table(columns, ([code(row.name), row.kind, row.default, row.meaning] for row in rows(kind)))


def _default(field: types.Field) -> str:
    if field.required:
        return "required"
    return "" if field.default in (None, msgspec.NODEFAULT, "", ()) else code(_toml(field.default))


def _toml(value: Any) -> str:  # noqa: ANN401  (a default may be anything)
    if isinstance(value, bool):
        return str(value).lower()
    return _number(value) if isinstance(value, int | float) else str(value)


def _number(value: float) -> str:
    """Of many digits in groups of three, as TOML takes them; ports stay as people know them."""
    return f"{value:_}" if value >= 100_000 else f"{value:g}"


_WORDS: Final[dict[type[types.Type], str]] = {
    types.StrType: "text",
    types.BoolType: "`true` or `false`",
    types.IntType: "integer",
    types.FloatType: "number",
    types.AnyType: "anything",
}


def words(kind: types.Type) -> str:
    """A type in words: ``integer, 0 to 65535``."""
    match kind:
        case types.Metadata(type=inner):
            said = words(inner)
        case types.UnionType(types=members):
            said = " or ".join(words(member) for member in members if not isinstance(member, types.NoneType))
        case types.LiteralType(values=values):
            said = " or ".join(code(value) for value in values)
        case types.VarTupleType(item_type=item):
            said = f"list of: {words(item)}"
        case types.TupleType(item_types=items):
            said = f"list of {len(items)}: {', '.join(words(item) for item in items)}"
        case types.DictType(value_type=value):
            said = f"object of: {words(value)}"
        case types.StructType(cls=struct):
            said = f"[{struct.__name__}](#{struct.__name__.lower()})"
        case types.IntType() | types.FloatType():
            said = _WORDS[type(kind)] + _bounds(kind)
        case _:
            said = _WORDS[type(kind)]
    return said


def _bounds(kind: types.IntType | types.FloatType) -> str:
    if kind.ge is not None and kind.le is not None:
        return f", {_number(kind.ge)} to {_number(kind.le)}"
    limits = (("at least", kind.ge), ("above", kind.gt), ("at most", kind.le), ("below", kind.lt))
    return "".join(f", {word} {_number(limit)}" for word, limit in limits if limit is not None)
