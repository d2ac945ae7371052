"""TensorBatches of tensors in memory against skorch's default DataLoader, in one run.

    python benchmarks/slices.py                                     # 200,000 x 120, batch 2048, CPU, two threads
    python benchmarks/slices.py --device cuda --rows 1100000        # a GPU; also its peak memory

A plain MLP, 256-128-64-32-16 with BatchNorm and dropout .3. Each figure is the median of several runs.
Writes benchmarks/results/slices-DEVICE.json.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

os.environ["TQDM_DISABLE"] = "1"

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from skorch import NeuralNetBinaryClassifier

from lending_club.core.estimators import LoanNet
from lending_club.core.networks import LoanMLP

RESULTS = Path(__file__).resolve().parent / "results"
COLUMNS, BATCH, RUNS = 120, 2_048, 5


def timed(call) -> float:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def measure(net, X, y, options) -> dict:
    "Seconds of each part, medians of several runs; on a GPU also the most memory that was in use."
    gpu = options.device != "cpu"
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    net.fit(X, y)
    torch.set_num_threads(options.threads)
    dataset = net.get_dataset(X, y)

    def iterate():
        for _ in net.get_iterator(dataset, training=True):
            pass

    result = {
        "iteration_seconds": statistics.median(timed(iterate) for _ in range(RUNS)),
        "epoch_seconds": statistics.median(net.history[:, "dur"]),
        "predict_proba_seconds": statistics.median(timed(lambda: net.predict_proba(X)) for _ in range(RUNS)),
        "roc_auc": roc_auc_score(y, net.predict_proba(X)[:, 1]),
    }
    return result | ({"peak_gpu_mib": torch.cuda.max_memory_allocated() / 2**20} if gpu else {})


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000, help="synthetic loans (default: %(default)s)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rng = np.random.default_rng(0)
    X = rng.standard_normal((options.rows, COLUMNS), dtype=np.float32)
    risk = 1 / (1 + np.exp(1.6 - X[:, 0] - X[:, 1] * X[:, 2]))
    y = (rng.random(options.rows) < risk).astype(np.float32)
    layout = {"n_numeric": COLUMNS, "n_flags": 0, "cardinalities": []}
    same = {
        "module__hidden": (256, 128, 64, 32, 16),
        "module__batch_norm": True,
        "module__dropout": 0.3,
        "max_epochs": RUNS,
        "batch_size": BATCH,
        "train_split": None,
        "lr": 1e-3,
        "optimizer": torch.optim.AdamW,
        "device": options.device,
    }

    class Loader(NeuralNetBinaryClassifier):
        "skorch as it comes; its binary classifier wants one logit a loan, without a second axis."

        def infer(self, x, **fit_params):
            return super().infer(x, **fit_params).squeeze(-1)

    torch.manual_seed(0)
    loader = Loader(
        LoanMLP, module__layout=layout, criterion=torch.nn.BCEWithLogitsLoss, iterator_train__shuffle=True, verbose=0, **same
    )
    slices = LoanNet(LoanMLP, layout=layout, threads=options.threads, averaging=0, **same)
    result = {"rows": options.rows, "columns": COLUMNS, "batch": BATCH, "threads": options.threads, "device": options.device}
    if options.device != "cpu":
        result["gpu"] = torch.cuda.get_device_name()
    for name, net in (("DataLoader", loader), ("slices", slices)):
        result[name] = measure(net, X, y, options)
    result["times_faster"] = {
        key.removesuffix("_seconds"): result["DataLoader"][key] / result["slices"][key]
        for key in result["slices"]
        if key.endswith("_seconds")
    }
    (RESULTS / f"slices-{options.device}.json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
