"""Ten thousand instances, of which a hundred a second come, go or change, under steady traffic to all of them.

Quiet and churning phases take turns, so that a machine that slows down does so for both. In a quiet phase the same
changes are made to another part of the registry, which the gateway does not watch: registry, disk and this program
have the same work in both, and what differs is the gateway's alone.
"""

import random
import time
from bisect import bisect_right
from collections import deque
from contextlib import ExitStack

from ..process import Awake, cpu_between, read_host, wait_until
from ..registry_servers import LIVEGATE, Registry
from . import zookeeper
from .stage import TRAFFIC_RAMP, Gateway, Origin, ROOT, now, percentile, registration, traffic

INSTANCES = 10_000
PER_SECOND = 100
# Those that are not registered at the moment; each is away for some seconds.
_AWAY = 200
# An instance that was changed is left alone for so many changes, two seconds: each has to be read by itself, while
# whoever follows may read once what changed twice in a moment.
_REST = 200
# Seconds: of a quiet phase, of a churning one; pairs of them.
_PHASES, _PHASES_QUICK = (15, 30, 20), (6, 9, 3)
# The traffic comes by each instance once in 5 s: then all connections are there.
_WARM_UP = TRAFFIC_RAMP + 7
_MEMORY_EVERY = 5
_PATIENCE = 60
_SERVICE = "big"
_WEIGHTS = 50, 25


class Fleet:
    """The registrations of one service, and changes to them: one in three is an addition, a removal, other data."""

    def __init__(self, session, root, origin):
        self._session = session
        self._root = root
        self._kinds = [self._add, self._remove, self._change]
        everyone = [origin.instance(number) for number in range(INSTANCES + _AWAY)]
        self.weights = {id: _WEIGHTS[0] for id in everyone[:INSTANCES]}
        # For a choice at random in one step.
        self._present = everyone[:INSTANCES]
        self._away = deque(everyone[INSTANCES:])
        self._resting = deque(maxlen=_REST)
        self.turns = 0
        # Additions and changes, each of which somebody who watches has to read.
        self.to_read = 0
        session.ensure(f"{root}/{_SERVICE}")
        session.call_many([zookeeper.create(self._path(id), registration(_SERVICE, id)) for id in self._present])

    def turn(self):
        self._kinds[self.turns % len(self._kinds)]()
        self.turns += 1

    def _path(self, id):
        return f"{self._root}/{_SERVICE}/{id}"

    def _add(self):
        id = self._away.popleft()
        self._session.call(zookeeper.create(self._path(id), registration(_SERVICE, id)))
        self.weights[id] = _WEIGHTS[0]
        self._present.append(id)
        self._resting.append(id)
        self.to_read += 1

    def _choose(self):
        """The place of one that may be changed."""
        while True:
            place = random.randrange(len(self._present))
            if self._present[place] not in self._resting:
                return place

    def _remove(self):
        place = self._choose()
        id, self._present[place] = self._present[place], self._present[-1]
        self._present.pop()
        self._session.call(zookeeper.delete(self._path(id)))
        del self.weights[id]
        self._away.append(id)

    def _change(self):
        id = self._present[self._choose()]
        self._resting.append(id)
        weight = _WEIGHTS[self.weights[id] == _WEIGHTS[0]]
        self._session.call(zookeeper.set_data(self._path(id), registration(_SERVICE, id, weight)))
        self.weights[id] = weight
        self.to_read += 1


