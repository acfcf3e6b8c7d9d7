"""Starts and rates that a network's own graph, nonlinearity and width ask for."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxlib_ext import scaling
from jaxlib_ext.scaling import parameterisations as tables


def random_graph(rng, nodes=6):
    pairs = [(i, i + 1) for i in range(nodes - 1)]
    pairs += [(i, j) for i in range(nodes) for j in range(i + 2, nodes) if rng.random() < 0.5]
    return [(i, j, int(rng.integers(0, 2)) if j > i + 1 else 1) for i, j in pairs]


def test_paths_of_a_graph():
    """The sum over paths as a recursion equals their enumeration, and the authors' formula; a chain goes as L^-3/2."""
    rng = np.random.default_rng(0)
    for _ in range(20):
        edges = random_graph(rng)

        def walk(node, depth, edges=edges):
            if node == 5:
                return [depth]
            return [d for i, j, k in edges if i == node for d in walk(j, depth + k)]

        depths = np.array(walk(0, 0))
        got = tables.path_depths(edges)
        assert sorted(depths) == sorted(d for d, k in got.items() for _ in range(k))
        rate = (depths**3).sum() ** -0.5 / (np.array([3]) ** 3).sum() ** -0.5
        np.testing.assert_allclose(tables.arch_rate(edges, [(0, 1), (1, 2), (2, 3)], 5, 3), rate * 3 / 5)
    chain = lambda n: [(i, i + 1) for i in range(n)]
    assert math.isclose(tables.arch_rate(chain(20), chain(5)), 4**-1.5)


def test_start_by_in_degree():
    """Second moments stay of order 1 at the sums of a graph only with the correction."""
    edges = [(i, j) for j in range(1, 8) for i in range(j)]
    sizes = {}
    for corrected in (True, False):
        factors = tables.arch_init(edges) if corrected else [1.0] * len(edges)
        rng, n = np.random.default_rng(0), 512
        sums = {0: rng.standard_normal(n)}
        for (i, j), factor in zip(edges, factors, strict=True):
            h = sums[i] if i == 0 else np.maximum(sums[i], 0) * 2**0.5
            sums[j] = sums.get(j, 0) + rng.standard_normal((n, n)) @ h * factor / n**0.5
        sizes[corrected] = [np.mean(v**2) for v in sums.values()]
    assert 0.5 < min(sizes[True]) and max(sizes[True]) < 2 and max(sizes[False]) > 30


@pytest.mark.slow
def test_criticality():
    """ReLU (0, 2), tanh (0, 1) at K* = 0, SiLU and GELU as in the book; a wide random network follows the recursion."""
    silu, gelu = jax.nn.silu, lambda z: jax.nn.gelu(z, approximate=False)
    known = {silu: (0.55514317, 1.98800468, 14.32017362), gelu: (0.17292239, 1.98305826, 3.56155281)}
    for f, want in known.items():
        got = scaling.criticality(f)
        np.testing.assert_allclose(got, want, rtol=1e-6)
        np.testing.assert_allclose(tables.susceptibilities(f, got.K, got.C_W), 1, rtol=1e-9)
        np.testing.assert_allclose(tables.kernel(f, got.K, got.C_b, got.C_W), got.K, rtol=1e-9)
    np.testing.assert_allclose(scaling.criticality(jax.nn.relu)[:2], (0, 2), atol=1e-12)
    np.testing.assert_allclose(scaling.criticality(jnp.tanh), (0, 1, 0), atol=1e-12)
    with pytest.raises(ValueError, match="no critical start"):
        scaling.criticality(jax.nn.sigmoid)
    rng, n, K, z = np.random.default_rng(0), 2048, 1.0, None
    z = rng.standard_normal(n)
    for _ in range(3):
        z = 0.1**0.5 * rng.standard_normal(n) + rng.standard_normal((n, n)) @ np.tanh(z) * (1.5 / n) ** 0.5
        K = tables.kernel(jnp.tanh, K, 0.1, 1.5)
        assert abs(np.mean(z**2) / K - 1) < 0.15


def test_finite_width():
    """Excess kurtosis of the outputs of random ReLU networks grows with depth / width."""
    rng, draws = np.random.default_rng(0), 4000
    excess = []
    for depth, n in ((2, 16), (8, 16), (8, 64)):
        h = np.full((draws, n), 1.0)
        for _ in range(depth):
            h = np.maximum(np.einsum("bij,bj->bi", rng.standard_normal((draws, n, n), np.float32), h), 0)
            h *= (2 / n) ** 0.5
        z = np.einsum("bj,bj->b", rng.standard_normal((draws, n)), h)
        excess.append(np.mean(z**4) / np.mean(z**2) ** 2 / 3 - 1)
    assert excess[1] > 2 * excess[0] > 0 and excess[1] > 2 * excess[2] > 0, excess
