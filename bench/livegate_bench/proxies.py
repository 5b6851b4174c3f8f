"""The proxies, each set up to do the same work. This file is where "equal settings" can be checked."""

import resource
from dataclasses import dataclass
from pathlib import Path

from . import replies
from .origin import free_ports, nginx_preamble
from .process import Child, wait_until

# One set of numbers for all: livegate's defaults where the others can be told the same (contract.md).
HEADER_TIMEOUT = 10  # seconds, for a whole request head
CLIENT_IDLE = 75  # seconds, keep-alive on the client side
CONNECT_TIMEOUT = 1  # seconds, to an endpoint
UPSTREAM_TIMEOUT = 60  # seconds, for the response head, and between two reads or writes
POOL_IDLE = 60  # seconds, an idle pooled connection
ATTEMPTS = 3  # including the first
CHECK_INTERVAL, CHECK_TIMEOUT, CHECK_FALL, CHECK_RISE = 5, 2, 2, 1
CONNECTIONS_MAX = 12_000  # client side: the 10 000 idle ones and some room

# What each calls the same balancer.
BALANCERS = {
    "round-robin": {"livegate": "weighted-round-robin", "nginx": "", "haproxy": "roundrobin"},
    "least-request": {"livegate": "least-request", "nginx": "least_conn;", "haproxy": "leastconn"},
}


@dataclass(frozen=True)
class Setup:
    """What a scenario asks of a proxy."""

    endpoints: list  # ports of the origin on 127.0.0.1
    workers: int
    pool: int  # idle upstream connections kept per endpoint (nginx counts them per worker, over all endpoints)
    balance: str
    access_log: Path | None
    equal_work: bool  # nginx and HAProxy add the headers and log the fields that livegate does


def _nginx_config(setup, work, port, tuned=False):
    servers = "\n".join(f"    server 127.0.0.1:{endpoint};" for endpoint in setup.endpoints)
    forwarded = """
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_set_header X-Forwarded-Proto $scheme;
      proxy_set_header X-Forwarded-Host $http_host;
      proxy_set_header X-Request-Id $request_id;
      proxy_set_header Via "1.1 nginx";""" if setup.equal_work else ""
    access_log, log_format = "off", "combined"
    if setup.access_log:
        log_format = "json" if setup.equal_work else "combined"
        access_log = f"{setup.access_log} {log_format} buffer=64k flush=1s"
    buffers = "proxy_buffer_size 16k; proxy_buffers 8 128k; proxy_busy_buffers_size 256k;" if tuned else ""
    return nginx_preamble(work, setup.workers) + f"""
  log_format json escape=json '{{"time":"$time_iso8601","client":"$remote_addr","method":"$request_method",'
    '"target":"$request_uri","status":$status,"bytes":$body_bytes_sent,"duration":$request_time,'
    '"upstream":"$upstream_addr","attempts":"$upstream_status","request_id":"$request_id"}}';
  access_log {access_log};
  client_header_timeout {HEADER_TIMEOUT}s;
  keepalive_timeout {CLIENT_IDLE}s;
  keepalive_requests 1000000000;    # nginx closes after 1000 requests by default; the others never do
  send_timeout {UPSTREAM_TIMEOUT}s;
  upstream origin {{
    {BALANCERS[setup.balance]["nginx"]}
{servers}
    keepalive {setup.pool * len(setup.endpoints)};
    keepalive_requests 1000000000;
    keepalive_timeout {POOL_IDLE}s;
  }}
  server {{
    listen 127.0.0.1:{port} reuseport backlog=4096;
    location / {{
      proxy_pass http://origin;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Host $http_host;{forwarded}
      proxy_connect_timeout {CONNECT_TIMEOUT}s;
      proxy_read_timeout {UPSTREAM_TIMEOUT}s;
      proxy_send_timeout {UPSTREAM_TIMEOUT}s;
      proxy_next_upstream_tries {ATTEMPTS};
      proxy_max_temp_file_size 0;   # bodies never go to disk
      {buffers}
    }}
  }}
}}
"""


def _haproxy_config(setup, port, tuned=False):
    servers = "\n".join(
        f"  server o{number} 127.0.0.1:{endpoint} check inter {CHECK_INTERVAL}s fall {CHECK_FALL} rise {CHECK_RISE}"
        f" pool-max-conn {setup.pool} pool-purge-delay {POOL_IDLE}s"
        for number, endpoint in enumerate(setup.endpoints))
    log_target = log = forwarded = ""
    if setup.access_log:
        log_target = "  log stdout format raw local0 info"
        log = "  log global\n  option httplog"
        if setup.equal_work:
            log = ('  log global\n  log-format "{\\"time\\":\\"%trl\\",\\"client\\":\\"%ci\\",\\"method\\":\\"%HM\\",'
                   '\\"target\\":\\"%HU\\",\\"status\\":%ST,\\"bytes\\":%B,\\"duration\\":%Tr,'
                   '\\"upstream\\":\\"%si:%sp\\",\\"retries\\":\\"%rc\\",\\"reason\\":\\"%ts\\",\\"request_id\\":\\"%ID\\"}"')
    if setup.equal_work:
        forwarded = """
  option forwardfor
  unique-id-format %[uuid()]
  unique-id-header X-Request-Id
  http-request set-header X-Forwarded-Proto http
  http-request set-header X-Forwarded-Host %[req.hdr(host)]
  http-request set-header Via "1.1 haproxy\""""
    splice = "  option splice-response" if tuned else ""
    return f"""global
  nbthread {setup.workers}
  maxconn {CONNECTIONS_MAX}
  # HAProxy wants two descriptors for each possible connection; the idle ones have no upstream side.
  no strict-limits
  ulimit-n {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}
{log_target}
defaults
  mode http
  timeout http-request {HEADER_TIMEOUT}s
  timeout http-keep-alive {CLIENT_IDLE}s
  timeout client {UPSTREAM_TIMEOUT}s
  timeout connect {CONNECT_TIMEOUT}s
  timeout server {UPSTREAM_TIMEOUT}s
  timeout check {CHECK_TIMEOUT}s
  retries {ATTEMPTS - 1}
  option redispatch
  http-reuse always                 # the default gives a client's first request a connection of its own
{splice}
frontend gate
{log}
  maxconn {CONNECTIONS_MAX}
  bind 127.0.0.1:{port} backlog 4096{forwarded}
  default_backend origin
backend origin
  balance {BALANCERS[setup.balance]["haproxy"]}
{servers}
"""


