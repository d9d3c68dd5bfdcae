"""Finding methods, the capability table, and from a person's words to a checked configuration."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from synthmr.config import RunConfig, to_dict
from synthmr.errors import MissingExtra, UsageError
from synthmr.methods import registry, table
from synthmr.methods.configure import build_config, get_preset, restore_config
from synthmr.methods.contract import FittedMethod, NeuralMethod, Spec, check_request
from synthmr.methods.copy import Copy
from synthmr.methods.hinet import HiNet, HiNetOptions
from synthmr.methods.linear import Linear
from synthmr.methods.source import BASE_PRESETS, Declared, declared
from synthmr.methods.table import capability_rows
from synthmr.methods.unet import UNet
from synthmr.prepare.normalize import value_range

SOURCES, TARGETS = ("T1w", "T2w"), ("FLAIR",)


def build(method: Any = HiNet, *settings: str, preset: str = "fast", yaml: dict[str, Any] | None = None, **more: Any) -> RunConfig:
    return build_config(method, preset, yaml or {}, settings, SOURCES, TARGETS, value_range=value_range, **more)


# --- registry -------------------------------------------------------------------------------------------------------------


def test_loads_its_methods() -> None:
    loaded = {name: registry.load(name) for name in registry.METHODS}
    assert all(kind.spec.name == name for name, kind in loaded.items())
    first = {"copy": Copy, "linear": Linear, "unet": UNet, "hinet": HiNet}
    assert first.items() <= loaded.items()
    assert set(loaded) - set(first) == {"milr", "disentangled", "imt", "mafnet", "cut", "cyclegan"}


def test_an_unknown_method_is_refused_with_a_suggestion() -> None:
    with pytest.raises(UsageError, match=r"unknown method 'hinett': did you mean hinet\? Allowed: .*copy.*hinet.*linear"):
        registry.load("hinett")


def stub(monkeypatch: pytest.MonkeyPatch, folder: Path, source: str, name: str = "theirs") -> None:
    """A package of somebody else's with one entry point."""
    (folder / "somebodys.py").write_text(source)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.delitem(sys.modules, "somebodys", raising=False)
    point = EntryPoint(name, "somebodys:Theirs", "synthmr.methods")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "synthmr.methods" else [])


