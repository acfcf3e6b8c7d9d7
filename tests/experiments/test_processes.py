"""Meshes of eight host devices and two processes of four follow the single device."""

import json
import signal
import socket
import time

import pytest

from jaxlib_ext.training.checkpoint import Checkpoints

OPTIONS = ("--batch", "8", "--steps", "30", "--eval-every", "30", "--log-every", "1", "--save-every", "30")
MIXER = ("--model.mixer", "attention(heads=4)", "--model.width", "32")


def losses(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [v for line in lines for k, v in json.loads(line).items() if k in ("loss", "eval_loss")]


@pytest.fixture(scope="module")
def single(train, tmp_path_factory):
    out = tmp_path_factory.mktemp("single")
    status, _, err = train(out, *OPTIONS, *MIXER)
    assert status == 0, err
    return losses(out)


def follows(folder, single):
    found = losses(folder)
    assert len(found) == 31
    assert found == pytest.approx(single, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["fsdp=8", "fsdp=4,tensor=2", "data=2,tensor=4"])
def test_a_mesh_follows_the_single_device(train, single, tmp_path, mesh):
    status, _, err = train(tmp_path, *OPTIONS, *MIXER, "--mesh", mesh, JAX_NUM_CPU_DEVICES="8")
    assert status == 0, err
    follows(tmp_path, single)


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def two(begin, out, *arguments):
    """Both processes of a run over loopback."""
    where = {
        "JAX_COORDINATOR_ADDRESS": f"127.0.0.1:{free_port()}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_NUM_CPU_DEVICES": "4",
    }
    return [begin(out, *OPTIONS, *MIXER, *arguments, **where, JAX_PROCESS_ID=str(i)) for i in (0, 1)]


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["fsdp=4,tensor=2", "dcn.data=2,fsdp=4"])
def test_two_processes_follow_the_single_device(begin, single, tmp_path, mesh):
    processes = two(begin, tmp_path, "--mesh", mesh)
    for process in processes:
        _, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
    follows(tmp_path, single)


def logged(out):
    file = out / "metrics.jsonl"
    return len(file.read_text().splitlines()) if file.exists() else 0


def ended(processes):
    """[(exit status, errors)] within two minutes."""
    said = [p.communicate(timeout=120)[1] for p in processes]
    return [(p.returncode, err) for p, err in zip(processes, said, strict=True)]


LONG = ("--steps", "3000", "--save-every", "500", "--mesh", "fsdp=4,tensor=2")


@pytest.mark.slow
def test_sigterm_to_one_process_makes_all_save_the_same_step(begin, tmp_path):
    processes = two(begin, tmp_path, *LONG)
    while logged(tmp_path) < 20:
        time.sleep(0.05)
        assert processes[0].poll() is None
    processes[1].send_signal(signal.SIGTERM)
    for status, err in ended(processes):
        assert status == 0, err
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert Checkpoints(tmp_path / "checkpoints").latest() == rows[-1]["step"] < 3000


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_sigkill_of_one_process_ends_the_others_with_a_line(begin, tmp_path, victim):
    processes = two(begin, tmp_path, *LONG)
    while logged(tmp_path) < 20:
        time.sleep(0.05)
        assert processes[0].poll() is None
    processes[victim].kill()
    begun = time.monotonic()
    status, err = ended(processes)[1 - victim]
    assert status != 0 and time.monotonic() - begun < 120
    assert f"process {victim}" in err


@pytest.mark.slow
def test_two_processes_go_on_where_one_stopped(train, begin, single, tmp_path):
    process = begin(tmp_path, *OPTIONS, *MIXER, "--save-every", "10")
    while logged(tmp_path) < 13 and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    process.communicate()
    for status, err in ended(two(begin, tmp_path, "--mesh", "fsdp=8")):
        assert status == 0, err
    follows(tmp_path, single)
