"""Hyena's distilled recurrence: the same operator as hyena with its filters, how modes are found, fixed decode cost."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext import param
from jaxlib_ext.contracts import from_starts
from jaxlib_ext.models.token_mixers import Hyena, LaughingHyena
from jaxlib_ext.models.token_mixers.laughing_hyena import distilled, hankel, modes_of, order_of
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


def system(order: int, seed: int):
    """lambda and R of a random stable system whose modes lie apart."""
    rng, m = np.random.default_rng(seed), order // 2
    root = rng.uniform(0.6, 0.95, m) * np.exp(1j * np.pi * (np.arange(m) + rng.uniform(0.25, 0.75, m)) / m)
    root, weight = np.append(root, 0.5), rng.uniform(0.5, 1.5, m + 1) * np.exp(2j * np.pi * rng.uniform(size=m + 1))
    return root, weight * np.append(np.ones(m), order % 2)  # one mode that does not turn where the order is odd


def taps_of(root, weight, n: int) -> np.ndarray:
    return (weight * root ** np.arange(n)[:, None]).real.sum(1)


def given(taps: np.ndarray):
    """A hyena with one filter, these taps on every channel, and parameters of it."""
    h = jnp.asarray(np.repeat(taps[:, None, None], D, 2), jnp.float32)
    mixer = type("Given", (Hyena,), dict(filters=lambda self, params, lag: h[lag]))(D, order=1, length=len(taps))
    return mixer, draw(mixer.decl(), jax.random.key(0))


@pytest.mark.parametrize("modes", [1, 2, 3, 5])
def test_random_waves_are_found_exactly_from_4_numbers_each(modes):
    for seed in range(5):
        root, weight = system(2 * modes, seed)
        taps = taps_of(root[:-1], weight[:-1], 200)
        for known in (4 * modes, 4 * modes + 1):
            found = taps_of(*modes_of(taps[:known], modes), 200)
            np.testing.assert_allclose(found, taps, atol=1e-9 * np.abs(taps).max())  # far beyond what was known


@pytest.mark.parametrize("order", [1, 2, 3, 4, 6, 7])
def test_a_random_system_has_as_many_hankel_singular_values_as_its_order_and_is_recovered(order):
    for seed in range(3):
        h = np.append(0.7, taps_of(*system(order, seed), 100))
        size = np.linalg.svd(hankel(h[1:]), compute_uv=False)
        assert size[order - 1] > 1e-5 * size[0] and size[order] < 1e-13 * size[0]
        assert order_of(h[1:], 1e-10) == order
    mixer, params = given(h)
    new, theirs = distilled(mixer, params, (order + 1) // 2)
    lag = jnp.arange(100)
    assert apart(new.filters(theirs, lag), mixer.filters(params, lag)) < 1e-5


def test_no_fit_is_nearer_in_hankel_norm_than_the_next_singular_value_nor_ten_times_as_far():
    mixer = Hyena(2, length=T, rank=8, frequency=1.0)
    h = np.float64(mixer.filters(draw(mixer.decl(), jax.random.key(0)), jnp.arange(T)))[1:, 0]
    for taps in h.T:
        size = np.linalg.svd(hankel(taps), compute_uv=False)
        for modes in (1, 2, 3):
            error = np.linalg.norm(hankel(taps - taps_of(*modes_of(taps, modes), len(taps))), 2)
            assert size[2 * modes] <= error < 10 * size[2 * modes], (modes, error, size)


def test_a_mode_that_is_over_at_once_takes_no_digits_from_lag_0():
    """Its weight divided by its modulus, which would be there twice and cancel, leaves lag 0 no digit of a float32."""
    root, weight = np.array([0.9 * np.exp(0.5j), 1e-7]), np.array([0.8, 1.0 + 0.0j])
    h = np.append(0.3, taps_of(root, weight, T - 1))
    mixer, params = given(h)
    new, theirs = distilled(mixer, params, 2)
    lag = jnp.arange(T)
    moved = np.abs(np.float64(new.filters(theirs, lag) - mixer.filters(params, lag)))
    assert moved.max() < 16 * np.finfo(np.float32).eps * np.abs(h).max()
    assert apart(run(new, theirs), run(mixer, params)) < 1e-5


def test_filters_too_short_for_their_modes_are_refused():
    mixer, params = given(np.ones(12))
    with pytest.raises(ValueError) as error:
        distilled(mixer, params, 3)
    assert str(error.value) == "laughing_hyena: modes=3 are found from 12 taps or more, not 11"


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
    "laughing_hyena: conv must be at least 2, not 1": dict(conv=1),
    "laughing_hyena: shortest=2000.0 is above longest=1000.0": dict(shortest=2000.0),
}


@pytest.mark.parametrize("said", BAD)
def test_bad_options_say_what_is_wrong(said):
    with pytest.raises(ValueError) as error:
        LaughingHyena(D, **BAD[said])
    assert str(error.value) == said
