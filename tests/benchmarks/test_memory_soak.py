import json
import os
from collections.abc import Callable
from pathlib import Path

import httptools
import msgspec
import pytest

from memory_soak.__main__ import Result, figure, lines
from memory_soak.load import Load
from memory_soak.memory import Sample, growth, take_sample
from memory_soak.requests import MODEL, ROWS, grpc_requests, http_requests, write_model
from superserve.model_folder import ModelFolder
from superserve.profile import Profile
from superserve.protocol.messages import ModelInferRequest


class Read:
    """One HTTP request, as a server's parser sees it."""

    def __init__(self, message: bytes) -> None:
        self.headers: dict[str, bytes] = {}
        self.body = b""
        self.complete = False
        httptools.HttpRequestParser(self).feed_data(message)

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode().lower()] = value

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.complete = True


def test_requests_are_whole_and_of_several_sizes() -> None:
    binary, in_json = http_requests("http://127.0.0.1:1")
    for count, message in [*zip(ROWS, binary, strict=True), *zip(ROWS, in_json, strict=False)]:
        read = Read(message)
        assert read.complete
        length = int(read.headers.get("inference-header-content-length", len(read.body)))
        (tensor,) = json.loads(read.body[:length])["inputs"]
        assert tensor["shape"] == [count, 32, 32, 3]
        assert len(read.body) - length == tensor.get("parameters", {}).get("binary_data_size", 0)
        assert float(read.headers["x-slo-ms"]) > 1000


def samples(router_mb: Callable[[int], float], files: Callable[[int], int] = lambda _: 70) -> list[Sample]:
    """One per percent of a thousand requests."""
    return [
        Sample(10 * part, part / 10, router_mb(part), 30.0, 40.0, 20.0, 1.0, files(part), 12) for part in range(1, 101)
    ]


def test_warming_up_is_no_growth() -> None:
    found = {one.what: one for one in growth(samples(lambda part: 10.0 if part < 10 else 60.0))}
    assert (found["router_mb"].first, found["router_mb"].last) == (60, 60)
    assert all(one.is_flat for one in found.values())


def test_a_leak_is_growth() -> None:
    """Of a tenth over the run; of a few descriptors, too."""
    found = {one.what: one for one in growth(samples(lambda part: 50 + part / 10, lambda part: 70 + part // 10))}
    assert not found["router_mb"].is_flat
    assert not found["router_files"].is_flat
    assert found["workers_mb"].is_flat
    one_more = {one.what: one for one in growth(samples(lambda _: 50, lambda part: 9 + part // 90))}
    assert one_more["router_files"].is_flat


def test_what_grpc_itself_loses_is_no_growth_of_ours() -> None:
    """Eighty bytes with each call that was cancelled; what is more than that still is."""
    lost = [
        msgspec.structs.replace(sample, cancelled_grpc=1000 * sample.requests)
        for sample in samples(lambda part: 50 + 0.8 * part)
    ]
    found = {one.what: one for one in growth(lost)}
    assert found["router_mb"].is_flat
    assert found["router_mb"].known == pytest.approx(found["router_mb"].last - found["router_mb"].first, rel=1e-6)
    assert found["workers_mb"].known == 0
    more = [msgspec.structs.replace(sample, router_mb=sample.router_mb * 1.1) for sample in lost[50:]]
    assert not {one.what: one for one in growth(lost[:50] + more)}["router_mb"].is_flat


def test_a_short_run_tells_nothing() -> None:
    with pytest.raises(ValueError, match="more requests"):
        growth(samples(lambda _: 1.0)[:5])


def test_a_result_holds_if_nothing_grew_and_nothing_failed() -> None:
    def result(outcomes: dict[str, int], grown: float) -> Result:
        found = samples(lambda part: 50 + grown * part)
        return Result(requests=1000, over_grpc=100, seconds=2.0, outcomes=outcomes, growth=growth(found), samples=found)

    assert result({"200": 700, "OK": 100, "cancelled": 200}, 0).holds
    assert not result({"200": 700, "OK": 100, "cancelled": 200}, 0.1).holds
    assert not result({"200": 700, "500": 1}, 0).holds
    words = lines(result({"200": 700, "504": 3}, 0.1))
    assert "1,000 requests in 2 s (500/s), 100 of them over gRPC, 20% to be given up: 700 200, 3 504" in words[0]
    assert "GREW" in words[1]
    assert figure(samples(lambda _: 1.0)).axes


def test_a_sample_is_of_a_process_and_its_children() -> None:
    sample = take_sample(os.getpid(), 5, 1.0)
    assert sample.requests == 5
    assert sample.router_mb > 1
    assert sample.router_files >= 3


def test_the_model_can_be_emulated(tmp_path: Path) -> None:
    """Folder and profile are such as servers read, with room for the largest request."""
    folder, profile = write_model(tmp_path)
    assert ModelFolder(folder).config.name == MODEL
    assert Profile.load(profile).batches[-1] == ROWS[-1] == ModelFolder(folder).config.max_batch_size


def test_a_load_ends_after_so_many_requests() -> None:
    load = Load(3, seed=0)
    assert [load.take(over_grpc=number == 1) for number in range(4)] == [True, True, True, False]
    assert (load.begun, load.begun_grpc) == (3, 1)


@pytest.mark.parametrize("place", range(len(ROWS)))
def test_grpc_requests_are_whole(place: int) -> None:
    request = ModelInferRequest.FromString(grpc_requests()[place])
    assert list(request.inputs[0].shape) == [ROWS[place], 32, 32, 3]
    assert len(request.raw_input_contents[0]) == ROWS[place] * 3072
