"""A small HTTP/1.1 client that trusts nothing: whether a proxy's replies are worth measuring."""

import socket
from dataclasses import dataclass

from .scenarios import SMALL_REPLY_BYTES


class BadReply(RuntimeError):
    """A reply that is not what the origin sent."""


@dataclass(frozen=True)
class Reply:
    status: int
    headers: dict
    body: bytes
    bytes_total: int


class Client:
    """One connection."""

    def __init__(self, port):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=20)
        self._buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._socket.close()

    def _more(self):
        got = self._socket.recv(1 << 16)
        if not got:
            raise BadReply("the connection was closed inside a reply")
        self._buffer += got

    def get(self, path, close=False):
        """Sends one request and reads its whole reply."""
        connection = "Connection: close\r\n" if close else ""
        self._socket.sendall(f"GET {path} HTTP/1.1\r\nHost: bench\r\n{connection}\r\n".encode())
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if "content-length" not in headers:
            raise BadReply(f"no Content-Length in {status_line!r}")
        length = int(headers["content-length"])
        while len(self._buffer) < length:
            self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return Reply(int(status_line.split()[1]), headers, body, len(head) + 4 + length)

    def is_at_end(self):
        """Waits for the peer to close; true when nothing came before that."""
        return not self._buffer and self._socket.recv(1) == b""


def _expect(holds, name, what):
    if not holds:
        raise BadReply(f"{name}: {what}")


def check_origin(origin):
    """The small reply has the size that the scenario promises."""
    with Client(origin.ports[0]) as client:
        reply = client.get("/small")
    _expect(reply.bytes_total == SMALL_REPLY_BYTES, "origin",
            f"the small reply has {reply.bytes_total} bytes, not {SMALL_REPLY_BYTES}")


def check_proxy(name, port, origin):
    """Bodies arrive whole, connections are kept or closed as asked, every endpoint is used."""
    with Client(port) as client:
        for _ in range(2):
            for path, body in origin.bodies.items():
                reply = client.get(path)
                _expect(reply.status == 200, name, f"{path} was answered {reply.status}")
                _expect(reply.body == body, name, f"{path} came with a different body")
                _expect(reply.headers.get("connection", "").lower() != "close", name, "keep-alive was refused")
        which = [client.get("/which") for _ in range(16 * len(origin.ports))]
        _expect(all(reply.status == 200 for reply in which), name, "not all of many small requests were answered 200")
        used = {reply.body for reply in which}
        _expect(len(used) == len(origin.ports), name, f"{len(used)} of {len(origin.ports)} endpoints are used")
    with Client(port) as client:
        reply = client.get("/small", close=True)
        _expect(reply.status == 200 and reply.body == origin.bodies["/small"], name, "bad reply before close")
        _expect(client.is_at_end(), name, "the connection stayed open after Connection: close")
