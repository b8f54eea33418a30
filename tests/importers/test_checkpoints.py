"""Files of torch.save and safetensors, read without torch: torch's own readers, and zipfile, are the oracles."""

import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from metanet.errors import RefusedError
from metanet.importers.intake import arrays, containers, zips
from metanet.importers.intake.arrays import Array

WHOLE = torch.arange(24.0).view(2, 3, 4)
TENSORS = {
    "contiguous": WHOLE,
    "transposed": WHOLE.transpose(0, 2),
    "sliced": WHOLE[1, 1:, ::2],
    "expanded": WHOLE[0, 0, :1].expand(4, 4),
    "scalar": torch.tensor(3.5),
    "empty": torch.empty(0, 3),
    "complex": torch.tensor([1 + 2j]),
    "parameter": nn.Parameter(torch.ones(2)),
    "bool": WHOLE > 3,
    **{
        name: WHOLE.to(getattr(torch, name))[:, 1]
        for name in ("float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8")
    },
}


def read(tmp_path: Path, name: str, data: bytes) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """As the parser's process reads it, and its parent."""
    (tmp_path / name).write_bytes(data)
    found, metadata = containers.parse(tmp_path / name)
    arrays.save(tmp_path / "out", [found])
    tensors = safetensors.torch.load_file(tmp_path / "out")
    return {name.partition("/")[2]: tensor[0] for name, tensor in tensors.items()}, metadata


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize("how", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}])
@pytest.mark.parametrize("name", TENSORS)
def test_every_tensor_is_what_torch_reads(tmp_path: Path, name: str, how: dict[str, Any]):
    state = {"w": TENSORS[name], "again": TENSORS[name]}
    if name == "expanded":  # whose storage has less than the tensor claims
        state = {"w": WHOLE[0, :2].T}
    buffer = io.BytesIO()
    torch.save({"model": state, "more": [1, 2.5, "x", None, True, (3,), torch.Size([2])]}, buffer, **how)
    found, metadata = read(tmp_path, "net.pt", buffer.getvalue())
    expected = torch.load(io.BytesIO(buffer.getvalue()), weights_only=False)  # which knows every protocol
    assert found.keys() == expected["model"].keys()
    for key, tensor in expected["model"].items():
        assert found[key].dtype == tensor.dtype
        assert torch.equal(found[key], tensor.detach())
    assert metadata == {"more": [1, 2.5, "x", None, True, [3], [2]]}


@pytest.mark.parametrize("name", TENSORS)
def test_arrays_of_tensors_are_their_bytes(tmp_path: Path, name: str):
    tensor = TENSORS[name].detach()
    arrays.save(tmp_path / "out", [{"w": arrays.of(tensor)}])
    found = safetensors.torch.load_file(tmp_path / "out")["0/w"]
    assert found.dtype == tensor.dtype
    assert torch.equal(found[0], tensor)
    with pytest.raises(ValueError, match="complex128, expected one of float64"):
        arrays.of(torch.ones(1, dtype=torch.complex128))


@pytest.mark.parametrize("kind", ["f8", "f4", "f2", "i8", "u1", "b1", ">f8"])
def test_numbers_of_numpy_are_plain_numbers(tmp_path: Path, kind: str):
    buffer = io.BytesIO()
    torch.save({"model": {"w": WHOLE}, "x": np.ones(1, kind)[0], "t": torch.tensor([1.0])}, buffer)
    assert read(tmp_path, "net.pt", buffer.getvalue())[1] == {"x": 1, "t": 1}


@pytest.mark.parametrize("claim", ["shape", "storage", "offset", "negative"])
def test_a_tensor_that_claims_more_than_its_storage_is_refused(claim: str):
    storage = memoryview(bytes(16))
    wrong = {
        "shape": (0, (5,), (1,)),
        "storage": (0, (2, 2), (2, 4)),
        "offset": (3, (2,), (1,)),
        "negative": (0, (2,), (-1,)),
    }
    with pytest.raises(ValueError, match="with strides"):
        arrays.strided("F32", storage, *wrong[claim])


def test_values_that_refer_to_each_other_without_end_are_refused(tmp_path: Path):
    nested: list[Any] = []
    for _ in range(40):
        nested = [nested, nested]
    loop: list[Any] = []
    loop.append(loop)
    for name, value in (("nested", nested), ("loop", loop)):
        buffer = io.BytesIO()
        torch.save({"model": {"w": WHOLE}, "more": value}, buffer)
        with pytest.raises(ValueError, match=f"{name}.pt"):
            read(tmp_path, f"{name}.pt", buffer.getvalue())


@pytest.mark.parametrize("wide", [False, True])
def test_entries_of_a_zip_are_what_zipfile_reads(wide: bool, monkeypatch: pytest.MonkeyPatch):
    if wide:
        monkeypatch.setattr(zipfile, "ZIP64_LIMIT", 10)
        monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 1)
    contents = {"a/data.pkl": b"x" * 30, "a/é": b"", "b": os.urandom(100)}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        for name, content in contents.items():
            file.writestr(name, content)
    found = zips.stored(buffer.getvalue(), "here", 10)
    assert {name: bytes(content) for name, content in found.items()} == contents
    with pytest.raises(RefusedError, match="here: refused: 3 entries"):
        zips.stored(buffer.getvalue(), "here", 2)
    broken = buffer.getvalue().replace(contents["b"], bytes(100))
    with pytest.raises(ValueError, match="the CRC of 'b' does not fit"):
        zips.stored(broken, "here", 10)


def test_nets_of_one_kind_are_stacked_and_others_apart(tmp_path: Path):
    nets = [{"w": Array("F32", (2,), np.array([number, 1], np.float32).tobytes())} for number in range(3)]
    nets.insert(1, {"w": Array("F32", (1, 1), bytes(4)), "v": Array("BOOL", (), b"\1")})
    assert arrays.save(tmp_path / "out", nets) == [(0, 0), (1, 0), (0, 1), (0, 2)]
    found = safetensors.torch.load_file(tmp_path / "out")
    assert torch.equal(found["0/w"], torch.tensor([[0.0, 1], [1, 1], [2, 1]]))
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == {
        "0/w": (3, 2),
        "1/w": (1, 1, 1),
        "1/v": (1,),
    }


@pytest.mark.parametrize(
    ("reader", "large"),
    [
        ("intake.containers", {"torch", "pyarrow", "hydra"}),
        ("keras_files", {"torch", "pyarrow", "hydra"}),
        ("onnx_files", {"torch._dynamo", "pyarrow", "hydra"}),
    ],
)
def test_the_process_that_reads_checkpoints_loads_no_large_library(reader, large):
    told = f"import sys, metanet.importers.intake.child, metanet.importers.{reader}; print({large} & {{*sys.modules}})"
    answer = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    assert answer.stdout == "set()\n"
