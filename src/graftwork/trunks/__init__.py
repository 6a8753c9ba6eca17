"""Trunks: pretrained networks of the user's that make feature maps of images for grown networks to read.

`open_trunk` opens what ``--trunk`` names: a folder of transformers, a network of timm, or a function in a Python file.
`located` gives the name with its whole path.
"""

from graftwork.trunks._open import located, open_trunk
from graftwork.trunks._trunk import Trunk

__all__ = ["Trunk", "located", "open_trunk"]
