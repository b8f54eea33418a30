"""Hyperparameters: what each net draws beside its architecture and image set.

A spec names all that have no neutral value. A name is a column of the manifest where the spec says it, hence a target.
"""

from typing import Any

from metanet.zoo.distributions import BOOLEAN, Check, integer, one_of, real
from metanet.zoo.initialisations import INITIALISATIONS
from metanet.zoo.nets import ACTIVATIONS, OWN
from metanet.zoo.optimisers import OPTIMIZERS
from metanet.zoo.schedules import SCHEDULES

_FRACTION = real("a number in [0, 1)", lambda value: 0 <= value < 1)
_NOT_NEGATIVE = real("a number of at least 0", lambda value: value >= 0)

HYPERPARAMETERS: dict[str, Check] = {
    "optimizer": one_of(OPTIMIZERS),
    "learning_rate": real("a number above 0", lambda value: value > 0),
    "batch_size": integer(1),
    "activation": one_of((*ACTIVATIONS, OWN)),
    "initialisation": one_of(INITIALISATIONS),
    "augmentation": BOOLEAN,
    "dropout": _FRACTION,
    "weight_decay": _NOT_NEGATIVE,
    "initial_std": real("a number above 0", lambda value: value > 0),
    "schedule": one_of(SCHEDULES),
    "train_fraction": real("a fraction in (0, 1]", lambda value: 0 < value <= 1),
    "label_noise": _FRACTION,
    "label_smoothing": _FRACTION,
    "gradient_clip": _NOT_NEGATIVE,
    "early_stopping": integer(0),
}

# what a net has where its spec does not name the hyperparameter
NEUTRAL: dict[str, Any] = {
    "initial_std": 1.0,
    "schedule": "exponential",
    "train_fraction": 1.0,
    "label_noise": 0.0,
    "label_smoothing": 0.0,
    "gradient_clip": 0.0,
    "early_stopping": 0,
}
REQUIRED = [name for name in HYPERPARAMETERS if name not in NEUTRAL]
