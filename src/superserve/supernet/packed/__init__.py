"""The packed CPU engine: subnets as programs of oneDNN's operators; weights packed once, mapped by all workers.

A subnet is traced (``trace.py``), its graph rewritten (``graph.py``, ``fuse.py``) and written down (``lower.py``) as a
program (``program.py``) and a file of packed weights (``memory.py``). `build_packed` does that, in a process of its
own; `PackedModule` maps both and runs them.
"""

from superserve.supernet.packed.build import PackedBuild, build_packed
from superserve.supernet.packed.module import PackedModule, SharedParts

__all__ = ["PackedBuild", "PackedModule", "SharedParts", "build_packed"]
