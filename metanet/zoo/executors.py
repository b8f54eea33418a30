"""Executors: where the groups of a zoo are trained. Each is a function (work, groups, processes, report) -> None.

The groups are independent, come largest first, and may be trained in any order and anywhere; `report(group, fraction)`
is called here as they get done. What a group writes does not depend on the executor.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from metanet import machine
from metanet.zoo.plan import Group
from metanet.zoo.work import Work

Report = Callable[[Group, float], None]
Executor = Callable[[Work, list[Group], int | None, Report], None]


def local(work: Work, groups: list[Group], processes: int | None, report: Report) -> None:
    """On this machine: a GPU in this process; the CPU in `processes` single-threaded ones (None = one per core).

    Raises:
        ValueError, OSError: what a worker met, with the group's name; ChildProcessError if a worker died.
    """
    count = min(len(groups), processes or machine.num_cores())
    if work.device != "cpu" or count == 1:
        with _one_thread() if work.device == "cpu" else contextlib.nullcontext():
            images = work.images()
            for group in groups:
                work.train(group, images, lambda fraction, group=group: report(group, fraction))
        return
    pending = deque(groups)
    with _workers(work, count) as workers:
        busy: dict[Connection, Group] = {}
        for connection in workers:
            busy[connection] = pending.popleft()
            connection.send(busy[connection])
        while busy:
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                group = busy[connection]
                fraction = _receive(connection, workers[connection], group)
                report(group, fraction)
                if fraction == 1:
                    if pending:
                        busy[connection] = pending.popleft()
                        connection.send(busy[connection])
                    else:
                        del busy[connection]


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """As in a worker process, so that sums are taken in the same order."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _workers(work: Work, count: int) -> Iterator[dict[Connection, BaseProcess]]:
    """Processes that wait for groups; killed on the way out, which costs nothing that was acknowledged."""
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads in an unknown state
    workers: dict[Connection, BaseProcess] = {}
    try:
        for _ in range(count):
            here, there = context.Pipe()
            workers[here] = context.Process(target=_serve, args=(there, work), daemon=True)
            workers[here].start()
            there.close()
        yield workers
    finally:
        for connection, process in workers.items():
            connection.close()
            process.kill()
            process.join()


def _receive(connection: Connection, process: BaseProcess, group: Group) -> float:
    """The fraction of its group that a worker has done."""
    try:
        message = connection.recv()
    except (EOFError, ConnectionResetError) as error:
        process.join()
        raise ChildProcessError(
            f"group {group.name}: its worker died (exit code {process.exitcode}; -9 often means too little memory). "
            f"The same command goes on from the last snapshot; processes= lowers the number of workers."
        ) from error
    if isinstance(message, float):
        return message
    error, trace = message
    if isinstance(error, ValueError | OSError):
        error.add_note(f"in group {group.name}")
        raise error
    raise RuntimeError(f"group {group.name}: {trace}")


def _serve(connection: Connection, work: Work) -> None:
    """A worker: takes groups, sends fractions, and at last (error, traceback)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    machine.tune_allocator()
    torch.set_num_threads(1)
    try:
        images = work.images()
        while True:
            work.train(connection.recv(), images, connection.send)
    except EOFError:
        return
    except Exception as error:
        connection.send((error if isinstance(error, ValueError | OSError) else None, traceback.format_exc()))


def _end_with_parent() -> None:
    """Ends this process when the parent is gone, so that no orphan writes beside the next run."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


EXECUTORS: dict[str, Executor] = {"local": local}
