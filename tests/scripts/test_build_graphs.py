"""The scripts that build and draw the graphs of a zoo, on a real one."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from metanet.arch import check
from metanet.arch.template import Template
from metanet.errors import LockedError
from metanet.views.graph import ParameterGraph, graph_of, state_dict_of
from metanet.views.scalar_graph import state_dict_of as scalar_state
from metanet.zoo.disk import one_writer
from metanet.zoo.store import Zoo, open_zoo
from scripts import build_graphs, draw_graph


@pytest.fixture(scope="module")
def built(tiny_zoo: Zoo, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    """A copy of the zoo after `build_graphs.py materialize=true`."""
    path = tmp_path_factory.mktemp("built") / "tiny"
    shutil.copytree(tiny_zoo.path, path)
    build_graphs.main(build_graphs.Options(zoo=str(path), materialize=True))
    return open_zoo(path)


def test_every_architecture_and_activation_gets_its_template(built):
    used = {(row["arch"], row["activation"]) for row in built.manifest.to_pylist() if row["status"] == "ok"}
    written = {path.stem: path for path in (built.path / "templates").iterdir()}
    assert set(written) == {f"{arch}-{activation}" for arch, activation in used}
    for arch, activation in used:
        assert Template.from_json(written[f"{arch}-{activation}"].read_text()) == built.template(arch, activation)


def test_materialised_graphs_give_back_every_net(built):
    rows = []
    for path in (built.path / "graphs").iterdir():
        with safe_open(path, "pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
        template = Template.from_json(metadata["template"])
        for i, row in enumerate(tensors["row"].tolist()):
            rows.append(row)
            shared = {name: tensor for name, tensor in tensors.items() if name != "row"}
            graph = ParameterGraph(**(shared | {name: tensors[name][i] for name in ("x", "edge_attr")}))
            net, step = (built.manifest[name][row].as_py() for name in ("net", "step"))
            state = built.state_dict(net, step)
            expected = graph_of(template, state)
            assert set(graph.keys()) == set(expected.keys())
            assert all(torch.equal(graph[name], value) for name, value in expected.to_dict().items())
            assert all(torch.equal(tensor, state[name]) for name, tensor in state_dict_of(template, graph).items())
        columns = json.loads(metadata["columns"])
        assert all(len(columns[name]) == tensors[name].shape[-1] for name in columns if name != "edge_type")
    ok = [i for i, status in enumerate(built.manifest["status"].to_pylist()) if status == "ok"]
    assert sorted(rows) == ok


def test_the_summary_counts_nets_nodes_and_edges(built, capsys):
    build_graphs.main(build_graphs.Options(zoo=str(built.path)))
    printed = capsys.readouterr().out
    for arch in built.archs:
        assert arch in printed
    ok = built.manifest["status"].to_pylist().count("ok")
    assert f"{len(built.archs)} architectures" in printed
    assert f"{len(set(built.manifest['net'].to_pylist()))}" in printed
    assert f"{ok}" in printed


def test_graphs_do_not_disturb_the_zoo(built):
    assert built.verify() == []


def test_an_unsound_symmetry_stops_the_building(tiny_zoo, tmp_path, monkeypatch):
    path = tmp_path / "zoo"
    shutil.copytree(tiny_zoo.path, path)

    def unsound(*_):
        raise check.UnsoundSymmetry("a permutation changes the net's function")

    monkeypatch.setattr(build_graphs, "check_symmetry", unsound)
    with pytest.raises(check.UnsoundSymmetry):
        build_graphs.main(build_graphs.Options(zoo=str(path)))
    assert list((path / "templates").iterdir()) == []


def test_a_zoo_that_is_being_written_is_left_alone(tiny_zoo, tmp_path):
    path = tmp_path / "zoo"
    shutil.copytree(tiny_zoo.path, path)
    with one_writer(path), pytest.raises(LockedError, match="another process is writing in this folder"):
        build_graphs.main(build_graphs.Options(zoo=str(path)))
    assert not (path / "templates").exists()


def test_a_folder_without_a_zoo_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        build_graphs.main(build_graphs.Options(zoo=str(tmp_path / "nothing")))


def factory() -> torch.nn.Module:
    return torch.nn.Linear(3, 2)


def test_scalar_graphs_on_disk_give_back_every_net(tiny_zoo, tmp_path):
    path = tmp_path / "tiny"
    shutil.copytree(tiny_zoo.path, path)
    build_graphs.main(build_graphs.Options(zoo=str(path), materialize=True, scalar_edges=True, out=str(tmp_path / "g")))
    zoo, rows = open_zoo(path), []
    for file_path in (tmp_path / "g").iterdir():
        with safe_open(file_path, "pt") as file:
            t, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
        template = Template.from_json(metadata["template"])
        for i, row in enumerate(t["row"].tolist()):
            rows.append(row)
            edge_attr = torch.cat([t["value"][i][:, None], t["taps"]], 1)
            assert edge_attr.shape[1] == len(json.loads(metadata["columns"])["edge_attr"])
            graph = ParameterGraph(x=t["x"], edge_attr=edge_attr, relation_type=t["relation_type"])
            values = zoo.manifest.slice(row, 1).to_pylist()[0]
            state = zoo.state_dict(values["net"], values["step"])
            assert all(torch.equal(state[name], value) for name, value in scalar_state(template, graph).items())
    status = zoo.manifest["status"].to_pylist()
    assert sorted(rows) == [row for row in range(len(zoo)) if status[row] == "ok"]


@pytest.mark.parametrize("options", [{"scalar_edges": True}, {"out": "graphs"}])
def test_options_of_graphs_that_are_not_written_are_refused(tiny_zoo, options):
    with pytest.raises(
        ValueError, match=r"(scalar_edges=true|out=graphs) is about the graphs .*; add materialize=true"
    ):
        build_graphs.main(build_graphs.Options(zoo=str(tiny_zoo.path), **options))


def test_a_zoo_and_a_module_can_be_drawn(tiny_zoo, tmp_path, monkeypatch):
    draw_graph.main(draw_graph.Options(out=str(tmp_path / "zoo.html"), zoo=str(tiny_zoo.path), activation="tanh"))
    assert min(tiny_zoo.archs) in (tmp_path / "zoo.html").read_text()
    out = str(tmp_path / "module.html")
    draw_graph.main(draw_graph.Options(out=out, module=f"{__name__}:factory", input=[1, 3]))
    assert "8 parameters" in Path(out).read_text()
    draw_graph.main(draw_graph.Options(out=out, module=f"{__name__}:factory", input="1,3"))
    assert "8 parameters" in Path(out).read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, r"expected one of them: zoo=zoos/NAME or module=package:factory"),
        ({"zoo": "a", "module": "b:c"}, r"expected one of them"),
        ({"module": f"{__name__}:factory", "input": "1,x"}, r"input=1,x: expected the sizes of a tensor, for example"),
        ({"module": f"{__name__}:factory", "input": "1,3", "fold": 4}, r"fold=4: .* can be folded to 0 components"),
        ({"module": f"{__name__}:missing", "input": [1, 3]}, r"missing.*; expected package:factory without arguments"),
        ({"module": "no_such_package:net", "input": [1]}, r"no_such_package"),
        ({"module": "builtins:dict", "input": [1]}, r"gave a dict, expected an nn\.Module"),
    ],
)
def test_wrong_options_of_draw_graph_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        draw_graph.main(draw_graph.Options(**options))


def test_an_unknown_architecture_is_named_with_the_known_ones(tiny_zoo):
    known = min(tiny_zoo.archs)
    with pytest.raises(ValueError, match=rf"no architecture '{known}0'.*did you mean {known}\?"):
        draw_graph.main(draw_graph.Options(zoo=str(tiny_zoo.path), arch=f"{known}0"))
