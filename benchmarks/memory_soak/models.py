"""A second model that is loaded into the running server, asked, and unloaded, over and over."""

import asyncio
import urllib.error
import urllib.request
from collections import Counter
from typing import Final

import numpy as np

from superserve.client.client import AsyncClient

OTHER: Final = "digits"
_REST_S: Final = 1.0
#: A model loads in the time that workers leave over.
_TIMEOUT_S: Final = 300.0


async def come_and_go(url: str, ended: Counter[str]) -> None:
    """Until cancelled; counts what was done, and how the server took it."""
    while True:
        for verb in ("load", "unload"):
            status = await asyncio.to_thread(_change, url, verb)
            ended[f"{verb}, {status}"] += 1
            if verb == "load" and status == 200:
                async with AsyncClient(url) as client:
                    await client.infer(OTHER, {"image": np.zeros((1, 8, 8), np.uint8)}, slo_ms=30_000)
            await asyncio.sleep(_REST_S)


def _change(url: str, verb: str) -> int:
    """Load or unload it; the status of the answer. One that a worker's death has thwarted is 500."""
    request = urllib.request.Request(f"{url}/v2/repository/models/{OTHER}/{verb}", data=b"{}", method="POST")  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310  (a server that we started)
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code
