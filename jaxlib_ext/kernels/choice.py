"""Which implementation of an op serves a call, said once in the log and never guessed in silence."""

import logging
from collections.abc import Callable, Mapping

log = logging.getLogger("jaxlib_ext.kernels")
_said: set[tuple[str, str]] = set()


def choose(op: str, implementation: str | None, forms: Mapping[str, Callable], default: str) -> Callable:
    """The form named by `implementation`, or the default, whose choice is logged once per op and form."""
    name = default if implementation is None else implementation
    if name not in forms:
        raise ValueError(f"{op} has no implementation {name!r}; it has {', '.join(forms)}")
    if implementation is None and (op, name) not in _said:
        _said.add((op, name))
        log.info("%s: using implementation %r", op, name)
    return forms[name]
