"""HDF5 and zips that claim more than they hold, or lead elsewhere: refused at once, and nothing is read or written."""

import io
import json
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from metanet.errors import RefusedError
from metanet.importers.intake.parser import Parsed, Parser
from tests.importers import keras_written
from tests.importers.test_keras_models import DENSE, KERNEL, one_dense

CLAIM = 2**40
Write = Callable[[h5py.Group, Path], object]


def linked(target: h5py.ExternalLink | h5py.SoftLink) -> Write:
    def write(group: h5py.Group, folder: Path) -> None:
        group["0"] = target

    return write


def external(group: h5py.Group, folder: Path) -> None:
    (folder / "secret").write_bytes(np.ones(6, np.float32).tobytes())
    group.create_dataset("0", (3, 2), "f4", external=[(str(folder / "secret"), 0, h5py.h5f.UNLIMITED)])


def virtual(group: h5py.Group, folder: Path) -> None:
    layout = h5py.VirtualLayout((3, 2), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "secret.h5"), "x", (3, 2))
    group.create_virtual_dataset("0", layout)


def of_filter(group: h5py.Group, folder: Path) -> None:
    kept = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    kept.set_chunk((3, 2))
    kept.set_filter(32001, h5py.h5z.FLAG_OPTIONAL)  # of a plug-in
    h5py.h5d.create(group.id, b"0", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((3, 2)), kept)


def nested(group: h5py.Group, folder: Path) -> None:
    for _ in range(60):
        group = group.create_group("deeper")


def cycle(group: h5py.Group, folder: Path) -> None:
    group["again"] = group  # a group inside itself


HOSTILE: dict[str, tuple[Write, str]] = {
    "external link": (linked(h5py.ExternalLink("/etc/passwd", "/x")), "'0' is a ExternalLink, which leads elsewhere"),
    "soft link": (linked(h5py.SoftLink("/optimizer")), "'0' is a SoftLink, which leads elsewhere"),
    "external storage": (external, "is virtual or lies in another file"),
    "virtual": (virtual, "is virtual or lies in another file"),
    "texts": (lambda group, _: group.create_dataset("0", data=["a", "b"]), "holds object, expected numbers"),
    "compound": (lambda group, _: group.create_dataset("0", (2,), np.dtype([("a", "f4")])), "expected numbers"),
    "references": (lambda group, _: group.create_dataset("0", (2,), h5py.ref_dtype), "holds object, expected numbers"),
    "claim": (lambda g, _: g.create_dataset("0", (CLAIM,), "f4", chunks=(1024,)), "claims 4,398,046,511,104 bytes"),
    "fill": (
        lambda g, _: g.create_dataset("0", (CLAIM // 8, 8), "f8", chunks=(64, 8), fillvalue=3.0, compression="gzip"),
        "claims 8,796,093,022,208 bytes",
    ),
    "bomb": (
        lambda g, _: g.create_dataset("0", data=np.zeros(1 << 24, "f4"), compression=9),
        "claims 67,108,864 bytes",
    ),
    "filter": (of_filter, "is packed by the filters [32001]"),
    "nested": (nested, "groups inside each other more than 32 deep"),
    "cycle": (cycle, "groups inside each other more than 32 deep"),
}


def read(parser: Parser, path: Path) -> Parsed | ValueError:
    (found,) = parser.parse([path], "keras")
    return found


@pytest.mark.parametrize("name", HOSTILE)
def test_hdf5_that_claims_or_leads_elsewhere_is_refused_at_once(parser: Parser, tmp_path: Path, name: str):
    write, message = HOSTILE[name]
    weights = io.BytesIO(keras_written.weights(DENSE, {}))
    with h5py.File(weights, "a") as file:
        own = file["layers/dense" if name in ("nested", "cycle") else "layers/dense/vars"]
        assert isinstance(own, h5py.Group)
        write(own, tmp_path)
    path = keras_written.archive(
        tmp_path / "net.keras", one_dense(), DENSE, {}, **{"model.weights.h5": weights.getvalue()}
    )
    keras_written.archive(tmp_path / "good.keras", one_dense(), DENSE, KERNEL)
    assert isinstance(read(parser, tmp_path / "good.keras"), Parsed)  # the reader's libraries are there now
    start = time.perf_counter()
    found = read(parser, path)
    assert isinstance(found, RefusedError)
    assert message in str(found)
    assert time.perf_counter() - start < 2


def zipped(change: Callable[[zipfile.ZipFile, str, bytes], object]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        entries = {"metadata.json": b"{}", "config.json": json.dumps(one_dense()).encode()}
        for name, data in (entries | {"model.weights.h5": keras_written.weights(DENSE, KERNEL)}).items():
            change(file, name, data)
    return buffer.getvalue()


def bomb(file: zipfile.ZipFile, name: str, data: bytes) -> None:
    file.writestr(name, data + bytes(1 << 24), zipfile.ZIP_DEFLATED)


def packed(file: zipfile.ZipFile, name: str, data: bytes) -> None:
    file.writestr(name, data[:9], zipfile.ZIP_DEFLATED)


def partly(file: zipfile.ZipFile, name: str, data: bytes) -> None:
    if name != "config.json":
        file.writestr(name, data)


def as_text(file: zipfile.ZipFile, name: str, data: bytes) -> None:
    file.writestr(name, b"no JSON" if name == "config.json" else data)


def no_weights(file: zipfile.ZipFile, name: str, data: bytes) -> None:
    file.writestr(name, b"no HDF5" if name.endswith(".h5") else data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (zipped(bomb), "claim more than its"),
        (zipped(packed), "is packed or encrypted"),
        (zipped(partly), "no .keras file: found no config.json in it"),
        (zipped(as_text), "config.json: no readable JSON"),
        (zipped(no_weights), "damaged: no HDF5"),
        (b"PK\x03\x04 and nothing", "damaged"),
        (b"\x89HDF\r\n\x1a\n and nothing", "damaged: no HDF5"),
        (b"neither", "neither a zip nor HDF5"),
    ],
)
def test_archives_that_are_none_are_told(parser: Parser, tmp_path: Path, data: bytes, message: str):
    (tmp_path / "net.keras").write_bytes(data)
    found: Any = read(parser, tmp_path / "net.keras")
    assert isinstance(found, ValueError)
    assert message in str(found)


def test_an_attribute_that_is_no_text_is_refused(parser: Parser, tmp_path: Path):
    with h5py.File(tmp_path / "net.h5", "w") as file:
        file.attrs["model_config"] = file.create_group("x").ref
    found = read(parser, tmp_path / "net.h5")
    assert isinstance(found, RefusedError)
    assert "the attribute 'model_config' is object" in str(found)
