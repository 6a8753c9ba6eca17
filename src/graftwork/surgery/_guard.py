"""The last line of defence: a model and a process are as before, wherever an exception falls."""

import random
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.overrides import _get_current_function_mode_stack, _pop_mode
from torch.utils import _python_dispatch

from graftwork.surgery._snapshot import Snapshot
from graftwork.surgery._transaction import Transaction, swap_data


@contextmanager
def plain_numbers() -> Iterator[None]:
    """Work in the model's own types inside, and make tensors that train: no ``autocast``, no ``inference_mode``.

    Copies of weights that ``autocast`` has cached go: they would be used in place of grown ones.
    """
    kinds = [kind for kind in ("cpu", "cuda", "mps", "xpu") if torch.is_autocast_enabled(kind)]
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(mode=False))
        for kind in kinds:
            stack.enter_context(torch.autocast(kind, enabled=False))
        try:
            yield
        finally:
            if kinds:
                torch.clear_autocast_cache()


class Guard:
    """Context of work on a model: after any exception, also ``KeyboardInterrupt``, everything is as it was.

    Every step of a growth knows how to be undone (`Transaction`), and a run of the model leaves no trace on it
    (`sandbox`). The guard is for an exception that falls into the very lines that put things back, or between them.
    While the guard itself puts things back, SIGINT waits; its handler hears of it afterwards.

    Args:
        *models: Models that are worked on.
    """

    def __init__(self, *models: nn.Module) -> None:
        self._snapshots = [Snapshot(model) for model in models]
        self._settings = _Settings()
        parameters = [parameter for model in models for parameter in model.parameters() if not is_lazy(parameter)]
        self._parameters = [(one, one.requires_grad, one.data, one.grad) for one in parameters]
        modules = [module for model in models for module in model.modules()]
        self._kinds = [(module, type(module)) for module in modules]
        self._modes = [(module, module.training, [dict(hooks) for hooks in _hooks(module)]) for module in modules]
        self._transactions: list[Transaction] = []
        self._handler = signal.getsignal(signal.SIGINT)
        self._waiting: list[tuple[int, FrameType | None]] = []

    def transaction(self) -> Transaction:
        """Return a new transaction, which is undone if the guarded work fails later on."""
        self._transactions.append(Transaction())
        return self._transactions[-1]

    def __enter__(self) -> Self:
        if callable(self._handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # A signal may come before the first instruction of `__exit__`: so no flag is asked, but what is running.
        outer = frame
        while outer is not None:
            if outer.f_code is Guard.__exit__.__code__:
                self._waiting.append((number, frame))
                return
            outer = outer.f_back
        self._tell(number, frame)

    def _tell(self, number: int, frame: FrameType | None) -> None:
        if callable(self._handler):
            self._handler(number, frame)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._put_back()
        self._tidy()
        if signal.getsignal(signal.SIGINT) == self._handle:
            signal.signal(signal.SIGINT, self._handler)
        if self._waiting:
            self._tell(*self._waiting.pop())

    def _put_back(self) -> None:
        for transaction in reversed(self._transactions):
            transaction.undo()
        for snapshot in self._snapshots:
            snapshot.restore()
        for parameter, flag, data, grad in self._parameters:
            if type(data) is Tensor and (parameter.shape, parameter.data_ptr()) != (data.shape, data.data_ptr()):
                swap_data(parameter, data, grad)
            if parameter.requires_grad != flag:
                parameter.requires_grad_(flag)
        for module, kind in self._kinds:
            if type(module) is not kind:
                module.__class__ = kind

    def _tidy(self) -> None:
        """Remove what a run of the model leaves where an error on its way out was passed over, as in a trial."""
        for module, training, before in self._modes:
            module.training = training
            for hooks, old in zip(_hooks(module), before, strict=True):
                if hooks.keys() != old.keys():
                    hooks.clear()
                    hooks.update(old)
        self._settings.restore()


def _hooks(module: nn.Module) -> tuple[dict[int, Any], dict[int, Any]]:
    return module._forward_hooks, module._forward_pre_hooks  # noqa: SLF001


class _Settings:
    """What building or running a model changes in the process for a while: random state, modes of torch, kernels."""

    def __init__(self) -> None:
        self._random: Any = random.getstate()
        self._numpy: Any = np.random.get_state()  # noqa: NPY002 - a forward may draw from it
        self._torch = torch.get_rng_state()
        self._devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        self._gradients, self._dtype = torch.is_grad_enabled(), torch.get_default_dtype()
        self._register = nn.Module.register_parameter
        self._modes = _modes()
        self._kernels = torch.backends.mha.get_fastpath_enabled(), torch._C._get_mkldnn_enabled()  # noqa: SLF001

    def restore(self) -> None:
        """Put everything back."""
        functions, dispatches = _modes()
        for _ in range(functions - self._modes[0]):
            _pop_mode()  # type: ignore[no-untyped-call]
        for _ in range(dispatches - self._modes[1]):
            _python_dispatch._pop_mode()  # noqa: SLF001
        torch.set_grad_enabled(self._gradients)
        torch.set_default_dtype(self._dtype)
        nn.Module.register_parameter = self._register  # type: ignore[method-assign]
        torch.backends.mha.set_fastpath_enabled(self._kernels[0])
        torch._C._set_mkldnn_enabled(self._kernels[1])  # noqa: SLF001
        random.setstate(self._random)
        np.random.set_state(self._numpy)  # noqa: NPY002
        torch.set_rng_state(self._torch)
        if self._devices:
            torch.cuda.set_rng_state_all(self._devices)


def _modes() -> tuple[int, int]:
    """Number of function modes and of dispatch modes that are active."""
    functions = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
    return len(functions), len(_python_dispatch._get_current_dispatch_mode_stack())  # noqa: SLF001
