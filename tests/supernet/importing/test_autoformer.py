"""From AutoFormer's checkpoints to model folders; what the networks compute is tested in ../zoo/test_autoformer.py."""

import json
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import torch
from torch import Tensor

from superserve.errors import CheckpointError, SuperServeError
from superserve.model_folder import ModelFolder
from superserve.supernet.engine import EagerEngine
from superserve.supernet.importing import Serving, Source, import_model
from superserve.supernet.importing.autoformer import AutoFormerImporter, biases_by_heads, head_by_head
from superserve.supernet.importing.checkpoint import Picker
from superserve.supernet.zoo.autoformer import AutoFormerConfig
from support.autoformer import SETTINGS, Options, Sample, Sizes, autoformer_forward, autoformer_shapes, autoformer_state

SIZES = Sizes()
SMALL = {"layer_num": 1, "embed_dim": [12], "num_heads": 1, "mlp_ratio": [1.5]}
LARGE = {"layer_num": 3, "embed_dim": [24, 24, 24], "num_heads": [3, 2, 3], "mlp_ratio": 2.0}


def _folder(path: Path, state: dict[str, Tensor], settings: dict[str, Any], **beside: Any) -> Path:
    path.mkdir()
    torch.save({"model": state, "epoch": 499, **beside}, path / "supernet-tiny.pth")
    (path / "config.json").write_text(json.dumps(settings))
    return path


def _images(path: Path, rows: int = 20) -> Path:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (rows, SIZES.image, SIZES.image, 3), dtype=np.uint8)
    np.savez(path, inputs=pixels, labels=rng.integers(0, SIZES.classes, rows))
    return path


def _read(state: dict[str, Tensor] | None = None, settings: dict[str, Any] | None = None) -> AutoFormerConfig:
    picker = Picker(state or autoformer_state(), Path("net.pth"), SETTINGS if settings is None else settings)
    return AutoFormerImporter().read(picker)[0]


def _list(path: Path, **subnets: dict[str, Any]) -> Path:
    entries = [{"id": name, "arch": arch} for name, arch in subnets.items()]
    path.write_text(json.dumps({"subnets": entries}))
    return path


def test_a_checkpoint_becomes_a_model_that_computes_the_same(tmp_path: Path) -> None:
    state, data = autoformer_state(), _images(tmp_path / "images.npz")
    source = Source(folder=_folder(tmp_path / "given", state, SETTINGS))
    subnets = _list(tmp_path / "subnets.json", small=SMALL, large=LARGE)
    report = import_model("autoformer", source, tmp_path / "out", data=data, subnets=subnets)
    assert (report.calibration_rows, report.renamed, report.ignored) == (0, 0, ())
    folder = ModelFolder(tmp_path / "out")
    assert folder.config.inputs[0].shape == (-1, 24, 24, 3)
    pixels, labels = np.load(data)["inputs"], np.load(data)["labels"]
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = ((torch.from_numpy(pixels) / 255 - mean) / std).permute(0, 3, 1, 2)
    engine, served = EagerEngine.load(folder), [row.id for row in report.subnets if row.served]
    samples = {"small": Sample(1, 12, [1], [1.5]), "large": Sample(3, 24, [3, 2, 3], [2.0] * 3)}
    for row in report.subnets:
        expected = autoformer_forward(state, x, samples[row.id], Options(), patch=8, heads=3)
        assert row.accuracy == pytest.approx(100 * (expected.argmax(1).numpy() == labels).mean(), abs=0.01)
        if row.served:
            (logits,) = engine.run(served.index(row.id), [pixels])
            torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)


def test_there_is_nothing_to_calibrate(tmp_path: Path) -> None:
    source = Source(folder=_folder(tmp_path / "given", autoformer_state(), SETTINGS))
    with pytest.raises(SuperServeError, match="nothing to calibrate"):
        import_model("autoformer", source, tmp_path / "out", calibrate_with=tmp_path / "images.npz")


@pytest.mark.parametrize(("settings", "expected"), [({}, (False, False)), ({"gp": True}, (False, True))])
def test_options_of_training_are_those_that_the_checkpoint_stores(
    tmp_path: Path, settings: dict[str, Any], expected: tuple[bool, bool]
) -> None:
    """AutoFormer's script stores its command line; ``config.json`` has the last word."""
    space = SETTINGS["search_space"] | {"num_heads": [3]}
    stored = Namespace(gp=False, change_qkv=False, lr=5e-4, data_path="./imagenet", teacher_model="", gpu=None)
    folder = _folder(tmp_path / "given", autoformer_state(), SETTINGS | {"search_space": space} | settings, args=stored)
    data, subnets = _images(tmp_path / "images.npz"), _list(tmp_path / "subnets.json", only=SMALL | {"num_heads": 3})
    import_model("autoformer", Source(folder=folder), tmp_path / "out", data=data, subnets=subnets)
    architecture = ModelFolder(tmp_path / "out").config.architecture
    assert (architecture["change_qkv"], architecture["gp"]) == expected


