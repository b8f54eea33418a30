"""That the benchmark of imports runs on every source and tells the limits; its times are no test."""

import multiprocessing
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import pytest

from metanet import machine
from metanet.importers.intake.writing import import_zoo
from scripts import benchmark_import as benchmark


@pytest.fixture
def untimed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every limit is measured once and takes a second; imports run in this process."""

    def once(work: Callable[[], object]) -> float:
        work()
        return 1.0

    monkeypatch.setattr(machine, "seconds_per_call", once)
    monkeypatch.setattr(machine, "memcpy_rate", lambda: 1e9)
    monkeypatch.setattr(benchmark, "ProcessPoolExecutor", lambda processes, context: ThreadPoolExecutor(processes))


def test_every_source_is_imported_and_stands_beside_its_limits(untimed, tmp_path: Path):
    out = tmp_path / "import.md"
    found = benchmark.main(benchmark.Options(nets=40, workers=1, out=str(out)))
    assert {name: one.nets for name, one in found.items()} == {"pt": 40, "safetensors": 40, "small_cnn": 40, "nws": 20}
    assert all(one.zoo_bytes > 0 and one.source_bytes > 0 and one.peak_bytes > 1e6 for one in found.values())
    text = out.read_text()
    assert "0.07 GB/s in SHA-256 on a core, 0.01 GB/s in writing with fsync" in text
    assert "| hash limit, nets/s | disk limit, nets/s | of the lower |" in text


def test_the_limits_are_those_of_the_bytes():
    one = benchmark.Measured(
        nets=10, source_bytes=100, zoo_bytes=300, seconds=5.0, cpu_seconds=1e-3, peak_bytes=2_000_000
    )
    (row,) = benchmark.tabulated({"pt": one}, hashed=800.0, written=150.0).rows
    assert [cell.text for cell in row] == ["pt", "10", "0.0", "5.0", "2", "100", "20", "5", "40%", "2"]


def test_an_unknown_source_is_refused_by_name():
    with pytest.raises(ValueError, match=r"npz on the command line: expected some of pt, safetensors"):
        benchmark.main(benchmark.Options(formats=["pt", "npz"]))


def peak_of_import(source: Path, out: Path) -> float:
    """Megabytes."""
    import_zoo("small_cnn", source, out, workers=2)
    return machine.peak_bytes() / 1e6


@pytest.mark.slow
def test_memory_stays_flat_with_the_number_of_nets(tmp_path: Path):
    """20,000 more nets have 400 MB of weights; their rows in the manifest stay, which are 2 KB a net at most."""
    peaks = []
    for count in (5_000, 25_000):
        source = tmp_path / str(count)
        source.mkdir()
        benchmark.unterthiner(source, count)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            peaks.append(pool.submit(peak_of_import, source, tmp_path / f"zoo{count}").result())
    assert peaks[1] - peaks[0] < 100
    assert peaks[1] < 600
