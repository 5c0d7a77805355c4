"""Which processes are ours."""

import psutil


def children_of_ours() -> list[psutil.Process]:
    """Living descendants that run a module of the package.

    By whole words: the folder that the project lies in may have its name, and then so do the paths of interpreters and
    of what other tests leave until the end of the run (multiprocessing's resource tracker).
    """
    return [child for child in psutil.Process().children(recursive=True) if _is_ours(child)]


def command_line(process: psutil.Process) -> list[str]:
    """The words of a process's command line; none of one that has ended.

    A process that has had a pool of workers adopts orphans: those of servers that other tests have killed lie here,
    ended, until the end of the run.
    """
    try:
        return list(process.cmdline())
    except psutil.NoSuchProcess:  # or a zombie
        return []


def _is_ours(process: psutil.Process) -> bool:
    return any(word == "superserve" or word.startswith("superserve.") for word in command_line(process))
