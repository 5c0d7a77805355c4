# Every target works on a fresh machine: it creates its virtual environment and installs what it needs, and is quick
# the second time. Settings:
#   PYTHON    the interpreter that the environment is made with (3.11 or newer)
#   VENV      where the environment lives
#   DATA      the folder of recorded traces (with traces/ in it) of bench-paper-scale, bench-headline and scaling
#   PIP_ARGS  extra arguments for pip, e.g. an index of CPU-only torch builds (README, "Install")
#   MODELS_VENV  the environment of test-models
#   RAY_VENV     the environment of test-ray and bench-ray
#   BENCH_VENV   the environment of bench-subnetact
#   FUZZ_VENV    the environment of fuzz-http
#   SCAN_VENV    the environment of scan
#   DIST_VENV    the environment of test-wheel and test-deploy
#   DIST         where test-wheel leaves the wheel and the sdist; default: nowhere
#   FUZZ_SECONDS for each target of fuzz-codec
#   MINUTES      of soak
PYTHON ?= python3
VENV ?= .venv
MODELS_VENV ?= .venv-models
RAY_VENV ?= .venv-ray
BENCH_VENV ?= .venv-bench
FUZZ_VENV ?= .venv-fuzz
SCAN_VENV ?= .venv-scan
DIST_VENV ?= .venv-dist
DIST ?=
FUZZ_SECONDS ?= 60
MINUTES ?= 30
PIP_ARGS ?=

BIN := $(VENV)/bin
SITE_PAGES := README.md CHANGELOG.md CONTRIBUTING.md SECURITY.md LICENSE Dockerfile compose.yaml docs deploy
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt $(PIP_ARGS)

.PHONY: help demo test test-slow test-all test-pages test-page test-models test-gpu test-ray test-wheel test-deploy docs reference screenshot mutants fuzz-http fuzz-codec scan check protos format bench bench-policies bench-subnetact bench-gpu bench-peers bench-paper-scale bench-headline bench-engines bench-overload bench-packing scale-out scaling bench-ray bench-soak soak chaos clean

help:  ## List the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed 's/:.*## /\t/' | expand -t 16

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "SuperServe needs Python 3.11 or newer; set PYTHON=/path/to/one" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp per set of extras: a newer pyproject.toml or constraints file installs again.
$(VENV)/.installed-core: $(BIN)/python pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.installed-test: $(BIN)/python pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[test]'
	@touch $@ $(VENV)/.installed-core

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[test,lint]'
	@touch $@ $(VENV)/.installed-test $(VENV)/.installed-core

demo: $(VENV)/.installed-core  ## Serve the bundled supernet through a burst, next to fixed models (about 3 minutes)
	$(BIN)/superserve demo $(DEMO_ARGS)

test: $(VENV)/.installed-test  ## The tests that a change must pass
	$(BIN)/python -m pytest -m "not pages and not browser and not slow" --numprocesses 2 --dist loadgroup $(TEST_ARGS)

test-slow: $(VENV)/.installed-test  ## Those of them that take longest (2 minutes)
	$(BIN)/python -m pytest -m slow $(TEST_ARGS)

test-all: $(VENV)/.installed-test  ## The same, with many more generated examples, and the pages
	HYPOTHESIS_PROFILE=thorough $(BIN)/python -m pytest $(TEST_ARGS)

test-pages: $(VENV)/.installed-test  ## The how-to pages, every command executed as written (about 5 minutes)
	$(BIN)/python -m pytest -m pages $(TEST_ARGS)

$(VENV)/.installed-page: $(BIN)/python pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[test,test-page]'
	@touch $@ $(VENV)/.installed-test $(VENV)/.installed-core

test-page: $(VENV)/.installed-page  ## The live page in a headless Chromium (wants chromium and chromium-driver; 2 minutes)
	$(BIN)/python -m pytest -m browser $(TEST_ARGS)

screenshot: $(VENV)/.installed-page  ## Pictures of the live page, of a server under load: docs/images/live-*.png (2 minutes)
	$(BIN)/python benchmarks/live_page.py --out docs/images $(BENCH_ARGS)

# The oracles of tests/models, and the models that people have. Those of the requirements file come without their
# dependencies: these would replace torch.
$(VENV)/.installed-models: $(BIN)/python pyproject.toml constraints.txt tests/models/requirements.txt
	$(PIP_INSTALL) --editable '.[test-models]'
	$(PIP_INSTALL) --no-deps --requirement tests/models/requirements.txt
	@touch $@

test-models:  ## Parity with the projects that the model families come from, in an environment of their own
	@$(MAKE) --no-print-directory VENV=$(MODELS_VENV) $(MODELS_VENV)/.installed-models
	$(MODELS_VENV)/bin/python -m pytest tests/models $(TEST_ARGS)

test-gpu: $(VENV)/.installed-test  ## Graphs and copies on a GPU (wants one, and a build of torch for it)
	$(BIN)/python -m pytest -m gpu $(TEST_ARGS)

