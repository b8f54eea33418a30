import torch

import metanet
from metanet.views.sequence import entries, sequence
from metanet.zoo.nets import build

CNN = {
    "family": "nws_cnn",
    "filter_size": 3,
    "conv_depth": 3,
    "conv_width": 2,
    "dense_depth": 2,
    "dense_width": 6,
    "image_shape": [1, 9, 9],
    "num_classes": 4,
    "batch_norm": True,
}


def test_the_order_is_that_of_the_computation_and_of_the_nws_release_within_a_layer():
    template = metanet.trace(build(CNN), torch.randn(2, 1, 9, 9))
    names = [entry.name for entry in entries(template)]
    layer = ["conv1.weight", "conv1.bias", "conv_norm1.bias", "conv_norm1.weight"]
    assert names[:6] == [*layer, "conv_norm1.running_mean", "conv_norm1.running_var"]
    assert names[6] == "conv2.weight"
    assert names[-2:] == ["head.weight", "head.bias"]
    assert {entry.name: entry.part for entry in entries(template)}["dense1.weight"] == "flatten"


def test_every_number_of_every_net_stands_in_the_sequence_once():
    template = metanet.trace(build(CNN), torch.randn(2, 1, 9, 9))
    sizes = {name: (3, *shape) for name, shape in template.shapes.items()}
    count = sum(torch.Size(shape).numel() for shape in sizes.values())
    values = torch.arange(count).split([torch.Size(shape).numel() for shape in sizes.values()])
    params = {name: v.view(shape).float() for (name, shape), v in zip(sizes.items(), values, strict=True)}
    row = sequence(template, params)
    assert torch.equal(row.flatten().sort().values, torch.arange(count).float())
    assert torch.equal(row[1, :18], params["conv1.weight"][1].flatten())
    assert torch.equal(row[1, -4:], params["head.bias"][1])
