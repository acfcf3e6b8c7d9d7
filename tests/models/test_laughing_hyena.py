"""Hyena's distilled recurrence: the same operator as hyena with its filters, how modes are found, fixed decode cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext import param
from jaxlib_ext.contracts import from_starts
from jaxlib_ext.models.token_mixers import Hyena, LaughingHyena
from jaxlib_ext.models.token_mixers.laughing_hyena import distilled, modes_of
from jaxlib_ext.testing.verdict import apart, draw

D, T = 6, 80
START = np.zeros((2, T), bool)
START[:, 0] = START[0, 17] = True
SEQ = from_starts(START)
X = jax.random.normal(jax.random.key(1), (2, T, D))


def run(mixer, params):
    return jax.jit(lambda params: mixer.scan(params, X, param.zeros(mixer.state(2, 0)), SEQ)[0])(params)


@pytest.mark.parametrize("order", [1, 2])
def test_it_is_hyena_with_the_same_filters_by_convolution(order):
    mixer = LaughingHyena(D, order=order, modes=3)
    params = draw(mixer.decl(), jax.random.key(0))
    filters = lambda self, params, lag: mixer.filters(params, lag)
    by_fft = type("Same", (Hyena,), dict(filters=filters))(D, order=order, length=T, form="fft")
    assert apart(run(mixer, params), run(by_fft, params)) < 1e-5


def test_without_modes_it_is_pure_gating():
    mixer = LaughingHyena(D, modes=3)
    params = draw(mixer.decl(), jax.random.key(0))
    none = {n: jnp.zeros_like(params["filter"][n]) for n in ("re", "im")} | dict(skip=jnp.ones((2, D)))
    params = params | dict(filter=params["filter"] | none)
    gating = type("Gating", (Hyena,), dict(filters=lambda self, params, lag: mixer.filters(params, lag)))(D, length=1)
    assert apart(run(mixer, params), run(gating, params)) < 1e-5


def test_modes_of_a_sum_of_waves_are_found_exactly():
    root = np.array([0.95 * np.exp(0.4j), 0.8 * np.exp(2.0j), 0.9])  # the last is a decay without a turn
    weight = np.array([1.0 - 0.5j, 0.3 + 0.2j, -0.7])
    lag = np.arange(40)[:, None]
    found, theirs = modes_of((weight * root**lag).real.sum(1), 4)  # one more than there are
    np.testing.assert_allclose((theirs * found**lag).real.sum(1), (weight * root**lag).real.sum(1), atol=1e-9)
    kept = np.abs(theirs) > 1e-6
    np.testing.assert_allclose(np.sort_complex(found[kept]), np.sort_complex(root), atol=1e-6)


def test_a_distilled_hyena_gives_the_outputs_of_the_hyena_more_nearly_with_more_modes():
    mixer = Hyena(D, length=T, rank=8, frequency=1.0)
    params = draw(mixer.decl(), jax.random.key(0))
    y, errors = run(mixer, params), []
    for modes in (1, 2, 4, 8):
        new, theirs = distilled(mixer, params, modes)
        errors.append(float(apart(run(new, theirs), y)))
    assert all(a > 2 * b for a, b in zip(errors[:-1], errors[1:], strict=True)) and errors[-1] < 5e-3, errors


def test_decoding_costs_the_same_after_any_number_of_tokens():
    mixer = LaughingHyena(64)
    assert mixer.cost(1, 1024) == mixer.cost(1, 16384)
    assert mixer.state(1, 1024) == mixer.state(1, 16384) == mixer.state(1, 0)
    assert param.nbytes(mixer.state(1, 1024)) == mixer.cost(1, 1024).state_bytes


BAD = {
    "laughing_hyena: needs order >= 1 and conv >= 2, not order=2, conv=1": dict(conv=1),
    "laughing_hyena: needs modes >= 1 and 0 < shortest < longest, not modes=0, shortest=2.0, longest=1000.0": dict(
        modes=0
    ),
}


@pytest.mark.parametrize("said", BAD)
def test_bad_options_say_what_is_wrong(said):
    with pytest.raises(ValueError) as error:
        LaughingHyena(D, **BAD[said])
    assert str(error.value) == said
