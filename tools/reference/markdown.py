"""Markdown out of names and docstrings."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Final

#: Packages of the classes that structs and enums are made of.
_WITHOUT_SOURCE: Final = frozenset({"builtins", "enum", "msgspec"})


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; what would end a cell or a row is escaped."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", " ".join(text.split()))


def code(text: object) -> str:
    """Text to be typed as it is; nothing of nothing."""
    return f"`{text}`" if str(text) else ""


def prose(docstring: str | None) -> str:
    """A docstring's words: its double backticks are reStructuredText's, Markdown has single ones."""
    return inspect.cleandoc(docstring or "").replace("``", "`")


def summary(documented: object) -> str:
    """The first paragraph of a docstring, on one line."""
    return " ".join(prose(documented.__doc__).partition("\n\n")[0].split())


def field_docs(kind: type) -> dict[str, str]:
    """The docstrings below the fields of a class (or the members of an enum) and of those that it inherits from."""
    found: dict[str, str] = {}
    for each in reversed(kind.__mro__):
        if each.__module__.partition(".")[0] not in _WITHOUT_SOURCE:
            found |= _own_field_docs(each)
    return found


def _own_field_docs(kind: type) -> dict[str, str]:
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found = {}
    for statement, following in zip(definition.body, definition.body[1:], strict=False):
        match statement, following:
            case (
                ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                found[name] = prose(text)
    return found
