"""What a run is, as plain data: set by a command line, saved as JSON beside the checkpoints, compared on resume."""

import dataclasses
import json
from typing import Any, NamedTuple

from ..models.config import ModelConfig

SCHEMA = 1


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One training run. Sizes are global: of all devices and processes together."""

    out: str = "runs/lm"
    """Folder for checkpoints, metrics and config; local or gs://. A run that is there goes on."""
    model: ModelConfig = ModelConfig()
    data: str = "stdlib"
    """"stdlib" (Python's own sources as bytes), a text file or folder, or a folder made by make_tokens.py."""
    batch: int = 16
    """Sequences a step."""
    time: int = 256
    """Tokens a sequence."""
    steps: int = 1000
    seed: int = 0
    optimizer: str = "adamw"
    """Name, or name(option=value, ...)."""
    learning_rate: float | None = None
    """Peak of the schedule; None is the optimizer's own default."""
    base_width: int | None = None
    """Trains by muP with the learning rate that was found for the same model at this width."""
    schedule: str = "cosine"
    warmup: float = 0.05
    """Share of the steps."""
    clip: float | None = 1.0
    """Largest global gradient norm."""
    accumulate: int = 1
    """Microbatches a step."""
    z_loss: float = 0.0
    loss_chunk: int | None = None
    """Logits are made for that many tokens at a time."""
    ema: float | None = None
    """Decay of a running average of the parameters, evaluated beside them."""
    mesh: str = ""
    """"fsdp=4,tensor=2"; with several slices "dcn.data=2,fsdp=16". Empty: all devices on data."""
    zero: str = ""
    """Mesh axes, comma-separated, that the optimizer's state is split over beyond its parameters: ZeRO is "data"."""
    eval_every: int = 100
    eval_windows: int = 64
    """Fixed held-out windows."""
    log_every: int = 10
    save_every: int = 200
    keep: int = 2
    """Checkpoints that stay."""
    profile: str = ""
    """"a:b" writes a trace of steps a to b for TensorBoard or Perfetto."""
    tensorboard: bool = False

    def check(self) -> None:
        """Raises ValueError for a value that no run can have; `prepare` calls it, in one line."""
        for name in ("batch", "time", "steps", "eval_every", "eval_windows", "log_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.warmup <= 1:
            raise ValueError(f"warmup is a share of the steps in [0, 1], not {self.warmup}")
        if self.base_width is not None and self.base_width < 1:
            raise ValueError(f"base_width must be at least 1, not {self.base_width}")
        if self.learning_rate is not None and not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, not {self.learning_rate}")
        if self.batch % self.accumulate:
            raise ValueError(f"accumulate={self.accumulate} does not divide batch={self.batch}")
        profile_steps(self.profile)


# What may differ when a run goes on: it changes no batch and no update.
FREE = set("out mesh zero eval_every eval_windows log_every save_every keep profile tensorboard".split())


def profile_steps(text: str) -> tuple[int, int] | None:
    """(3, 5) from "3:5"."""
    if not text:
        return None
    first, colon, last = text.partition(":")
    if not (colon and first.isdigit() and last.isdigit() and int(first) <= int(last)):
        raise ValueError(f'profile is "first:last", two step numbers, not {text!r}')
    return int(first), int(last)


class Saved(NamedTuple):
    """What config.json holds: the config, and what it meant when the run began."""

    config: RunConfig
    vocab: int
    data: dict[str, Any]  # the source's own description: names, bytes, SHA-256


def dumps(saved: Saved) -> str:
    """JSON with a schema version."""
    fields = dict(config=dataclasses.asdict(saved.config), vocab=saved.vocab, data=saved.data)
    return json.dumps(dict(schema=SCHEMA) | fields, indent=1) + "\n"


def loads(text: str, name: str) -> Saved:
    """What `dumps` wrote; name is of the file, for errors."""
    try:
        found = json.loads(text)
        schema, fields, vocab, data = found["schema"], dict(found["config"]), found["vocab"], found["data"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{name} is not a run config") from None
    if schema != SCHEMA:
        raise ValueError(f"{name} has schema {schema}, this version reads {SCHEMA}")
    try:
        return Saved(RunConfig(**fields | dict(model=ModelConfig(**fields["model"]))), vocab, data)
    except TypeError as error:
        raise ValueError(f"{name}: {error}") from None


def difference(old: Saved, new: Saved) -> str:
    """The first thing that must not change and did, "model.width was 64, is 128", or ""."""

    def flat(config: Any, prefix: str = "") -> dict[str, Any]:
        out = {}
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            if dataclasses.is_dataclass(value):
                out |= flat(value, f"{field.name}.")
            else:
                out[prefix + field.name] = value
        return out

    a, b = (flat(s.config) | {f"data {k}": v for k, v in s.data.items()} for s in (old, new))
    return next((f"{k} was {a[k]!r}, is {b[k]!r}" for k in a if k not in FREE and a[k] != b.get(k)), "")
