"""Run by ``make wheel-test`` in an environment that has only the wheel: every module of graftwork imports."""

import importlib
import pkgutil
import sys
from pathlib import Path

import graftwork

OPTIONAL = {
    *(
        "accelerate",
        "datasets",
        "keras",
        "lightning",
        "mlflow",
        "onnx",
        "onnxruntime",
        "onnxscript",
        "optuna",
        "skorch",
    ),
    *("starlette", "tensorboard", "transformers", "uvicorn", "wandb"),
}
EXTRAS = {f"graftwork.integrations.{name}" for name in ("keras", "lightning", "skorch", "transformers")}
"""Whole modules for a package of an extra: without it they say which extra to install."""
BEHIND = {f"graftwork.serve.{name}" for name in ("_app", "_events", "_guard")}
"""Modules for a package of an extra that only a function imports, which says which extra to install."""

location = Path(graftwork.__file__).parent
if "site-packages" not in location.parts:
    sys.exit(f"graftwork has to come from the wheel, but comes from {location}")
if not (location / "py.typed").exists():
    sys.exit("py.typed is missing from the wheel")

names = [found.name for found in pkgutil.walk_packages(graftwork.__path__, "graftwork.")]
for name in names:
    if name.endswith("__main__"):
        continue
    if name in BEHIND:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("graftwork"):
                sys.exit(f"{name} lacks a module of ours: {error}")
        continue
    if name not in EXTRAS:
        importlib.import_module(name)
        continue
    try:
        importlib.import_module(name)
    except ImportError as error:
        if f"graftwork[{name.rpartition('.')[2]}]" not in str(error):
            sys.exit(f"{name} does not say which extra it needs: {error}")
    else:
        sys.exit(f"{name} imports without its extra: the check has lost its subject")
if loaded := OPTIONAL & set(sys.modules):
    sys.exit(f"optional packages are imported at start: {sorted(loaded)}")
print(f"graftwork {graftwork.__version__}: {len(names)} modules import from the wheel")
