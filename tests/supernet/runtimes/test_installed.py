"""What is installed is found without importing it."""

from importlib import metadata

import pytest

from superserve.errors import ConfigError
from superserve.supernet.runtimes.installed import chosen, installed


def install(monkeypatch: pytest.MonkeyPatch, **versions: str) -> None:
    """Have just these distributions installed."""

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "version", version)


def test_a_runtime_counts_where_it_computes_in_the_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, onnx="1", onnxruntime="2", openvino="3")
    assert installed("float32") == {"onnxruntime": "2", "openvino": "3"}
    assert installed("bfloat16") == {"openvino": "3"}
    assert chosen(None, "bfloat16") == {"openvino": "3"}
    assert chosen(["openvino"], "float32") == {"openvino": "3"}
    assert chosen([], "float32") == {}


def test_nothing_can_be_exported_without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, onnxruntime="2", openvino="3")
    assert installed("float32") == {}


@pytest.mark.parametrize(
    ("names", "dtype", "words"),
    [
        (["tensorrt"], "float32", "runtime 'tensorrt' is not one of onnxruntime, openvino"),
        (["onnxruntime"], "bfloat16", "not used in bfloat16.* or pack in float32"),
        (["onnxruntime"], "float32", r"is not installed: pip install 'superserve\[runtimes\]'"),
    ],
)
def test_a_wish_that_cannot_be_granted_says_what_would_help(
    monkeypatch: pytest.MonkeyPatch, names: list[str], dtype: str, words: str
) -> None:
    install(monkeypatch, onnx="1", openvino="3")
    with pytest.raises(ConfigError, match=words):
        chosen(names, dtype)