def _livegate_config(setup, port, admin_port):
    instances = "\n".join(f'  {{ address = "127.0.0.1:{endpoint}" }},' for endpoint in setup.endpoints)
    access_log = f'access_log = "{setup.access_log}"' if setup.access_log else 'access_log = "off"'
    return f"""[http]
listen = ["127.0.0.1:{port}"]
workers = {setup.workers}
header_timeout = "{HEADER_TIMEOUT}s"
idle_timeout = "{CLIENT_IDLE}s"
shutdown_timeout = "1s"
{access_log}

[admin]
listen = "127.0.0.1:{admin_port}"

[registry]
mode = "none"

[services.origin]
balance = "{BALANCERS[setup.balance]["livegate"]}"
instances = [
{instances}
]
[services.origin.health_check]
type = "tcp"
interval = "{CHECK_INTERVAL}s"
timeout = "{CHECK_TIMEOUT}s"
fall = {CHECK_FALL}
rise = {CHECK_RISE}
[services.origin.retry]
attempts = {ATTEMPTS}
[services.origin.timeouts]
connect = "{CONNECT_TIMEOUT}s"
response_head = "{UPSTREAM_TIMEOUT}s"
idle = "{UPSTREAM_TIMEOUT}s"
[services.origin.pool]
idle_max = {setup.pool}
idle_timeout = "{POOL_IDLE}s"

[[routes]]
path = "/"
service = "origin"
"""


# "-tuned" are not in the default set and not in the targets: what an expert would change for large bodies.
NAMES = ["livegate", "nginx", "haproxy", "nginx-tuned", "haproxy-tuned"]
DEFAULT = NAMES[:3]


def program(name):
    """The executable that runs proxy `name`."""
    return name.partition("-")[0]


class Proxy:
    """A proxy that runs with its own files and answers correctly."""

    def __init__(self, name, executable, work, cpus, setup, origin, wrapper=()):
        """`wrapper`: words before the command, e.g. valgrind's."""
        work.mkdir(parents=True, exist_ok=True)
        self.name = name
        self.port, admin_port = free_ports(2)
        self.origin = origin
        tuned = name.endswith("-tuned")
        kind = program(name)
        config = work / f"{kind}.conf"
        if kind == "nginx":
            config.write_text(_nginx_config(setup, work, self.port, tuned))
            argv = [executable, "-p", work, "-c", config, "-e", "stderr"]
        elif kind == "haproxy":
            config.write_text(_haproxy_config(setup, self.port, tuned))
            argv = [executable, "-db", "-f", config]
        else:
            config.write_text(_livegate_config(setup, self.port, admin_port))
            argv = [executable, "run", "--config", config]
        # HAProxy has no log files of its own: it writes the lines to stdout, which is the file.
        stdout = open(setup.access_log, "wb") if kind == "haproxy" and setup.access_log else None
        self.child = Child(name, [*wrapper, *argv], cpus, work / "stderr.log", stdout, cwd=work)
        if stdout:
            stdout.close()
        try:
            wait_until(self._answers, 60 if wrapper else 10, f"start of {name} ({work}/stderr.log)")
            replies.check_proxy(name, self.port, origin)
        except BaseException:
            self.stop()
            raise

    def _answers(self):
        if not self.child.is_running():
            raise RuntimeError(f"{self.name} ended with status {self.child.process.returncode}:\n"
                               f"{self.child.log_tail()}")
        try:
            with replies.Client(self.port) as client:
                return client.get("/small").status == 200
        except (OSError, replies.BadReply):
            return False

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def stop(self):
        self.child.stop()


def start(bench, scenario, name, wrapper=()):
    """Starts proxy `name` for a scenario; the caller stops it."""
    log = access_log(bench, name)
    log.unlink(missing_ok=True)
    setup = Setup(
        endpoints=bench.origin.ports, workers=scenario.workers,
        # As many as can be in flight at one endpoint at once, so that no pool has to close one.
        pool=max(64, scenario.connections if scenario.kind != "idle" else 0),
        balance=bench.balance, access_log=log if scenario.access_log else None, equal_work=bench.equal_work)
    return Proxy(name, bench.programs[program(name)], bench.work / name, bench.proxy_cpus, setup, bench.origin,
                 wrapper)


def access_log(bench, name):
    """Where proxy `name` writes its access log, when it does."""
    return bench.work / name / "access.log"
