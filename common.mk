# common.mk - what every component's Makefile includes after naming MODULE_big, OBJS and, where it has SQL, EXTENSION and DATA.
# Uses PGXS of the server that pg_config names; links the pure libraries statically.

PG_CONFIG ?= pg_config
TOP := $(abspath $(dir $(lastword $(MAKEFILE_LIST))))

# -fvisibility=hidden hides what two preloaded modules both link; the functions the server looks up by name stay visible.
PG_CPPFLAGS += '-DPGDLLEXPORT=__attribute__((visibility("default")))' -I$(TOP)/libs/core -I$(TOP)/libs/wal -I$(TOP)/libs/pagestream -I$(TOP)/libs/consensus \
	-I$(TOP)/libs/layer -I$(TOP)/libs/page_truth -I$(TOP)/libs/pgpatch -I$(TOP)/libs/wal_push -I$(TOP)/libs/pqcall -I$(TOP)/libs/guard -I$(TOP)/libs/copy_stream -I$(TOP)/libs/broker
PG_CFLAGS += -include $(TOP)/libs/core/neon_export.h -std=gnu11 -Wall -Wextra -Werror -Wno-unused-parameter -Wno-sign-compare -Wno-missing-field-initializers \
	-Wno-declaration-after-statement -Wno-cast-function-type -fvisibility=hidden
SHLIB_LINK += $(TOP)/libs/build/libneon.a $(NEON_LINK)

# LLVM bitcode is of no use to us; the server's own setting comes with PGXS.
override with_llvm = no

PGXS := $(shell $(PG_CONFIG) --pgxs)
include $(PGXS)

$(OBJS): $(wildcard *.h) $(wildcard $(TOP)/libs/*/*.h)
$(shlib): $(TOP)/libs/build/libneon.a
$(TOP)/libs/build/libneon.a:
	$(MAKE) -C $(TOP)/libs
