"""Targets by name, their figures, and what each refusal says."""

import pathlib
import tomllib

import pytest

from jaxlib_ext import targets
from jaxlib_ext.targets import topology
from jaxlib_ext.targets.roofline import group_seconds
from jaxlib_ext.targets.topology import Place
from jaxlib_ext.training import hardware


@pytest.mark.parametrize(
    ("name", "size", "units"),
    [
        ("v5e:16x16", 256, 1), ("v5p:16x16x16", 4096, 1), ("v6e:16x16", 256, 1), ("tpu7x:4x4x4", 128, 1),
        ("v5e:4x4*2", 32, 2), ("h100x8", 8, 1), ("h200x8", 8, 1), ("h100x8*32", 256, 32),
    ],
)  # fmt: skip
def test_names(name, size, units):
    t = targets.target(name)
    assert (t.size, t.units) == (size, units)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("v5:16x16", "unknown target 'v5:16x16'; did you mean"),
        ("h1000x8", "unknown target 'h1000x8'; did you mean h100x8"),
        ("laptop", "examples are v5e:16x16"),
        ("v5p:16x16", "the torus of v5p has 3 dimensions, as in v5p:16x16x16"),
        ("h100x16", "a node has at most 8 GPUs; nodes are written h100x8*2"),
        ("h100x0", "sizes are at least 1"),
        ("h100:8", "unknown target"),
    ],
)
def test_refusals(name, said):
    with pytest.raises(ValueError) as error:
        targets.target(name)
    assert said in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["v5e:4x4", "h100x8"])
def test_a_missing_package_says_what_to_install(name, monkeypatch):
    monkeypatch.setattr(topology, "_version", lambda package: None)
    with pytest.raises(targets.MissingPackage, match=r'pip install "jaxlib-ext\[targets\]"'):
        targets.target(name).devices  # noqa: B018


def test_the_extra_leaves_versions_to_jax():
    root = pathlib.Path(__file__).resolve().parents[2]
    extra = tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"]["targets"]
    assert "jax[tpu,cuda13-local]" in extra
    assert not any(r.startswith("libtpu") or "==" in r for r in extra)


def test_peaks_agree_with_those_of_training():
    names = dict(v5e="TPU v5e", v5p="TPU v5p", v6e="TPU v6e", h100="H100", h200="H200")
    for name, kind in names.items():
        assert targets.CHIPS[name].peak == pytest.approx(hardware.PEAK[kind], rel=1e-3)


def ring(n, axis=0, dims=2):
    return [Place(0, tuple(i if d == axis else 0 for d in range(dims))) for i in range(n)]


def test_a_closed_ring_is_twice_as_fast_as_a_line():
    """16 chips of v5e along an axis of 16: 15/16 of the bytes over two links of 50 GB/s; 8 of them: over one."""
    t = targets.target("v5e:16x16")
    assert group_seconds(t, "all-gather", 16e9, ring(16)) == pytest.approx(15e9 / 100e9)
    assert group_seconds(t, "all-gather", 16e9, ring(8)) == pytest.approx(14e9 / 50e9)
    assert group_seconds(t, "all-reduce", 16e9, ring(16)) == pytest.approx(2 * 15e9 / 100e9)
    assert group_seconds(t, "reduce-scatter", 16e9, ring(16)) == pytest.approx(15e9 / 100e9)
    assert group_seconds(t, "collective-permute", 16e9, ring(2)) == pytest.approx(16e9 / 50e9)


def test_a_whole_slice_has_the_links_of_both_axes_and_interleaved_groups_share():
    t = targets.target("v5e:16x16")
    everyone = [Place(0, (i, j)) for i in range(16) for j in range(16)]
    assert group_seconds(t, "all-gather", 256e9, everyone) == pytest.approx(255e9 / 200e9)
    every_second = [Place(0, (2 * i, 0)) for i in range(8)]
    assert group_seconds(t, "all-gather", 16e9, every_second) == pytest.approx(14e9 / 50e9)


def test_all_to_all_is_bound_by_the_middle_of_the_ring():
    """Half of what 8 chips hold crosses two links: 8 x 1 GB / 2 / 100 GB/s."""
    t = targets.target("v5e:16x16")
    assert group_seconds(t, "all-to-all", 1e9, ring(16)) == pytest.approx(4e9 / 100e9)


def test_slices_and_nodes_are_bound_by_the_network():
    t = targets.target("h100x8*2")
    inside = [Place(0, (i,)) for i in range(8)]
    both = [Place(u, (i,)) for u in range(2) for i in range(8)]
    assert group_seconds(t, "all-gather", 16e9, inside) == pytest.approx(14e9 / 450e9)
    assert group_seconds(t, "all-gather", 16e9, both) == pytest.approx(15e9 / 450e9)  # into each GPU
    wide = targets.target("h100x8*8")
    two = [Place(u, (i,)) for u in range(8) for i in range(2)]
    assert group_seconds(wide, "all-gather", 16e9, two) == pytest.approx(14e9 / (2 * 50e9))  # into each node
    pairs = [Place(0, (0,)), Place(1, (0,))]
    assert group_seconds(t, "all-gather", 16e9, pairs) == pytest.approx(8e9 / 50e9)


def test_two_devices_of_a_chip_share_its_links():
    """tpu7x: a group with one device of each chip has half of the chip's links, one with both has all of them."""
    t = targets.target("tpu7x:4x4x4")
    line = [Place(0, (i, 0, 0)) for i in range(4)]
    assert group_seconds(t, "all-gather", 4e9, line) == pytest.approx(3e9 / (2 * 100e9 / 2))
    assert group_seconds(t, "all-gather", 4e9, [p for p in line for _ in range(2)]) == pytest.approx(3e9 / (2 * 100e9))
