"""The compiled engine: the extracted subnets' outputs, from the one copy of the weights."""

from pathlib import Path

import numpy as np
import pytest
import torch

from superserve.engine import Engine
from superserve.errors import ModelFolderError
from superserve.supernet.aot import EXAMPLE_ROWS, compile_module
from superserve.supernet.bound import bound_subnets
from superserve.supernet.builds import file_names
from superserve.supernet.compiled import CompiledEngine, CompiledModule, module_tensors
from superserve.supernet.engine import EagerEngine
from superserve.supernet.extract import extract
from superserve.supernet.hub import load_supernet
from superserve.supernet.preprocess import parse_preprocessing
from superserve.supernet.reduced import load_supernet_in
from support.compiled import CompiledFolder
from support.supernets import pixels


@pytest.fixture(scope="module")
def engine(compiled_folder: CompiledFolder) -> CompiledEngine:
    return CompiledEngine.load(compiled_folder.folder)


def test_is_an_engine(engine: CompiledEngine) -> None:
    interface: Engine = engine
    assert (interface.name, interface.dtype, interface.subnet_ids) == ("compiled", "float32", ("s0", "s1"))


@pytest.mark.parametrize("rows", [1, 2, 3, 7, 15, 16])
def test_every_batch_size_gives_what_the_extracted_subnets_give(
    engine: CompiledEngine, compiled_folder: CompiledFolder, rows: int
) -> None:
    """The trace saw four rows."""
    supernet, images = load_supernet(compiled_folder.folder), pixels(rows, seed=rows)
    (x,) = parse_preprocessing(supernet.config.preprocessing).build()([torch.from_numpy(images)])
    for index in (1, 0, 1):
        record = supernet.front.subnets[index]
        plain = extract(supernet.network, record.spec, supernet.statistics[record.id])
        (logits,) = engine.run(index, [images])
        np.testing.assert_allclose(logits, plain(x).numpy(), rtol=1e-4, atol=1e-5)


def test_rows_do_not_depend_on_their_batch_mates(engine: CompiledEngine) -> None:
    images = pixels(5)
    together = engine.run(1, [images])[0].copy()
    alone = np.concatenate([engine.run(1, [images[row : row + 1]])[0] for row in range(5)])
    np.testing.assert_allclose(together, alone, rtol=1e-4, atol=1e-5)


def test_the_code_of_all_subnets_reads_the_mapped_file(engine: CompiledEngine, compiled_folder: CompiledFolder) -> None:
    """Every weight lies in a mapping of the model's own file: nothing was copied."""
    spans = mapped(compiled_folder.folder.weights_path)
    assert spans
    for subnet in range(2):
        weights = [tensor for name, tensor in engine.constants(subnet).items() if name.startswith("network_")]
        assert len(weights) >= 10
        for tensor in weights:
            assert any(start <= tensor.data_ptr() and tensor.data_ptr() + tensor.nbytes <= end for start, end in spans)
    shared = [engine.constants(subnet)["network_classifier_weight"].data_ptr() for subnet in range(2)]
    assert shared[0] == shared[1]


def mapped(path: Path) -> list[tuple[int, int]]:
    """Where a file is mapped in this process."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(path.resolve())):
            start, _, end = line.split()[0].partition("-")
            found.append((int(start, 16), int(end, 16)))
    return found


def test_code_follows_the_tensors_that_it_reads(compiled_folder: CompiledFolder) -> None:
    """Proof that no matrix is baked in: with other weights the same code gives what the other network gives.

    Vectors of up to eight numbers are: AOTInductor makes literals of them.
    """
    supernet = load_supernet_in(compiled_folder.folder, "float32")
    supernet.network.load_state_dict(
        {name: 1.1 * tensor if tensor.dim() > 1 else tensor for name, tensor in supernet.network.state_dict().items()},
        assign=True,
    )
    images = pixels(3)
    for number, bound in enumerate(bound_subnets(supernet)):
        library, added = (compiled_folder.compiled.path / name for name in file_names(number))
        code = CompiledModule(library, module_tensors(bound), read(added))
        with torch.inference_mode():
            (found,), expected = code.run([torch.from_numpy(images)]), bound(torch.from_numpy(images))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def read(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file  # noqa: PLC0415

    return load_file(path)


def test_code_that_needs_what_the_model_lacks_is_refused(compiled_folder: CompiledFolder) -> None:
    library = compiled_folder.compiled.path / file_names(0)[0]
    with pytest.raises(ModelFolderError, match=r"0\.so: needs an unknown constant"):
        CompiledModule(library, {}, {})


def test_code_of_another_model_with_the_same_tensors_is_refused_when_loaded(
    compiled_folder: CompiledFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a family computes may have changed since: the ends of the front are compared with eager float32."""
    forward = EagerEngine.run
    monkeypatch.setattr(EagerEngine, "run", lambda self, subnet, inputs: [1.01 * forward(self, subnet, inputs)[0]])
    with pytest.raises(ModelFolderError, match=r"engine compiled .* differs from eager float32"):
        CompiledEngine.load(compiled_folder.folder)


# torch's compiler warns about parts of torch.
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_bfloat16_and_plain_modules_compile_too(compiled_folder: CompiledFolder, tmp_path: Path) -> None:
    """Weights in bfloat16 are mapped from one file as well; an extracted subnet is compiled in the same way."""
    whole = load_supernet(compiled_folder.folder)
    record, images = whole.front.subnets[0], torch.from_numpy(pixels(5))
    (bound,) = bound_subnets(load_supernet_in(compiled_folder.folder, "bfloat16"), "bfloat16", only=[0])
    plain = extract(whole.network, record.spec, whole.statistics[record.id])
    (x,) = parse_preprocessing(whole.config.preprocessing).build()([images])
    with torch.inference_mode():
        reduced = compile_module(bound, [images[:EXAMPLE_ROWS]], tmp_path / "reduced.so")
        static = compile_module(plain, [x[:EXAMPLE_ROWS]], tmp_path / "static.so")
        expected = plain(x)
        torch.testing.assert_close(static.run([x])[0], expected, rtol=1e-4, atol=1e-5)
        (found,) = reduced.run([images])
    assert found.dtype == torch.float32
    assert 1e-5 < float((found - expected).abs().max() / expected.abs().max()) < 5e-2
    assert reduced.constants["network_classifier_weight"].dtype == torch.bfloat16
    assert reduced.constants["network_stages_0_0_norm3_weight"].dtype == torch.float32
