"""FastAPI on uvicorn with a micro-batcher by hand."""

import uvicorn
from fastapi import FastAPI, Request, Response

from peers.model import load_model
from peers.servers.arguments import parse, settle
from peers.servers.batcher import MicroBatcher


def main() -> None:
    """Serve until told to stop."""
    arguments = parse()
    batcher = MicroBatcher(arguments.job, load_model(arguments.job), arguments.rows)
    app = FastAPI()

    @app.post("/infer")
    async def infer(request: Request) -> Response:
        return Response(await batcher.run(await request.body()), media_type="application/octet-stream")

    settle()
    uvicorn.run(app, port=arguments.port, loop="uvloop", http="httptools", access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
