# GenCausal: `make reports` and `make test` set everything up first. `make help` lists the targets.

PROFILE ?= laptop
PYTHON ?= python3
TORCH_SPEC ?= torch==2.13.0
# For example: make reports TORCH_ARGS="--index-url <a CPU or CUDA index>"
TORCH_ARGS ?=
CORES ?= 2
PYTEST_ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
SNAKEMAKE = PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/snakemake --profile profiles/local --cores $(CORES) --config profile=$(PROFILE)

.PHONY: help reports smoke test lab notebooks stale bundle publish lock clean distclean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12
	@echo "PROFILE=smoke|laptop|full|paper (now $(PROFILE)); CORES=$(CORES); TORCH_ARGS picks a CPU or CUDA index for torch"

$(STAMP): pyproject.toml requirements/lock.txt
	@$(PYTHON) -c 'import sys; sys.exit("GenCausal needs Python 3.11 or newer; call make with PYTHON=python3.11" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "$(TORCH_SPEC)" $(TORCH_ARGS)
	$(BIN)/python -m pip install --quiet --require-hashes -r requirements/lock.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@

reports: $(STAMP)  ## run the study at PROFILE and write build/<profile>/reports/index.html
	@$(SNAKEMAKE) --unlock >/dev/null 2>&1 || true
	@$(SNAKEMAKE) --rerun-incomplete --keep-going || { $(BIN)/gencausal report --profile $(PROFILE) || true; exit 1; }  # a failed run is reported too
	@$(BIN)/gencausal compare --profile $(PROFILE)

smoke: $(STAMP)  ## the five-minute version of reports
	@$(MAKE) --no-print-directory reports PROFILE=smoke

test: $(STAMP)  ## run every test, a file a core at a time
	$(BIN)/python -m pytest -n $(CORES) --dist loadfile $(PYTEST_ARGS)

lab: $(STAMP)  ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab --notebook-dir=notebooks

notebooks: $(STAMP)  ## rebuild the executed notebooks/*.ipynb from notebooks/*.py at smoke size
	$(BIN)/gencausal notebooks

stale: $(STAMP)  ## name and mark the published pages that an edit has left behind
	$(BIN)/gencausal stale

bundle: $(STAMP)  ## one archive of reports, rows, notebooks, lock and run records, to attach to a review
	$(BIN)/gencausal bundle

publish: $(STAMP)  ## copy a finished full run of a clean commit to reports/
	$(BIN)/gencausal publish --profile full

lock: $(STAMP)  ## resolve requirements/lock.txt and environment.yml anew
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/python requirements/generate.py

clean:  ## delete what runs made (build/), keep the environment
	rm -rf build

distclean: clean  ## delete the environment too
	rm -rf $(VENV)
