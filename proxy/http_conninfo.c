/*
 * http_conninfo.c - where the controller is, as libpq keywords; what clients name is in libs/http/neon_http_conninfo.c.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "http_conninfo.h"
#include "proxy_settings.h"

const char *
hp_target_controller(HpTarget *target, const char *user, const char *password)
{
	PQconninfoOption *list;
	bool		ok = true;

	if (px_controller_connstring[0] == '\0')
		return "this proxy has no controller: neon_proxy.controller_connstring is not set";
	list = PQconninfoParse(px_controller_connstring, NULL);
	if (!list)
		return "neon_proxy.controller_connstring cannot be read";
	for (PQconninfoOption *o = list; o->keyword && ok; o++)
	{
		const char *value = o->val;

		if (user && strcmp(o->keyword, "user") == 0)
			value = user;
		if (user && strcmp(o->keyword, "password") == 0)
			value = password;
		if (value && value[0] && strcmp(o->keyword, "client_encoding") != 0 && strcmp(o->keyword, "passfile") != 0)
			ok = nh_target_add(target, o->keyword, value);
	}
	PQconninfoFree(list);
	/* a login with credentials of its own must not fall back on files of this server */
	ok = ok && nh_target_add(target, "client_encoding", "UTF8") && (!user || nh_target_add(target, "passfile", "/dev/null"));
	return ok ? NULL : "out of memory";
}
