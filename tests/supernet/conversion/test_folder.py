"""Converted models in model folders: saved, loaded with the user's code where that is allowed, and served."""

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch

from superserve.errors import ModelFolderError
from superserve.model_folder import ModelFolder, TensorSpec
from superserve.supernet.conversion import Conversion, convert
from superserve.supernet.engine import EagerEngine
from superserve.supernet.hub import load_supernet
from superserve.supernet.zoo.converted import ALLOW
from support.converted_folders import save_converted
from support.plain_models import Drawing, ResidualCnn, counting_transformer, randomised

PIXELS = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
BUILDER = "support.plain_models:ResidualCnn"


@pytest.fixture
def conversion() -> Conversion:
    return convert(randomised(ResidualCnn(hidden=16)), PIXELS)


@pytest.fixture
def folder(conversion: Conversion, tmp_path: Path) -> ModelFolder:
    inputs = TensorSpec("image", "FP32", (-1, 3, 16, 16))
    return save_converted(conversion, tmp_path / "mine", inputs, 5, builder=BUILDER, hidden=16)


def test_served_subnets_compute_what_the_converted_model_computes(
    conversion: Conversion, folder: ModelFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ALLOW, f"other:thing, {BUILDER}")
    engine = EagerEngine.load(folder)
    for number, record in enumerate(folder.front.subnets):
        conversion.actuate(record.spec)
        with torch.no_grad():
            expected = conversion.model(PIXELS)
        (found,) = engine.run(number, [PIXELS.numpy()])
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)


def test_attributes_follow_in_a_loaded_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = torch.randint(0, 20, (3, 6), generator=torch.Generator().manual_seed(0))
    conversion = convert(randomised(counting_transformer(2)), words)
    builder = "support.plain_models:counting_transformer"
    monkeypatch.setenv(ALLOW, builder)
    inputs = TensorSpec("ids", "INT64", (-1, 6))
    folder = save_converted(conversion, tmp_path / "words", inputs, 3, builder=builder, layers=2)
    engine = EagerEngine.load(folder)
    for number, record in enumerate(folder.front.subnets):
        conversion.actuate(record.spec)
        with torch.no_grad():
            expected = conversion.model(words)
        (found,) = engine.run(number, [words.numpy()])
        np.testing.assert_allclose(found, expected.numpy(), rtol=0, atol=1e-5)


def test_a_builder_that_draws_until_it_is_content_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading leaves out what initialises weights, but not what makes a builder go on."""
    rows = torch.randn(3, 8)
    builder = "support.plain_models:Drawing"
    monkeypatch.setenv(ALLOW, builder)
    folder = save_converted(
        convert(Drawing(), rows), tmp_path / "mine", TensorSpec("x", "FP32", (-1, 8)), 4, builder=builder
    )
    EagerEngine.load(folder)


def test_weights_of_a_loaded_model_are_the_files(folder: ModelFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The builder's own weights are gone: every process maps one copy."""
    monkeypatch.setenv(ALLOW, BUILDER)
    network = load_supernet(folder).network
    assert not any(parameter.requires_grad for parameter in network.parameters())
    with pytest.raises(RuntimeError):
        network.get_parameter("fc2.weight").untyped_storage().resize_(0)


@pytest.mark.parametrize("allowed", ["", "support.plain_models", "support.plain_models:MobileCnn", f"{BUILDER}x"])
def test_code_runs_only_where_its_very_name_is_allowed(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, allowed: str
) -> None:
    monkeypatch.setenv(ALLOW, allowed)
    with pytest.raises(ModelFolderError, match=f"not allowed to run: set {ALLOW}={BUILDER}"):
        load_supernet(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"builder": "support.nowhere:Net"}, "cannot be imported: No module named 'support.nowhere'"),
        ({"builder": "support.plain_models:Nothing"}, "cannot be imported: .* has no attribute 'Nothing'"),
        ({"builder": "nonsense"}, "cannot be imported"),
        ({"kwargs": {"hidden": 24}}, "module 'fc1' is 24 x 128, not 16 x 128"),
        ({"kwargs": {"wrong": 1}}, "failed: TypeError"),
        ({"builder": "support.plain_models:MobileCnn", "kwargs": {}}, "has no module"),
        ({"builder": "builtins:dict"}, "returned dict, not a torch module"),
        ({"plan": {"groups": 3}}, "Expected `array`, got `int`"),
    ],
)
def test_a_folder_that_does_not_fit_the_code_is_refused(
    folder: ModelFolder, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    path = folder.path / "config.json"
    config = msgspec.json.decode(path.read_bytes())
    config["architecture"] |= change
    path.write_bytes(msgspec.json.encode(config))
    monkeypatch.setenv(ALLOW, config["architecture"]["builder"])
    with pytest.raises(ModelFolderError, match=message):
        load_supernet(ModelFolder(folder.path))
