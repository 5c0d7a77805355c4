"""The protocol, whole, over HTTP and over gRPC alike."""

import asyncio
import struct
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp

from superserve.model_folder import DTYPES
from superserve.protocol.byte_strings import join
from superserve.request import Outcome
from superserve.serving.fake_pool import FakePool
from support.serving import MODEL, rename
from support.transports import TRANSPORTS, WIDE, GrpcTransport, Served, Tensor, served

pytestmark = pytest.mark.integration

both = pytest.mark.parametrize("transport", TRANSPORTS)

TYPED = [kind for kind in (*DTYPES, "BYTES") if kind not in {"FP16", "BF16"}]


def pixels(rows: int = 1, **changes: Any) -> Tensor:
    """The first input of `MODEL`."""
    told: dict[str, Any] = {"name": "image", "datatype": "UINT8", "shape": [rows, 2, 2], "data": bytes(range(4 * rows))}
    return Tensor(**(told | changes))


def scale(rows: int = 1, **changes: Any) -> Tensor:
    """The second one."""
    told: dict[str, Any] = {
        "name": "scale", "datatype": "FP32", "shape": [rows], "data": struct.pack("<f", 0.5) * rows
    }  # fmt: skip
    return Tensor(**(told | changes))


@both
async def test_health_and_metadata(transport: str) -> None:
    """The same facts over either."""
    async with served(transport, MODEL) as server:
        ask = server.client.ask
        assert (await ask("live")).content == {"live": True}
        assert (await ask("ready")).content == {"ready": True}
        assert (await ask("model_ready", "tiny")).content["ready"] is True
        told = (await ask("server")).content
        assert (told["name"], told["version"]) == ("superserve", "9")
        assert "statistics" in told["extensions"]
        metadata = (await ask("metadata", "tiny", "1")).content
        assert (metadata["name"], metadata["versions"], metadata["platform"]) == ("tiny", ["1"], "superserve_torch")
        shape = [int(size) for size in metadata["inputs"][0].pop("shape")]
        assert (metadata["inputs"][0], shape) == ({"name": "image", "datatype": "UINT8"}, [-1, 2, 2])
        await server.router.drain(0)
        assert (await ask("live")).content == {"live": True}
        assert (await ask("ready")).status == (await ask("model_ready", "tiny")).status == "UNAVAILABLE"


@both
async def test_configuration_and_statistics(transport: str) -> None:
    """What load generators read; statistics of one model and of all."""
    async with served(transport, MODEL) as server:
        answer = (await server.client.ask("config", "tiny")).content
        config = answer.get("config", answer)
        assert (config["max_batch_size"], config["input"][0]["data_type"]) == (4, "TYPE_UINT8")
        assert [int(size) for size in config["input"][0]["dims"]] == [2, 2]
        assert config["dynamic_batching"]["default_queue_policy"]["timeout_action"] == "REJECT"
        await server.client.infer("tiny", [pixels(3), scale(3)])
        for model in ("", "tiny"):
            (stats,) = (await server.client.ask("stats", model)).content["model_stats"]
            assert (int(stats["inference_count"]), int(stats["execution_count"])) == (3, 1)
            assert int(stats["inference_stats"]["success"]["count"]) == 1
            assert int(stats["batch_stats"][0]["batch_size"]) == 3


@both
@pytest.mark.parametrize("raw", [True, False])
async def test_infer(transport: str, raw: bool) -> None:
    """Outputs, names, version, id and parameters; inputs in any order; tensors raw or one element at a time."""
    async with served(transport, MODEL) as server:
        reply = await server.client.infer(
            "tiny",
            [scale(2, raw=raw), pixels(2, raw=raw)],
            version="1",
            request_id="me",
            headers={"x-request-id": "r-1"},
        )
        assert (reply.status, reply.request_id) == ("OK", "r-1")
        assert reply.outputs == {"pixels": bytes(range(8)), "factor": struct.pack("<ff", 0.5, 0.5)}
        content, parameters = reply.content, reply.parameters
        assert (content["model_name"], content["model_version"], content["id"]) == ("tiny", "1", "me")
        assert parameters.keys() == {
            "superserve_subnet", "superserve_accuracy", "superserve_batch_size", "superserve_queue_us",
            "superserve_infer_us", "superserve_decode_us", "superserve_wait_us", "slo_met",
        }  # fmt: skip
        assert (parameters["superserve_subnet"], parameters["superserve_accuracy"]) == ("s1", 71.0)
        assert (parameters["superserve_batch_size"], parameters["slo_met"]) == (2, True)


