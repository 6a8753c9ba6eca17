"""What a model takes and gives: the tensors that hold one of its outputs or inputs, and the numbers that say how many.

Growing an interface is the one growth after which a model has another one: more classes, more tokens, more channels of
an image. What is preserved is the part that was there.
"""

from graftwork.surgery.interface._alive import refuse_asleep, refuse_unknown_ids
from graftwork.surgery.interface._companions import companions
from graftwork.surgery.interface._described import Description, describe
from graftwork.surgery.interface._grown import GrownInterface, InputDim
from graftwork.surgery.interface._numbers import guessed_numbers, is_inside, numbers, refuse_left_behind
from graftwork.surgery.interface._places import INITS, Place, Places, input_places, is_head, output_places

__all__ = [
    "INITS",
    "Description",
    "GrownInterface",
    "InputDim",
    "Place",
    "Places",
    "companions",
    "describe",
    "guessed_numbers",
    "input_places",
    "is_head",
    "is_inside",
    "numbers",
    "output_places",
    "refuse_asleep",
    "refuse_left_behind",
    "refuse_unknown_ids",
]
