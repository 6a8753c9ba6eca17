"""Grow checkpoints on disk: a folder of Hugging Face or ``torch.distributed.checkpoint`` in, a larger one out.

A plan reads the config alone; growing reads one copy of the weights, makes the growths in memory, writes a fresh folder
and reads it back. Needs the extra ``graftwork[transformers]``, which is imported when it is used.
"""

from graftwork.surgery.checkpoints._grow import CheckpointReceipt, grow_checkpoint, refuse_existing
from graftwork.surgery.checkpoints._plan import CheckpointPlan, plan_checkpoint
from graftwork.surgery.checkpoints._sizes import Sizes
from graftwork.surgery.checkpoints._source import Source

__all__ = [
    "CheckpointPlan",
    "CheckpointReceipt",
    "Sizes",
    "Source",
    "grow_checkpoint",
    "plan_checkpoint",
    "refuse_existing",
]