@both
async def test_answers_are_explained_by_the_id_that_they_carry(transport: str) -> None:
    """The server's own ids and the client's, of answers and of refusals."""
    async with served(transport, MODEL) as server:
        replies = [
            await server.client.infer("tiny", [pixels(), scale()]),
            await server.client.infer("tiny", [pixels(), scale()], headers={"x-request-id": "r-1"}),
            await server.client.infer("tiny", [pixels(), scale()], parameters={"timeout": 900}),
        ]
        courses = [server.router.decisions.find(reply.request_id.encode()) for reply in replies]
        assert [None if course is None else len(course.launches) for course in courses] == [1, 1, 0]
        assert courses[1] == server.router.decisions.find(b"r-1")


@both
async def test_outputs_are_chosen_per_request(transport: str) -> None:
    """In the order asked for; one that is not there, or twice, is refused."""
    async with served(transport, MODEL) as server:
        for outputs in (["factor"], ["factor", "pixels"], ["pixels"]):
            reply = await server.client.infer("tiny", [pixels(), scale()], outputs=outputs)
            assert list(reply.outputs) == outputs
        for outputs, pattern in ((["what"], "'what' is unknown"), (["pixels", "pixels"], "once")):
            reply = await server.client.infer("tiny", [pixels(), scale()], outputs=outputs)
            assert reply.status == "INVALID_ARGUMENT"
            assert pattern in reply.error


def wide_tensors(rows: int, rng: np.random.Generator, *, raw: bool) -> list[Tensor]:
    """Random bits for every input of `WIDE` (finite, and text, where they go one element at a time)."""
    tensors = []
    for spec in WIDE.inputs:
        if spec.datatype == "BYTES":
            data = join(f"t{number}é"[: number % 4].encode() for number in range(2 * rows))
        elif spec.datatype == "BOOL":
            data = rng.integers(0, 2, 2 * rows, dtype="u1").tobytes()
        elif not raw and spec.dtype.kind == "f":
            data = rng.standard_normal(2 * rows).astype(spec.dtype).tobytes()
        else:
            data = rng.bytes(2 * rows * spec.dtype.itemsize)
        tensors.append(Tensor(spec.name, spec.datatype, [rows, 2], data, raw or spec.datatype in {"FP16", "BF16"}))
    return tensors


@both
async def test_every_datatype_comes_back_bit_by_bit(transport: str) -> None:
    """Raw, FP16, BF16, BYTES, NaNs and all."""
    async with served(transport, WIDE) as server:
        for rows in (1, 4):
            sent = wide_tensors(rows, np.random.default_rng(rows), raw=True)
            reply = await server.client.infer("wide", sent)
            assert reply.status == "OK", reply.error
            assert reply.outputs == {tensor.name.replace("in_", "out_"): tensor.data for tensor in sent}


@both
@pytest.mark.parametrize("kind", TYPED)
async def test_every_datatype_with_elements_one_by_one(transport: str, kind: str) -> None:
    """As JSON and as typed contents; the answer takes the form of the request."""
    spec = next(spec for spec in WIDE.inputs if spec.datatype == kind)
    config = WIDE.__class__(
        **{name: getattr(WIDE, name) for name in WIDE.__struct_fields__}
        | {"inputs": (spec,), "outputs": (WIDE.outputs[WIDE.inputs.index(spec)],)}
    )
    async with served(transport, config) as server:
        sent = next(
            tensor for tensor in wide_tensors(3, np.random.default_rng(3), raw=False) if tensor.datatype == kind
        )
        reply = await server.client.infer("wide", [sent])
        assert reply.status == "OK", reply.error
        assert reply.outputs == {f"out_{kind}": sent.data}
        assert "raw_output_contents" not in reply.content


