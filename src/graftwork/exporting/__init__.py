"""A member or an ensemble as a model that runs without graftwork.

`export_member` writes one of three formats, runs what it wrote and compares it with the member before anything is put
in place: ``source`` (one readable file of plain PyTorch and a safetensors file), ``pt2`` (a `torch.export` program) and
``onnx``. All take float32 images [B, C, H, W] with values in [0, 1]. `export_ensemble` does so for members that are
`Joined`, with what they share computed once. `open_export` opens any of them. A `Front` is a trunk before the network.
`quantize_export` writes an ONNX export in 8 bits and measures what that costs. `export_hub` writes a folder as the
Hugging Face hub has them (`HUB_FILES`), with a model card from the run.
"""

from graftwork.exporting._ensemble import Joined, export_ensemble
from graftwork.exporting._export import ExportReport, export_member
from graftwork.exporting._formats import FILES, Exported, ExportFormat, open_export
from graftwork.exporting._front import Front
from graftwork.exporting._hub import HUB_FILES, export_hub
from graftwork.exporting._int8 import Int8Report, quantize_export

__all__ = [
    "FILES",
    "HUB_FILES",
    "ExportFormat",
    "ExportReport",
    "Exported",
    "Front",
    "Int8Report",
    "Joined",
    "export_ensemble",
    "export_hub",
    "export_member",
    "open_export",
    "quantize_export",
]
