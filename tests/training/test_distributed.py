"""Several processes as one run, tried with real ones: two of 4 devices each over loopback.

Run as a script, this file is one of them: a toy loop whose every step is a sum over all devices.
"""

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

ROOT = pathlib.Path(__file__).parent.parent.parent


def worker(fault: str) -> None:
    import jax
    import numpy as np

    jax.config.update("jax_num_cpu_devices", 4)
    from jaxlib_ext.sharding import batch_sharding, make_mesh
    from jaxlib_ext.training import distributed

    distributed.start(timeout=float(os.environ.get("TIMEOUT", 60)), silence=float(os.environ.get("SILENCE", 90)))
    with distributed.guard(), distributed.Preemption() as preemption:
        placed = batch_sharding(make_mesh("fsdp=8"))
        x = jax.make_array_from_callback((8, 1), placed, lambda index: np.ones((8, 1), np.float32)[index])
        add = jax.jit(lambda x: x.sum())
        for step in range(10**6):
            assert float(add(x)) == 8
            if step == 1:
                distributed.barrier("ready")
                print(f"ready lead={distributed.is_lead()}", flush=True)
            if preemption.due(step):
                distributed.barrier("saved")
                print(f"saved {step}", flush=True)
                break
            misbehave(fault, step, distributed.is_lead())
            time.sleep(0.01)


def misbehave(fault: str, step: int, lead: bool) -> None:
    if step == 10 and fault == "done":
        raise SystemExit(0)
    if step == 10 and not lead and fault == "raise":
        raise ValueError("a reason\nin two lines")
    if step == 10 and lead and fault == "exit":
        print("error: bad argument", file=sys.stderr)
        raise SystemExit(2)
    if step == 10 and not lead and fault == "fork" and os.fork() == 0:
        time.sleep(30)  # a data worker that outlives its parent
        os._exit(0)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Run:
    """Two processes, their output, and their end within `seconds` whatever happens."""

    def __init__(self, fault="none", processes=(0, 1), seconds=60.0, port=None, **env):
        place = dict(JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port or free_port()}", JAX_NUM_PROCESSES="2")
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "SLURM_", "XLA_"))}
        self.processes = [
            subprocess.Popen(
                [sys.executable, __file__, fault],
                env={**kept, **place, "JAX_PROCESS_ID": str(i), "PYTHONPATH": str(ROOT), **env},
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                start_new_session=True,
            )
            for i in processes
        ]  # fmt: skip
        self.end = time.monotonic() + seconds
        self.timer = threading.Timer(seconds, self.kill)
        self.timer.start()

    def kill(self) -> None:
        for p in self.processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(p.pid, signal.SIGKILL)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_) -> None:
        self.timer.cancel()
        self.kill()
        for p in self.processes:
            p.communicate()

    def ready(self) -> "Run":
        for p in self.processes:
            assert p.stdout and p.stderr
            assert any(line.startswith("ready") for line in iter(p.stdout.readline, "")), p.stderr.read()
        return self

    def ends(self, *which: int) -> list[tuple[int, list[str], list[str]]]:
        """(status, lines of stdout, lines of stderr) of the named processes, or of all."""
        found = []
        for i in which or range(len(self.processes)):
            out, err = self.processes[i].communicate()
            # Gloo greets on stdout, the coordination service remarks on stderr in glog's format.
            chat = lambda line: not line.startswith("[Gloo]")
            found.append((self.processes[i].returncode, *(list(filter(chat, t.splitlines())) for t in (out, err))))
        assert time.monotonic() < self.end, f"the run hung: {found}"
        return found


HOST = socket.gethostname()


@pytest.mark.parametrize("whom", [[1], [0], [0, 1]])
def test_sigterm_to_any_makes_all_stop_after_the_same_step(whom):
    with Run().ready() as run:
        for i in whom:
            run.processes[i].send_signal(signal.SIGTERM)
        (status0, out0, _), (status1, out1, _) = run.ends()
    assert (status0, status1) == (0, 0)
    assert out0 == out1 and out0[0].startswith("saved ")


