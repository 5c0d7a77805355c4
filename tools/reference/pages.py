"""Which pages there are."""

from typing import Final

from reference.commands import commands
from reference.configuration import configuration
from reference.errors import errors
from reference.metrics import metrics
from reference.model_folder import model_folder

#: Said at the top of each page, where a browser does not show it.
NOTE: Final = "<!-- Made by `make reference` from the code; change that instead. -->\n\n"


def pages() -> dict[str, str]:
    """The content of each page by the name of its file."""
    made = {
        "commands.md": commands,
        "configuration.md": configuration,
        "errors.md": errors,
        "metrics.md": metrics,
        "model-folder.md": model_folder,
    }
    return {name: NOTE + make() for name, make in made.items()}
