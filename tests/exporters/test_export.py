"""Exports: every format whole or not at all, and what importers read back is what was written."""

import contextlib
import errno
import fcntl
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

import metanet
from metanet import exporters
from metanet.errors import LockedError
from metanet.importers.intake.writing import import_zoo
from metanet.zoo import disk
from metanet.zoo.store import Zoo
from tests.scripts.test_import_zoo import run
from tests.zoo.making import tree

ROUND = ["state_dicts", "table", "huggingface"]  # formats that an importer of the same name reads


def exported(zoo: Zoo, format: str, out: Path, nets: tuple[int, ...] = (), **options: Any) -> Path:
    exporters.export_nets(zoo, exporters.choose(zoo, nets), format, out, **options)
    return out


@pytest.mark.parametrize("format", ROUND)
def test_an_exported_zoo_is_imported_with_the_same_weights_and_labels(tiny_zoo, tmp_path, format):
    zoo = import_zoo(format, exported(tiny_zoo, format, tmp_path / "out"), tmp_path / "zoo")
    assert zoo.verify() == []
    assert zoo.archs == tiny_zoo.archs
    columns = tiny_zoo.columns
    assert set(zoo.columns["hyperparameters"]) == set(columns["hyperparameters"])
    kept = [*columns["hyperparameters"], *columns["metrics"], *columns["architecture"], "step", "epoch", "image_set"]
    lineages: dict[int, set[int]] = {}
    for row in zoo.manifest.to_pylist():
        net, step = int(row["source.net"]), row["step"]
        before = tiny_zoo.manifest.to_pylist()[tiny_zoo.row(net, step)]
        assert step == tiny_zoo.steps(net)[-1]
        assert {name: row.get(name, False) for name in kept} == {name: before[name] for name in kept}
        assert row["sha256"] == before["sha256"]
        weights, old = zoo.state_dict(row["net"], step), tiny_zoo.state_dict(net, step)
        assert all(torch.equal(weights[name], old[name]) for name in old)
        lineages.setdefault(row["lineage"], set()).add(before["lineage"])
    assert len(zoo) == 12
    assert all(len(before) == 1 for before in lineages.values())


def test_a_zoo_that_was_imported_is_exported_and_imported_again(tiny_zoo, tmp_path):
    """What it says of its first source is no hyperparameter of the second."""
    first = import_zoo("table", exported(tiny_zoo, "table", tmp_path / "a"), tmp_path / "first")
    second = import_zoo("state_dicts", exported(first, "state_dicts", tmp_path / "b"), tmp_path / "second")
    assert second.columns["hyperparameters"] == first.columns["hyperparameters"]
    assert second.manifest["sha256"].equals(first.manifest["sha256"])


def test_the_label_of_an_image_stays_text_where_it_is_a_digit(tiny_zoo, tmp_path, monkeypatch):
    labelled = tiny_zoo.manifest.append_column("label", pa.array([str(row % 3) for row in range(len(tiny_zoo))]))
    monkeypatch.setattr(tiny_zoo, "manifest", labelled)
    zoo = import_zoo("state_dicts", exported(tiny_zoo, "state_dicts", tmp_path / "out"), tmp_path / "zoo")
    assert zoo.manifest["label"].type == pa.string()
    assert "label" not in zoo.columns["hyperparameters"]


def test_a_table_is_cut_into_stacks_of_at_most_the_size_that_was_asked_for(tiny_zoo, tmp_path):
    one = max(sum(t.nbytes for t in tiny_zoo.state_dict(net, 0).values()) for net in range(12))
    out = exported(tiny_zoo, "table", tmp_path / "out", shard_size=2 * one)
    files = sorted(out.glob("stack-*.safetensors"))
    assert len(files) > len(tiny_zoo.archs)
    assert all(sum(t.nbytes for t in load_file(path).values()) <= 2 * one for path in files)


