"""A gateway that is started while its registry is away: from the start of the process to the first reply of an
instance. What it knows is on disk."""

import os
import signal
import socket
import time
from contextlib import ExitStack

from ..process import wait_until
from ..registry_servers import LIVEGATE, Registry
from . import zookeeper
from .stage import Connection, Gateway, Origin, ROOT, now, registration

_SERVICES, _INSTANCES = 3, 10
_ROUNDS, _ROUNDS_QUICK = 15, 4
_POLL = 0.001
_PATIENCE = 30

# What becomes of whoever connects to the registry.
AWAY = ["answers", "refuses", "is silent"]


def measure(bench):
    """What the registry does -> milliseconds of each start."""
    rounds = _ROUNDS_QUICK if bench.quick else _ROUNDS
    times = {}
    with ExitStack() as stack:
        origin = Origin(bench)
        stack.callback(origin.stop)
        registry = Registry(LIVEGATE, bench.programs, bench.work, bench.load_cpus)
        stack.callback(registry.stop)
        _fill(registry, origin)
        gateway = Gateway(bench, "restart", registry.address)
        stack.callback(lambda: gateway.stop())
        # It serves all services, and what it knows is on disk.
        _first_reply(gateway)
        snapshots = gateway.work / "snapshots"
        wait_until(lambda: len(list(snapshots.glob("*.json"))) == _SERVICES, _PATIENCE, f"a list of each in {snapshots}")
        for kind in AWAY:
            if kind == "refuses":
                registry.child.process.send_signal(signal.SIGKILL)
                registry.child.process.wait()
            if kind == "is silent":
                stack.enter_context(_silence(registry.port))
            times[kind] = []
            for number in range(rounds):
                bench.show(f"restart: registry {kind}, start {number + 1} of {rounds}")
                os.kill(gateway.child.pid, signal.SIGKILL)
                gateway.child.process.wait()
                began = now()
                gateway = Gateway(bench, "restart", registry.address, gateway.ports, wait=False)
                _first_reply(gateway)
                times[kind].append((now() - began) * 1e3)
    return times


def _fill(registry, origin):
    with zookeeper.Session(registry.address) as session:
        for service in range(_SERVICES):
            name = f"service-{service}"
            session.ensure(f"{ROOT}/{name}")
            instances = [origin.instance(service * _INSTANCES + number) for number in range(_INSTANCES)]
            session.call(*(zookeeper.create(f"{ROOT}/{name}/{id}", registration(name, id)) for id in instances))


def _first_reply(gateway):
    """Waits until an instance of each service has answered."""
    deadline = now() + _PATIENCE
    for service in range(_SERVICES):
        while True:
            try:
                with Connection(gateway.port) as client:
                    status, body = client.get(f"/service-{service}/")
                    if status in (200, 201):
                        break
            except OSError as error:
                body = error
            if now() > deadline:
                raise RuntimeError(f"the gateway does not serve within {_PATIENCE} s: {body}\n{gateway.child.log_tail()}")
            time.sleep(_POLL)


def _silence(port):
    """Takes connections, and never says a word."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(1024)
    return listener
