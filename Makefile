# Makefile - the commands of the project; README explains them.  `make` builds, `make install` installs into the server
# that pg_config names, `make check` runs every test and ends with 'N passed, N failed'.

PG_CONFIG ?= pg_config
COMPONENTS := $(patsubst %/Makefile,%,$(wildcard neon_smgr/Makefile neon_walproposer/Makefile pageserver_bgworker/Makefile \
	safekeeper_bgworker/Makefile storage_controller/Makefile compute_tools/Makefile))

all: libs $(COMPONENTS)

libs:
	$(MAKE) -C libs

$(COMPONENTS): libs
	$(MAKE) -C $@ PG_CONFIG=$(PG_CONFIG)

install: all
	@set -e; for c in $(COMPONENTS); do $(MAKE) -C $$c install PG_CONFIG=$(PG_CONFIG); done

uninstall:
	@set -e; for c in $(COMPONENTS); do $(MAKE) -C $$c uninstall PG_CONFIG=$(PG_CONFIG); done

clean:
	@set -e; for c in $(COMPONENTS); do $(MAKE) -C $$c clean PG_CONFIG=$(PG_CONFIG); done
	$(MAKE) -C libs clean

.PHONY: all libs install uninstall clean $(COMPONENTS)
