"""grpc.aio with a micro-batcher by hand: the tensor's bytes are the message, so that no protobuf is in the way."""

import asyncio

import grpc
import grpc.aio

from peers.messages import RAW_SERVICE
from peers.model import load_model
from peers.servers.arguments import Arguments, parse, settle
from peers.servers.batcher import MicroBatcher


async def serve(arguments: Arguments) -> None:
    """Serve until told to stop."""
    batcher = MicroBatcher(arguments.job, load_model(arguments.job), arguments.rows)

    async def infer(request: bytes, _: object) -> bytes:
        return await batcher.run(request)

    _, service, method = RAW_SERVICE.split("/")
    handler = grpc.method_handlers_generic_handler(service, {method: grpc.unary_unary_rpc_method_handler(infer)})
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handler,))
    server.add_insecure_port(f"127.0.0.1:{arguments.port}")
    settle()
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(serve(parse()))
