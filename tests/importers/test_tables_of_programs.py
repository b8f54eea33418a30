"""A table may say that its nets are programs: the zoo then needs nothing but itself."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from metanet.importers.intake.writing import import_zoo
from metanet.zoo import templates
from metanet.zoo.families import program
from tests.zoo.test_programs import EXAMPLES, net_of


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Two nets of one program and one of another, with the names that the program gives its tensors."""
    folder = tmp_path / "own"
    folder.mkdir()
    lines = ["path,arch,lr"]
    for number, op in enumerate(("conv", "conv", "batch_norm")):
        state_dict = net_of(EXAMPLES[op], seed=number).state_dict()
        save_file(
            {name.removeprefix("net."): value for name, value in state_dict.items()}, folder / f"{number}.safetensors"
        )
        lines.append(f"{number}.safetensors,{op},0.{number}")
    (folder / "nets.csv").write_text("\n".join(lines) + "\n")
    archs = {op: program.architecture(EXAMPLES[op]) for op in ("conv", "batch_norm")}
    (folder / "archs.json").write_text(json.dumps(archs))
    return folder


def test_a_zoo_of_programs_is_an_ordinary_zoo(own: Path, tmp_path: Path):
    zoo = import_zoo("table", own, tmp_path / "zoo")
    assert zoo.verify() == []
    assert len(zoo.archs) == 2
    x = torch.rand(2, 3, 6, 6)
    for number, op in enumerate(("conv", "conv", "batch_norm")):
        (row,) = [row for row in zoo.manifest.to_pylist() if row["source.path"] == f"{number}.safetensors"]
        torch.testing.assert_close(zoo.module(row["net"], 0)(x), net_of(EXAMPLES[op], seed=number)(x), rtol=0, atol=0)
        assert row["arch"].startswith(f"program-{row['program']}")
        template = zoo.template(row["arch"], row["activation"])
        assert set(template.shapes) == set(zoo.state_dict(row["net"], 0))
        assert templates.path(zoo.path, row["arch"], "own").name.endswith("-own.json")


def test_weights_that_do_not_fit_their_program_are_left_out(own: Path, tmp_path: Path):
    archs = json.loads((own / "archs.json").read_text())
    broken = json.loads(archs["batch_norm"]["program"])
    broken["steps"][1]["op"] = "eval"
    archs["batch_norm"]["program"] = json.dumps(broken)
    (own / "archs.json").write_text(json.dumps(archs))
    zoo = import_zoo("table", own, tmp_path / "zoo")
    (told,) = json.loads((zoo.path / "left_out.json").read_text())["left_out"]
    assert "program: step 1 'y': unknown op 'eval'" in told["detail"]
