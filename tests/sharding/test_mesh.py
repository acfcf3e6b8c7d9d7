"""Meshes by name: what parses, what fits, which device stands where."""

import dataclasses
import logging

import jax
import numpy as np
import pytest
from jax.sharding import AxisType

from jaxlib_ext.sharding import MESH_AXES, layout, make_mesh, parse_mesh, write_mesh
from jaxlib_ext.sharding.mesh import arrange


@dataclasses.dataclass(frozen=True)
class Device:
    """What mesh building reads of a device."""

    id: int
    process_index: int = 0
    slice_index: int = 0
    platform: str = "gpu"
    device_kind: str = "fake"
    coords: tuple = ()
    core_on_chip: int = 0


@dataclasses.dataclass(frozen=True)
class Host:
    """A device of a platform that knows no slices."""

    id: int
    process_index: int
    platform: str = "cpu"
    device_kind: str = "cpu"


def ids(devices) -> list:
    return np.vectorize(lambda d: d.id)(devices).tolist()


def test_parse_keeps_the_order():
    assert list(parse_mesh(" tensor=2, fsdp=4 ").items()) == [("tensor", 2), ("fsdp", 4)]
    assert parse_mesh("dcn.data=2,data=4,fsdp=-1") == {"dcn.data": 2, "data": 4, "fsdp": -1}
    assert parse_mesh("") == {"data": -1}
    assert write_mesh(parse_mesh("dcn.data=2,fsdp=16,tensor=8")) == "dcn.data=2,fsdp=16,tensor=8"


@pytest.mark.parametrize(
    "text, said",
    [
        ("fsdp:4", "cannot read 'fsdp:4' in mesh 'fsdp:4': write axis=size"),
        ("fsdp=4,", "cannot read '' in mesh 'fsdp=4,'"),
        ("fsdp=four", "cannot read 'fsdp=four'"),
        ("fsdp=2.5", "cannot read 'fsdp=2.5'"),
        ("fdsp=8", "unknown mesh axis 'fdsp'; did you mean fsdp?"),
        ("dcn.dat=2", "unknown mesh axis 'dat'; did you mean data?"),
        ("xyz=2", f"unknown mesh axis 'xyz'; known are {', '.join(MESH_AXES)}"),
        ("fsdp=0", "mesh axis fsdp=0 needs a size of at least 1"),
        ("fsdp=-2", "mesh axis fsdp=-2 needs a size of at least 1"),
        ("fsdp=2,fsdp=4", "names the axis 'fsdp' twice"),
        ("dcn.data=2,dcn.data=4", "names the axis 'dcn.data' twice"),
        ("fsdp=-1,tensor=-1", "only one mesh axis can be -1, not fsdp and tensor"),
    ],
)
def test_a_bad_mesh_gets_one_line(text, said):
    with pytest.raises(ValueError) as error:
        make_mesh(text)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_mesh_that_does_not_fit_says_both_numbers():
    with pytest.raises(ValueError, match="^mesh data=2,fsdp=8 needs 16 devices, 8 are here$"):
        make_mesh("data=2,fsdp=8")
    with pytest.raises(ValueError, match="^mesh fsdp=2 needs 2 devices, 8 are here$"):
        make_mesh("fsdp=2")  # devices that nobody uses are not passed over
    with pytest.raises(ValueError, match="^mesh fsdp=-1,tensor=3 needs a multiple of 3 devices, 8 are here$"):
        make_mesh("fsdp=-1,tensor=3")


def test_meshes_of_the_host_devices():
    mesh = make_mesh("fsdp=4,tensor=2")
    assert dict(mesh.shape) == {"fsdp": 4, "tensor": 2}
    assert mesh.axis_types == (AxisType.Auto,) * 2
    assert dict(make_mesh().shape) == {"data": 8}
    assert dict(make_mesh("data=2,fsdp=-1").shape) == {"data": 2, "fsdp": 4}
    assert dict(make_mesh(dict(fsdp=2, tensor=1), jax.devices()[:2]).shape) == {"fsdp": 2, "tensor": 1}


def test_slices_are_outermost_and_join_the_axis_of_the_same_name():
    assert layout("dcn.data=2,data=2,tensor=2", 8) == ({"data": 2}, {"data": 2, "tensor": 2})
    # Devices come interleaved over the slices, as they may in a real run.
    devices = [Device(i, process_index=i // 2, slice_index=i % 2) for i in range(8)]
    mesh = make_mesh("dcn.data=2,data=2,tensor=2", devices)
    assert dict(mesh.shape) == {"data": 4, "tensor": 2}
    assert ids(mesh.devices) == [[0, 2], [4, 6], [1, 3], [5, 7]]
    mesh = make_mesh("dcn.data=2,fsdp=4", devices)
    assert dict(mesh.shape) == {"data": 2, "fsdp": 4}
    assert [{d.slice_index for d in row} for row in mesh.devices] == [{0}, {1}]


def test_two_axes_over_the_slow_network():
    devices = [Device(i, slice_index=i // 2) for i in range(8)]
    found = arrange((1, 1, 2), (2, 2, 1), devices)
    assert ids(found) == [[[0, 1], [2, 3]], [[4, 5], [6, 7]]]


def test_processes_are_the_slices_where_devices_have_none():
    mesh = make_mesh("dcn.data=2,tensor=4", [Host(i, process_index=i // 4) for i in range(8)])
    assert [{d.process_index for d in row} for row in mesh.devices] == [{0}, {1}]
    one_slice = [Device(i, process_index=i // 4, slice_index=7) for i in range(8)]
    assert ids(arrange((1, 4), (2, 1), one_slice)) == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_slices_that_do_not_match_the_mesh():
    with pytest.raises(ValueError, match="^the dcn axes ask for 2 slices, 1 processes are here$"):
        make_mesh("dcn.data=2,fsdp=4")
    devices = [Device(i, slice_index=i // 2) for i in range(8)]
    with pytest.raises(ValueError, match="^the dcn axes ask for 2 slices, 4 slices are here$"):
        make_mesh("dcn.data=2,fsdp=4", devices)
    uneven = [Device(i, slice_index=int(i > 2)) for i in range(8)]
    with pytest.raises(ValueError, match=r"slices of one size, not \[3, 5\] devices"):
        make_mesh("dcn.data=2,fsdp=4", uneven)


def test_tpu_slices_need_a_name_for_what_crosses_them():
    pod = [Device(i, slice_index=i // 4, platform="tpu") for i in range(8)]
    with pytest.raises(ValueError, match="2 slices are here; name the axis between them, as in dcn.data=2"):
        make_mesh("fsdp=8", pod)
    nodes = [Device(i, slice_index=i // 4) for i in range(8)]  # GPU nodes may be one axis
    assert ids(make_mesh("fsdp=8", nodes).devices) == list(range(8))


def test_a_torus_axis_is_split_only_with_a_warning(caplog):
    chip = Device(0, platform="tpu", device_kind="TPU v4")
    torus = [dataclasses.replace(chip, id=i, coords=(i // 4, i % 4, 0)) for i in range(16)]
    with caplog.at_level(logging.WARNING):
        whole = arrange((4, 4), (1, 1), torus)
    assert not caplog.records and sorted(np.ravel(ids(whole))) == list(range(16))
    split = arrange((8, 2), (1, 1), torus)
    assert "splits an axis of the TPU torus" in caplog.text
    assert split.shape == (8, 2) and sorted(np.ravel(ids(split))) == list(range(16))
