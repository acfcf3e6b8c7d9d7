"""Token streams, packing and batches that are the same on every process and mesh and after a restart.

`open_source` opens a corpus, `Batches` cuts it into the batches of a run, `eval_batches` into a fixed
held-out set, and `device_batches` brings either to the devices ahead of time.
"""

from .batches import Batches, EvalBatches, eval_batches
from .feed import DeviceBatches, device_batches
from .opening import documents, open_source
from .order import place
from .packing import Windows
from .source import Document, Source

__all__ = [
    "Batches", "DeviceBatches", "Document", "EvalBatches", "Source", "Windows", "device_batches",
    "documents", "eval_batches", "open_source", "place",
]  # fmt: skip
