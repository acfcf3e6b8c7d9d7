"""Trains one language model, on a laptop or a pod; run again, it goes on where it stopped.

    python experiments/train.py --out runs/gla --model.mixer gla --steps 500
    python experiments/train.py --mesh fsdp=16,tensor=8 --out gs://bucket/run --data gs://bucket/tokens

Exit status: 0 done or preempted after saving, 2 what was asked for cannot run here, 1 the run failed.
"""

import logging
import sys

import tyro

from jaxlib_ext import param
from jaxlib_ext.training import distributed
from jaxlib_ext.training.config import RunConfig


def main() -> int:
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        config = tyro.cli(RunConfig, description=__doc__)
        distributed.start()
    except (ValueError, TimeoutError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with distributed.guard():
        status = trained(config)
        if status:
            raise SystemExit(status)
    return 0


def trained(config: RunConfig) -> int:
    """Runs it and says how it ended."""
    from jaxlib_ext.training import job, loop  # after distributed.start: they use jax

    try:
        ready = job.prepare(config)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if distributed.is_lead():
        count = param.size(ready.step.decl)
        print(f"{config.out}: {count:,} parameters, {ready.flops:.3g} FLOPs a step, mesh {dict(ready.mesh.shape)}")
    try:
        result = loop.run(ready)
    except (FloatingPointError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if distributed.is_lead():
        end = "preempted, saved" if result.preempted else "done"
        print(f"{end} at step {result.step}: loss {result.train_loss:.4f}, held out {result.eval_loss:.4f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
