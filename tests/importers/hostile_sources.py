"""Sources that mean harm: {name: (format, what writes one into an empty folder)}.

hostile.py has pickles that call something; here are rarer opcodes, containers that lie, descriptions without end, and
what a folder may have in place of files.
"""

import gzip
import io
import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx import AttributeProto, TensorProto, helper
from safetensors.torch import save_file

from tests.importers import hostile, keras_written, onnx_graphs
from tests.importers.test_safety import entry, header, saved

Put = Callable[[Path], object]
WEIGHTS = {"1.weight": torch.ones(2, 4), "1.bias": torch.ones(2)}
NET = b"\x80\x02}X\x05\x00\x00\x00model}"  # a checkpoint whose other entries follow
DEEP = "[" * 100_000 + "]" * 100_000


def file(name: str, data: bytes | str) -> Put:
    return lambda folder: (folder / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def pickled(stream: bytes) -> Put:
    """In a zip of torch.save."""
    return file("net.pt", hostile.zipped(stream))


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def doubled(depth: int) -> bytes:
    """A tuple of itself twice, `depth` times: small, and to hash it takes 2 ** depth steps."""
    return b")" + b"2\x86" * depth


PICKLES: dict[str, Put] = {
    "extension of 2 bytes": pickled(b"\x80\x02\x83\x01\x01."),
    "extension of 4 bytes": pickled(b"\x80\x02\x84\x01\x01\x01\x01."),
    "reconstructor": pickled(b"\x80\x02ccopyreg\n_reconstructor\ncsubprocess\nPopen\nc__builtin__\nobject\nN\x87R."),
    "newobj by name": pickled(b"\x80\x02ccopyreg\n__newobj__\ncos\nsystem\n\x85R."),
    "method of a class": pickled(b"\x80\x04" + b"\x8c\x0bcollections\x8c\x12OrderedDict.update\x93)R."),
    "attributes of a name": pickled(b"\x80\x02ctorch\nfloat32\n}" + text("name") + text("os.system") + b"sb" + b")R."),
    "slots of a name": pickled(b"\x80\x02ctorch\nfloat32\nN}" + text("name") + text("x") + b"s\x86b."),
    "persistent text": pickled(b"\x80\x00Pos.system\n."),
    "persistent tuple of names": pickled(b"\x80\x02(cposix\nsystem\ncos\nsystem\ntQ."),
    "frame without end": pickled(b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f."),
    "negative length": pickled(b"\x80\x02\x8b\xff\xff\xff\xff."),
    "text of 2**60 characters": pickled(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"."),
    "a number of a million digits": pickled(b"\x80\x02L" + b"9" * 1_000_000 + b"\n."),
    "a number of a million bytes": pickled(
        NET + text("x") + b"\x8b" + struct.pack("<i", 10**6) + b"\x7f" * 10**6 + b"s."
    ),
    "tuples that no one can hash": pickled(b"\x80\x02}" + doubled(60) + b"Ns."),
    "buffers out of band": pickled(b"\x80\x05\x97."),
    "protocol 200": pickled(b"\x80\xc8N."),
    "an empty stream": pickled(b""),
    "marks alone": pickled(b"(" * 100_000 + b"."),
    "a popped stack": pickled(b"000000."),
    "memo of 2**31": pickled(b"\x80\x02}r\xff\xff\xff\x7f."),
    "a number among the metadata of safetensors": file(
        "net.safetensors", header({"__metadata__": {"x": 1}, "a": entry([1], 0, 4)}, bytes(4))
    ),
}


def zip_with(change: Callable[[zipfile.ZipFile], object], before: bytes = b"", after: bytes = b"") -> Put:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved(WEIGHTS))) as good, zipfile.ZipFile(buffer, "w") as made:
        for info in good.infolist():
            made.writestr(info.filename, good.read(info))
        change(made)
    return file("net.pt", before + buffer.getvalue() + after)


def patched(mark: bytes, place: int, data: bytes) -> Put:
    """The last record of a zip with that mark, changed at a place in it."""
    whole = saved(WEIGHTS)
    start = whole.rfind(mark) + place
    return file("net.pt", whole[:start] + data + whole[start + len(data) :])


def overlapping(folder: Path) -> None:
    """A directory that names the first entry a thousand times: much from little."""
    name, body = b"archive/data.pkl", bytes(10_000)
    local = struct.pack("<4s5H3L2H", b"PK\x03\x04", 20, 0, 0, 0, 0, 0, len(body), len(body), len(name), 0) + name + body
    directory = b"".join(
        struct.pack(
            "<4s6H3L5H2L", b"PK\x01\x02", 20, 20, 0, 0, 0, 0, 0, len(body), len(body), len(own), 0, 0, 0, 0, 0, 0
        )
        + own
        for own in (b"archive/data/%d" % number for number in range(1000))
    )
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1000, 1000, len(directory), len(local), 0)
    (folder / "net.pt").write_bytes(local + directory + end)


