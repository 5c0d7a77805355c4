"""An IP network between network namespaces of this machine, whose links may delay, lose or hold back every packet.

Each host has a TUN device; what it sends is read by a process of its own and written, later, to the device of the host
that it is for. Linux's own emulator (``tc netem``) is a kernel module that many machines lack; TUN devices need none.
"""

import fcntl
import heapq
import os
import select
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Final, NamedTuple, Self

import numpy as np

_TUN: Final = Path("/dev/net/tun")
#: Of ``linux/if_tun.h``: a name is asked for, for a device of IP packets without a header of its own.
_TUNSETIFF: Final = 0x400454CA
_IFF_TUN_NO_PI: Final = 0x0001 | 0x1000
#: Of an IPv4 header.
_SOURCE: Final = slice(12, 16)
_DESTINATION: Final = slice(16, 20)
_LARGEST_PACKET: Final = 1 << 16
_NS_PER_MS: Final = 1_000_000
#: For documentation and tests of networks (RFC 2544); the third byte is a run's own.
_PREFIX: Final = "198.18"


class NoNetworkError(Exception):
    """This machine does not let us make one; the message says why."""


class Link(NamedTuple):
    """What a host is connected with. A packet passes two of them."""

    device: int
    """The file descriptor of its TUN device."""
    delay_ns: int = 0
    loss: float = 0.0
    """Share of packets; 1 is a partition: nothing tells either side that the other one is not there."""


class Network:
    """Namespaces that reach each other and this machine's own, through links that can be made worse; a context.

    Args:
        count: so many hosts beside this machine's own namespace, which is one, too: number 0.

    Attributes:
        addresses: of the hosts, by number.
        namespaces: by number, from 1 on; ``ip netns exec`` takes them.
    """

    def __init__(self, count: int) -> None:
        run = os.getpid()
        self.addresses = [f"{_PREFIX}.{run % 256}.{number + 1}" for number in range(count + 1)]
        self.namespaces = {number: f"ss{run}-{number}" for number in range(1, count + 1)}
        self._stack = ExitStack()
        self._relay: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        """Make it.

        Raises:
            NoNetworkError: if this machine does not allow that.
        """
        with self._stack:
            devices = [self._host(number) for number in range(len(self.addresses))]
            ends = [f"{address}={device}" for address, device in zip(self.addresses, devices, strict=True)]
            self._relay = subprocess.Popen([sys.executable, __file__, *ends], stdin=subprocess.PIPE, pass_fds=devices)
            self._stack.callback(self._end_relay)
            for device in devices:
                os.close(device)
            self._stack = self._stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End what runs in its namespaces, and them."""
        self._stack.close()

    def link(self, host: int, *, delay_ms: float = 0.0, loss: float = 0.0) -> None:
        """From now on, packets from and to a host take so much longer and get lost so often."""
        assert self._relay.stdin is not None
        self._relay.stdin.write(f"{self.addresses[host]} {delay_ms} {loss}\n".encode())
        self._relay.stdin.flush()

    def processes(self, host: int) -> Sequence[str]:
        """The ids of all processes of a host."""
        return _ip("netns", "pids", self.namespaces[host]).split()

    def kill(self, host: int) -> None:
        """End them all, at once."""
        for process in self.processes(host):
            with suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)

    def _host(self, number: int) -> int:
        """Make one, with its device; the device's descriptor."""
        name = f"ss{os.getpid()}-{number}"
        inside: Sequence[str] = ()
        if number:
            _ip("netns", "add", name)
            self._stack.callback(_ip, "netns", "delete", name)
            self._stack.callback(self.kill, number)
            inside = ("-n", name)
        device = _tun(name)
        if number:
            _ip("link", "set", name, "netns", name)
            _ip(*inside, "link", "set", "lo", "up")
        _ip(*inside, "address", "add", f"{self.addresses[number]}/24", "dev", name)
        _ip(*inside, "link", "set", name, "up")
        return device

    def _end_relay(self) -> None:
        assert self._relay.stdin is not None
        self._relay.stdin.close()
        self._relay.wait()


def _ip(*arguments: str) -> str:
    """What ``ip`` says."""
    command = shutil.which("ip")
    if command is None:
        raise NoNetworkError("no `ip` (iproute2) on this machine")
    done = subprocess.run([command, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise NoNetworkError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout


def _tun(name: str) -> int:
    """A new device; it is there as long as its descriptor."""
    try:
        device = os.open(_TUN, os.O_RDWR | os.O_CLOEXEC)
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _IFF_TUN_NO_PI))
    except OSError as error:
        raise NoNetworkError(f"no TUN device: {error}") from None
    return device


class Relay:
    """Carries packets between hosts.

    Args:
        links: by address, in the form that it has in packets.
        rng: decides which packets get lost.
    """

    def __init__(self, links: Mapping[bytes, Link], rng: np.random.Generator) -> None:
        self.links = dict(links)
        self._rng = rng
        self._count = 0
        self._under_way: list[tuple[int, int, int, bytes]] = []
        """Heap: when it arrives, its number, where, and the packet."""

    def take(self, now_ns: int, packet: bytes) -> None:
        """A host has sent a packet. What is not IPv4, or for nobody, goes nowhere."""
        source, destination = (self.links.get(packet[part]) for part in (_SOURCE, _DESTINATION))
        if packet[0] >> 4 != 4 or source is None or destination is None:
            return
        if any(link.loss and self._rng.random() < link.loss for link in (source, destination)):
            return
        self._count += 1
        due_ns = now_ns + source.delay_ns + destination.delay_ns
        heapq.heappush(self._under_way, (due_ns, self._count, destination.device, packet))

    def arrived(self, now_ns: int) -> Sequence[tuple[int, bytes]]:
        """Packets that have arrived, each with the device that is to get it."""
        found = []
        while self._under_way and self._under_way[0][0] <= now_ns:
            *_, device, packet = heapq.heappop(self._under_way)
            found.append((device, packet))
        return found

    def wait_s(self, now_ns: int) -> float | None:
        """Until the next packet arrives; None if none is under way."""
        return max(0, self._under_way[0][0] - now_ns) / 1e9 if self._under_way else None

    def change(self, command: str) -> None:
        """``ADDRESS DELAY_MS LOSS``."""
        address, delay_ms, loss = command.split()
        packed = IPv4Address(address).packed
        self.links[packed] = Link(self.links[packed].device, round(float(delay_ms) * _NS_PER_MS), float(loss))


def _run(relay: Relay, commands: int) -> None:
    """Until whoever commands has gone."""
    devices = [link.device for link in relay.links.values()]
    while True:
        ready, *_ = select.select([commands, *devices], (), (), relay.wait_s(time.monotonic_ns()))
        for device in ready:
            if device == commands:
                told = os.read(commands, _LARGEST_PACKET).decode()
                if not told:
                    return
                for command in told.splitlines():
                    relay.change(command)
            else:
                relay.take(time.monotonic_ns(), os.read(device, _LARGEST_PACKET))
        for device, packet in relay.arrived(time.monotonic_ns()):
            os.write(device, packet)


if __name__ == "__main__":
    ends = dict(end.split("=") for end in sys.argv[1:])
    links = {IPv4Address(address).packed: Link(int(device)) for address, device in ends.items()}
    _run(Relay(links, np.random.default_rng(0)), sys.stdin.fileno())
