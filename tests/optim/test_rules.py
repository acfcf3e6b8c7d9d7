"""What is written about every rule is so: examples run, options are explained, bytes reported are bytes held."""

import dataclasses
import doctest
import re
import sys

import jax
import jax.numpy as jnp
import pytest

from jaxlib_ext import optim
from jaxlib_ext.optim.__main__ import FORMATS, main
from jaxlib_ext.optim.rule import Rule

ASKED = (
    "sgd signum adam adamw adam_atan2 adamp adafactor lion lion_k tiger lamb lars sophia_g ademamix adan adopt mars "
    "dadapt_sgd dadapt_adagrad dadapt_adam dadapt_lion prodigy dog dowg schedule_free schedule_free_adamw lookahead "
    "sam adam_cm mt_adamw agvm add_gradient_noise centralised cautious"
).split()


def test_every_method_has_its_name():
    assert not set(ASKED) - set(optim.RULES) and set(optim.RULES) == set(optim.OPTIMIZERS)
    for name, make in optim.OPTIMIZERS.items():
        assert getattr(optim, name) is make and make.__name__ == name


@pytest.mark.parametrize("name", optim.RULES)
def test_the_function_has_an_example_that_runs(name):
    """In its own docstring, as `help` shows it; the example calls the function by its name."""
    test = doctest.DocTestParser().get_doctest(optim.OPTIMIZERS[name].__doc__, {}, name, None, None)
    assert any(f"optim.{name}(" in example.source for example in test.examples)
    said = []
    assert doctest.DocTestRunner().run(test, out=said.append, clear_globs=False).failed == 0, "".join(said)
    made = test.globs["tx"]
    assert all(isinstance(tx, optim.Optimizer) for tx in (made if type(made) is tuple else (made,)))


@pytest.mark.parametrize("name", optim.RULES)
def test_the_docstring_binds_every_option_and_tells_what_departs(name):
    """Options by their name; the file says source, defaults and departures. Inherited texts count where the base is
    one of the rules."""
    rule = optim.RULES[name]
    bases = [cls for cls in rule.__mro__ if issubclass(cls, Rule) and cls is not Rule]
    text = "".join(cls.__doc__ or "" for cls in bases)
    missing = [f.name for f in dataclasses.fields(rule) if not re.search(rf"\b{f.name}\b", text)]
    assert not missing
    header = sys.modules[rule.__module__].__doc__ or ""
    assert header.startswith(f"{name}: ") and "<-" in header
    for part in ("source", "state", "defaults", "departs"):
        assert re.search(rf"^{part}: \S", header, re.M), part


PARAMS = dict(b=jnp.ones((128,)), w=jnp.ones((2, 128)))


@pytest.mark.parametrize("name", optim.RULES)
def test_bytes_reported_are_bytes_held(name):
    """In every slot format; what is printed is the sum of the arrays that `init` makes and `update` returns."""
    size = sum(v.size for v in PARAMS.values())
    for fmt in FORMATS:
        tx = optim.transform(optim.RULES[name](), formats=fmt)
        state = tx.init(PARAMS)
        held = sum(v.nbytes for v in jax.tree.leaves(state))
        reported = optim.slot_bytes(tx, PARAMS)
        assert round(reported["all"] * size) == held
        slots = {k: sum(v.nbytes for v in jax.tree.leaves(slot)) for k, slot in state.slots.items()}
        assert {k: round(v * size) for k, v in reported.items() if k != "all"} == slots
        # beside the slots a state has counters and hyperparameters only, a few bytes each
        assert held - sum(slots.values()) < 200


def test_the_table_of_bytes_has_every_rule_and_format(capsys):
    main()
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: [float(v) for v in line.split()[1:]] for line in lines[3:]}
    assert set(rows) == set(optim.RULES) and lines[2].split()[1:] == list(FORMATS)
    wide, bf16, fp8, int8, coat = rows["adamw"]
    assert (wide, bf16) == (8.0, 4.0) and 2.05 < fp8 == int8 < coat < 2.25
