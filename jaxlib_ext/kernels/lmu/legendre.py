"""The matrices of the Legendre memory, on the host in float64: they are constants of a program."""

import functools

import numpy as np


def continuous(order: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """A [Q, Q], B [Q] of theta dm/dt = A m + B u with theta divided through.

    A_ij = (2 i + 1) / theta (-1 where i < j, else (-1)^(i - j + 1)),  B_i = (2 i + 1) (-1)^i / theta
    """
    i, j = np.arange(order)[:, None], np.arange(order)[None]
    rate = (2 * i + 1) / theta
    return rate * np.where(i < j, -1.0, (-1.0) ** (i - j + 1)), (rate * (-1.0) ** i)[:, 0]


@functools.lru_cache(maxsize=32)
def discrete(order: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """The same for inputs that are held over steps of length 1 (zero-order hold).

    >>> a, b = discrete(1, 4.0)
    >>> bool(np.allclose(a, np.exp(-0.25))), bool(np.allclose(a + b, 1.0))
    (True, True)
    """
    from scipy.linalg import expm

    a, b = continuous(order, theta)
    both = np.zeros((order + 1, order + 1))
    both[:order, :order], both[:order, order] = a, b
    both = expm(both)
    return both[:order, :order], both[:order, order]


@functools.lru_cache(maxsize=32)
def powers(order: int, theta: float, length: int) -> tuple[np.ndarray, np.ndarray]:
    """A^1 .. A^length as [length, Q, Q], and what an input leaves after 0 .. length - 1 steps, [length, Q]; float32."""
    a, b = discrete(order, theta)
    kept, left = [a], [b]
    for _ in range(length - 1):
        kept.append(a @ kept[-1])
        left.append(a @ left[-1])
    return np.stack(kept).astype(np.float32), np.stack(left).astype(np.float32)
