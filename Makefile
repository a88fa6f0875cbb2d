PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?=

.PHONY: demo test docs check clean

demo: $(VENV)/installed  ## a ResNet-50 with STRF ranks tracklets; a small network is shown; one is trained with and without STRF
	$(BIN)/python examples/rank_tracklets.py $(if $(DATA),--data $(DATA))
	$(BIN)/strfnet show --report --model strf_c2d_resnet8 --weights walkers --out demo/report.html
	$(BIN)/python examples/train_walkers.py

test: $(VENV)/installed  ## linters, types, then the whole suite
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2

docs: $(VENV)/installed  ## the pages as a site in build/docs
	$(BIN)/sphinx-build -W --keep-going -b html docs build/docs

$(VENV)/installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable ".[check]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info