def test_other_packages_add_methods(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = "from dataclasses import replace\nfrom synthmr.methods.copy import Copy\n"
    source += "class Theirs(Copy):\n    spec = replace(Copy.spec, name='{}')\n"
    stub(monkeypatch, tmp_path, source.format("theirs"))
    assert registry.load("theirs").__name__ == "Theirs"
    assert list(registry.available()) == [*registry.METHODS, "theirs"]
    (row,) = [row for row in capability_rows() if row["name"] == "theirs"]  # its source does not tell, its class does
    assert row["title"] == Copy.spec.title
    stub(monkeypatch, tmp_path, source.format("copy"))
    with pytest.raises(UsageError, match="method theirs is a class that calls itself copy; its package must name both alike"):
        registry.load("theirs")


def test_other_packages_do_not_replace_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stub(monkeypatch, tmp_path, "raise RuntimeError\n", name="hinet")
    assert registry.load("hinet") is HiNet


def test_a_missing_package_is_named_with_the_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stub(monkeypatch, tmp_path, "import no_such_package_here\n")
    with pytest.raises(
        MissingExtra, match=r"method theirs needs the package no_such_package_here.*pip install no_such_package_here"
    ):
        registry.load("theirs")
    (row,) = [row for row in capability_rows() if row["name"] == "theirs"]
    assert "no_such_package_here" in row["title"]
    assert row.keys() == capability_rows()[0].keys()


@pytest.mark.parametrize("value", ["synthmr.methods.copy:Kopy", "synthmr.methods.copy"])
def test_an_entry_point_to_nothing_is_refused_and_the_table_still_prints(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("theirs", value, "synthmr.methods")
    monkeypatch.setattr(registry, "entry_points", lambda group: [point])
    with pytest.raises(UsageError, match=rf"method theirs is said to be '{value}', which is no class; mend the package"):
        registry.load("theirs")
    rows = {row["name"]: row for row in capability_rows()}
    assert list(rows) == [*registry.METHODS, "theirs"] and "which is no class" in rows["theirs"]["title"]


def test_names_are_listed_without_importing_a_network() -> None:
    code = "import sys; from synthmr.methods import registry; registry.available(); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "False"


def test_a_mistake_in_a_module_of_ours_is_not_blamed_on_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "METHODS", {"broken": "synthmr.methods.nowhere:Broken"})
    with pytest.raises(ModuleNotFoundError, match=r"synthmr\.methods\.nowhere"):
        registry.load("broken")


def test_capability_table() -> None:
    rows = {row["name"]: row for row in capability_rows()}
    assert list(rows)[:4] == ["copy", "linear", "unet", "hinet"]
    assert json.loads(json.dumps(rows)) == rows  # plain data
    assert rows["hinet"] == {
        "name": "hinet",
        "title": HiNet.spec.title,
        "supervision": "paired",
        "sources": "2 to 8",
        "targets": "1",
        "any subset": False,
        "dims": "2-D",
        "presets": "fast, paper",
        "paper": "Zhou et al., IEEE Transactions on Medical Imaging 2020 doi:10.1109/TMI.2020.2975344",
    }
    assert rows["linear"]["paper"] == "baseline"
    assert rows["linear"]["dims"] == "2-D"


def test_the_table_is_read_from_source_as_the_classes_have_it() -> None:
    for name, where in registry.METHODS.items():
        found, kind = declared(where), registry.load(name)
        assert found is not None, f"{name}: write spec = Spec(...) of plain values, and the names of presets"
        assert (found.spec, found.presets) == (kind.spec, tuple(kind.presets))


def test_what_the_source_does_not_tell_is_asked_of_the_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    lines = {
        "plain": "class A(NeuralMethod):\n    spec = Spec('a', 'one', dims=(2, 3))\n    presets = {'x': {**B}, 'y': C}\n",
        "inherits": "class A(NeuralMethod):\n    spec = Spec('a', 'one')\n",
        "computed": "class A(NeuralMethod):\n    spec = Spec('a', title())\n",
        "replaced": "class A(Other):\n    spec = replace(Other.spec, name='a')\n",
        "spread": "class A(NeuralMethod):\n    spec = Spec('a', 'one')\n    presets = {**B}\n",
        "strange": "class A(Other):\n    spec = Spec('a', 'one')\n",
        "wrong": "class A(NeuralMethod):\n    spec = Spec('a', 'one', halo=3)\n",
        "broken": "class A(\n",
        "other": "class B(NeuralMethod):\n    spec = Spec('a', 'one')\n",
    }
    for name, text in lines.items():
        (tmp_path / f"{name}_source.py").write_text(text)
    found = {name: declared(f"{name}_source:A") for name in lines}
    assert found["plain"] == Declared(Spec("a", "one", dims=(2, 3)), ("x", "y"))
    assert found["inherits"] == Declared(Spec("a", "one"), ("paper", "fast"))
    assert [name for name, each in found.items() if each is None] == [
        "computed",
        "replaced",
        "spread",
        "strange",
        "wrong",
        "broken",
        "other",
    ]
    assert declared("no_such_module_here:A") is None and declared("synthmr:A") is None
    assert not any(name.endswith("_source") for name in sys.modules)  # nothing was run
    assert NeuralMethod.presets.keys() == FittedMethod.presets.keys() == set(BASE_PRESETS)


def test_the_table_is_printed_without_torch() -> None:
    code = "import sys; sys.argv = ['synthmr', 'methods', '--json']\nfrom synthmr.cli import main\ntry:\n    main()\nfinally:\n"
    code += "    print({'torch', 'monai', 'sklearn', 'scipy'} & set(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr.strip() == "set()"
    assert [row["name"] for row in json.loads(done.stdout)][: len(registry.METHODS)] == list(registry.METHODS)


@pytest.mark.parametrize("document", table.DOCUMENTS)
def test_the_documents_hold_the_table_of_the_classes(document: str) -> None:
    text = (Path(__file__).parents[1] / document).read_text(encoding="utf-8")
    assert table.with_table(text, document) == text, "renew it: python -m synthmr.methods.table --write"
    rows = table.markdown().splitlines()
    assert len(rows) == len(table.brief().splitlines()) == 2 + len(registry.METHODS)
    row = next(row for row in rows if row.startswith("| `milr` |"))
    assert (
        "| 1 to 8 | 1 to 8 | yes | 2-D | paired | [Chartsias et al.," in row and "(https://doi.org/10.1109/TMI.2017.2764326)" in row
    )


def test_the_table_of_a_document_is_renewed_between_its_marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs").mkdir()
    old = f"before\n{table.BEGIN}\nold\n{table.END}\nafter\n"
    for document in table.DOCUMENTS:
        (tmp_path / document).write_text(old)
    monkeypatch.chdir(tmp_path)
    assert table.main(["--write"]) == 0 and table.main(["--wirte"]) == 2
    for document in table.DOCUMENTS:
        rows = table.brief() if document == table.README else table.markdown()
        assert (tmp_path / document).read_text() == f"before\n{table.BEGIN}\n{rows}{table.END}\nafter\n"
    for text in ("", table.BEGIN, f"{table.END}{table.BEGIN}", old + old):
        with pytest.raises(UsageError, match=r"x.md needs one line <!-- methods:begin -->"):
            table.with_table(text, "x.md")


# --- presets and precedence -----------------------------------------------------------------------------------------------


def test_presets_are_nested_by_section() -> None:
    preset = get_preset(HiNet, "paper")
    assert preset["sample"]["crop"] == (160, 180)
    assert preset["train"]["lr"] == 2e-4
    with pytest.raises(UsageError, match=r"hinet has no preset 'fats': did you mean fast\? Allowed: fast, paper"):
        get_preset(HiNet, "fats")


def test_the_paper_preset_is_the_papers() -> None:
    """Section IV-A and IV-C."""
    config = build(preset="paper")
    assert config.options == HiNetOptions()
    assert (config.options.filters, config.options.l1_weight, config.options.reconstruction_weight) == (32, 100.0, 20.0)
    assert (config.prepare.normalizer, config.sample.plane) == ("minmax", "axial")
    assert (config.sample.mode, config.sample.crop, config.sample.patch) == ("tiles", (160, 180), (128, 128))
    train = config.train
    assert (train.epochs, train.steps, train.minutes) == (300, 0, 0)
    assert (train.optimizer, train.lr, train.beta1, train.schedule) == ("adam", 2e-4, 0.5, "linear")
    assert train.decay_start * train.epochs == pytest.approx(100)
    assert not any(to_dict(config.augment).values())
    assert (train.ema, train.clip, train.warmup, train.weight_decay) == (0, 0, 0, 0)


def test_defaults_then_preset_then_file_then_settings() -> None:
    file = {"train": {"lr": 5e-4, "warmup": 7}, "options": {"gan": "log"}}
    assert build().train.lr == 1e-3
    config = build(HiNet, "train.lr=3e-4", "filters=8", yaml=file)
    assert (config.train.lr, config.train.warmup) == (3e-4, 7)
    assert (config.options.filters, config.options.gan, config.options.l1_weight) == (8, "log", 300.0)
    assert config.augment.flip == 0.5  # the preset's
    assert config.train.beta2 == 0.999  # the default


def test_the_seed() -> None:
    assert build().seed == 0
    assert build(yaml={"seed": 3}).seed == 3
    assert build(HiNet, "seed=4", yaml={"seed": 3}).seed == 4
    assert build(HiNet, "seed=4", seed=5).seed == 5
    with pytest.raises(UsageError, match=r"seed=-1 is outside 0"):
        build(seed=-1)


@pytest.mark.parametrize(
    ("settings", "file", "budget", "expected"),
    [
        ((), {}, {}, ("minutes", 30.0)),
        ((), {"steps": 50}, {}, ("steps", 50)),
        (("train.epochs=2",), {"steps": 50}, {}, ("epochs", 2)),
        (("train.epochs=2",), {"steps": 50}, {"minutes": 1.5}, ("minutes", 1.5)),
        ((), {}, {"steps": 9}, ("steps", 9)),
    ],
)
def test_a_given_budget_replaces_the_others(
    settings: tuple[str, ...], file: dict[str, Any], budget: dict[str, float], expected: tuple[str, float]
) -> None:
    train = build(HiNet, *settings, yaml={"train": file}, budget=budget).train
    given = {key: getattr(train, key) for key in ("steps", "epochs", "minutes") if getattr(train, key)}
    assert given == dict([expected])


def test_two_budgets_none_or_one_for_a_closed_form_are_refused() -> None:
    with pytest.raises(UsageError, match=r"train.steps and train.minutes are both set; give one"):
        build(HiNet, "train.steps=5", "train.minutes=1")
    with pytest.raises(UsageError, match=r"hinet needs a budget: --steps, --epochs or --minutes"):
        build(HiNet, "train.minutes=0")
    with pytest.raises(UsageError, match=r"linear is fitted in one go and takes no --steps; leave it out"):
        build(Linear, budget={"steps": 5})
    assert build(Linear).train.steps == 0


def test_a_saved_configuration_can_be_given_back() -> None:
    config = build(HiNet, "filters=8", "train.steps=12", "sample.crop=64,80", seed=6)
    saved = json.loads(json.dumps(to_dict(config)))
    assert restore_config(HiNet, saved) == config
    assert build(yaml=saved) == config


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [("method", "unet", r"method: unet and the call says hinet"), ("sources", ["T1w", "PDw"], r"sources: \['T1w', 'PDw'\]")],
)
def test_a_saved_configuration_of_something_else_is_refused(key: str, value: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words + r".*change one of them"):
        build(yaml={**to_dict(build()), key: value})


