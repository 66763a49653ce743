"""The processes of one run: they meet before JAX starts, and when one of them ends early, all of them do."""

import contextlib
import json
import os
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any

LOST = 1  # the exit status of a process that ends because another one did
_GRACE = 2.0  # seconds that a process which is told of another's end has for ending by itself
_joined: "Peers | None" = None


class Peers:
    """Connections between process 0 and all others, a thread each to notice when one breaks.

    The kernel closes them when a process dies, however it dies, and probes them when a machine falls silent.

    Args:
      host: where process 0 runs.
      port: free there.
      count: number of processes · >= 2.
      index: this process, 0, ..., count - 1.
      identity: what must be the same in all of them: the experiment and the hash of its config.
      timeout: seconds until all must have come.

    Raises:
      OSError: the port is taken, or not all came in time.
      ValueError: they run different configs, or two have the same index.
    """

    def __init__(self, host: str, port: int, *, count: int, index: int, identity: str, timeout: float = 300.0) -> None:
        self.count, self.index = count, index
        self._others: dict[int, socket.socket] = {}
        self._said_goodbye = {other: threading.Event() for other in range(count) if other != index}
        self._ending = threading.Lock()
        self._deadline = time.monotonic() + timeout
        if index == 0:
            self._wait_for_all(host, port, identity)
        else:
            self._others[0] = self._connect(host, port, identity)
        for other, connection in self._others.items():
            threading.Thread(target=self._listen, args=(other, connection), daemon=True).start()

    def _wait_for_all(self, host: str, port: int, identity: str) -> None:
        local = host == "localhost" or host.startswith("127.")
        with socket.create_server((host if local else "", port), backlog=self.count) as server:
            while len(self._others) < self.count - 1:
                server.settimeout(max(0.1, self._deadline - time.monotonic()))
                try:
                    connection, _ = server.accept()
                    connection.settimeout(5.0)
                    hello = _receive(connection)
                    other, theirs = int(hello["index"]), str(hello["identity"])
                except TimeoutError:
                    missing = sorted(set(range(1, self.count)) - set(self._others))
                    if time.monotonic() < self._deadline:
                        continue
                    self._refuse(f"process {missing[0]} of {self.count} did not come; start all with the same command")
                except (OSError, ValueError, KeyError, TypeError):
                    continue  # not one of ours
                if theirs != identity:
                    _send(connection, {"refused": f"process 0 runs {identity}, and this is {theirs}"})
                    connection.close()
                    self._refuse(f"process {other} runs {theirs}, and process 0 {identity}; give all the same command")
                if other in self._others or not 0 < other < self.count:
                    _send(connection, {"refused": f"process {other} of {self.count} is there already or cannot be"})
                    connection.close()
                    self._refuse(f"two processes of {self.count} call themselves {other}; number them from 0")
                self._others[other] = connection
        for connection in self._others.values():
            _send(connection, {"refused": ""})
            _stay_connected(connection)

    def _refuse(self, reason: str) -> None:
        for connection in self._others.values():
            _send(connection, {"refused": reason})
            connection.close()
        raise ValueError(reason)

    def _connect(self, host: str, port: int, identity: str) -> socket.socket:
        while True:
            try:
                connection = socket.create_connection((host, port), timeout=5.0)
                break
            except OSError as error:
                if time.monotonic() > self._deadline:
                    raise OSError(
                        error.errno, f"process 0 does not answer ({error.strerror})", f"{host}:{port}"
                    ) from None
                time.sleep(0.1)
        _send(connection, {"index": self.index, "identity": identity})
        connection.settimeout(max(5.0, self._deadline - time.monotonic()))
        try:
            refused = str(_receive(connection)["refused"])
        except (OSError, KeyError, ValueError):
            refused = "process 0 ended before all had come; start all with the same command"
        if refused:
            connection.close()
            raise ValueError(refused)
        _stay_connected(connection)
        return connection

    def _listen(self, other: int, connection: socket.socket) -> None:
        try:
            message = _receive(connection)
        except (OSError, ValueError):
            message = None
        if message is None:
            self._end_with(other, LOST, "ended without a word", at_once=True)
        elif message["status"] == 0:
            self._said_goodbye[other].set()
            with contextlib.suppress(OSError, ValueError):
                _receive(connection)  # until it closes
        else:
            self._end_with(int(message.get("process", other)), message["status"], message["line"], at_once=False)

    def _end_with(self, other: int, status: int, line: str, *, at_once: bool) -> None:
        # A process that fails like the other, or is stopped by the same signal, says so itself.
        if not at_once:
            time.sleep(_GRACE)
        if not self._ending.acquire(blocking=False):
            return
        what = f"process {other} of {self.count}: {line}"
        print(
            f"error: {what}; this process ends with it, start all again with the same commands to go on from the last "
            "checkpoint",
            file=sys.stderr,
            flush=True,
        )
        self._tell(status, line, process=other)
        os._exit(status)

    def _tell(self, status: int, line: str, *, process: int) -> None:
        for connection in self._others.values():
            with contextlib.suppress(OSError):
                _send(connection, {"status": status, "line": line, "process": process})
        if self.index == 0:  # JAX aborts the others, with a page of text, as soon as process 0 is gone
            limit = time.monotonic() + 2 * _GRACE
            for connection in self._others.values():
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_WR)
                    connection.settimeout(max(0.1, limit - time.monotonic()))
                    while connection.recv(1024):
                        pass

    def goodbye(self) -> None:
        """Waits until every process is done; if one of them ends otherwise, this one does, too."""
        if self.index != 0:
            _send(self._others[0], {"status": 0})
        for event in self._said_goodbye.values():
            event.wait()
        if self.index == 0:
            for connection in self._others.values():
                _send(connection, {"status": 0})

    def abandon(self, status: int, line: str) -> None:
        """Tells the others why this process ends, and ends it without waiting for them.

        Args:
          status: the exit status.
          line: the reason.
        """
        self._ending.acquire()  # if the watch was first, it says the line and ends this process
        self._tell(status, line, process=self.index)
        sys.stdout.flush()
        os._exit(status)


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection: socket.socket) -> dict[str, Any]:
    data = b""
    while not data.endswith(b"\n"):
        byte = connection.recv(1)
        if not byte or len(data) > 10_000:
            raise ValueError("the connection was closed")
        data += byte
    message = json.loads(data)
    if not isinstance(message, dict):
        raise ValueError("not a message")
    return message