@pytest.mark.parametrize("victim", [0, 1])
def test_sigkill_of_one_ends_the_other_with_a_line_that_names_it(victim):
    with Run().ready() as run:
        begin = time.monotonic()
        run.processes[victim].kill()
        ((status, _, err),) = run.ends(1 - victim)
        assert time.monotonic() - begin < 20
    assert status == 1
    line = f"process {1 - victim} on {HOST} stops: process {victim} on {HOST} died"
    assert err.count(line) == 1
    if victim == 1:  # of process 0's death jax's client may complain too, before it is stopped
        assert err == [line]


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_hangs_counts_as_dead_after_the_silence(victim):
    with Run(SILENCE="3").ready() as run:
        run.processes[victim].send_signal(signal.SIGSTOP)
        ((status, _, err),) = run.ends(1 - victim)
    assert status == 1
    assert f"process {1 - victim} on {HOST} stops: process {victim} on {HOST} has not answered for 3 s" in err


@pytest.mark.slow
def test_a_forked_child_does_not_hide_the_death_of_its_parent():
    with Run("fork").ready() as run:
        time.sleep(1)
        begin = time.monotonic()
        run.processes[1].kill()
        ((status, _, err),) = run.ends(0)
    assert time.monotonic() - begin < 10
    assert (status, err) == (1, [f"process 0 on {HOST} stops: process 1 on {HOST} died"])


def test_an_exception_in_one_ends_all_with_its_reason():
    with Run("raise") as run:
        (status0, _, err0), (status1, _, err1) = run.ends()
    assert (status0, status1) == (1, 1)
    assert err0 == [f"process 0 on {HOST} stops: process 1 on {HOST} failed: ValueError: a reason"]
    assert err1[0].startswith("Traceback") and err1[-2:] == ["ValueError: a reason", "in two lines"]


@pytest.mark.slow
def test_the_status_of_one_is_the_status_of_all():
    with Run("exit") as run:
        (status0, _, err0), (status1, _, err1) = run.ends()
    assert (status0, status1) == (2, 2)
    assert err0 == ["error: bad argument"]
    assert err1 == [f"process 1 on {HOST} stops: process 0 on {HOST} left with status 2"]


@pytest.mark.slow
def test_a_clean_end_is_silent():
    with Run("done") as run:
        ends = run.ends()
    assert [status for status, _, _ in ends] == [0, 0]
    assert [err for _, _, err in ends] == [[], []]


@pytest.mark.slow
def test_a_process_that_never_comes():
    with Run(processes=[0], TIMEOUT="2") as run:
        ((status, _, err),) = run.ends()
    waited = "process 0 waited 2 s in vain for all 2 processes to start (found by the given settings)"
    assert (status, err) == (1, [waited])
    port = free_port()
    with Run(processes=[1], TIMEOUT="2", port=port) as run:
        ((status, _, err),) = run.ends()
    assert status == 1
    assert err[-1] == f"TimeoutError: process 0 did not answer at 127.0.0.1:{port} within 2 s"


def test_a_port_that_is_taken(monkeypatch):
    from jaxlib_ext.training import distributed

    for variable in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(variable, raising=False)
    with socket.create_server(("", 0)) as s:
        port = s.getsockname()[1]
        with pytest.raises(ValueError, match=f"^process 0 cannot listen on port {port}: Address already in use$"):
            distributed.start(f"127.0.0.1:{port}", 2, 0)


