"""A trained model back from its folder."""

from typing import Any

from etils import epath

from .. import param
from ..models.config import build
from ..models.lm import LM
from .checkpoint import Checkpoints
from .config import loads
from .job import step_of


def load(path: str, *, ema: bool = False) -> tuple[LM, Any, int]:
    """(model, parameters, step) of the newest good checkpoint of a run's folder.

    ema: the running average instead of the parameters. Raises FileNotFoundError where there is no run or no checkpoint
    that verifies.
    """
    folder = epath.Path(path)
    saved = folder / "config.json"
    if not saved.exists():
        raise FileNotFoundError(f"{folder} holds no run: there is no config.json")
    config, vocab, _ = loads(saved.read_text(), str(saved))
    if ema and config.ema is None:
        raise ValueError(f"{folder} keeps no average of the parameters (ema was not set)")
    model = build(config.model, vocab)
    step, _ = step_of(config, model, None)
    found = Checkpoints(folder / "checkpoints").restore(step.abstract)  # only reads, also beside a run that writes
    if found is None:
        raise FileNotFoundError(f"{folder} has no checkpoint that verifies")
    n, state, _ = found
    params = param.join(state.ema, param.split(step.decl, state.params)[1]) if ema else step.eval_params(state)
    return model, params, n
