from pathlib import Path

from peers.catalog import PEERS
from peers.figures import CELLS, Cell, CnnFigures, Elastic, NoopFigures, Own, Pair, Saturation, read_own, read_pair
from peers.report import write_report
from superserve.model_folder import write_json


def saturation(rate: float) -> Saturation:
    return Saturation(rates=[rate, 1.2 * rate, 0.9 * rate], per_cpu_s=[rate], connections=64)


def noop(rate: float) -> NoopFigures:
    return NoopFigures(saturation=saturation(rate), p50_ms=[0.25], p99_ms=[1.5], late_ms=[0.1])


def cnn(rate: float, goodput: float) -> CnnFigures:
    cells = [Cell(cv2=cv2, load=load, goodput=[goodput], p99_ms=[20], late_ms=[0]) for cv2, load in CELLS]
    return CnnFigures(saturation=saturation(rate), cells=cells)


def test_what_is_kept_is_read_back(tmp_path: Path) -> None:
    pair = Pair(peer="mosec", noop=noop(100), cnn=cnn(10, 0.5))
    own = Own(wrk=[1.0], elastic=Elastic(policy="p", rate=2, live=[0.9], simulated=[0.9], fixed=[0.1]))
    write_json(tmp_path / "mosec.json", pair)
    write_json(tmp_path / "superserve.json", own)
    assert read_pair(tmp_path, "mosec") == pair
    assert read_own(tmp_path) == own
    assert read_pair(tmp_path, "ray") is None


def test_the_page_has_a_row_per_peer_and_says_what_is_missing(tmp_path: Path) -> None:
    runs, docs = tmp_path / "runs", tmp_path / "docs"
    pair = Pair(
        peer="mosec", version="1.2", noop=noop(20_000), noop_ours=noop(30_000), cnn=cnn(900, 0.5), cnn_ours=cnn(990, 1)
    )
    write_json(runs / "mosec.json", pair)
    write_json(runs / "ray.json", Pair(peer="ray", errors=["(A): it does not install\nfor a long reason"]))
    write_report(runs, docs)
    page = (docs / "peers.md").read_text()
    assert "| mosec | 20,000 | 18,000-24,000 | 30,000 | 1.5x | 20,000 | 0.25 | 1.50 |" in page
    assert "| mosec | 900 | 990 | 900 | 20.0 | 0.50 |" in page
    assert "- Ray Serve: (A): it does not install\n" in page
    assert all(f"- {peer.title}: not measured" in page for name, peer in PEERS.items() if name not in {"mosec", "ray"})
    assert "--quick`: too short" not in page
    assert (docs / "images" / "peers.png").stat().st_size > 10_000