@both
@pytest.mark.parametrize("kind", [*DTYPES, "BYTES"])
@pytest.mark.parametrize("wrong", ["rows", "no rows", "columns", "rank", "empty", "huge", "short", "long"])
async def test_wrong_shapes_of_every_datatype(transport: str, kind: str, wrong: str) -> None:
    """Told by name, never run; the next request is served."""
    async with served(transport, WIDE) as server:
        good = wide_tensors(2, np.random.default_rng(0), raw=True)
        bad = list(good)
        position = next(number for number, tensor in enumerate(good) if tensor.datatype == kind)
        shape, data = [2, 2], good[position].data
        if wrong == "short":
            data = data[:-1]
        elif wrong == "long":
            data += b"\0\0\0\0\0"
        else:
            shape = {
                "rows": [1, 4], "no rows": [0, 2], "columns": [2, 3], "rank": [4], "empty": [], "huge": [2**62, 2**62]
            }[wrong]  # fmt: skip
            data = b"" if wrong == "no rows" else data
        bad[position] = Tensor(good[position].name, kind, shape, data)
        reply = await server.client.infer("wide", bad)
        assert reply.status == "INVALID_ARGUMENT", reply
        assert f"in_{kind}" in reply.error or "BYTES data" in reply.error or "binary_data_size" in reply.error
        assert reply.request_id
        assert (await server.client.infer("wide", good)).status == "OK"
        assert server.router.outcomes[Outcome.SERVED] == 1


@both
async def test_mistakes_have_their_status(transport: str) -> None:
    """Names, versions, parameters and deadlines; the status table is one for both."""
    async with served(transport, MODEL) as server:
        infer, tensors = server.client.infer, [pixels(), scale()]
        expected: list[tuple[str, str, Any]] = [
            ("NOT_FOUND", "'huge'", infer("huge", tensors)),
            ("NOT_FOUND", "'7'", infer("tiny", tensors, version="7")),
            ("INVALID_ARGUMENT", "missing", infer("tiny", tensors[:1])),
            ("INVALID_ARGUMENT", "once", infer("tiny", [pixels(), pixels()])),
            ("INVALID_ARGUMENT", "datatype", infer("tiny", [pixels(datatype="INT8"), scale()])),
            ("INVALID_ARGUMENT", "'FLOAT'", infer("tiny", [pixels(datatype="FLOAT"), scale()])),
            ("INVALID_ARGUMENT", "1 to 4 rows", infer("tiny", [pixels(5), scale(5)])),
            ("INVALID_ARGUMENT", "timeout", infer("tiny", tensors, parameters={"timeout": "soon"})),
            ("INVALID_ARGUMENT", "timeout", infer("tiny", tensors, parameters={"timeout": -1})),
            ("INVALID_ARGUMENT", "priority", infer("tiny", tensors, parameters={"priority": -1})),
            ("INVALID_ARGUMENT", "min_accuracy", infer("tiny", tensors, parameters={"superserve_min_accuracy": 101})),
            ("INVALID_ARGUMENT", "71.5", infer("tiny", tensors, parameters={"superserve_min_accuracy": 71.5})),
            ("INVALID_ARGUMENT", "superserve_subnets", infer("tiny", tensors, parameters={"superserve_subnets": "s1"})),
            ("INVALID_ARGUMENT", "x-slo-ms", infer("tiny", tensors, headers={"x-slo-ms": "never"})),
            ("INVALID_ARGUMENT", "x-slo-ms", infer("tiny", tensors, headers={"x-slo-ms": "nan"})),
            ("DEADLINE_EXCEEDED", "deadline", infer("tiny", tensors, parameters={"timeout": 500})),
            ("DEADLINE_EXCEEDED", "deadline", infer("tiny", tensors, headers={"x-slo-ms": "0.5"})),
            ("NOT_FOUND", "'huge'", server.client.ask("metadata", "huge")),
            ("NOT_FOUND", "'huge'", server.client.ask("config", "huge")),
            ("NOT_FOUND", "'2'", server.client.ask("stats", "tiny", "2")),
            ("NOT_FOUND", "'huge'", server.client.ask("model_ready", "huge")),
        ]
        for status, pattern, call in expected:
            reply = await call
            assert (reply.status, bool(reply.request_id)) == (status, True), reply
            assert pattern in reply.error
        assert (await infer("tiny", tensors, parameters={"timeout": 1_000_000, "priority": 1})).status == "OK"


