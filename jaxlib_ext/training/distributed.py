"""Several processes as one run: start-up, a clean end, preemption, and the death of one of them.

    distributed.start()
    with distributed.guard(), distributed.Preemption() as preemption:
        for step in range(first, last):
            state = train_step(state)
            if preemption.due(step):
                save(step)
                break

The same lines serve one process on a laptop; there they only make SIGTERM mean "save and stop".
"""

import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator

import jax
import numpy as np

from . import cluster, watch

log = logging.getLogger(__name__)

SILENCE = 90.0  # seconds without a sign of life after which a process counts as dead
BACKSTOP = 10  # seconds later jax's own heartbeat ends the run, with a stack trace
GRACE = 10.0  # seconds in which a failed collective may turn out to be the death of another process

_watch: watch.Watch | None = None


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    *,
    timeout: float = 300,
    silence: float = SILENCE,
) -> None:
    """Joins the processes of this run; does nothing where there is one. Call it before any other use of jax.

    coordinator: host:port of process 0. It and the other two may come from the environment:
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID. Under SLURM, on TPU pods, on Kubernetes (with
    the `kubernetes` package) and under Open MPI jax finds what is not said.
    timeout: seconds to wait for the others.
    silence: seconds without a sign of life after which a process counts as dead.

    Raises ValueError for an incomplete or impossible description or a port that is taken, TimeoutError where
    process 0 does not answer. If another process does not arrive in time, this one prints a line and exits
    with status 1: the alternative is the abort in jax's C++ client.
    """
    global _watch
    if _watch is not None:
        return
    place = cluster.settings(cluster.Place(coordinator, num_processes, process_id), os.environ)
    if not jax.distributed.is_initialized():
        where = "the given settings" if None not in place else cluster.detect(os.environ)
        if place.num_processes == 1 or (where is None and place == cluster.Place()):
            return
        if where is None:
            pairs = zip(cluster.Place._fields, cluster.VARIABLES, place, strict=True)
            missing = ", ".join(f"{name} ({variable})" for name, variable, value in pairs if value is None)
            raise ValueError(f"several processes need to know their place; missing: {missing}")
        _join(place, where, timeout, silence)
    if jax.process_count() > 1:
        _watch = _meet(place.host, silence)


def _join(place: cluster.Place, where: str, timeout: float, silence: float) -> None:
    """jax.distributed.initialize, with the failures that abort inside of it found before or in time."""
    if place.coordinator and place.process_id == 0 and "JAX_COORDINATOR_BIND_ADDRESS" not in os.environ:
        try:
            socket.create_server(("", place.port)).close()
        except OSError as error:
            raise ValueError(f"process 0 cannot listen on port {place.port}: {os.strerror(error.errno or 0)}") from None
    elif place.host and place.process_id:
        probe = watch.reach([place.host], place.port, timeout)
        if probe is None:
            raise TimeoutError(f"process 0 did not answer at {place.coordinator} within {timeout:.0f} s")
        probe.close()

    def late():
        who = "this process" if place.process_id is None else f"process {place.process_id}"
        text = f"{who} waited {timeout:.0f} s in vain for all {place.num_processes or ''} processes to start"
        os.write(2, f"{text} (found by {where})\n".encode())
        os._exit(1)

    timer = threading.Timer(timeout, late)
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            *place,
            local_device_ids=cluster.slurm_devices(os.environ) if where == "SLURM" else None,
            cluster_detection_method="deactivate" if None not in place else None,
            initialization_timeout=int(timeout) + 60,
            heartbeat_timeout_seconds=int(silence) + BACKSTOP,
        )
    except ValueError as error:
        variables = ", ".join(cluster.VARIABLES)
        raise ValueError(f"cannot join the run by {where}: {error} Setting {variables} always works.") from None
    finally:
        timer.cancel()