# --- refusals -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("filtres=8", r"unknown key 'filtres' in --set: did you mean"),
        ("filters", r"not of the form key=value"),
        ("options.filters=many", r"options.filters='many' is not a whole number"),
        ("options.filters=0", r"options.filters=0: at least 1"),
        ("options.gan=wgan", r"options.gan='wgan': did you mean lsgan\? Allowed: log, lsgan, none"),
        ("options.strategy=middle", r"Allowed: early, hybrid, late"),
        ("options.l1_weight=-1", r"options.l1_weight=-1: at least 0 and finite"),
        ("options.gan_weight=nan", r"options.gan_weight=nan: at least 0 and finite"),
        ("train.optimizer=adamm", r"train.optimizer='adamm': did you mean adam"),
        ("sample.mode=slice", r"sample.mode='slice': did you mean slices"),
        ("train.lr=-1", r"train.lr=-1 is outside 0 to 10"),
        ("train.lr=nan", r"train.lr=nan is outside"),
        ("augment.noise=-0.1", r"augment.noise=-0.1 is outside 0 to 1"),
        ("augment.shift=inf", r"augment.shift=inf is outside"),
        ("augment.gamma=-1", r"augment.gamma=-1 is outside"),
        ("sample.patch=0,64", r"sample.patch=0 is outside 1"),
        ("sample.patch=64", r"write 2 values separated by commas"),
        ("sample.crop=160,0", r"sample.crop=0 is outside 1"),
        ("sample.batch=0", r"sample.batch=0 is outside 1"),
        ("prepare.normalizer=percentil", r"unknown normalizer 'percentil': did you mean percentile"),
        ("prepare.source_normalizer=z", r"unknown normalizer 'z'"),
        ("sample.plane=oblique", r"sample.plane='oblique'"),
        ("prepare.plane=coronal", "is called sample.plane now"),
    ],
)
def test_settings_that_make_no_sense_are_refused_in_one_line(setting: str, words: str) -> None:
    with pytest.raises(UsageError, match=words) as error:
        build(HiNet, setting)
    assert "\n" not in str(error.value)


