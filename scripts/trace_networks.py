"""Which public networks become parameter graphs: a Markdown table, one row per network.

    pip install --no-deps pytorchcv monai && pip install transformers
    python scripts/trace_networks.py                             # all of them
    python scripts/trace_networks.py only=transformers check=true

pytorchcv's networks have their published sizes and read an image, most of them of 224 x 224 pixels; those of
transformers and monai are built small (scripts/networks.yaml); nothing is downloaded. Seconds are those of
`metanet.trace`, the export by torch included.
With `check` a permuted copy of every network is compared with it in float64. A network that is refused has the reason
in its row. Their packages are no dependencies of metanet; a network whose package is missing is left out.
"""

import importlib
import re
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn

from metanet import commandline
from metanet.arch.check import check_symmetry
from metanet.arch.trace import trace

PYTORCHCV = (
    *("resnet:resnet18", "resnet:resnet50", "preresnet:preresnet18", "seresnet:seresnet18", "resnext:resnext50_32x4d"),
    *(
        "densenet:densenet121",
        "mobilenet:mobilenet_w1",
        "mobilenetv2:mobilenetv2_w1",
        "mobilenetv3:mobilenetv3_large_w1",
    ),
    *("shufflenet:shufflenet_g1_w1", "shufflenetv2:shufflenetv2_w1", "efficientnet:efficientnet_b0", "vgg:vgg11"),
    *("alexnet:alexnet", "squeezenet:squeezenet_v1_0", "wrn:wrn50_2", "regnet:regnetx002", "ghostnet:ghostnet"),
    *("mnasnet:mnasnet_b1", "senet:senet16", "sknet:sknet50", "bagnet:bagnet9", "dpn:dpn68", "hardnet:hardnet39ds"),
    *("airnet:airnet50_1x64d_r2", "airnext:airnext50_32x4d_r2"),
    *("bamresnet:bam_resnet18", "bninception:bninception"),
    *("cgnet:cgnet_cityscapes", "darknet:darknet_ref"),
    *("darknet53:darknet53", "deeplabv3:deeplabv3_resnetd50b_voc"),
    *("dla:dla34", "espnetv2:espnetv2_wd2"),
    *("fbnet:fbnet_cb", "fdmobilenet:fdmobilenet_w1"),
    *("fishnet:fishnet99", "hrnet:hrnet_w18_small_v1"),
    *("ibnresnext:ibn_resnext50_32x4d", "igcv3:igcv3_w1"),
    *("inceptionresnetv2:inceptionresnetv2", "inceptionv3:inceptionv3"),
    *("inceptionv4:inceptionv4", "mixnet:mixnet_s"),
    *("msdnet:msdnet22", "nasnet:nasnet_4a1056"),
    *("nin_cifar:nin_cifar10", "peleenet:peleenet"),
    *("pnasnet:pnasnet5large", "polynet:polynet"),
    *("proxylessnas:proxylessnas_cpu", "pspnet:pspnet_resnetd50b_voc"),
    *("resattnet:resattnet56", "resnesta:resnestabc14"),
    *("scnet:scnet50", "sparsenet:sparsenet121"),
)
SIDES = {  # of images that are not 224 x 224 pixels
    **dict.fromkeys(("inceptionv3", "inceptionv4", "inceptionresnetv2"), 299),
    **dict.fromkeys(("pnasnet5large", "polynet"), 331),
    **dict.fromkeys(("deeplabv3_resnetd50b_voc", "pspnet_resnetd50b_voc"), 480),
}
SMALL = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 20}
WORDS = {"vocab_size": 50, "max_position_embeddings": 16}
PATCHES = {"image_size": 32, "patch_size": 8}
STAGES = {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 2, 1]}
LLAMA = {**WORDS, **SMALL, "hidden_size": 24, "num_attention_heads": 4, "num_key_value_heads": 2, "use_cache": False}
TRANSFORMERS: dict[str, tuple[str, dict[str, Any], bool]] = {  # model -> configuration, its settings, reads words
    "GPT2LMHeadModel": (
        "GPT2Config",
        {"vocab_size": 50, "n_embd": 12, "n_layer": 2, "n_head": 3, "use_cache": False},
        True,
    ),
    "BertModel": ("BertConfig", WORDS | SMALL, True),
    "BertForMaskedLM": ("BertConfig", WORDS | SMALL, True),
    "DistilBertModel": ("DistilBertConfig", {"vocab_size": 50, "dim": 12, "n_layers": 2, "n_heads": 3}, True),
    "RobertaModel": ("RobertaConfig", WORDS | SMALL, True),
    "LlamaForCausalLM": ("LlamaConfig", LLAMA, True),
    "MistralForCausalLM": ("MistralConfig", LLAMA, True),
    "T5EncoderModel": ("T5Config", {"vocab_size": 50, "d_model": 12, "d_kv": 4, "d_ff": 20, "num_heads": 3}, True),
    "ViTForImageClassification": ("ViTConfig", PATCHES | SMALL, False),
    "DeiTModel": ("DeiTConfig", PATCHES | SMALL, False),
    "SwinForImageClassification": (
        "SwinConfig",
        {"image_size": 32, "patch_size": 2, "embed_dim": 12, "depths": [2, 2], "num_heads": [2, 3], "window_size": 4},
        False,
    ),
    "ConvNextForImageClassification": ("ConvNextConfig", STAGES, False),
    "RegNetForImageClassification": ("RegNetConfig", STAGES | {"embedding_size": 8, "groups_width": 4}, False),
    "ResNetForImageClassification": ("ResNetConfig", STAGES | {"embedding_size": 8}, False),
    "PoolFormerModel": ("PoolFormerConfig", STAGES, False),
}
MORE = Path(__file__).with_name("networks.yaml")
TOKENS, IMAGE = torch.zeros(2, 6, 12), torch.zeros(1, 3, 32, 32)
TORCH: dict[str, tuple[Callable[[], nn.Module], tuple[Tensor, ...]]] = {
    "nn.LSTM": (lambda: nn.LSTM(12, 8, num_layers=2, bidirectional=True), (TOKENS,)),
    "nn.GRU": (lambda: nn.GRU(12, 8), (TOKENS,)),
    "nn.RNN": (lambda: nn.RNN(12, 8, num_layers=2), (TOKENS,)),
    "nn.MultiheadAttention": (lambda: nn.MultiheadAttention(12, 3, batch_first=True), (TOKENS, TOKENS, TOKENS)),
    "nn.TransformerEncoderLayer": (lambda: nn.TransformerEncoderLayer(12, 3, 16, batch_first=True), (TOKENS,)),
    "nn.Transformer": (lambda: nn.Transformer(12, 3, 2, 2, 16, batch_first=True), (TOKENS, TOKENS)),
    "nn.Bilinear": (lambda: nn.Bilinear(12, 12, 5), (TOKENS, TOKENS)),
}


