"""Starts commands of ours from a process that has imported the package: a fork each, so each has its own everything.

It reads a line of JSON per command on its standard input and answers with two: the process id and, at the end, the exit
status. A fork saves the imports, and ends without taking all the imported modules apart. conftest.py starts this."""

import json
import multiprocessing
import os
import sys

# what the commands import sooner or later; none of these leaves a thread of Python's, which a fork would lack
import mlflow.sklearn  # noqa: F401
import skops.io  # noqa: F401

import lending_club.core.pipeline
import lending_club.promote
import lending_club.serving.app
import lending_club.train  # noqa: F401
from lending_club.cli import main


def run_command(command: dict):
    "Be a process that was started for the command."
    os.chdir(command["cwd"])
    os.environ.clear()
    os.environ.update(command["environment"])
    for stream, path in ((1, command["stdout"]), (2, command["stderr"])):
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, stream)
        os.close(file)
    sys.argv = command["words"]
    sys.exit(main(sys.argv[1:]))


def run_commands():
    forks, answers = multiprocessing.get_context("fork"), os.fdopen(os.dup(1), "w", buffering=1)
    for line in sys.stdin:
        running = forks.Process(target=run_command, args=(json.loads(line),))
        running.start()
        print(running.pid, file=answers)
        running.join()
        print(running.exitcode, file=answers)


if __name__ == "__main__":
    run_commands()