@both
async def test_refusals_of_the_scheduler(transport: str) -> None:
    """Queue full, expired, worker failure, stopping: status and outcome."""
    pool = FakePool()
    async with served(transport, MODEL, pool=pool) as server:
        tensors = [pixels(), scale()]

        def send(**options: Any) -> "asyncio.Task[Any]":
            return asyncio.ensure_future(server.client.infer("tiny", tensors, **options))

        running = send()
        await until(lambda: server.router.unfinished == 1)
        short = send(parameters={"timeout": 50_000})
        queued = [send() for _ in range(2)]
        await until(lambda: server.router.queue_depth == 3)
        full = await send()
        assert (full.status, full.outcome) == ("RESOURCE_EXHAUSTED", "rejected")
        expired = await short
        assert (expired.status, expired.outcome) == ("DEADLINE_EXCEEDED", "expired")
        pool.fail(0)
        failed = await running
        assert (failed.status, failed.outcome) == ("INTERNAL", "failed")
        while pool.running:
            pool.finish(0)
        assert [(await task).status for task in queued] == ["OK", "OK"]
        await server.router.drain(1)
        stopping = await send()
        assert (stopping.status, stopping.outcome) == ("UNAVAILABLE", "rejected")


@both
async def test_the_bodies_of_all_clients_together_are_bounded(transport: str) -> None:
    """One more is refused, with an outcome; there is room again when one is answered, cancelled, or found wrong."""
    pool = FakePool()
    async with served(transport, MODEL, pool=pool) as server:
        memory = server.common.memory

        def send(name: str = "tiny") -> "asyncio.Task[Any]":
            return asyncio.ensure_future(server.client.infer(name, [pixels(), scale()], request_id="x" * 600))

        assert (await send("huge")).status == "NOT_FOUND"
        calls = [send()]
        await until(lambda: len(pool.running) == 1)
        memory.limit = 2 * memory.held + 500
        for cancelled in (True, False):
            calls.append(send())
            await until(lambda: server.router.queue_depth == 1)
            extra = await send()
            assert (extra.status, extra.outcome) == ("UNAVAILABLE", "rejected")
            assert "max_body_memory_bytes" in extra.error
            if cancelled:
                calls.pop().cancel()
                await until(lambda: server.router.queue_depth == 0)
        while pool.running:
            pool.finish(0)
        assert [(await call).status for call in calls] == ["OK", "OK"]
        await until(lambda: memory.held == 0)


@both
async def test_a_client_that_gives_up_frees_its_place_at_once(transport: str) -> None:
    """Waiting work is never run, and the queue has room again."""
    pool = FakePool()
    async with served(transport, MODEL, pool=pool) as server:
        calls = [asyncio.ensure_future(server.client.infer("tiny", [pixels(), scale()]))]
        await until(lambda: len(pool.running) == 1)  # calls of their own connections may overtake each other
        calls += [asyncio.ensure_future(server.client.infer("tiny", [pixels(), scale()])) for _ in range(2)]
        await until(lambda: server.router.queue_depth == 2)
        for call in calls[1:]:
            call.cancel()
        await until(lambda: server.router.queue_depth == 0)
        assert server.router.outcomes[Outcome.CANCELLED] == 2
        pool.finish(0)
        assert (await calls[0]).status == "OK"
        assert len(pool.launched) == 1


