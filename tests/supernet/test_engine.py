from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from torch.nn import functional

from superserve.engine import Engine
from superserve.errors import ConfigError, ModelFolderError
from superserve.model_folder import CONFIG_FILE, ModelFolder, write_json
from superserve.supernet.engine import EagerEngine, channels_last
from superserve.supernet.extract import extract
from superserve.supernet.network import Supernet
from superserve.supernet.preprocess import parse_preprocessing
from support.supernets import pixels


def test_is_an_engine(folder: ModelFolder) -> None:
    engine: Engine = EagerEngine.load(folder)
    assert (engine.name, engine.dtype, engine.subnet_ids) == ("eager", "float32", ("s0", "s1", "s2"))


def test_runs_what_the_extracted_subnets_run(supernet: Supernet) -> None:
    engine, images = EagerEngine(supernet), pixels(4)
    (x,) = parse_preprocessing(supernet.config.preprocessing).build()([torch.from_numpy(images)])
    for index, record in enumerate(supernet.front.subnets):
        plain = extract(supernet.network, record.spec, supernet.statistics[record.id])
        (logits,) = engine.run(index, [images])
        assert logits.dtype == np.float32
        np.testing.assert_allclose(logits, plain(x).numpy(), rtol=1e-4, atol=1e-5)


def test_rows_do_not_depend_on_their_batch_mates(supernet: Supernet) -> None:
    engine, images = EagerEngine(supernet), pixels(7)
    (together,) = engine.run(1, [images])
    together = together.copy()
    alone = np.concatenate([engine.run(1, [images[row : row + 1]])[0] for row in range(7)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_switching_back_gives_identical_outputs(supernet: Supernet) -> None:
    engine, images = EagerEngine(supernet), pixels(3)
    first = engine.run(0, [images])[0].copy()
    engine.run(2, [images])
    engine.actuate(1)
    assert np.array_equal(engine.run(0, [images])[0], first)


def test_read_only_inputs_are_taken(supernet: Supernet) -> None:
    """Shared-memory slots may be mapped read-only; torch warns about those, and warnings are errors here."""
    images = pixels(2)
    images.flags.writeable = False
    assert EagerEngine(supernet).run(0, [images])[0].shape == (2, 5)


def test_bfloat16_inputs_are_bits_to_numpy_and_numbers_to_torch(supernet: Supernet) -> None:
    """The same pixels in either datatype give the same logits."""
    images = pixels(2)
    bits = torch.from_numpy(images).to(torch.bfloat16).view(torch.uint16).numpy()
    config = supernet.config
    inputs = (msgspec.structs.replace(config.inputs[0], datatype="BF16"),)
    half = replace(supernet, config=msgspec.structs.replace(config, inputs=inputs))
    assert bits.dtype == inputs[0].dtype
    np.testing.assert_array_equal(EagerEngine(half).run(0, [bits])[0], EagerEngine(supernet).run(0, [images])[0])


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("channels", [1, 2])
def test_activations_are_channels_last(rows: int, channels: int) -> None:
    """Half the latency of small subnets hangs on it; the strides of a one-channel input are ambiguous."""
    x = torch.zeros(rows, channels, 9, 9)
    y = functional.conv2d(channels_last(x), torch.zeros(4, channels, 3, 3))
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert not y.is_contiguous()


def test_the_network_is_given_channels_last(supernet: Supernet) -> None:
    engine, seen = EagerEngine(supernet), []
    supernet.network.register_forward_pre_hook(lambda _module, inputs: seen.extend(inputs))
    engine.run(0, [pixels(2)])
    assert seen[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"outputs": [{"name": "logits", "datatype": "FP32", "shape": [-1, 7]}]}, "correct `outputs`"),
        ({"outputs": [{"name": "logits", "datatype": "FP64", "shape": [-1, 5]}]}, "correct `outputs`"),
        ({"inputs": [{"name": "image", "datatype": "UINT8", "shape": [-1, 9, 9, 3]}]}, "row of zeros"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(folder: ModelFolder, change: dict[str, object], message: str) -> None:
    content = msgspec.to_builtins(folder.config) | change
    write_json(folder.path / CONFIG_FILE, msgspec.convert(content, type(folder.config)))
    with pytest.raises(ModelFolderError, match=f"{CONFIG_FILE}: .*{message}"):
        EagerEngine.load(ModelFolder(folder.path))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_cuda_is_refused(folder: ModelFolder) -> None:
    with pytest.raises(ConfigError, match=r"no GPU here .*--device cpu"):
        EagerEngine.load(folder, device="cuda")


def test_a_copy_in_a_devices_memory_computes_the_same(supernet: Supernet) -> None:
    """The way that weights and statistics take to a GPU, with the CPU as its end."""
    copy, images = supernet.to("cpu"), pixels(3)
    shared = {tensor.data_ptr() for tensor in supernet.network.parameters()}
    assert shared.isdisjoint(tensor.data_ptr() for tensor in copy.network.parameters())
    found, expected = EagerEngine(copy), EagerEngine(supernet)
    for subnet in range(3):
        np.testing.assert_array_equal(found.run(subnet, [images])[0], expected.run(subnet, [images])[0])
