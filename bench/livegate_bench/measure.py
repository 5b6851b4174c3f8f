"""One round of one scenario against one running proxy, as a flat record of figures."""

import time
from dataclasses import asdict, dataclass, field

from .load import H2load, IdleCrowd, Wrk
from .process import cpu_between, read_host

# From the start of the load to the first reading: connecting, and wrk's calibration (0.5 s).
RAMP = 0.6
# After the crowd of idle connections is complete: for buffers to be given back.
SETTLE = 3.0
# Requests a second in the spread scenarios: well below what any proxy here can do on one core, so that
# a worker's CPU time shows how many connections it has rather than how much it can get done.
SPREAD_RATE = 6_000
# Share of requests whose count may differ between origin and load generator, beside those in flight.
_STRAY = 0.001
# Share of the round by which two windows that should be one may differ: CPU time and requests are not read in the
# same instant.
_SKEW_MAX = 0.03


@dataclass
class Round:
    """Figures of one round. CPU times are microseconds per request."""

    cpu: float | None = None
    user: float | None = None
    kernel: float | None = None
    requests_per_second: float | None = None
    p50_us: float | None = None
    p99_us: float | None = None
    rss_kib: int | None = None
    core_percent: float | None = None  # how much of its core(s) the proxy used
    foreign_percent: float | None = None  # how much of them others used, the hypervisor included
    connections_per_request: float | None = None  # accepted on this machine, upstream ones included
    kib_per_connection: float | None = None  # PSS growth by idle connections
    kib_per_connection_after: float | None = None  # what of it remains when they are closed
    busiest_worker: float | None = None  # its CPU time over the even share
    requests: int = 0
    problems: list = field(default_factory=list)

    def is_valid(self):
        return not self.problems

    def record(self):
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Bench:
    """What every round needs."""

    programs: dict
    work: object
    proxy_cpus: list
    load_cpus: list
    origin: object
    seconds: float  # the measured part of a round
    balance: str  # a key of proxies.BALANCERS
    equal_work: bool  # see proxies.Setup


def measure(bench, scenario, proxy):
    """Runs one round; what went wrong is in its `problems`."""
    if scenario.kind == "idle":
        return _measure_idle(bench, scenario, proxy)
    return _measure_load(bench, scenario, proxy)


@dataclass(frozen=True)
class _Reading:
    """All counters at one moment, or nearly."""

    time: float
    took: float  # seconds
    cpu: object
    host: object
    requests: int


def _read(bench, proxy):
    start = time.monotonic()
    cpu, host, requests = proxy.child.read_cpu(), read_host(bench.proxy_cpus), bench.origin.requests()
    return _Reading(start, time.monotonic() - start, cpu, host, requests)


def _measure_load(bench, scenario, proxy):
    """CPU time and requests are read inside the run, while all connections are busy: requests are counted
    by the origin, so that neither the load's start and end nor requests cut off there are in the ratio."""
    at_start = bench.origin.requests()
    if scenario.kind == "spread":
        load = H2load(bench.programs["h2load"], bench.work, bench.load_cpus, proxy.url, scenario, SPREAD_RATE,
                      round(RAMP + bench.seconds + 1))
    else:
        load = Wrk(bench.programs["wrk"], bench.work, bench.load_cpus, proxy.url, scenario)
    try:
        time.sleep(RAMP)
        before = _read(bench, proxy)
        time.sleep(bench.seconds)
        after = _read(bench, proxy)
        rss_kib, _ = proxy.child.read_memory()
        result = load.finish()
    finally:
        load.stop()
    at_end = bench.origin.requests()

    seconds = after.time - before.time
    cpu = cpu_between(before.cpu, after.cpu)
    requests = max(1, after.requests - before.requests - 1)  # one is our own question
    accepted = after.host.accepted - before.host.accepted - 1
    cores_us = seconds * 1e6 * len(bench.proxy_cpus)
    foreign_us = after.host.busy_us - before.host.busy_us - cpu.total + after.host.steal_us - before.host.steal_us
    workers = sorted(cpu.threads.values(), reverse=True)[:scenario.workers]
    figures = Round(
        cpu=cpu.total / requests, user=cpu.user / requests, kernel=cpu.kernel / requests,
        requests_per_second=requests / seconds, p50_us=result.p50_us, p99_us=result.p99_us, rss_kib=rss_kib,
        core_percent=100 * cpu.total / cores_us, foreign_percent=max(0.0, 100 * foreign_us / cores_us),
        connections_per_request=accepted / requests, requests=result.requests,
        busiest_worker=max(workers) * len(workers) / sum(workers) if scenario.kind == "spread" else None)

    if abs(after.took - before.took) > _SKEW_MAX * seconds:
        figures.problems.append(f"reading the counters took {before.took * 1e3:.0f} ms, then {after.took * 1e3:.0f} ms")
    if not result.is_clean():
        figures.problems.append(f"load generator: {result.requests} requests, errors {result.errors}")
    reached = at_end - at_start - 3  # our own questions
    if not 0 <= reached - result.requests <= 2 * scenario.connections + _STRAY * result.requests:
        figures.problems.append(f"{result.requests} replies, but {reached} requests reached the origin")
    wanted = 1.0 if scenario.close else 0.0
    # Connections that other programs on this machine accept are in the count as well.
    if not wanted - _SKEW_MAX <= figures.connections_per_request <= wanted + 0.1:
        figures.problems.append(f"{figures.connections_per_request:.3f} connections per request, not about {wanted:.0f}")
    return figures


def _measure_idle(bench, scenario, proxy):
    crowd = IdleCrowd(proxy.port)
    figures = Round()
    try:
        _, before = proxy.child.read_memory()
        answered = crowd.open(scenario.connections)
        time.sleep(SETTLE)
        figures.rss_kib, after = proxy.child.read_memory()
        closed = crowd.closed_by_peer()
    finally:
        crowd.close()
    time.sleep(SETTLE)
    _, remains = proxy.child.read_memory()
    figures.kib_per_connection = (after - before) / scenario.connections
    figures.kib_per_connection_after = (remains - before) / scenario.connections
    figures.requests = answered
    if answered != scenario.connections or closed:
        figures.problems.append(f"{answered} of {scenario.connections} connections answered, {closed} closed early")
    return figures