def _stay_connected(connection: socket.socket) -> None:
    """No time limit, and a probe when nothing comes: a machine without power is noticed after half a minute."""
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", 10), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def join(peers: Peers) -> None:
    """Makes the end of this process that of all; see `ends_together`.

    Args:
      peers: the connections.
    """
    global _joined
    _joined = peers


@contextlib.contextmanager
def ends_together(describe: Callable[[BaseException], str]) -> Iterator[None]:
    """In a run of several processes, leaves only when all are done, and takes the others along when it fails.

    Args:
      describe: the line for the others about an exception.

    Example:
      >>> with ends_together(str):
      ...     pass
    """
    try:
        yield
    except BaseException as error:
        if _joined is None:
            raise
        status = error.code if isinstance(error, SystemExit) else LOST
        if status in (None, 0):
            _joined.goodbye()
            raise
        if not isinstance(error, SystemExit):
            traceback.print_exc()
        reason = error.__context__ if isinstance(error, SystemExit) and error.__context__ is not None else error
        _joined.abandon(status if isinstance(status, int) else LOST, describe(reason) or type(reason).__name__)
    else:
        if _joined is not None:
            _joined.goodbye()


def is_loss(error: BaseException) -> bool:
    """Whether an exception says that another process could not be reached; then the watch is given time to say which.

    Args:
      error: the exception.

    Example:
      >>> is_loss(ValueError("UNKNOWN: Gloo AllGather failed: Connection reset by peer")), is_loss(ValueError("n = 0"))
      (True, False)
    """
    text = str(error)
    lost = any(word in text for word in ("Gloo", "NCCL", "coordination service", "Connection reset by peer"))
    if lost and _joined is not None:
        time.sleep(3 * _GRACE)
    return lost
