# Two commands for a newcomer: `make demo` and `make test`. Each sets .venv up by itself, with plain venv and pip.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SAMPLE ?= 100
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

.PHONY: help demo test slow long distributed lint audit check docs coverage lines mutation bench results measure gpu faults wheel smoke clean

help:
	@echo "make demo    train, compare, time, export and verify the built-in example"
	@echo "make test    run the tests, but for the slow ones; make slow runs those, make long what CI has no time for"
	@echo "make check   lint, types, import contracts, licences and known vulnerabilities, tests; CI runs this, the slow tests, the wheel and the demo"
	@echo "make docs    the documentation as a site, in build/site"
	@echo "make coverage, make mutation    what the tests see; make lines counts lines by part"
	@echo "make faults  kill commands at random moments, fill disks, damage files, make inputs up: what is lost, what is said?"
	@echo "make distributed    several processes by torchrun, a Dask cluster, a PostgreSQL server; parts of each are killed"
	@echo "make bench   time the benchmark cases on this machine"
	@echo "make results write the pages of docs/results from their records; make measure takes the records: hours, on a quiet machine"
	@echo "make gpu     all that needs an accelerator, under 8 minutes; with your own torch: make gpu PYTHON=python3.12"

demo: $(VENV)/.demo
	$(BIN)/lrdiff run

test: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not long"

# Browsers, compilers, killed processes, real measurements. CI runs a part of the files, as PART=3/24 does.
slow: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not long" $(if $(PART),--part $(PART))

# More of the same kinds, before a release: every architecture, every activation, more kills.
long: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile -m long

# Real processes and servers on this machine, parts of each killed; what is not here is skipped, with the reason.
distributed: $(VENV)/.dev
	$(BIN)/python -m pytest tests -n 2 --dist loadscope -m distributed

