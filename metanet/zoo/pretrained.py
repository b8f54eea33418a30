"""Configurations of transformers: checked as what they are, foreign and perhaps hostile, and made into modules.

Only classes of the library itself are made, with random weights: nothing is downloaded and no code of theirs is run.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from importlib import import_module as _import
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registration

from metanet.errors import RefusedError

MOST_MODULES = 20_000  # of a net, and parameters: a configuration may claim any depth
MOST_SIZE = 1 << 24  # of any whole number in a configuration, except the base of rotary codes
# Says nothing of the function: where it came from, in what numbers it was kept, and how it is run.
IGNORED = ("architectures", "dtype", "torch_dtype", "transformers_version", "label2id", "id2label", "use_cache")
IGNORED += (
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "attn_implementation",
    "experts_implementation",
    "task_specific_params",
    "metanet",
)
TRAINING = re.compile(r"dropout|pdrop|drop_path|layerdrop|initializer")  # settings that a finished net does not read
RUNS_CODE = ("auto_map", "custom_pipelines")
DOWNLOADS = ("backbone", "use_timm_backbone", "use_pretrained_backbone", "use_kernels")


def parse(text: str) -> dict[str, Any]:
    """A configuration from its text.

    Raises:
        ValueError: no JSON object.
    """
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"config: no JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"config: found a {type(found).__name__}, expected an object")
    return found


def built(model: str, config: Mapping[str, Any]) -> nn.Module:
    """The module that a configuration says, of a class of transformers, with random weights, in eval mode.

    Raises:
        RefusedError: it names code outside transformers, or something to download.
        ValueError: no such class, or no net; transformers is not installed.
    """
    with _errors_are_of(model):
        made, its_config = _class(model, config)
        return made(its_config).eval()


def loaded(model: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The state_dict, in float32, after transformers has loaded a checkpoint's tensors: under names of other versions,
    without the head's prefix, or with entries that the class ignores.

    Raises:
        RefusedError: as `built`.
        ValueError: as `built`; or tensors that are missing, left over or of another shape.
    """
    with _errors_are_of(model):
        made, its_config = _class(model, config)
        module, about = made.from_pretrained(
            None,
            config=its_config,
            state_dict=dict(tensors),
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # they are told below, with the others
            output_loading_info=True,
        )
    wrong = {what: sorted(map(str, about[f"{what}_keys"])) for what in ("missing", "unexpected", "mismatched")}
    if any(wrong.values()):
        told = "; ".join(f"{what} are {', '.join(names[:6]) or 'nothing'}" for what, names in wrong.items())
        raise ValueError(f"the tensors do not fit {model}: {told}")
    return dict(module.state_dict())


def _class(model: str, config: Mapping[str, Any]) -> tuple[Any, Any]:
    """A class of transformers, and the configuration that it takes."""
    transformers = _library()
    _check(config)
    values = settled(config)
    model_type = values.pop("model_type", None)
    if not isinstance(model_type, str) or model_type.startswith("timm"):
        raise ValueError(f"found model_type {model_type!r}, expected one of transformers")
    found: Any = getattr(transformers, model, None)
    own = isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    if not own or not found.__module__.startswith("transformers.models."):
        raise ValueError(f"found the class {model}, expected one of transformers {transformers.__version__}")
    made = transformers.AutoConfig.for_model(model_type, **values, attn_implementation="eager", use_cache=False)
    if type(made) is not found.config_class:
        raise ValueError(f"{model} is made of another configuration than that of {model_type}")
    return found, made


@contextlib.contextmanager
def _errors_are_of(model: str) -> Iterator[None]:
    """Inside, nothing is downloaded or printed, nets are of bounded size, and a bad configuration is one error."""
    transformers = _library()
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    try:
        with _offline(), _bounded():
            logging.set_verbosity(logging.CRITICAL)
            logging.disable_progress_bar()
            yield
    except RefusedError:
        raise
    except Exception as error:  # a damaged configuration provokes anything; all of it says that this is no net
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        raise ValueError(f"config: no {model}: {kind}{' '.join(str(error).split())[:300]}") from error
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _check(config: Mapping[str, Any], where: str = "") -> None:
    """Raises RefusedError for a configuration that runs code or downloads, ValueError for one of too large numbers."""
    for name, value in config.items():
        place = f"{where}{name}"
        if (name in RUNS_CODE and value) or (name in DOWNLOADS and value):
            what = "code of its own" if name in RUNS_CODE else "something to download"
            raise RefusedError(f"config: refused: {place} names {what} ({str(value)[:80]}); only transformers is used")
        if name == "quantization_config" and value:
            raise ValueError(f"config: found {place}: quantized weights are not read")
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, dict):
                _check(one, f"{place}.")
            if type(one) is int and abs(one) > MOST_SIZE and not name.endswith("theta"):
                raise ValueError(f"config: found {place} {one:,}, expected at most {MOST_SIZE:,}")


def settled(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what says nothing of the function; the names of classes become their number."""
    labels = config.get("id2label")
    kept = {
        name: settled(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if name not in IGNORED and not TRAINING.search(name) and not name.startswith("_") and name.isidentifier()
    }
    return {"num_labels": len(labels), **kept} if isinstance(labels, dict) and labels else kept


def _library() -> Any:
    try:
        return _import("transformers")
    except ImportError as error:
        raise ValueError(
            f"nets of family huggingface are made by transformers ({error}): pip install 'metanet[huggingface]'"
        ) from error


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Whatever a configuration names, nothing is downloaded for it."""
    constants: Any = _import("huggingface_hub.constants")
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    """Ends the making of a net of more than MOST_MODULES modules, or parameters."""
    count = 0

    def counted(*_: object) -> None:
        nonlocal count
        count += 1
        if count > MOST_MODULES:
            raise ValueError(f"more than {MOST_MODULES:,} modules and parameters")

    hooks = [
        registration.register_module_module_registration_hook(counted),
        registration.register_module_parameter_registration_hook(counted),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
