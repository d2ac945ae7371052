"""Write a small version of this release to tests/golden/: `python tests/make_golden.py`, once a release.

A network of a few thousand weights on the built-in sample, with coarse quantiles, so that the files stay small.
"""

import os
import sys
from datetime import date
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"

import lending_club
from lending_club.clean import load_clean, temporal_split
from lending_club.core.bundle import always_present, usual_ranges, write_bundle
from lending_club.core.calibration import assemble
from lending_club.core.compile import check_compiled, compile_pipeline
from lending_club.core.estimators import SeedAverage
from lending_club.core.examples import example_answers
from lending_club.core.features import FEATURE_BY_NAME
from lending_club.core.hyperparameters import make_net
from lending_club.core.preprocess import QuantileNormal, preprocessing
from lending_club.core.schema import REQUIRED_IN_APPLICATION, pipeline_columns
from lending_club.core.settings import scratch_settings

SMALL = {"k": 4, "width": 16, "blocks": 1, "embedding": 2, "bins": 8, "dropout": 0.1, "lr": 5e-3, "weight_decay": 1e-2,
         "batch_size": 256}  # fmt: skip

ALL_EQUAL = ("num_tl_120dpd_2m",)  # features that all loans of the sample have in common, which would be dropped


def main():
    folder = Path(__file__).parent / "golden" / lending_club.__version__
    if folder.exists():
        sys.exit(f"{folder.name} is there already: a golden version is never written anew")
    QuantileNormal.__init__.__kwdefaults__["n_quantiles"] = 60
    settings = scratch_settings(target="final_status", sample_rows=30_000, train_end=date(2018, 4, 1), val_end=date(2018, 9, 1))
    loans = load_clean(settings).loans
    for name in ALL_EQUAL:
        loans[name] = loans[name].where(loans.index % 20 > 0, 1.0)
    splits = temporal_split(loans, settings.train_end, settings.val_end)
    prepare = preprocessing(min_coverage=0.002, seed=settings.seed).fit(splits.train)
    net = make_net(SMALL, prepare["encode"].layout_, epochs=6, seed=settings.seed).set_params(callbacks__progress=None)
    matrices = [prepare.transform(part) for part in (splits.train, splits.validation)]
    networks = SeedAverage(net).fit(matrices[0], splits.train["default"], matrices[1], splits.validation["default"])
    pipeline = assemble(prepare, networks, splits.calibration, splits.calibration["default"])
    compiled = compile_pipeline(pipeline)
    unused = FEATURE_BY_NAME.keys() - compiled.tables["quantiles"].keys()
    assert not unused, f"no example can show the rule of {', '.join(sorted(unused))}: give loans values of it, as ALL_EQUAL does"
    check_compiled(compiled, pipeline, splits.test)
    used = [name for name in pipeline_columns() if name in compiled.tables["columns"]]
    inputs = {"columns": list(pipeline_columns()), "required": list(REQUIRED_IN_APPLICATION), "used": used,
              "always_present": always_present(splits.train, used), "ranges": usual_ranges(splits.train, used)}  # fmt: skip
    card = {"package_version": lending_club.__version__, "source": "built-in sample", "threshold": compiled.threshold,
            "inputs": inputs}  # fmt: skip
    folder.mkdir(parents=True)
    write_bundle(folder, card, {}, example_answers(compiled), compiled)["reference.json"].unlink()
    sys.stdout.write(f"{folder} written\n")


if __name__ == "__main__":
    main()
