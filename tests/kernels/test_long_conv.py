"""Long convolutions: blocks and transforms against the sum as it is written, documents, what comes before a call."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext.kernels.long_conv import FORMS, long_conv, xla
from jaxlib_ext.testing.verdict import apart

B, C = 2, 3


def inputs(time: int, reach: int):
    """x, taps, what came before, and starts of documents that lie next to each other and far apart."""
    keys = jax.random.split(jax.random.key(time), 3)
    x, held = jax.random.normal(keys[0], (B, time, C)), jax.random.normal(keys[2], (B, 7, C))
    taps = jax.random.normal(keys[1], (reach, C)) * 0.97 ** jnp.arange(reach)[:, None]
    start = np.zeros((B, time), bool)
    start[0, [time // 3, time // 3 + 1]] = start[1, time - 10] = True
    return x, taps, held, jnp.asarray(start)


@pytest.mark.parametrize("form", ["toeplitz", "fft"])
@pytest.mark.parametrize(("time", "reach"), [(36, 50), (300, 300), (300, 20), (150, 6)])
@pytest.mark.parametrize("packed", [True, False])
def test_blocks_and_transforms_equal_the_direct_sum_in_values_and_gradients(form, time, reach, packed):
    x, taps, held, start = inputs(time, reach)
    start = start & packed

    def both(form):
        run = lambda x, taps, held: long_conv(x, taps, start, held=held, implementation=form)
        score = lambda *a: jnp.sum(jnp.sin(run(*a)))
        return run(x, taps, held), jax.grad(score, argnums=(0, 1, 2))(x, taps, held)

    assert apart(*jax.jit(lambda: (both(form), both("direct")))()) < 1e-5


def test_the_direct_sum_is_numpys_convolution_of_each_document():
    x, taps, _, start = inputs(60, 40)
    y = np.asarray(long_conv(x, taps, start, implementation="direct"))
    for b in range(B):
        edges = [0, *np.flatnonzero(start[b]), 60]
        for first, end in zip(edges[:-1], edges[1:], strict=True):
            for c in range(C):
                alone = np.convolve(np.float64(x[b, first:end, c]), np.float64(taps[:, c]))[: end - first]
                np.testing.assert_allclose(y[b, first:end, c], alone, atol=1e-4)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_of_another_document_gets_in_not_even_by_rounding(form):
    x, taps, _, _ = inputs(300, 300)
    start = jnp.zeros((B, 300), bool).at[:, 130].set(True)
    run = jax.jit(lambda x: long_conv(x, taps, start, implementation=form))
    loud = run(x.at[:, :130].multiply(1e6))
    assert jnp.array_equal(loud[:, 130:], run(x)[:, 130:])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("packed", [True, False])
def test_later_tokens_move_earlier_outputs_by_rounding_at_most_and_by_one_transform_alone(form, packed):
    """There by 4 float32 epsilons of the channel's loudest output at most; 2.0 to 2.5 measured at 300 to 4096."""
    x, taps, _, _ = inputs(300, 300)
    start, cut = jnp.zeros((B, 300), bool).at[:, 130].set(packed), 200
    run = jax.jit(lambda x: long_conv(x, taps, start, implementation=form))
    y = run(x)
    for loud in (-1.0, 1e3, 1e6):
        other = run(x.at[:, cut:].multiply(loud))
        moved = jnp.abs(other - y)[:, :cut] / jnp.max(jnp.abs(other), 1, keepdims=True)
        whole_row = form == "fft" and not packed
        assert jnp.max(moved) <= (4 * jnp.finfo(jnp.float32).eps if whole_row else 0.0), loud
    broken = jnp.isnan(run(x.at[:, cut].set(jnp.nan)))
    assert broken[:, cut].all() and jnp.all(broken[:, :cut] == whole_row)


@pytest.mark.parametrize("form", FORMS)
def test_nothing_wraps_around(form):
    """A row is convolved as if zeros followed: its own end never meets its beginning."""
    x, taps, _, _ = inputs(200, 200)
    none = jnp.zeros((B, 200), bool)
    y = jax.jit(lambda x: long_conv(x, taps, none, implementation=form))(x)
    padded = np.fft.irfft(np.fft.rfft(x, 400, 1) * np.fft.rfft(taps, 400, 0)[None], 400, 1)[:, :200]
    circular = np.fft.irfft(np.fft.rfft(x, 200, 1) * np.fft.rfft(taps, 200, 0)[None], 200, 1)
    assert apart(y, jnp.asarray(padded, jnp.float32)) < 1e-5
    assert apart(y, jnp.asarray(circular, jnp.float32)) > 0.1


def test_the_matrix_of_copies_has_the_entries_of_its_vector():
    m = np.asarray(xla._hankel(jnp.arange(7.0)[None]))[0]
    assert m.tolist() == [[float(l + k) for k in range(4)] for l in range(4)]
