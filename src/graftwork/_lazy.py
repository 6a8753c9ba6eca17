"""Front pages whose names are imported when they are first used."""

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, homes: Mapping[str, Sequence[str]], namespace: dict[str, Any]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a package's front page, so that importing it costs next to nothing.

    Args:
        package: Dotted name of the package.
        homes: Modules below it, each with the public names that it defines.
        namespace: ``globals()`` of the package, which keeps what was imported once.

    Example:
        ``__getattr__, __dir__ = lazy_names(__name__, {"_member": ("Member", "bind")}, globals())``
    """
    home = {name: module for module, names in homes.items() for name in names}

    def find(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        namespace[name] = value = getattr(import_module(f"{package}.{home[name]}"), name)
        return value

    def listing() -> list[str]:
        return sorted({*namespace, *home})

    return find, listing
