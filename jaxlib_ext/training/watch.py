"""Notices within a moment that another process of the run has died, and says which one.

Left alone, jax notices a dead process after its heartbeat timeout (100 s) and then aborts every other one
with a C++ stack trace. Until then they sit in a collective that never ends. Here each process holds one TCP
connection to process 0. The kernel closes it when a process dies, however it dies; a machine that vanishes
stops sending beats. Process 0 tells all others, and everybody prints the same line and exits with status 1.

Messages are lines of text: `hello <token> <process> <host>`, `beat`, `bye` (a clean end) and `end <status>
<text>` (this process gives up; exit with that status and say why). Nothing of it touches the accelerator or
the loop.
"""

import dataclasses
import logging
import os
import selectors
import socket
import threading
import time

log = logging.getLogger(__name__)

DRAIN = 2.0  # seconds that process 0 waits for the others to read the last message
REACH = 30.0  # seconds to try to reach process 0


@dataclasses.dataclass
class Peer:
    """The other end of one connection."""

    process: int | None  # None: has not said hello yet
    host: str
    heard: float  # time of the last message
    left: bool = False
    rest: bytes = b""  # an unfinished line

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"


def listen(local: bool) -> socket.socket:
    """A listening socket on a free port; local: reachable from this machine alone."""
    if local:
        return socket.create_server(("127.0.0.1", 0))
    try:
        return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    except (OSError, ValueError):  # no IPv6 here
        return socket.create_server(("", 0))


def reach(hosts: list[str], port: int, seconds: float = REACH) -> socket.socket | None:
    """A connection to the first host that answers; None if none does in time."""
    end = time.monotonic() + seconds
    while True:
        for host in hosts:
            try:
                return socket.create_connection((host, port), timeout=5)
            except OSError:
                continue
        if time.monotonic() > end:
            return None
        time.sleep(0.2)


class Watch:
    """One background thread that beats, listens and ends this process when another one is dead.

    server: the listening socket, in process 0 only. hub: the connection to process 0, in the others only.
    silence: seconds without a message after which a process counts as dead.
    """

    def __init__(
        self,
        process: int,
        token: str,
        silence: float,
        server: socket.socket | None = None,
        hub: socket.socket | None = None,
        hub_host: str = "",
    ):
        self.process, self.host, self.token, self.silence = process, socket.gethostname(), token, silence
        self.server, self.quiet, self.stop = server, False, False
        self.peers: dict[socket.socket, Peer] = {}
        self.selector = selectors.DefaultSelector()
        if server is not None:
            server.setblocking(False)
            self.selector.register(server, selectors.EVENT_READ, server)
        if hub is not None:
            self._add(hub, Peer(0, hub_host, time.monotonic()))
            self._send(f"hello {token} {process} {self.host}")
        # A forked child (a data worker) would otherwise keep the connections open when this process dies.
        os.register_at_fork(after_in_child=self._close)
        self.thread = threading.Thread(target=self._run, name="jaxlib_ext.watch", daemon=True)
        self.thread.start()

    def leave(self) -> None:
        """A clean end: the others stop watching this process."""
        self.quiet = True
        self._send("bye")
        self.stop = True
        self.thread.join()
        self._close()

    def fail(self, status: int, text: str) -> None:
        """Tells all others that this process gives up and why; they exit with that status."""
        self.quiet = True
        self._send(f"end {status} {text}")
        end = time.monotonic() + DRAIN
        # Process 0 answers and goes last: its end makes the clients of jax complain.
        while not all(peer.left for peer in list(self.peers.values())) and time.monotonic() < end:
            time.sleep(0.01)

    def _add(self, connection: socket.socket, peer: Peer) -> None:
        connection.settimeout(DRAIN)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.peers[connection] = peer
        self.selector.register(connection, selectors.EVENT_READ, connection)

    def _drop(self, connection: socket.socket) -> None:
        if self.peers.pop(connection, None) is not None:
            self.selector.unregister(connection)
            connection.close()

    def _close(self) -> None:
        for connection in [*self.peers, *([self.server] if self.server else [])]:
            connection.close()

    def _send(self, line: str) -> None:
        for connection in list(self.peers):
            try:
                connection.sendall(line.encode() + b"\n")
            except OSError:  # its death is noticed where it is read
                continue

    def _run(self) -> None:
        try:
            self._watch()
        except (OSError, ValueError) as error:
            log.warning("process %d no longer watches the others: %s", self.process, error)

    def _watch(self) -> None:
        beat = min(self.silence / 6, 5.0)
        due = 0.0
        while not self.stop:
            now = time.monotonic()
            if now >= due:
                self._send("beat")
                due = now + beat
            self._read(min(beat, 0.2))
            for connection, peer in list(self.peers.items()):
                if time.monotonic() - peer.heard > self.silence:
                    self._lost(connection, peer, f"has not answered for {self.silence:.0f} s")

    def _read(self, seconds: float) -> None:
        for key, _ in self.selector.select(seconds):
            connection: socket.socket = key.data
            if connection is self.server:
                self._add(connection.accept()[0], Peer(None, "", time.monotonic()))
                continue
            peer = self.peers[connection]
            try:
                data = connection.recv(4096)
            except OSError:
                data = b""
            if not data:
                self._lost(connection, peer, "died")
                continue
            peer.heard = time.monotonic()
            *lines, peer.rest = (peer.rest + data).split(b"\n")
            for line in lines:
                self._hear(connection, peer, line.decode(errors="replace"))

    def _hear(self, connection: socket.socket, peer: Peer, line: str) -> None:
        word, _, text = line.partition(" ")
        if word == "hello":
            token, _, rest = text.partition(" ")
            if token == self.token:
                process, _, peer.host = rest.partition(" ")
                peer.process = int(process)
        elif peer.process is None:  # a stranger: it does not know the token
            self._drop(connection)
        elif word == "bye":
            peer.left = True
        elif word == "end":
            peer.left = True
            status, _, reason = text.partition(" ")
            self._end(int(status), reason)

    def _lost(self, connection: socket.socket, peer: Peer, how: str) -> None:
        self._drop(connection)
        if peer.process is not None and not peer.left:
            self._end(1, f"{peer} {how}")

    def _end(self, status: int, text: str) -> None:
        if self.quiet:
            return
        self.quiet = True
        # One write, straight to the descriptor: the other threads may hold Python's stream, or be aborting.
        os.write(2, f"process {self.process} on {self.host} stops: {text}\n".encode())
        if self.server is not None:
            self._send(f"end {status} {text}")
            end = time.monotonic() + DRAIN
            while self.peers and time.monotonic() < end:
                self._read(0.1)
        os._exit(status)  # a normal exit would wait for the dead process in jax's shutdown barrier
