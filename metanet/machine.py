"""The machine: its limits (for benchmarks), its description (for tables), and the allocator's start-up setting."""

import contextlib
import ctypes
import os
import platform
import re
import resource
import time
from collections.abc import Callable, Iterator

import torch

_OUT_OF_MEMORY = (
    "DefaultCPUAllocator",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
)
_WAIT = 5_000_000  # cycles of a GPU, about 3 ms: in that time a host launches hundreds of kernels
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_MMAP_MAX = -1, -3, -4


def check_device(name: str) -> None:
    """ValueError unless it is cpu, cuda or cuda:<number>, and there is such a device here."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise ValueError(f"device={name}: expected cpu, cuda or cuda:<number>")
    if name != "cpu" and int(name.partition(":")[2] or 0) >= torch.cuda.device_count():
        raise ValueError(f"device={name}: torch finds {torch.cuda.device_count()} GPUs here. Use device=cpu.")


def tune_allocator(keep_all: bool = False) -> None:
    """Keeps freed memory in the process: glibc otherwise re-faults large tensors at every step (1.3-2.8x slower).

    Tensors of more than 1 GB, and what is free beyond 2 GB, go back to the system all the same, unless `keep_all`: for
    programs that make the same huge tensors again and again.
    """
    if platform.system() != "Linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 30)
        mallopt(_M_TRIM_THRESHOLD, -1 if keep_all else (1 << 31) - 1)
        if keep_all:
            mallopt(_M_MMAP_MAX, 0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, torch's CPU allocator or CUDA's found too little memory, maybe before this error: one that is met
    while a CUDA graph is recorded is followed by another, of the recording.
    """
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if not isinstance(error, RuntimeError):
        return False
    if any(words in str(error) for words in _OUT_OF_MEMORY):
        return True
    return error.__context__ is not None and is_out_of_memory(error.__context__)


def memory_kills() -> int:
    """How many processes Linux has ended since it started because memory ran out; 0 on systems that do not say."""
    try:
        with open("/proc/vmstat") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("oom_kill ")), 0)
    except OSError:
        return 0


def num_cores() -> int:
    """Those that this process may use; macOS does not say, and gives all."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def single_threaded() -> Iterator[None]:
    """Every operator on the one thread that calls it: sums have one order, and small work is not shared out over cores,
    which would take longer and disturb other threads.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def peak_bytes(device: str = "cpu") -> int:
    """The most memory that this process has held so far: on a GPU that of its tensors there."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated(device)
    if platform.system() == "Linux":  # ru_maxrss also counts the process that started this one
        with open("/proc/self/status") as file:
            return next(1024 * int(line.split()[1]) for line in file if line.startswith("VmHWM"))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def describe(device: str = "cpu") -> str:
    """One line for a table: device, cores, Python and torch versions."""
    name = torch.cuda.get_device_name(device) if device.startswith("cuda") else _processor()
    return f"{name}, {torch.get_num_threads()} threads, Python {platform.python_version()}, torch {torch.__version__}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def seconds_per_call(work: Callable[[], object], device: str = "cpu", least_seconds: float = 0.5) -> float:
    """The median time of one call, after one warm-up call, over at least three calls."""
    work()
    taken: list[float] = []
    while len(taken) < 3 or sum(taken) < least_seconds:
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - start)
    return sorted(taken)[len(taken) // 2]


def busy_seconds(work: Callable[[], object], device: torch.device, calls: int = 3) -> float:
    """The least time that a device is busy with one call, after one that does not count; a GPU's without the launches,
    which are queued up while it is kept waiting.
    """
    work()
    taken: list[float] = []
    for _ in range(calls):
        if device.type != "cuda":
            start = time.perf_counter()
            work()
            taken.append(time.perf_counter() - start)
            continue
        begun, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        torch.cuda.synchronize(device)  # whatever else is running would be measured too
        torch.cuda._sleep(_WAIT)
        begun.record()
        work()
        ended.record()
        torch.cuda.synchronize(device)
        taken.append(begun.elapsed_time(ended) / 1000)
    return min(taken)


def sgemm_rate(device: str = "cpu", size: int = 1024) -> float:
    """FLOP/s of a float32 product of two [size, size] matrices with torch's current threads."""
    a, b = torch.randn(2, size, size, device=device)
    out = torch.empty_like(a)
    return 2 * size**3 / seconds_per_call(lambda: torch.mm(a, b, out=out), device)


def memcpy_rate(device: str = "cpu", megabytes: int = 256) -> float:
    """Bytes/s of a copy that does not fit the caches, counting bytes read plus bytes written."""
    source = torch.randn(megabytes * 2**18, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / seconds_per_call(lambda: target.copy_(source), device)
