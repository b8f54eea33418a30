"""Programs: every operator computes and traces, and what is no program is told, never guessed."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

import metanet
from metanet.zoo import nets, programs
from metanet.zoo.families import program
from metanet.zoo.operators import OPERATORS, PLAIN

IMAGE = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1]}


def described(
    shape: list[int], steps: list[tuple[Any, ...]], tensors: dict[str, list[int]], dtype: str = "float32", **more: Any
) -> dict[str, Any]:
    """A program; a step is (name, op, inputs, attributes), and tensors called mean and variance are buffers."""
    named = [dict(zip(("name", "op", "inputs", "attributes"), step, strict=False)) for step in steps]
    buffers = {name: size for name, size in tensors.items() if name.startswith(("mean", "variance"))}
    return {
        "input": {"name": "x", "shape": shape, "dtype": dtype},
        "parameters": {name: size for name, size in tensors.items() if name not in buffers},
        "buffers": buffers,
        "constants": {},
        "steps": named,
        "outputs": [steps[-1][0]],
        **more,
    }


def net_of(program_: dict[str, Any], seed: int = 0) -> nn.Sequential:
    """The net with random weights, in eval mode; variances are positive."""
    net = nets.build(program.architecture(program_)).eval()
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in net.state_dict().items():
        tensor.copy_(torch.randn(tensor.shape, generator=generator))
        if "variance" in name:
            tensor.abs_().add_(0.5)
    return net


def behind(op: str, inputs: list[str | None], attributes: dict[str, Any], **tensors: list[int]) -> dict[str, Any]:
    """The operator behind a convolution of images [3, 6, 6] -> h [4, 6, 6], and in front of a dense layer."""
    shape, conv = [3, 6, 6], ("h", "conv", ["x", "w"], IMAGE)
    tensors = {"w": [4, 3, 1, 1], **tensors}
    probe = described(shape, [conv, ("y", op, inputs, attributes)], tensors)
    with torch.device("meta"):
        width = program.Program(probe)(torch.zeros(2, *shape)).flatten(1).shape[1]
    steps = [conv, ("y", op, inputs, attributes), ("z", "flatten", ["y"]), ("out", "linear", ["z", "v"])]
    return described(shape, steps, {**tensors, "v": [5, width]})


def sequence(op: str, inputs: list[str | None], attributes: dict[str, Any], **more: Any) -> dict[str, Any]:
    """The operator behind a dense layer on sequences [5, 3] -> h [5, 4]."""
    tensors = {"w": [4, 3], **more.pop("tensors", {})}
    return described([5, 3], [("h", "linear", ["x", "w"]), ("y", op, inputs, attributes)], tensors, **more)


WINDOW = {"kernel": [2, 2], "stride": [2, 2], "padding": [0, 0]}
TRANSPOSED = {"stride": [2, 2], "padding": [1, 1], "output_padding": [1, 1], "dilation": [1, 1]}
PLACES = {"places": {"shape": [2], "dtype": "int64", "values": [2, 0]}}
LOWER = {"lower": {"shape": [5, 5], "dtype": "bool", "values": [row >= col for row in range(5) for col in range(5)]}}
FULL = {"low": {"shape": [], "dtype": "float32", "values": [-1e9]}}
NORM = {"eps": 1e-5}
REDUCED = {"axes": [2, 3], "keep": True}
ATTRIBUTES: dict[str, tuple[list[str | None], dict[str, Any], dict[str, list[int]]]] = {
    "leaky_relu": (["h"], {"negative_slope": 0.1}, {}),
    "elu": (["h"], {"alpha": 0.5}, {}),
    "gelu": (["h"], {"approximate": "tanh"}, {}),
    "threshold": (["h"], {"threshold": 0.2, "value": 0.0}, {}),
    "clamp": (["h"], {"min": -0.5, "max": 0.5}, {}),
    "pow": (["h"], {"exponent": 2.0}, {}),
    "prelu": (["h", "slope"], {}, {"slope": [4]}),
    **dict.fromkeys(("add", "sub", "mul", "div"), (["h", "p"], {}, {"p": [4, 1, 1]})),
    **dict.fromkeys(("maximum", "minimum"), (["h", "p"], {}, {"p": [4, 1, 1]})),
    **dict.fromkeys(("add_number", "sub_from_number", "mul_number", "div_number"), (["h"], {"value": 1.5}, {})),
    "conv": (["h", "k", "b"], {**IMAGE, "groups": 2}, {"k": [6, 2, 3, 3], "b": [6]}),
    "conv_transpose": (["h", "k", "b"], TRANSPOSED, {"k": [4, 2, 3, 3], "b": [2]}),
    "batch_norm": (["h", None, "b", "mean", "variance"], NORM, {"b": [4], "mean": [4], "variance": [4]}),
    "instance_norm": (["h", "s", "b"], NORM, {"s": [4], "b": [4]}),
    "group_norm": (["h", "s", "b"], {"groups": 2, **NORM}, {"s": [4], "b": [4]}),
    "max_pool": (["h"], {**WINDOW, "dilation": [1, 1], "ceil_mode": True}, {}),
    "avg_pool": (["h"], {**WINDOW, "count_include_pad": False}, {}),
    "adaptive_avg_pool": (["h"], {"size": [2, 3]}, {}),
    "adaptive_max_pool": (["h"], {"size": [1, 1]}, {}),
    **dict.fromkeys(("mean", "sum", "amax", "amin", "var"), (["h"], REDUCED, {})),
    "norm": (["h"], {"axes": [1], "keep": True}, {}),
    "softmax": (["h"], {"axis": 1}, {}),
    "log_softmax": (["h"], {"axis": 1}, {}),
    "flatten": (["h"], {"start": 2}, {}),
    "reshape": (["h"], {"shape": [-1, 2, 2, 36]}, {}),
    "permute": (["h"], {"axes": [0, 2, 3, 1]}, {}),
    "unsqueeze": (["h"], {"axis": 2}, {}),
    "cat": (["h", "h"], {"axis": 1}, {}),
    "stack": (["h", "h"], {"axis": 2}, {}),
    "narrow": (["h"], {"axis": 1, "start": 1, "end": 4, "step": 2}, {}),
    "select": (["h"], {"axis": 3, "place": -1}, {}),
    "flip": (["h"], {"axes": [2]}, {}),
    "roll": (["h"], {"axes": [2, 3], "shifts": [1, 2]}, {}),
    "pad": (["h"], {"sides": [1, 2, 0, 1], "value": 0.5}, {}),
    "resize": (["h"], {"mode": "bilinear", "size": [9, 9], "align_corners": False}, {}),
    "pixel_shuffle": (["h"], {"factor": 2}, {}),
    "pixel_unshuffle": (["h"], {"factor": 2}, {}),
}
RECURRENT = {"a": [8, 4], "b": [8, 2], "c": [8], "d": [8]}
EXAMPLES: dict[str, dict[str, Any]] = {
    **{
        op: behind(op, ["h"], {})
        for op in OPERATORS
        if op in PLAIN or op in ("celu", "softplus", "softshrink", "hardshrink")
    },
    **{op: behind(op, inputs, attributes, **tensors) for op, (inputs, attributes, tensors) in ATTRIBUTES.items()},
    "linear": sequence("linear", ["h", "v", "b"], {}, tensors={"v": [2, 4], "b": [2]}),
    "matmul": sequence("matmul", ["h", "v"], {}, tensors={"v": [4, 2]}),
    "einsum": sequence("einsum", ["h", "v"], {"equation": "bti,io->bto"}, tensors={"v": [4, 2]}),
    "attention": sequence("attention", ["h", "h", "h"], {"is_causal": True}),
    "where": sequence(
        "where", ["lower", "scores", "low"], {}, tensors={"k": [4, 3]}, constants={**LOWER, **FULL}, outputs=["y"]
    ),
    "layer_norm": sequence("layer_norm", ["h", "s", None], {"shape": [4], **NORM}, tensors={"s": [4]}),
    "rms_norm": sequence("rms_norm", ["h", "s"], {"shape": [4], **NORM}, tensors={"s": [4]}),
    "index_select": sequence("index_select", ["h", "places"], {"axis": 1}, constants=PLACES),
    "squeeze": described(
        [3, 1, 6],
        [("h", "conv", ["x", "w"], IMAGE), ("s", "squeeze", ["h"], {"axis": 2})],
        {"w": [4, 3, 1, 1]},
    ),
    "expand": described(
        [5, 3],
        [
            ("h", "linear", ["x", "w"]),
            ("t", "expand", ["token", "x"], {"shape": [0, -1, -1]}),
            ("y", "cat", ["t", "h"], {"axis": 1}),
        ],
        {"w": [4, 3], "token": [1, 1, 4]},
    ),
    "embedding": described(
        [5], [("h", "embedding", ["x", "table"]), ("y", "linear", ["h", "w"])], {"table": [9, 4], "w": [2, 4]}, "int64"
    ),
    "recurrent": described(
        [5, 3],
        [
            ("h", "linear", ["x", "w"]),
            ("r", "recurrent", ["h", *RECURRENT], {"kind": "lstm"}),
            ("y", "item", ["r"], {"place": 0}),
        ],
        {"w": [4, 3], **RECURRENT},
    ),
}
EXAMPLES["item"] = EXAMPLES["recurrent"]
EXAMPLES["masked"] = sequence("masked", ["scores", "lower"], {}, tensors={"k": [4, 3]}, constants=LOWER, outputs=["p"])
EXAMPLES["masked"]["steps"].append({"name": "p", "op": "softmax", "inputs": ["y"], "attributes": {"axis": 2}})
CHOICE: list[tuple[Any, ...]] = [
    ("h", "linear", ["x", "w"]),
    ("a", "compare_number", ["h"], {"relation": "ge", "value": -0.3}),
    ("b", "compare", ["h", "p"], {"relation": "lt"}),
    ("c", "logical_and", ["a", "b"]),
    ("d", "logical_not", ["a"]),
    ("e", "logical_or", ["c", "d"]),
    ("t", "tanh", ["h"]),
    ("y", "where", ["e", "h", "t"]),
]
EXAMPLES |= {
    op: described([5, 3], CHOICE, {"w": [4, 3], "p": [4]}) for _, op, *_ in CHOICE if op.startswith(("comp", "logical"))
}
for attention in ("where", "masked"):
    EXAMPLES[attention]["steps"][1:1] = [
        {"name": "k_", "op": "linear", "inputs": ["x", "k"]},
        {"name": "kt", "op": "permute", "inputs": ["k_"], "attributes": {"axes": [0, 2, 1]}},
        {"name": "scores", "op": "matmul", "inputs": ["h", "kt"]},
    ]


@pytest.mark.parametrize("op", OPERATORS)
def test_every_operator_computes_and_traces(op: str):
    net = net_of(EXAMPLES[op])
    assert op in [step["op"] for step in EXAMPLES[op]["steps"]]
    x = torch.rand(2, *nets.input_shape(program.architecture(EXAMPLES[op])))
    if op in ("log", "log1p", "sqrt", "rsqrt"):
        net.state_dict()["net.w"].abs_()
    assert net(x).isfinite().all()
    template = metanet.trace(net, x)
    assert set(template.shapes) == set(net.state_dict())


def test_a_program_computes_what_the_module_computes():
    """torch's own layers are the oracle, with the same state_dict."""
    steps = [
        ("c", "conv", ["x", "0.weight", "0.bias"], {"stride": [2, 1], "padding": [1, 1], "dilation": [1, 1]}),
        ("n", "batch_norm", ["c", "1.weight", "1.bias", "mean", "variance"], NORM),
        ("r", "relu", ["n"]),
        ("p", "adaptive_avg_pool", ["r"], {"size": [1, 1]}),
        ("f", "flatten", ["p"]),
        ("y", "linear", ["f", "5.weight", "5.bias"]),
    ]
    tensors = {"0.weight": [4, 3, 3, 3], "0.bias": [4], "1.weight": [4], "1.bias": [4], "mean": [4], "variance": [4]}
    net = net_of(described([3, 7, 6], steps, {**tensors, "5.weight": [5, 4], "5.bias": [5]}))
    oracle = nn.Sequential(
        nn.Conv2d(3, 4, 3, (2, 1), 1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 5),
    ).eval()
    names = {"1.running_mean": "mean", "1.running_var": "variance"}
    ours = net.state_dict()
    oracle.load_state_dict(
        {name: ours.get(f"net.{names.get(name, name)}", value) for name, value in oracle.state_dict().items()}
    )
    x = torch.randn(2, 3, 7, 6)
    torch.testing.assert_close(net(x), oracle(x), rtol=0, atol=0)


