"""Makes optim_element.npz: trajectories of the torch packages of optim_element.txt, for element-wise optimizers.

Run it as `python tests/golden/optim_element.py`. Keys are "<name>/w" and "<name>/b"; `versions` holds the packages'.
"""

import importlib.metadata
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
from optim_problem import run, run_torch, start  # noqa: E402

PACKAGES = ("torch", "pytorch_optimizer", "adam-atan2-pytorch")


def run_turned(make, change=lambda p: None) -> dict[str, np.ndarray]:
    """As run_torch, with the matrix held as torch holds it, (out, in). change: of a parameter's gradient, in place."""
    import torch

    turn = {"w": np.transpose, "b": np.asarray}
    held = {k: torch.nn.Parameter(torch.tensor(turn[k](v).copy(), dtype=torch.float64)) for k, v in start().items()}
    optimizer = make([held["w"], held["b"]])

    def step(params, grads):
        for k, g in grads.items():
            held[k].grad = torch.tensor(turn[k](g).copy(), dtype=torch.float64)
            change(held[k].grad)
        optimizer.step()
        return {k: turn[k](v.detach().numpy()).copy() for k, v in held.items()}

    return run(step)


def cases():
    import pytorch_optimizer as p_o
    import torch
    from adam_atan2_pytorch import AdamAtan2

    o, b = torch.optim, (0.9, 0.9)
    yield "adafactor", lambda p: o.Adafactor(p, lr=0.05)
    yield "adam_atan2", lambda p: AdamAtan2(p, lr=0.05, weight_decay=0.1)
    yield "adamax", lambda p: o.Adamax(p, lr=0.05, betas=b)
    yield "adan", lambda p: p_o.Adan(p, lr=0.05, weight_decay=0.1)
    # the package counts from 1, the paper and its authors' code from 0
    clip = lambda step: (step - 1) ** 0.25
    yield "adopt", lambda p: p_o.ADOPT(p, lr=0.05, betas=b, clip_lambda=clip, weight_decay=0.1, weight_decouple=True)
    yield "cautious", lambda p: AdamAtan2(p, lr=0.05, cautious_factor=0.0)
    mars = dict(lr=0.05, betas=(0.95, 0.99), optimize_1d=True, weight_decay=0.1, eps=1e-14)
    yield "mars", lambda p: p_o.MARS(p, **mars)
    yield "mars_lion", lambda p: p_o.MARS(p, mars_type="lion", **mars)
    yield "signum", lambda p: p_o.SignSGD(p, lr=0.05, momentum=0.9, weight_decay=0.1)
    yield "tiger", lambda p: p_o.Tiger(p, lr=0.05, weight_decay=0.1)


def turned_cases():
    import pytorch_optimizer as p_o
    import torch
    from pytorch_optimizer.optimizer.gradient_centralization import centralize_gradient

    adamp = dict(lr=0.05, betas=(0.9, 0.99), eps=1e-14, delta=1.2, weight_decay=0.1)
    yield "adamp", lambda p: p_o.AdamP(p, **adamp), lambda g: None
    yield "centralised", lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9), centralize_gradient


def main():
    paths = {name: run_torch(make) for name, make in cases()}
    paths |= {name: run_turned(make, change) for name, make, change in turned_cases()}
    arrays = {f"{name}/{k}": v for name, path in paths.items() for k, v in path.items()}
    versions = [f"{p}=={importlib.metadata.version(p)}" for p in PACKAGES]
    np.savez_compressed(HERE / "optim_element.npz", versions=np.array(versions), **arrays)
    (HERE / "optim_element.txt").write_text("\n".join(versions) + "\n")


if __name__ == "__main__":
    main()
