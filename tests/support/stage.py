"""A guest that attacks, another that it must not reach, a world of servers, and witnesses of what arrives anywhere."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from support.lab import Lab
from support.sniffer import Arrived, Sniffer, opened
from support.world import NAME_SERVER, running_world
from terpd.egress.authority import certificate_for, make_authority
from terpd.model.ids import SandboxId, TenantId
from terpd.model.network import Decision, EgressRecord, NetworkPolicy, NetworkSpec, Reason
from terpd.node.jail.process import become_parent_of_orphans

TENANT = TenantId("default")
TEMPLATE = "python-3.12-bare"
ALLOWED, DENIED, PACKAGES, FRONT = "93.184.216.10", "93.184.216.11", "93.184.216.12", "93.184.216.13"
HOST = "192.168.7.2"
API_PORT = 7070  # where the host's own API would listen, at every address of its
NAMES = {
    "allowed.example": ALLOWED,
    "denied.example": DENIED,
    "packages.example": PACKAGES,
    "front.example": FRONT,
}
_TOOLS = Path(__file__).with_name("attacker.py")
_GUEST_DIRECTORY = "/tmp/attack"
_RECORD_S = 30.0


def policy(*domains: str, open: bool = False, report_only: bool = False) -> NetworkSpec:  # noqa: A002  as the API says
    return NetworkSpec(TENANT, NetworkPolicy(open=open, allow_domains=list(domains), report_only=report_only))


class Stage:
    """Use by `staged`. *heads*: of the requests that servers got, by the server's name."""

    def __init__(self, lab: Lab, sniffers: Sequence[Sniffer]) -> None:
        self.lab = lab
        self.world = lab.world
        self.heads: list[tuple[str, bytes]] = []
        self.attacker: SandboxId
        self.victim: SandboxId
        self._sniffers = sniffers
        self._spec: NetworkSpec | None = None
        self._seen = 0

    async def set_policy(self, spec: NetworkSpec) -> None:
        """Let *spec* hold for the attacker, and forget what was seen until then."""
        if spec != self._spec:
            await self.lab.node.set_network(self.attacker, spec)
            self._spec = spec
        self.arrived()
        self.world.asked.clear()
        self.heads.clear()
        self._seen = len(self.lab.records)

    async def attack(self, source: str, *, by: SandboxId | None = None) -> str:
        """Run Python in the attacker's guest, with all of attacker.py in reach; return what it prints."""
        command = f"cd {_GUEST_DIRECTORY}; echo {_encoded(source)} > in; cat out"
        code, said = await self.lab.run(by or self.attacker, command)
        assert code == 0, said
        return said

    def arrived(self) -> set[Arrived]:
        """All that arrived since the last time in the world or at the host's own addresses, but for our questions."""
        return {arrived for each in self._sniffers for arrived in each.drain()}

    def records(self) -> Sequence[EgressRecord]:
        """Of the attacker, since the policy was set last."""
        return [each for each in self.lab.records[self._seen :] if each.sandbox_id == self.attacker]

    async def recorded(self, reason: Reason, decision: Decision | None = None) -> EgressRecord:
        """Wait for a record with this reason."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_RECORD_S):
                while True:
                    for each in self.records():
                        if each.reason is reason and decision in {None, each.decision}:
                            return each
                    await asyncio.sleep(0.02)
        raise AssertionError(f"no record with {reason}: {[(each.name, each.reason) for each in self.records()]}")

    async def equip(self, sandbox: SandboxId) -> None:
        """Put the attacker's tools into a guest."""
        code, said = await self.lab.run(
            sandbox,
            f"mkdir {_GUEST_DIRECTORY}; cd {_GUEST_DIRECTORY}; echo {_encoded(_TOOLS.read_text())} | base64 -d > a.py\n"
            "nohup python3 -IS a.py > ready 2>&1 & until grep -q ready ready; do sleep 0.1; done",
        )
        assert code == 0, said

    async def serve(self) -> None:
        """HTTPS on two ports and HTTP, for each name; a server says who it is and which Host it was asked for."""
        authority = make_authority("World")
        for name, address in NAMES.items():
            self.world.names[name] = [address]

            async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str = name) -> None:
                while True:
                    head = await reader.readuntil(b"\r\n\r\n")
                    self.heads.append((name, head))
                    host = next(line for line in head.decode("latin-1").split("\r\n") if line.startswith("Host:"))
                    body = f"{name} for {host[6:]}".encode()
                    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                    await writer.drain()
                    if b"close" in head:
                        return

            await self.world.serve(address, 443, answer, tls=certificate_for(authority, name))
            await self.world.serve(address, 8443, answer, tls=certificate_for(authority, name))
            await self.world.serve(address, 80, answer)


def _encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@contextlib.asynccontextmanager
async def staged(directory: Path) -> AsyncIterator[Stage]:
    """Only within `moved`."""
    become_parent_of_orphans()
    async with running_world() as world:
        with _api_of_the_host() as api:
            lab = Lab(directory, world)
            stage = Stage(lab, [Sniffer(each, name_server=NAME_SERVER) for each in (world.run(opened), opened())])
            await stage.serve()
            await lab.open()
            try:
                stage.attacker, stage.victim = await asyncio.gather(*(_guest(stage) for _ in range(2)))
                yield stage
            finally:
                await lab.close(stop_machines=True)
                for each in stage._sniffers:
                    each.close()
            assert not _was_reached(api), "something reached a port of the host itself"


async def _guest(stage: Stage) -> SandboxId:
    guest = await stage.lab.start(policy("allowed.example"), template=TEMPLATE)
    await stage.equip(guest)
    return guest


@contextlib.contextmanager
def _api_of_the_host() -> Iterator[socket.socket]:
    with socket.create_server(("0.0.0.0", API_PORT)) as made:
        made.setblocking(False)
        yield made


def _was_reached(listener: socket.socket) -> bool:
    try:
        listener.accept()[0].close()
    except BlockingIOError:
        return False
    return True
