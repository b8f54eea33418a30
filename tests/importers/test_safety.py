"""Hostile files run nothing, claim nothing and lead nowhere; honest ones are read exactly."""

import functools
import io
import json
import os
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from metanet.errors import RefusedError
from metanet.importers.intake import parser as parsing
from metanet.importers.intake.folder import Folder
from metanet.importers.intake.parser import Parsed, Parser
from tests.importers import hostile


def put(folder: Path, files: dict[str, bytes]) -> list[Path]:
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]


def saved(value: Any, **how: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **how)
    return buffer.getvalue()


def one(parser: Parser, path: Path) -> Parsed | ValueError:
    (found,) = parser.parse([path])
    return found


def test_the_hostile_corpus_runs_nothing_and_is_refused_whole(parser: Parser, tmp_path: Path):
    markers, files = tmp_path / "markers", tmp_path / "files"
    markers.mkdir()
    files.mkdir()
    (markers / "script.py").write_text(f"open({str(markers / 'ran')!r}, 'w')")
    before = set(markers.iterdir())
    paths = put(files, hostile.corpus(markers))
    assert len(paths) > 100
    found = dict(zip(paths, parser.parse(paths), strict=True))
    assert [path.name for path, answer in found.items() if not isinstance(answer, ValueError)] == []
    assert set(markers.iterdir()) == before
    assert sorted(path.name for path in files.iterdir()) == sorted(path.name for path in paths)


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("os_system-zip.pth", "posix.system"),
        ("eval4-zip.pth", "builtins.eval"),
        ("inst-zip.pth", "os.system"),
        ("memo_global-zip.pth", "os.system"),
        ("popen4-zip.pth", "subprocess.Popen"),
        ("module.pt", "torch.nn.modules.linear.Linear"),
        ("computed-zip.pth", "an unknown name"),
        ("after_stop-zip.pth", "bytes follow the end of its pickle"),
        ("inst-two_streams.pt", "no file of torch.save"),
    ],
)
def test_a_refusal_names_what_would_have_run(parser: Parser, tmp_path: Path, file: str, named: str):
    answer = one(parser, put(tmp_path, {file: hostile.corpus(tmp_path)[file]})[0])
    assert isinstance(answer, RefusedError)
    assert named in str(answer)
    assert file in str(answer)


