"""Files that claim far more than they hold cost neither time nor memory, and no name leads outside the folder."""

import io
import json
import os
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metanet import machine
from metanet.errors import RefusedError
from metanet.importers.intake.folder import Folder
from metanet.importers.intake.parser import Parsed, Parser
from metanet.importers.intake.writing import import_zoo
from tests.importers import test_safety, test_small_cnn
from tests.importers.test_safety import entry, header, put, saved

SECONDS, BYTES = 2, 300e6  # of one file: beside what the importer has anyway, and of its child in all


def bombs() -> dict[str, bytes]:
    packed, arrays = io.BytesIO(), io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(512 << 20))  # half a megabyte
    np.savez_compressed(arrays, w=np.zeros(1 << 24))
    nested = b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."
    return {
        **test_safety.bombs(),
        "packed.pt": packed.getvalue(),
        "arrays.pt": arrays.getvalue(),
        "arrays.safetensors": arrays.getvalue(),
        "claims512.safetensors": header({"w": entry([128 << 20], 0, 512 << 20)}),
        "claims2_40.safetensors": header({"w": entry([2**20, 2**20], 0, 2**42)}),
        "names400.safetensors": header({f"{number}": entry([0], 0, 0) for number in range(400_000)}),
        "overlapping.pt": saved({"w": torch.zeros(4).as_strided((2**20, 2**19), (0, 0))}),
        "memo.pt": b"\x80\x02}r\xff\xff\xff\x7f.",
        "bytes8.pt": b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"x.",
        "nested.pt": nested,
    }


def child_peak(parser: Parser) -> int:
    text = Path(f"/proc/{parser._children[0]._process.pid}/status").read_text()
    return next(1024 * int(line.split()[1]) for line in text.splitlines() if line.startswith("VmHWM"))


@pytest.mark.slow
def test_bombs_are_refused_in_two_seconds_and_300_megabytes(tmp_path: Path):
    """Seconds are those of the processor: another job on the machine fails no test."""
    paths = put(tmp_path, bombs())
    for path in paths:
        with Parser() as parser:
            (warm,) = parser.parse([put(tmp_path, {"good.pt": saved({"w": torch.ones(2)})})[0]])
            assert isinstance(warm, Parsed)
            before, pid = machine.peak_bytes(), parser._children[0]._process.pid
            start = sum(os.times()[:2]) + used(pid)
            (found,) = parser.parse([path])
            alive = parser._children[0]._process.pid == pid
            assert alive, f"{path.name} ended its process"
            assert sum(os.times()[:2]) + used(pid) - start < SECONDS, path.name
            assert machine.peak_bytes() - before + child_peak(parser) < BYTES, path.name
        assert isinstance(found, ValueError), path.name
        assert path.name in str(found)


def used(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_an_array_that_claims_4_terabytes_costs_nothing(tmp_path: Path):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (2**20, 2**20)})
    folder = test_small_cnn.put(tmp_path / "x", np.zeros((9, 4970), np.float32), test_small_cnn.metrics()[:9])
    (folder / "weights.npy").write_bytes(buffer.getvalue())
    before = machine.peak_bytes()
    with pytest.raises(ValueError, match=r"its header claims .* 4,398,046,511,104 bytes; found 0"):
        import_zoo("small_cnn", folder, tmp_path / "zoo")
    assert machine.peak_bytes() - before < 50e6


NAMES = ["../x", "a/../../x", "/etc/passwd", "a\\..\\x", "C:\\x", "a\0b"]


@pytest.mark.parametrize("name", NAMES)
def test_names_in_an_archive_write_nothing(parser: Parser, tmp_path: Path, name: str):
    """Entries are looked up by name in memory; nothing is unpacked."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved({"w": torch.ones(3)}))) as good, zipfile.ZipFile(buffer, "w") as file:
        for one in good.infolist():
            file.writestr(one.filename, good.read(one))
        about = zipfile.ZipInfo()
        about.filename = name
        file.writestr(about, b"root")
    (tmp_path / "in").mkdir()
    before = sorted(tmp_path.rglob("*"))
    (found,) = parser.parse(put(tmp_path / "in", {"net.pt": buffer.getvalue()}))
    assert sorted(path for path in tmp_path.rglob("*") if path.name != "net.pt") == before
    assert isinstance(found, Parsed)
    assert torch.equal(found.tensors["w"], torch.ones(3))


@pytest.mark.parametrize("name", NAMES)
def test_names_in_a_table_lead_nowhere(tmp_path: Path, name: str):
    (tmp_path / "x").write_bytes(saved({"w": torch.ones(3)}))
    (tmp_path / "own").mkdir()
    rows: list[dict[str, Any]] = [{"path": name, "arch": "small", "activation": "relu"}]
    arch = {"family": "mlp", "depth": 1, "width": 1, "batch_norm": False, "image_shape": [1, 1, 2], "num_classes": 2}
    (tmp_path / "own" / "nets.json").write_text(json.dumps(rows))
    (tmp_path / "own" / "archs.json").write_text(json.dumps({"small": arch}))
    with pytest.raises(ValueError, match=r"not safe to read.*(a path upwards|an absolute path|a backslash)"):
        import_zoo("table", tmp_path / "own", tmp_path / "zoo")


def test_a_hard_link_is_refused_because_its_other_name_may_lie_outside(tmp_path: Path):
    (tmp_path / "root").mkdir()
    (tmp_path / "x.json").write_text("1")
    os.link(tmp_path / "x.json", tmp_path / "root" / "x.json")
    with pytest.raises(RefusedError, match=r"'x.json': a file with 2 names \(hard links\).*Copy the folder with cp -r"):
        Folder(tmp_path / "root").json("x.json")
    (tmp_path / "x.json").unlink()
    assert Folder(tmp_path / "root").json("x.json") == 1
