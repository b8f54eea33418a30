import random

import pytest

import metanet
from metanet.zoo import templates
from metanet.zoo.store import Zoo


@pytest.fixture
def written(copy) -> tuple[Zoo, str]:
    """A zoo in which one template has been left, and its architecture."""
    arch = min(copy.archs)
    (copy.path / "templates").mkdir()
    templates.write(templates.path(copy.path, arch, "relu"), copy.archs[arch], "relu", copy.template(arch, "relu"))
    return metanet.open_zoo(copy.path), arch


def traced(zoo: Zoo, monkeypatch) -> list[tuple[str, str]]:
    """What the zoo traces from now on."""
    seen: list[tuple[str, str]] = []
    real = zoo._trace
    monkeypatch.setattr(
        zoo, "_trace", lambda arch, activation: seen.append((arch, activation)) or real(arch, activation)
    )
    return seen


def test_a_template_that_was_left_is_read_and_not_traced(written, tiny_zoo, monkeypatch):
    zoo, arch = written
    seen = traced(zoo, monkeypatch)
    assert zoo.template(arch, "relu") == tiny_zoo.template(arch, "relu")
    assert seen == []
    assert zoo.template(arch, "tanh") != zoo.template(arch, "relu")
    assert seen == [(arch, "tanh")]


def test_a_template_of_another_architecture_activation_or_code_is_not_taken(written, tiny_zoo, monkeypatch):
    zoo, arch = written
    path, other = templates.path(zoo.path, arch, "relu"), max(zoo.archs)
    seen = traced(zoo, monkeypatch)
    templates.path(zoo.path, arch, "tanh").write_bytes(path.read_bytes())
    templates.path(zoo.path, other, "relu").write_bytes(path.read_bytes())
    assert zoo.template(arch, "tanh") == tiny_zoo.template(arch, "tanh")
    assert zoo.template(other, "relu") == tiny_zoo.template(other, "relu")
    monkeypatch.setattr(templates, "_code", lambda: "another rule")
    zoo.template(arch, "relu")
    assert seen == [(arch, "tanh"), (other, "relu"), (arch, "relu")]


def test_a_damaged_template_is_an_error_or_traced_anew_but_never_believed(written, tiny_zoo):
    zoo, arch = written
    path = templates.path(zoo.path, arch, "relu")
    data, draw, errors = path.read_bytes(), random.Random(0), 0
    for _ in range(100):
        place = draw.randrange(len(data))
        path.write_bytes(data[:place] + bytes([data[place] ^ 1 << draw.randrange(8)]) + data[place + 1 :])
        try:
            found = templates.read(path, zoo.archs[arch], "relu")
        except ValueError as error:
            assert f"{path}: damaged" in str(error)  # noqa: PT017 (other places give no error)
            errors += 1
        else:
            assert found in (None, tiny_zoo.template(arch, "relu"))
    assert errors > 50
