"""The arrays of a tree by path, as checkpoints name them."""

from typing import Any

import jax

Tree = Any


def by_path(tree: Tree, *also: type) -> dict[str, Any]:
    """Leaves by path, "params/unit/0/token/q", in tree order. also: what a leaf may be besides a jax array.

    >>> list(by_path(dict(a=[jax.numpy.ones(2), None], b=jax.numpy.ones(3))))
    ['a/0', 'b']
    """
    leaves, names = {}, {}
    for keys, leaf in jax.tree.leaves_with_path(tree):
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        if not isinstance(leaf, (jax.Array, *also)):
            what = f"{type(leaf).__module__}.{type(leaf).__name__}"
            raise ValueError(f"{path or 'the tree'}: a checkpoint holds jax arrays, not {what}")
        if not path:
            raise ValueError("a checkpoint holds a dict, tuple or the like of arrays, not a bare array")
        # Orbax joins the keys of dicts by a point, and of two arrays with the same name it keeps one.
        other = names.setdefault(path.replace("/", "."), path)
        if path in leaves or other != path:
            raise ValueError(f"two arrays would have the same name in a checkpoint: {other!r} and {path!r}")
        leaves[path] = leaf
    return leaves


def nested(leaves: dict[str, Any]) -> dict[str, Any]:
    """Dicts in dicts.

    >>> nested({"a/b": 1, "a/c": 2})
    {'a': {'b': 1, 'c': 2}}
    """
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *above, last = path.split("/")
        node = tree
        for key in above:
            node = node.setdefault(key, {})
        node[last] = leaf
    return tree


def kind(leaf: Any) -> str:
    """Dtype and shape: "float32[4, 8]"."""
    return f"{leaf.dtype}{list(leaf.shape)}"


def placed(path: str, leaf: Any) -> jax.ShapeDtypeStruct:
    """Shape, dtype and sharding of a leaf; without a sharding, the first device of a run of one process."""
    sharding = leaf.sharding
    if sharding is None:
        if jax.process_count() > 1:
            raise ValueError(f"{path}: with several processes every leaf to restore needs a sharding")
        sharding = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def compare(name: str, saved: dict[str, str], wanted: dict[str, str]) -> None:
    """Raises ValueError that names the first path at which the tree to restore is not what was saved.

    name: of the checkpoint. saved, wanted: kinds by path.
    """
    paths = [*wanted, *(path for path in saved if path not in wanted)]
    differ = [path for path in paths if saved.get(path) != wanted.get(path)]
    if differ:
        there, here = saved.get(differ[0], "absent"), wanted.get(differ[0], "absent")
        more = f"; {len(differ) - 1} more differ" if len(differ) > 1 else ""
        raise ValueError(f"{name} is of another model: {differ[0]} is {there} there and {here} here{more}")
