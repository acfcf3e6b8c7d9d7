"""Makes mup_tables.npz: what the package mup does to a small transformer.

Run it as `python tests/golden/mup_tables.py`. Keys: names of parameters; start, by how much the package rescales the
initial value of each; multiplier, what the readout's forward pass is multiplied with, 1 elsewhere; adam, adamw and sgd,
the factor on the learning rate of each, and adamw_decay, that on the coupled weight decay; the packages' versions.
"""

import importlib.metadata
import pathlib

import numpy as np

HERE = pathlib.Path(__file__).parent
PACKAGES = ("mup", "torch")
WIDTH, BASE, DELTA, FF, VOCAB = 64, 16, 32, 4, 11
RATE, DECAY = 0.5, 0.25


def module(width):
    """One block, as a table: nothing of its forward pass matters here."""
    import mup
    from torch import nn

    square = lambda bias=False: nn.Linear(width, width, bias=bias)
    return nn.ModuleDict(dict(
        embed=nn.Embedding(VOCAB, width), q=square(), k=square(), v=square(), out=square(), norm=nn.LayerNorm(width),
        up=nn.Linear(width, FF * width), down=nn.Linear(FF * width, width),
        head=mup.MuReadout(width, VOCAB, bias=False),
    ))  # fmt: skip


def factors(optimizer, model, **options):
    """name -> (factor on the learning rate, factor on the weight decay)."""
    names = {id(p): name for name, p in model.named_parameters()}
    made = optimizer(model.parameters(), lr=RATE, weight_decay=DECAY, **options)
    found = {}
    for group in made.param_groups:
        for p in group["params"]:
            found[names[id(p)]] = group["lr"] / RATE, group["weight_decay"] / DECAY
    return found


def main():
    import mup
    import torch

    torch.manual_seed(0)
    model = module(WIDTH)
    names = [name for name, _ in model.named_parameters()]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    mup.set_base_shapes(model, module(BASE), delta=module(DELTA))
    ratio = lambda name, p: float(p.detach().norm() / before[name].norm()) if before[name].norm() else 1.0
    start = [ratio(name, p) for name, p in model.named_parameters()]
    x = torch.randn(3, WIDTH)
    with torch.no_grad():
        readout = float((model["head"](x) / (x @ model["head"].weight.T)).mean())
    multiplier = [readout if n == "head.weight" else 1.0 for n in names]
    tables = dict(adam=factors(mup.MuAdam, model), adamw=factors(mup.MuAdamW, model), sgd=factors(mup.MuSGD, model))
    arrays = {k: np.array([t[n][0] for n in names]) for k, t in tables.items()}
    arrays["adamw_decay"] = np.array([tables["adamw"][n][1] for n in names])
    versions = [f"{p}=={importlib.metadata.version(p)}" for p in PACKAGES]
    np.savez_compressed(
        HERE / "mup_tables.npz", names=np.array(names), start=np.array(start), multiplier=np.array(multiplier),
        versions=np.array(versions), **arrays,
    )  # fmt: skip
    (HERE / "mup_tables.txt").write_text("\n".join(versions) + "\n")


if __name__ == "__main__":
    main()
