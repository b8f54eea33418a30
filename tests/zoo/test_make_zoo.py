import os
import re
import shutil
from typing import Any

import pytest

import metanet
from metanet.zoo import disk, layout, plan
from metanet.zoo.executors import local
from metanet.zoo.make import make_zoo
from metanet.zoo.spec import check_spec
from tests.zoo.making import Killed, run_script, tree


def test_nothing_is_trained_twice(tmp_path, tiny_spec, tiny_zoo, capsys, monkeypatch):
    out = shutil.copytree(tiny_zoo.path, tmp_path / "tiny")
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    monkeypatch.setattr(local, "run", None)  # would fail if it were used
    make_zoo(check_spec(tiny_spec, "here"), out)
    assert "finished already" in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_removed_shard_is_trained_anew_bit_for_bit(tmp_path, tiny_spec, tiny_zoo):
    out = shutil.copytree(tiny_zoo.path, tmp_path / "tiny")
    row = tiny_zoo.manifest.slice(1, 1).to_pylist()[0]
    layout.shard_path(out, row["group"], row["step"]).unlink()
    assert any("missing" in problem for problem in metanet.open_zoo(out).verify())
    assert make_zoo(check_spec(tiny_spec, "here"), out, processes=1).verify() == []
    assert tree(out) == tree(tiny_zoo.path)


def test_a_zoo_in_training_can_be_read(tmp_path, tiny_spec, monkeypatch):
    spec, out = check_spec(tiny_spec, "here"), tmp_path / "tiny"
    done = []

    def one_group(work, groups, processes, report, split):
        work.train(groups[0], work.images(), lambda fraction: report(groups[0], fraction))
        zoo = metanet.open_zoo(out)
        done.append((len(zoo), zoo.finished, zoo.verify()))
        raise Killed

    monkeypatch.setattr(local, "run", one_group)
    with pytest.raises(Killed):
        make_zoo(spec, out)
    groups = plan.plan(spec.nets(), plan.STACK["cpu"])
    assert done[0][0] in {3 * len(group) for group in groups}
    assert done[0][1:] == (False, [])


def test_another_spec_in_the_same_folder_is_refused_with_what_differs(tiny_zoo, tiny_spec):
    before = tree(tiny_zoo.path)
    with pytest.raises(ValueError, match="another spec: seed is 3 there and 4 here"):
        make_zoo(check_spec(tiny_spec | {"seed": 4}, "here"), tiny_zoo.path)
    assert tree(tiny_zoo.path) == before


def test_a_folder_with_something_else_is_left_alone(tmp_path, tiny_spec):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(FileExistsError, match=r"found thesis\.tex but no zoo\.json"):
        make_zoo(check_spec(tiny_spec, "here"), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_wrong_arguments_write_nothing(tmp_path, tiny_spec, monkeypatch):
    out = tmp_path / "zoo"
    spec = check_spec(tiny_spec, "here")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"device": "gpu"}, "device=gpu: expected cpu or cuda"),
        ({"device": "cuda"}, "device=cuda: torch finds 0 GPUs here. Use device=cpu"),
        ({"processes": 0}, "processes=0: expected at least 1"),
        ({"executor": "cloud"}, "executor=cloud: expected one of local, ray"),
    )
    for options, message in wrong:
        with pytest.raises(ValueError, match=message):
            make_zoo(spec, out, **options)
    with pytest.raises(ValueError, match="too few for the snapshots"):
        make_zoo(check_spec(tiny_spec | {"train_images": 40}, "here"), out)
    monkeypatch.setenv("METANET_DATA", str(tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match="get_images"):
        make_zoo(check_spec(tiny_spec | {"images": ["mnist"]}, "here"), out)
    assert not out.exists()


def test_the_plan_is_printed_and_nothing_is_made(spec_file, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run_script(monkeypatch, f"spec={spec_file}", "plan=true", "override.num_nets=24", "processes=1")
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["nets"] == "24"
    assert lines["architectures"] == "3"
    assert lines["snapshots"] == "72"
    assert re.fullmatch(r"about 0:00:\d\d in 1 processes here", lines["time"])
    assert 100 < int(lines["memory"].removeprefix("about ").split()[0]) < 2000
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.yaml"]


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["spec=no.yaml"], 66, "no.yaml: no such spec file"),
        (["spec=tiny.yaml", "override.epoch=2"], 65, "did you mean epochs?"),
        (["spec=tiny.yaml", "override.hyperparameters.dropout=2"], 65, "hyperparameters.dropout: found 2"),
        (["spec=tiny.yaml", "out=tiny.yaml"], 73, "tiny.yaml: found a file, expected a folder"),
        (["spec=tiny.yaml", "devise=cpu"], 65, "did you mean device=?"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_an_exit_code(
    spec_file, monkeypatch, capsys, words, code, message
):
    monkeypatch.chdir(spec_file.parent)
    with pytest.raises(SystemExit) as exit_:
        run_script(monkeypatch, *words)
    assert exit_.value.code == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert [path.name for path in spec_file.parent.iterdir()] == ["tiny.yaml"]


def test_a_second_process_is_refused_with_exit_code_75(spec_file, tmp_path, monkeypatch, capsys):
    out = tmp_path / "zoo"
    out.mkdir()
    with disk.one_writer(out), pytest.raises(SystemExit) as exit_:
        run_script(monkeypatch, f"spec={spec_file}", f"out={out}")
    assert exit_.value.code == 75
    assert f"process {os.getpid()}" in capsys.readouterr().err
    assert [path.name for path in out.iterdir()] == [".lock"]