NET = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 3), norm=nn.BatchNorm2d(2), head=nn.Linear(2, 3)))
WRAPPED = {
    "bare": lambda state: state,
    "state_dict": lambda state: {"state_dict": state, "epoch": 3, "accuracy": np.float64(0.5)},
    "model": lambda state: {"model": dict(state), "optimizer": {"state": {}, "lr": 0.1}},
    "nested": lambda state: {"model": {"state_dict": state}, "config": {"act": "relu"}},
    "data_parallel": lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
    "compiled": lambda state: {"net": {f"_orig_mod.module.{name}": tensor for name, tensor in state.items()}},
    "parameters": lambda state: {name: nn.Parameter(tensor.float()) for name, tensor in state.items()},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrapper", WRAPPED)
def test_state_dicts_are_read_out_of_their_wrappers(parser: Parser, tmp_path: Path, wrapper: str, legacy: bool):
    data = saved(WRAPPED[wrapper](NET.state_dict()), _use_new_zipfile_serialization=not legacy)
    answer = one(parser, put(tmp_path, {"net.pt": data})[0])
    assert isinstance(answer, Parsed), answer
    assert list(answer.tensors) == list(NET.state_dict())
    for name, tensor in NET.state_dict().items():
        assert torch.equal(answer.tensors[name], tensor)


def test_what_stands_beside_the_weights_is_kept_as_plain_values(parser: Parser, tmp_path: Path):
    kept = {"epoch": 3, "accuracy": np.float32(0.5), "loss": torch.tensor(2.0), "config": {"act": "relu", "k": [3, 5]}}
    answer = one(parser, put(tmp_path, {"net.pt": saved({"model": NET.state_dict(), **kept})})[0])
    assert isinstance(answer, Parsed), answer
    assert answer.metadata == {"epoch": 3, "accuracy": 0.5, "loss": 2.0, "config": {"act": "relu", "k": [3, 5]}}


def test_safetensors_are_read_with_their_metadata(parser: Parser, tmp_path: Path):
    tensors = {"b": torch.arange(6.0).view(2, 3), "a": torch.ones(2, dtype=torch.bfloat16)}
    answer = one(parser, put(tmp_path, {"net.safetensors": safetensors.torch.save(tensors, {"x": "1"})})[0])
    assert isinstance(answer, Parsed), answer
    assert answer.metadata == {"x": "1"}
    assert answer.tensors.keys() == tensors.keys()
    assert all(torch.equal(answer.tensors[name], tensors[name]) for name in tensors)


def header(entries: dict[str, Any], data: bytes = b"") -> bytes:
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text + data


def entry(shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


@functools.cache
def bombs() -> dict[str, bytes]:
    whole = saved({"w": torch.zeros(64)})
    expanded = saved({"w": torch.zeros(1).expand(2**34)})
    sparse = saved({"w": torch.eye(3).to_sparse()})
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", b"\x80\x02}q\x00.")
        file.writestr("archive/data/0", bytes(64 << 20))
    return {
        "claims.pt": whole.replace(b"K@", b"J\xff\xff\xff\x7f"),
        "expanded.pt": expanded,
        "sparse.pt": sparse,
        "deflated.pt": buffer.getvalue(),
        "long.pt": b"\x80\x04\x8e" + (2**40).to_bytes(8, "little") + b"x",
        "header.safetensors": (2**40).to_bytes(8, "little") + b"{}",
        "huge.safetensors": header({"w": entry([2**40], 0, 2**42)}),
        "claims.safetensors": header({"w": entry([2**30, 0], 0, 0), "v": entry([2**20, 2**20], 0, 0)}),
        "overlap.safetensors": header({"a": entry([4], 0, 16), "b": entry([4], 0, 16)}, bytes(16)),
        "gap.safetensors": header({"a": entry([1], 4, 8)}, bytes(8)),
        "names.safetensors": header({f"{number}": entry([0], 0, 0) for number in range(150_000)}),
        "nested.safetensors": struct.pack("<Q", 200_000) + b"[" * 200_000,
    }


@pytest.mark.parametrize("name", bombs())
def test_claims_that_the_file_does_not_hold_are_refused_at_once(parser: Parser, tmp_path: Path, name: str):
    answer = one(parser, put(tmp_path, {name: bombs()[name]})[0])
    assert isinstance(answer, ValueError)
    assert name in str(answer)


def test_truncations_and_bit_flips_never_give_another_net(parser: Parser, tmp_path: Path):
    """Of a zip, whose CRC sees every changed byte of weights; a changed header is an error or changes nothing."""
    whole = saved({"weight": torch.arange(20.0), "bias": torch.ones(3)})
    generator = np.random.default_rng(0)
    files = {f"cut{length}.pt": whole[:length] for length in range(0, len(whole), 41)}
    for flip in range(150):
        changed = bytearray(whole)
        changed[generator.integers(len(whole))] ^= 1 << generator.integers(8)
        files[f"flip{flip}.pt"] = bytes(changed)
    paths = put(tmp_path, files)
    for path, answer in zip(paths, parser.parse(paths), strict=True):
        if isinstance(answer, Parsed):
            assert path.name.startswith("flip")
            assert torch.equal(answer.tensors["weight"], torch.arange(20.0))
            assert torch.equal(answer.tensors["bias"], torch.ones(3))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_kills_its_process_spoils_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
):
    """One file a job, so that others wait behind it."""
    names = ["a.pt", "b.pt", "kill.pt", "c.pt", "d.pt", "e.pt"]
    paths = put(tmp_path, {name: saved({"w": torch.full((2,), float(place))}) for place, name in enumerate(names)})
    send = parsing._Child.send

    def killing(self: parsing._Child, job: parsing._Job) -> None:
        if paths[2] in job.paths:
            os.kill(self._process.pid, 9)
            self._process.wait()
        send(self, job)

    monkeypatch.setattr(parsing._Child, "send", killing)
    monkeypatch.setattr(parsing, "JOB_FILES", 1)
    with Parser(workers) as parser:
        found = list(parser.parse(paths))
    refused = found.pop(2)
    assert isinstance(refused, RefusedError)
    assert "kill.pt: refused: the process that was reading it was ended by SIGKILL" in str(refused)
    values = [answer.tensors["w"][0].item() for answer in found if isinstance(answer, Parsed)]
    assert values == [0, 1, 3, 4, 5]


