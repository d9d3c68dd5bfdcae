"""What the presets ``fast`` of several methods have in common; a preset spreads them: ``{**AUGMENT, "train.minutes": 12.0}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

#: random changes of training samples that a network of a few subjects needs
AUGMENT: Mapping[str, Any] = {
    "augment.flip": 0.5,
    "augment.rotate": 10.0,
    "augment.scale": 0.1,
    "augment.mix": 0.8,
    "augment.gain": 0.1,
    "augment.gamma": 0.3,
}
#: the same with shifts and noise
AUGMENT_MORE: Mapping[str, Any] = {**AUGMENT, "augment.shift": 5.0, "augment.noise": 0.02}

#: the optimiser of networks that learn from pairs
ADAMW: Mapping[str, Any] = {
    "train.optimizer": "adamw",
    "train.lr": 1e-3,
    "train.beta1": 0.9,
    "train.weight_decay": 1e-2,
    "train.warmup": 50,
}
#: the same for one with a discriminator: a late decay, and an average of the weights
ADAMW_GAN: Mapping[str, Any] = {
    **ADAMW,
    "train.schedule": "cosine",
    "train.decay_start": 0.4,
    "train.clip": 100.0,
    "train.ema": 0.998,
}

#: minutes, optimiser and average of the weights of networks that learn without pairs
UNPAIRED: Mapping[str, Any] = {
    "augment.flip": 0.5,
    "train.minutes": 12.0,
    "train.lr": 4e-4,
    "train.beta1": 0.5,
    "train.schedule": "linear",
    "train.decay_start": 0.5,
    "train.ema": 0.99,
}