lint: $(VENV)/.dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	PYTHONPATH=.:export:bench $(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml docs/guide/ab-workflow.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-issue-forms .github/ISSUE_TEMPLATE/bug.yml .github/ISSUE_TEMPLATE/claim.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

# Known vulnerabilities and licences of what an installation brings; without a network it says so and goes on.
audit: $(VENV)/.audit
	$(BIN)/python -m benchmarks.dependencies

check: lint audit test

# The documentation as a site in build/site: references from the code, a broken link or a name without a docstring fails.
docs: $(VENV)/.dev
	$(BIN)/python docs/build_site.py

coverage: $(VENV)/.dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --cov=lrdiff_core --cov=lrdiff_export --cov=lrdiff_bench --cov-report=term:skip-covered

# Lines of code, comments and docstrings by part, of the files that git tracks.
lines:
	@for part in lrdiff_core export bench benchmarks tests; do \
	  printf '%-12s %6d\n' $$part $$(git ls-files $$part | grep -E '\.(pyi?|c|cpp|m?js|html|css)$$' | tr '\n' '\0' | xargs -0 cat | wc -l); \
	done

# A sample of planted faults in rates, stats and verify, and how many of them the tests see.
mutation: $(VENV)/.mutation
	for part in rates stats verify; do $(BIN)/python -m benchmarks.mutation $$part --sample $(SAMPLE) || exit 1; done

# COUNT=40 for a short one; runs/faults.json has every case.
COUNT ?= 1000
faults: $(VENV)/.dev
	@mkdir -p runs
	$(BIN)/python -m benchmarks.faults --count $(COUNT) --out runs/faults.json

bench: $(VENV)/.dev
	$(BIN)/python -m pytest benchmarks --benchmark-only --benchmark-columns=min,median,iqr,rounds

# Pages from records, in seconds. Studies have records of their own (docs/results/studies), maps their folders.
results: $(VENV)/.dev
	$(BIN)/python -m benchmarks.results

# The records, and the pages with them. A goal that is missed ends a command with 1, and is part of what is measured.
RECORDS := docs/results/records
BESIDE := $(BIN)/python -m benchmarks.ab_counts.neighbours 2
measure: $(VENV)/.dev
	@mkdir -p $(RECORDS)
	-$(BIN)/lrdiff bench --to docs/results/benchmarks.md --record $(RECORDS)/benchmarks.json
	-$(BIN)/lrdiff bench step --training --out docs/results/training.md --record $(RECORDS)/training.json
	-$(BIN)/lrdiff bench step --peers --out docs/results/step.md --record $(RECORDS)/step.json.gz
	-$(BESIDE) $(BIN)/lrdiff bench step --training --out docs/results/training-busy.md --record $(RECORDS)/training-busy.json
	-$(BESIDE) $(BIN)/lrdiff bench step --peers --shape mlp --shape transformer --threads 1 --out docs/results/step-busy.md --record $(RECORDS)/step-busy.json
	-$(BIN)/lrdiff bench population --out docs/results/population.md --record $(RECORDS)/population.json
	-$(BIN)/lrdiff parity --record $(RECORDS)/parity.json.gz
	-$(BIN)/lrdiff parity --training --record $(RECORDS)/training-parity.json.gz
	-$(BIN)/python -m benchmarks.state_formats.cost --out docs/results/state-formats.md --record $(RECORDS)/state-formats.json
	-$(BIN)/python -m benchmarks.overhead.shards --out docs/results/shards.md --record $(RECORDS)/shards.json
	-$(BIN)/python -m benchmarks.overhead.large --out docs/results/large.md --record $(RECORDS)/large.json
	-$(BIN)/python -m benchmarks.overhead.step_check --out docs/results/step-check.md --record $(RECORDS)/step-check.json
	-$(BIN)/python -m benchmarks.overhead.clip --out docs/results/clip.md --record $(RECORDS)/clip.json
	-$(BIN)/python -m benchmarks.optimizers_table --out docs/results/optimizers.md --record $(RECORDS)/optimizers.json
	-$(BIN)/python -m benchmarks.boost --out docs/results/boost.md --record $(RECORDS)/boost.json
	-$(BIN)/python -m benchmarks.compare_exporters --out docs/results/export-compare.md --record $(RECORDS)/export-compare.json
	-$(BIN)/python -m benchmarks.export_models --out docs/results/export-models.md --record $(RECORDS)/export-models.json
	-$(BIN)/python -m benchmarks.mutate_exports --count 1000 --healthy 200 --out docs/results/export-mutations.md --record $(RECORDS)/export-mutations.json
	-$(BIN)/python -m benchmarks.tables --out docs/results/tables.md --record $(RECORDS)/tables.json
	-$(BIN)/python -m benchmarks.tune_rates --out docs/results/tune.md --record $(RECORDS)/tune.json
	$(BIN)/python -m benchmarks.results

# With the Python and the torch that are there, and nothing from the network: a torch that knows the GPU is not ours to install.
GPU_DEVICE ?= auto
GPU_OUT ?= runs/gpu
gpu:
	PYTHONPATH=.:export:bench $(PYTHON) -m lrdiff_bench.gpu --device $(GPU_DEVICE) --out $(GPU_OUT)

# The wheel in a clean environment, away from the checkout: what a user who installs it gets.
wheel: $(VENV)/.dev
	rm -rf dist
	$(BIN)/python -m build --wheel --outdir dist .

smoke: wheel
	sh .ci/smoke $(PYTHON)

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Stamps: installing happens again only when what is to be installed has changed.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) --editable ".[maps,study]"
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt tests/interop/fastai.txt | $(BIN)/python
	$(PIP) --editable ".[dev,docs,browser,interop,openvino,sign,maps,study,postgres,excel,zstd]"
	$(PIP) --no-deps --requirement tests/interop/fastai.txt
	@touch $@ $(VENV)/.demo

$(VENV)/.audit: $(VENV)/.dev
	-$(PIP) --editable ".[audit]"
	@touch $@

$(VENV)/.mutation: $(VENV)/.dev
	$(PIP) --editable ".[mutation]"
	@touch $@

$(BIN)/python:
	@command -v $(PYTHON) >/dev/null || \
	  { echo "error: no $(PYTHON) here; Python 3.11 or newer is needed; name one: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "error: Python 3.11 or newer is needed, $(PYTHON) is `$(PYTHON) --version 2>&1`; make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || \
	  { echo "error: $(PYTHON) has no venv module; install it (Debian and Ubuntu: apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
