"""One run under several conventions: the tables of docs/protocols.md.

    python benchmarks/protocol_table.py DATA RUN

For every validation and test subject: PSNR (dB) and SSIM under every protocol, the prediction after its best gain (an oracle),
and the volume as written to disk, whose gain is the training median, on the truth's scale. Then the mean PSNR of the ways to
put slices through the network (`inference_speed.py` measures how long they take).
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from statistics import mean

import numpy as np

from common import decibel, write
from synthmr.evaluate.protocols import PROTOCOLS
from synthmr.evaluate.scoring import score, score_input
from synthmr.predict.predictor import Predictor
from synthmr.predict.settings import PredictSettings
from synthmr.predictions import predictions
from synthmr.run import load_run

PARTS = ("validation", "test")
WAYS = {
    "window around each slice's brain, auto precision (default)": PredictSettings(),
    "window around each slice's brain, float32": PredictSettings(precision="32"),
    "whole box, auto precision": PredictSettings(tight="off"),
    "four 128x128 tiles, auto precision (--mode patches)": PredictSettings(mode="patches"),
    "four 128x128 tiles, float32": PredictSettings(mode="patches", precision="32"),
}


def subjects(data: Path, run: Path) -> list[dict[str, object]]:
    """One record a held-out subject: PSNR and SSIM under every protocol, and what is not a protocol."""
    loaded = load_run(run)
    known, predictor = loaded.target_normalizers, Predictor(loaded)
    found: list[dict[str, object]] = []
    for part in PARTS:
        for predicted in predictions([run], data, part):
            (image,) = predicted.images.values()
            scored = score_input(image, predicted.prepared, predicted.target)
            p, t = (array[scored.mask].astype(np.float64) for array in (scored.prediction, scored.truth))
            factor = known[predicted.target]["high"] / predicted.prepared.normalizers[predicted.target]["high"]
            record: dict[str, object] = {"case": predicted.prepared.name}
            for name, protocol in PROTOCOLS.items():
                for region, values in score(scored, protocol).items():
                    where = f" {region}" if len(protocol.regions) > 1 else ""
                    record |= {f"{name}{where} {metric}": values[metric] for metric in ("psnr", "ssim")}
            record["best gain psnr"] = decibel(p * (p @ t) / (p @ p) - t)
            record["disk factor"] = factor
            # in scanner units a volume is not brought to its level (synthmr.prepare.brightness)
            prediction = predictor(predicted.prepared, [predicted.target])
            plain = replace(prediction, brightness={}).unit(predicted.target)
            written = score_input(plain, predicted.prepared, predicted.target).prediction[scored.mask].astype(np.float64)
            record["on disk psnr"] = decibel(written * factor - t)
            found.append(record)
    return found


def way(data: Path, run: Path, settings: PredictSettings) -> float:
    """Mean PSNR over the held-out subjects."""
    protocol = PROTOCOLS["masked-volume"]
    values = [
        row.value
        for part in PARTS
        for predicted in predictions([run], data, part, settings)
        for row in predicted.scores([protocol]).rows
        if row.metric == "psnr"
    ]
    return mean(values)


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("run", type=Path)
    args = parser.parse_args()
    records = subjects(args.data, args.run)
    keys = [key for key in records[0] if key != "case"]
    lines = [f"{'':28s} " + " ".join(f"{str(record['case']).partition('_')[2]:>17s}" for record in records) + f" {'mean':>9s}"]
    for key in keys:
        values = [float(str(record[key])) for record in records]
        lines.append(f"{key:28s} " + " ".join(f"{value:17.3f}" for value in values) + f" {mean(values):9.3f}")
    ways = {name: way(args.data, args.run, settings) for name, settings in WAYS.items()}
    lines += ["", f"{'way (mean masked-volume PSNR)':62s}     dB"]
    lines += [f"{name:62s} {psnr:6.2f}" for name, psnr in ways.items()]
    result = {"subjects": records, "ways": ways}
    write("protocol_table", "python benchmarks/protocol_table.py DATA RUN", result, "\n".join(lines))


if __name__ == "__main__":
    main()
