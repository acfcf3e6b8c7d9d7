"""sophia_g: momentum divided by a Gauss-Newton estimate of the Hessian's diagonal, each entry clipped.

    m <- b1 m + (1 - b1) g
    every k updates:  hessian <- b2 hessian + (1 - b2) s^2,  s = gradient of the loss on labels drawn from the model
    p <- p - learning_rate clip(m / (rho batch hessian + eps), -1, 1)

source: Liu et al. 2023, arXiv 2305.14342, Sophia-G as in the authors' code
state: 8 bytes a parameter
defaults: learning_rate = 6e-4, b1 = 0.965, b2 = 0.99, rho = 0.04, weight_decay = 0.1, k = 10, batch = 5120 (authors'
    code)
departs: none; the estimate is renewed before the step at calls 0, k, 2k, ... as in the paper; in the authors' code
    after the step
"""

import dataclasses

import jax.numpy as jnp

from ..rule import Rule, Slot, Traced


@dataclasses.dataclass(frozen=True, kw_only=True)
class SophiaG(Rule):
    """p <- p - learning_rate clip(m / (rho batch hessian + eps), -1, 1).

    `update` needs sampled_grads=: the gradient of the same mean loss with labels sampled from the model's own
    distribution, a tree like the parameters. It is used at the calls where state.step is a multiple of every, so
    between them it may be anything, or None. b1, b2: decay of the momentum and of the estimate. rho: share of the
    clipping. batch: tokens that the mean in sampled_grads is over.

    >>> import jax.numpy as jnp
    >>> from jaxlib_ext import optim
    >>> tx = optim.sophia_g(1e-3, batch=480 * 1024)
    >>> params = {"w": jnp.ones(2)}
    >>> updates, state = tx.update(params, tx.init(params), params, sampled_grads={"w": jnp.ones(2)})
    """

    default_rate = 6e-4

    b1: Traced = 0.965
    b2: Traced = 0.99
    rho: Traced = 0.04
    batch: Traced = 5120.0
    eps: Traced = 1e-15
    every: int = 10

    default_decay = 0.1
    needs = ("sampled_grads",)

    def __post_init__(self):
        super().__post_init__()
        if not self.every >= 1:
            raise ValueError(f"SophiaG: every must be at least 1, not {self.every!r}")

    def slots(self, leaf):
        return dict(m=Slot(), hessian=Slot(signed=False))

    def update(self, g, slots, p, h):
        m, hessian, sampled = h.b1 * slots["m"] + (1 - h.b1) * g, slots["hessian"], h.extra["sampled_grads"]
        if sampled is not None:
            renewed = h.b2 * hessian + (1 - h.b2) * jnp.square(sampled.astype(g.dtype))
            hessian = jnp.where(h.step % self.every == 0, renewed, hessian)
        u = jnp.clip(m / (h.rho * h.batch * hessian + h.eps), -1, 1)
        return -h.learning_rate * u, dict(m=m, hessian=hessian)
