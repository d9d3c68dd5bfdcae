"""Checks of what a method predicts, and of what it refuses."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from synthmr.batch import Batch, Output
from synthmr.run import load_state, method_state
from synthmr.testing.subject import Subject, call, claim, equal, hide, learn, outputs, refused

# --- what is refused ------------------------------------------------------------------------------------------------------


def check_an_unknown_input_is_refused(subject: Subject) -> None:
    """A contrast that the method was not trained with is an error, not something to pass over."""
    method = subject.trained
    batch = subject.batch((*subject.sources, "MTR"))
    with refused(["MTR", "leave it out"], "a batch with a contrast that the method was not trained with"):
        call(method, batch)
    call(method, batch.only(subject.sources))


def check_a_missing_source(subject: Subject) -> None:
    """Refused where all sources are needed; otherwise as if it had never been there."""
    method, last = subject.trained, subject.sources[-1]
    full = subject.batch(targets=())
    without, absent = full.only(subject.sources[:-1]), hide(full, last, absent=True)
    some = hide(full, last, range(1, full.size), absent=True)
    if len(subject.sources) > 1 and subject.traits.any_subset:
        one, two = call(method, without), call(method, absent)
        claim(equal(one, two), f"{last} absent from every sample gives another image than a batch without {last}; use batch.given")
        claim(not equal(one, call(method, full)), f"the prediction does not depend on {last} at all")
        mixed, complete = call(method, some), call(method, full)
        for name, image in mixed.items():
            sentence = f"a sample's {name} changes with what other samples lack; use batch.given for each sample"
            claim(torch.allclose(image[1:], two[name][1:], rtol=1e-4, atol=1e-5), sentence)
            claim(torch.allclose(image[:1], complete[name][:1], rtol=1e-4, atol=1e-5), sentence)
        nobody = hide(full, last, [0], absent=True)
        for name in subject.sources[:-1]:
            nobody = hide(nobody, name, [0], absent=True)
        with refused(["none of the sources"], "a sample without any source"):
            call(method, nobody)
    elif len(subject.sources) > 1:
        for batch in (without, absent):
            with refused([last, "is missing", "give it, or train without it"], f"a batch without {last}"):
                call(method, batch)
        with refused([f"{last} in every sample"], f"a batch in which some samples lack {last}"):
            call(method, some)
    nothing = full
    for name in subject.sources:
        nothing = hide(nothing, name, absent=True)
    with refused([subject.sources[0]], "a batch without any source"):
        call(method, nothing)


def check_an_unknown_target_is_refused(subject: Subject) -> None:
    """A contrast that was not trained as a target, a source among them."""
    batch = subject.batch(targets=())
    for name in ("MTR", subject.sources[0]):
        with refused(["trained to give", f"not {name}"], f"the wish for {name}, which is no target,"):
            call(subject.trained, batch, [name])


def check_other_shapes_are_refused(subject: Subject) -> None:
    """Sizes that the divisor does not divide, other dimensions, another number of slices as channels."""
    method, spec, traits = subject.trained, subject.spec, subject.traits
    batch = subject.batch(targets=())

    def changed(change: Callable[[Tensor], Tensor]) -> Batch:
        return Batch({name: change(image) for name, image in batch.images.items()})

    if spec.divisor > 1:
        edge = next(edge for edge in range(subject.size[-1] - 3, subject.size[-1]) if edge % spec.divisor)
        words = [f"multiples of {spec.divisor} ", "x".join(map(str, (*subject.size[:-1], edge)))]
        with refused(words, f"a size that {spec.divisor} does not divide"):
            call(method, changed(lambda image: image[..., :edge]))
    with refused(["spatial dimensions"], f"a batch of other than {traits.dims} spatial dimensions"):
        call(method, changed(lambda image: image[..., None] if traits.dims == 2 else image[..., 0]))
    with refused(["slices a contrast"], f"a batch of other than {2 * traits.neighbours + 1} slices a contrast"):
        call(method, changed(lambda image: torch.cat([image, image[:, :1], image[:, :1]], dim=1)))


def check_a_method_that_was_not_fitted_says_so(subject: Subject) -> None:
    """Instead of a crash in the middle of its arithmetic."""
    with refused([f"{subject.spec.name} was not fitted"], "a prediction before fit"):
        call(subject.make(), subject.batch(targets=()))


# --- what comes out -------------------------------------------------------------------------------------------------------


def check_outputs(subject: Subject) -> None:
    """Keys, shapes, numbers and range of what comes out, far outside the training range too."""
    method = subject.trained
    batch = subject.batch(targets=())
    for scale in (1.0, 20.0):
        found = outputs(method, dataclasses.replace(batch, images={name: scale * image for name, image in batch.images.items()}))
        keys = f"the prediction has the keys {list(found)}; it must have the targets {list(method.targets)}, in this order"
        claim(list(found) == list(method.targets), keys)
        for name, each in found.items():
            _check_output(subject, name, each, batch.size)
    ordinary = call(method, batch)
    for name, image in ordinary.items():
        claim(image.std() > 0, f"the predicted {name} is one value everywhere, whatever the sources")
        alone = call(method, batch, [name])
        claim(list(alone) == [name], f"wanted {name} alone and was given {', '.join(alone) or 'nothing'}")
        claim(torch.equal(alone[name], image), f"{name} is another image where it alone is wanted")


def _check_output(subject: Subject, name: str, found: Output, count: int) -> None:
    """One output: finite float32 of the right shape; mean, spread and samples."""
    mean, spec = found.mean, subject.spec
    shape = (count, 1, *subject.size) if spec.outputs == "image" else (count, mean.shape[1] if mean.dim() > 1 else 0, *subject.size)
    claim(tuple(mean.shape) == shape, f"the predicted {name} has shape {tuple(mean.shape)}; it must be {shape}")
    claim(mean.dtype == torch.float32, f"the predicted {name} is {mean.dtype}; it must be float32: image.float()")
    claim(torch.isfinite(mean).all(), f"the predicted {name} holds NaN or infinite values")
    if spec.output_range is not None:
        low, high = spec.output_range
        claim(low <= mean.min() and mean.max() <= high, f"the predicted {name} leaves spec.output_range [{low:g}, {high:g}]")
    if spec.outputs == "labels":
        sums = mean.sum(dim=1)
        claim(torch.allclose(sums, torch.ones_like(sums), atol=1e-4), f"the class probabilities of {name} do not sum to 1")
    if found.spread is not None:
        claim(found.spread.shape == mean.shape, f"the spread of {name} has shape {tuple(found.spread.shape)}, its mean {shape}")
        claim(torch.isfinite(found.spread).all() and (found.spread > 0).all(), f"the spread of {name} must be finite and above 0")
    if found.samples is not None:
        fits = found.samples.dim() == mean.dim() and found.samples.shape[0] == count and found.samples.shape[2:] == mean.shape[2:]
        claim(fits and torch.isfinite(found.samples).all(), f"the samples of {name} must be finite, (B, N, *S)")


def check_a_prediction_depends_on_its_own_sources_alone(subject: Subject) -> None:
    """Not on the truth, and not on the other samples of the batch."""
    method = subject.trained
    batch = subject.batch()
    out = call(method, batch)
    blind = call(method, batch.only(subject.sources))
    claim(equal(out, blind), "the prediction changes when the truth is taken out of the batch: the truth leaks into it")
    first = Batch({name: image[:1] for name, image in batch.images.items()}).only(subject.sources)
    changed = {name: torch.cat([image[:1], -image[1:]]) for name, image in batch.images.items()}
    alone, other = call(method, first), call(method, dataclasses.replace(batch, images=changed))
    for name in method.targets:
        for found in (alone, other):
            same = torch.allclose(out[name][:1], found[name][:1], rtol=1e-4, atol=1e-5)
            claim(same, f"a sample's {name} changes with the other samples of its batch")
        claim(not torch.allclose(out[name][1:], other[name][1:], atol=1e-6), f"{name} does not depend on the sources")


def check_a_hidden_source_does_not_leak(subject: Subject) -> None:
    """A source that is present and not shown is for nobody's eyes: it is as good as absent."""
    method, last = subject.trained, subject.sources[-1]
    full = subject.batch(targets=())
    hidden, without = call(method, hide(full, last)), call(method, full.only(subject.sources[:-1]))
    claim(
        equal(hidden, without),
        f"{last} is present and not shown, and changes the prediction: it leaks; use batch.given, not present",
    )


