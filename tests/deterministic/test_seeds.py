"""Lives of a whole server, drawn from seeds: whatever goes wrong, nobody is forgotten, and the server is well again.

``PYTHONPATH=tests python -m deterministic SEED`` lives one again and tells everything.
"""

import os
import subprocess
import sys

import pytest

from deterministic.asks import Ask
from deterministic.scenery import Scenery
from deterministic.world import live

#: Each test lives so many; `make test-all` more.
_AT_ONCE = 30
_TESTS = 167 if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else 10


@pytest.mark.parametrize("first", range(0, _TESTS * _AT_ONCE, _AT_ONCE))
def test_nobody_is_forgotten(first: int, scenery: Scenery) -> None:
    """See ``watch.py``, ``client.py`` and ``World`` for what is looked at."""
    for seed in range(first, first + _AT_ONCE):
        life = live(seed, scenery)
        assert not life.broken, f"seed {seed}: PYTHONPATH=tests python -m deterministic {seed}\n{life.broken[0]}"


def test_a_seed_is_lived_again_to_the_byte(scenery: Scenery) -> None:
    """In one process, where addresses differ, and in another, where hashes do."""
    seeds = (3, 9, 60, 108)
    first, again = ([live(seed, scenery).text() for seed in seeds] for _ in range(2))
    assert first == again
    environment = {**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "deterministic", str(seeds[0])]
    told = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout
    assert told.startswith(first[0])


def test_lives_are_full(scenery: Scenery) -> None:
    """Of everything that is watched for there is enough to see: a plan that lets nothing happen would find nothing."""
    lives = [live(seed, scenery) for seed in range(20)]
    asks = [ask for life in lives for ask in life.asks.values()]

    def count(what: str) -> int:
        return sum(what in line for life in lives for line in life.log)

    assert all(len(life.asks) >= 50 for life in lives)
    for status, least in {200: 400, 400: 50, 413: 10, 429: 10, 500: 5, 503: 100, 504: 100}.items():
        assert sum(ask.status == status for ask in asks) >= least, status
    assert sum(ask.launches > 1 for ask in asks) >= 10
    assert sum(_left_before_its_answer(ask) for ask in asks) >= 50
    assert count(" ends with 9") >= 20
    assert count(" stall ") >= 3


def _left_before_its_answer(ask: Ask) -> bool:
    return ask.gone_ns is not None and ask.arrival_ns is not None
