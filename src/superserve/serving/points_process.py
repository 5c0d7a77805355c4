"""The process that counts right answers: ``python -m superserve.serving.points_process TASK`` (``points_ahead.py``)."""

import sys
from pathlib import Path

import msgspec

from superserve.errors import SuperServeError
from superserve.model_folder import ModelFolder
from superserve.processes import end_with_parent
from superserve.serving.engines import eager_float32, load_engine
from superserve.serving.points_ahead import PointsTask, runs_of
from superserve.supernet.points import count, labelled_examples
from superserve.supernet.right_answers import REFERENCE


def main() -> None:
    """Do a task; print how far it is, a line of two numbers for each batch."""
    end_with_parent()
    task = msgspec.json.decode(sys.argv[1], type=PointsTask)
    folder = ModelFolder(Path(task.folder), bundled=task.bundled)
    try:
        examples = labelled_examples(folder)
        assert examples is not None, "without any no process is started"
        front = [record.id for record in folder.front.subnets]
        for runs, engine in (
            (runs_of(task.choice), lambda: load_engine(folder, task.choice)),
            (REFERENCE, lambda: eager_float32(folder)),
        ):
            count(engine, folder, runs, examples, front, report=_tell)
    except SuperServeError as error:
        sys.exit(str(error))


def _tell(done: int, total: int) -> None:
    sys.stdout.write(f"{done} {total}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
