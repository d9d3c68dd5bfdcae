"""What a configuration says of samples: planes, boxes, and words of older runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest
import yaml

from synthmr import pipeline
from synthmr.config import RunConfig, to_dict
from synthmr.errors import UsageError
from synthmr.methods import registry
from synthmr.methods.configure import build_config, restore_config
from synthmr.methods.contract import NeuralMethod, Spec, Traits


@dataclass(frozen=True)
class DeepOptions:
    """Options.

    Attributes:
        dims: spatial dimensions.
    """

    dims: int = 2


class Deep(NeuralMethod):
    """Slices or boxes, by its options."""

    spec: ClassVar[Spec] = Spec(name="deep", title="for tests", divisor=8, dims=(2, 3))
    Options: ClassVar[type] = DeepOptions
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "fast": {"train.steps": 5, "sample.mode": "slices", "sample.crop": (64, 64), "sample.resize": (32, 32), "sample.middle": 9}
    }

    @classmethod
    def traits(cls, options: Any) -> Traits:  # type: ignore[override]
        return Traits(dims=options.dims)


def built(*settings: str, **file: Any) -> RunConfig:
    return build_config(Deep, "fast", file, settings, ("T1w",), ("FLAIR",))


def test_a_method_of_three_dimensions_draws_boxes() -> None:
    flat, deep = built(), built("options.dims=3")
    assert flat.sample.mode == "slices" and flat.sample.crop == (64, 64)
    assert deep.sample.mode == "boxes" and deep.sample.box == (64, 64, 64)
    # what a preset says of slices does not count
    assert (deep.sample.crop, deep.sample.resize, deep.sample.middle) == ((0, 0), (0, 0), 0)
    assert built("options.dims=3", "sample.box=32,32,16").sample.box == (32, 32, 16)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["sample.mode=boxes"], r"sample\.mode=boxes: deep works on slices .* use slices, patches or tiles"),
        (["options.dims=3", "sample.mode=tiles"], r"sample\.mode=tiles: deep works on volumes .* sample\.mode=boxes"),
        (["options.dims=3", "sample.crop=64,64"], r"sample\.crop=64,64 is of slices"),
        (["options.dims=3", "sample.resize=64,64"], r"sample\.resize=64,64 is of slices"),
        (["options.dims=3", "sample.middle=4"], r"sample\.middle=4 is of slices"),
        (["options.dims=3", "sample.box=20,32,32"], r"sample\.box=20,32,32 must be multiples of 8 for deep; use 24,32,32"),
        (["options.dims=3", "sample.box=0,32,32"], r"sample\.box=0 is outside 1"),
        (["options.dims=3", "sample.box=32,32"], r"sample\.box.*3 values"),
        (["sample.plane=oblique"], r"sample\.plane='oblique'"),
        (["sample.subsets=some"], r"sample\.subsets='some'"),
        (["prepare.plane=coronal"], r"--set prepare\.plane is called sample\.plane now; write --set sample\.plane=coronal"),
        (["train.level=false"], r"--set train\.level is called train\.brightness now"),
    ],
)
def test_samples_that_do_not_fit_are_refused(settings: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        built(*settings)
    assert "\n" not in str(error.value)


def test_the_plane_by_its_short_name() -> None:
    assert built("plane=sagittal").sample.plane == "sagittal"


def test_older_run_folders_and_files_keep_their_plane() -> None:
    config = pipeline.configure("milr", "T1w", "FLAIR", settings=["sample.plane=coronal"], budget={"steps": 3})
    data = yaml.safe_load(yaml.safe_dump(to_dict(config)))
    for key in ("plane", "box", "subsets"):
        del data["sample"][key]
    data["prepare"]["plane"] = "coronal"
    data["train"]["level"] = data["train"].pop("brightness")
    assert restore_config(registry.load("milr"), data) == config
    assert "plane" in data["prepare"]  # the argument is not changed
    again = build_config(registry.load("milr"), "fast", data, (), ("T1w",), ("FLAIR",), budget={"steps": 3})
    assert again.sample.plane == "coronal"