def measure(bench):
    """`phases`: in turns quiet and churning; `memory`: [seconds, KiB] samples; counts of changes and reads."""
    quiet, churning, pairs = _PHASES_QUICK if bench.quick else _PHASES
    with ExitStack() as stack:
        awake = Awake([*bench.gateway_cpus, *bench.load_cpus], bench.work)
        stack.callback(awake.stop)
        origin = Origin(bench)
        stack.callback(origin.stop)
        registry = Registry(LIVEGATE, bench.programs, bench.work, bench.load_cpus)
        stack.callback(registry.stop)
        bench.show(f"churn: registering {INSTANCES} instances")
        session = stack.enter_context(zookeeper.Session(registry.address))
        watched, elsewhere = (Fleet(session, root, origin) for root in (ROOT, "/elsewhere"))
        gateway = Gateway(bench, "churn", registry.address)
        stack.callback(gateway.stop)
        wait_until(lambda: _differences(gateway, watched) == 0, _PATIENCE, "the gateway's list of all instances")
        load = traffic(bench, gateway, _SERVICE, _WARM_UP - TRAFFIC_RAMP + (quiet + churning) * pairs + 2)
        stack.callback(load.stop)
        run = _Run(bench, gateway, awake)
        bench.show("churn: warming up")
        run.phase(elsewhere, _WARM_UP)
        reads, to_read = gateway.metric("registry_reads_total"), watched.to_read
        run.memory.clear()
        phases = []
        for pair in range(pairs):
            for fleet, length in ((elsewhere, quiet), (watched, churning)):
                kind = "churn" if fleet is watched else "quiet"
                bench.show(f"churn: {kind}, pair {pair + 1} of {pairs}")
                phases.append({"kind": kind, **run.phase(fleet, length)})
        # The last changes arrive.
        time.sleep(1)
        result = {
            "changes": watched.turns, "to_read": watched.to_read - to_read,
            "reads": int(gateway.metric("registry_reads_total") - reads),
            "memory": run.memory,
        }
        result["differences"] = _differences(gateway, watched)
        bench.show("churn: reading the log of the load")
        whole = load.finish()
        result |= {"requests": whole.requests, "errors": whole.errors}
        _sort_requests(load, phases)
    return {"phases": phases, **result}


class _Run:
    def __init__(self, bench, gateway, awake):
        self._bench = bench
        self._gateway = gateway
        self._awake = awake
        self._began = now()
        self._next_sample = self._began
        self.memory = []

    def phase(self, fleet, seconds):
        """Changes a fleet for so long; returns what the gateway used meanwhile."""
        turns = fleet.turns
        cpus = self._bench.gateway_cpus
        cpu, host, began, wall = self._gateway.child.read_cpu(), read_host(cpus), now(), time.time()
        waited, spun = self._gateway.worker_wait_us(), self._awake.used_us(cpus)
        for turn in range(round(seconds * PER_SECOND)):
            pause = began + turn / PER_SECOND - now()
            if pause > 0:
                time.sleep(pause)
            fleet.turn()
            if now() >= self._next_sample:
                self.memory.append([round(now() - self._began, 1), self._gateway.rss_kib()])
                self._next_sample += _MEMORY_EVERY
        pause = began + seconds - now()
        time.sleep(max(0, pause))
        used = cpu_between(cpu, self._gateway.child.read_cpu()).total
        waited, spun = self._gateway.worker_wait_us() - waited, self._awake.used_us(cpus) - spun
        host_after, took = read_host(cpus), now() - began
        others = host_after.busy_us + host_after.steal_us - host.busy_us - host.steal_us - used - spun
        return {
            "from_us": wall * 1e6, "to_us": time.time() * 1e6, "seconds": took, "changes": fleet.turns - turns,
            "cpu_us": used, "worker_wait_us": waited, "others_percent": max(0, others) / (took * 1e4 * len(cpus)),
        }


def _differences(gateway, fleet):
    """In how many instances the gateway's list is not the registry's."""
    seen = {id: instance["weight"] for id, instance in gateway.instances(_SERVICE).items()}
    return sum(seen.get(id) != fleet.weights.get(id) for id in seen.keys() | fleet.weights.keys())


def _sort_requests(load, phases):
    """Gives each phase the latencies of its requests: of those that found a connection, and of all."""
    begins = [phase["from_us"] for phase in phases]
    kept, first = ([[] for _ in phases] for _ in range(2))
    for start, status, micros in load.rows():
        index = bisect_right(begins, start) - 1
        if index >= 0 and start < phases[index]["to_us"]:
            (kept if status == 200 else first)[index].append(micros)
    for phase, kept, first in zip(phases, kept, first):
        phase.update(requests=len(kept) + len(first), first_requests=len(first),
                     **{f"p{percent}_us": percentile(kept, percent) for percent in (50, 90, 99)},
                     all_p99_us=percentile(kept + first, 99))