def check_a_hidden_truth_does_not_leak(subject: Subject) -> None:
    """A contrast that is source and target of one run is the truth where it is not shown."""
    last = subject.sources[-1]
    targets = (last, *subject.targets[: subject.spec.targets[0] - 1])
    method = learn(subject.make(targets=targets), [hide(subject.batch(targets=targets), last, [0])])
    batch = hide(subject.batch(targets=targets), last)
    noise = torch.randn(batch.images[last].shape, generator=torch.Generator().manual_seed(7))
    other = dataclasses.replace(batch, images={**batch.images, last: noise})
    claim(equal(call(method, batch), call(method, other)), f"{last} is source and target: where it is not shown, its truth leaks")


def check_the_order_of_a_batch_is_irrelevant(subject: Subject) -> None:
    """Contrasts go by their names, never by their places in the batch."""
    batch = subject.batch()
    turned = batch.only(tuple(reversed((*subject.sources, *subject.targets))))
    claim(
        equal(call(subject.trained, batch), call(subject.trained, turned)),
        "the prediction depends on the order of the batch's images",
    )


def check_the_order_of_sources_is_irrelevant(subject: Subject) -> None:
    """A method that takes any subset of its sources must not tell them apart by their order."""
    one = learn(subject.make(), [subject.batch()])
    two = subject.make(sources=subject.sources[::-1])
    load_state(two, method_state(one), Path("weights"))
    if isinstance(two, nn.Module):
        two.eval()
    batch = subject.batch(targets=())
    same = equal(call(one, batch), call(two, batch), exact=False)
    claim(same, "it takes any subset of its sources, and the prediction depends on the order in which they were named")


def check_inputs_are_not_changed(subject: Subject) -> None:
    """Training and prediction leave a batch as it was: the next one may share its tensors."""
    method, batch = subject.make(), subject.batch()
    before = {name: image.clone() for name, image in batch.images.items()}
    masks = {name: getattr(batch, name).clone() for name in ("mask", "coords", "segmentation")}
    learn(method, [batch])
    call(method, batch)
    for name, image in before.items():
        claim(name in batch.images and torch.equal(batch.images[name], image), f"the batch's {name} was changed in place")
    for name, value in masks.items():
        claim(torch.equal(getattr(batch, name), value), f"the batch's {name} was changed in place")
