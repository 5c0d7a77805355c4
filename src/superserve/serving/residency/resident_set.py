"""Which subnets are worth the memory that they take beyond the one copy of the weights."""

from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from typing import Final, Generic, NamedTuple, TypeVar

from superserve.clock import NS_PER_S

#: What was used so long ago counts half: a burst of two seconds weighs an eighth of what went before.
HALF_LIFE_NS: Final = 10 * NS_PER_S
#: Nothing is evicted sooner after the last eviction.
INTERVAL_NS: Final = 5 * NS_PER_S
#: What takes the place of a resident subnet is worth so many times as much: of two that are alike, neither gives way.
HYSTERESIS: Final = 1.5
#: A subnet with a smaller part of all that is used is not packed for that.
LEAST_SHARE: Final = 0.02
#: A subnet that could not be packed is tried again after so long, then after twice as long, up to the last.
FIRST_BACKOFF_NS: Final = 10 * NS_PER_S
LAST_BACKOFF_NS: Final = 3_600 * NS_PER_S

K = TypeVar("K", bound=Hashable)


class _Failures(NamedTuple):
    times: int
    until_ns: int


class ResidentSet(Generic[K]):
    """Decides which subnets should be resident, and which should be packed, so that they can be.

    A subnet is worth the time that its rows would take on the slower engine, of late: use decays exponentially, so that
    both how often and how lately it was used count (LRFU: Lee et al., IEEE Trans. Computers 50(12), 2001). The most
    worth while fit into the budget; an unused one may fill what is left, the more accurate before others.

    The smallest subnet of each model comes first, and stays. It is what admission promises with, what a burst is served
    by, and what takes least memory: no change of the others makes any promise harder to keep.

    What is resident counts `HYSTERESIS` times, and evictions are `INTERVAL_NS` apart at least: of a stationary mix the
    set is constant in the end, and a burst does not turn it around.

    Pure: it knows neither files nor workers. A key names a subnet of a model.

    Args:
        budget: bytes that resident subnets may take together; None: what the smallest and the largest of those that
            have been packed take, of each model.
    """

    def __init__(self, budget: int | None) -> None:
        self._budget = budget
        self._fronts: list[tuple[K, ...]] = []
        self._costs_ns: dict[K, float] = {}
        self._worth: dict[K, float] = {}
        self._sizes: dict[K, int] = {}
        """Of all that have ever been packed."""
        self._packed: set[K] = set()
        self._useless: set[K] = set()
        self._failures: dict[K, _Failures] = {}
        self._observed_ns = 0
        self._evicted_ns = -INTERVAL_NS

    @property
    def budget(self) -> int:
        """Bytes that resident subnets may take together."""
        if self._budget is not None:
            return self._budget
        return sum(self._default_budget(front) for front in self._fronts)

    def _default_budget(self, front: Sequence[K]) -> int:
        smallest, *others = (self._sizes.get(key, 0) for key in front)
        return smallest + max(others, default=0)

    def size(self, keys: Iterable[K]) -> int:
        """Bytes of packed subnets."""
        return sum(self._sizes[key] for key in keys)

    def add(self, front: Sequence[K], costs_ns: Sequence[float]) -> None:
        """A model comes, with what a row takes at each subnet on the slower engine; the smallest subnet first."""
        self._fronts.append(tuple(front))
        self._costs_ns.update(zip(front, costs_ns, strict=True))
        self._worth.update(dict.fromkeys(front, 0.0))

    def remove(self, front: Sequence[K]) -> None:
        """A model goes."""
        self._fronts.remove(tuple(front))
        for key in front:
            del self._costs_ns[key], self._worth[key]
            self._sizes.pop(key, None)
            self._failures.pop(key, None)
        self._packed.difference_update(front)
        self._useless.difference_update(front)

    def observe(self, now_ns: int, rows: Mapping[K, int]) -> None:
        """So many rows were run since the last time."""
        decay = 0.5 ** ((now_ns - self._observed_ns) / HALF_LIFE_NS)
        self._observed_ns = now_ns
        for key, worth in self._worth.items():
            self._worth[key] = worth * decay + rows.get(key, 0) * self._costs_ns[key]

    def built(self, key: K, nbytes: int) -> None:
        """A subnet is packed, and may become resident."""
        self._sizes[key] = nbytes
        self._packed.add(key)

    def is_no_faster(self, key: K) -> None:
        """A subnet has been packed, and is not worth any memory: it is not to be resident, nor packed again."""
        self._useless.add(key)

    def settled(self, keys: Iterable[K]) -> None:
        """These are resident: what failed before is forgotten."""
        for key in keys:
            self._failures.pop(key, None)

    def failed(self, key: K, now_ns: int) -> None:
        """A subnet could not be packed, or not be mapped: it is not resident, and packed again later."""
        self._packed.discard(key)
        times = self._failures[key].times if key in self._failures else 0
        wait_ns = min(FIRST_BACKOFF_NS << min(times, 32), LAST_BACKOFF_NS)
        self._failures[key] = _Failures(times + 1, now_ns + wait_ns)

    def next_to_pack(self, now_ns: int, resident: Collection[K]) -> K | None:
        """The subnet most worth packing; None if none is."""
        total = sum(self._worth.values())
        if not total:
            return None
        ranked = [key for key in self._ranked(resident) if key not in self._useless]
        for key in self._chosen(ranked, self._least_sizes()):
            if key in self._packed or (key in self._failures and now_ns < self._failures[key].until_ns):
                continue
            if self._worth[key] >= LEAST_SHARE * total or (self._is_first(key) and self._model_is_used(key)):
                return key
        return None

    def wanted(self, now_ns: int, resident: Collection[K]) -> frozenset[K]:
        """The subnets that should be resident now, where these are; all of them are packed, and fit the budget."""
        resident = self._packed.intersection(resident)
        ranked = [key for key in self._ranked(resident) if key in self._packed]
        best = frozenset(self._chosen(ranked, self._sizes))
        if resident <= best:
            return best
        if now_ns - self._evicted_ns < INTERVAL_NS and self.size(resident) <= self.budget:
            staying = sorted(ranked, key=lambda key: key not in resident)
            return frozenset(self._chosen(staying, self._sizes))
        return best

    def evicted(self, now_ns: int) -> None:
        """Resident subnets have given way to others."""
        self._evicted_ns = now_ns

    def _ranked(self, resident: Collection[K]) -> list[K]:
        """All subnets, the most worth first: each model's smallest, then by use, then resident ones, then others."""
        places = {key: place for front in self._fronts for place, key in enumerate(front)}

        def rank(key: K) -> tuple[bool, float, bool, int]:
            worth = self._worth[key] * (HYSTERESIS if key in resident else 1.0)
            return places[key] == 0, worth, key in resident, places[key]

        return sorted(places, key=rank, reverse=True)

    def _chosen(self, ranked: Iterable[K], sizes: Mapping[K, int]) -> list[K]:
        """Those that fit into the budget, one after the other."""
        chosen: list[K] = []
        left = self.budget
        for key in ranked:
            if sizes[key] <= left:
                left -= sizes[key]
                chosen.append(key)
        return chosen

    def _least_sizes(self) -> dict[K, int]:
        """What subnets take at least: of one that has not been packed, what a smaller one of its model takes.

        Without a budget of their own one that has not been packed takes nothing: the budget will hold it.
        """
        least: dict[K, int] = {}
        for front in self._fronts:
            below = 0
            for key in front:
                known = self._sizes.get(key)
                below = below if known is None else known
                least[key] = below if known is not None or self._budget is not None else 0
        return least

    def _is_first(self, key: K) -> bool:
        return any(front[0] == key for front in self._fronts)

    def _model_is_used(self, key: K) -> bool:
        return any(self._worth[each] for front in self._fronts if key in front for each in front)
