"""Files that two readers would read in two ways, and shapes that only an empty tensor can claim, are refused."""

import io
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from metanet.importers.intake.parser import Parsed, Parser
from tests.importers.test_safety import entry, header, one, put, saved

GOOD = saved({"w": torch.ones(3, 4)})


def torch_names(module: str, name: str, arguments: bytes = b"(t") -> bytes:
    """A pickle that calls a function of torch's own, which no plain tensor needs."""
    return b"\x80\x02c%b\n%b\n%bR." % (module.encode(), name.encode(), arguments)


def rewritten(stream: bytes | None = None, **more: bytes) -> bytes:
    """The file with another pickle, or further entries."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(GOOD)) as good, zipfile.ZipFile(buffer, "w") as file:
        for info in good.infolist():
            is_pickle = stream is not None and info.filename.endswith("data.pkl")
            file.writestr(info.filename, stream if is_pickle and stream is not None else good.read(info))
        for name, data in more.items():
            file.writestr(f"archive/{name}", data)
    return buffer.getvalue()


def patched(place: int, data: bytes) -> bytes:
    return GOOD[:place] + data + GOOD[place + len(data) :]


def directory() -> int:
    return struct.unpack_from("<I", GOOD, GOOD.rfind(b"PK\x05\x06") + 16)[0]


def twice(name: str) -> bytes:
    text = b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"%b":{}}' % name.encode()
    return struct.pack("<Q", len(text)) + text + bytes(4)


FILES: dict[str, tuple[bytes, str]] = {
    "local_name.pt": (patched(30, b"archivX"), "is not where its directory says"),
    "local_encrypted.pt": (patched(6, b"\x01"), "is not where its directory says"),
    "encrypted.pt": (patched(directory() + 8, b"\x01"), "is packed or encrypted"),
    "offset.pt": (patched(directory() + 42, b"\xf0\xff\xff\xff"), "damaged"),
    "two_pickles.pt": (rewritten(**{"x/data.pkl": b"N."}), "no file of torch.save"),
    "persistent.pt": (rewritten(b"\x80\x02(X\x07\x00\x00\x00storagecos\nsystem\ntQ."), "os.system"),
    "persistent_text.pt": (rewritten(b"Pabc\n."), "damaged: AttributeError"),
    "from_type.pt": (rewritten(torch_names("torch._tensor", "_rebuild_from_type_v2")), "_rebuild_from_type_v2"),
    "dotted.pt": (rewritten(torch_names("torch._utils", "_import_dotted_name")), "_import_dotted_name"),
    "reconstruct.pt": (rewritten(torch_names("numpy.core.multiarray", "_reconstruct")), "multiarray._reconstruct"),
    "default.pt": (rewritten(torch_names("collections", "defaultdict")), "collections.defaultdict"),
    "twice.safetensors": (twice("a"), "two values are called 'a'"),
    "metadata.safetensors": (header({"__metadata__": {"a": ["b"]}, "a": entry([1], 0, 4)}, bytes(4)), "than texts"),
    "empty.safetensors": (header({"a": entry([0, 2**62, 2**62], 0, 0)}), "expected at most 32 axes"),
    "axes.safetensors": (header({"a": entry([1] * 1000, 0, 4)}, bytes(4)), "expected at most 32 axes"),
    "mark.safetensors": (header({}).replace(b"{}", b"\xef\xbb\xbf{}")[1:], "no safetensors file"),
}


@pytest.mark.parametrize("name", FILES)
def test_no_reader_has_to_choose(parser: Parser, tmp_path: Path, name: str):
    data, told = FILES[name]
    answer = one(parser, put(tmp_path, {name: data})[0])
    assert isinstance(answer, ValueError)
    assert told in str(answer)
    assert name in str(answer)
    assert "\n" not in str(answer)


def test_the_file_itself_is_read(parser: Parser, tmp_path: Path):
    answer = one(parser, put(tmp_path, {"good.pt": rewritten()})[0])
    assert isinstance(answer, Parsed)
    assert torch.equal(answer.tensors["w"], torch.ones(3, 4))
