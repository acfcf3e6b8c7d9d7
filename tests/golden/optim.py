"""Makes optim.npz: trajectories of the reference packages of optim.txt. Run it as `python tests/golden/optim.py`.

Every entry is name -> (the reference's optimizer, what options of ours it equals). Keys in the file are
"<name>/w" and "<name>/b"; `versions` holds the packages'.
"""

import importlib.metadata
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE))
from optim_problem import run_torch  # noqa: E402

PACKAGES = ("torch", "lion-pytorch", "dadaptation", "schedulefree")


def cases():
    import dadaptation
    import lion_pytorch
    import schedulefree
    import torch

    o = torch.optim
    yield "sgd", lambda p: o.SGD(p, lr=0.05, momentum=0.9)
    yield "sgd_nesterov", lambda p: o.SGD(p, lr=0.05, momentum=0.9, nesterov=True)
    yield "adam", lambda p: o.Adam(p, lr=0.05, betas=(0.9, 0.99), eps=1e-8)
    yield "adamw", lambda p: o.AdamW(p, lr=0.05, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1)
    yield "lion", lambda p: lion_pytorch.Lion(p, lr=0.02, betas=(0.9, 0.99), weight_decay=0.1)
    yield "dadapt_sgd", lambda p: dadaptation.DAdaptSGD(p, lr=1.0, momentum=0.0, d0=1e-3)

    def schedule_free(p):
        made = schedulefree.SGDScheduleFree(p, lr=0.05, momentum=0.9, weight_decay=0.0)
        made.train()
        return made

    yield "schedule_free", schedule_free


def main():
    arrays = {f"{name}/{k}": v for name, make in cases() for k, v in run_torch(make).items()}
    versions = [f"{p}=={importlib.metadata.version(p)}" for p in PACKAGES]
    np.savez_compressed(HERE / "optim.npz", versions=np.array(versions), **arrays)
    (HERE / "optim.txt").write_text("\n".join(versions) + "\n")


if __name__ == "__main__":
    main()