def test_an_unknown_key_of_a_file_is_refused() -> None:
    with pytest.raises(UsageError, match=r"unknown key 'train.learning_rate'"):
        build(yaml={"train": {"learning_rate": 1}})
    with pytest.raises(UsageError, match=r"unknown key 'options.dropout'.*Allowed: .*filters"):
        build(yaml={"options": {"dropout": 1}})


@pytest.mark.parametrize("section", ["prepare", "sample", "augment", "train", "options"])
@pytest.mark.parametrize("content", [3, None, ["lr", 1]])
def test_a_section_of_a_file_that_holds_no_keys_is_refused_in_one_line(section: str, content: Any) -> None:
    with pytest.raises(UsageError, match=rf"^{section} must be key: value pairs, not .*; fill the section or leave it out\.$"):
        build(yaml={section: content})
    assert build(yaml={section: {}}) == build()


def test_the_merge_leaves_its_inputs_alone() -> None:
    file: dict[str, Any] = {"train": {"lr": 3e-4}, "method": "hinet"}
    presets = {key: dict(value) for key, value in HiNet.presets.items()}
    build(HiNet, "train.lr=1e-3", "filters=8", yaml=file, budget={"steps": 3}, seed=4)
    assert file == {"train": {"lr": 3e-4}, "method": "hinet"}
    assert {key: dict(value) for key, value in HiNet.presets.items()} == presets


