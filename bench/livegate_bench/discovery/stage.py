"""What the measurements take place on: a gateway, instances, and questions to both."""

import json
import re
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from ..load import H2load
from ..origin import free_ports, nginx_preamble
from ..process import Child, at_once, wait_until
from ..scenarios import Scenario

ROOT = "/services"
# The steady traffic: requests a second, far from what the gateway can do, so that latency is not that of a queue. The
# number of connections has no common divisor with their beginnings' 100 ms and their pauses' 30.5 ms: they are spread
# evenly.
_RATE, _CONNECTIONS = 2000, 61
# Until all connections have begun.
TRAFFIC_RAMP = 7
_STARTS_WITHIN = 20


@dataclass(frozen=True)
class Bench:
    """What every part needs."""

    programs: dict
    work: Path
    gateway_cpus: list
    load_cpus: list
    quick: bool
    show: object  # progress, for people who wait


def registration(service, address, weight=50):
    """What `livegate register` writes for an instance (Curator's JSON): its node's data."""
    host, _, port = address.rpartition(":")
    return json.dumps({
        "name": service, "id": address, "address": host, "port": int(port), "sslPort": None,
        "payload": {"metadata": {"weight": str(weight)}}, "registrationTimeUTC": 1795338721825,
        "serviceType": "DYNAMIC", "uriSpec": None}).encode()


class Origin:
    """Instances of any address of this machine's loopback network: one nginx that says which one was asked.

    The first request on each connection is answered with 201, later ones with 200. So whoever sees the status
    knows which requests had to wait for a connection.
    """

    def __init__(self, bench, name="origin", host="0.0.0.0", port=None):
        work = bench.work / name
        work.mkdir(parents=True, exist_ok=True)
        self.port = port or free_ports(1)[0]
        self._host = "127.0.0.1" if host == "0.0.0.0" else host
        config = work / "nginx.conf"
        # One process, so that killing it kills the instance.
        config.write_text("master_process off;\n" + nginx_preamble(work, 1) + f"""
  access_log off;
  keepalive_timeout 1h;
  keepalive_requests 1000000000;
  server {{
    listen {host}:{self.port} backlog=4096;
    location / {{
      if ($connection_requests = 1) {{ return 201 "$server_addr:$server_port"; }}
      return 200 "$server_addr:$server_port";
    }}
  }}
}}
""")
        argv = [bench.programs["nginx"], "-p", work, "-c", config, "-e", "stderr"]
        self.child = Child(name, argv, bench.load_cpus, work / "stderr.log", schedule=at_once)
        wait_until(self._listens, _STARTS_WITHIN, f"start of {name} ({work}/stderr.log)")

    def _listens(self):
        if not self.child.is_running():
            raise RuntimeError(f"{self.child.name} ended:\n{self.child.log_tail()}")
        try:
            socket.create_connection((self._host, self.port), timeout=1).close()
            return True
        except OSError:
            return False

    def instance(self, number):
        """The address of an instance, another one for each number (up to four million)."""
        return f"127.{1 + number // 62_500}.{number // 250 % 250}.{1 + number % 250}:{self.port}"

    def stop(self):
        self.child.stop()


class Gateway:
    """A running `livegate run` with its default settings, but for one worker and no embedded registry, unless
    that is what `registry` asks for."""

    def __init__(self, bench, name, registry=None, ports=None, wait=True):
        """`registry`: the address of one that runs already; without, the gateway has its own. `ports`: of a former
        one, to start in its place."""
        self.work = bench.work / name
        self.work.mkdir(parents=True, exist_ok=True)
        self.ports = ports or free_ports(3)
        self.port, self.admin_port, registry_port = self.ports
        self.registry = registry or f"127.0.0.1:{registry_port}"
        config = self.work / "livegate.toml"
        config.write_text(f"""[http]
listen = ["127.0.0.1:{self.port}"]
workers = 1
shutdown_timeout = "1s"

[admin]
listen = "127.0.0.1:{self.admin_port}"

[registry]
mode = "{"external" if registry else "embedded"}"
hosts = "{self.registry}"
data_dir = "registry"

[discovery]
root = "{ROOT}"
snapshot_dir = "snapshots"
""")
        argv = [bench.programs["livegate"], "run", "--config", config]
        self.child = Child(name, argv, bench.gateway_cpus, self.work / "stderr.log", cwd=self.work)
        try:
            if wait:
                wait_until(self.is_ready, _STARTS_WITHIN, f"start of {name} ({self.work}/stderr.log)")
        except BaseException:
            self.stop()
            raise

    def is_ready(self):
        if not self.child.is_running():
            raise RuntimeError(f"{self.child.name} ended:\n{self.child.log_tail()}")
        try:
            with Connection(self.admin_port) as admin:
                return admin.get("/readyz")[0] == 200
        except OSError:
            return False

    def metric(self, name):
        """The sum of a metric over its labels."""
        with Connection(self.admin_port) as admin:
            _, page = admin.get("/metrics")
        values = re.findall(rf"^livegate_{name}(?:{{.*}})? (\S+)$", page.decode(), re.MULTILINE)
        if not values:
            raise RuntimeError(f"the gateway has no metric livegate_{name}")
        return sum(map(float, values))

    def instances(self, service):
        """What the gateway says about each instance of a service, by id; nothing when there is no such service."""
        with Connection(self.admin_port) as admin:
            return instances(admin, service)

    def rss_kib(self):
        for line in Path(f"/proc/{self.child.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1])
        raise RuntimeError("the gateway has ended")

    def worker_wait_us(self):
        """For how long its workers were ready to run and had no core, since they began."""
        waited = 0
        for task in Path(f"/proc/{self.child.pid}/task").iterdir():
            if (task / "comm").read_text().startswith("worker-"):
                # Time on a core, time without one, turns; in nanoseconds (proc(5)).
                waited += int((task / "schedstat").read_text().split()[1])
        return waited / 1e3

    def stop(self):
        self.child.stop()


def instances(admin, service):
    """The same over a connection that is there already."""
    status, body = admin.get(f"/api/v1/services/{service}")
    if status != 200:
        return {}
    return {instance["id"]: instance for instance in json.loads(body)["instances"]}


class Connection:
    """A connection that is kept: one request after the other."""

    def __init__(self, port):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def get(self, path):
        """Status and body of the reply, which must have a length."""
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\n\r\n".encode())
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        if not length:
            raise RuntimeError(f"a reply to {path} has no length")
        length = int(length.group(1))
        while len(self._buffer) < length:
            self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return int(head.split(b" ", 2)[1]), body

    def _more(self):
        got = self._socket.recv(1 << 16)
        if not got:
            raise ConnectionError("the connection was closed inside a reply")
        self._buffer += got


def traffic(bench, gateway, service, seconds):
    """Starts steady traffic to a service, which is complete for so many seconds after the ramp."""
    scenario = Scenario("traffic", "", "spread", path=f"/{service}/", connections=_CONNECTIONS)
    return H2load(bench.programs["h2load"], bench.work, bench.load_cpus, f"http://127.0.0.1:{gateway.port}", scenario,
                  _RATE, TRAFFIC_RAMP + seconds, staggered=True, schedule=at_once)


def percentile(values, percent):
    """The least value that so many percent of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def now():
    return time.monotonic()
