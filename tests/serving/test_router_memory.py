"""The settings of the router's memory, each tried in a process of its own: they hold for all of it."""

import subprocess
import sys
from pathlib import Path

import pytest

#: How often the garbage collector looks at everything, while more comes to stay.
COLLECTIONS = """
import gc
import superserve.frontend.server
from superserve.serving.router_memory import settle_memory

settle_memory()
gc.set_threshold(100, 2, 2)
before = gc.get_stats()[2]["collections"]
kept = [[] for _ in range(5_000)]
print(gc.get_stats()[2]["collections"] - before)
"""

#: In how many heaps threads allocate.
HEAPS = """
import ctypes, sys, threading
from superserve.serving.router_memory import use_one_arena

use_one_arena()
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.fopen.restype = ctypes.c_void_p
all_there = threading.Barrier(4)

def allocate():
    all_there.wait()
    libc.malloc(1_000)
    all_there.wait()

threads = [threading.Thread(target=allocate) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
out = ctypes.c_void_p(libc.fopen(sys.argv[1].encode(), b"w"))
libc.malloc_info(0, out)
libc.fclose(out)
print(open(sys.argv[1]).read().count("<heap nr="))
"""


def said(program: str, *arguments: str) -> int:
    ran = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True)
    return int(ran.stdout)


def test_what_came_to_stay_is_looked_at_however_much_was_imported() -> None:
    """Else a model that was loaded and unloaded would be garbage that nobody collects."""
    assert said(COLLECTIONS) > 0


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's")
def test_all_threads_allocate_from_one_heap(tmp_path: Path) -> None:
    """Each heap of its own would keep what its busiest moment took."""
    assert said(HEAPS, f"{tmp_path}/heaps.xml") == 1
