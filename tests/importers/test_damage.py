"""Damage to raw formats, which have no checksum: an error or a zoo whose digest tells, never a crash."""

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from metanet.importers.intake.writing import import_zoo
from tests.importers import foreign, test_nws, test_small_cnn


def small_cnn(folder: Path) -> Path:
    weights = np.stack([foreign.integers(4970, seed) for seed in range(9)]).astype(np.float32)
    return test_small_cnn.put(folder, weights, test_small_cnn.metrics()[:9], packed=False)


def nws(folder: Path) -> Path:
    """One run, with two of its snapshots."""
    row = test_nws.described()
    run = folder / "run"
    (run / "weights").mkdir(parents=True)
    np.tile([700.0, 50, 51, 52, 53], 20).tofile(run / "error.bin")
    np.array([20.0, 1, 1, 1]).tofile(run / "stat.bin")
    for snapshot in (1, 2):
        test_nws.written(test_nws.variables(row, snapshot)).tofile(run / "weights" / f"{snapshot:03d}.bin")
    count = (run / "weights" / "001.bin").stat().st_size // 8
    lines = {**row, "path": "run", "weightn_conv": 100, "weightn_fc": count - 100}
    (folder / "all.csv").write_text(f"{','.join(lines)}\n{','.join(map(str, lines.values()))}\n")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(("format", "make"), [("small_cnn", small_cnn), ("nws", nws)])
def test_flips_and_truncations_are_errors_or_told_by_the_digest(tmp_path: Path, format: str, make: Any):
    source, generator = make(tmp_path / "source"), np.random.default_rng(1)
    whole = import_zoo(format, source, tmp_path / "zoo").record["source"]
    files = sorted(path for path in source.rglob("*") if path.is_file())
    outcomes = {"error": 0, "zoo": 0}
    for attempt in range(30):
        path = files[attempt % len(files)]
        good = path.read_bytes()
        bad = bytearray(good)
        if attempt % 3:
            bad[generator.integers(min(len(bad), 2000))] ^= 1 << generator.integers(8)
        else:
            del bad[generator.integers(len(bad)) :]
        path.write_bytes(bad)
        shutil.rmtree(tmp_path / "zoo", ignore_errors=True)
        outcome = "error"
        with contextlib.suppress(ValueError, OSError):
            zoo = import_zoo(format, source, tmp_path / "zoo")
            assert zoo.verify() == []
            assert zoo.record["source"]["sha256"] != whole["sha256"]
            outcome = "zoo"
        outcomes[outcome] += 1
        assert (tmp_path / "zoo").exists() == (outcome == "zoo")
        path.write_bytes(good)
    assert min(outcomes.values()) > 2, outcomes


@pytest.mark.parametrize("column", ["depth_conv", "width_conv", "filter_size", "width_fc", "depth_fc"])
def test_sizes_that_a_table_claims_allocate_nothing(tmp_path: Path, column: str):
    source = nws(tmp_path / "source")
    header, row = (source / "all.csv").read_text().splitlines()
    values = dict(zip(header.split(","), row.split(","), strict=True)) | {column: "999999999999"}
    (source / "all.csv").write_text(f"{header}\n{','.join(values.values())}\n")
    with pytest.raises(ValueError, match=r"no net could be imported.*expected (at most 65,536|conv_depth)"):
        import_zoo("nws", source, tmp_path / "zoo")


def test_a_claimed_width_within_limits_is_compared_before_it_is_built(tmp_path: Path):
    (tmp_path / "own").mkdir()
    arch = {
        "family": "mlp",
        "depth": 3,
        "width": 65_000,
        "batch_norm": False,
        "image_shape": [1, 2, 2],
        "num_classes": 2,
    }
    (tmp_path / "own" / "archs.json").write_text(json.dumps({"large": arch}))
    save_file({"head.weight": torch.ones(2, 3)}, tmp_path / "own" / "x.safetensors")
    (tmp_path / "own" / "nets.csv").write_text("path,arch,activation\nx.safetensors,large,relu\n")
    with pytest.raises(ValueError, match=r"missing are dense1\.weight"):
        import_zoo("table", tmp_path / "own", tmp_path / "zoo")
