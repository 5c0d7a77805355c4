"""This machine's processor, as Linux describes it in ``/proc/cpuinfo``."""

import hashlib
import platform
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

_CPUINFO: Final = Path("/proc/cpuinfo")

#: Lines that say what the processor is and can do (x86-64, arm64); others say how busy it is.
_TELLING: Final = ("model name", "flags", "Features", "CPU implementer", "CPU part")

#: Any of these multiplies bfloat16 in hardware: AVX-512 and AMX on x86-64, FEAT_BF16 on arm64.
_BFLOAT16: Final = frozenset({"avx512_bf16", "amx_bf16", "bf16"})

#: Any of these multiplies 8-bit integers and adds four products up in one instruction: VNNI on x86-64 (every processor
#: with AMX has it), the dot product and matrix extensions on arm64.
_INT8: Final = frozenset({"avx512_vnni", "avx_vnni", "asimddp", "i8mm"})


def cpu_name() -> str:
    """The processor's name as the operating system gives it."""
    return _described().get("model name") or platform.processor() or platform.machine()


def cpu_fingerprint() -> str:
    """A hash that differs between processors on which not all the same code runs."""
    found = {key: " ".join(sorted(value.split())) for key, value in _described().items()}
    text = f"{platform.machine()} {sorted(found.items())}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 itself; where it does not, bfloat16 is slower than float32."""
    return not _BFLOAT16.isdisjoint(_instruction_sets())


def has_int8() -> bool:
    """Whether the processor has instructions for 8-bit integers; where it has none, they are slower, or overflow."""
    return not _INT8.isdisjoint(_instruction_sets())


def _instruction_sets() -> list[str]:
    described = _described()
    return f"{described.get('flags', '')} {described.get('Features', '')}".split()


@cache
def _described() -> Mapping[str, str]:
    """The telling lines, of the first core that has them; empty where there is no such file."""
    if not _CPUINFO.is_file():
        return {}
    found: dict[str, str] = {}
    for line in _CPUINFO.read_text(errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in _TELLING and value.strip():
            found.setdefault(key.strip(), value.strip())
    return found
