"""Families: one training that grows where a race says so, and leaves a finished model of every size it has had."""

from graftwork.surgery.families._family import FamilyMember, ModuleFamily
from graftwork.surgery.families._search import search_module

__all__ = ["FamilyMember", "ModuleFamily", "search_module"]
