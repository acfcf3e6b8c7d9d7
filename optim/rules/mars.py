"""mars: any rule with momentum, on gradients from which the change since the last step is partly extrapolated.

    c = g + gamma b1 / (1 - b1) (g - past);   c <- c / max(1, |c|);   the inner rule sees c
    past: the gradient of the step before;   exact: grad value_fn at the parameters of the step before, on this batch

source: Yuan et al. 2024, arXiv 2411.10438, as in the authors' code
state: the inner rule's and 4 bytes a parameter, the gradient or the parameters of the step before
defaults: learning_rate = 3e-3, gamma = 0.025, approximate form, inner = adamw(b1=0.95, b2=0.99) (authors' code);
    signum(b1=0.95) is their MARS-Lion
departs: |c| is of one copy of a stacked leaf; vectors are treated as matrices are, as with the authors' optimize_1d
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from ..rule import Slot, Traced, hypers
from ..wrapped import Wrapped


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mars(Wrapped):
    """The inner rule on c = g + gamma b1 / (1 - b1) (g - past), shortened to length 1; past is the gradient before.

    inner: a rule with a b1, the decay of its momentum. gamma: strength of the correction. exact: past is taken anew, at
    the parameters before on this step's batch, which costs a second backward pass; `update` then needs value_fn=,
    params -> scalar loss, as sam does. Clipping of the gradient's norm acts on g alone.

    >>> import jax, jax.numpy as jnp
    >>> from jaxlib_ext import optim
    >>> tx = optim.mars(3e-4, inner="signum(b1=0.95)")
    >>> loss, params = lambda p: jnp.sum(p["w"] ** 2), {"w": jnp.ones(3)}
    >>> tx = optim.mars(3e-3, exact=True)
    >>> _ = tx.update(jax.grad(loss)(params), tx.init(params), params, value_fn=loss)
    """

    default_rate = 3e-3  # pyright: ignore

    inner: Any = "adamw(b1=0.95, b2=0.99)"
    gamma: Traced = 0.025
    exact: bool = False

    @property
    def needs(self):  # pyright: ignore
        return ("value_fn", *self.inner.needs) if self.exact else self.inner.needs

    def __post_init__(self):
        super().__post_init__()
        if "b1" not in hypers(self.inner):
            raise ValueError(f"Mars: the inner rule needs a momentum b1, {type(self.inner).__name__} has none")

    def slots(self, leaf):
        return dict(last=Slot("params" if self.exact else "zeros")) | self.inner.slots(leaf)

    def prepare(self, grads, params, h):
        if self.exact:
            past = jax.grad(h.extra["value_fn"])(h.kept("last"))
            grads = jax.tree.map(lambda g, o: self._extrapolated(g, o.astype(g.dtype), h), grads, past)
        return self.inner.prepare(grads, params, h)

    def measure(self, g, slots, p, h):
        return self.inner.measure(*self._seen(g, slots, h), p, h)

    def update(self, g, slots, p, h):
        delta, new = self.inner.update(*self._seen(g, slots, h), p, h)
        return delta, dict(new, last=p if self.exact else g)

    @staticmethod
    def _extrapolated(g, past, h):
        return g + h.gamma * h.b1 / (1 - h.b1) * (g - past)

    def _seen(self, g, slots, h):
        """(gradient, slots) as the inner rule has them."""
        c = g if self.exact else self._extrapolated(g, slots["last"], h)  # exact: done for all leaves at once
        return c / jnp.maximum(1, h.leaf.norm(c)), {k: v for k, v in slots.items() if k != "last"}
