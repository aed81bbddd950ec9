# The commands people type. Everything runs in .venv, which the first target that needs it makes.

PYTHON ?= python3
# The locks name everything that is needed, so nothing else is looked for.
INSTALL = .venv/bin/python -m pip install --disable-pip-version-check --no-deps
# A network that learns the small sample in a minute, and what its 240 validation images can prove.
DEMO ?= -S dataset=sample -S model=small_resnet -S train.selective_accuracy=0.9 -S evaluate.explained=100
# The metrics that matter, and every parameter in which experiments differ.
COMPARE = .venv/bin/dvc exp show --md --only-changed --sort-by accuracy --sort-order desc --hide-workspace \
	--drop '(?!(params.yaml:)?(Experiment|model|dataset|seed|accuracy|auroc|fake_recall|real_recall|ece|seconds|datasets\..*|prepare\..*|train\..*|evaluate\..*|models\..*)$$)'

# DVC starts the stages with `python`: let that be .venv's.
export PATH := $(CURDIR)/.venv/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help ask demo compare restore publish leaderboard sweep release serve test test-all lint requirements lock docs browser format hooks clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile

demo: .venv/.run-time ## Run the whole pipeline on the sample, in two minutes once installed; the work tree stays as it is
	@.venv/bin/python -m stages.keeping
	@.venv/bin/python -m stages.leftovers
	.venv/bin/dvc exp run --temp --force --name demo $(DEMO)
	@echo "Plots of the demo beside those of the published run:"
	@.venv/bin/dvc plots diff workspace demo --out dvc_plots
	@$(COMPARE)
	@.venv/bin/python -m tools.demo

compare: .venv/.run-time ## Compare experiments, the best first
	@$(COMPARE)

restore: .venv/.run-time ## Take back what an experiment left in the work tree: the committed parameters, results, data and model
	git restore --source=HEAD --staged --worktree params.yaml dvc.lock plots data/fingerprint.json models/pretrained.json \
		data/external.json metrics ':!metrics/published' ':!metrics/leave_one_out'
	.venv/bin/dvc checkout --force --allow-missing

publish: .venv/.run-time ## Write the record of a run into metrics/published: make publish EXP=NAME, or without EXP of the work tree
	@.venv/bin/python -m tools.publish $(EXP)

leaderboard: .venv/.run-time ## Write README.md's table and docs/leaderboard.md from metrics/published
	.venv/bin/python -m tools.leaderboard

sweep: .venv/.run-time ## Queue a grid of experiments, run it, retry what failed: make sweep JOBS=2 GRID="-S model=resnet18,vit_tiny"
	.venv/bin/python -m tools.sweep $(if $(JOBS),--jobs $(JOBS)) $(GRID)

release: .venv/.run-time ## Release a model to every clone: make release MODEL=vit_tiny EXP=NAME, or without EXP the work tree's
	@.venv/bin/python -m tools.release $(MODEL) $(EXP)

# As it was given: make would replace a $ in the name of a picture, and run what stands in a $(shell ...).
override PICTURES := $(value PICTURES)
export PICTURES

ask: .venv/.ask ## Ask the released model about pictures, without torch and DVC: make ask PICTURES="photo.jpg folder"
	@.venv/bin/python -m tools.unpack
	@# one picture, whatever its name has; else several as the shell reads them, so that quotes and ~ count
	@$(if $(PICTURES),,$(error say which: make ask PICTURES=photo.jpg)) \
	if [ -e "$$PICTURES" ]; then set -- "$$PICTURES"; else eval "set -- $$PICTURES"; fi; .venv/bin/python -m detector "$$@"

serve: .venv/.ask ## Answer over HTTP and on a web page, with models/resnet18_imagenet: make serve PORT=8000
	@.venv/bin/python -m tools.unpack
	@$(if $(PORT),SERVE_PORT=$(PORT)) .venv/bin/python -m app

test: .venv/.dev ## Run the fast tests
	.venv/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder

test-all: .venv/.dev ## Run all tests, the slow ones too
	.venv/bin/pytest -n 2 --dist loadfile --no-loadscope-reorder -m ""

lint: .venv/.dev ## Check style and types
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/mypy
	.venv/bin/hadolint dockerfiles/*.Dockerfile

requirements: .venv/.dev ## Write the locks, requirements*.txt, from requirements*.in; make requirements CHECK=1 only compares
	@.venv/bin/python -m tools.lock $(if $(CHECK),--check)

lock: .venv/.run-time ## Check that dvc.lock belongs to the committed code, parameters and data
	@status=$$(.venv/bin/dvc repro --dry --allow-missing 2>&1); failed=$$?; echo "$$status"; \
		if echo "$$status" | grep "^Running stage" | grep -qv "'fingerprint'"; then \
		echo "error: dvc.lock is older than the code: run 'dvc repro' and commit it with metrics and plots" >&2; exit 1; fi; \
		exit $$failed

docs: .venv/.dev ## Build the documentation as a site: site/index.html, with the page that answers in the browser where there is npm
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build
	@if command -v npm > /dev/null; then .venv/bin/python -m tools.unpack && .venv/bin/python -m tools.browser site/browser; \
		else echo "note: without npm the site lacks the page that answers in the browser"; fi

browser: .venv/.run-time ## Build the page that answers in the browser itself, with npm: build/browser/index.html
	@.venv/bin/python -m tools.unpack
	@.venv/bin/python -m tools.browser

format: .venv/.dev ## Rewrite the code in the project's style
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

hooks: .venv/.dev ## Check every commit as `make lint` does (git hook)
	.venv/bin/pre-commit install

clean: ## Remove .venv, caches, rendered plots and pages; data, models and experiments stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache dvc_plots site build browser/node_modules
	find . -name __pycache__ -not -path './.dvc/*' -prune -exec rm -rf {} +

.venv/bin/python:
	@command -v $(PYTHON) > /dev/null || \
		{ echo "error: there is no $(PYTHON): install Python 3.11, 3.12 or 3.13, or name one, as in 'make PYTHON=python3.12'" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11: name a newer one, as in 'make PYTHON=python3.12'" >&2; exit 1; }
	@$(PYTHON) -m venv .venv > /dev/null || { rm -rf .venv; \
		package=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
		echo "error: $(PYTHON) makes no virtual environment: on Debian and Ubuntu, 'apt-get install $$package' first" >&2; \
		exit 1; }

.venv/.ask: requirements-api.txt | .venv/bin/python
	@echo "Installing what asking takes into .venv: 55 MB to download, 225 MB on disk"
	$(INSTALL) -r requirements-api.txt
	@touch $@

.venv/.pipeline: requirements.txt requirements-torch.txt | .venv/bin/python
	@echo "Installing what the pipeline runs on into .venv: 230 MB to download, 1.1 GB on disk, and PyTorch"
	$(INSTALL) -r requirements.txt
	.venv/bin/python -m tools.install_torch
	@touch $@ .venv/.ask

# The released models go into DVC's cache: `dvc exp apply` fails where it lacks one of them. Users may track models of
# their own beside them, for which a bucket would be asked. An experiment writes models/*.dvc anew, as they were, so
# nothing that is installed depends on them.
.venv/.run-time: .venv/.pipeline $(wildcard models/*.dvc)
	@grep -l 'remote: released' models/*.dvc | xargs .venv/bin/dvc fetch --quiet
	@touch $@

.venv/.dev: requirements-dev.txt .venv/.pipeline | .venv/.run-time
	$(INSTALL) -r requirements-dev.txt
	@touch $@
