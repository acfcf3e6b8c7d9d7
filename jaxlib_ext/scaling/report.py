"""A fit as text and as JSON."""

import dataclasses
import json
from typing import Any

import numpy as np

from .data import Data
from .fit import Fit
from .law import Function, Law
from .laws import LAWS
from .losses import Loss
from .status import Status


def law_text(law: Law) -> str:
    """The law as `named` reads it, with the options that differ from their defaults."""
    names = {cls: name for name, cls in LAWS.items()}
    if type(law) not in names:
        return getattr(law.f, "__name__", repr(law.f)) if isinstance(law, Function) else repr(law)
    changed = [f for f in dataclasses.fields(law) if getattr(law, f.name) != f.default]
    options = ", ".join(f"{f.name}={getattr(law, f.name)!r}" for f in changed)
    return names[type(law)] + (f"({options})" if options else "")


def digits(value: float, se: float) -> str:
    """A number with two digits more than its standard error supports: rounding a law's parameters changes the
    law.

    >>> digits(2143.41737, 1293.0), digits(0.347310499, 0.0154)
    ('2143', '0.3473')
    """
    if not (np.isfinite(se) and se > 0 and value):
        return f"{value:.10g}"
    keep = int(np.floor(np.log10(abs(value))) - np.floor(np.log10(se))) + 3
    return f"{value:.{min(max(keep, 4), 16)}g}"


def report(fit: Fit) -> str:
    """Law, loss, optimiser, initialisation, choice of points and counting, then the parameters with standard
    errors."""
    from .covariance import cov

    s, key = fit.settings, fit.settings["key"]
    widths = ", ".join(f"{v:.3g}" for v in s["widths"])
    noise = f"noise {fit.noise():.4g} in {fit.loss.space} space"
    left = f"relative decrease left {s['promised']:.1e}"
    lines = [
        f"law         {law_text(fit.law)} in {', '.join(fit.law.inputs)}",
        f"status      {fit.status.value}{': ' + fit.reason if fit.reason else ''}",
        f"loss        {fit.loss}, summed over runs; objective {fit.objective:.10g}",
        f"optimiser   {s['method']}; widths {widths}",
        f"starts      {s['starts']}: {s['initialisation']}; key {key}; {fit.hit_rate:.1%} reach the optimum",
        f"precision   gradient {fit.gradient_norm:.1e}, {left}, moved {fit.moved:.3g} from its start",
        f"condition   {fit.condition:.3g} of J'WJ at centred logs",
        f"points      {fit.n} runs, {fit.df} degrees of freedom; {noise}",
        f"counting    {fit.data.note}",
    ]
    if fit.fixed or fit.bounds:
        lines.append(f"imposed     fixed {fit.fixed or 'none'}, bounds {fit.bounds or 'none'}")
    names, c = cov(fit, "sandwich") if fit.df > 0 else ((), np.zeros((0, 0)))
    se = dict(zip(names, np.sqrt(np.maximum(np.diagonal(c), 0)), strict=True))
    for name, value in fit.theta.items():
        error = se.get(name, float("nan"))
        tail = "fixed" if name in fit.fixed else f"+- {error:.3g} (sandwich)"
        lines.append(f"  {name:10} {digits(value, error):>14}  {tail}")
    if fit.scale is not None:
        lines.append(f"  {'scale':10} {fit.scale:14.6g}")
    return "\n".join(lines)


def to_json(fit: Fit) -> str:
    """The whole fit, data included. Numbers keep all their digits."""
    plain = lambda a: None if a is None else np.asarray(a).tolist()
    d = fit.data
    found = ("theta", "objective", "reason", "gradient_norm", "hit_rate", "condition", "moved")
    out: dict[str, Any] = {k: getattr(fit, k) for k in (*found, "centre", "fixed", "bounds", "settings")}
    out |= dict(law=law_text(fit.law), loss=dataclasses.asdict(fit.loss), status=fit.status.value)
    out["u"] = plain(fit.u)
    columns = dict(y=plain(d.y), w=plain(d.w), group=plain(d.group), budget=plain(d.budget), note=d.note)
    return json.dumps(out | dict(data=dict(x={k: plain(v) for k, v in d.x.items()}, **columns)), indent=1)


def from_json(text: str, law: Law | None = None) -> Fit:
    """The fit that `to_json` wrote. Raises ValueError if its law is not among the named ones and none is
    given."""
    from .law import named

    try:
        raw = json.loads(text)
        law = named(raw.pop("law"), LAWS) if law is None else law
        raw.pop("law", None)
        raw["bounds"] = {k: tuple(v) for k, v in raw["bounds"].items()}
        data, loss, status = Data(**raw.pop("data")), Loss(**raw.pop("loss")), Status(raw.pop("status"))
        return Fit(law=law, data=data, loss=loss, status=status, u=np.asarray(raw.pop("u")), **raw)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ValueError(f"not a saved fit: {error!r}") from None