# Ray brings a hundred megabytes of its own, and with them versions that the other environments need not follow.
$(VENV)/.installed-ray: $(BIN)/python pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[ray,test]' 'ray[serve]'
	@touch $@

test-ray:  ## Clusters of Ray nodes that are killed, drained, added and cut off, in an environment of their own (6 minutes)
	@$(MAKE) --no-print-directory VENV=$(RAY_VENV) $(RAY_VENV)/.installed-ray
	$(RAY_VENV)/bin/python -m pytest tests/ray_cluster $(TEST_ARGS)

# SuperServe is not in it: what they test is what is installed.
$(DIST_VENV)/.installed: tests/distribution/requirements.txt
	$(PYTHON) -m venv $(DIST_VENV)
	$(DIST_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) --requirement $<
	@touch $@

test-wheel: $(DIST_VENV)/.installed  ## The wheel, alone in an empty environment, serves digits and answers tritonclient (5 minutes, pip's)
	PIP_ARGS="$(PIP_ARGS)" DIST="$(DIST)" $(DIST_VENV)/bin/python -m pytest tests/distribution/test_wheel.py $(TEST_ARGS)

test-deploy: $(DIST_VENV)/.installed  ## The Dockerfile's steps without Docker, and each manifest against its schema (5 minutes, pip's)
	PIP_ARGS="$(PIP_ARGS)" $(DIST_VENV)/bin/python -m pytest tests/distribution/test_image.py tests/distribution/test_schemas.py $(TEST_ARGS)

$(VENV)/.installed-docs: $(BIN)/python pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[docs]'
	@touch $@ $(VENV)/.installed-core

# The site is the repository's pages where they are: its root holds the README, so that their links need no other form.
docs: $(VENV)/.installed-docs  ## The site, in build/site: every link and anchor checked, no warning
	rm -rf build/docs build/site
	mkdir -p build/docs
	cp -R $(SITE_PAGES) build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

reference: $(VENV)/.installed-core  ## Make the pages of docs/reference anew from the code
	PYTHONPATH=tools $(BIN)/python -m reference

mutants: $(VENV)/.installed-test  ## Take away what the server does about each fault: a test has to notice (2 minutes)
	PYTHONPATH=tests $(BIN)/python -m mutants

# Its plug-in would be loaded into every run of pytest, so it has an environment of its own.
$(FUZZ_VENV)/bin/schemathesis:
	$(PYTHON) -m venv $(FUZZ_VENV)
	$(FUZZ_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) 'schemathesis>=4.32,<5'

fuzz-http: $(VENV)/.installed-test $(FUZZ_VENV)/bin/schemathesis  ## An OpenAPI fuzzer against a live server (2 minutes)
	PYTHONPATH=tests $(BIN)/python tests/fuzz/live_http.py $(FUZZ_VENV)/bin/schemathesis \
	  --continue-on-failure --max-time 120 $(FUZZ_ARGS)

# Findings are written to the working directory as crash-*.
$(VENV)/.installed-fuzz: $(BIN)/python pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[test,fuzz]'
	@touch $@ $(VENV)/.installed-test $(VENV)/.installed-core

fuzz-codec: $(VENV)/.installed-fuzz  ## What reads bytes from clients, guided by coverage (FUZZ_SECONDS=60 for each of three)
	for target in http infer grpc; do \
	  PYTHONPATH=tests $(BIN)/python tests/fuzz/guided.py $$target -max_total_time=$(FUZZ_SECONDS) || exit 1; done

check: $(VENV)/.installed-dev  ## Formatting, lint, types, import boundaries
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

protos: $(VENV)/.installed-test  ## Make the gRPC messages anew from their .proto files
	cd src/superserve/protocol && $(abspath $(BIN))/python -m grpc_tools.protoc --proto_path=protos \
	  --descriptor_set_out=descriptors.binpb --include_imports inference.proto health.proto reflection.proto

format: $(VENV)/.installed-dev  ## Apply the formatter and the safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.installed-core  ## The benchmarks behind docs/performance.md
	$(BIN)/python benchmarks/run_all.py $(BENCH_ARGS)

bench-policies: $(VENV)/.installed-test  ## The grid of policies behind docs/policy-grid.md (an hour on two cores)
	$(BIN)/python benchmarks/policies.py $(BENCH_ARGS)

bench-peers: $(VENV)/.installed-core  ## SuperServe beside other servers: docs/peers.md (half an hour, wants the machine to itself)
	PYTHONPATH=benchmarks $(BIN)/python -m peers --docs docs $(BENCH_ARGS)

bench-paper-scale: $(VENV)/.installed-core  ## Eight emulated workers, the paper's loads over HTTP: docs/paper-scale.md (5 minutes; DATA=DIR)
	$(BIN)/python benchmarks/paper_scale.py --docs docs $(if $(DATA),--data $(DATA)) $(BENCH_ARGS)