def test_places():
    from jaxlib_ext.training.cluster import Place, settings

    env = dict(JAX_COORDINATOR_ADDRESS="h:12", JAX_NUM_PROCESSES="2", JAX_PROCESS_ID="1")
    assert settings(Place(), env) == Place("h:12", 2, 1)
    assert settings(Place("[::1]:34", 4, 3), env) == Place("[::1]:34", 4, 3)
    assert (Place("[::1]:34").host, Place("[::1]:34").port, Place().host) == ("::1", 34, None)
    for place, said in [
        (Place("h"), "coordinator 'h' must be host:port"),
        (Place("h:99999"), "coordinator 'h:99999' must be host:port"),
        (Place("h:1", 0), "num_processes=0 must be at least 1"),
        (Place("h:1", 2, 2), "process_id=2 must be at least 0 and below num_processes=2"),
    ]:
        with pytest.raises(ValueError, match=said):
            settings(place, {})
    with pytest.raises(ValueError, match="JAX_PROCESS_ID='one' must be a whole number"):
        settings(Place(), env | dict(JAX_PROCESS_ID="one"))


def test_surroundings():
    import jax

    from jaxlib_ext.training.cluster import detect, slurm_devices

    slurm = dict(SLURM_JOB_ID="7", SLURM_STEP_NODELIST="a[1-2]", SLURM_NTASKS="2")
    assert detect(slurm) == "SLURM"
    assert detect(slurm | dict(SLURM_NTASKS="1")) is None
    assert detect(dict(SLURM_JOB_ID="7", SLURM_NTASKS="16")) is None  # python without srun in a batch script
    assert detect(dict(OMPI_COMM_WORLD_SIZE="2")) == "Open MPI"
    assert detect(dict(KUBERNETES_SERVICE_HOST="10.0.0.1")) is None
    assert detect(dict(KUBERNETES_SERVICE_HOST="10.0.0.1", JOB_COMPLETION_INDEX="0")) == "Kubernetes"
    assert detect({}) is None
    before = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
    try:
        jax.config.update("jax_platforms", "tpu,cpu")
        assert detect(dict(TPU_WORKER_HOSTNAMES="a,b")) == "TPU"
        assert detect(dict(TPU_WORKER_HOSTNAMES="localhost")) is None
        assert detect(dict(TPU_WORKER_HOSTNAMES="a", MEGASCALE_NUM_SLICES="2")) == "TPU"
        assert detect({}) == "TPU"  # only its metadata server knows how many hosts it has
    finally:
        jax.config.update("jax_platforms", before)

    eight = dict(CUDA_VISIBLE_DEVICES="0,1,2,3,4,5,6,7")
    assert slurm_devices(eight | dict(SLURM_STEP_TASKS_PER_NODE="1(x4)")) == list(range(8))
    assert slurm_devices(eight | dict(SLURM_STEP_TASKS_PER_NODE="8(x4)")) is None
    assert slurm_devices(dict(CUDA_VISIBLE_DEVICES="5", SLURM_STEP_TASKS_PER_NODE="8(x4)")) == [0]
    assert slurm_devices(eight | dict(SLURM_STEP_TASKS_PER_NODE="1", JAX_LOCAL_DEVICE_IDS="0")) is None
    assert slurm_devices(dict(SLURM_STEP_TASKS_PER_NODE="1")) is None


def test_one_process_needs_nothing(monkeypatch):
    import jax

    from jaxlib_ext.training import distributed

    for variable in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(variable, raising=False)
    distributed.start()
    distributed.start("127.0.0.1:1", 1, 0)
    assert not jax.distributed.is_initialized() and distributed.is_lead()
    distributed.barrier("alone")
    with pytest.raises(SystemExit) as end, distributed.guard():
        raise SystemExit(2)
    assert end.value.code == 2
    with pytest.raises(
        ValueError, match=r"missing: num_processes \(JAX_NUM_PROCESSES\), process_id \(JAX_PROCESS_ID\)"
    ):
        distributed.start("127.0.0.1:1")


def test_sigterm_in_one_process():
    from jaxlib_ext.training import distributed

    before = signal.getsignal(signal.SIGTERM)
    with distributed.Preemption() as preemption:
        assert not preemption.due(0)
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGTERM)  # schedulers send it to a group and to its members
        assert preemption.due(1) and preemption.due(2)
    assert signal.getsignal(signal.SIGTERM) is before


if __name__ == "__main__":
    worker(sys.argv[1])