def changed(change: Any) -> dict[str, Any]:
    """A sound program after `change` has been at it."""
    one = copy.deepcopy(behind("max_pool", ["h"], {**WINDOW, "dilation": [1, 1]}))
    change(one)
    return one


def step(**fields: Any) -> Any:
    return lambda one: one["steps"][1].update(fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda one: one.pop("buffers"), "program: found .* expected an object with input, parameters, buffers"),
        (lambda one: one.update(more=1), "program: found .*more"),
        (lambda one: one.update(steps=[]), "steps: found \\[\\], expected a list of at least one"),
        (lambda one: one.update(outputs=["w"]), "outputs: found \\['w'\\], expected names of steps"),
        (lambda one: one["input"].update(dtype="float16"), "found the dtype 'float16', expected float32 or int64"),
        (lambda one: one["input"].update(shape=[3, -1]), r"input: found the shape \[3, -1\], expected at most 8 sizes"),
        (lambda one: one["parameters"].update(w=[1 << 40]), "parameters: 'w': found the shape"),
        (lambda one: one["parameters"].update(x=[1]), "parameters: found the name 'x', expected .* nothing else"),
        (lambda one: one["buffers"].update({"w.a": [1]}), "no module can hold a tensor called 'w.a'"),
        (lambda one: one["buffers"].update({"a.forward": [1]}), "no module can hold a tensor called 'a.forward'"),
        (step(op="maxpool"), r"step 1 'y': unknown op 'maxpool'; did you mean max_pool\?"),
        (step(op="__import__"), "step 1 'y': unknown op '__import__'"),
        (step(op=["conv"]), "unknown op .'conv'."),
        (step(name="h"), r"step 1 'h' \(max_pool\): found the name 'h'"),
        (step(inputs="h"), "found the inputs 'h', expected a list of names"),
        (step(inputs=["g"]), r"step 1 'y' \(max_pool\) reads 'g', which is not there"),
        (step(inputs=["z"]), "reads 'z', which comes later: the steps are in a wrong order, or in a cycle"),
        (step(inputs=["y"]), "reads 'y', which comes later: .* or in a cycle"),
        (step(inputs=["h", "w"]), "found 2 inputs, expected 1$"),
        (step(inputs=[]), "found 0 inputs, expected 1$"),
        (step(inputs=[None]), "found null in place of the input x"),
        (step(op="linear", inputs=["h"]), r"\(linear\): found 1 inputs, expected 2 to 3"),
        (step(op="cat", inputs=[]), "found 0 inputs, expected 1 or more"),
        (step(op="item", attributes={"place": 0}), "item, and nothing else, reads one of several results"),
        (step(attributes=[1]), "found the attributes .1., expected"),
        (step(attributes={"kernels": [2]}), r"unknown attribute 'kernels'; did you mean kernel\?"),
        (step(attributes={"kernel": [2.5, 2]}), r"attribute 'kernel': found \[2.5, 2\], expected list\[int\]"),
        (step(attributes={"kernel": [True, 2]}), r"attribute 'kernel': found \[True, 2\]"),
        (step(attributes={"kernel": [2, 2]}), "missing are the attributes stride, padding, dilation"),
        (step(op="gelu", attributes={"approximate": "no"}), "found 'no', expected .*Literal"),
        (step(op="elu", attributes={"alpha": "1"}), "attribute 'alpha': found '1', expected float"),
        (step(attributes={**WINDOW, "dilation": [1 << 40, 1]}), "attribute 'dilation': found"),
        (step(op="reshape", attributes={"shape": [7, 7]}), r"step 'y' \(reshape\): shape '\[7, 7\]' is invalid"),
        (step(op="squeeze", attributes={"axis": 1}), "axis 1 of .* is not of size 1"),
        (step(op="narrow", attributes={"axis": 1, "start": 3, "end": 9}), "found places 3 to 9 in steps of 1 of 4"),
        (lambda one: one["constants"].update(c={"shape": [2], "dtype": "int64", "values": [1]}), "expected 2 values"),
        (lambda one: one["constants"].update(c={"shape": [1], "dtype": "int64", "values": [0.5]}), "not of the dtype"),
        (lambda one: one["constants"].update(c={"shape": [1], "dtype": "int8", "values": [0]}), "the dtype 'int8'"),
        (
            lambda one: (
                one["steps"].append({"name": "o", "op": "mean", "inputs": ["out"], "attributes": {"axes": [0]}})
                or one.update(outputs=["o"])
            ),
            r"of two samples it makes \[5\], expected \[2, ..., numbers\]",
        ),
    ],
)
def test_what_is_no_program_is_told(change: Any, message: str):
    program.architecture(changed(lambda one: None))
    with pytest.raises(ValueError, match=message):
        program.architecture(changed(change))


