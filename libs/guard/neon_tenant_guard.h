/*
 * neon_tenant_guard.h - a tenant's credential on a node is for the protocol between components, not for SQL.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_TENANT_GUARD_H
#define NEON_TENANT_GUARD_H

/* Login roles of tenants: this and the tenant's id. */
#define NEON_TENANT_ROLE_PREFIX "neon_t_"

/*
 * From _PG_init, while shared_preload_libraries are loaded: sessions of tenants are held to the functions and procedures of `extension`
 * that `functions` (ended by NULL) names, in the database that *database names.  Several modules of a server may call it.
 */
extern void neon_tenant_guard_init(const char *extension, const char *const *functions, char *const *database);

#endif							/* NEON_TENANT_GUARD_H */
