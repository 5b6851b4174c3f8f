"""The load: wrk in a closed loop, h2load at a fixed rate, and a crowd of idle connections."""

import json
import re
import selectors
import signal
import socket
from dataclasses import dataclass
from pathlib import Path

from .process import Child, ahead_of_others

_SUMMARY = Path(__file__).with_name("summary.lua")


@dataclass(frozen=True)
class LoadResult:
    """What the load generator saw in a whole run."""

    requests: int
    seconds: float
    p50_us: float
    p99_us: float
    errors: dict  # kind -> count, only what happened

    def is_clean(self):
        return self.requests > 0 and not self.errors


class Wrk:
    """A running wrk: one thread, `connections` connections, each sending its next request at once.

    Pitfalls known: latency counts from the write of a request, so connecting is not in it; wrk adds
    samples for what a stall kept it from sending (its correction for coordinated omission).
    """

    def __init__(self, wrk, work, cpus, url, scenario):
        self._output = work / "wrk.json"
        close = ["-H", "Connection: close"] if scenario.close else []
        # An hour: it is ended by `finish`. wrk prints its summary on SIGINT as well.
        argv = [wrk, "-t1", f"-c{scenario.connections}", "-d3600s", "--timeout", "10s", "-s", _SUMMARY, *close,
                url + scenario.path]
        with open(self._output, "wb") as stdout:
            self._child = Child("wrk", argv, cpus, work / "wrk.log", stdout)

    def finish(self):
        """Ends the run and returns its summary."""
        self._child.process.send_signal(signal.SIGINT)
        self._child.process.wait(30)
        text = self._output.read_text()
        found = re.search(r"^SUMMARY (.*)$", text, re.MULTILINE)
        if not found:
            raise RuntimeError(f"wrk ended without a summary:\n{text}{self._child.log_tail()}")
        summary = json.loads(found.group(1))
        errors = {kind: count for kind, count in summary["errors"].items() if count}
        return LoadResult(summary["requests"], summary["duration_us"] / 1e6, summary["p50_us"], summary["p99_us"],
                          errors)

    def stop(self):
        self._child.stop()


class H2load:
    """A running h2load over HTTP/1.1: each connection sends at a fixed rate, the sum being `rate` a second.

    All connections begin at once and keep step, so that requests come in bursts. With `staggered` a connection begins
    every 100 ms, and requests come one by one, or a few in each millisecond, which is how exact its timers are.
    """

    def __init__(self, h2load, work, cpus, url, scenario, rate, seconds, staggered=False,
                 schedule=ahead_of_others):
        self._rows = work / "h2load.tsv"
        self._rows.unlink(missing_ok=True)
        self._output = work / "h2load.out"
        length = [f"--duration={seconds}"]
        if staggered:
            length = [f"-n{rate * seconds}", "-r1", "--rate-period=100ms"]
        argv = [h2load, "--h1", "-t1", f"-c{scenario.connections}", "-m1", *length,
                f"--rps={rate / scenario.connections:.3f}", f"--log-file={self._rows}", url + scenario.path]
        with open(self._output, "wb") as stdout:
            self._child = Child("h2load", argv, cpus, work / "h2load.log", stdout, schedule=schedule)

    def rows(self):
        """Of each request in the order of their ends: start (microseconds since 1970), status, microseconds."""
        with open(self._rows) as log:
            for line in log:
                start, status, micros = map(int, line.split("\t")[:3])
                yield start, status, micros

    def finish(self):
        self._child.process.wait(120)
        latencies, bad, first, last = [], 0, None, 0
        for start, status, micros in self.rows():
            first = start if first is None else min(first, start)
            last = max(last, start)
            latencies.append(micros)
            bad += not 200 <= status < 300
        if not latencies:
            raise RuntimeError(f"h2load saw no reply:\n{self._output.read_text()}{self._child.log_tail()}")
        counts = re.search(r"(\d+) failed, (\d+) errored, (\d+) timeout", self._output.read_text())
        errors = dict(zip(("failed", "errored", "timeout"), map(int, counts.groups())))
        errors["status"] = bad
        latencies.sort()
        return LoadResult(len(latencies), (last - first) / 1e6, latencies[len(latencies) // 2],
                          latencies[len(latencies) * 99 // 100], {k: v for k, v in errors.items() if v})

    def stop(self):
        self._child.stop()


def send_exactly(h2load, work, cpus, url, path, requests, connections):
    """Sends `requests` requests, no more and no fewer; true when each was answered 2xx."""
    output = work / "h2load.out"
    argv = [h2load, "--h1", "-t1", f"-c{connections}", "-m1", f"-n{requests}", url + path]
    with open(output, "wb") as stdout:
        child = Child("h2load", argv, cpus, work / "h2load.log", stdout)
    try:
        child.process.wait(600)
    finally:
        child.stop()
    return f"status codes: {requests} 2xx" in output.read_text()


# Connections that are opening or waiting for their reply at one time: what the proxy holds then is
# what it would hold under 64 busy connections, so the growth measured is that of the idle ones.
_OPENING = 64
# Source addresses: 10 000 connections stay clear of one address's 28 232 ephemeral ports, TIME_WAIT included.
_SOURCES = 8


class IdleCrowd:
    """Client connections that each had one reply and then stay open and silent."""

    def __init__(self, port):
        self._port = port
        self._sockets = []

    def open(self, count):
        """Opens `count` more; returns how many were answered 200 and stayed open."""
        request = b"GET /small HTTP/1.1\r\nHost: bench\r\n\r\n"
        answered = 0
        for start in range(0, count, _OPENING):
            batch = []
            for number in range(start, min(start + _OPENING, count)):
                connection = socket.socket()
                # Linux option IP_BIND_ADDRESS_NO_PORT: the port is chosen at connect, per destination.
                connection.setsockopt(socket.IPPROTO_IP, 24, 1)
                connection.bind((f"127.0.0.{2 + number % _SOURCES}", 0))
                connection.settimeout(20)
                connection.connect(("127.0.0.1", self._port))
                connection.sendall(request)
                batch.append(connection)
            for connection in batch:
                answered += _read_small(connection)
            self._sockets.extend(batch)
        return answered

    def closed_by_peer(self):
        """How many the proxy has closed since."""
        with selectors.DefaultSelector() as selector:
            for connection in self._sockets:
                selector.register(connection, selectors.EVENT_READ)
            return len(selector.select(0))

    def close(self):
        for connection in self._sockets:
            connection.close()
        self._sockets.clear()


def _read_small(connection):
    received = b""
    while b"\r\n\r\n" not in received or not received.endswith(b"benchmark.\n"):
        got = connection.recv(4096)
        if not got:
            return False
        received += got
    return received.startswith(b"HTTP/1.1 200 ")
