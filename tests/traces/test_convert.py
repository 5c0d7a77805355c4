"""Each format from a small file, each mistake with its place."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from superserve.clock import NS_PER_MS, NS_PER_S
from superserve.errors import TraceError
from superserve.traces.convert import convert
from superserve.traces.readers.azure_functions import read_azure_functions
from superserve.traces.readers.segments import load_trace
from superserve.traces.trace import Trace

HEADER = "HashOwner,HashApp,HashFunction,Trigger,1,2,3\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def per_bin(trace: Trace, bin_s: float) -> list[int]:
    return [int(count) for count in np.bincount(trace.arrival_ns // round(bin_s * NS_PER_S))]


def test_azure_functions_official_days(tmp_path: Path) -> None:
    """Functions are added up, days joined in order; gzip makes no difference."""
    days = "invocations_per_function_md.anon.d{}.csv"
    write(tmp_path / days.format("02"), HEADER + "o,a,f,http,0,0,9\n")
    first = HEADER + "o,a,f,http,1,2,3\no,a,g,timer,1,0,1\n"
    (tmp_path / (days.format("01") + ".gz")).write_bytes(gzip.compress(first.encode()))
    assert read_azure_functions(tmp_path).counts.tolist() == [2, 2, 4, 0, 0, 9]
    assert per_bin(convert(tmp_path, "azure-functions"), 60.0) == [2, 2, 4, 0, 0, 9]


def test_azure_functions_in_many_chunks(tmp_path: Path) -> None:
    """More functions than are added up at a time."""
    path = write(tmp_path / "d.csv", HEADER + "o,a,f,http,1,2,3\n" * 1201)
    assert read_azure_functions(path).counts.tolist() == [1201, 2402, 3603]


def test_azure_functions_ready_sums(tmp_path: Path) -> None:
    """The first sum by default, another by name; its blank ends are left out. An archive weighs its rows."""
    table = write(tmp_path / "t.csv", "minute_of_day,all,part\n1,5,\n2,6,1\n3,7,2\n4,8,\n")
    assert read_azure_functions(table).counts.tolist() == [5, 6, 7, 8]
    assert read_azure_functions(table, "part").counts.tolist() == [1, 2]
    archive = tmp_path / "t.npz"
    np.savez(archive, counts=np.array([[1, 2], [10, 0]], np.int32), multiplicity=np.array([3, 1], np.int16))
    assert read_azure_functions(archive).counts.tolist() == [13, 6]


def test_counts(tmp_path: Path) -> None:
    """A column `count` or `requests`, bins of any width."""
    assert per_bin(convert(write(tmp_path / "a.csv", "count\n3\n0\n2\n"), "counts", bin_seconds=5.0), 5.0) == [3, 0, 2]
    path = write(tmp_path / "b.csv", "minute,requests\n1998-04-30 21:30,2\n1998-04-30 21:31,11\n")
    assert per_bin(convert(path, "counts"), 60.0) == [2, 11]


def test_timestamps_start_at_the_first(tmp_path: Path) -> None:
    """Sorted, shifted, in nanoseconds; other columns do not matter."""
    path = write(tmp_path / "a.csv", "arrival_s,context_tokens\n100.5,1\n100.0,2\n102.25,3\n")
    for format_name in ("timestamps", "azure-llm"):
        assert convert(path, format_name).arrival_ns.tolist() == [0, 500 * NS_PER_MS, 2250 * NS_PER_MS]


def test_mooncake_is_spread_inside_its_grid(tmp_path: Path) -> None:
    """Hundred stamps at 0 and hundred at 6 s become distinct ones within three seconds of each."""
    path = write(tmp_path / "m.csv", "arrival_ms\n" + "0\n" * 100 + "6000\n" * 100)
    trace = convert(path, "mooncake")
    assert len(np.unique(trace.arrival_ns)) == 200
    assert 2.5 < trace.arrival_ns[99] / NS_PER_S < 3.0
    assert len(np.unique(convert(path, "timestamps").arrival_ns)) == 2


def test_access_log_folder(tmp_path: Path) -> None:
    """Segments by number, not by name; what is not complete yet is left out."""
    for number, arrivals in ((9, [0, 5]), (10, [5, 7])):
        Trace("s", np.array(arrivals, np.int64), np.array([1, 2], np.int64)).save(tmp_path / f"segment-{number}.npz")
    (tmp_path / ".segment-11.npz.partial.npz").write_bytes(b"half")
    trace = load_trace(tmp_path)
    assert trace.arrival_ns.tolist() == [0, 5, 5, 7]
    assert trace.slo_ns is not None
    assert convert(tmp_path, "access-log", rate=4 / 7e-9).arrival_ns.tolist() == [0, 5, 5, 7]
    assert load_trace(tmp_path / "segment-9.npz").arrival_ns.tolist() == [0, 5]


@pytest.mark.parametrize(
    ("format_name", "text", "named"),
    [
        ("counts", "count\n1\nmany\n", r"line 3, column count: 'many'"),
        ("counts", "count\n1\n-4\n", r"line 3, column count: '-4'"),
        ("counts", "count\n1\ninf\n", r"line 3, column count: 'inf'"),
        ("counts", "n,count\n1,1\n2,\n3,1\n", r"line 3, column count: blank"),
        ("counts", "requests per minute\n1\n", r"line 1: no column count or requests"),
        ("counts", "count\n", r"column count has no values"),
        ("timestamps", "time\n1\n", r"no column arrival_s or arrival_ms"),
        ("azure-functions", "a,b\n1,2\n", r"line 1: the columns must be HashOwner"),
        ("azure-functions", HEADER + "o,a,f,http,1,2,3\no,a,f,http,1,x,3\n", r"line 3, column 2: 'x'"),
        ("azure-functions", HEADER + "o,a,f,http,1,2,3\no,a,f,http,1,2\n", r"line 3: 6 cells under 7 columns"),
        ("azure-functions", HEADER + "o,a,f,http,1,-2,3\n", r"line 2, column 2: '-2'"),
        ("excel", "count\n1\n", r"azure-functions, azure-llm"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, format_name: str, text: str, named: str) -> None:
    """File, line and column."""
    path = write(tmp_path / "broken.csv", text)
    with pytest.raises(TraceError, match=named) as raised:
        convert(path, format_name)
    assert format_name == "excel" or "broken.csv" in str(raised.value)


def test_unreadable_sources_are_named(tmp_path: Path) -> None:
    """Missing, empty and cut-off files."""
    cut = tmp_path / "cut.csv.gz"
    cut.write_bytes(gzip.compress(b"count\n" + b"1\n" * 9999)[:-40])
    for format_name, source in (
        ("counts", tmp_path / "missing.csv"),
        ("counts", cut),
        ("azure-functions", tmp_path),
        ("access-log", tmp_path),
    ):
        with pytest.raises(TraceError, match=str(source)):
            convert(source, format_name)
    with pytest.raises(TraceError, match="squeeze_s = 0"):
        convert(cut, "counts", squeeze_s=0)


def test_segments_that_do_not_join_are_refused(tmp_path: Path) -> None:
    """Stamps that go back, and columns that only some segments have."""
    Trace("s", np.array([0, 9], np.int64)).save(tmp_path / "1.npz")
    Trace("s", np.array([8], np.int64)).save(tmp_path / "2.npz")
    with pytest.raises(TraceError, match=r"2\.npz: starts before"):
        load_trace(tmp_path)
    Trace("s", np.array([9], np.int64), np.array([1], np.int64)).save(tmp_path / "2.npz")
    with pytest.raises(TraceError, match="slo_ns is in some segments only"):
        load_trace(tmp_path)


def test_the_seed_decides(tmp_path: Path) -> None:
    """Same seed, same trace, to the last bit."""
    path = write(tmp_path / "a.csv", "count\n3\n9\n")
    traces = [convert(path, "counts", squeeze_s=1.0, rate=500.0, seed=seed) for seed in (0, 0, 1)]
    assert traces[0].arrival_ns.tobytes() == traces[1].arrival_ns.tobytes()
    assert traces[0].arrival_ns.tobytes() != traces[2].arrival_ns.tobytes()
    assert traces[0].name == "a-500rps-1s"


@pytest.mark.skipif("SUPERSERVE_DATA" not in os.environ, reason="SUPERSERVE_DATA names the folder of real traces")
def test_real_traces() -> None:
    """The paper's Azure load: 6,400/s for 120 s with a peak of 1.35-1.40 times the mean, and every other file."""
    folder = Path(os.environ["SUPERSERVE_DATA"]) / "traces"
    trace = convert(folder / "maf2019_per_minute.csv.gz", "azure-functions", squeeze_s=120.0, rate=6400.0)
    assert len(trace) == pytest.approx(768_000, rel=0.01)
    counts = np.bincount(trace.arrival_ns // (NS_PER_S // 2))
    assert 1.33 < counts[:240].max() / counts[:240].mean() < 1.42
    sums = read_azure_functions(folder / "maf2019_per_minute.csv.gz").counts
    assert (sums == read_azure_functions(folder / "maf2019_sum14d_functions.npz").counts).all()
    day = read_azure_functions(folder / "maf2019_per_minute.csv.gz", "day_8h_500f").counts
    assert (day == read_azure_functions(folder / "maf2019_8h_500functions.csv.gz").counts).all()
    assert len(convert(folder / "azure_llm_2023_conv.csv.gz", "azure-llm")) == 19_366
    assert len(convert(folder / "mooncake_conversation.csv.gz", "mooncake")) == 12_031
    cup = convert(folder / "worldcup98_per_minute.csv.gz", "counts", squeeze_s=60.0, rate=1000.0)
    assert cup.mean_rate == pytest.approx(1000.0, rel=0.02)
