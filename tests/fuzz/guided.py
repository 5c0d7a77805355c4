"""Fuzz what reads bytes from clients, guided by coverage: ``make fuzz-codec``.

Atheris mutates the choices behind the examples of our own hypothesis tests and keeps those that reach new code of the
front ends. What it finds is saved as ``crash-...`` in the working directory; `guided.py TARGET crash-...` repeats it.
Usage: guided.py TARGET [libFuzzer's arguments, such as -max_total_time=600].
"""

import importlib
import sys
from collections.abc import Callable
from typing import Any, Final

import atheris

#: Module and test of each target.
TARGETS: Final = {
    "http": ("frontend.test_http_fuzz", "test_whatever_comes_is_answered_or_refused"),
    "infer": ("frontend.test_http_fuzz", "test_an_infer_request_is_served_or_refused_by_name"),
    "grpc": ("frontend.grpc.test_codec_fuzz", "test_a_message_is_served_or_refused_in_the_protocols_words"),
}


def main(name: str, *arguments: str) -> None:
    """Fuzz until the time is over or something is found; the exit status is libFuzzer's."""
    module, test = TARGETS[name]
    with atheris.instrument_imports(include=["superserve.frontend", "superserve.protocol", "superserve.serving"]):
        found: Any = getattr(importlib.import_module(module), test)
    run: Callable[[bytes], Any] = found.hypothesis.fuzz_one_input
    atheris.Setup([sys.argv[0], *arguments], run)
    atheris.Fuzz()


if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"usage: guided.py {'|'.join(TARGETS)} [libFuzzer's arguments]")
    main(*sys.argv[1:])
