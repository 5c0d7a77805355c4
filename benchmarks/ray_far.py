"""One of three Ray hosts far away, under a load that the near ones do not carry at the best subnet.

Run, as root, in the environment of `make test-ray`: ``PYTHONPATH=tests python benchmarks/ray_far.py [--away-ms 40]``.
A minute. The hosts are those of ``tests/ray_cluster/test_network.py``: network namespaces of this machine, with an
emulated worker each.
"""

import argparse
import tempfile
from pathlib import Path
from typing import Final

from support.ray_hosts import RayHosts
from support.ray_load import begin, best_rate, on_ray, row_of
from support.ray_nodes import says, wait_for

HOSTS: Final = 3
SLO_MS: Final = 200.0
#: Of what the near workers carry at the best subnet: while the way to the far one is learned, and measured.
WARM_LOAD: Final = 0.5
LOAD: Final = 1.3
WARM_S: Final = 6.0
SECONDS: Final = 8.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--away-ms", type=float, default=40.0, help="from and to the far host")
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    near_rate = (HOSTS - 1) * best_rate()
    print("| in time | accuracy of those | accuracy over all | p50, p99 ms |\n|--:|--:|--:|--:|")
    with RayHosts(HOSTS) as hosts:
        for _ in range(args.rounds):
            with (
                tempfile.TemporaryDirectory() as scratch,
                on_ray(hosts.address, Path(scratch), "--workers", str(HOSTS), "--slo-ms", f"{SLO_MS:g}") as server,
            ):
                wait_for(says(server.log, "is ready on node", HOSTS), "a worker on each host")
                hosts.network.link(HOSTS, delay_ms=args.away_ms)
                begin(server, WARM_LOAD * near_rate, SLO_MS, WARM_S).result()
                row = row_of(begin(server, LOAD * near_rate, SLO_MS, SECONDS).result(), SLO_MS)
                hosts.network.link(HOSTS)
                server.stop(60)
            accuracies = f"{row.mean_serving_accuracy:.2f} | {row.goodput_weighted_accuracy:.2f}"
            print(f"| {row.slo_attainment:.3f} | {accuracies} | {row.p50_ms:.0f}, {row.p99_ms:.0f} |", flush=True)


if __name__ == "__main__":
    main()
