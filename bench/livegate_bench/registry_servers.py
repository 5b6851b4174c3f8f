"""The two registries under test: how each is started, and when it serves."""

import shutil
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from .process import Child

JAR = Path("/usr/share/java/zookeeper.jar")
# zookeeper.jute: protocolVersion, lastZxidSeen, timeOut, sessionId, passwd, readOnly.
_CONNECT = struct.pack(">iqiqi16s?", 0, 0, 10_000, 0, 16, bytes(16), False)
_STARTS_WITHIN = 60


@dataclass(frozen=True)
class Kind:
    """A registry, and how it is run. Both write every transaction to disk before they answer it."""

    name: str
    heap: str = ""  # of a JVM


LIVEGATE = Kind("livegate")
APACHE = Kind("apache", "1g")  # Debian's service has 1000 MiB (SERVER_JVMFLAGS in zkEnv.sh)
APACHE_SMALL = Kind("apache-256m", "256m")  # for its memory only


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _has_session(port):
    """Whether a new session is granted right now."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=0.5) as connection:
            connection.sendall(struct.pack(">i", len(_CONNECT)) + _CONNECT)
            reply = connection.recv(64)
            # length, protocolVersion, timeOut, sessionId
            return len(reply) >= 20 and struct.unpack(">iiiq", reply[:20])[3] != 0
    except OSError:
        return False


class Registry:
    """A running registry. `start_ms` is the time from the start of its process to the first session."""

    def __init__(self, kind, programs, work, cpus, keep=False):
        self.kind = kind
        self.directory = work / kind.name
        if not keep:
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory.mkdir(parents=True)
        self.port = free_port()
        began = time.monotonic()
        self.child = Child(kind.name, self._command(programs), cpus, work / f"{kind.name}.log", cwd=self.directory)
        while not _has_session(self.port):
            if not self.child.is_running() or time.monotonic() - began > _STARTS_WITHIN:
                self.stop()
                raise RuntimeError(f"{kind.name} does not serve:\n{self.child.log_tail()}")
            time.sleep(0.0005)
        self.start_ms = (time.monotonic() - began) * 1e3

    def _command(self, programs):
        data = self.directory / "data"
        if self.kind is LIVEGATE:
            return [programs["livegate"], "registry", "--listen", f"127.0.0.1:{self.port}", "--data-dir", data]
        config = self.directory / "zoo.cfg"
        config.write_text(f"tickTime=2000\ndataDir={data}\nclientPort={self.port}\nclientPortAddress=127.0.0.1\n"
                          "admin.enableServer=false\n")
        # Everything else is its default: forceSync=yes, and whatever collector and compilers the JVM chooses.
        return [programs["java"], f"-Xmx{self.kind.heap}", "-cp", JAR,
                "org.apache.zookeeper.server.quorum.QuorumPeerMain", config]

    @property
    def address(self):
        return f"127.0.0.1:{self.port}"

    def stop(self):
        self.child.stop()
