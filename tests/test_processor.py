"""What /proc/cpuinfo says."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from superserve import processor

X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu {flags}\ncpu MHz\t\t: {mhz}\n\n"
ARM = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd {flags}\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n\n"


@pytest.fixture
def describe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(processor, "_CPUINFO", path)

    def write(text: str) -> None:
        path.write_text(text)
        processor._described.cache_clear()

    processor._described.cache_clear()
    yield write
    processor._described.cache_clear()


@pytest.mark.parametrize("layout", [X86, ARM])
@pytest.mark.parametrize(("flags", "has"), [("avx512_bf16", 1), ("amx_bf16 x", 1), ("bf16", 1), ("avx512f", 0)])
def test_bfloat16(describe: Callable[[str], None], layout: str, flags: str, has: int) -> None:
    describe(layout.format(flags=flags, mhz=1))
    assert processor.has_bfloat16() == bool(has)


@pytest.mark.parametrize(
    ("layout", "flags", "has"),
    [
        (X86, "avx512_vnni", True),
        (X86, "avx_vnni", True),
        (X86, "avx2 avx512f avx512_bf16", False),
        (ARM, "asimddp", True),
        (ARM, "i8mm", True),
        (ARM, "bf16", False),
    ],
)
def test_int8(describe: Callable[[str], None], layout: str, flags: str, has: bool) -> None:
    describe(layout.format(flags=flags, mhz=1))
    assert processor.has_int8() == has


def test_the_name_is_the_first_cores(describe: Callable[[str], None]) -> None:
    describe(X86.format(flags="a", mhz=1) + X86.format(flags="a", mhz=2).replace("Some", "Other"))
    assert processor.cpu_name() == "Some CPU"


@pytest.mark.parametrize("layout", [X86, ARM])
def test_the_fingerprint_tells_instruction_sets_apart_and_nothing_else(
    describe: Callable[[str], None], layout: str
) -> None:
    found = []
    for flags, mhz in (("a b", 1), ("b a", 2), ("a", 1)):
        describe(layout.format(flags=flags, mhz=mhz))
        found.append(processor.cpu_fingerprint())
    assert found[0] == found[1] != found[2]


def test_without_that_file_there_still_is_a_name(describe: Callable[[str], None]) -> None:
    assert processor.cpu_name()
    assert not processor.has_bfloat16()
    assert len(processor.cpu_fingerprint()) == 16
