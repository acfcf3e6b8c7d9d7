"""Backward pass and update in one loop over scanned layers: gradients of one layer at a time are all that ever exist.

    scan = FusedScan(block, tx)                       # block(params of a layer, x) -> x; tx made for one layer
    state = scan.init(layers)                         # layers: parameters stacked over the first axis
    y, saved = scan.forward(layers, x)
    loss, (dy, dhead) = jax.value_and_grad(head_loss, (0, 1))(y, head)
    dx, layers, state = scan.backward(layers, state, saved, dy)

Under jit, with layers and state donated, parameters and slots are changed in place. A rule may look at its own leaf
only: nothing that is known after the whole backward pass, a global norm say, can enter.

source: Lv et al. 2023, arXiv 2306.09782 (LOMO), for any rule
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax

from .core import Core, OptState
from .rule import Array, Rule, Tree
from .transform import Optimizer


@dataclasses.dataclass(frozen=True)
class FusedScan:
    """block(params, x) -> x of the same shape; tx: an optimizer of `optim` whose rule looks at one leaf at a time."""

    block: Callable[[Tree, Array], Array]
    tx: Optimizer

    def __post_init__(self):
        core = self.tx.core
        if not isinstance(core, Core):
            raise ValueError("FusedScan needs an optimizer of one rule")
        rule = core.rule
        if rule.shared() or core.guard.active or type(rule).prepare is not Rule.prepare:
            raise ValueError(f"FusedScan: {type(rule).__name__} with these options looks at all gradients at once")

    @property
    def core(self) -> Core:
        return self.tx.core

    def init(self, layers: Tree) -> OptState:
        """The state; its slots are stacked like the layers."""
        one = self.core.init(jax.tree.map(lambda p: p[0], layers))
        return one._replace(slots=jax.vmap(lambda p: self.core.init(p).slots)(layers))

    def forward(self, layers: Tree, x: Array) -> tuple[Array, Array]:
        """(output of the last layer, the input of each, [layers, ...])."""
        return jax.lax.scan(lambda x, p: (self.block(p, x), x), x, layers)

    def backward(self, layers: Tree, state: OptState, saved: Array, dy: Array) -> tuple[Array, Tree, OptState]:
        """(gradient at the first layer's input, new layers, new state)."""
        n = saved.shape[0]

        def body(i, carry):
            dy, layers, slots, params, mine = carry
            at = n - 1 - i
            _, pull = jax.vjp(self.block, params, _take(saved, at))
            grads, dx = pull(dy)
            delta, new = self.core.update(grads, state._replace(slots=mine), params, copy=at)
            layers, slots = _put(layers, optax.apply_updates(params, delta), at), _put(slots, new.slots, at)
            # The next layer is read after this one is written, so that XLA needs no copy of the whole stack.
            return dx, layers, slots, _take(layers, at - 1), _take(slots, at - 1)

        last = (_take(layers, n - 1), _take(state.slots, n - 1))
        dx, layers, slots, *_ = jax.lax.fori_loop(0, n, body, (dy, layers, state.slots, *last))
        # What does not belong to a layer is the same in all of them: take it from an update of one.
        # Of zeros, since reading the slots here would keep the old ones alive.
        none = lambda tree: jax.tree.map(lambda v: jnp.zeros(v.shape[1:], v.dtype), tree)
        _, after = self.core.update(none(layers), state._replace(slots=none(state.slots)), none(layers))
        return dx, layers, after._replace(slots=slots)


def _take(tree: Tree, i: Array | int) -> Tree:
    return jax.tree.map(lambda v: jax.lax.dynamic_index_in_dim(v, i, keepdims=False), tree)


def _put(tree: Tree, new: Tree, i: Array) -> Tree:
    return jax.tree.map(lambda v, u: jax.lax.dynamic_update_index_in_dim(v, u, i, 0), tree, new)
