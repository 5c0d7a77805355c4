"""What keeps the memory of the router's process as it is, over hours: the garbage collector's and malloc's settings."""

import ctypes
import gc
from typing import Final

#: A collection of so many takes about a millisecond.
_YOUNG_OBJECTS: Final = 20_000

#: mallopt(3).
_M_ARENA_MAX: Final = -8


def use_one_arena() -> None:
    """Have all threads allocate from one heap; to be called before there is a second thread.

    By default glibc gives threads heaps of their own, gRPC's and those that read model folders among them. Each of them
    keeps what its own busiest moment took, in pieces: of what the router held, 6 MB were free, and more from minute to
    minute. With one heap it is 1 to 2 MB. Other C libraries have no such setting, and it is left at that.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)


def settle_memory() -> None:
    """What lives now lives on: the garbage collector need not look at it again, and at what is new not so often.

    A full collection over everything that was imported would stop the router for longer than an SLO allows. By default
    the youngest objects are looked at whenever there are 700 more of them: requests under way alone are more than that,
    and next to nothing of an answered one is left to be found.
    """
    gc.collect()
    gc.freeze()
    # A full collection waits until there is a quarter more than the last one has left: models that were unloaded long
    # ago would be kept until there are tens of thousands of objects more. This one has nothing to look at, and leaves
    # nothing, so that later ones take place, over what has come since.
    gc.collect()
    gc.set_threshold(_YOUNG_OBJECTS)
