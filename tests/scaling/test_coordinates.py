"""The coordinate check: slopes of known powers, taps on a model, and muP against standard on a small language model."""

import csv
import functools
import importlib.util
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext import param, scaling
from jaxlib_ext.kernels.linear import linear
from jaxlib_ext.kernels.linear.tapped import tapped
from jaxlib_ext.scaling import plots

EXPERIMENT = pathlib.Path(__file__).parents[2] / "experiments" / "coord_check.py"


def powers(width):
    return dict(flat=[2.0, 2.0, 2.0], root=[1.0, width**0.5, width**0.25], dead=[0.0, 1.0, 1.0])


def test_slopes_are_those_of_powers():
    check = scaling.coordinate_check(powers, (16, 64, 256))
    want = [[0, 0, np.nan], [0, 0.5, 0], [0, 0.25, 0]]
    np.testing.assert_allclose(check.slopes, want, atol=1e-12)
    assert check.worst() == ("root", 1, 0.5) and check.worst(2) == ("root", 2, 0.25)
    assert check.within(0.5) and not check.within(0.4)
    assert not scaling.coordinate_check(lambda w: dict(a=[1.0, float("inf")]), (2, 4)).within(10)
    assert "root" in str(check) and "+0.500" in str(check)
    assert len(plots.coordinates({"known": check}).axes) == 3


def test_other_layers_at_another_width_are_named():
    with pytest.raises(ValueError, match="width 8 has other layers or steps than width 4"):
        scaling.coordinate_check(lambda w: {f"l{w}": [1.0, 1.0]}, (4, 8))


def test_taps_see_every_use_in_order():
    """Under a scan over stacked layers, in the compute dtype, with the values of the untapped model."""
    layer = dict(w=param.matrix(dict(embed=4), dict(embed_out=4), extra_axes=("embed_out",)))
    decl = dict(layers=param.stack(layer, layers=3), norm=param.gain(embed=4))
    params, found = param.init(decl, jax.random.key(0)), []
    x = jnp.ones((2, 4))

    def run(p):
        body = lambda h, one: ((linear(h, one["w"])), None)
        return jax.lax.scan(body, x, p["layers"])[0] * p["norm"][None]

    keep = lambda path, rms: found.append((path, rms))
    y = jax.jit(lambda p: run(tapped(decl, p, keep)))(params)
    jax.effects_barrier()
    np.testing.assert_allclose(y, run(params), rtol=1e-6)
    h, want = x, []
    for i in range(3):
        h = h @ params["layers"]["w"][i]
        want.append(float(jnp.sqrt(jnp.mean(h**2))))
    assert [path for path, _ in found] == ["layers/w"] * 3
    np.testing.assert_allclose([rms for _, rms in found], want, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("optimizer", "times", "least"), [("sgd(momentum=0.0)", 1.5, 0.1), ("adam", 4, 0.3), ("lion", 4, 0.3)]
)
def test_mup_is_flat_and_the_standard_parametrisation_is_not(tmp_path, optimizer, times, least):
    """The experiment in small: attention, widths 64 to 256; its table and its plot."""
    spec = importlib.util.spec_from_file_location("coord_check", EXPERIMENT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    config = script.Config(
        out=str(tmp_path), mixers="attention(heads={heads})", optimizers=optimizer, widths=(64, 128, 256), steps=10,
        depth=1, seeds=2,
    )  # fmt: skip
    assert script.check(config, script.data.open_source("stdlib", "train")) == 0  # slopes under muP are within 0.1
    with (tmp_path / "coordinates.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert (tmp_path / "coordinates.png").stat().st_size > 10_000

    def measure(name, width):
        mine = [r for r in rows if r["parameterisation"] == name and int(r["width"]) == width]
        layers = dict.fromkeys(r["layer"] for r in mine)
        return {k: [float(r["rms"]) for r in mine if r["layer"] == k] for k in layers}

    found = {n: scaling.coordinate_check(functools.partial(measure, n), config.widths) for n in ("mup", "standard")}
    assert found["mup"].within(0.1)
    mup, standard = (abs(found[name].worst()[2]) for name in ("mup", "standard"))
    assert mup < standard / times and least < standard < np.inf, (str(found["mup"]), str(found["standard"]))
