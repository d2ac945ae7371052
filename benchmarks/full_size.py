"""A run at full size: seconds, and the memory of all its processes, to a registered version or to a refusal.

    python benchmarks/full_size.py generated                        # 2,260,668 loans of the built-in generator
    python benchmarks/full_size.py accepted.csv                     # a file; rows that repeat are refused
    python benchmarks/full_size.py accepted.csv --max-repeated 1    # the same to its registered version

Works in a temporary folder, so that it touches nobody's registry; adds to benchmarks/results/full_size.json.
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

HERE = Path(__file__).resolve().parent
ROWS = 2_260_668  # loans of the public file
EVERY = 0.5  # seconds between two looks at the memory


def memory_of(process: psutil.Process) -> int:
    "Bytes that a process and all that it started have in memory; what they share counts once."
    total = 0
    for one in (process, *process.children(recursive=True)):
        try:
            total += one.memory_full_info().pss
        except psutil.Error:  # it has ended
            continue
    return total


def watch(command: list[str], environment: dict) -> dict:
    "Run a command: seconds, peak memory, exit status, last lines."
    start, peak = time.perf_counter(), 0
    with tempfile.TemporaryFile("w+") as log:
        running = psutil.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        while running.poll() is None:
            try:
                peak = max(peak, memory_of(running))
            except psutil.NoSuchProcess:
                break
            time.sleep(EVERY)
        status = running.wait()
        log.seek(0)
        lines = [re.split(r"[\r\n]", line.rstrip("\r\n"))[-1] for line in log]
    return {"seconds": round(time.perf_counter() - start), "peak_gb": round(peak / 1e9, 1), "status": status, "said": lines}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="`generated`, or a file of loans")
    parser.add_argument("--max-repeated", type=float, help="largest share of loans that may repeat; default: the setting's")
    parser.add_argument("--rows", type=int, default=ROWS, help="loans that are generated")
    arguments = parser.parse_args()
    program = str(Path(sys.executable).with_name("lending-club"))
    with tempfile.TemporaryDirectory(prefix="lending-club-full-") as folder:
        environment = {**os.environ, "VAR_DIR": f"{folder}/var", "TQDM_DISABLE": "1", "TARGET": "final_status"}
        if arguments.max_repeated is not None:
            environment["MAX_REPEATED"] = str(arguments.max_repeated)
        data = arguments.data
        if data == "generated":
            data = f"{folder}/generated.csv"
            subprocess.run([program, "sample", data, "--rows", str(arguments.rows)], env=environment, check=True)
        found = watch([program, "run", "--data", data], environment)
        versions = [json.loads(path.read_text()) for path in Path(folder, "var", "artifacts").rglob("card.json")]
    said = found.pop("said")
    sys.stdout.write("\n".join(said[-40:]) + "\n")
    result = {
        "file_gb": None if arguments.data == "generated" else round(Path(arguments.data).stat().st_size / 1e9, 2),
        "rows": arguments.rows if arguments.data == "generated" else None,
        **found,
        "registered": len(versions),
        "stages": [line for line in said if re.fullmatch(r"\[\d/\d\] \w+: \d+ s", line)],
        "refusal": next((line for line in said if found["status"] and "max_repeated" in line), None),
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
    }
    sys.stdout.write(json.dumps(result, indent=1) + "\n")
    name = "generated" if arguments.data == "generated" else f"file, max_repeated {arguments.max_repeated or 'as set'}"
    path = HERE / "results" / "full_size.json"
    results = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(results | {name: result}, indent=1) + "\n")


if __name__ == "__main__":
    main()