@pytest.mark.parametrize(
    ("text", "message"),
    [("[", "no readable JSON"), ("[" * 100_000, "no readable JSON"), ("3", "program: found '3'"), ("{}", "with input")],
)
def test_a_text_that_is_no_program_is_told(text: str, message: str):
    with pytest.raises(ValueError, match=message):
        nets.check({"family": "program", "program": text, "image_shape": [1, 1, 1], "num_classes": 2})


def test_an_architecture_is_known_by_its_program_and_says_its_sizes():
    one = program.architecture(EXAMPLES["conv"])
    assert (one["image_shape"], one["num_classes"]) == ([3, 6, 6], 5)
    assert nets.arch_name(one).startswith("program-")
    assert len(nets.arch_name(one)) < 60
    other = copy.deepcopy(EXAMPLES["conv"])
    other["steps"][1]["attributes"]["padding"] = [1, 1]
    assert nets.arch_name(program.architecture(EXAMPLES["relu"])) != nets.arch_name(one)
    with pytest.raises(ValueError, match=r"expected image_shape \[3, 6, 6\] and 5 classes, as its program says"):
        nets.check({**one, "num_classes": 7})
    words = program.architecture(EXAMPLES["embedding"])
    assert (words["image_shape"], nets.input_shape(words)) == ([1, 1, 5], [5])


def test_foreign_names_are_kept_where_a_module_can_hold_them():
    kept = ["a.weight", "a.bias", "onnx::Conv_12", "/layer.1/w", "b"]
    assert programs.usable(kept) == dict(zip(kept, kept, strict=True))
    names = ["a", "a.b", "a_b_", "train.x", "", "..", "c.d", "c", "state_dict"]
    found = programs.usable(names)
    assert len(set(found.values())) == len(names)
    one = described([3], [("y", "linear", ["x", "w"])], {"w": [2, 3], **{name: [1] for name in found.values()}})
    assert set(program.Program(one).state_dict()) == {"w", *found.values()}
