"""What must not be in the code or the repository: executable data, names in shared memory, key material."""

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import superserve

ROOT = Path(__file__).parents[2]
SOURCES = Path(superserve.__file__).parent

#: Modules that make objects, hence run code, out of bytes; and shared memory that others can open by a name.
FORBIDDEN = {"cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "multiprocessing.shared_memory"}

#: All that is wanted of pickle: what `torch.load` raises when it refuses a file.
ERROR = "UnpicklingError"

#: Forms of key material, in two parts, so that this file does not hold any.
SECRETS = [
    re.compile(begin + rest)
    for begin, rest in (
        ("-----BEGIN [A-Z ]*PRIVATE ", "KEY-----"),
        (r"\bAKIA", r"[0-9A-Z]{16}\b"),
        (r"\bgh[pousr]_", r"[A-Za-z0-9]{36}\b"),
        (r"\bgithub_", r"pat_[A-Za-z0-9_]{50,}"),
        (r"\bhf_", r"[A-Za-z0-9]{34}\b"),
        (r"\bxox[abprs]-", r"[A-Za-z0-9-]{10,}"),
        (r"\bsk-", r"[A-Za-z0-9]{32,}\b"),
        (r"\beyJ", r"[A-Za-z0-9_-]{20,}\.eyJ[A-Za-z0-9_-]{20,}\."),
    )
]


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_nothing_makes_objects_out_of_bytes() -> None:
    """No pickle and its kin, no eval, no exec; `torch.load` with ``weights_only`` alone."""
    found = []
    for file in SOURCES.rglob("*.py"):
        tree = ast.parse(file.read_bytes())
        found += [(file.name, name) for name in imported(tree) if name in FORBIDDEN]
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "pickle" and node.attr != ERROR:
                found.append((file.name, ast.unparse(node)))
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            if called in {"eval", "exec"}:
                found.append((file.name, called))
            safe = any(each.arg == "weights_only" and ast.unparse(each.value) == "True" for each in node.keywords)
            if called in {"torch.load", "np.load", "numpy.load"} and not safe:
                allows = any(
                    each.arg == "allow_pickle" and ast.unparse(each.value) != "False" for each in node.keywords
                )
                if called == "torch.load" or allows:
                    found.append((file.name, called))
    assert found == []


def tracked() -> list[Path]:
    git = shutil.which("git")
    if git is None or not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    listed = subprocess.run([git, "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True).stdout
    return [ROOT / name for name in listed.decode().split("\0") if name]


def test_no_key_material_is_tracked() -> None:
    """In text of any kind; binary files are weights and images."""
    found = []
    for file in tracked():
        if not file.is_file() or file.stat().st_size > 4_000_000:
            continue
        text = file.read_bytes().decode("latin-1")
        found += [(str(file.relative_to(ROOT)), pattern.pattern) for pattern in SECRETS if pattern.search(text)]
    assert found == []


@pytest.mark.parametrize(
    "text",
    ["-----BEGIN EC PRIVATE " + "KEY-----", "AKIA" + "A1" * 8, "ghp_" + "a" * 36, "hf_" + "B" * 34, "sk-" + "c1" * 20],
)
def test_it_would_be_found(text: str) -> None:
    assert any(pattern.search(f"key = '{text}'") for pattern in SECRETS)