@both
async def test_a_client_that_leaves_a_running_batch_hurts_nobody(transport: str) -> None:
    """The batch goes on, and the others of it are answered."""
    pool = FakePool()
    async with served(transport, MODEL, pool=pool) as server:
        calls = []
        for number in range(3):
            calls.append(asyncio.ensure_future(server.client.infer("tiny", [pixels(), scale()])))
            await until(lambda count=number: server.router.unfinished == count + 1)
        pool.finish(0)  # the other two share a batch now
        assert (await calls[0]).status == "OK"
        calls[1].cancel()
        await until(lambda: server.router.outcomes[Outcome.CANCELLED] == 1)
        pool.finish(0)
        assert (await calls[2]).parameters["superserve_batch_size"] == 2


def arrays(kind: str) -> st.SearchStrategy[np.ndarray[Any, Any]]:
    """Of any small shape."""
    return hnp.arrays(DTYPES[kind], hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3))


@both
@settings(max_examples=30)
@given(data=st.data())
def test_any_tensors_are_served_or_refused(transport: str, data: st.DataObject) -> None:
    """Random names, datatypes and shapes that fit their data: nothing but an answer or a 400."""
    kinds = st.sampled_from(sorted(DTYPES))
    tensors = []
    for name in data.draw(st.lists(st.sampled_from(["image", "scale", "x", ""]), max_size=3)):
        kind = data.draw(kinds)
        array = data.draw(arrays(kind))
        tensors.append(Tensor(name, kind, array.shape, array.tobytes()))

    async def run() -> None:
        async with served(transport, MODEL) as server:
            reply = await server.client.infer("tiny", tensors)
            assert reply.status in {"OK", "INVALID_ARGUMENT"}, reply
            assert (await server.client.infer("tiny", [pixels(), scale()])).status == "OK"

    asyncio.run(run())


async def until(happened: Any) -> None:
    """Until something has happened on the server's side."""
    async with asyncio.timeout(8):
        while not happened():  # noqa: ASYNC110  (a server tells nobody that a client has gone)
            await asyncio.sleep(0.002)


def test_the_transports_are_those_of_the_server() -> None:
    """The fixture gives what its name says."""
    assert Served.__annotations__.keys() >= set(TRANSPORTS)
    assert GrpcTransport.METHODS.keys() == {"live", "ready", "server", "model_ready", "metadata", "config", "stats"}


@both
async def test_several_models_in_one_server(transport: str) -> None:
    """Each has its own name, readiness, statistics and queue; the workers are the same."""
    pool = FakePool()
    async with served(transport, MODEL, rename(MODEL, "other"), WIDE, pool=pool) as server:
        ask, infer = server.client.ask, server.client.infer
        tensors = [pixels(), scale()]
        calls = [asyncio.ensure_future(infer("tiny", tensors))]
        await until(lambda: pool.launched)
        calls += [asyncio.ensure_future(infer("other", tensors)) for _ in range(2)]
        await until(lambda: sum(model.router.queue_depth for model in server.plane.models.values()) == 2)
        for _ in range(2):
            pool.finish(0)
        replies = [await call for call in calls]
        assert [reply.status for reply in replies] == ["OK"] * 3
        assert [reply.content["model_name"] for reply in replies] == ["tiny", "other", "other"]
        assert {batch.model: batch.rows for _, batch in pool.launched} == {0: 1, 1: 2}
        told = {model["name"]: model for model in (await ask("stats")).content["model_stats"]}
        assert {name: int(model["inference_count"]) for name, model in told.items()} == {
            "tiny": 1,
            "other": 2,
            "wide": 0,
        }
        assert (await ask("stats", "other")).content["model_stats"] == [told["other"]]
        assert [(await ask("metadata", name)).content["name"] for name in told] == list(told)
        await server.plane.models["other"].router.drain(0)
        ready = [(await ask("model_ready", name)).status for name in told]
        assert ready == ["OK", "UNAVAILABLE", "OK"]
        assert (await ask("ready")).status == "UNAVAILABLE"
        assert (await infer("other", tensors)).status == "UNAVAILABLE"
        assert (await infer("fourth", tensors)).status == "NOT_FOUND"