def test_a_contrast_named_twice_or_on_both_sides_is_refused() -> None:
    for sources, targets, words in (
        (("T1w", "T1w"), TARGETS, r"T1w, T1w names a source contrast twice"),
        (SOURCES, ("FLAIR", "FLAIR"), r"FLAIR, FLAIR names a target contrast twice"),
        (SOURCES, ("T2w",), r"T2w is both source and target"),
    ):
        with pytest.raises(UsageError, match=words):
            build_config(UNet, "fast", {}, [], sources, targets, value_range=value_range)


@pytest.mark.parametrize("bounds", [(-1.5, 1.0), (-1.0, 1.5), None])
def test_the_bounds_of_a_normaliser_are_held_against_both_ends_of_the_output(bounds: tuple[float, float] | None) -> None:
    with pytest.raises(UsageError, match="which the target normaliser leaves"):
        check_request(HiNet.spec, SOURCES, TARGETS, bounds)
    check_request(HiNet.spec, SOURCES, TARGETS, (0.0, 1.0))
    check_request(UNet.spec, SOURCES, TARGETS, bounds)


def test_a_normaliser_that_tanh_cannot_reach_is_refused_and_a_source_may_have_it() -> None:
    with pytest.raises(UsageError, match=r"hinet gives values in \[-1, 1\].*prepare.normalizer=percentile, minmax or nyul"):
        build(HiNet, "prepare.normalizer=zscore")
    assert build(HiNet, "prepare.source_normalizer=zscore").prepare.source_normalizer == "zscore"
    assert build(UNet, "prepare.normalizer=zscore").prepare.normalizer == "zscore"


def test_hinet_needs_two_sources() -> None:
    with pytest.raises(UsageError, match=r"hinet takes 2 to 8 source contrasts and was given 1 \(T1w\)"):
        build_config(HiNet, "fast", {}, [], ("T1w",), TARGETS, value_range=value_range)


# --- documentation --------------------------------------------------------------------------------------------------------


def sections() -> dict[str, str]:
    """Heading -> text of docs/methods.md."""
    text = (Path(__file__).parents[1] / "docs" / "methods.md").read_text(encoding="utf-8")
    return {part.split("\n", 1)[0].strip(): part for part in text.split("\n## ")}


def as_typed(text: str, like: Any) -> Any:
    """A default as it is printed in the documentation -> the value."""
    if isinstance(like, bool):
        return {"true": True, "false": False}[text]
    if isinstance(like, tuple):
        return tuple(int(word) for word in text.split()) if text != "none" else ()
    if isinstance(like, str):
        return text
    over, _, under = text.partition("/")
    return float(over) / float(under or 1)


@pytest.mark.parametrize("name", registry.METHODS)
def test_every_option_is_documented_with_its_default(name: str) -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in sections()[name].splitlines() if line.startswith("|")]
    for field in dataclasses.fields(registry.load(name).Options):
        (row,) = [row for row in rows if f"`{field.name}`" in row[0]]
        default = row[1].split(", ")[row[0].split(", ").index(f"`{field.name}`")].strip("`")
        assert as_typed(default, field.default) == field.default


def test_the_documented_settings_exist() -> None:
    commands = re.findall(r"`((?:--set [^`= ]+=[^` ]+ ?)+)`", sections()["hinet"])
    assert len(commands) == 7
    found = [build(HiNet, *re.findall(r"--set (\S+)", command), preset="paper") for command in commands]
    assert len({str(config) for config in found}) == len(found)
