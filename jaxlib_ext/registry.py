"""From a name on a command line to a value: `make("attention(window=128)", TOKEN_MIXERS, width=64)`.

A family's registry is a literal dict, name -> class (or function). A method of your own is named
`package.module:Name` and needs no registration. Options in brackets are Python literals.
"""

import ast
import difflib
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any


def split_specs(text: str) -> list[str]:
    """Splits a comma-separated list of specs, leaving commas in brackets alone.

    >>> split_specs("mamba,attention(heads=4, window=128),gla")
    ['mamba', 'attention(heads=4, window=128)', 'gla']
    """
    parts, depth = [""], 0
    for c in text:
        depth += (c in "([{") - (c in ")]}")
        if c == "," and not depth:
            parts.append("")
        else:
            parts[-1] += c
    return [p.strip() for p in parts if p.strip()]


def parse(spec: str) -> tuple[str, dict[str, Any]]:
    """("attention", {"window": 128}) from "attention(window=128)"."""
    name, bracket, rest = spec.strip().partition("(")
    if not bracket:
        return name.strip(), {}
    try:
        call: Any = ast.parse(f"f({rest}", mode="eval").body
        if call.args or any(k.arg is None for k in call.keywords):
            raise ValueError("options are name=value")
        return name.strip(), {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, AttributeError) as error:
        raise ValueError(f"cannot read {spec!r}: write name(option=value, ...) with plain values ({error})") from None


def find(name: str, registry: Mapping[str, Callable], family: str) -> Callable:
    """The class or function behind a registered name or a `package.module:Name`."""
    if name in registry:
        return registry[name]
    module, colon, attribute = name.partition(":")
    if colon:
        try:
            return getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ValueError(f"cannot import {family} {name!r}: {error}") from None
    near = difflib.get_close_matches(name, registry, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(sorted(registry))}"
    raise ValueError(f"unknown {family} {name!r}; {hint} (a method of your own: package.module:Name)")


def make(spec: str, registry: Mapping[str, Callable], family: str, **defaults: Any) -> Any:
    """Builds the method. `defaults` are passed on where the method takes them; the spec's own options win."""
    name, options = parse(spec)
    method = find(name, registry, family)
    fields = set(inspect.signature(method).parameters)
    unknown = sorted(set(options) - fields)
    if unknown:
        raise ValueError(f"{family} {name!r} has no option {unknown[0]!r}; it has {', '.join(sorted(fields))}")
    return method(**{k: v for k, v in defaults.items() if k in fields} | options)