def test_wrong_kinds_of_values_are_told(parser: Parser, tmp_path: Path):
    files = {
        "list.pt": (saved([torch.ones(2)]), "no state_dict: found a list"),
        "number.pt": (saved({"a": torch.ones(2), "b": 3}), "'b' is no tensor"),
        "empty.pt": (saved({}), "no state_dict"),
        "name.pt": (saved({"a\0b": torch.ones(2)}), "expected a printable name"),
        "raw.pt": (b"", "no whole pickle"),
    }
    for name, (data, told) in files.items():
        answer = one(parser, put(tmp_path, {name: data})[0])
        assert isinstance(answer, ValueError)
        assert told in str(answer), name


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("../x", "a path upwards"),
        ("a/../../x", "a path upwards"),
        ("/etc/passwd", "an absolute path"),
        ("C:x", "an absolute path"),
        ("a\\b", "NUL, a backslash"),
        ("a\0b", "NUL, a backslash"),
        ("", "1 to 1024 characters"),
        ("x" * 2000, "1 to 1024 characters"),
        ("link", "a link leads outside the folder"),
        ("linked/secret", "a link leads outside the folder"),
        ("pipe", "no ordinary file"),
    ],
)
def test_no_name_leads_outside_the_folder(tmp_path: Path, name: str, told: str):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret").write_text("x")
    (root / "link").symlink_to(tmp_path / "secret")
    (root / "linked").symlink_to(tmp_path)
    os.mkfifo(root / "pipe")
    with pytest.raises(RefusedError, match=told):
        Folder(root).file(name)


def test_links_inside_the_folder_are_followed(tmp_path: Path):
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "x.json").write_text('{"a": 1}')
    (tmp_path / "config.json").symlink_to("blobs/x.json")
    assert Folder(tmp_path).json("config.json") == {"a": 1}


def test_arrays_of_objects_are_refused_and_claims_checked(tmp_path: Path):
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(RefusedError, match="pickled Python objects"):
        Folder(tmp_path).array("objects.npy")
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (2**20, 2**20)})
    (tmp_path / "claims.npy").write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=r"claims \(1048576, 1048576\) of float32, 4,398,046,511,104 bytes; found 0"):
        Folder(tmp_path).array("claims.npy")
    array = np.arange(6.0).reshape(2, 3)
    np.save(tmp_path / "good.npy", array)
    assert np.array_equal(Folder(tmp_path).array("good.npy"), array)


def test_tables_and_json_are_checked(tmp_path: Path):
    files = {
        "short.csv": b"a,b\n1\n",
        "twice.csv": b"a,a\n1,2\n",
        "bytes.csv": b"\xff\xfe\x00a",
        "cut.csv.gz": b"\x1f\x8b\x08\x00\x00",
        "deep.json": b"[" * 100_000,
    }
    put(tmp_path, files)
    folder = Folder(tmp_path)
    for name, told in {
        "short.csv": "row 2 has 1 values, expected 2",
        "twice.csv": "expected distinct ones",
        "bytes.csv": "not UTF-8",
        "cut.csv.gz": "damaged",
    }.items():
        with pytest.raises(ValueError, match=told):
            folder.rows(name)
    with pytest.raises(ValueError, match="no readable JSON"):
        folder.json("deep.json")


def test_everything_that_was_read_is_in_the_digest(tmp_path: Path):
    put(tmp_path, {"a.json": b"1", "b.json": b"2"})

    def digest(*names: str) -> str:
        folder = Folder(tmp_path)
        for name in names:
            folder.json(name)
        return folder.sha256()

    assert digest("a.json", "b.json") == digest("b.json", "a.json") != digest("a.json")
    before = digest("a.json")
    (tmp_path / "a.json").write_bytes(b"3")
    assert digest("a.json") != before