def _meet(host: str | None, silence: float) -> watch.Watch | None:
    """Connects every process with process 0, whose address goes round in one broadcast."""
    from jax.experimental import multihost_utils

    process, server, hub = jax.process_index(), None, None
    card = np.zeros(512, np.uint8)
    if process == 0:
        server = watch.listen(local=host in ("localhost", "127.0.0.1", "::1"))
        port, name = server.getsockname()[1], socket.gethostname()
        facts = dict(token=secrets.token_hex(16), port=port, host=name, address=_address())
        text = json.dumps(facts).encode()
        card[: len(text)] = np.frombuffer(text, np.uint8)
    text = bytes(np.asarray(multihost_utils.broadcast_one_to_all(card), np.uint8)).rstrip(b"\0")
    facts = json.loads(text)
    if process:
        hub = watch.reach([h for h in (host, facts["address"], facts["host"]) if h], facts["port"])
        if hub is None:
            seconds = int(silence) + BACKSTOP
            log.warning(
                "process %d cannot reach port %d of process 0 on %s: a dead process is noticed after %d s",
                process, facts["port"], facts["host"], seconds,
            )  # fmt: skip
            return None
    return watch.Watch(process, facts["token"], silence, server, hub, facts["host"])


def _address() -> str:
    """The address that this machine uses towards others. No packet is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        try:
            s.connect(("8.8.8.8", 53))
            return s.getsockname()[0]
        except OSError:
            return "127.0.0.1"


def is_lead() -> bool:
    """True in the one process that prints and writes what is written once."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Returns when every process has come to the barrier of this name; raises if the names differ."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


@contextlib.contextmanager
def guard() -> Iterator[None]:
    """Around everything that a process does after `start`: no process outlives another, and none hangs.

    Left normally or by SystemExit(0), it waits for the other processes and takes leave. Left by an exception,
    it prints that (nothing for a SystemExit, whose raiser has printed), tells the other processes why, and
    ends this one with the status of the SystemExit, or 1. The others print one line with the reason and exit
    with the same status. A normal exit of Python would wait for them in jax's shutdown barrier while they
    wait for this one in a collective.

    In a run of one process it does nothing.
    """
    try:
        yield
    except BaseException as error:
        clean = isinstance(error, SystemExit) and error.code in (None, 0)
        if clean:
            _leave()
        elif jax.distributed.is_initialized():
            _give_up(error)
        raise
    else:
        _leave()


def _leave() -> None:
    global _watch
    jax.distributed.shutdown()  # holds until all have come; nothing to do for one process
    if _watch is not None:
        _watch.leave()
        _watch = None


def _give_up(error: BaseException) -> None:
    chain, link = [], error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    if any(isinstance(e, jax.errors.JaxRuntimeError) for e in chain):
        time.sleep(GRACE)  # if another process has died, the watch names it and ends this one meanwhile
    code = 1
    if isinstance(error, SystemExit):
        if isinstance(error.code, int):
            code = error.code
        else:
            print(error.code, file=sys.stderr)
        reason = f"left with status {code}"
    else:
        traceback.print_exception(error)
        reason = f"failed: {type(error).__name__}: {error}".splitlines()[0][:300]
    if _watch is not None:
        _watch.fail(code, f"process {jax.process_index()} on {socket.gethostname()} {reason}")
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


class Preemption:
    """Makes SIGTERM mean "save and stop", at the same step in every process, whichever of them was sent it.

    Within one process a signal handler for as long as the context is open (the main thread only: Python
    handles signals there). With several, jax's coordination service, which listens from `start` on: the
    processes agree on the first step that none of them has begun.
    """

    def __init__(self):
        self._asked, self._before = False, None

    def __enter__(self) -> "Preemption":
        if not jax.distributed.is_initialized():
            self._before = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *_) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)
            self._before = None

    def _ask(self, *_) -> None:
        self._asked = True

    def due(self, step: int) -> bool:
        """True when the state after this step is to be saved and the run left. All ask after every step."""
        if not jax.distributed.is_initialized():
            return self._asked
        from jax.experimental import multihost_utils

        return multihost_utils.reached_preemption_sync_point(step)
