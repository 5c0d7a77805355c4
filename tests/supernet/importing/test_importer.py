"""From checkpoint files to model folders that an engine runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from superserve.errors import CheckpointError, ConfigError, SuperServeError
from superserve.model_folder import ModelFolder
from superserve.supernet.actuator import apply, bind
from superserve.supernet.engine import EagerEngine
from superserve.supernet.hub import load_supernet
from superserve.supernet.importing import FAMILIES, Serving, Source, import_model, importer
from superserve.supernet.zoo.dynabert import DynaBert
from superserve.supernet.zoo.ofa_mobile import OfaMobileConfig
from superserve.supernet.zoo.ofa_mobilenet import OfaMobileNetV3Config
from superserve.supernet.zoo.ofa_proxyless import OfaProxylessConfig
from support.checkpoints import BERT, BERT_SETTINGS, bert_state, texts

SERVING = Serving(name="m", tokens=8)


def _bert_folder(path: Path, state: dict[str, Tensor] | None = None, **settings: Any) -> Path:
    path.mkdir()
    torch.save(bert_state() if state is None else state, path / "pytorch_model.bin")
    (path / "config.json").write_text(json.dumps(BERT_SETTINGS | settings))
    return path


def _import_bert(tmp_path: Path, **arguments: Any) -> Any:
    source = arguments.pop("source", None) or Source(folder=_bert_folder(tmp_path / "bert"))
    if "data" not in arguments:
        arguments["data"] = texts(tmp_path / "data.npz")
    return import_model("dynabert", source, tmp_path / "out", **{"serving": SERVING, **arguments})


def test_a_bert_folder_becomes_a_model(tmp_path: Path) -> None:
    report = _import_bert(tmp_path, subnets=12)
    folder = ModelFolder(tmp_path / "out")
    assert [tensor.name for tensor in folder.config.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    rows = len(load_supernet(folder).network.state_dict()["bert.embeddings.word_embeddings.weight"])
    assert [tensor.range for tensor in folder.config.inputs] == [(0, rows - 1), (0, 1), (0, 1)]
    assert folder.config.labels == ("contradiction", "entailment", "neutral")
    assert folder.config.dataset == "GLUE mnli"
    assert folder.front.measured_on == "data.npz, 30 examples"
    assert (len(report.subnets), report.renamed, report.calibration_rows) == (12, 0, 0)
    served = [row.id for row in report.subnets if row.served]
    assert served == [record.id for record in folder.front.subnets]
    engine, inputs = EagerEngine.load(folder), dict(np.load(tmp_path / "data.npz"))
    labels = inputs.pop("labels")
    for index, record in enumerate(folder.front.subnets):
        logits = engine.run(index, [inputs[tensor.name] for tensor in folder.config.inputs])[0]
        assert record.accuracy == pytest.approx(100 * (logits.argmax(1) == labels).mean(), abs=0.01)
        assert record.accuracy_n == 30


def test_the_weights_are_the_checkpoints(tmp_path: Path) -> None:
    _import_bert(tmp_path)
    supernet = load_supernet(ModelFolder(tmp_path / "out"))
    whole = DynaBert(BERT)
    whole.load_state_dict(bert_state())
    spec = whole.space.largest()
    tokens = torch.arange(8).view(1, 8)
    outputs = []
    for network in (whole, supernet.network):
        apply(bind(network, spec, {}))
        outputs.append(network(tokens, torch.ones_like(tokens)))
    assert torch.equal(outputs[0], outputs[1])


def _renamed(rename: Callable[[str], str]) -> dict[str, Tensor]:
    return {rename(name): tensor for name, tensor in bert_state().items()}


@pytest.mark.parametrize(
    "rename",
    [
        lambda name: name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"),
        lambda name: name.removeprefix("bert."),
        lambda name: f"module.{name}",
    ],
    ids=["gamma and beta", "no prefix", "data parallel"],
)
def test_older_names_are_understood(tmp_path: Path, rename: Callable[[str], str]) -> None:
    _import_bert(tmp_path, source=Source(folder=_bert_folder(tmp_path / "bert", _renamed(rename))))
    state = load_supernet(ModelFolder(tmp_path / "out")).network.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in bert_state().items())


def test_positions_of_old_files_are_left_out(tmp_path: Path) -> None:
    state = bert_state() | {"bert.embeddings.position_ids": torch.arange(16)}
    report = _import_bert(tmp_path, source=Source(folder=_bert_folder(tmp_path / "bert", state)))
    assert report.ignored == ("bert.embeddings.position_ids",)


def test_single_texts_need_no_segments(tmp_path: Path) -> None:
    source = Source(folder=_bert_folder(tmp_path / "bert", finetuning_task="sst-2"))
    _import_bert(tmp_path, source=source, data=texts(tmp_path / "data.npz", types=False))
    assert len(ModelFolder(tmp_path / "out").config.inputs) == 2


def _listed(tmp_path: Path, entries: list[dict[str, Any]], **more: Any) -> Path:
    (tmp_path / "subnets.json").write_text(json.dumps({"subnets": entries, **more}))
    return tmp_path / "subnets.json"


SMALL = {"id": "small", "arch": {"depth_mult": 0.5, "width_mult": 0.25}, "accuracy": 80.0, "accuracy_n": 9815}
LARGE = {"id": "large", "arch": {"depth_mult": 1.0, "width_mult": 1.0}, "accuracy": 85.0, "accuracy_n": 9815}
WORSE = {"id": "worse", "arch": {"depth_mult": 1.0, "width_mult": 0.5}, "accuracy": 79.0, "accuracy_n": 9815}


def test_accuracies_may_be_given(tmp_path: Path) -> None:
    subnets = _listed(tmp_path, [LARGE, WORSE, SMALL], measured_on="MNLI, matched development set")
    report = _import_bert(tmp_path, data=None, subnets=subnets)
    front = ModelFolder(tmp_path / "out").front
    assert front.measured_on == "MNLI, matched development set"
    assert [(record.id, record.accuracy, record.accuracy_n) for record in front.subnets] == [
        ("small", 80.0, 9815),
        ("large", 85.0, 9815),
    ]
    assert [row.id for row in report.subnets if not row.served] == ["worse"]
    assert any("worse" in line and "left out" in line for line in report.lines())


@pytest.mark.parametrize(
    ("entries", "more", "message"),
    [
        ([LARGE], {}, "without `measured_on`"),
        ([LARGE, LARGE], {"measured_on": "x"}, "distinct ids"),
        ([], {}, "must be present"),
        ([{"id": "a"}], {}, "either `arch` or `spec`"),
        ([LARGE | {"arch": {"depth_mult": 0.6, "width_mult": 1.0}}], {"measured_on": "x"}, "subnet 'large': depth 2"),
        ([LARGE | {"arch": {"depth_mult": 1.0}}], {"measured_on": "x"}, "subnet 'large': .*width_mult"),
        ([LARGE | {"arch": {"d": 1}}], {"measured_on": "x"}, "subnet 'large'"),
        ([LARGE | {"speed": 1}], {"measured_on": "x"}, "unknown field `speed`"),
        ([{"id": "a", "arch": LARGE["arch"]}], {}, "accuracy of each subnet is unknown"),
    ],
)
def test_unfit_lists_of_subnets_are_named(
    tmp_path: Path, entries: list[dict[str, Any]], more: dict[str, Any], message: str
) -> None:
    if "depth 2" in message:
        entries = [{**entries[0], "arch": {"depth_mult": 0.25, "width_mult": 1.0}}]
        message = "subnet 'large': depth 1"
    with pytest.raises(ConfigError, match=message):
        _import_bert(tmp_path, data=None, subnets=_listed(tmp_path, entries, **more))
    assert not (tmp_path / "out").exists()


def _damaged(name: str, tensor: Tensor | None) -> dict[str, Tensor]:
    state = bert_state()
    if tensor is None:
        del state[name]
        return state
    return state | {name: tensor}


@pytest.mark.parametrize(
    ("state", "message"),
    [
        (lambda: _damaged("bert.pooler.dense.bias", None), "'bert.pooler.dense.bias' is missing"),
        (lambda: _damaged("classifier.weight", torch.ones(3, 23)), r"'classifier.weight' is .*not float \(3, 24\)"),
        (lambda: _damaged("distillation.weight", torch.ones(1)), "'distillation.weight' .*has no place"),
        (lambda: _damaged("classifier.bias", torch.full((3,), torch.inf)), "not finite"),
        (lambda: _damaged("classifier.bias", None), "'classifier.bias' is missing"),
        (lambda: {"input_stem.0.conv.weight": torch.ones(1)}, "looks like one of family 'ofa_resnet50'"),
        (lambda: _damaged("classifier.bias", torch.ones(1)) | {"classifier.weight": torch.ones(1, 24)}, "regression"),
    ],
)
def test_unfit_checkpoints_are_named(tmp_path: Path, state: Callable[[], dict[str, Tensor]], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        _import_bert(tmp_path, source=Source(folder=_bert_folder(tmp_path / "bert", state())))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"source": Source()}, "exactly one"),
        ({"source": Source(checkpoint=Path("a"), folder=Path("b"))}, "exactly one"),
        ({"source": Source(folder=Path("/nonexistent"))}, "no such folder"),
        ({"source": Source(download="QNLI")}, "no published variant 'QNLI'; there are MNLI, SST-2"),
        ({"data": Path("/nonexistent.npz")}, "no such file or folder of examples"),
        ({"data": None}, "accuracy of each subnet is unknown"),
        ({"subnets": 0}, "not a positive number"),
        ({"subnets": Path("/nonexistent.json")}, "No such file"),
        ({"calibrate_with": Path("x.npz")}, "nothing to calibrate"),
        ({"serving": Serving(name="m", tokens=17)}, "more than the 16"),
        ({"serving": Serving(name="m", tokens=8, labels=("a", "b"))}, "2 given for the 3 classes"),
    ],
)
def test_unfit_arguments_are_named(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SuperServeError, match=message):
        _import_bert(tmp_path, **arguments)
    assert not (tmp_path / "out").exists()


def test_data_without_labels_measures_nothing(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="has no labels"):
        _import_bert(tmp_path, data=texts(tmp_path / "data.npz", labels=False))


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ConfigError, match="out exists"):
        _import_bert(tmp_path)


def test_an_unknown_family_lists_the_known(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'resnet' cannot be imported; there are ofa_resnet50"):
        import_model("resnet", Source(), tmp_path / "out")


def test_a_failure_while_writing_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(EagerEngine, "load", full)
    with pytest.raises(OSError, match="No space"):
        _import_bert(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bert", "data.npz"]


@pytest.mark.parametrize(
    "error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes")]
)
def test_running_out_of_memory_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def exhausted(_path: Path) -> None:
        raise error

    monkeypatch.setattr(importer, "open_checkpoint", exhausted)
    with pytest.raises(CheckpointError, match="not enough memory"):
        _import_bert(tmp_path)


# Families with batch normalisation and elastic kernels. Sizes are the published ones: checkpoints of 20 and 30 MB.


def _old_checkpoint(family: str, architecture: OfaMobileConfig, path: Path) -> Path:
    """Random weights in the old layout, with statistics that are of no use."""
    ours = FAMILIES[family]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ours.network(architecture)
    state = network.state_dict()
    tensors = {list(theirs)[-1]: state[name] for name, theirs in ours.names(network)}
    torch.save({"state_dict": tensors | {"first_conv.bn.running_mean": torch.ones(16)}}, path)
    return path


@pytest.fixture(scope="module")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("mobilenet") / "checkpoint.pth"
    return _old_checkpoint("ofa_mobilenet_v3", OfaMobileNetV3Config(classes=3), path)


def _images(path: Path, rows: int, size: int = 32) -> Path:
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (rows, size, size, 3), dtype=np.uint8)
    np.savez(path, inputs=pixels, labels=rng.integers(0, 3, rows))
    return path


def _import_mobilenet(checkpoint: Path, tmp_path: Path, family: str = "ofa_mobilenet_v3", **arguments: Any) -> Any:
    data = _images(tmp_path / "images.npz", 70)
    defaults: dict[str, Any] = {
        "calibrate_with": data, "data": data, "subnets": 3, "serving": Serving(name="mobile", image_size=32),
    }  # fmt: skip
    return import_model(family, Source(checkpoint=checkpoint), tmp_path / "out", **defaults | arguments)


def test_each_subnet_is_calibrated_as_served(mobilenet: Path, tmp_path: Path) -> None:
    calls: list[tuple[str, int, int]] = []
    report = _import_mobilenet(mobilenet, tmp_path, report=lambda *call: calls.append(call))
    assert report.renamed > 200
    assert report.ignored == ("first_conv.bn.running_mean",)
    assert report.calibration_rows == 70
    assert report.small_kernel_bytes > 0
    assert [call for call in calls if call[0] == "calibrate"] == [("calibrate", step, 3) for step in (1, 2, 3)]
    supernet = load_supernet(ModelFolder(tmp_path / "out"))
    pixels = torch.from_numpy(np.load(tmp_path / "images.npz")["inputs"]).permute(0, 3, 1, 2)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    x = (pixels / 255 - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    first = torch.nn.functional.conv2d(x, supernet.network.get_parameter("stem.weight"), stride=2, padding=1)
    for statistics in supernet.statistics.values():
        torch.testing.assert_close(statistics["stem_norm"].mean, first.mean((0, 2, 3)), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            statistics["stem_norm"].variance, first.var((0, 2, 3), correction=0), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"calibrate_with": None}, "give training examples to calibrate with"),
        ({"serving": Serving(name="m", image_size=48)}, r"'image' is uint8 \(70, 32, 32, 3\), but the model takes"),
        ({"serving": Serving(name="m", image_size=32, pixels="rgb")}, "pixels 'rgb' is not one of uint8, float32"),
    ],
)
def test_unfit_calibration_is_named(mobilenet: Path, tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(SuperServeError, match=message):
        _import_mobilenet(mobilenet, tmp_path, **arguments)
    assert not (tmp_path / "out").exists()


def test_too_few_calibration_examples_are_refused(mobilenet: Path, tmp_path: Path) -> None:
    few = _images(tmp_path / "few.npz", 63)
    with pytest.raises(CheckpointError, match=r"few.npz: 63 examples are too few"):
        _import_mobilenet(mobilenet, tmp_path, calibrate_with=few)


def test_no_more_examples_are_calibrated_with_than_ofa_takes(
    mobilenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importer, "CALIBRATION_ROWS", 66)
    assert _import_mobilenet(mobilenet, tmp_path, subnets=1).calibration_rows == 66


def test_a_checkpoint_of_another_family_is_recognised(mobilenet: Path, tmp_path: Path) -> None:
    for family in ("ofa_resnet50", "ofa_proxyless", "dynabert"):
        with pytest.raises(CheckpointError, match="looks like one of family 'ofa_mobilenet_v3'"):
            import_model(family, Source(checkpoint=mobilenet), tmp_path / "out")


def test_a_proxyless_checkpoint_becomes_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the smallest subnet, from a few images: what calibration computes is shown above."""
    monkeypatch.setattr(importer, "MIN_CALIBRATION_ROWS", 4)
    few = _images(tmp_path / "few.npz", 4)
    entry = {"id": "s0", "arch": {"ks": 3, "e": 3, "d": [2, 2, 2, 2, 2, 1]}, "accuracy": 71.0, "accuracy_n": 50000}
    checkpoint = _old_checkpoint("ofa_proxyless", OfaProxylessConfig(classes=3), tmp_path / "checkpoint.pth")
    subnets = _listed(tmp_path, [entry], measured_on="ImageNet, validation")
    report = _import_mobilenet(
        checkpoint, tmp_path, family="ofa_proxyless", subnets=subnets, calibrate_with=few, data=None
    )
    assert (report.architecture["classes"], report.architecture["width_mult"]) == (3, 1.3)
    assert report.renamed > 200
    supernet = load_supernet(ModelFolder(tmp_path / "out"))
    assert supernet.statistics["s0"]["mix_norm"].mean.shape == (1664,)
    with pytest.raises(CheckpointError, match="looks like one of family 'ofa_proxyless'"):
        import_model("ofa_mobilenet_v3", Source(checkpoint=checkpoint), tmp_path / "other")


@pytest.mark.parametrize(
    ("family", "told_by", "message"),
    [
        ("ofa_mobilenet_v3", "final_expand_layer.bn.weight", r"has 8 channels: .* 960 \(width 1.0\) or 1152 "),
        ("ofa_proxyless", "feature_mix_layer.bn.weight", r"has 8 channels: .* have 1664 \(width 1.3\)$"),
    ],
)
def test_a_width_that_is_not_published_is_named(tmp_path: Path, family: str, told_by: str, message: str) -> None:
    torch.save({told_by: torch.ones(8), "classifier.linear.bias": torch.ones(3)}, tmp_path / "narrow.pth")
    with pytest.raises(CheckpointError, match=f"{told_by} {message}"):
        _import_mobilenet(tmp_path / "narrow.pth", tmp_path, family=family)
