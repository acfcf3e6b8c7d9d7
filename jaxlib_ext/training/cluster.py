"""Where this process runs: how many processes the run has, which one this is, and where process 0 answers."""

from collections.abc import Mapping
from typing import NamedTuple

import jax

VARIABLES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


class Place(NamedTuple):
    """What is known of this process's place in the run; None: not said."""

    coordinator: str | None = None  # host:port of process 0
    num_processes: int | None = None
    process_id: int | None = None

    @property
    def host(self) -> str | None:
        return self.coordinator and self.coordinator.rpartition(":")[0].strip("[]")

    @property
    def port(self) -> int:
        return int((self.coordinator or ":0").rpartition(":")[2])


def settings(place: Place, env: Mapping[str, str]) -> Place:
    """`place`, filled up from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, and checked.

    >>> settings(Place(process_id=1), {"JAX_COORDINATOR_ADDRESS": "10.0.0.1:1234", "JAX_NUM_PROCESSES": "2"})
    Place(coordinator='10.0.0.1:1234', num_processes=2, process_id=1)
    """
    values = []
    for name, given, variable in zip(Place._fields, place, VARIABLES, strict=True):
        text = env.get(variable, "").strip()
        if given is None and text:
            if name != "coordinator" and not text.isdigit():
                raise ValueError(f"{variable}={text!r} must be a whole number")
            given = text if name == "coordinator" else int(text)
        values.append(given)
    place = Place(*values)
    host, colon, port = (place.coordinator or "host:1").rpartition(":")
    if not (host and colon and port.isdigit() and 0 < int(port) < 65536):
        raise ValueError(f"coordinator {place.coordinator!r} must be host:port, the address of process 0")
    count, index = place.num_processes, place.process_id
    if count is not None and count < 1:
        raise ValueError(f"num_processes={count} must be at least 1")
    if index is not None and (index < 0 or (count is not None and index >= count)):
        raise ValueError(f"process_id={index} must be at least 0 and below num_processes={count}")
    return place


def detect(env: Mapping[str, str]) -> str | None:
    """The surroundings in which jax finds the processes of the run by itself; None: there is one process.

    >>> detect({"SLURM_JOB_ID": "7", "SLURM_STEP_NODELIST": "a[1-2]", "SLURM_NTASKS": "16"})
    'SLURM'
    """
    # An sbatch script that runs python without srun has no step, and is one process.
    if env.get("SLURM_JOB_ID") and env.get("SLURM_STEP_NODELIST") and int(env.get("SLURM_NTASKS") or 1) > 1:
        return "SLURM"
    # jax sets its platforms to "tpu,cpu" on a TPU machine, unless told otherwise.
    platforms = jax.config.jax_platforms or ""  # pyright: ignore[reportAttributeAccessIssue]
    if platforms.startswith("tpu"):
        hosts = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES")
        several = hosts is None or "," in hosts or int(env.get("MEGASCALE_NUM_SLICES") or 1) > 1
        return "TPU" if several else None
    if int(env.get("OMPI_COMM_WORLD_SIZE") or 1) > 1:
        return "Open MPI"
    if env.get("KUBERNETES_SERVICE_HOST") and env.get("JOB_COMPLETION_INDEX"):
        return "Kubernetes"
    return None


def slurm_devices(env: Mapping[str, str]) -> list[int] | None:
    """GPUs of this process under SLURM; None leaves it to jax, which gives task i of a node GPU i.

    That suits one task a GPU where each sees all GPUs of the node. It would leave 7 of 8 GPUs idle with one
    task a node, and would ask for a GPU that is not there where SLURM shows each task its own GPU only.

    >>> slurm_devices({"SLURM_STEP_TASKS_PER_NODE": "1(x4)", "CUDA_VISIBLE_DEVICES": "0,1,2,3"})
    [0, 1, 2, 3]
    """
    tasks = (env.get("SLURM_STEP_TASKS_PER_NODE") or env.get("SLURM_NTASKS_PER_NODE") or "").partition("(")[0]
    gpus = len([g for g in env.get("CUDA_VISIBLE_DEVICES", "").split(",") if g.strip()])
    if env.get("JAX_LOCAL_DEVICE_IDS") or not gpus:
        return None
    return list(range(gpus)) if tasks == "1" or gpus == 1 else None