def test_the_published_supernets_are_known_by_their_sizes() -> None:
    """What no file says stands in AutoFormer's configuration files."""
    found = {}
    for width, layers, heads in ((256, 14, 4), (448, 14, 7), (640, 16, 10)):
        shapes = autoformer_shapes(Sizes(32, 16, width, heads, 4 * width, layers, 14, 10), Options())
        state = {name: torch.zeros(1).expand(shape) for name, shape in shapes.items()}
        config = AutoFormerImporter().architecture(Picker(state, Path("net.pth"), {}))
        assert (config.width, config.depths[-1], config.head_width) == (width, layers, 64)
        assert (config.change_qkv, config.relative_position, config.gp, config.scale) == (True, True, True, False)
        found[width] = (config.embed_dims, config.heads, config.mlp_ratios, config.depths)
    assert found == {
        256: ((192, 216, 240), (3, 4), (3.5, 4.0), (12, 13, 14)),
        448: ((320, 384, 448), (5, 6, 7), (3.0, 3.5, 4.0), (12, 13, 14)),
        640: ((528, 576, 624), (9, 10), (3.0, 3.5, 4.0), (14, 15, 16)),
    }


def test_shapes_say_what_is_there() -> None:
    config = _read()
    assert (config.image_size, config.patch, config.classes, config.max_relative_position) == (24, 8, 4, 1)
    assert (config.relative_position, config.abs_pos) == (True, True)
    bare = _read(
        autoformer_state(options=Options(relative_position=False, abs_pos=False)), SETTINGS | {"input_size": 32}
    )
    assert (bare.relative_position, bare.abs_pos, bare.image_size) == (False, False, 32)


def test_fused_projections_are_reordered_once() -> None:
    """Rows are numbered by AutoFormer's order; two heads of two channels, queries, keys and values in turns."""
    config = AutoFormerConfig(width=4, embed_dims=(4,), heads=(1, 2), mlp_ratios=(1.0,), depths=(1,))
    rows = torch.arange(12.0)
    assert head_by_head(rows[:, None].expand(12, 4), config)[:, 0].tolist() == [0, 3, 1, 4, 2, 5, 6, 9, 7, 10, 8, 11]
    assert biases_by_heads(rows, config).tolist() == [
        [0, 1, 2, 3, 4, 5, 0, 0, 0, 0, 0, 0],
        [0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11],
    ]
    whole = msgspec.structs.replace(config, heads=(2,), change_qkv=False)
    assert head_by_head(rows[:, None].expand(12, 4), whole)[:, 0].tolist() == [0, 1, 4, 5, 8, 9, 2, 3, 6, 7, 10, 11]


def _changed(name: str, tensor: Tensor | None) -> Callable[[], dict[str, Tensor]]:
    def state() -> dict[str, Tensor]:
        rest = {key: value for key, value in autoformer_state().items() if key != name}
        return rest if tensor is None else rest | {name: tensor}

    return state


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (_changed("blocks.1.attn.qkv.bias", None), "'blocks.1.attn.qkv.bias' is missing"),
        (_changed("cls_token", torch.ones(1, 2, 24)), r"'cls_token' is .*not float \(1, 1, 24\)"),
        (_changed("blocks.0.attn.qkv.weight", torch.ones(24, 24)), r"not float \(72, 24\)"),
        (_changed("dist_token", torch.ones(1, 1, 24)), "'dist_token' .*has no place"),
        (_changed("pos_embed", torch.ones(1, 8, 24)), "7 patches: only square"),
        (_changed("patch_embed_super.proj.weight", torch.ones(24, 1, 8, 8)), "1 channels: only .* colour"),
        (_changed("patch_embed_super.proj.weight", None), "'patch_embed_super.proj.weight' is missing"),
        (lambda: {"input_stem.0.conv.weight": torch.ones(1)}, "looks like one of family 'ofa_resnet50'"),
    ],
)
def test_unfit_checkpoints_are_named(state: Callable[[], dict[str, Tensor]], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        _read(state())


SPACE = SETTINGS["search_space"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "3 layers of width 24 are none of the published .*`search_space`"),
        ({"search_space": SPACE}, r"num_heads \[1, 2, 3\] must end with 0, .* `num_heads`"),
        (SETTINGS | {"search_space": SPACE | {"depth": [1, 2]}}, r"depth \[1, 2\] must end with 3"),
        (SETTINGS | {"search_space": SPACE | {"mlp_ratio": [4.0]}}, r"mlp_ratio \[4.0\] must end with 2"),
        (SETTINGS | {"search_space": SPACE | {"embed_dim": [12, 32]}}, "not exceed width 24"),
        (SETTINGS | {"search_space": SPACE | {"layers": [1]}}, "unknown field `layers`"),
        (SETTINGS | {"gp": "yes"}, "config.json of the checkpoint, or its arguments: .*gp"),
        (SETTINGS | {"change_qkv": False}, "one number without change_qkv"),
    ],
)
def test_unfit_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        _read(settings=settings)


def test_images_have_the_size_that_positions_are_for(tmp_path: Path) -> None:
    source = Source(folder=_folder(tmp_path / "given", autoformer_state(), SETTINGS))
    with pytest.raises(SuperServeError, match="image_size 32: the checkpoint takes images of 24 pixels only"):
        import_model("autoformer", source, tmp_path / "out", serving=Serving(name="m", image_size=32))
    assert not (tmp_path / "out").exists()


def test_its_checkpoints_are_recognised_by_other_families(tmp_path: Path) -> None:
    source = Source(checkpoint=_folder(tmp_path / "given", autoformer_state(), SETTINGS) / "supernet-tiny.pth")
    with pytest.raises(CheckpointError, match="looks like one of family 'autoformer'"):
        import_model("dynabert", source, tmp_path / "out")
