# The main targets are `make demo` and `make test`; `make help` lists all. PYTHON=... selects the interpreter, VENV=...
# the folder of the environment.
VENV ?= .venv
BIN = $(VENV)/bin
ARGS ?=
# processes that run tests; may exceed the number of CPU cores, because most tests wait most of the time
WORKERS ?= 5
SIDE_BY_SIDE = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
# tests that need neither a browser nor a database server nor a machine of their own
HERE = --ignore tests/platform --ignore tests/page --ignore tests/system
KERNELS = $(wildcard ext/*.pyx ext/*.pxd ext/*.h)
export PYTHON

.PHONY: demo platform-demo platform-cluster test test-process test-platform test-page test-slow test-system deb wheel bundle release test-bounds soak lint bench clean help
.DEFAULT_GOAL := help

help:
	@echo "make demo [ARGS='--for 20s --json']   simulate a park; read, sign, deliver and verify its readings"
	@echo "make test                             run the fast tests (installs the packages that they need)"
	@echo "make test-process                     test the agent and its commands as processes of their own"
	@echo "make platform-demo [ARGS='--gateways 500']  run the platform: receive, verify and keep packs of a demo fleet"
	@echo "make platform-cluster                 run three RabbitMQ nodes and two databases on loopback, until Ctrl-C"
	@echo "make test-platform                    test the platform (installs PostgreSQL and RabbitMQ, and starts its own)"
	@echo "make test-system                      test the package in a Debian container (needs root and systemd-nspawn)"
	@echo "make test-page                        test the gateway's page in a headless Chromium, with axe-core"
	@echo "make deb | wheel | bundle             build a Debian package (for arm64: ARCH=arm64) | the wheels of the agent"
	@echo "                                      and of the verifier | an archive of all wheels with an install script"
	@echo "make release KEY=FILE                 build all three, and sign the list of their hashes with this SSH key"
	@echo "make test-slow | test-bounds          run the long tests | the tests of the kernels with bounds checks"
	@echo "make soak [ARGS='--only kills --rounds 50']  inject hundreds of faults (about three hours; can be resumed)"
	@echo "make lint                             check format, lint, types, imports between layers, and the kernels"
	@echo "make bench                            run the benchmarks; copy the results to bench/RESULTS.md by hand"

$(VENV)/.demo: pyproject.toml tools/prepare $(KERNELS)
	@tools/prepare $(VENV) demo
	@touch $@

$(VENV)/.test: pyproject.toml tools/prepare $(KERNELS)
	@tools/prepare $(VENV) demo,test,lint,hardware,platform mosquitto socat faketime softhsm2
	@npm install --silent --no-audit --no-fund --fetch-retries 0 --fetch-timeout 20000 --prefix $(VENV)/node jose canonicalize ajv aedes@0.51 uplot@1.6.32 2>/dev/null || \
	  echo "without npm some tests with packages of Node are skipped"
	@touch $@ $(VENV)/.demo

$(VENV)/.platform: $(VENV)/.test
	@tools/prepare $(VENV) "" postgresql rabbitmq-server
	@touch $@

demo: $(VENV)/.demo
	@$(BIN)/meterhouse demo $(ARGS)

test: $(VENV)/.test
	$(BIN)/python -m pytest -m "not slow and not lint and not process" $(HERE) $(SIDE_BY_SIDE) $(ARGS)

test-process: WORKERS = 6
test-process: $(VENV)/.test
	$(BIN)/python -m pytest -m "process and not slow and not lint" $(HERE) $(SIDE_BY_SIDE) $(ARGS)

test-slow: $(VENV)/.test
	$(BIN)/python -m pytest -m "slow" --timeout 1200 $(ARGS)
	$(BIN)/python -m pytest -m "hypothesis and not slow" --hypothesis-profile slow --timeout 1200 -n 2 $(ARGS)

platform-demo: $(VENV)/.platform
	@$(BIN)/meterhouse platform demo $(ARGS)

platform-cluster: $(VENV)/.platform
	@$(BIN)/python -m receiver.loopback_cluster

test-platform: $(VENV)/.platform
	$(BIN)/python -m pytest -m "platform and not slow" -rs -n 2 --dist loadfile tests/platform $(ARGS)

test-system: $(VENV)/.test
	$(BIN)/python -m pytest -m system -rs tests/system $(ARGS)

# if Chromium, playwright or axe-core cannot be installed, tests are skipped and name the missing part
test-page: $(VENV)/.platform
	@command -v chromium >/dev/null 2>&1 || [ "$$(id -u)" != 0 ] || { apt-get update -qq && \
	  apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core fonts-noto-cjk >/dev/null; } || true
	@$(BIN)/python -c 'import playwright' 2>/dev/null || $(BIN)/python -m pip install -q --disable-pip-version-check playwright || true
	@[ -d $(VENV)/node/node_modules/axe-core ] || npm install --silent --no-audit --no-fund --fetch-retries 0 \
	  --fetch-timeout 20000 --prefix $(VENV)/node axe-core 2>/dev/null || true
	$(BIN)/python -m pytest -m page -rs tests/page $(ARGS)

test-bounds: WORKERS = 3
test-bounds: $(VENV)/.test
	$(BIN)/python -m tests.ext.build_checked $(SIDE_BY_SIDE) $(ARGS)

soak: $(VENV)/.platform
	@$(BIN)/python -c 'import chdb' 2>/dev/null || $(BIN)/python -m pip install -q --disable-pip-version-check chdb-core || true
	@command -v mkfs.xfs >/dev/null || [ -x /sbin/mkfs.xfs ] || echo "without xfsprogs the power cuts are skipped"
	$(BIN)/python -m tests.fault.soak $(ARGS)

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -m lint tests/arch

bench: $(VENV)/.test
	$(BIN)/python -m bench $(ARGS)

deb:
	@tools/deb $(ARCH)

wheel: $(VENV)/.demo
	@mkdir -p dist
	$(BIN)/python -m pip wheel -q --disable-pip-version-check --no-deps -w dist .
	@VENV=$(VENV) tools/verify-wheel dist
	@ls -l dist/*.whl

bundle:
	@tools/bundle

release: $(VENV)/.demo
	@VENV=$(VENV) tools/release $(KEY)

clean:
	rm -rf $(VENV) build dist *.egg-info ext/*.so ext/*.c ext/*.cpp ext/*.html
