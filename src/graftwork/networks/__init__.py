"""Networks: what they are, who owns their weights, and how they run.

A genome (`graftwork.networks.genome`) is structure as plain data; the bank (`graftwork.networks.bank`) owns every
shared parameter; `bind` joins the two to a `Member`, an ordinary module that owns nothing but its running statistics,
which `recalibrate` makes. `graftwork.networks.execution` runs members alone or over the prefixes that they share, with
the compiled passes of `graftwork.networks.kernels` where there is a C compiler.
"""

from typing import TYPE_CHECKING

from graftwork._lazy import lazy_names

if TYPE_CHECKING:
    from graftwork.networks._member import Member, bind, recalibrate

__all__ = ["Member", "bind", "recalibrate"]

_HOMES = {"_member": ("Member", "bind", "recalibrate")}
__getattr__, __dir__ = lazy_names(__name__, _HOMES, globals())
