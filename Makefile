# Everything runs from an environment of its own, which the first command makes.
#   make demo    run examples/seattle_weather.py, recorded in .flowloop/
#   make test    run the tests on all cores: ARGS='-n 0 -k NAME' for some of them, one after the other
#   make simulate  ten thousand random flows against what plain Python computes, about an hour
#   make fuzz    ten thousand requests by chance to the server, a minute
#   make prefect1  the tests against the real Prefect 1 alone; its environment is built once, in build/
#   make faults  100 tries of each, and half an hour of small flows: ARGS='--tries 20 --seed 7 --soak 0' for others
#   make layouts  keep where the parts of the live page's views are now; make pictures: look at them, in build/pictures
#   make places-full  bodies on a Dask cluster: 100,000 children, large values, kills; half an hour
#   make mutants  change the source a little, many times over, and see whether the tests notice; takes an hour
#   make check   format, lint and types, also of the page: page-check alone needs npm's registry
#   make docs    the site, in build/site: open build/site/index.html
#   make extras  install a wheel with each extra in an empty environment, and use what it gives; needs a package index
#   make dist    a release: wheel, source distribution and bill of materials in dist/, checked
#   make bench   the benchmarks in their quick sizes, a few minutes; bench-full: all of them, the peers, and the page
#                docs/benchmarks.md, about 40 minutes; bench-gate: the ratios against their history; bench-page: the page alone

VENV ?= .venv
PYTHON ?= $(shell for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$python && break; done)
ARGS ?=

# Test files beside each other, two more than there are cores, because many tests wait for another process.
# The tests of a file stay together: they share what is dear to make.
BESIDE ?= -n $(shell $(PYTHON) -c 'import os; print(min((os.cpu_count() or 1) + 2, 6))') --dist loadfile --no-loadscope-reorder

BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --editable
TYPED := build/typing/flowloop

# The tests start hundreds of processes, which would compile the project anew if they could not keep what they compile.
export PYTHONDONTWRITEBYTECODE =

.PHONY: page-check layouts pictures demo docs dist extras test simulate fuzz prefect1 faults places-full mutants check format lint types clean bench bench-full bench-gate bench-page bench-env
.DELETE_ON_ERROR:

demo: $(VENV)/.installed-demo
	FLOWLOOP_HOME=.flowloop $(BIN)/flowloop run examples/seattle_weather.py -p year=2015

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest $(BESIDE) $(ARGS)

simulate: $(VENV)/.installed-dev
	GRID_EXAMPLES=10000 $(BIN)/python -m pytest tests/engine/test_value_grid.py $(ARGS)

fuzz: $(VENV)/.installed-dev
	FUZZ_REQUESTS=10000 $(BIN)/python -m pytest tests/backends/server/test_fuzz.py $(ARGS)

prefect1: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/prefect1 $(ARGS)

faults: $(VENV)/.installed-dev
	$(BIN)/python -m pytest tests/faults -m faults --tries 100 --soak 30 $(ARGS)

places-full: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks.places_full $(ARGS)

mutants: $(VENV)/.installed-dev
	$(BIN)/python -m tests.mutants $(ARGS)

layouts: $(VENV)/.installed-dev
	FLOWLOOP_KEEP_LAYOUTS=1 $(BIN)/python -m pytest tests/page/test_page.py -k each_view $(ARGS)

pictures: $(VENV)/.installed-dev
	FLOWLOOP_PICTURES=build/pictures $(BIN)/python -m pytest tests/page/test_page.py -k each_view $(ARGS)

docs: $(VENV)/.installed-dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs build/site
	@echo "open build/site/index.html"

dist: $(VENV)/.installed-release
	$(BIN)/python tools/release.py

extras: $(VENV)/.installed-dev
	$(BIN)/python tools/extras.py $(ARGS)

check: format lint types page-check

format: $(VENV)/.installed-dev
	$(BIN)/ruff format --check

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check

# The folders under the names they are imported by, as a type checker has to see them.
types: $(VENV)/.installed-dev
	mkdir -p $(TYPED)
	ln -sfn ../../../engine $(TYPED)/engine
	ln -sfn ../../../backends $(TYPED)/backends
	ln -sfn ../../../package/compat $(TYPED)/compat
	ln -sfn ../../../package/tasks $(TYPED)/tasks
	ln -sfn ../../../package/__init__.py $(TYPED)/__init__.py
	ln -sfn ../../../package/py.typed $(TYPED)/py.typed
	$(BIN)/mypy
	$(BIN)/mypy examples
	$(BIN)/pyright --pythonpath $(BIN)/python

# The modules of the page; what checks them is fetched once, into build/page.
page-check: $(VENV)/.installed-dev
	$(BIN)/python tools/page/check.py

# The targets are stated for Python 3.13: the benchmarks have an environment of their own.
BENCH_VENV ?= build/bench
BENCH_PYTHON ?= $(or $(firstword $(wildcard $(HOME)/.pyenv/versions/3.13.*/bin/python) $(shell command -v python3.13)),$(PYTHON))
BENCH := $(BENCH_VENV)/bin/python -m benchmarks

bench bench-full bench-gate bench-page bench-env:
	@$(MAKE) --no-print-directory VENV=$(BENCH_VENV) PYTHON=$(BENCH_PYTHON) run-$@

run-bench: $(VENV)/.installed-bench
	$(BENCH) $(ARGS)

run-bench-full: $(VENV)/.installed-bench
	$(BENCH) --scale full --results benchmarks/results $(ARGS)
	$(BENCH) --results benchmarks/results --page docs/benchmarks.md

run-bench-gate: $(VENV)/.installed-bench
	$(BENCH) --gate benchmarks/history $(ARGS)

run-bench-page: $(VENV)/.installed-bench
	$(BENCH) --results benchmarks/results --page docs/benchmarks.md

run-bench-env: $(VENV)/.installed-bench

$(VENV)/.installed-%: pyproject.toml | $(VENV)/bin/python
	$(INSTALL) '.[$*]'
	@touch $@

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "flowloop needs Python 3.11 or newer, and none was found: make PYTHON=/path/to/python3" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist *.egg-info .flowloop