END, ENTRY = b"PK\x05\x06", b"PK\x01\x02"
ZIPS: dict[str, Put] = {
    "entries that overlap": overlapping,
    "something before the zip": zip_with(lambda _: None, before=b"#!/bin/sh\n"),
    "something behind the zip": zip_with(lambda _: None, after=b"more"),
    "a comment that is a directory's end": zip_with(lambda made: setattr(made, "comment", END + bytes(18))),
    "a directory on another disk": patched(END, 16, b"\xff\xff\xff\x7f"),
    "no entries": patched(END, 10, b"\x00\x00"),
    "an entry of 4 GB": patched(ENTRY, 24, b"\xfe\xff\xff\xff"),
    "an entry packed by another method": patched(ENTRY, 10, b"\x0c\x00"),
    "an entry whose name is longer": patched(ENTRY, 28, b"\xff\x00"),
    "two entries of one name": zip_with(lambda made: made.writestr("archive/./data.pkl", b"N.")),
    "safetensors in a zip": file("net.safetensors", saved(WEIGHTS)),
    "a zip in a zip": zip_with(lambda made: made.writestr("archive/constants.pkl", saved(WEIGHTS))),
}
SAFETENSORS: dict[str, Put] = {
    name: file("net.safetensors", data)
    for name, data in {
        "sizes that are truth values": header({"a": {**entry([1], 0, 4), "shape": [True]}}, bytes(4)),
        "sizes that are fractions": header({"a": {**entry([1], 0, 4), "shape": [1.0]}}, bytes(4)),
        "offsets that are texts": header({"a": {**entry([1], 0, 4), "data_offsets": ["0", "4"]}}, bytes(4)),
        "an offset below 0": header({"a": entry([1], -4, 0)}, bytes(4)),
        "numbers of no kind": header({"a": {**entry([1], 0, 4), "dtype": "F8_E4M3"}}, bytes(1)),
        "a header of numbers without end": (9).to_bytes(8, "little") + b'{"a":NaN}',
        "a header that is a list": (2).to_bytes(8, "little") + b"[]",
        "a header without end": (100_000).to_bytes(8, "little") + b'{"a":' * 20_000,
        "a header of one byte": (1).to_bytes(8, "little") + b"{",
        "half a length": b"\x01\x00",
        "nothing": b"",
    }.items()
}


def keras(**config: Any) -> Put:
    """A .keras file whose only layer is described so."""
    layer = keras_written.described("Dense", "d", {"units": 2, "batch_input_shape": [None, 3]})
    whole = keras_written.sequential([layer | config])
    return lambda folder: keras_written.archive(folder / "net.keras", whole, [layer], {})


def nested_model(folder: Path) -> None:
    whole: dict[str, Any] = keras_written.described("Dense", "d", {"units": 2})
    for _ in range(200):
        whole = keras_written.sequential([whole])
    keras_written.archive(folder / "net.keras", whole, [], {})


def deep_config(folder: Path) -> None:
    keras_written.archive(folder / "net.keras", {}, [], {}, **{"config.json": DEEP.encode()})


KERAS: dict[str, Put] = {
    "a class of another module": keras(module="os", class_name="system", registered_name="os>system"),
    "a layer of somebody's own": keras(module="mine", class_name="Mine", registered_name="mine>Mine"),
    "a function as bytes": keras(config={"name": "d", "units": 2, "activation": {"class_name": "__lambda__"}}),
    "2**40 units": keras(config={"name": "d", "units": 1 << 40, "batch_input_shape": [None, 3]}),
    "units below 0": keras(config={"name": "d", "units": -3, "batch_input_shape": [None, 3]}),
    "an input of 2**40 numbers": keras(config={"name": "d", "units": 2, "batch_input_shape": [None, 1 << 40]}),
    "models inside models": nested_model,
    "a configuration without end": deep_config,
    "names that stand twice": lambda folder: keras_written.archive(
        folder / "net.keras", {}, [], {}, **{"config.json": b'{"class_name":"Sequential","class_name":"Model"}'}
    ),
    "weights whose description is elsewhere": lambda folder: (
        (folder / "net.json").symlink_to("/etc/hostname"),
        (folder / "net.weights.h5").write_bytes(keras_written.weights([], {})),
    ),
}


