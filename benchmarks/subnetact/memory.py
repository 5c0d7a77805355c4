"""Memory of six operating points in one, two and four worker processes: one copy, a zoo of copies, reloading.

Proportional set size (PSS): a page that n processes share counts 1/n in each, so that sums over processes count every
page once. Weights and statistics: the mapped files and the anonymous memory of processes that have read them all and
run nothing, less what processes without a model have. Whole processes: all of theirs after each subnet ran once, with
activations, and what kernels keep.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

from safetensors.torch import save_file

from subnetact.families import Case, folder_of
from subnetact.progress import Progress
from superserve.model_folder import ModelFolder
from superserve.supernet.hub import load_supernet
from superserve.supernet.runtimes.export import static_subnet

WORKERS: Final = (1, 2, 4)
MODES: Final = ("supernet", "zoo", "reloading")
#: Medians of so many: the heap of a process without a model differs by some 100 KB from start to start.
_ROUNDS: Final = 3


def measure(one: Case, scratch: Path, *, quick: bool, progress: Progress) -> dict[str, Any]:
    """Megabytes by mode and number of processes."""
    folder = six_points(folder_of(one, scratch), scratch)
    copies = write_zoo(folder, scratch / f"{one.name}-zoo")
    rows = []
    for workers in (1, 2) if quick else WORKERS:
        progress.step(f"memory, {one.name}, {workers} worker processes")
        empty, _ = _pss([("nothing", folder.path, copies)] * workers)
        for mode in MODES:
            loaded, ran = _pss([(mode, folder.path, copies)] * workers)
            model_bytes = loaded["mapped"] + loaded["anonymous"] - empty["anonymous"]
            rows.append({"mode": mode, "workers": workers, "model_mb": model_bytes / 1e6, "total_mb": ran["pss"] / 1e6})
    sizes = {path.stem: path.stat().st_size / 1e6 for path in sorted(copies.iterdir())}
    return {
        "rows": rows,
        "weights_mb": folder.weights_path.stat().st_size / 1e6,
        "statistics_mb": folder.norms_path.stat().st_size / 1e6,
        "extracted_mb": sizes,
    }


def six_points(folder: ModelFolder, scratch: Path) -> ModelFolder:
    """The folder, with six subnets of its front if it has more (digits): every way must hold the same ones."""
    from subnetact.subset import with_subnets  # noqa: PLC0415 (writes a folder: rarely needed)

    count = len(folder.front.subnets)
    if count == 6 and not folder.bundled:
        return folder
    indices = sorted({round((count - 1) * number / 5) for number in range(6)})
    return with_subnets(folder, indices, scratch / f"{folder.config.name}-six")


def write_zoo(folder: ModelFolder, path: Path) -> Path:
    """Each subnet's own weights and statistics as a file."""
    if not path.exists():
        path.mkdir()
        supernet = load_supernet(folder)
        for index in range(len(folder.front.subnets)):
            state = static_subnet(supernet, index).state_dict()
            save_file({name: tensor.contiguous() for name, tensor in state.items()}, path / f"{index}.safetensors")
    return path


def _round(folder: Path, copies: Path, workers: int) -> dict[str, tuple[float, float]]:
    """By mode: bytes of weights and statistics, and of whole processes that have run."""
    empty, _ = _pss([("nothing", folder, copies)] * workers)
    found = {}
    for mode in MODES:
        loaded, ran = _pss([(mode, folder, copies)] * workers)
        found[mode] = loaded["mapped"] + loaded["anonymous"] - empty["anonymous"], ran["pss"]
    return found


def _pss(children: Sequence[tuple[str, Path, Path]]) -> list[dict[str, float]]:
    """Bytes of all these processes while all of them live: with their models loaded, and after they ran."""
    found = []
    with ExitStack() as stack:
        running = [stack.enter_context(_child(mode, folder, zoo)) for mode, folder, zoo in children]
        for stage in ("loaded", "ran"):
            for process in running:
                assert process.stdout is not None
                line = process.stdout.readline()
                assert line.strip() == stage, f"the process ended: {line}"
            sizes = [_sizes(process.pid, children[0][1]) for process in running]
            found.append({key: sum(one[key] for one in sizes) for key in sizes[0]})
            for process in running:
                assert process.stdin is not None
                process.stdin.write("\n")
                process.stdin.flush()
        for process in running:
            assert process.stdin is not None
            process.stdin.close()
    return found


def _child(mode: str, folder: Path, zoo: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "subnetact.memory_child", mode, str(folder), str(zoo)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _sizes(pid: int, folder: Path) -> dict[str, float]:
    """PSS of a process; of its anonymous memory; of its mappings of the model's files."""
    sizes = {"pss": 0.0, "anonymous": 0.0, "mapped": 0.0}
    ours = False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            ours = len(words) > 5 and words[5].startswith(str(folder))
        elif words[0] == "Pss:":
            sizes["pss"] += int(words[1]) * 1024
            sizes["mapped"] += int(words[1]) * 1024 if ours else 0
        elif words[0] == "Pss_Anon:" and not ours:
            sizes["anonymous"] += int(words[1]) * 1024
    if not sizes["anonymous"]:  # kernels before 5.17 have no Pss_Anon
        sizes["anonymous"] = _anonymous(pid)
    return sizes


def _anonymous(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Anonymous:")) * 1024.0
