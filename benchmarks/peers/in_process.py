"""The CNN without any server: prints images per second of full batches, one after the other, for some seconds."""

import sys
import time

import numpy as np

from peers.jobs import CNN
from peers.model import load_model


def main() -> None:
    """Measure and print."""
    seconds = float(sys.argv[1])
    model = load_model(CNN)
    batch = np.repeat(CNN.row(), CNN.max_rows, axis=0)
    for _ in range(20):
        model(batch)
    done, begin_s = 0, time.perf_counter()
    while (elapsed_s := time.perf_counter() - begin_s) < seconds:
        model(batch)
        done += len(batch)
    print(done / elapsed_s)


if __name__ == "__main__":
    main()