def onnx_file(change: Callable[[onnx.ModelProto], object]) -> Put:
    def put(folder: Path) -> None:
        model = onnx_graphs.small()
        change(model)
        (folder / "net.onnx").write_bytes(model.SerializeToString())

    return put


def external(**told: Any) -> Put:
    def change(model: onnx.ModelProto) -> None:
        weight = model.graph.initializer[0]
        weight.ClearField("raw_data")
        weight.data_location = TensorProto.EXTERNAL
        for key, value in told.items():
            weight.external_data.add(key=key, value=str(value))

    def put(folder: Path) -> None:
        (folder / "data.bin").write_bytes(bytes(100))
        (folder / "folder.bin").mkdir()
        onnx_file(change)(folder)

    return put


def attribute(value: AttributeProto) -> Put:
    return onnx_file(lambda model: model.graph.node[0].attribute.append(value))


def graphs_inside(model: onnx.ModelProto) -> None:
    """Ifs inside each other as deep as protobuf lets them be."""
    inside = helper.make_graph([helper.make_node("Neg", ["x"], ["z"])], "g", [], [])
    for number in range(25):
        node = helper.make_node("If", ["c"], [f"z{number}"], then_branch=inside, else_branch=inside)
        inside = helper.make_graph([node], "g", [], [])
        if len(inside.SerializeToString()) > 1 << 20:
            break
    model.graph.node[0].CopyFrom(inside.node[0])


def function_of_itself(model: onnx.ModelProto) -> None:
    inner, opset = helper.make_node("f", ["a"], ["b"], domain="f"), helper.make_opsetid("f", 1)
    model.functions.append(helper.make_function("f", "f", ["a"], ["b"], [inner], [opset]))
    model.graph.node.append(helper.make_node("f", ["y"], ["z"], domain="f"))


ONNX: dict[str, Put] = {
    "data from a place below 0": external(location="data.bin", offset=-8, length=72),
    "data from behind the end": external(location="data.bin", offset=1 << 62, length=72),
    "data of 2**62 bytes": external(location="data.bin", length=1 << 62),
    "data at no number": external(location="data.bin", offset="0x10"),
    "data in a folder": external(location="folder.bin"),
    "data in a device": external(location="/dev/zero"),
    "data in the file itself": external(location="./../nets/net.onnx"),
    "data nowhere": external(location="none.bin"),
    "sizes whose product wraps around": onnx_file(
        lambda model: model.graph.initializer[0].dims.extend([1 << 32, 1 << 32])
    ),
    "sparse tensors": onnx_file(lambda model: model.graph.sparse_initializer.add()),
    "Ifs in Ifs": onnx_file(graphs_inside),
    "a function of itself": onnx_file(function_of_itself),
    "an attribute of another kind": attribute(helper.make_attribute("pads", "many")),
    "an attribute of 2**60": attribute(helper.make_attribute("group", 1 << 60)),
    "pads of 2**60": attribute(helper.make_attribute("auto_pad", "SAME_UPPER" * 1000)),
    "no protobuf": file("net.onnx", b"\x08" + b"\xff" * 9_000),
    "groups of protobuf without end": file("net.onnx", b"\x3b" * 100_000),
    "nothing, called ONNX": file("net.onnx", b""),
}


def folder_of(config: str | bytes, **more: bytes) -> Put:
    """A folder as Hugging Face has them."""

    def put(folder: Path) -> None:
        own = folder / "net"
        own.mkdir()
        save_file(WEIGHTS, own / "model.safetensors")
        for name, data in {"config.json": config, **more}.items():
            (own / name).write_bytes(data if isinstance(data, bytes) else data.encode())

    return put


def config(**more: Any) -> str:
    bert = {"architectures": ["BertModel"], "model_type": "bert", "hidden_size": 4, "num_attention_heads": 2}
    return json.dumps(bert | {"num_hidden_layers": 1, "intermediate_size": 4, "vocab_size": 9} | more)


def index(weight_map: Any) -> Put:
    def put(folder: Path) -> None:
        folder_of(config(), **{"model.safetensors.index.json": json.dumps({"weight_map": weight_map}).encode()})(folder)
        (folder / "net" / "model.safetensors").unlink()

    return put


