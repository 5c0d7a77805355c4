"""``make reference``: write the pages that follow from the code."""

from pathlib import Path

from reference.pages import pages

FOLDER = Path(__file__).parents[2] / "docs/reference"


def main() -> None:
    """Write every page; `tests/contracts/test_reference_pages.py` finds those that are not as the code has it."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
        print(FOLDER / name)


if __name__ == "__main__":
    main()
