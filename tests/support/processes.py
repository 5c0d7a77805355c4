"""Which processes are ours."""

import psutil


def children_of_ours() -> list[psutil.Process]:
    """Living descendants that run a module of the package.

    By whole words: the folder that the project lies in may have its name, and then so do the paths of interpreters and
    of what other tests leave until the end of the run (multiprocessing's resource tracker).
    """
    return [child for child in psutil.Process().children(recursive=True) if _is_ours(child)]


def _is_ours(process: psutil.Process) -> bool:
    try:
        return any(word == "superserve" or word.startswith("superserve.") for word in process.cmdline())
    except psutil.NoSuchProcess:
        return False
