/*
 * neon_pgpatch.h - finding, verifying and replacing things inside the running, unmodified server.
 *
 * Everything this project changes in a server's memory goes through this library.  It does five things: replace the storage
 * manager's table, detour a function's entry, replace a built-in SQL function, replace an import of the executable, and
 * verify beforehand that what it is about to change is what it was built for.
 *
 * This header is plain C.  neon_pgpatch_server.h has the parts that need server headers.
 *
 * Rules: call only from _PG_init of a preloaded library (or before any other thread or child exists), so that children
 * inherit the change by fork; no page is ever writable and executable at once; nothing is changed when a check fails.
 * Errors are text in the report: the caller raises FATAL in its own way (NEON_PGPATCH_HINT is the hint to give).
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_PGPATCH_H
#define NEON_PGPATCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NEON_PGPATCH_HINT \
	"Build the module again with the pg_config of the server that loads it, and install it."

#define NEON_PGPATCH_DETOUR_BYTES	14	/* jmp *[rip+0], then the 8 bytes of the target */

typedef struct neon_pgpatch_report
{
	bool		ok;				/* false as soon as one check failed */
	char		error[512];		/* one sentence for errdetail: what was looked for and what was found */
	int			table_matches;	/* places that look like the storage manager's table; must be 1 */
	int			direct_calls_expected;	/* calls of table functions that bypass the table, known and handled */
	int			direct_calls_unexpected;	/* must be 0 */
	int			replaced_tables;
	int			detours;
	int			builtins;
	int			imports;
} neon_pgpatch_report;

extern void neon_pgpatch_report_init(neon_pgpatch_report *report);
/* Records the first failure (later ones are dropped); returns false, for `return neon_pgpatch_fail(...)`. */
extern bool neon_pgpatch_fail(neon_pgpatch_report *report, const char *fmt,...) __attribute__((format(printf, 2, 3)));

/* ---- the executable in memory ---- */
typedef struct neon_pgpatch_image
{
	uintptr_t	base;			/* load bias */
	uintptr_t	relro_lo,		/* PT_GNU_RELRO: where constant tables with relocations are */
				relro_hi;
	uintptr_t	text_lo,		/* the executable PT_LOAD */
				text_hi;
	const void *dynamic;		/* PT_DYNAMIC */
} neon_pgpatch_image;

/* The object whose segments contain `probe` (the address of any exported object of the server). */
extern bool neon_pgpatch_locate(const void *probe, neon_pgpatch_image *image, neon_pgpatch_report *report);

/* ---- pure searches: they only read the given range ---- */
/* Number of places in [lo, hi) where the n words stand in a row; *hit is the last one. */
extern int	neon_pgpatch_find_words(uintptr_t lo, uintptr_t hi, const uintptr_t *words, size_t n, uintptr_t *hit);

/*
 * Calls fn for each direct near call or jump (e8, e9) in [lo, hi) that reaches [target_lo, target_hi), except those placed in
 * [skip_lo, skip_hi).
 */
typedef void (*neon_pgpatch_call_fn) (uintptr_t target, void *arg);
extern void neon_pgpatch_each_call(uintptr_t lo, uintptr_t hi, uintptr_t target_lo, uintptr_t target_hi,
								   uintptr_t skip_lo, uintptr_t skip_hi, neon_pgpatch_call_fn fn, void *arg);

/* The number of those that reach `target`, not counting those placed in [skip_lo, skip_hi). */
extern int	neon_pgpatch_count_calls(uintptr_t lo, uintptr_t hi, uintptr_t target, uintptr_t skip_lo, uintptr_t skip_hi);

/* ---- changes ---- */
/* Copies over memory that is read-only with the given final protection (PROT_READ, or PROT_READ | PROT_EXEC for code). */
extern bool neon_pgpatch_write(void *dst, const void *src, size_t len, int final_prot, neon_pgpatch_report *report);

/*
 * From now on whoever enters `function` enters `replacement`.  The function must be exported by the image, long enough,
 * entered by at least one direct call of the image (else the compiler has inlined or cloned it and the detour would be
 * bypassed silently), and not detoured before.  The old code is gone: the replacement reimplements it.
 */
extern bool neon_pgpatch_detour(const neon_pgpatch_image *image, const char *name, void *function, void *replacement,
								neon_pgpatch_report *report);

/*
 * As a detour, but the old code stays callable: *original gets a function that runs the instructions which the jump
 * overwrote and then the rest.  Refused unless those instructions are of the few kinds that may be moved (a usual function
 * prologue: push, register moves, stack adjustment).
 */
extern bool neon_pgpatch_wrap(const neon_pgpatch_image *image, const char *name, void *function, void *replacement,
							  void **original, neon_pgpatch_report *report);

/* Bytes of whole, movable instructions at `code` that cover at least `need`; 0 when one is not known to be movable. */
extern size_t neon_pgpatch_movable_prologue(const uint8_t *code, size_t len, size_t need);

/* Replaces an import (PLT GOT slot) of the image; *old gets what it was. */
extern bool neon_pgpatch_import(const neon_pgpatch_image *image, const char *symbol, void *replacement, void **old,
								neon_pgpatch_report *report);

#endif							/* NEON_PGPATCH_H */
