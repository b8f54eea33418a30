"""This machine: a GPU in this process, groups in turns; the CPU in single-threaded processes, one per core."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from metanet import machine
from metanet.zoo import convolutions
from metanet.zoo.executors import Report, Split
from metanet.zoo.images import Images
from metanet.zoo.plan import STACK, Group
from metanet.zoo.way import Way
from metanet.zoo.work import TooLarge, Work

IMAGES = STACK["cuda"] * 64  # a GPU that trains on so many at once is taken to be full: a full group, in usual batches
AT_ONCE = 16  # groups on one GPU


def check(device: str, way: Way) -> None:
    machine.check_device(device)
    convolutions.check(way.convolution, torch.device(device))


def run(work: Work, groups: list[Group], processes: int | None, report: Report, split: Split) -> None:
    """Trains the groups; see the contract of `metanet.zoo.executors`.

    Raises:
        ValueError, OSError: what a worker met, with the group's name; ChildProcessError if a worker died.
    """
    if work.device != "cpu":
        with work.way.on(work.device):
            _take_turns(work, groups, processes or AT_ONCE, report, split)
        return
    count = min(len(groups), processes or machine.num_cores())
    if count == 1:
        with machine.single_threaded():  # as in a worker process, so that sums are taken in the same order
            _take_turns(work, groups, 1, report, split)
        return
    pending = deque(groups)
    kills = machine.memory_kills()
    with _workers(work) as start:
        workers = dict(start() for _ in range(count))
        idle = list(workers)
        busy: dict[Connection, Group] = {}
        while pending or busy:
            while pending and idle:
                connection = idle.pop()
                if not workers[connection].is_alive():  # what it had done is acknowledged
                    kills += 1
                    del workers[connection]
                    connection, workers[connection] = start()
                busy[connection] = pending.popleft()
                connection.send(busy[connection])
            for connection in wait(list(busy)):
                assert isinstance(connection, Connection)
                group = busy[connection]
                message = _receive(connection, workers[connection], group, kills)
                if isinstance(message, float):
                    report(group, message)
                else:
                    pending.extend(split(group))
                if message == 1 or isinstance(message, TooLarge):
                    del busy[connection]
                    idle.append(connection)


@dataclass
class _Turn:
    """A group that is being trained in this process."""

    group: Group
    steps: Iterator[int]
    stream: torch.cuda.Stream | None  # where its kernels run, beside those of other groups
    nets: int  # that its last step trained: fewer than the group has, once most have stopped early

    @property
    def images(self) -> int:
        """What a step of it trains on."""
        return self.nets * self.group.batch_size


def _take_turns(work: Work, groups: list[Group], most: int, report: Report, split: Split) -> None:
    """Trains in this process, step by step, at most so many groups at once, and of those no more than fill the device.

    A group that does not fit in memory beside others waits until there are fewer; one that does not fit alone is split.
    """
    images = _loaded(work)
    streams = [torch.cuda.Stream() if work.device != "cpu" else None for _ in range(most)]
    pending, running = deque(groups), list[_Turn]()
    while pending or running:
        while pending and len(running) < most and _has_room(running, pending[0]):
            group, stream = pending.popleft(), streams.pop()
            steps = work.steps(group, images, lambda fraction, group=group: report(group, fraction))
            running.append(_Turn(group, steps, stream, len(group)))
        for turn in list(running):
            try:
                with torch.cuda.stream(turn.stream):  # nothing for None
                    turn.nets = next(turn.steps)
                continue
            except StopIteration:
                pass
            except TooLarge:
                if len(running) > 1:
                    most = len(running) - 1
                    pending.appendleft(turn.group)
                else:
                    pending.extend(split(turn.group))
            except (ValueError, OSError) as error:
                error.add_note(f"in group {turn.group.name}")
                raise
            running.remove(turn)
            streams.append(turn.stream)


def _loaded(work: Work) -> dict[str, Images]:
    images = work.images()
    if work.device != "cpu":
        torch.cuda.synchronize()  # the streams of groups read what this one has written
    return images


def _has_room(running: list[_Turn], group: Group) -> bool:
    """Whether the device is not full without this group."""
    return not running or sum(turn.images for turn in running) + len(group) * group.batch_size <= IMAGES


@contextlib.contextmanager
def _workers(work: Work) -> Iterator[Callable[[], tuple[Connection, BaseProcess]]]:
    """Starts processes that wait for groups; they are killed on the way out, which costs nothing acknowledged."""
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's threads in an unknown state
    workers: list[tuple[Connection, BaseProcess]] = []

    def start() -> tuple[Connection, BaseProcess]:
        here, there = context.Pipe()
        workers.append((here, context.Process(target=_serve, args=(there, work), daemon=True)))
        workers[-1][1].start()
        there.close()
        return workers[-1]

    try:
        yield start
    finally:
        for connection, process in workers:
            connection.close()
            process.kill()
            process.join()


def _receive(connection: Connection, process: BaseProcess, group: Group, kills: int) -> float | TooLarge:
    """The fraction of its group that a worker has done, or that it does not fit in memory.

    `kills`: how many processes had been ended for want of memory before.
    """
    try:
        message = connection.recv()
    except (EOFError, ConnectionResetError) as error:
        process.join()
        if process.exitcode == -signal.SIGKILL and machine.memory_kills() > kills:
            return TooLarge(group.name)
        raise ChildProcessError(
            f"group {group.name}: its worker died (exit code {process.exitcode}; -9 often means too little memory). "
            f"The same command goes on from the last snapshot; processes= lowers the number of workers."
        ) from error
    if isinstance(message, float | TooLarge):
        return message
    error, trace = message
    if isinstance(error, ValueError | OSError):
        error.add_note(f"in group {group.name}")
        raise error
    raise RuntimeError(f"group {group.name}: {trace}")


def _serve(connection: Connection, work: Work) -> None:
    """A worker: takes groups, sends fractions or TooLarge, and at last (error, traceback)."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole terminal; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    machine.tune_allocator()
    torch.set_num_threads(1)
    try:
        images = work.images()
        while True:
            group = connection.recv()
            try:
                work.train(group, images, connection.send)
            except TooLarge as error:
                connection.send(error)
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
