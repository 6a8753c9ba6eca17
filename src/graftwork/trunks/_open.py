"""Opening what ``--trunk`` names."""

import importlib
import importlib.util
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import nn

from graftwork._files import parse_json, read_named
from graftwork.errors import ConfigError
from graftwork.trunks._trunk import Trunk

_FORMS = "timm:NAME, timm:NAME@WEIGHTS.safetensors, hf:FOLDER or FILE.py:FUNCTION"
_MOST_JSON = 2**23
"""Bytes of a config; one that names 21,000 classes has a fifth."""


def open_trunk(name: str, *, run_code: bool = False) -> Trunk:
    """Open a trunk; nothing is downloaded.

    Args:
        name: ``hf:FOLDER``, a model that transformers saved (safetensors); ``timm:NAME``, with the weights that the
            user's cache holds, or ``timm:NAME@FILE`` with those of a safetensors file; or ``FILE.py:FUNCTION``, a
            function without arguments that returns a module, which takes images with values in [0, 1].
        run_code: Whether a Python file may be run: only where the user has named it on this very command.

    Raises:
        ConfigError: If it is none of these, can't be opened, or is code that the user has not named.
    """
    kind, _, rest = name.partition(":")
    if kind == "hf" and rest:
        return _of_transformers(name, Path(rest).expanduser())
    if kind == "timm" and rest:
        return _of_timm(name, *rest.partition("@")[::2])
    path, _, function = name.rpartition(":")
    if not path.endswith(".py") or not function.isidentifier():
        raise ConfigError(f"trunk: expected {_FORMS}, got {name!r}; give one of these")
    if not run_code:
        raise ConfigError(
            f"trunk: expected --trunk {name} on the command itself, since that runs the code in {path}, got it from a "
            "run folder or a config; read the file, and name it again if you trust it"
        )
    return _of_code(name, Path(path).expanduser(), function)


def located(name: str) -> str:
    """The same trunk with the whole path of its folder or file, so that a run finds it from any working folder."""
    kind, _, rest = name.partition(":")
    if kind == "timm":
        model, at, file = rest.partition("@")
        return f"timm:{model}{at}{Path(file).expanduser().resolve() if at else ''}"
    if kind == "hf":
        return f"hf:{Path(rest).expanduser().resolve()}"
    path, _, function = name.rpartition(":")
    return f"{Path(path).expanduser().resolve()}:{function}" if path else name


def _require(package: str) -> Any:
    try:
        return importlib.import_module(package)
    except Exception as error:  # timm fails in many ways where torchvision does not fit torch
        raise ConfigError(
            f"trunk: expected {package} to be installed and to work, got {error!r}; install it: pip install {package}"
        ) from error


