# `make run` and `make test` do all set-up themselves; the rest is convenience around lending-club and nbdev.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
STAMP = $(VENV)/.installed
WORKERS ?= 2
PYTEST = $(BIN)/python -m pytest -rs --durations=20
PARALLEL = -n $(WORKERS) --dist loadfile --no-loadscope-reorder

# The tests run in several processes: more threads in each would only wait for each other.
test test-slow: export OMP_NUM_THREADS = 1

.DEFAULT_GOAL := help
.PHONY: help install run test test-slow test-stack lint promote serve lab mlflow readme export up down logs backup restore

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is too old: Python 3.11 or newer is needed (make PYTHON=python3.12 ...)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check $$(grep '^torch==' constraints.txt)
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

install: $(STAMP)  ## the environment in .venv, if it is not there yet

run: $(STAMP)  ## raw loans to a registered candidate; the first one is promoted
	$(BIN)/lending-club run
	$(BIN)/lending-club promote --if-no-champion
	@echo
	@echo 'what next:'
	@echo '  make serve                                          answer applications on 127.0.0.1:8000; then, elsewhere:'
	@echo '  curl localhost:8000/predict -d @service/loan.json   ask about one'
	@echo '  make mlflow                                         runs and models on 127.0.0.1:5000'
	@echo '  make lab                                            the notebooks in JupyterLab'
	@echo '  make promote                                        make the latest candidate the champion'

test: $(STAMP)  ## every notebook and every test but the slow ones; COVERAGE=1 for what the tests cover
	$(BIN)/nbdev_test --do-print --timing
	$(PYTEST) $(PARALLEL) $(if $(COVERAGE),--cov) -m 'not slow and not stack'

test-slow: $(STAMP)  ## the tests that train networks or run stages of their own
	$(PYTEST) $(PARALLEL) -m 'slow'

test-stack: $(STAMP)  ## the stack built, used, broken and restored, where a container engine answers
	$(PYTEST) -m stack -s

lint: $(STAMP)  ## rules, format and types of notebooks and code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

promote: $(STAMP)  ## candidate to champion
	$(BIN)/lending-club promote

serve: $(STAMP)  ## the API on 127.0.0.1:8000
	$(BIN)/lending-club serve

lab: $(STAMP)  ## JupyterLab
	$(BIN)/jupyter lab

mlflow: $(STAMP)  ## MLflow's pages on 127.0.0.1:5000, over the embedded database
	MLFLOW_DISABLE_TELEMETRY=true $(BIN)/mlflow server --backend-store-uri sqlite:///var/mlflow.db --host 127.0.0.1 --port 5000

export: $(STAMP)  ## notebooks to package; run after editing a notebook
	$(BIN)/nbdev_export
	$(BIN)/nbdev-clean

readme: $(STAMP)  ## README.md and docs/ from nbs/index.ipynb and nbs/pages, without Quarto
	$(BIN)/nbdev-test nbs/index.ipynb --save
	for page in nbs/pages/*.ipynb; do $(BIN)/nbdev-test $$page --save || exit 1; done
	$(BIN)/nbdev-clean
	$(BIN)/python nbs/make_readme.py

# --- the stack: Docker with Compose is all these need
up:  ## the stack in containers; GPU=1 for a GPU, S3=minio for the other store
	@GPU="$(GPU)" S3="$(S3)" service/stack.sh up

down:  ## stop the stack; its data stay
	@service/stack.sh down

logs:  ## what the stack says, as it says it
	@service/stack.sh logs

backup:  ## the stack's databases and artifacts to one file (FILE=..., or one of var/backups)
	@FILE="$(FILE)" service/stack.sh backup

restore:  ## and back, in place of what is there: make restore FILE=...
	@FILE="$(FILE)" service/stack.sh restore
