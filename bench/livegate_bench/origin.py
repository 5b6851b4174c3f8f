"""The origin: one nginx process that answers from memory on several ports and counts its requests."""

import os
import random
import re
import socket
import urllib.request
from pathlib import Path

from .process import Child, wait_until
from .scenarios import SMALL_BODY

ENDPOINTS = 4
FILES = {"/64k": 64 * 1024, "/1m": 1024 * 1024}
# Below every ephemeral range in use, so that no outgoing connection sits on a port we chose.
_PORTS = range(20_000, 32_000)


def free_ports(count):
    """Loopback ports that nobody listens on now."""
    ports = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        ports.append(port)
        if len(ports) == count:
            return ports
    raise RuntimeError("no free loopback ports")


def nginx_preamble(work, workers):
    """What every nginx here has in common: its own files only, this user, room for the idle connections."""
    # The user matters to root only (an unprivileged nginx warns); workers must be able to read `work`.
    user = "user root;\n" if os.geteuid() == 0 else ""
    temp = "\n".join(f"  {kind}_temp_path {work}/{kind};" for kind in
                     ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    return f"""{user}daemon off;
pid {work}/nginx.pid;
error_log stderr warn;
worker_processes {workers};
events {{ worker_connections 32768; }}
http {{
{temp}
  default_type "";
  server_tokens off;
  etag off;
"""


class Origin:
    """Fast and the same for everybody: `return` for the small reply, sendfile from the page cache for files."""

    def __init__(self, nginx, work, cpus):
        work.mkdir(parents=True, exist_ok=True)
        self.bodies = {"/small": SMALL_BODY}
        for path, size in FILES.items():
            # Not random: the same bytes in every run; not constant: a misplaced block would show.
            body = b"".join(b"%015d\n" % line for line in range(size // 16))
            (work / path[1:]).write_bytes(body)
            self.bodies[path] = body
        *self.ports, self._status_port = free_ports(ENDPOINTS + 1)
        config = work / "nginx.conf"
        config.write_text(self._config(work))
        self.child = Child("origin", [nginx, "-p", work, "-c", config, "-e", "stderr"], cpus, work / "stderr.log")
        wait_until(self._answers, 10, f"start of the origin ({work}/stderr.log)")

    def _config(self, work):
        listens = "\n".join(f"    listen 127.0.0.1:{port} backlog=4096;" for port in self.ports)
        return nginx_preamble(work, 1) + f"""
  access_log off;
  sendfile on;
  tcp_nopush on;
  open_file_cache max=16 inactive=1h;
  open_file_cache_valid 1h;
  keepalive_timeout 1h;             # never the one to close: pools are the proxies' business
  keepalive_requests 1000000000;
  server {{
{listens}
    root {work};
    location = /small {{ return 200 "{SMALL_BODY.decode().rstrip()}\\n"; }}
    location = /which {{ return 200 "$server_port"; }}
    location / {{ }}
  }}
  server {{
    listen 127.0.0.1:{self._status_port};
    location / {{ stub_status; }}
  }}
}}
"""

    def _answers(self):
        if not self.child.is_running():
            raise RuntimeError(f"the origin ended:\n{self.child.log_tail()}")
        try:
            return self.requests() > 0
        except OSError:
            return False

    def requests(self):
        """Requests received so far, all ports together, this very one included."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self._status_port}/", timeout=5) as answer:
            text = answer.read().decode()
        return int(re.search(r"\n (\d+) (\d+) (\d+)", text).group(3))

    def stop(self):
        self.child.stop()
