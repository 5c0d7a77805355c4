"""The CNN without any server: prints images per second of full batches, one after the other, for some seconds.

    python -m peers.in_process SECONDS [extracted|eager|compiled]

Extracted is what the peers run; eager and compiled are the same subnet inside the supernet, in our engines.
"""

import sys
import time

import numpy as np

from peers.jobs import CNN, CNN_MODEL
from peers.model import Model, load_model
from superserve.model_folder import ModelFolder
from superserve.serving.choice import choose_engine
from superserve.serving.engines import load_engine


def main() -> None:
    """Measure and print."""
    seconds = float(sys.argv[1])
    kind = sys.argv[2] if len(sys.argv) > 2 else "extracted"
    model = load_model(CNN) if kind == "extracted" else inside_supernet(kind)
    batch = np.repeat(CNN.row(), CNN.max_rows, axis=0)
    for _ in range(20):
        model(batch)
    done, begin_s = 0, time.perf_counter()
    while (elapsed_s := time.perf_counter() - begin_s) < seconds:
        model(batch)
        done += len(batch)
    print(done / elapsed_s)


def inside_supernet(kind: str) -> Model:
    """The middle subnet, actuated."""
    folder = ModelFolder.resolve(CNN_MODEL)
    engine = load_engine(folder, choose_engine(folder, engine=kind))
    middle = len(engine.subnet_ids) // 2
    engine.actuate(middle)
    return lambda batch: engine.run(middle, [batch])[0]


if __name__ == "__main__":
    main()
