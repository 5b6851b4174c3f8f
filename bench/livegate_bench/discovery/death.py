"""From the end of an instance (`kill -9`) to the last request that the gateway sends to it, under steady load. Nobody takes the
instance out of the registry, as after a crash on a host that lives on: its port refuses, and that is all."""

import os
import signal
import time
from contextlib import ExitStack

from . import zookeeper
from .stage import TRAFFIC_RAMP, Connection, Gateway, Origin, ROOT, instances, now, registration, traffic

_INSTANCES = 4
_SECONDS, _SECONDS_QUICK = 60, 12
# The instance is watched for so long after its death; with its share of the load that would be 200 requests.
_WATCH = 0.4
_POLL = 0.0005
_PATIENCE = 10
_SERVICE = "mortal"


def measure(bench):
    """`last_ms`: of each round, from the end of the process until the last pick; `picks`: of each round, how many there were after the kill."""
    seconds = _SECONDS_QUICK if bench.quick else _SECONDS
    found = {"last_ms": [], "picks": []}
    with ExitStack() as stack:
        origins = [Origin(bench, f"mortal-{number}", "127.0.0.1") for number in range(_INSTANCES)]
        stack.callback(lambda: [origin.stop() for origin in origins])
        gateway = Gateway(bench, "death")
        stack.callback(gateway.stop)
        ids = [f"127.0.0.1:{origin.port}" for origin in origins]
        with zookeeper.Session(gateway.registry) as registry:
            registry.ensure(f"{ROOT}/{_SERVICE}")
            registry.call(*(zookeeper.create(f"{ROOT}/{_SERVICE}/{id}", registration(_SERVICE, id)) for id in ids))
        admin = stack.enter_context(Connection(gateway.admin_port))
        _until_all_serve(admin, 0)
        load = traffic(bench, gateway, _SERVICE, seconds)
        stack.callback(load.stop)
        time.sleep(TRAFFIC_RAMP)
        end = now() + seconds - _WATCH - 2
        while now() < end:
            bench.show(f"death: {len(found['last_ms'])} instances killed")
            victim = len(found["last_ms"]) % _INSTANCES
            _until_all_serve(admin, 20)
            last, picks = _kill(admin, origins[victim], ids[victim])
            found["last_ms"].append(last * 1e3)
            found["picks"].append(picks)
            origins[victim] = Origin(bench, f"mortal-{victim}", "127.0.0.1", origins[victim].port)
        result = load.finish()
        found |= {"requests": result.requests, "errors": result.errors, "p99_us": result.p99_us}
    return found


def _kill(admin, origin, id):
    before = instances(admin, _SERVICE)[id]["requests"]
    killed = now()
    os.kill(origin.child.pid, signal.SIGKILL)
    picks, last, dead = 0, 0.0, None
    while now() < killed + _WATCH:
        time.sleep(_POLL)
        # A process that is killed must be given the processor once more to close its sockets.
        if dead is None and not origin.child.is_running():
            dead = now()
        after = instances(admin, _SERVICE)[id]["requests"]
        if after > before + picks:
            # Some time since the last look: at the latest now.
            picks, last = after - before, 0.0 if dead is None else now() - dead
    origin.stop()
    return last, picks


def _until_all_serve(admin, requests):
    """Waits until all are in use, and each had so many requests more."""
    deadline = now() + _PATIENCE
    first = None
    while True:
        seen = instances(admin, _SERVICE)
        if len(seen) == _INSTANCES and all(instance["state"] == "fit" for instance in seen.values()):
            first = first or seen
            if all(seen[id]["requests"] >= first[id]["requests"] + requests for id in seen):
                return
        if now() > deadline:
            raise RuntimeError(f"not all instances are in use after {_PATIENCE} s: {seen}")
        time.sleep(0.01)
