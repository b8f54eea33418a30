"""Gradient boosting on a table of features, one ensemble of trees per target, kept as tensors."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from jaxtyping import Float, Float64, Shaped
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from torch import Tensor
from torch.nn import functional as F

from metanet.targets import Target

Trees = dict[str, Tensor]
_UNSEEN = -10.0  # the logit of a class that no training net has; those of seen classes are near 0 or above
_TOLERANCE = 1e-3  # a validation loss (nats, or variances) that is this much lower is no better
_ROWS_AT_ONCE = 1024  # bounds the memory of a prediction; the prediction does not depend on it


class Boosting:
    """scikit-learn's histogram gradient boosting, fitted per target, with its trees read out into tensors.

    The tensors are what predicts and what is saved: loading runs no pickled code and fits nothing again, and a
    prediction is the same whatever version of scikit-learn is installed. Each choice of `leaves` is boosted until
    `patience` more iterations lower the validation loss no more; the best choice is kept, cut at its best iteration.
    Source: Friedman (2001), "Greedy function approximation"; histograms and leaf-wise growth as in LightGBM.
    """

    def __init__(
        self,
        targets: Sequence[Target],
        iterations: int,
        patience: int,
        learning_rate: float,
        leaves: Sequence[int],
        min_samples: int,
        l2: float,
        feature_share: float,
        bins: int,
    ):
        self.targets = tuple(targets)
        self.iterations, self.patience, self.leaves, self.bins = iterations, patience, tuple(leaves), bins
        self.settings = {
            "learning_rate": learning_rate,
            "min_samples_leaf": min_samples,
            "l2_regularization": l2,
            "max_features": feature_share,  # columns that a split may choose from
            "random_state": int(torch.randint(2**31, ())),  # follows the seed of the run
            "early_stopping": False,  # sklearn would split the validation nets off the training nets, blind to lineage
            "warm_start": True,
            "max_bins": bins,
        }
        self.edges = torch.empty(0, bins - 1)
        self.trees: dict[str, Trees] = {}

    def fit(
        self,
        x: Float[Tensor, "nets columns"],
        y: Mapping[str, Tensor],
        valid_x: Float[Tensor, "valid_nets columns"],
        valid_y: Mapping[str, Tensor],
    ) -> None:
        """Fits every target: class numbers or standardised values [nets]. A feature may be NaN where it is missing."""
        self.edges = bin_edges(x.cpu(), self.bins)  # once: sklearn would bin again at every call of its `fit`
        x, valid_x = binned(x.cpu(), self.edges), binned(valid_x.cpu(), self.edges)
        x = x.masked_fill(x.isnan().all(0), 0.0)  # sklearn refuses a column without a value; no split will use it
        for target in self.targets:
            train, valid = (x, y[target.name].cpu()), (valid_x, valid_y[target.name].cpu())
            choices = [self._boosted(target, leaves, *train, *valid) for leaves in self.leaves]
            self.trees[target.name] = min(choices, key=lambda choice: choice[0])[1]

    def predict(self, x: Float[Tensor, "nets columns"]) -> dict[str, Tensor]:
        """{target: logits [nets, classes] or standardised values [nets]}."""
        x = binned(x, self.edges)
        outputs = {name: staged_outputs(trees, x)[:, -1] for name, trees in self.trees.items()}
        return {t.name: outputs[t.name] if t.kind == "classification" else outputs[t.name][:, 0] for t in self.targets}

    def state(self) -> dict[str, Tensor]:
        trees = {f"{name}.{field}": tensor for name, trees in self.trees.items() for field, tensor in trees.items()}
        return {"edges": self.edges, **trees}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        self.trees, self.edges = {}, state["edges"]
        for key, tensor in state.items():
            name, dot, field = key.rpartition(".")
            if dot:
                self.trees.setdefault(name, {})[field] = tensor

    def _boosted(
        self, target: Target, leaves: int, x: Tensor, y: Tensor, valid_x: Tensor, valid_y: Tensor
    ) -> tuple[float, Trees]:
        """Validation loss and trees of one choice of `leaves`."""
        classify = target.kind == "classification"
        if classify and len(y.unique()) == 1:  # sklearn refuses to learn what is constant
            start = torch.full((target.width,), _UNSEEN, dtype=torch.float64)
            start[y[0]] = 0.0
            return 0.0, {"start": start}
        kind = HistGradientBoostingClassifier if classify else HistGradientBoostingRegressor
        model = kind(max_leaf_nodes=leaves, **self.settings)
        loss = F.cross_entropy if classify else lambda output, value: F.mse_loss(output[:, 0], value)
        while True:
            model.set_params(max_iter=min(getattr(model, "n_iter_", 0) + self.patience, self.iterations))
            model.fit(x.numpy(), y.double().numpy())
            trees = read_trees(model, target)
            losses = [float(loss(o, valid_y.to(y.dtype))) for o in staged_outputs(trees, valid_x).unbind(1)]
            best = int(np.argmax(np.array(losses) <= min(losses) + _TOLERANCE))
            if model.n_iter_ >= self.iterations or best <= model.n_iter_ - self.patience:
                return losses[best], cut(trees, best)


def bin_edges(x: Float[Tensor, "nets columns"], bins: int) -> Float64[Tensor, "columns edges"]:
    """`bins` - 1 edges per column, halfway between neighbours at evenly spaced ranks; 0 where a column has no value."""
    ordered = x.double().sort(dim=0).values  # NaN comes last
    count = (~x.isnan()).sum(0)
    ranks = (torch.arange(1, bins).unsqueeze(1) * count // bins).clamp(min=1)
    low, high = (ordered.gather(0, (ranks - shift).clamp(max=len(x) - 1)) for shift in (1, 0))
    return ((low + high.where(ranks < count, low)) / 2).nan_to_num(0.0).T.contiguous()


def binned(
    x: Float[Tensor, "nets columns"], edges: Float64[Tensor, "columns edges"]
) -> Float64[Tensor, "nets columns"]:
    """How many edges of its column each value exceeds; NaN stays NaN."""
    codes = torch.searchsorted(edges.to(x.device), x.double().T.contiguous()).T.double()
    return codes.masked_fill(x.isnan(), torch.nan)


def read_trees(model: HistGradientBoostingClassifier | HistGradientBoostingRegressor, target: Target) -> Trees:
    """The fitted ensemble as tensors [iterations, trees, nodes], padded with nodes that nothing reaches.

    `_predictors` and `_baseline_prediction` are private to sklearn (unchanged from 1.0 to 1.9) since it has no public
    way to read them; tests/blocks/test_boosting.py compares with its public predictions.
    """
    rounds = [[tree.nodes for tree in trees] for trees in model._predictors]  # type: ignore[attr-defined]
    size = max((len(nodes) for trees in rounds for nodes in trees), default=1)

    def stacked(field: str, dtype: torch.dtype) -> Tensor:
        padded = [[np.pad(nodes[field], (0, size - len(nodes))) for nodes in trees] for trees in rounds]
        return torch.from_numpy(np.array(padded)).to(dtype)

    leaf, own = stacked("is_leaf", torch.bool), torch.arange(size)
    start = torch.from_numpy(np.asarray(model._baseline_prediction, dtype=np.float64)).flatten()  # type: ignore[attr-defined]
    outputs = torch.ones(1, 1, dtype=torch.float64)  # [trees, width]: what each tree of an iteration adds to
    if target.kind == "classification":
        classes = torch.from_numpy(model.classes_).long()  # type: ignore[attr-defined]
        scored = classes[-len(start) :]  # of two classes only the second has trees
        outputs = F.one_hot(scored, target.width).double()
        base = torch.full((target.width,), _UNSEEN, dtype=torch.float64)
        base[classes] = 0.0
        base[scored] = start
        start = base
    return {
        "start": start,
        "outputs": outputs,
        "feature": stacked("feature_idx", torch.int64),
        "threshold": stacked("num_threshold", torch.float64),
        "missing_left": stacked("missing_go_to_left", torch.bool),
        "left": torch.where(leaf, own, stacked("left", torch.int64)),  # a leaf leads to itself
        "right": torch.where(leaf, own, stacked("right", torch.int64)),
        "value": stacked("value", torch.float64),
    }


def cut(trees: Trees, iterations: int) -> Trees:
    """The ensemble after its first `iterations`."""
    shared = ("start", "outputs")
    return {field: tensor if field in shared else tensor[:iterations].clone() for field, tensor in trees.items()}


def staged_outputs(trees: Trees, x: Float[Tensor, "nets columns"]) -> Float[Tensor, "nets stages width"]:
    """The outputs after 0, 1, ... iterations, in float64 on the device of `x`: every net down every tree at once."""
    trees = {field: tensor.to(x.device) for field, tensor in trees.items()}
    start = trees["start"].expand(len(x), 1, -1)
    if "feature" not in trees or len(trees["feature"]) == 0:
        return start
    steps = torch.cat([_leaf_values(trees, rows) for rows in x.double().split(_ROWS_AT_ONCE)]) @ trees["outputs"]
    return torch.cat([start, start + steps.cumsum(1)], dim=1)


def _leaf_values(trees: Trees, x: Float[Tensor, "nets columns"]) -> Shaped[Tensor, "nets iterations trees"]:
    shape, size = trees["feature"].shape[:2], trees["feature"].shape[2]
    flat = {
        field: trees[field].flatten() for field in ("feature", "threshold", "missing_left", "left", "right", "value")
    }
    root = torch.arange(shape.numel(), device=x.device) * size  # place of each tree's first node
    node = root.expand(len(x), -1)
    while True:
        value = x.gather(1, flat["feature"][node])
        go_left = torch.where(value.isnan(), flat["missing_left"][node], value <= flat["threshold"][node])
        child = root + torch.where(go_left, flat["left"][node], flat["right"][node])
        if torch.equal(child, node):
            return flat["value"][node].view(len(x), *shape)
        node = child
