"""Every method on the same data, split and CPU budget.

    python benchmarks/compare_methods.py DATA OUT --task flair|t1ce [--minutes 12] [--only cut,milr] [--jobs 1] [--table-only]

``flair``: T1w+T2w -> FLAIR. ``t1ce``: T1w+T2w+FLAIR -> T1ce, where MAF-Net segments tumours too, once with its synthetic T1ce
and once without (Table I, first row), and MILR, trained once, is scored from all seven subsets of its sources: with its preset,
and with half the filters and stronger changes of the sources' intensities (``milr-robust``). ``grey`` is the mean of the
training targets everywhere in the brain; ``cut-plain`` is CUT without what its preset adds to its paper.

Training runs on one thread under `cpu_clock.py`: a budget of 12 minutes is 12 minutes of CPU time, validation included, so that a
busy machine changes nothing but the wall clock. Runs that are finished are not repeated. The scores are of protocol
`masked-volume`, one value a subject, means over validation and test subjects; training subjects stand beside.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from common import clocked, decibel, write
from quality_hinet import affine_fit
from synthmr import pipeline
from synthmr.config import to_dict
from synthmr.contrasts import subsets_of
from synthmr.evaluate.protocols import get_protocol
from synthmr.evaluate.scoring import score, score_input
from synthmr.evaluate.segmentation import score_segmentation, summarise_assd
from synthmr.experiment.cells import trained
from synthmr.predict.predictor import Predictor
from synthmr.predictions import predictions, select
from synthmr.run import LoadedRun, load_run

HELD, PARTS = ("validation", "test"), ("validation", "test", "train")
TASKS: dict[str, tuple[str, str]] = {"flair": ("T1w,T2w", "FLAIR"), "t1ce": ("T1w,T2w,FLAIR", "T1ce")}
# CUT's preset without what helps it to learn in minutes and is not in its paper
PLAIN = ("options.brain=false", "options.discriminator_steps=1", "options.discriminator_scale=1", "sample.min_brain=0.05")
ROBUST = ("options.filters=8", "augment.gamma=0.8", "augment.curve=0.5", "augment.gain=0.25")


# task -> row -> method and its settings
PLANS: dict[str, dict[str, tuple[str, ...]]] = {
    "flair": {
        **{name: (name,) for name in ("copy", "linear", "unet", "hinet", "milr", "disentangled", "imt", "cut", "cyclegan")},
        "cut-plain": ("cut", *PLAIN),
        # its synthesis alone: the joint stage is for T1ce
        "mafnet": ("mafnet", "options.segmenter=false"),
    },
    "t1ce": {
        **{name: (name,) for name in ("copy", "linear", "unet", "milr", "cut", "mafnet")},
        "milr-robust": ("milr", *ROBUST),
        "mafnet-without": ("mafnet", "options.segmenter_input=sources", "options.joint=false"),
    },
}
FITTED = ("copy", "linear")  # in one go, whatever the budget
REGIONS = ("WT", "TC", "ET")


def train(task: str, plan: str, data: Path, run: Path, minutes: float) -> None:
    """Train one plan, unless its run is finished."""
    if trained(run):
        return
    sources, target = TASKS[task]
    method, *keys = PLANS[task][plan]
    words = [word for key in keys for word in ("--set", key)]
    budget = [] if method in FITTED else ["--minutes", f"{minutes:g}"]
    call = [method, str(data), "--sources", sources, "--target", target, "--out", str(run), *words, *budget]
    if run.exists():
        call.append("--resume")
    clocked("-q", "train", *call)


def check_config(task: str, plan: str, run: LoadedRun, minutes: float) -> None:
    """A finished run of other settings, or of a preset as it was once, is no row of this table.

    Raises:
        SystemExit: it is one.
    """
    sources, target = TASKS[task]
    method, *keys = PLANS[task][plan]
    budget = {} if method in FITTED else {"minutes": minutes}
    wanted = pipeline.configure(method, sources, target, settings=keys, budget=budget)
    if to_dict(run.config) != to_dict(wanted) or "brightness" not in run.info:
        raise SystemExit(f"{run.folder.path} was trained with other settings than {plan} has now; remove it, or give another OUT.")


def measure_grey(run: Path, data: Path) -> dict[str, dict[str, dict[str, float]]]:
    """`measure` of a prediction that shows nothing: the mean of the training targets everywhere in the brain.

    Args:
        run: whose split, target and normaliser are used.
        data: the cases.
    """
    protocol = get_protocol("masked-volume")
    inputs = {
        part: {
            predicted.prepared.name: score_input(image, predicted.prepared, predicted.target)
            for predicted in predictions([run], data, part)
            for image in predicted.images.values()
        }
        for part in PARTS
    }
    brightness = mean(float(each.truth[each.mask].mean()) for each in inputs["train"].values())
    found: dict[str, dict[str, dict[str, float]]] = {}
    for part, cases in inputs.items():
        found[part] = {}
        for name, each in cases.items():
            truth = each.truth[each.mask].astype(float)
            grey = replace(each, prediction=np.full_like(each.prediction, brightness))
            found[part][name] = {**score(grey, protocol)["brain"], "structure": decibel(truth - truth.mean())}
    return found


def measure(run: Path, data: Path) -> dict[str, dict[str, dict[str, float]]]:
    """part -> subject -> metrics, the oracle ``structure`` (PSNR after an affine fit) and, of MAF-Net, the tumour scores."""
    protocol = get_protocol("masked-volume")
    found: dict[str, dict[str, dict[str, float]]] = {}
    for part in PARTS:
        found[part] = {}
        for predicted in predictions([run], data, part):
            (image,) = predicted.images.values()
            scored = score_input(image, predicted.prepared, predicted.target)
            p, t = (array[scored.mask].astype(float) for array in (scored.prediction, scored.truth))
            values = {**score(scored, protocol)["brain"], "structure": decibel(affine_fit(p, t) - t)}
            for classes, truth in predicted.segmentations.values():
                values |= score_segmentation(classes, truth, predicted.prepared.spacing)
            found[part][predicted.prepared.name] = values
    return found


def subsets(run: Path, data: Path, parts: Sequence[str] = HELD) -> dict[str, dict[str, float]]:
    """subset of sources -> subject of some parts -> PSNR, of one run that takes any subset."""
    loaded = load_run(run)
    config, protocol = loaded.config, get_protocol("masked-volume")
    predictor = Predictor(loaded)
    cohort, target = pipeline.index(data), config.targets[0]
    found: dict[str, dict[str, float]] = {}
    for part in parts:
        for case in select(cohort, loaded.split, part):
            whole = predictor.prepare(case, config.sources, config.targets)
            for names in subsets_of(config.sources):
                image = predictor(replace(whole, given=names), [target]).unit(target)
                value = score(score_input(image, whole, target), protocol)["brain"]["psnr"]
                found.setdefault("+".join(names), {})[case.name] = value
    return found


def both_subsets(run: Path, data: Path) -> dict[str, dict[str, dict[str, float]]]:
    """`subsets` of the held-out subjects and of the training cases."""
    return {"held-out": subsets(run, data), "train": subsets(run, data, ["train"])}


def once(path: Path, compute: Callable[[], Any]) -> Any:
    """What ``path`` holds; computed and written where there is none."""
    if not path.is_file():
        path.write_text(json.dumps(compute()))
    return json.loads(path.read_text())


def gains(found: dict[str, dict[str, float]]) -> list[tuple[str, str, float]]:
    """(subset, source that is added to it, mean change of PSNR over subjects)."""
    return [
        (
            small,
            next(iter(set(large.split("+")) - set(small.split("+")))),
            mean(found[large].values()) - mean(found[small].values()),
        )
        for small in found
        for large in found
        if set(small.split("+")) < set(large.split("+")) and large.count("+") == small.count("+") + 1
    ]


def average(found: dict[str, Any], metric: str, parts: Sequence[str] = HELD) -> float:
    """Mean over the subjects of some parts."""
    return mean(values[metric] for part in parts for values in found[part].values())


def row(plan: str, found: dict[str, Any], result: dict[str, Any]) -> str:
    """One line of the table of image scores."""
    each = " ".join(f"{values['psnr']:.2f}" for part in HELD for values in found[part].values())
    numbers = [f"{average(found, metric):9.3f}" for metric in ("psnr", "ssim", "nmse")]
    tail = [f"{average(found, 'structure'):9.2f}", f"{average(found, 'psnr', ['train']):8.2f}"]
    speed = [f"{result.get('steps', 0):7d}", f"{result.get('steps_per_s', 0):8.2f}", f"{result.get('peak_rss_gb', 0):8.2f}"]
    return f"{plan:16s}{''.join(numbers)}{''.join(tail)}{''.join(speed)}  {each}"


def tumour_rows(results: dict[str, Any]) -> list[str]:
    """The table of tumour scores of the held-out subjects."""
    lines = []
    for plan, entry in results.items():
        subjects = [values for part in HELD for values in entry["scores"][part].values()]
        if "dice_WT" not in subjects[0]:
            continue
        dice = " ".join(f"{mean(values[f'dice_{region}'] for values in subjects):7.3f}" for region in REGIONS)
        distance = "  ".join(f"{summarise_assd([values[f'assd_{region}'] for values in subjects]).text:>24s}" for region in REGIONS)
        lines.append(f"{plan:16s}{dice}  {distance}")
    if lines:
        lines.insert(0, f"{'':16s}{'Dice WT':>7s} {'TC':>7s} {'ET':>7s}  {'ASSD WT':>24s}  {'TC':>24s}  {'ET':>24s}")
    return lines


def subset_lines(plan: str, held_out: dict[str, dict[str, float]], train: dict[str, dict[str, float]]) -> list[str]:
    """The tables of all subsets of one run; training cases stand beside."""
    lines = ["", f"{plan}, trained once with three sources, from each subset: psnr dB, training cases, each held-out subject", ""]
    for names, values in held_out.items():
        each = " ".join(f"{value:.2f}" for value in values.values())
        lines.append(f"{names:18s}{mean(values.values()):8.2f}{mean(train[names].values()):8.2f}  {each}")
    changes, known = gains(held_out), gains(train)
    lines += ["", f"{plan}: what adding a source changes, mean over subjects: dB, and on training cases", ""]
    for (small, added, change), (_, _, before) in zip(changes, known, strict=True):
        lines.append(f"{small:18s}+ {added:8s}{change:+7.2f}{before:+8.2f}")
    for source in dict.fromkeys(added for _, added, _ in changes):
        both = [mean(change for _, added, change in part if added == source) for part in (changes, known)]
        lines.append(f"{'on average':18s}+ {source:8s}{both[0]:+7.2f}{both[1]:+8.2f}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--task", choices=sorted(TASKS), default="flair")
    parser.add_argument("--minutes", type=float, default=12.0)
    parser.add_argument("--only", default="")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at once")
    parser.add_argument("--table-only", action="store_true", help="score the runs that are finished")
    words = parser.parse_args()
    plans = [name for name in PLANS[words.task] if not words.only or name in words.only.split(",")]
    runs = {plan: words.out / words.task / plan for plan in plans}
    if not words.table_only:
        with ThreadPoolExecutor(words.jobs) as pool:
            list(pool.map(lambda plan: train(words.task, plan, words.data, runs[plan], words.minutes), plans))
    results: dict[str, Any] = {}
    kept = words.out / words.task / "scores"
    kept.mkdir(parents=True, exist_ok=True)
    for plan, run in runs.items():
        if not trained(run):
            print(f"{plan}: not finished, left out")
            continue
        loaded = load_run(run)
        check_config(words.task, plan, loaded, words.minutes)
        info = loaded.info
        scores = once(kept / f"{plan}_{info['hash']}.json", partial(measure, run, words.data))
        results[plan] = {"info": info["result"], "scores": scores}
        if plan == "copy":
            scores = once(kept / f"grey_{info['hash']}.json", partial(measure_grey, run, words.data))
            results["grey"] = {"info": {}, "scores": scores}
    head = f"{'':16s}{'psnr dB':>9s}{'ssim':>9s}{'nmse':>9s}{'struct.':>9s}{'train':>8s}{'steps':>7s}{'steps/s':>8s}{'RSS GB':>8s}"
    lines = [f"{TASKS[words.task][0]} -> {TASKS[words.task][1]}, masked-volume, validation and test subjects", ""]
    lines += [head + "  psnr of each", *(row(plan, entry["scores"], entry["info"]) for plan, entry in results.items())]
    if tumours := tumour_rows(results):
        lines += ["", "tumour segmentation by MAF-Net, with the synthetic T1ce and without, ASSD in mm", "", *tumours]
    record: dict[str, Any] = {"task": words.task, "minutes": words.minutes, "seed": 0, "runs": results}
    if words.task == "t1ce":
        record["subsets"] = {}
        for plan in [plan for plan in plans if plan in results and PLANS["t1ce"][plan][0] == "milr"]:
            path = kept / f"subsets_{plan}_{load_run(runs[plan]).info['hash']}.json"
            record["subsets"][plan] = once(path, partial(both_subsets, runs[plan], words.data))
            lines += subset_lines(plan, **{key.replace("-", "_"): value for key, value in record["subsets"][plan].items()})
    command = f"python benchmarks/compare_methods.py brats18 OUT --task {words.task} --minutes {words.minutes:g}"
    write(f"methods_{words.task}", command, record, "\n".join(lines))


if __name__ == "__main__":
    main()