def _opened(name: str, make: Callable[[], Any]) -> Any:
    """Run what opens a trunk, without a draw from the caller's random numbers; its errors become ours."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            return make()
        except Exception as error:  # code and packages of others raise errors of any kind
            raise ConfigError(f"trunk: expected {name} to open, got {type(error).__name__}: {error}") from error


def _of_transformers(name: str, folder: Path) -> Trunk:
    config = folder / "config.json"
    if not config.is_file():
        raise ConfigError(f"trunk: expected a folder with config.json, as save_pretrained makes it, got {folder}")
    transformers, said = _require("transformers"), read_named(config, limit=_MOST_JSON)
    _check_depth(name, folder, parse_json(said, str(config), error=ConfigError))

    def make() -> Any:
        with _silent(transformers.utils.logging):
            return transformers.AutoModel.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
            )

    module, loaded = _opened(name, make)
    # what pools the last layer is not used here, and often not stored
    missing = sorted(key for key in loaded["missing_keys"] if not key.startswith("pooler."))
    if missing:
        raise ConfigError(f"trunk: expected every weight of {name} in its files, got none of {', '.join(missing[:5])}")
    mean, std, told = _preprocessing(folder / "preprocessor_config.json")
    return Trunk(name, module, origin=said + told, mean=mean, std=std)


def _check_depth(name: str, folder: Path, config: Any) -> None:
    """Refuse a config that claims more layers than there are tensors: they would be built one by one first.

    Raises:
        ConfigError: If it does.
    """
    if not isinstance(config, dict):
        raise ConfigError(
            f"trunk: expected a table of values as config of {name}, got {type(config).__name__}; mend it"
        )
    files = sorted(path for path in folder.glob("*.safetensors") if path.is_file())
    count = _opened(name, lambda: sum(_num_tensors(path) for path in files))
    layers = {key: value for key, value in config.items() if "layer" in key and type(value) is int}
    for key, value in layers.items():
        if value > max(count, 1):
            raise ConfigError(
                f"trunk: expected at most as many layers as the {count:,} tensors of {name}, got {key} {value:,}"
            )


def _num_tensors(path: Path) -> int:
    with safe_open(path, "pt") as file:
        return len(file.keys())


@contextmanager
def _silent(logging: Any) -> Iterator[None]:
    """Keep transformers from drawing progress and telling what is missing, which is told here as an error."""
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _preprocessing(path: Path) -> tuple[list[float], list[float], bytes]:
    """Mean and deviation that the model's images were normalised by; those of half the scale where it does not say."""
    if not path.is_file():
        return [0.5] * 3, [0.5] * 3, b""
    text = read_named(path, limit=_MOST_JSON)
    try:
        data = parse_json(text, str(path), error=ConfigError)
        mean, std = ([float(value) for value in data[key]] for key in ("image_mean", "image_std"))
    except ConfigError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"trunk: expected image_mean and image_std in {path}, got {error!r}; mend it") from error
    if not all(map(math.isfinite, mean + std)) or not min(std, default=0) > 0:
        raise ConfigError(f"trunk: expected finite means and deviations > 0 in {path}, got {mean} and {std}; mend it")
    return mean, std, text


def _of_timm(name: str, model: str, file: str) -> Trunk:
    timm = _require("timm")
    module: nn.Module = _opened(name, lambda: timm.create_model(model, pretrained=False, num_classes=0, global_pool=""))
    config: dict[str, Any] = getattr(module, "pretrained_cfg", {})
    _load(module, name, Path(file).expanduser() if file else _cached_weights(name, config.get("hf_hub_id")))
    mean, std = (list(config.get(key) or [0.5] * 3) for key in ("mean", "std"))
    return Trunk(name, module, origin=model.encode(), mean=mean, std=std)


def _cached_weights(name: str, repository: str | None) -> Path:
    found = repository and _require("huggingface_hub").try_to_load_from_cache(repository, "model.safetensors")
    if not isinstance(found, str):
        raise ConfigError(
            f"trunk: expected the weights of {name} in the Hugging Face cache of this machine, got none; nothing is "
            f"downloaded here: fetch {repository or 'them'} yourself, or name a file: {name}@WEIGHTS.safetensors"
        )
    return Path(found)


def _load(module: nn.Module, name: str, file: Path) -> None:
    """Load weights; those of a classifier, which a trunk has not, may be left over."""
    try:
        missing = module.load_state_dict(load_file(file), strict=False).missing_keys
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ConfigError(
            f"trunk: expected weights of {name} in {file}, got {error}; take a safetensors file"
        ) from error
    if missing:
        raise ConfigError(f"trunk: expected every weight of {name} in {file}, got none of {', '.join(missing[:5])}")


def _of_code(name: str, path: Path, function: str) -> Trunk:
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"trunk: expected a Python file, got {path} ({error.strerror}); check the path") from error
    spec = importlib.util.spec_from_file_location("graftwork_trunk", path)
    assert spec is not None
    assert spec.loader is not None
    code: Any = importlib.util.module_from_spec(spec)

    def make() -> Any:
        spec.loader.exec_module(code)  # type: ignore[union-attr]
        return getattr(code, function)()

    module = _opened(name, make)
    if not isinstance(module, nn.Module):
        raise ConfigError(f"trunk: expected {name} to return a torch.nn.Module, got {type(module).__name__}")
    return Trunk(name, module, origin=source)
