"""The owner of every shared parameter.

A `BlockBank` holds entries by `BlockId`; `grow_bank` adds what a genome needs and the bank has not yet, as twin halves
whose output is zero. Nothing in the bank ever changes shape.
"""

from graftwork.networks.bank._bank import BlockBank, tensor_key
from graftwork.networks.bank._grow import grow_bank
from graftwork.networks.bank._shapes import check_entries, entry_shapes
from graftwork.networks.bank._whiten import whitening_filters

__all__ = ["BlockBank", "check_entries", "entry_shapes", "grow_bank", "tensor_key", "whitening_filters"]
