"""The reference is what the code says."""

from pathlib import Path
from typing import Annotated

import msgspec
import pytest

from reference.commands import all_commands
from reference.pages import pages
from reference.structs import fields_table, rows
from superserve.serving.config import Config

REFERENCE = Path(__file__).parents[2] / "docs/reference"


@pytest.mark.parametrize(("name", "text"), pages().items(), ids=pages().keys())
def test_pages_are_up_to_date(name: str, text: str) -> None:
    """What `make reference` would write is there."""
    assert (REFERENCE / name).read_text() == text, "run `make reference`"


def test_every_key_of_the_configuration_has_a_meaning() -> None:
    """A docstring under each field."""
    text = pages()["configuration.md"]
    for section in Config.__struct_fields__:
        kind = type(getattr(Config(), section))
        if issubclass(kind, msgspec.Struct):
            assert all(row.meaning for row in rows(kind)), section
            assert all(f"| `{row.name}` |" in text for row in rows(kind)), section


def test_every_command_and_option_is_explained() -> None:
    """By its own help."""
    commands = list(all_commands())
    assert len(commands) > 15
    for command in commands:
        assert command.help, command.name
        for parameter in command.parameters:
            assert parameter.help, (command.name, parameter.name)


class Sample(msgspec.Struct):
    """Fields as structs have them."""

    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] = 80
    """Where it | listens."""
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    spec: tuple[tuple[str, float], ...] = ()


def test_types_are_told_in_words() -> None:
    """With their bounds; a field without a docstring has no meaning."""
    port, share, spec = rows(Sample)
    assert (port.kind, port.default) == ("integer, 0 to 65535", "`80`")
    assert port.meaning == "Where it | listens."
    assert "Where it \\| listens." in fields_table(Sample)
    assert (share.kind, share.default, share.meaning) == ("number, above 0, at most 1", "", "")
    assert spec.kind == "list of: list of 2: text, number"
