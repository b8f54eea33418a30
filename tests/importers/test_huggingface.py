"""Folders of Hugging Face: what transformers saves and loads is the oracle; what is hostile opens and runs nothing."""

import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from metanet import exporters
from metanet.arch.check import check_symmetry
from metanet.errors import RefusedError
from metanet.importers.intake.writing import import_zoo
from metanet.zoo import nets, pretrained
from metanet.zoo.families import huggingface
from metanet.zoo.store import Zoo
from tests.zoo.making import tree

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore")
transformers.utils.logging.disable_progress_bar()

SMALL = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
WORDS = {"vocab_size": 50, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 2}
GPT2 = {
    "vocab_size": 50,
    "n_embd": 12,
    "n_layer": 2,
    "n_head": 3,
    "n_positions": 16,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
NETS = {
    "GPT2LMHeadModel": ("gpt2", GPT2),
    "BertForMaskedLM": ("bert", WORDS | SMALL),
    "BertForSequenceClassification": ("bert", WORDS | SMALL | {"num_labels": 5}),
    "LlamaForCausalLM": ("llama", WORDS | SMALL | {"num_key_value_heads": 1, "hidden_size": 24}),
    "ViTForImageClassification": ("vit", {"image_size": 32, "patch_size": 8, "num_labels": 4} | SMALL),
    "ResNetForImageClassification": (
        *("resnet", {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_labels": 3}),
    ),
}


def made(name: str, seed: int = 0, **changes: Any) -> Any:
    """A net of transformers whose norms and running statistics are not those of a start."""
    model_type, config = NETS[name]
    torch.manual_seed(seed)
    net = getattr(transformers, name)(transformers.AutoConfig.for_model(model_type, **(config | changes)))
    with torch.no_grad():
        for key, tensor in net.state_dict().items():
            if tensor.is_floating_point():
                tensor += 0.1 * torch.rand_like(tensor) if "var" in key else 0.1 * torch.randn_like(tensor)
    return net.eval()


def put(folder: Path, name: str = "GPT2LMHeadModel", seed: int = 0, **how: Any) -> Path:
    made(name, seed).save_pretrained(folder, **how)
    return folder


def imported(source: Path, out: Path, **options: Any) -> Zoo:
    return import_zoo("huggingface", source, out, **options)


def about(zoo: Zoo, row: int = 0) -> dict[str, Any]:
    return json.loads(zoo.manifest["source.file"][row].as_py())


def reasons(zoo: Zoo) -> list[str]:
    return [one["detail"] for one in json.loads((zoo.path / "left_out.json").read_text())["left_out"]]


def outputs(net: Any, x: torch.Tensor) -> torch.Tensor:
    found = net(x)
    return found if isinstance(found, torch.Tensor) else found.logits


@pytest.mark.parametrize("name", NETS)
def test_an_imported_net_computes_what_from_pretrained_computes(tmp_path, name):
    zoo = imported(put(tmp_path / "net", name), tmp_path / "zoo")
    assert reasons(zoo) == []
    assert zoo.verify() == []
    arch = zoo.manifest["arch"][0].as_py()
    x = zoo.example_input(arch)
    x = x if zoo.archs[arch]["vocabulary"] else x.double()
    theirs = getattr(transformers, name).from_pretrained(tmp_path / "net", attn_implementation="eager").double()
    ours = zoo.module(0, 0).double()
    with torch.no_grad():
        torch.testing.assert_close(outputs(ours, x), outputs(theirs, x), rtol=1e-12, atol=1e-12)
        assert outputs(ours, x).shape[-1] == zoo.num_classes
        first = next(iter(ours.parameters()))
        first += torch.randn_like(first)
        assert (outputs(ours, x) - outputs(theirs, x)).abs().max() > 1e-6


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16])
def test_half_precision_is_stored_in_full_and_recorded(tmp_path, kind):
    net = made("GPT2LMHeadModel").to(kind)
    net.save_pretrained(tmp_path / "net")
    zoo = imported(tmp_path / "net", tmp_path / "zoo")
    found = zoo.state_dict(0, 0)
    for name, tensor in net.state_dict().items():
        assert found[f"net.{name}"].dtype == torch.float32
        assert torch.equal(found[f"net.{name}"], tensor.float())
    assert about(zoo)["metadata"] == {"format": "pt"}
    assert about(zoo)["types"] == {str(kind): len(found) - 1}
    assert about(zoo)["tied or renamed"] == ["lm_head.weight"]
    assert about(zoo)["config"]["dtype"] == str(kind).removeprefix("torch.")


def test_tied_weights_are_equal_or_the_net_is_left_out(tmp_path):
    net = put(tmp_path / "nets" / "tied")
    zoo = imported(net, tmp_path / "zoo")
    found = zoo.state_dict(0, 0)
    assert torch.equal(found["net.lm_head.weight"], found["net.transformer.wte.weight"])
    tensors = load_file(net / "model.safetensors")
    assert "lm_head.weight" not in tensors
    again = put(tmp_path / "nets" / "untied")
    save_file(tensors | {"lm_head.weight": tensors["transformer.wte.weight"] + 1}, again / "model.safetensors")
    (told,) = reasons(imported(tmp_path / "nets", tmp_path / "both"))
    assert (
        "untied: found lm_head.weight and transformer.wte.weight with other values, but the architecture ties" in told
    )


def test_the_names_of_other_versions_are_read_as_transformers_reads_them(tmp_path):
    """GPT-2 as it was published has no prefix, and the masks of its attention."""
    net = put(tmp_path / "net")
    before = imported(net, tmp_path / "before").state_dict(0, 0)
    tensors = {name.removeprefix("transformer."): t for name, t in load_file(net / "model.safetensors").items()}
    save_file(tensors | {"h.0.attn.bias": torch.ones(1, 1, 16, 16)}, net / "model.safetensors")
    zoo = imported(net, tmp_path / "zoo")
    after = zoo.state_dict(0, 0)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert "h.0.attn.bias" in about(zoo)["renamed or ignored"]


@pytest.mark.parametrize("bin", [False, True])
def test_shards_are_joined_by_their_index(tmp_path, bin):
    net = put(tmp_path / "net", max_shard_size="5KB")
    assert len(list(net.glob("model-*.safetensors"))) > 2
    whole = imported(put(tmp_path / "whole"), tmp_path / "before")
    if bin:
        index = json.loads((net / "model.safetensors.index.json").read_text())
        for path in net.glob("model-*.safetensors"):
            torch.save(load_file(path), net / path.name.replace("safetensors", "bin"))
            path.unlink()
        renamed = {name: file.replace("safetensors", "bin") for name, file in index["weight_map"].items()}
        (net / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": renamed}))
        (net / "model.safetensors.index.json").unlink()
    zoo = imported(net, tmp_path / "zoo")
    assert zoo.manifest["sha256"].equals(whole.manifest["sha256"])


def _missing(index: dict[str, str], net: Path) -> None:
    first, second = sorted(set(index.values()))[:2]
    index[next(name for name, file in index.items() if file == first)] = second


def _twice(index: dict[str, str], net: Path) -> None:
    first, second = sorted(set(index.values()))[:2]
    name = next(name for name, file in index.items() if file == first)
    save_file(load_file(net / second) | {name: load_file(net / first)[name]}, net / second)


def _points(file: str) -> Callable[[dict[str, str], Path], None]:
    return lambda index, net: index.update({next(iter(index)): file})


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (_missing, "but the index says otherwise"),
        (_twice, "is in it, but the index says otherwise"),
        (_points("nowhere.safetensors"), "no such file"),
        (lambda index, net: index.update({"lm": 3}), "expected weight_map, an object of file names"),
        (lambda index, net: index.clear(), "found 0 files, expected 1 to 1,000"),
        (_points("../outside.safetensors"), "refused to open '../outside.safetensors': a path upwards"),
        (_points("a/../../outside.safetensors"), "a path upwards"),
        (_points("/outside.safetensors"), "an absolute path"),
        (_points("C:outside.safetensors"), "an absolute path"),
        (_points("..\\outside.safetensors"), "NUL, a backslash or another unprintable character"),
        (_points("outside\0.safetensors"), "NUL, a backslash"),
        (_points("link.safetensors"), "a link leads outside the folder"),
        (_points("pipe"), "no ordinary file"),
    ],
)
def test_an_index_leads_to_its_own_shards_or_nowhere(tmp_path, change, told, monkeypatch):
    net = put(tmp_path / "net", max_shard_size="5KB")
    outside = tmp_path / "outside.safetensors"
    save_file({"secret": torch.ones(2)}, outside)
    (net / "link.safetensors").symlink_to(outside)
    (net / "pipe").mkdir()
    path = net / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    change(index["weight_map"], net)
    path.write_text(json.dumps(index))
    opened: list[Path] = []
    read = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda self: opened.append(self) or read(self))
    with pytest.raises(ValueError, match="no net could be imported") as found:
        imported(net, tmp_path / "zoo")
    assert told in str(found.value)
    assert isinstance(found.value, RefusedError) == ("refused to open" in str(found.value))
    assert outside not in [one.resolve() for one in opened]
    assert not (tmp_path / "zoo").exists()


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_links_lead_nowhere_outside_and_those_inside_are_followed(tmp_path, file):
    """The cache of the Hub is snapshots of links to blobs beside them."""
    net = put(tmp_path / "models--x" / "snapshots" / "abc")
    blob = tmp_path / "models--x" / "blobs" / "123"
    blob.parent.mkdir()
    shutil.move(net / file, blob)
    (net / file).symlink_to(blob)
    assert len(imported(tmp_path / "models--x", tmp_path / "zoo")) == 1
    with pytest.raises(RefusedError, match="a link leads outside the folder"):
        imported(net, tmp_path / "alone")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda t: t.pop("transformer.ln_f.bias"), "missing are transformer.ln_f.bias; unexpected are nothing"),
        (lambda t: t.update(more=torch.ones(2)), "missing are nothing; unexpected are more; mismatched are nothing"),
        (lambda t: t.update({"../../../up": torch.ones(2)}), "unexpected are ../../../up"),
        (
            lambda t: t.update({"transformer.ln_f.bias": torch.ones(3)}),
            r"ln_f.bias: found the shape (3,), expected (12,)",
        ),
        (lambda t: t.update({"transformer.ln_f.bias": torch.ones(12).long()}), "found torch.int64, expected floating"),
        (lambda t: t.update({"transformer.ln_f.bias": torch.full((12,), torch.nan)}), "ln_f.bias is not finite"),
        (
            lambda t: t.update({"transformer.ln_f.bias": torch.ones(12).to(torch.float8_e4m3fn)}),
            "found numbers of 'F8_E4M3', expected one of F64",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_named(tmp_path, change, told):
    put(tmp_path / "nets" / "good")
    bad = put(tmp_path / "nets" / "bad") / "model.safetensors"
    tensors = load_file(bad)
    change(tensors)
    save_file(tensors, bad)
    zoo = imported(tmp_path / "nets", tmp_path / "zoo")
    assert len(zoo) == 1
    (found,) = reasons(zoo)
    assert told in found
    assert "bad" in found
    assert {path.name for path in tmp_path.iterdir()} == {"nets", "zoo"}


CODE = {"AutoModelForCausalLM": "modeling.Evil"}


@pytest.mark.parametrize(
    ("change", "told", "refused"),
    [
        ({"auto_map": CODE}, "auto_map names code of its own ({'AutoModelForCausalLM'", True),
        ({"text_config": {"auto_map": CODE}}, "text_config.auto_map names code of its own", True),
        ({"extra": [{"auto_map": CODE}]}, "extra.auto_map names code of its own", True),
        ({"use_pretrained_backbone": True}, "use_pretrained_backbone names something to download", True),
        ({"backbone": "evil/net"}, "backbone names something to download (evil/net)", True),
        ({"quantization_config": {"bits": 4}}, "quantized weights are not read", False),
        ({"architectures": None}, "found architectures None, expected one class of transformers", False),
        ({"architectures": ["Evil"]}, "found the class Evil, expected one of transformers", False),
        ({"architectures": ["AutoModel"]}, "found the class AutoModel", False),
        ({"architectures": ["PreTrainedModel"]}, "found the class PreTrainedModel", False),
        ({"architectures": ["BertModel"]}, "made of another configuration than that of gpt2", False),
        ({"model_type": "evil"}, "Unrecognized model identifier: evil", False),
        ({"model_type": "timm_wrapper"}, "found model_type 'timm_wrapper'", False),
        ({"model_type": None}, "found model_type None", False),
        ({"vocab_size": 10**12}, "found vocab_size 1,000,000,000,000, expected at most", False),
        ({"n_layer": 10**6}, "more than 500 modules and parameters", False),
        ({"n_embd": "many"}, "no GPT2LMHeadModel", False),
        ({"n_head": 0}, "no GPT2LMHeadModel: ZeroDivisionError", False),
        ({"activation_function": "__import__('os')"}, "no GPT2LMHeadModel", False),
        ({"architectures": ["T5Model"], "model_type": "t5"}, "", False),
    ],
)
def test_a_configuration_runs_nothing_and_downloads_nothing(tmp_path, change, told, refused, monkeypatch):
    net = put(tmp_path / "net")
    (net / "modeling.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Evil: pass\n")
    config = json.loads((net / "config.json").read_text()) | change
    (net / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(pretrained, "MOST_MODULES", 500)

    def connected(*_: object) -> None:
        raise AssertionError("a connection")

    monkeypatch.setattr(socket.socket, "connect", connected)
    with pytest.raises(ValueError, match="no net could be imported") as found:
        imported(net, tmp_path / "zoo")
    assert told in str(found.value)
    assert isinstance(found.value, RefusedError) == refused
    assert {path.name for path in tmp_path.iterdir()} == {"net"}


def test_nets_that_read_several_inputs_are_told(tmp_path):
    config = {"architectures": ["T5Model"], "model_type": "t5", "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1}
    config |= {"num_heads": 2, "vocab_size": 20}
    with pytest.raises(ValueError, match="T5Model reads two inputs, expected input_ids alone or pixel_values alone"):
        huggingface.architecture(config)


def test_a_pickle_is_read_as_plain_tensors_or_not_at_all(tmp_path):
    for name in ("good", "evil"):
        net = put(tmp_path / "nets" / name)
        torch.save(load_file(net / "model.safetensors"), net / "pytorch_model.bin")
        (net / "model.safetensors").unlink()
    torch.save(torch.nn.Linear(2, 2), tmp_path / "nets" / "evil" / "pytorch_model.bin")
    zoo = imported(tmp_path / "nets", tmp_path / "zoo")
    assert zoo.manifest["source.path"].to_pylist() == ["good"]
    assert "torch.nn.modules.linear.Linear" in reasons(zoo)[0]


def test_folders_of_one_configuration_share_one_architecture_and_labels_are_columns(tmp_path):
    for number in range(4):
        put(tmp_path / "nets" / f"net{number}", seed=number)
    config = tmp_path / "nets" / "net1" / "config.json"
    said = json.loads(config.read_text()) | {"_name_or_path": "else", "transformers_version": "1", "dtype": "float64"}
    said |= {"resid_pdrop": 0.5, "initializer_range": 1.0}
    config.write_text(json.dumps({name: said[name] for name in reversed(said)}))
    lines = [f"net{number},{('adam', 'sgd')[number % 2]},{10.0**-number}" for number in range(3)]
    (tmp_path / "nets" / "metadata.csv").write_text("\n".join(["path,optimizer,learning_rate", *lines, "gone,x,1"]))
    zoo = imported(tmp_path / "nets", tmp_path / "zoo")
    assert len(zoo.archs) == 1
    assert zoo.manifest["optimizer"].to_pylist() == ["adam", "sgd", "adam", None]
    assert zoo.manifest["learning_rate"].to_pylist() == [1.0, 0.1, 0.01, None]
    assert reasons(zoo) == ["gone: no config.json there, which metadata.csv names"]
    (tmp_path / "nets" / "metadata.csv").write_text("path\nnet1\n./net1/\n")
    with pytest.raises(ValueError, match=r"metadata\.csv: found two rows for net1, expected one row for each folder"):
        imported(tmp_path / "nets", tmp_path / "twice")


def test_the_checkpoints_of_a_trainer_are_snapshots_of_a_run(tmp_path):
    for name in "ab":
        for step in (5, 10):
            net = put(tmp_path / name / f"checkpoint-{step}", seed=step)
            (net / "trainer_state.json").write_text(json.dumps({"global_step": step, "epoch": step / 5}))
            torch.save({"args": print}, net / "training_args.bin")  # nobody reads it
    zoo = imported(tmp_path, tmp_path / "zoo")
    assert [zoo.steps(net) for net in (0, 1)] == [[5, 10], [5, 10]]
    assert zoo.manifest["epoch"].to_pylist() == [1.0, 2.0] * 2
    assert len(set(zoo.manifest["lineage"].to_pylist())) == 2


def test_the_zoo_is_exported_as_folders_that_transformers_reads(tmp_path):
    source = tmp_path / "source"
    for name in ("GPT2LMHeadModel", "ViTForImageClassification"):
        put(source / name, name)
    zoo = imported(source, tmp_path / "zoo")
    exporters.export_nets(zoo, exporters.choose(zoo), "huggingface", tmp_path / "out", shard_size=5_000)
    for number, name in enumerate(("GPT2LMHeadModel", "ViTForImageClassification")):
        out = tmp_path / "out" / f"net-{number}-step-0"
        theirs, about = getattr(transformers, name).from_pretrained(out, output_loading_info=True)
        assert not any(about.values())
        assert all(torch.equal(tensor, made(name).state_dict()[key]) for key, tensor in theirs.state_dict().items())
    assert (tmp_path / "out" / "net-0-step-0" / "model.safetensors.index.json").is_file()
    again = imported(tmp_path / "out", tmp_path / "again")
    assert again.archs == zoo.archs
    assert again.manifest["sha256"].equals(zoo.manifest["sha256"])
    exporters.export_nets(zoo, exporters.choose(zoo), "state_dicts", tmp_path / "plain")
    plain = import_zoo("state_dicts", tmp_path / "plain", tmp_path / "third")
    assert plain.manifest["sha256"].equals(zoo.manifest["sha256"])


def test_an_architecture_that_lies_about_its_configuration_is_refused(tmp_path):
    arch = huggingface.architecture(json.loads((put(tmp_path / "net") / "config.json").read_text()))
    nets.check(arch)
    with pytest.raises(ValueError, match="expected vocabulary 50, as its configuration says"):
        nets.check(arch | {"vocabulary": 10**6})
    with pytest.raises(ValueError, match="config: no JSON"):
        nets.check(arch | {"config": "{"})
    config = json.loads((tmp_path / "net" / "config.json").read_text())
    (tmp_path / "net" / "config.json").write_text(json.dumps(config | {"metanet": {"arch": arch | {"vocabulary": 51}}}))
    with pytest.raises(ValueError, match="expected vocabulary 50"):
        imported(tmp_path / "net", tmp_path / "zoo")


def test_without_transformers_it_is_told_what_to_install(tmp_path, monkeypatch):
    zoo = imported(put(tmp_path / "net"), tmp_path / "zoo")

    def missing(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(pretrained, "_import", missing)
    huggingface._architecture.cache_clear()
    assert len(Zoo(tmp_path / "zoo").manifest) == 1  # tables need no library
    told = r"No module named 'transformers'.*pip install 'metanet\[huggingface\]'"
    with pytest.raises(ValueError, match=told):
        zoo.module(0, 0)
    with pytest.raises(ValueError, match=told):
        imported(tmp_path / "net", tmp_path / "again")


def test_equal_folders_give_equal_zoos(tmp_path):
    put(tmp_path / "net", max_shard_size="5KB")
    for name in "ab":
        imported(tmp_path / "net", tmp_path / name / "zoo")
    assert tree(tmp_path / "a" / "zoo") == tree(tmp_path / "b" / "zoo")


def test_words_that_a_graph_is_traced_with_lie_in_the_vocabulary(tmp_path):
    zoo = imported(put(tmp_path / "net"), tmp_path / "zoo")
    (arch,) = zoo.archs
    words = zoo.example_input(arch)
    assert words.shape == (2, 8)
    assert words.dtype == torch.int64
    assert 0 <= words.min() <= words.max() < 50
    assert len(words.unique()) > 5
    template = zoo.template(arch, "own")
    assert check_symmetry(template, zoo.module(0, 0), words, samples=1) < 1e-10


@pytest.mark.slow
def test_a_damaged_configuration_is_an_error_or_another_configuration(tmp_path):
    """Every length of it, and a thousand flipped bits: what comes out is one error, or a net of which all fits."""
    config = json.dumps({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", **GPT2}).encode()
    whole = huggingface.architecture(json.loads(config))
    generator = np.random.default_rng(0)
    damaged = [config[:length] for length in range(len(config))]
    for _ in range(1000):
        changed = bytearray(config)
        changed[generator.integers(len(config))] ^= 1 << generator.integers(8)
        damaged.append(bytes(changed))
    outcomes = {"error": 0, "another": 0}
    for data in damaged:
        try:
            arch = huggingface.architecture(pretrained.parse(data.decode("utf-8")))
            nets.check(arch)
            assert arch != whole
            outcomes["another"] += 1
        except ValueError:
            outcomes["error"] += 1
    assert min(outcomes.values()) > 20, outcomes
