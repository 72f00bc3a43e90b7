/*
 * neon_export.h - included before every source of a module (common.mk): what the server looks up by name is visible.
 *
 * Modules are built with -fvisibility=hidden, so that two of them in one process never share the static
 * libraries' symbols.  PostgreSQL 15 leaves V1 functions to the default visibility, so it is said here.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_EXPORT_H
#define NEON_EXPORT_H

#include "postgres.h"

#include "fmgr.h"

extern PGDLLEXPORT void _PG_init(void);

#undef PG_FUNCTION_INFO_V1
#define PG_FUNCTION_INFO_V1(funcname) \
extern PGDLLEXPORT Datum funcname(PG_FUNCTION_ARGS); \
extern PGDLLEXPORT const Pg_finfo_record *CppConcat(pg_finfo_, funcname)(void); \
const Pg_finfo_record * \
CppConcat(pg_finfo_, funcname) (void) \
{ \
	static const Pg_finfo_record my_finfo = {1}; \
	return &my_finfo; \
} \
extern int	no_such_variable

#endif							/* NEON_EXPORT_H */
