"""Tasks in processes of their own, each as soon as what it needs is done."""

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

from graftwork.errors import ResourceError
from graftwork.machine import keep_memory


@dataclass(frozen=True)
class Task:
    """A piece of work that leaves its result on disk.

    Args:
        name: Name, unique among the tasks of one call.
        run: A function of a module, so that another process can import it.
        arguments: Arguments of the function; they are pickled.
        needs: Names of tasks that have to be done first, each earlier in the list.
    """

    name: str
    run: Callable[..., Any]
    arguments: tuple[Any, ...]
    needs: tuple[str, ...] = ()


def run_tasks(tasks: Sequence[Task], *, jobs: int) -> Iterator[str]:
    """Run tasks, some at a time.

    Args:
        tasks: Tasks in an order in which they could run one by one; earlier ones begin first.
        jobs: Number of processes; 1: in this one, one by one.

    Yields:
        Names, as tasks are finished.

    Raises:
        ResourceError: If a process was lost, as when memory runs out.
    """
    if jobs == 1:
        for task in tasks:
            task.run(*task.arguments)
            yield task.name
        return
    pool = ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_begin)
    try:
        yield from _as_finished(pool, tasks)
    except BrokenProcessPool as error:
        raise ResourceError(
            "a worker was lost (killed, or out of memory); what is finished is kept: run the same command again, "
            "with fewer --jobs if memory is short"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends a worker at once and in silence: runs can be resumed
    keep_memory()


def _as_finished(pool: ProcessPoolExecutor, tasks: Sequence[Task]) -> Iterator[str]:
    waiting, running = list(tasks), dict[Future[Any], str]()
    unfinished = {task.name for task in tasks}
    while waiting or running:
        for task in [task for task in waiting if unfinished.isdisjoint(task.needs)]:
            waiting.remove(task)
            running[pool.submit(task.run, *task.arguments)] = task.name
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            name = running.pop(future)
            future.result()
            unfinished.remove(name)
            yield name
