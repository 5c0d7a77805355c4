"""The packed CPU engine: subnets as programs of oneDNN's operators; weights packed once, mapped by all workers.

A subnet is traced (``trace.py``), its graph rewritten (``graph.py``, ``fuse.py``) and written down (``lower.py``) as a
program (``program.py``) and a file of packed weights (``memory.py``). `build_packed` does that, in a process of its
own; `PackedModule` maps both and runs them. Nothing is imported here: the router reads programs, without torch.
"""
