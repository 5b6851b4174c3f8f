"""A ZooKeeper session with the few requests that the measurements make.

Requests may be sent ahead of the replies to earlier ones, which come in the same order (zookeeper.jute).
"""

import socket
import struct

_CREATE, _DELETE, _SET = 1, 2, 5
_EPHEMERAL = 1
_NODE_EXISTS = -110
# Everybody may do everything: perms, scheme, id.
_OPEN_ACL = struct.pack(">ii", 1, 31) + struct.pack(">i5si6s", 5, b"world", 6, b"anyone")
_TIMEOUT_MS = 30_000
# Requests under way at once when there are many: far under what a server begins to throttle at.
_AHEAD = 100


def create(path, data=b"", ephemeral=False):
    return _CREATE, _text(path) + _bytes(data) + _OPEN_ACL + struct.pack(">i", _EPHEMERAL if ephemeral else 0)


def delete(path):
    return _DELETE, _text(path) + struct.pack(">i", -1)


def set_data(path, data):
    return _SET, _text(path) + _bytes(data) + struct.pack(">i", -1)


def _bytes(data):
    return struct.pack(">i", len(data)) + data


def _text(text):
    return _bytes(text.encode())


class Session:
    """One session. Whoever leaves it without a request for 30 s loses it."""

    def __init__(self, address):
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=20)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._reader = self._socket.makefile("rb")
        self._xid = 0
        # protocolVersion, lastZxidSeen, timeOut, sessionId, passwd, readOnly
        self._send(struct.pack(">iqiqi16s?", 0, 0, _TIMEOUT_MS, 0, 16, bytes(16), False))
        _, _, session = struct.unpack(">iiq", self._receive()[:16])
        if session == 0:
            raise RuntimeError(f"the registry at {address} grants no session")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._reader.close()
        self._socket.close()

    def call(self, *requests, exists_ok=False):
        """Makes these requests, written at once; returns when all are answered."""
        frames = []
        for kind, body in requests:
            self._xid += 1
            frames.append(struct.pack(">iii", 8 + len(body), self._xid, kind) + body)
        self._socket.sendall(b"".join(frames))
        for number in range(len(requests)):
            xid, _, error = struct.unpack(">iqi", self._receive()[:16])
            if xid != self._xid - len(requests) + 1 + number:
                raise RuntimeError(f"the registry answers request {xid} out of turn")
            if error and not (exists_ok and error == _NODE_EXISTS):
                raise RuntimeError(f"the registry refuses a request with error {error}")

    def call_many(self, requests):
        """The same for any number of them."""
        for start in range(0, len(requests), _AHEAD):
            self.call(*requests[start:start + _AHEAD])

    def ensure(self, path):
        """Creates a node and those above it, where they are missing."""
        parts = path.strip("/").split("/")
        paths = ["/" + "/".join(parts[:depth + 1]) for depth in range(len(parts))]
        self.call(*map(create, paths), exists_ok=True)

    def _send(self, frame):
        self._socket.sendall(struct.pack(">i", len(frame)) + frame)

    def _receive(self):
        (length,) = struct.unpack(">i", self._read(4))
        return self._read(length)

    def _read(self, count):
        data = self._reader.read(count)
        if len(data) < count:
            raise RuntimeError("the registry closed the connection")
        return data
