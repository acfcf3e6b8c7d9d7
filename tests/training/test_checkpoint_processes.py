"""Checkpoints of real processes: killed at any moment, and two that share a folder.

Run as a script, this file is one of them.
"""

import contextlib
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from jaxlib_ext.training import distributed, manifest
from jaxlib_ext.training.checkpoint import Checkpoints, check_shared

ROOT = pathlib.Path(__file__).parent.parent.parent
SIZE = 1 << 20


def state(step: int) -> dict:
    """8 MB that do not compress, and differ between steps in every element."""
    noise = np.random.default_rng(step).integers(0, 1 << 32, 2 * SIZE, np.uint32)
    return {"a": jnp.asarray(noise[:SIZE]), "b": jnp.asarray(noise[SIZE:]), "n": jnp.int32(step)}


ABSTRACT = jax.eval_shape(lambda: {k: jnp.zeros(SIZE, jnp.uint32) for k in "ab"} | {"n": jnp.int32(0)})


def die(*_, **__) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def runner(folder: str, moment: str) -> None:
    """Goes on from the last checkpoint and saves step after step until it is killed, or kills itself."""
    ambush(moment)
    with Checkpoints(folder) as checkpoints:
        found = checkpoints.restore(ABSTRACT)
        step = found[0] if found else 0
        print("start", step, flush=True)
        for n in range(step + 1, step + 1000):
            checkpoints.save(n, state(n), dict(position=n))
            print("saving", n, flush=True)


def ambush(moment: str) -> None:
    """Dies in the background while step 4 is made a checkpoint, or while step 2 is deleted after that."""
    write, replace_text, remove = manifest.write, manifest.replace_text, manifest.remove

    def dying_write(folder, about):
        return die() if folder.name == "4" else write(folder, about)

    def dying_replace(path, text):
        if path.parent.name == "4":
            path.with_name(f"{path.name}.part").write_text(text[:50])
            die()
        replace_text(path, text)

    def dying_remove(folder):
        if folder.name == "2":
            (folder / manifest.NAME).unlink()
            die()
        remove(folder)

    if moment == "before the manifest":
        manifest.write = dying_write
    elif moment == "inside the manifest":
        manifest.replace_text = dying_replace
    elif moment == "inside pruning":
        manifest.remove = dying_remove


def start(folder, moment="later"):
    return subprocess.Popen(
        [sys.executable, __file__, "runner", str(folder), moment], text=True, stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
    )  # fmt: skip


def seen(process, kill_after=None) -> list[int]:
    """Steps of which the child said that their save had begun; killed some seconds after the third."""
    found = []
    try:
        for line in process.stdout:
            if not line.endswith("\n"):  # the kill cut it
                break
            found.append(int(line.split()[1]))
            if kill_after is not None and len(found) == 4:
                time.sleep(kill_after)
                process.kill()
        assert process.wait() == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    return found


def restore(checkpoints: Checkpoints, tree) -> tuple:
    found = checkpoints.restore(tree)
    assert found is not None
    return found


def check(folder, begun: list[int]) -> int:
    """The newest checkpoint is whole, bit for bit, and no older than the last but one that was begun."""
    reader = Checkpoints(folder)
    step, tree, extra = restore(reader, ABSTRACT)
    assert step == reader.latest() and extra == dict(position=step)
    for name, leaf in state(step).items():
        np.testing.assert_array_equal(tree[name], leaf)
    # A save begins when the one before is whole, so of those begun only the last may be missing, and the one
    # after may be there without having been heard of.
    assert begun[-1] - 1 <= step <= begun[-1] + 1
    assert len(reader.steps()) <= 3
    return step


@pytest.mark.parametrize("moment", ["before the manifest", "inside the manifest", "inside pruning"])
def test_killed_at_a_given_moment(tmp_path, moment):
    begun = seen(start(tmp_path, moment))
    step = check(tmp_path, begun)
    assert step == (4 if moment == "inside pruning" else 3)
    with Checkpoints(tmp_path) as checkpoints:
        assert sorted(path.name for path in tmp_path.iterdir()) == [str(n) for n in checkpoints.steps()]


@pytest.mark.slow
def test_killed_at_random_moments_and_started_again(tmp_path, caplog):
    draw, step, cut_short = random.Random(0), 0, 0
    for _ in range(12):
        begun = seen(start(tmp_path), kill_after=draw.uniform(0, 0.3))
        assert begun[0] == step  # it went on from what the one before had left
        step = check(tmp_path, begun)
        cut_short += step < begun[-1]
        assert not any("skipped" in record.getMessage() for record in caplog.records)
    assert cut_short, "no kill hit a save"
    assert step > 30


