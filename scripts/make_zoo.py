"""Trains the nets of a spec into a zoo. Give the same command again after an interruption: it goes on from there.

    python scripts/make_zoo.py spec=zoo_specs/demo.yaml out=zoos/demo
    python scripts/make_zoo.py spec=zoo_specs/demo.yaml plan=true                  # what it will take
    python scripts/make_zoo.py spec=zoo_specs/demo.yaml out=zoos/tiny override.num_nets=64 override.images=[mnist]
    python scripts/make_zoo.py spec=zoo_specs/demo.yaml out=zoos/mnist images=[mnist]    # with the sets at hand alone
    python scripts/make_zoo.py spec=... out=... override.hyperparameters.dropout=[0,.3]

Image sets are read from $METANET_DATA, else ./data; `make data` gets them. docs/zoo.md explains specs and zoos.
"""

from dataclasses import dataclass, field
from typing import Any

from metanet import commandline, machine
from metanet.zoo import plan, sizes
from metanet.zoo.convolutions import VARIANTS
from metanet.zoo.estimate import estimate
from metanet.zoo.make import check_options, make_zoo
from metanet.zoo.spec import load_spec
from metanet.zoo.way import choose


@dataclass
class Options:
    spec: str = field(default=commandline.REQUIRED, metadata={"help": "a YAML file"})
    out: str | None = field(default=None, metadata={"help": "the zoo's folder (zoos/<name of the spec>)"})
    device: str = field(default="cpu", metadata={"help": "cpu, cuda or cuda:<number>"})
    processes: int | None = field(default=None, metadata={"help": "groups at once (one per core; what fills a GPU)"})
    executor: str = field(default="local", metadata={"help": "local, or ray for a cluster (docs/cluster.md)"})
    tf32: bool = field(default=False, metadata={"help": "on a GPU: products in tf32, faster and less exact"})
    convolution: str | None = field(default=None, metadata={"help": f"on a GPU: {', '.join(VARIANTS)} (fastest)"})
    graphs: bool | None = field(default=None, metadata={"help": "on a GPU: record steps as CUDA graphs (true)"})
    plan: bool = field(default=False, metadata={"help": "print what it will take, and stop"})
    images: list[str] | None = field(default=None, metadata={"help": "those of the spec's image sets (all)"})
    override: dict[str, Any] = field(default_factory=dict, metadata={"help": "fields of the spec: override.seed=1"})


def main(options: Options) -> None:
    spec = load_spec(options.spec, options.override)
    if options.images is not None:
        spec = spec.restricted(options.images)
    out = options.out or f"zoos/{spec.name}"
    way = choose(options.device, options.convolution, options.graphs, options.tf32)
    if options.plan:
        check_options(options.device, options.processes, options.executor, way)
        groups = plan.plan(spec.nets(), plan.STACK[options.device.split(":")[0]])
        print(sizes.summary(groups))
        print(estimate(spec, groups, options.device, options.processes, way))
        return
    machine.tune_allocator()
    zoo = make_zoo(spec, out, options.device, options.processes, options.executor, way)
    diverged = zoo.manifest["status"].to_pylist().count("diverged")
    told = f"{len(zoo):,} snapshots, {f'{diverged:,} of them' if diverged else 'none'} diverged"
    print(f"{out}: {spec.num_nets:,} nets of {len(zoo.archs)} architectures, {told}")


if __name__ == "__main__":
    commandline.run(main, Options)