HUGGINGFACE: dict[str, Put] = {
    "a configuration of brackets": folder_of(DEEP),
    "a configuration that is YAML": folder_of("!!python/object/apply:os.system ['true']"),
    "a configuration in another encoding": folder_of(config().encode("utf-16")),
    "a configuration of half a surrogate": folder_of(config(x="\ud800")),
    "two architectures": folder_of(config(architectures=["BertModel", "os.system"])),
    "an architecture that is a path": folder_of(config(architectures=["../../BertModel"])),
    "a model_type that is a path": folder_of(config(model_type="../../bert")),
    "a class of the library that is no net": folder_of(config(architectures=["Trainer"])),
    "a million layers": folder_of(config(num_hidden_layers=1_000_000)),
    "words below 0": folder_of(config(vocab_size=-9)),
    "half a head": folder_of(config(num_attention_heads=3)),
    "a name that stands twice": folder_of('{"model_type":"bert","model_type":"gpt2"}'),
    "code to fetch": folder_of(config(auto_map={"AutoModel": "somebody/repo--module.Class"})),
    "a shard upwards": index({"a": "../../secret.safetensors"}),
    "a shard that is a device": index({"a": "/dev/zero"}),
    "shards that are numbers": index({"a": 3}),
    "shards without end": index({str(number): f"{number}.safetensors" for number in range(20_000)}),
    "a state of the trainer that is a list": folder_of(config(), **{"trainer_state.json": b"[]"}),
}


def special(make: Callable[[Path], object]) -> Put:
    """Something that is no ordinary file, called net.pt."""
    return lambda folder: make(folder / "net.pt")


FOLDERS: dict[str, Put] = {
    "a folder in place of a file": special(lambda path: path.mkdir()),
    "a pipe": special(os.mkfifo),
    "a link to a device": special(lambda path: path.symlink_to("/dev/zero")),
    "a link to a device of random bytes": special(lambda path: path.symlink_to("/dev/urandom")),
    "a link to nothing": special(lambda path: path.symlink_to("nothing.pt")),
    "a link to itself": special(lambda path: path.symlink_to("net.pt")),
    "a link outside": special(lambda path: path.symlink_to("/proc/self/environ")),
    "a file of 0 bytes": special(lambda path: path.write_bytes(b"")),
    "a file of zeros": special(lambda path: path.write_bytes(bytes(10_000))),
    "a sparse file of 1 TB": special(lambda path: (path.touch(), os.truncate(path, 1 << 40))),
    "a name that is no text": lambda folder: Path(os.fsdecode(os.fsencode(folder) + b"/\xff\xfe.pt")).write_bytes(
        b"N."
    ),
    "a name of two lines": lambda folder: (folder / "a\nb.pt").write_bytes(b"N."),
}


def labelled(table: str, data: bytes | str) -> Put:
    def put(folder: Path) -> None:
        save_file({"1.weight": torch.ones(2, 2, 4), "1.bias": torch.ones(2, 2)}, folder / "all.safetensors")
        (folder / table).write_bytes(data if isinstance(data, bytes) else data.encode("utf-8", "surrogatepass"))

    return put


TABLES: dict[str, Put] = {
    "a row below 0": labelled("nets.csv", "path,row\nall.safetensors,-1\n"),
    "a row of 2**80": labelled("nets.csv", f"path,row\nall.safetensors,{1 << 80}\n"),
    "a row in other digits": labelled("nets.csv", "path,row\nall.safetensors,²\n"),
    "a cell of a gigabyte": labelled("nets.csv", 'path,x\nall.safetensors,"' + "x" * 200_000 + "\n"),
    "NUL in a table": labelled("nets.csv", "path,row\nall.safetensors,\0\n"),
    "100,000 columns": labelled("nets.csv", ",".join(map(str, range(100_000))) + "\n"),
    "a table without end": labelled("nets.json", DEEP),
    "a table that is a number": labelled("nets.json", "3"),
    "a table of half a surrogate": labelled("nets.json", '[{"path": "\\ud800"}]'),
    "a table that is no parquet": labelled("nets.parquet", b"PAR1" + b"\xff" * 100 + b"PAR1"),
    "a packed table that is none": labelled("nets.csv.gz", b"\x1f\x8b\x08\x00" + b"\xff" * 40),
    "a packed table without end": labelled("nets.csv.gz", gzip.compress(bytes(1 << 29))),
    "an archive of tables": labelled("archs.json", "[]"),
}
SOURCES: dict[str, tuple[str, Put]] = {
    f"{format}: {name}": (format, put)
    for format, sources in {
        "state_dicts": PICKLES | ZIPS | SAFETENSORS | FOLDERS,
        "keras": KERAS,
        "onnx": ONNX,
        "huggingface": HUGGINGFACE,
        "table": TABLES,
    }.items()
    for name, put in sources.items()
}
OPTIONS: dict[str, dict[str, Any]] = {
    name: {"module": "tests.importers.examples:line", "input": [1, 1, 2, 2]} for name in ("state_dicts", "table")
}
