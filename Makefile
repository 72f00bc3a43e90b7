# Makefile - the commands of the project; README explains them.
#
#   make deps        install the Debian packages that are missing (as root)
#   make             build everything            make install     into the server that pg_config names
#   make demo        from a fresh machine to a running cluster with a branch
#   make check       every test CI runs; ends with 'N passed, N failed'     (ONLY=text for some of them)
#   make installcheck  pg_regress over sql/ against the cluster of NEON_DIR (default: the demo's)
#   make check-long  the slow ones as well      make server-suites  the server's own regression suite on an endpoint
#   make sim SEED=n  one simulated run           make sim-many N=n          make fuzz SECONDS=n

PG_CONFIG ?= pg_config
SHELL := /bin/bash
COMPONENTS := $(patsubst %/Makefile,%,$(wildcard neon_smgr/Makefile neon_walproposer/Makefile pageserver_bgworker/Makefile \
	safekeeper_bgworker/Makefile storage_controller/Makefile storage_broker/Makefile compute_tools/Makefile proxy/Makefile))
NEON_DIR ?= /var/tmp/neon-demo

DEPS := build-essential clang-14 libclang-rt-14-dev postgresql-15 postgresql-client-15 postgresql-server-dev-15 libpq-dev \
	libkrb5-dev libssl-dev liblz4-dev libzstd-dev libcmocka-dev libipc-run-perl libdbi-perl libdbd-pg-perl unicode-data \
	bsdextrautils procps openssl ca-certificates libjansson-dev libwebsockets-dev libwebsockets-evlib-uv libuv1-dev libcjose-dev libcurl4-openssl-dev
# What the tests of the proxy's HTTP side and of several hosts run, COMMAND:PACKAGE, installed when the command is missing; `make demo` does without.
TEST_PROGRAMS ?= node:nodejs npm:npm chromium:chromium ip:iproute2 curl:curl
TEST_DEPS = $(foreach p,$(TEST_PROGRAMS),$(if $(shell command -v $(firstword $(subst :, ,$p))),,$(lastword $(subst :, ,$p))))

all: libs $(COMPONENTS)

print-deps:
	@missing=; for p in $(DEPS) $(TEST_DEPS); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || missing="$$missing $$p"; done; \
	echo $${missing:-none}

# Packages of the server are brought to the same version together.  No cluster is made by the packages' own scripts.
deps:
	@if [ "$$($(MAKE) -s print-deps)" != none ] || ! dpkg-query -W -f '$${Version}\n' postgresql-15 postgresql-client-15 postgresql-server-dev-15 libpq-dev \
			| sort -u | wc -l | grep -qx 1; then \
		[ "$$(id -u)" = 0 ] || { echo "make deps: run it as root, it installs: $$($(MAKE) -s print-deps)" >&2; exit 1; }; \
		set -e; apt-get update -qq; \
		[ -d /etc/postgresql ] || { mkdir -p /etc/postgresql-common/createcluster.d; \
			echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.d/neon.conf; }; \
		DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(DEPS) $(TEST_DEPS) > /tmp/neon_deps.log 2>&1 || { tail -n 30 /tmp/neon_deps.log; exit 1; }; \
	fi

libs:
	$(MAKE) -C libs

$(COMPONENTS): libs
	$(MAKE) -C $@ PG_CONFIG=$(PG_CONFIG)

install: all
	@set -e; for c in $(COMPONENTS); do $(MAKE) -C $$c install PG_CONFIG=$(PG_CONFIG); done

uninstall:
	@set -e; for c in $(COMPONENTS); do $(MAKE) -C $$c uninstall PG_CONFIG=$(PG_CONFIG); done

demo:
	@bin/demo plan
	@$(MAKE) -s deps TEST_PROGRAMS=
	@$(MAKE) -s install > /tmp/neon_build.log 2>&1 || { tail -n 40 /tmp/neon_build.log; exit 1; }
	@bin/demo

demo-clean:
	bin/neon_local destroy -D $(NEON_DIR)

check: install
	$(MAKE) -C libs tests
	$(MAKE) -C test/sim
	$(MAKE) -C test/shim
	@test/run_check

installcheck:
	@bin/neon_local psql -D $(NEON_DIR) -X -q -c 'SELECT 1' > /dev/null
	@test/installcheck $(NEON_DIR)

sim:
	@$(MAKE) -s -C test/sim && test/sim/build/sim $(SEED)

sim-many:
	@$(MAKE) -s -C test/sim && test/sim/build/sim --many $(N)

sim-faults:
	@$(MAKE) -s -C test/sim faults

# the server's own regression suite on an endpoint with tiny caches, beside a stock server
server-suites: install
	@test/server_suites

check-long: install
	NEON_ROUNDS=50 NEON_SIM_SEEDS=20000 $(MAKE) check
	@test/server_suites

bench: install
	@bench/run

fuzz:
	$(MAKE) -C test/fuzz fuzz SECONDS=$(or $(SECONDS),60)

clean:
	@set -e; for c in $(COMPONENTS); do $(MAKE) -C $$c clean PG_CONFIG=$(PG_CONFIG); done
	$(MAKE) -C libs clean

.PHONY: bench sim-faults server-suites check-long all libs print-deps deps install uninstall demo demo-clean check installcheck sim sim-many fuzz clean $(COMPONENTS)
