# Everything a developer or an operator runs. `make help` lists it.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
PACKAGES := schemas shared services tests
LANES ?= 2

.PHONY: help demo up kafka test check fix crash outage sim bench schemas requirements

help: ## list these commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)$$/  make \1\t\2/' | expand -t 22

demo: ## run the main job end to end, print the summary, leave nothing running [SPLIT=1] [KAFKA=1]
	$(MAKE) -s $(STAMP)
	$(BIN)/python -m services.cli.demo --set-up-s $$SECONDS $(if $(SPLIT),--split) $(if $(KAFKA),--kafka)

up: $(STAMP) ## start the control plane in this terminal
	$(BIN)/seawall up

kafka: $(STAMP) ## run a real broker in this terminal, on a free port [NODES=3]
	$(BIN)/python -m shared.testing.kafka $(NODES)

test: $(STAMP) ## run the tests in random order [ARGS="tests/unit -k name"] [LANES=2]
	$(BIN)/python -m pytest --numprocesses $(LANES) --dist loadscope --no-loadscope-reorder $(ARGS)

check: $(STAMP) ## lint, format, types, import direction; never writes
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict $(PACKAGES)
	$(BIN)/lint-imports --no-logo

fix: $(STAMP) ## mend what ruff can mend, and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

crash: $(STAMP) ## kill -9 trials [N=50] [SEED=7] [OPERATION=failover] [KIND=stopped] [SWEEP=1 FROM=index], or [BUS=kafka BROKERS=3 MINUTES=10]
ifeq ($(BUS),kafka)
	$(BIN)/python -m tests.acceptance.chaos $(if $(BROKERS),--brokers $(BROKERS)) $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))
else
	$(BIN)/python -m tests.acceptance.crash $(if $(N),--n $(N)) $(if $(SEED),--seed $(SEED)) $(if $(OPERATION),--operation $(OPERATION)) $(if $(KIND),--kind $(KIND)) $(if $(SWEEP),--sweep) $(if $(FROM),--first $(FROM))
endif

outage: $(STAMP) ## stop the database under running work [SECONDS=60]
	$(BIN)/python -m tests.acceptance.outage $(if $(SECONDS),--seconds $(SECONDS))

sim: $(STAMP) ## whole random worlds in virtual time [SEEDS=20] [SEED=first] [KIND=name]
	$(BIN)/python -m tests.simulation $(if $(SEEDS),--seeds $(SEEDS)) $(if $(SEED),--seed $(SEED)) $(if $(KIND),--kind $(KIND))

bench: $(STAMP) ## measure, one or all [NAME=dispatch]
	$(BIN)/python -m tests.bench $(if $(NAME),--name $(NAME))

schemas: $(STAMP) ## write the published contract anew: JSON Schemas, asyncapi.yaml
	$(BIN)/python -m tests.unit.schemas.published

requirements: $(STAMP) ## write the hashed requirement files anew from pyproject.toml
	compile="$(BIN)/pip-compile --quiet --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url --no-emit-find-links --no-emit-trusted-host"
	export CUSTOM_COMPILE_COMMAND="make requirements"
	$$compile --output-file requirements.txt pyproject.toml
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["windows"], sep="\n")' \
		| $$compile --constraint requirements.txt --output-file requirements-windows.txt -
	$$compile --extra dev --extra windows --constraint requirements.txt --constraint requirements-windows.txt --output-file requirements-dev.txt pyproject.toml

# The stamp makes a warm start free: it is older than its sources only after they change.
$(STAMP): requirements-dev.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Seawall needs Python 3.11 or newer; set PYTHON=/path/to/python3.11")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@