def worker(folder: str, private: str) -> None:
    """One of two processes with 2 devices each."""
    jax.config.update("jax_num_cpu_devices", 2)
    distributed.start(timeout=60)
    with distributed.guard():
        check_shared(folder)
        distributed.barrier("tried")
        assert list(pathlib.Path(folder).glob(".*")) == []
        with contextlib.suppress(ValueError):
            check_shared(f"{private}{jax.process_index()}", seconds=0.5)
            raise AssertionError("not noticed")
        mesh = jax.make_mesh((4,), ("fsdp",), axis_types=(jax.sharding.AxisType.Auto,))
        place = lambda *spec: NamedSharding(mesh, PartitionSpec(*spec))
        with Checkpoints(folder) as checkpoints:
            try:
                checkpoints.save(7, {"local": jnp.zeros(3)}, {})
                raise AssertionError("not noticed")
            except ValueError as error:
                assert "local lives on devices of one process only" in str(error)
            tree = jax.jit(shared_state, out_shardings=dict(w=place("fsdp"), r=place(), e=place(), k=place()))()
            aim = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), tree)
            step, found, _ = restore(checkpoints, aim)  # from one process with 8 devices
            assert step == 5 and whole(found) == whole(tree)
            for step in (6, 7):
                checkpoints.save(step, tree, dict(position=step))
            checkpoints.wait()
            assert checkpoints.steps() == [6, 7]
            distributed.barrier("steps seen")
            if distributed.is_lead():
                (pathlib.Path(folder) / "7" / "_METADATA").write_text("{}")
            distributed.barrier("damaged")
            step, found, extra = restore(checkpoints, aim)
            assert step == 6 and extra == dict(position=6) and whole(found) == whole(tree)
            for wanted, text in [(aim | dict(r=aim["w"]), "r is float32[] there and"), (aim, "is truncated")]:
                try:
                    checkpoints.restore(wanted, step=7)
                    raise AssertionError("not noticed")
                except ValueError as error:
                    assert text in str(error), error
            checkpoints.save(8, tree, dict(position=8))
        print("good", flush=True)


def shared_state() -> dict:
    return dict(w=jnp.arange(1600.0).reshape(16, 100), r=jnp.float32(3), e=jnp.zeros((0, 4)), k=jax.random.key(3))


def whole(tree) -> list:
    from jax.experimental import multihost_utils

    tree = dict(tree, k=jax.random.key_data(tree["k"]))
    return [np.asarray(multihost_utils.process_allgather(v, tiled=True)).tolist() for v in jax.tree.leaves(tree)]


def test_two_processes_share_checkpoints_with_one(tmp_path):
    folder = tmp_path / "shared"
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
    on = lambda leaf: NamedSharding(mesh, PartitionSpec("x") if leaf.shape[:1] == (16,) else PartitionSpec())
    tree = jax.tree.map(lambda leaf: jax.device_put(leaf, on(leaf)), shared_state())
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(5, tree, {})
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{s.getsockname()[1]}"
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "SLURM_", "XLA_"))}
    place = dict(JAX_COORDINATOR_ADDRESS=address, JAX_NUM_PROCESSES="2", PYTHONPATH=str(ROOT))
    processes = [
        subprocess.Popen(
            [sys.executable, __file__, "worker", str(folder), str(tmp_path / "private")], text=True,
            env={**kept, **place, "JAX_PROCESS_ID": str(i)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )
        for i in range(2)
    ]  # fmt: skip
    try:
        said = [p.communicate(timeout=120) for p in processes]
    finally:
        for p in processes:
            p.kill()
    for p, (out, _) in zip(processes, said, strict=True):
        assert p.returncode == 0 and out.endswith("good\n"), said
    skipped = [[line for line in err.splitlines() if "7: _METADATA is truncated" in line] for _, err in said]
    assert len(skipped[0]) == 1 and not skipped[1]  # the first process says it, once
    reader = Checkpoints(folder)
    aim = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=on(leaf)), tree)
    step, found, extra = restore(reader, aim)
    assert reader.steps() == [7, 8] and step == 8 and extra == dict(position=8) and whole(found) == whole(tree)


if __name__ == "__main__":
    {"runner": runner, "worker": worker}[sys.argv[1]](*sys.argv[2:])
