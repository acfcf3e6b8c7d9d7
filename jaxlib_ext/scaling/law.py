"""What a scaling law offers, and the change from its natural parameters to the coordinates that are fitted.

A law is a frozen dataclass of options with pure functions. Inputs reach it as natural logs, so a law is
written once and can be centred: fitting happens in shifted logs z - centre and `units` carries the parameters
back. A law of your own needs no base class; `function` makes one from a plain function.
"""

import ast
import dataclasses
import importlib
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array
Values = dict[str, Any]  # parameter or input name -> scalar or array
Domain = str | tuple[float, float]  # "positive", "real", or an open interval


@runtime_checkable
class Law(Protocol):
    """Prediction of one scalar (a loss, mostly) from positive inputs."""

    inputs: tuple[str, ...]  # names of the inputs, all positive: "N" parameters, "D" tokens, ...
    linear: tuple[str, ...]  # parameters in which predict is jointly linear; starts solve for them exactly

    @property
    def params(self) -> dict[str, Domain]:
        """Parameter name -> domain. Positive ones are fitted as logs, intervals through a logistic curve."""
        ...

    def predict(self, p: Values, z: Values) -> Array:
        """p: natural parameters (scalars); z: logs of the inputs, each [n]. Returns [n]."""
        ...

    def units(self, p: Values, shift: Values) -> Values:
        """Parameters of the same law in other units: predict(units(p, s), z + s) == predict(p, z)."""
        ...

    # Optional: keep, inputs whose unit cannot change (bits, streams); same_unit, tuples that share one.

    def ranges(self, z: dict[str, np.ndarray], y: np.ndarray) -> dict[str, tuple[float, float]]:
        """Where starts of the parameters that are not `linear` are drawn, uniformly (positive ones in the
        log).

        z are centred logs, so a range can be read off the data."""
        ...


def to_free(domain: Domain, value: Any) -> Any:
    """Natural value -> unconstrained coordinate."""
    if domain == "positive":
        return jnp.log(value)
    if domain == "real":
        return value
    assert isinstance(domain, tuple)
    lo, hi = domain
    share = (value - lo) / (hi - lo)
    return jnp.log(share) - jnp.log1p(-share)


def from_free(domain: Domain, u: Any) -> Any:
    """Unconstrained coordinate -> natural value."""
    if domain == "positive":
        return jnp.exp(u)
    if domain == "real":
        return u
    assert isinstance(domain, tuple)
    lo, hi = domain
    return lo + (hi - lo) * jax.nn.sigmoid(u)


def predict(law: Law, p: Mapping[str, float], x: Mapping[str, Any]) -> np.ndarray:
    """The law's value at inputs x in their own units, in float64. x: name -> scalar or [n].

    >>> from jaxlib_ext.scaling import LAWS
    >>> hoffmann = dict(A=406.4, B=410.7, E=1.69, alpha=0.34, beta=0.28)
    >>> predict(LAWS["chinchilla"](), hoffmann, dict(N=7e10, D=1.4e12)).round(4).tolist()
    1.9366
    """
    with jax.enable_x64(True):
        z = {k: jnp.log(jnp.asarray(x[k], jnp.float64)) for k in law.inputs}
        shape = np.broadcast_shapes(*(a.shape for a in z.values()))
        z = {k: jnp.broadcast_to(a, shape) for k, a in z.items()}
        return np.asarray(law.predict({k: jnp.asarray(v, jnp.float64) for k, v in p.items()}, z))


@dataclasses.dataclass(frozen=True)
class Function:
    """A law from a plain function f(p, x) of natural parameters and inputs; made by `function`."""

    f: Callable[[Values, Values], Array]
    inputs: tuple[str, ...]
    domains: tuple[tuple[str, Domain], ...]
    start: tuple[tuple[str, tuple[float, float]], ...]
    linear: tuple[str, ...] = ()

    @property
    def params(self) -> dict[str, Domain]:
        return dict(self.domains)

    def predict(self, p: Values, z: Values) -> Array:
        return self.f(p, {k: jnp.exp(v) for k, v in z.items()})

    def ranges(self, z, y):
        return {k: r for k, r in self.start if k not in self.linear}


def function(
    f: Callable[[Values, Values], Array],
    inputs: tuple[str, ...],
    start: Mapping[str, tuple[float, float]],
    real: tuple[str, ...] = (),
    linear: tuple[str, ...] = (),
) -> Function:
    """A law from f(p, x) -> [n], written with jax.numpy. Inputs keep their units: such a law is not centred.

    start: parameter name -> (low, high), the range that starts are drawn from; its keys are the parameters.
    They are kept positive unless named in `real`. Parameters in `linear` are solved for and their range is
    not used.

    >>> law = function(lambda p, x: p["a"] * x["N"] ** -p["b"], ("N",), dict(a=(1.0, 10.0), b=(0.1, 1.0)))
    >>> law.params
    {'a': 'positive', 'b': 'positive'}
    """
    unknown = sorted((set(real) | set(linear)) - set(start))
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not a parameter; start names {', '.join(start)}")
    domains = tuple((k, "real" if k in real else "positive") for k in start)
    ranges = tuple((k, (float(lo), float(hi))) for k, (lo, hi) in start.items())
    return Function(f, tuple(inputs), domains, ranges, tuple(linear))


def centred(law: Law) -> bool:
    """Whether the law can be moved to other units, which a plain function cannot."""
    return hasattr(law, "units")


def named(spec: str, laws: Mapping[str, Callable[..., Law]]) -> Law:
    """A law from text: "chinchilla", "bnsl(breaks=2)", or a law of your own as "package.module:Name".

    >>> from jaxlib_ext.scaling import LAWS
    >>> named("chinchilla(tied=True)", LAWS).tied
    True
    """
    name, bracket, rest = spec.strip().partition("(")
    try:
        call: Any = ast.parse(f"f({rest}" if bracket else "f()", mode="eval").body
        options = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
        if call.args or None in options:
            raise ValueError("options are name=value")
    except (SyntaxError, ValueError, AttributeError) as error:
        raise ValueError(f"cannot read law {spec!r}: write name(option=value) ({error})") from None
    module, colon, attribute = name.strip().partition(":")
    if colon:
        try:
            found = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"cannot import law {name!r}: {error}") from None
        return found(**options) if isinstance(found, type) or not hasattr(found, "predict") else found
    if name.strip() not in laws:
        raise ValueError(f"unknown law {name.strip()!r}; known are {', '.join(laws)}, or package.module:Name")
    try:
        return laws[name.strip()](**options)
    except TypeError as error:
        raise ValueError(f"law {spec!r}: {error}") from None
