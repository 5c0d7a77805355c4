"""The page of the command line, from the commands themselves."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import typer

from reference.markdown import code, prose, table
from superserve.cli import app

_HEAD = """\
# Command line

`superserve COMMAND --help` prints the same. Every command that prints a table writes it as JSON with `--json FILE`,
shows a progress bar when it takes longer than two seconds, and ends with 0 (done), 1 (failed) or 2 (usage: the message
names what to change). `python -m superserve` is the same program.

"""


class Command(NamedTuple):
    """A command and what it takes; typer's own classes differ between its versions, their attributes do not."""

    name: str
    help: str
    parameters: list[Any]


def commands() -> str:
    """Every command, in the order of ``superserve --help``."""
    return _HEAD + "\n".join(_section(command) for command in all_commands())


def all_commands() -> Iterator[Command]:
    """Every command, those of groups with the group's name before theirs."""
    yield from _below(typer.main.get_command(app), "")


def options_of(name: str) -> set[str]:
    """The options of a command."""
    (command,) = (command for command in all_commands() if command.name == name)
    return {option for parameter in command.parameters for option in parameter.opts}


def _below(command: Any, path: str) -> Iterator[Command]:  # noqa: ANN401  (see `Command`)
    children = getattr(command, "commands", None)
    if children is None:
        yield Command(path, command.help or "", command.params)
        return
    for name, child in children.items():
        yield from _below(child, f"{path} {name}".strip())


def _section(command: Command) -> str:
    rows = [_row(parameter) for parameter in command.parameters]
    body = table(("argument or option", "default", "meaning"), rows) if rows else ""
    usage = " ".join(["superserve", command.name, *filter(None, map(_in_usage, command.parameters)), "[OPTIONS]"])
    return f"## superserve {command.name}\n\n{prose(command.help)}\n\n```text\n{usage}\n```\n\n{body}"


def _option(parameter: Any) -> str:  # noqa: ANN401
    return next((name for name in parameter.opts if name.startswith("--")), "")


def _shown(parameter: Any) -> str:  # noqa: ANN401
    option = _option(parameter)
    if not option:
        return str(parameter.metavar or parameter.name.upper()).strip("[]")
    if parameter.is_flag:
        return " or ".join([option, *parameter.secondary_opts])
    return f"{option} {parameter.metavar or 'VALUE'}"


def _in_usage(parameter: Any) -> str:  # noqa: ANN401
    """What has to be given, and arguments that may be."""
    many = "..." if parameter.nargs == -1 else ""
    if parameter.required:
        return _shown(parameter) + many
    return "" if _option(parameter) else f"[{_shown(parameter)}{many}]"


def _row(parameter: Any) -> list[str]:  # noqa: ANN401
    meaning = parameter.help or ""
    if parameter.envvar:
        meaning = f"{meaning} Environment: {code(parameter.envvar)}."
    return [code(_shown(parameter)), _default(parameter), meaning]


def _default(parameter: Any) -> str:  # noqa: ANN401
    if parameter.required:
        return "required"
    return "" if parameter.default is None or parameter.is_flag else code(parameter.default)