def test_graphs_open_in_pytorch_geometric_with_targets_and_split(tiny_zoo, tmp_path):
    from torch_geometric.data import InMemoryDataset

    out = exported(tiny_zoo, "pyg", tmp_path / "out", shard_size=2_000_000)
    files = sorted(out.glob("graphs-*.pt"), key=lambda path: int(path.stem.split("-")[1]))
    assert len(files) > 1
    graphs = []
    for path in files:
        torch.load(path, weights_only=True)
        part = InMemoryDataset()
        part.load(str(path))
        graphs += list(part)
    targets, parts = (json.loads((out / f"{name}.json").read_text()) for name in ("targets", "splits"))
    columns = json.loads((out / "columns.json").read_text())
    assert sorted(place for part in parts.values() for place in part) == list(range(12))
    whole = metanet.splits.split(tiny_zoo.manifest)
    for place, graph in enumerate(graphs):
        row = tiny_zoo.row(int(graph.net), int(graph.step))
        values = tiny_zoo.manifest.slice(row, 1).to_pylist()[0]
        template = tiny_zoo.template(values["arch"], values["activation"])
        shown = template.graph(tiny_zoo.state_dict(values["net"], values["step"]))
        assert torch.equal(graph.edge_index, shown.edge_index)
        assert graph.x.shape[1] == len(columns["x"])
        assert torch.equal(graph.x[:, :6], shown.x[:, :6])
        assert graph.y.shape == (1, len(targets))
        for target, value in zip(targets, graph.y[0].tolist(), strict=True):
            if target["kind"] == "classification":
                true = values[target["name"]]
                assert target["classes"][int(value)] == (f"{true:g}" if isinstance(true, float) else str(true))
            elif target["name"] in values:
                assert value == pytest.approx(values[target["name"]])
        assert place in parts[metanet.splits.PARTS[whole[row]]]
    assert {target["name"] for target in targets} >= {"optimizer", "activation", "learning_rate"}


def test_graphs_do_not_show_the_activation_that_is_to_be_predicted(tiny_zoo, tmp_path):
    from torch_geometric.data import InMemoryDataset

    part = InMemoryDataset()
    part.load(str(exported(tiny_zoo, "pyg", tmp_path / "out") / "graphs-0.pt"))
    rows = {row["net"]: row for row in tiny_zoo.manifest.to_pylist()}
    codes: dict[str, dict[str, bytes]] = {}
    for graph in part:
        row = rows[int(graph.net)]
        codes.setdefault(row["arch"], {})[row["activation"]] = graph.x[:, 6:].numpy().tobytes()
    both = [found for found in codes.values() if len(found) == 2]
    assert both
    assert all(len(set(found.values())) == 1 for found in both)
    for arch, found in codes.items():
        for activation in found:
            shown = tiny_zoo.template(arch, activation).graph(tiny_zoo.state_dict(_net(rows, arch, activation), 0))
            assert shown.x[:, 6:].numpy().tobytes() != found[activation]


def _net(rows: dict[int, dict[str, Any]], arch: str, activation: str) -> int:
    return next(net for net, row in rows.items() if (row["arch"], row["activation"]) == (arch, activation))


@pytest.mark.parametrize("format", exporters.formats())
def test_equal_nets_give_equal_bytes_and_nothing_is_left_behind(tiny_zoo, tmp_path, format):
    first, second = (exported(tiny_zoo, format, tmp_path / name / "out", (0, 5)) for name in "ab")
    assert tree(first) == tree(second)
    assert len(tree(first)) >= 2
    assert [path.name for path in first.parent.iterdir()] == ["out"]
    assert not [name for name in tree(first) if Path(name).name.startswith(".")]


@pytest.mark.parametrize("format", exporters.formats())
def test_a_disk_that_fails_at_any_file_leaves_nothing(tiny_zoo, tmp_path, format, monkeypatch):
    files = len(tree(exported(tiny_zoo, format, tmp_path / "whole", (0, 5))))
    write = disk.write_atomically
    for fails in range(files):
        count = iter(range(files))

        def failing(path: Path, data: bytes, count: Any = count, fails: int = fails) -> None:
            if next(count) == fails:
                raise OSError(errno.ENOSPC, "no space left")
            write(path, data)

        monkeypatch.setattr(disk, "write_atomically", failing)
        with pytest.raises(OSError, match="no space left"):
            exported(tiny_zoo, format, tmp_path / "out", (0, 5))
        assert [path.name for path in tmp_path.iterdir()] == ["whole"]


