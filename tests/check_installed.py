"""Run by ``make wheel-test`` in an environment that has only the wheel: every module of graftwork imports."""

import importlib
import pkgutil
import sys
from pathlib import Path

import graftwork

OPTIONAL = {"datasets", "onnx", "onnxruntime", "onnxscript"}

location = Path(graftwork.__file__).parent
if "site-packages" not in location.parts:
    sys.exit(f"graftwork has to come from the wheel, but comes from {location}")
if not (location / "py.typed").exists():
    sys.exit("py.typed is missing from the wheel")

names = [found.name for found in pkgutil.walk_packages(graftwork.__path__, "graftwork.")]
for name in names:
    if not name.endswith("__main__"):
        importlib.import_module(name)
if loaded := OPTIONAL & set(sys.modules):
    sys.exit(f"optional packages are imported at start: {sorted(loaded)}")
print(f"graftwork {graftwork.__version__}: {len(names)} modules import from the wheel")