bench-headline: $(VENV)/.installed-core  ## Each bundled model live under real traces, beside fixed subnets and other servers: docs/results.md (35 minutes; DATA=DIR)
	PYTHONPATH=benchmarks $(BIN)/python -m peers.traces $(if $(DATA),--data $(DATA)) $(BENCH_ARGS)
	$(BIN)/python benchmarks/headline.py --docs docs $(if $(DATA),--data $(DATA)) $(BENCH_ARGS)

bench-engines: $(VENV)/.installed-core  ## One engine after the other under the same real traces: docs/performance.md (50 minutes, wants the machine to itself; DATA=DIR)
	$(BIN)/python benchmarks/engine_headline.py $(if $(DATA),--data $(DATA)) $(BENCH_ARGS)

bench-overload: $(VENV)/.installed-core  ## Ten times too much for half a minute: what is promised then, and kept (a minute)
	$(BIN)/python benchmarks/overload.py --figure docs/images/overload.png $(BENCH_ARGS)

scale-out: $(VENV)/.installed-core  ## Simulated: a fourfold load until new workers are there: docs/how-to/watch-it-live.md (half a minute)
	$(BIN)/python benchmarks/scale_out.py --figure docs/images/scale-out.png $(BENCH_ARGS)

scaling: $(VENV)/.installed-core  ## What one front end, one scheduler and a thousand workers sustain: docs/scaling.md (some minutes, wants the machine to itself; DATA=DIR)
	PYTHONPATH=benchmarks $(BIN)/python -m scaling $(if $(DATA),--data $(DATA)) $(BENCH_ARGS)

bench-ray:  ## The Ray pool beside local workers and Ray Serve: docs/ray.md (5 minutes, wants the machine to itself)
	@$(MAKE) --no-print-directory VENV=$(RAY_VENV) $(RAY_VENV)/.installed-ray
	PYTHONPATH=benchmarks $(RAY_VENV)/bin/python benchmarks/ray_pool.py --json docs/ray-pool.json $(BENCH_ARGS)

bench-packing: $(VENV)/.installed-core  ## A load that moves through a front while subnets are packed and evicted (8 minutes, wants the machine to itself)
	$(BIN)/python benchmarks/packing.py $(BENCH_ARGS)

bench-soak: $(VENV)/.installed-core  ## A million requests, a fifth given up: memory has to stay as it is (5 minutes)
	PYTHONPATH=benchmarks $(BIN)/python -m memory_soak --figure docs/images/memory-soak.png $(BENCH_ARGS)

soak: $(VENV)/.installed-core  ## MINUTES=30 of requests, most given up, with faults and models that come and go: all has to stay as it is
	PYTHONPATH=benchmarks $(BIN)/python -m memory_soak --minutes $(MINUTES) --cancelled 0.6 --every-s 5 \
	  --figure docs/images/soak.png $(BENCH_ARGS)

chaos: $(VENV)/.installed-core  ## Workers killed, stopped, slowed down and poisoned under load: docs/chaos.md (8 minutes, wants the machine)
	PYTHONPATH=benchmarks $(BIN)/python -m chaos --docs docs $(CHAOS_ARGS)

# The runtimes that it compares with are those that packed subnets may run in.
$(VENV)/.installed-bench: $(BIN)/python pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[runtimes]'
	@touch $@

bench-subnetact:  ## Subnets of a supernet beside extracted ones and static runtimes: docs/subnetact.md (over an hour)
	@$(MAKE) --no-print-directory VENV=$(BENCH_VENV) $(BENCH_VENV)/.installed-bench
	PYTHONPATH=benchmarks $(BENCH_VENV)/bin/python -m subnetact --json docs/subnetact.json --page docs/subnetact.md $(BENCH_ARGS)

bench-gpu: $(VENV)/.installed-core  ## CUDA graphs beside eager on a GPU, and what two batches in flight are worth: docs/gpu.md (wants one; some minutes)
	$(BIN)/python benchmarks/gpu_graphs.py --json docs/gpu.json --page docs/gpu.md $(BENCH_ARGS)

# An environment of its own: what is scanned is what the package's own environment holds.
$(SCAN_VENV)/bin/pip-audit:
	$(PYTHON) -m venv $(SCAN_VENV)
	$(SCAN_VENV)/bin/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) 'pip-audit>=2.9,<3'

scan: $(VENV)/.installed-test $(SCAN_VENV)/bin/pip-audit  ## Known weaknesses of every installed dependency (asks an advisory database)
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+[a-z0-9.]*$$//' > $(SCAN_VENV)/installed.txt
	$(SCAN_VENV)/bin/pip-audit --requirement $(SCAN_VENV)/installed.txt --no-deps --disable-pip --strict $(SCAN_ARGS)

clean:  ## Remove the environment and everything generated
	rm -rf $(VENV) $(MODELS_VENV) $(RAY_VENV) $(BENCH_VENV) $(FUZZ_VENV) $(SCAN_VENV) $(DIST_VENV) .venv-peers build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