def test_what_a_killed_export_left_is_replaced(tiny_zoo, tmp_path):
    left = tmp_path / ".out.export.tmp" / "whole"
    left.mkdir(parents=True)
    (left / "half").write_bytes(b"x")
    out = exported(tiny_zoo, "checkpoints", tmp_path / "out", (0,))
    assert len(tree(out)) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_two_exports_to_one_folder_do_not_meet(tiny_zoo, tmp_path):
    lock = tmp_path / ".out.export.tmp"
    lock.mkdir()
    with open(lock / ".lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(LockedError, match="another process is writing in this folder"):
            exported(tiny_zoo, "checkpoints", tmp_path / "out", (0,))
        assert lock.is_dir()
    assert not (tmp_path / "out").exists()


def test_weights_that_were_changed_on_disk_are_not_exported(tiny_zoo, tmp_path):
    copy = metanet.open_zoo(shutil.copytree(tiny_zoo.path, tmp_path / "tiny"))
    row = copy.manifest.to_pylist()[copy.row(4, copy.steps(4)[-1])]
    path = copy.path / "shards" / row["group"] / f"{row['step']}.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1  # of the last net's weights
    path.write_bytes(data)
    rows = [one for one in copy.manifest.to_pylist() if (one["group"], one["step"]) == (row["group"], row["step"])]
    *sound, damaged = (one["net"] for one in sorted(rows, key=lambda one: one["row"]))
    with pytest.raises(ValueError, match=rf"net-{damaged}-step-\d+ is damaged: its SHA-256 is not that of the mani"):
        exported(copy, "checkpoints", tmp_path / "out", (*sound, damaged))
    assert not (tmp_path / "out").exists()
    exported(copy, "checkpoints", tmp_path / "out", tuple(sound))


def test_nets_that_diverged_are_exported_only_where_they_are_named(tiny_zoo, tmp_path, monkeypatch, capsys):
    status = np.array(tiny_zoo.manifest["status"].to_pylist(), dtype=object)
    status[[row for row, net in enumerate(tiny_zoo.manifest["net"].to_pylist()) if net == 3]] = "diverged"
    place = tiny_zoo.manifest.column_names.index("status")
    monkeypatch.setattr(tiny_zoo, "manifest", tiny_zoo.manifest.set_column(place, "status", pa.array(status)))
    assert len(exporters.choose(tiny_zoo)) == 11
    assert len(exporters.choose(tiny_zoo, [3])) == 1
    monkeypatch.setattr("metanet.zoo.store.open_zoo", lambda path: tiny_zoo)
    assert run(monkeypatch, "export_nets.py", f"zoo={tiny_zoo.path}", f"out={tmp_path / 'out'}") == 0
    assert "out: 11 nets; 1 left out because they diverged\n" in capsys.readouterr().out
    with pytest.raises(ValueError, match="net-3-step-16 has status diverged; a graph needs ok"):
        exported(tiny_zoo, "pyg", tmp_path / "graphs", (3,))


def test_every_mistake_has_its_exit_code_and_leaves_nothing(tiny_zoo, tmp_path, monkeypatch, capsys):
    def attempt(*changes: str) -> tuple[int, str]:
        words = {"zoo": str(tiny_zoo.path), "out": str(tmp_path / "out"), "nets": "[0]"}
        words |= dict(change.split("=", 1) for change in changes)
        code = run(monkeypatch, "export_nets.py", *(f"{key}={value}" for key, value in words.items()))
        return code, capsys.readouterr().err

    known = ", ".join(exporters.formats())
    assert attempt("format=tabel") == (65, f"error: format=tabel: expected one of {known}; did you mean table?\n")
    told = "error: format=checkpoints takes no shard_size=; it takes no options\n"
    assert attempt("shard_size=5") == (65, told)
    assert attempt("format=table", "shard_size=0")[0] == 65
    code, told = attempt("nets=[0,99]")
    assert (code, "found no net 99; expected one of 0..11" in told) == (65, True)
    code, told = attempt("step=5")
    assert (code, "found no snapshot of net 0 after 5 steps" in told) == (65, True)
    assert attempt(f"zoo={tmp_path / 'nowhere'}")[0] == 66
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("x")
    code, told = attempt(f"out={tmp_path / 'there'}")
    assert (code, "is there already. Remove it, or choose another out=" in told) == (73, True)
    code, told = attempt(f"out={tmp_path / 'there' / 'mine'}")
    assert (code, "is there already" in told) == (73, True)
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_ctrl_c_leaves_nothing(tiny_zoo, tmp_path, monkeypatch, capsys):
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(disk, "write_atomically", interrupted)
    assert run(monkeypatch, "export_nets.py", f"zoo={tiny_zoo.path}", f"out={tmp_path / 'out'}", "nets=[0]") == 130
    assert "interrupted; nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_link_at_the_place_of_the_folder_is_followed_and_no_file_overwritten(tiny_zoo, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    exported(tiny_zoo, "checkpoints", tmp_path / "out", (0,))
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1
    with contextlib.suppress(FileExistsError):
        exported(tiny_zoo, "checkpoints", tmp_path / "out", (1,))
    assert len(list((tmp_path / "elsewhere").iterdir())) == 1


@pytest.mark.parametrize("link", [".out.export.tmp", ".out.export.tmp/whole"])
def test_a_link_where_the_export_works_is_refused(tiny_zoo, tmp_path, link):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").write_text("x")
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(elsewhere)
    with pytest.raises(FileExistsError, match=r"a link is where the export puts its files\. Remove it"):
        exported(tiny_zoo, "checkpoints", tmp_path / "out", (0,))
    assert [path.name for path in elsewhere.iterdir()] == ["mine"]
    assert not (tmp_path / "out").exists()


def test_a_card_holds_foreign_words_in_their_cells(tiny_zoo, monkeypatch):
    words = "adam |\n# [head](evil) <script> `x` \u202e \\"
    place = tiny_zoo.manifest.column_names.index("optimizer")
    changed = tiny_zoo.manifest.set_column(place, "optimizer", pa.array([words] * len(tiny_zoo)))
    monkeypatch.setattr(tiny_zoo, "manifest", changed)
    (snapshot,) = exporters.choose(tiny_zoo, [0])
    (line,) = [line for line in exporters.find("huggingface").card(snapshot).splitlines() if "adam" in line]
    assert line == r"| optimizer | adam \| \# \[head\](evil) \<script\> \`x\`   \\ |"


@pytest.mark.parametrize("name", exporters.formats())
def test_every_format_keeps_to_the_contract(name):
    module = exporters.find(name)
    assert callable(module.write)
    assert module.__doc__
    assert f"| `{name}` |" in Path("docs/export.md").read_text()


def test_the_nets_of_a_function_are_written_under_its_own_names(tmp_path, monkeypatch):
    source = tmp_path / "source"
    source.mkdir()
    save_file({"left.weight": torch.ones(2, 4), "left.bias": torch.ones(2)}, source / "a.safetensors")
    monkeypatch.setenv("METANET_FACTORIES", "tests.exporters.test_export:Net")
    zoo = import_zoo(
        "state_dicts", source, tmp_path / "zoo", module="tests.exporters.test_export:Net", input=[1, 1, 2, 2]
    )
    out = exported(zoo, "state_dicts", tmp_path / "out")
    found = torch.load(out / "net-0-step-0.pt", weights_only=True)
    assert set(found) == {"left.weight", "left.bias"}
    Net().load_state_dict(found)
    again = import_zoo("state_dicts", out, tmp_path / "again")
    assert again.manifest["sha256"].equals(zoo.manifest["sha256"])


class Net(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = torch.nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.left(x.flatten(1))
