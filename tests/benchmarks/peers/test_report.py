from pathlib import Path

from peers import targets
from peers.catalog import PEERS
from peers.figures import (
    CELLS,
    Cell,
    CnnFigures,
    Compiled,
    Elastic,
    NoopFigures,
    Own,
    Pair,
    Saturation,
    read_own,
    read_pair,
)
from peers.report import own_rows, write_report
from superserve.model_folder import write_json


def saturation(rate: float) -> Saturation:
    return Saturation(rates=[rate, 1.2 * rate, 0.9 * rate], per_cpu_s=[rate], connections=64)


def noop(rate: float) -> NoopFigures:
    return NoopFigures(saturation=saturation(rate), p50_ms=[0.25], p99_ms=[1.5], late_ms=[0.1])


def cnn(rate: float, goodput: float) -> CnnFigures:
    cells = [Cell(cv2=cv2, load=load, goodput=[goodput], p99_ms=[20], late_ms=[0]) for cv2, load in CELLS]
    return CnnFigures(saturation=saturation(rate), cells=cells)


def pair(name: str, theirs: float, ours: float) -> Pair:
    return Pair(
        peer=name, noop=noop(theirs), noop_ours=noop(ours), cnn=cnn(theirs / 20, 0.5), cnn_ours=cnn(ours / 20, 0.9)
    )


def reached(pairs: list[Pair], own: Own | None = None) -> dict[str, str]:
    """The last column of the targets by the first one, and the one between."""
    rows = [line.strip("| ").split(" | ") for line in targets.table(pairs, own) if line.startswith("| ")][1:]
    return {row[0]: f"{row[-1].strip('| ')}: {row[1] if len(row) > 2 else ''}" for row in rows}


def test_a_target_is_met_by_the_nearest_peer() -> None:
    found = reached([pair(name, 2000, 31_000) for name in targets.PYTHON_SERVERS] + [pair("mosec", 29_000, 31_000)])
    assert found["(A) saturation at least 30,000 requests/s"] == "met: 31,000"
    assert found["(A) saturation at least 1.1x that of mosec"] == "**not met**: 1.07x (mosec)"
    assert found["(A) saturation at least 10x the best of the Python servers and Triton's wheel"].startswith(
        "met: 15.50x"
    )
    assert found["(A) added latency at half of saturation, p50: at most 0.4 ms"] == "met: 0.25 ms"


def test_a_target_over_many_is_not_met_while_one_is_missing() -> None:
    found = reached([pair("ray", 100, 31_000)])
    words = found["(A) saturation at least 10x the best of the Python servers and Triton's wheel"]
    assert words.startswith("**not met**: 310.00x (Ray Serve); not measured: LitServe")
    assert found["(A) saturation at least 1.1x that of mosec"].startswith("not measured")


def test_own_targets() -> None:
    elastic = Elastic(policy="p", rate=2, live=[0.9, 0.97], simulated=[0.95], fixed=[0.1])
    own = Own(elastic=elastic, served=[85.0], in_process=[100.0], grpc=noop(9000), grpc_bare=noop(12_000))
    found = reached([pair("kserve", 2000, 30_000), pair("mlserver", 1000, 30_000)], own)
    assert found["(B) saturation at least 0.9 of the model's own in process, on the same core"] == "**not met**: 0.85"
    assert found["(B) goodput at 1.3x, CV² 16, default policy: at least the simulator's less 0.02"] == (
        "met: 0.935, simulated 0.950"
    )
    assert found["gRPC, (A): at least 3x the servers on `grpc.aio`"] == "met: 4.50x (KServe (gRPC))"
    assert found["gRPC, (A): the library's own ceiling is shown"].endswith("12,000/s (0.75x)")


def test_compiled_code_has_rows_of_its_own() -> None:
    """Beside the subnet in process in either engine, and beside the peer in the same rounds."""

    def rates(value: float) -> Saturation:
        return Saturation(rates=[value], per_cpu_s=[value], connections=64)

    compiled = Compiled(
        peer="mosec",
        served=rates(120.0),
        theirs=rates(100.0),
        eager_in_process=[90.0],
        compiled_in_process=[125.0],
    )
    lines = "\n".join(own_rows(Own(served=[81.0], in_process=[100.0], compiled=compiled)))
    assert "| (B) in process, inside the supernet, images/s | 90 | 0.90 of it is served |" in lines
    assert "| 120 | 0.96 of that in process, 125; 1.20x mosec, which runs plain torch |" in lines


def test_what_is_kept_is_read_back(tmp_path: Path) -> None:
    measured = Pair(peer="mosec", noop=noop(100), cnn=cnn(10, 0.5))
    own = Own(wrk=[1.0], elastic=Elastic(policy="p", rate=2, live=[0.9], simulated=[0.9], fixed=[0.1]))
    write_json(tmp_path / "mosec.json", measured)
    write_json(tmp_path / "superserve.json", own)
    assert read_pair(tmp_path, "mosec") == measured
    assert read_own(tmp_path) == own
    assert read_pair(tmp_path, "ray") is None


def test_the_page_has_a_row_per_peer_and_says_what_is_missing(tmp_path: Path) -> None:
    runs, docs = tmp_path / "runs", tmp_path / "docs"
    measured = Pair(
        peer="mosec", version="1.2", noop=noop(20_000), noop_ours=noop(30_000), cnn=cnn(900, 0.5), cnn_ours=cnn(990, 1)
    )
    write_json(runs / "mosec.json", measured)
    write_json(runs / "superserve.json", Own(errors=["wrk said\nsomething long"], grpc=noop(9), grpc_bare=noop(12)))
    write_json(runs / "ray.json", Pair(peer="ray", errors=["(A): it does not install\nfor a long reason"]))
    write_report(runs, docs)
    page = (docs / "peers.md").read_text()
    assert "| mosec | 20,000 | 18,000-24,000 | 30,000 | 1.5x | 20,000 | 0.25 | 1.50 |" in page
    assert "| mosec | 900 | 990 | 900 | 20.0 | 0.50 |" in page
    assert "- SuperServe (HTTP): wrk said\n" in page
    assert "grpc.aio by hand (gRPC), no router and no worker process: 12/s in the same rounds |" in page
    assert "- Ray Serve: (A): it does not install\n" in page
    assert all(f"- {peer.title}: not measured" in page for name, peer in PEERS.items() if name not in {"mosec", "ray"})
    assert "--quick`: too short" not in page
    assert (docs / "images" / "peers.png").stat().st_size > 10_000