@dataclass
class Options:
    only: str = field(default="", metadata={"help": "networks whose name, package:network, contains this"})
    check: bool = field(default=False, metadata={"help": "compare a permuted copy of each with it"})


def networks() -> Iterator[tuple[str, Callable[[], nn.Module], tuple[Tensor, ...]]]:
    """The name of each network, a function that makes it, and its inputs."""
    for name in PYTORCHCV:
        module, _, factory = name.partition(":")
        image = torch.zeros(1, 3, *[SIDES.get(factory, 224)] * 2)
        yield f"pytorchcv:{factory}", lambda m=module, f=factory: _pytorchcv(m, f), (image,)
    for name, (config, settings, words) in TRANSFORMERS.items():
        inputs = (torch.zeros(2, 7, dtype=torch.int64),) if words else (IMAGE,)
        yield f"transformers:{name}", lambda n=name, c=config, s=settings: _transformers(n, c, s), inputs
    more = yaml.safe_load(MORE.read_text())
    for name, one in more["transformers"].items():
        inputs = (torch.zeros(2, 7, dtype=torch.int64) if one["input"] == "words" else torch.zeros(one["input"]),)
        make = lambda n=name, c=one["config"], s=one["settings"]: _transformers(n, c, s)  # noqa: E731
        yield f"transformers:{name}", make, inputs
    for name, one in more["monai"].items():
        make = lambda n=name, s=one["settings"]: getattr(importlib.import_module("monai.networks.nets"), n)(**s)  # noqa: E731
        yield f"monai:{name}", make, (torch.zeros(one["input"]),)
    for name, (make, inputs) in TORCH.items():
        yield f"torch:{name}", make, inputs


def _pytorchcv(module: str, factory: str) -> nn.Module:
    return getattr(importlib.import_module(f"pytorchcv.models.{module}"), factory)()


def _transformers(name: str, config: str, settings: dict[str, Any]) -> nn.Module:
    package = importlib.import_module("transformers")
    return getattr(package, name)(getattr(package, config)(**settings))


def row(name: str, make: Callable[[], nn.Module], inputs: tuple[Tensor, ...], check: bool) -> str:
    """The network's line of the table."""
    torch.manual_seed(0)
    try:
        net = make().eval()
    except ImportError:
        return f"| {name} | package not installed | | | |"
    count = sum(parameter.numel() for parameter in net.parameters())
    start = time.perf_counter()
    try:
        template = trace(net, *inputs)
    except ValueError as error:
        why = re.sub(r" \(/[^)]*\)|Add one to a file.*", "", str(error).splitlines()[0])  # without the place on disk
        return f"| {name} | {count:,} | {time.perf_counter() - start:.1f} | | {why} |"
    seconds = time.perf_counter() - start
    # Some networks of transformers compute parts in float32 whatever they are given.
    error = f"{check_symmetry(template, net, *inputs, samples=1, tolerance=1e-5):.0e}" if check else ""
    return f"| {name} | {count:,} | {seconds:.1f} | {template.symmetry.log10_order:,.3f} | {error} |"


def main(options: Options) -> None:
    warnings.simplefilter("ignore")
    print(
        "| network | parameters | seconds | log10 of the group's order | error of a permuted copy, or what it lacks |"
    )
    print("|---|---:|---:|---:|---|")
    for name, make, inputs in networks():
        if options.only in name:
            print(row(name, make, inputs, options.check), flush=True)


if __name__ == "__main__":
    commandline.run(main, Options)
