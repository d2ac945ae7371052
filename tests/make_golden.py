"""Write a small version of this release to tests/golden/: `python tests/make_golden.py`, once a release.

A network of hazards of a few thousand weights on the built-in sample, with coarse quantiles, so that the files stay small.
`curves.json` has the curves of the first examples, by month on book.
"""

import json
import os
import sys
from datetime import date
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"

from sklearn.pipeline import Pipeline

import lending_club
from lending_club.clean import load_clean, split_loans
from lending_club.core.bundle import always_present, usual_ranges, write_bundle
from lending_club.core.compile import check_compiled, compile_pipeline
from lending_club.core.examples import example_answers
from lending_club.core.features import FEATURE_BY_NAME
from lending_club.core.hazard_calibration import assemble_timed
from lending_club.core.hazard_estimators import HazardAverage
from lending_club.core.hyperparameters import make_net
from lending_club.core.matrices import fit_preprocessing
from lending_club.core.policy_fit import fit_policy
from lending_club.core.preprocess import QuantileNormal
from lending_club.core.schema import REQUIRED_IN_APPLICATION, pipeline_columns
from lending_club.core.settings import scratch_settings
from lending_club.serving.scorer import Scorer

SMALL = {
    "k": 4,
    "width": 16,
    "blocks": 1,
    "embedding": 2,
    "bins": 8,
    "dropout": 0.1,
    "lr": 5e-3,
    "weight_decay": 1e-2,
    "batch_size": 256,
}
ALL_EQUAL = ("num_tl_120dpd_2m",)  # features that all loans of the sample have in common, which would be dropped
WITH_CURVES = 20  # examples


def write_golden(folder: Path):
    "A version of this release in a folder that is not there yet."
    coarse = QuantileNormal.__init__.__kwdefaults__
    usual, coarse["n_quantiles"] = coarse["n_quantiles"], 60
    try:
        _write_golden(folder)
    finally:
        coarse["n_quantiles"] = usual


def _write_golden(folder: Path):
    settings = scratch_settings(
        target="time_to_event",
        sample_rows=30_000,
        train_end=date(2017, 10, 1),
        val_end=date(2018, 3, 1),
        min_coverage=0.002,
        policy="return",
    )
    clean = load_clean(settings)
    for name in ALL_EQUAL:
        clean.loans[name] = clean.loans[name].where(clean.loans.index % 20 > 0, 1.0)
    splits = split_loans(settings, clean)
    prepare, parts = fit_preprocessing(splits, settings)
    net = make_net(SMALL, prepare["encode"].layout_, epochs=6, seed=settings.seed).set_params(callbacks__progress=None)
    pipeline = assemble_timed(splits, Pipeline([*prepare.steps, ("networks", HazardAverage(net).fit(*parts))]))
    compiled = compile_pipeline(pipeline)
    unused = FEATURE_BY_NAME.keys() - compiled.tables["quantiles"].keys()
    assert not unused, f"no example can show the rule of {', '.join(sorted(unused))}: give loans values of it, as ALL_EQUAL does"
    check_compiled(compiled, pipeline, splits.test)
    used = [name for name in pipeline_columns() if name in compiled.tables["columns"]]
    inputs = {
        "columns": list(pipeline_columns()),
        "required": list(REQUIRED_IN_APPLICATION),
        "used": used,
        "always_present": always_present(splits.known, used),
        "ranges": usual_ranges(splits.known, used),
    }
    card = {
        "package_version": lending_club.__version__,
        "source": "built-in sample",
        "threshold": compiled.threshold,
        "inputs": inputs,
    } | fit_policy(settings, clean.payments, splits, pipeline)
    folder.mkdir(parents=True)
    examples = example_answers(compiled, card)
    write_bundle(folder, card, {}, examples, compiled)["reference.json"].unlink()
    applications = [case["application"] for case in examples["examples"][:WITH_CURVES]]
    answers = Scorer.load(folder, "1").score(applications, curve=True)
    curves = [{name: answer[name] for name in ("cumulative_pd", "cumulative_payoff")} for answer in answers]
    (folder / "curves.json").write_text(json.dumps(curves) + "\n")


def main():
    folder = Path(__file__).parent / "golden" / lending_club.__version__
    if folder.exists():
        sys.exit(f"{folder.name} is there already: a golden version is never written anew")
    write_golden(folder)
    sys.stdout.write(f"{folder} written\n")


if __name__ == "__main__":
    main()
