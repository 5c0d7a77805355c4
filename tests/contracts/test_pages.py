"""Every page of the documentation is executed by a test, or it is said here why not."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOW_TO = ROOT / "docs/how-to"
HERE = ROOT / "tests/integration/test_how_to_pages.py"

#: Pages whose tests are elsewhere.
ELSEWHERE = {
    "convert-my-model.md": "tests/models/test_how_to_convert.py",
    "run-on-ray.md": "tests/ray_cluster/test_page.py",
    "serve-text.md": "tests/integration/test_serve_text_page.py",
}

#: What the others would need; and what tests do instead.
NOT_EXECUTED = {
    "deploy.md": "Docker and a cluster: tests/distribution does what one machine can",
    "trace-requests.md": "a collector: tests/integration/test_tracing.py plays one",
    "train-a-supernet.md": "a data set and hours: tests/training trains smaller ones",
}


def test_every_how_to_is_executed() -> None:
    """A page that no test runs would rot."""
    here = set(re.findall(r'(?:work_through|in_one_shell)\("([\w-]+\.md)"', HERE.read_text()))
    assert {path.name for path in HOW_TO.glob("*.md")} == here | set(ELSEWHERE) | set(NOT_EXECUTED)
    for page, test in ELSEWHERE.items():
        assert page in (ROOT / test).read_text()


def test_every_page_has_a_place_on_the_site() -> None:
    """In its navigation, once, but for what not every machine can write; `make docs` builds it and checks its links."""
    before, _, navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")
    listed = re.findall(r"[\w/-]+\.md", navigation)
    elsewhere = set(re.findall(r"[\w-][\w/-]*\.md", before.partition("\nnot_in_nav:")[2]))
    pages = {str(path.relative_to(ROOT)) for path in (ROOT / "docs").rglob("*.md")} | {
        path.name for path in ROOT.glob("*.md")
    }
    assert sorted(listed) == sorted(pages - elsewhere)


def test_every_command_of_the_readme_links_to_its_page() -> None:
    """What a command claims to do is shown somewhere; `make docs` finds links that lead nowhere."""
    section = (ROOT / "README.md").read_text().partition("## Commands")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| `superserve")]
    assert len(rows) > 10
    assert not [row for row in rows if "](docs/" not in row]
