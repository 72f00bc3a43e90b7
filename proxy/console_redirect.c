/*
 * console_redirect.c - what the controller answers about logins that a person confirms.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <jansson.h>

#include "console_redirect.h"

static bool
take(const json_t *object, const char *key, char *to, size_t size)
{
	const char *s = json_string_value(json_object_get(object, key));

	return s && s[0] && strlcpy(to, s, size) < size;
}

bool
px_console_created(const char *answer, PxConsoleCreated *created)
{
	json_t	   *json = json_loads(answer, 0, NULL);
	bool		ok = take(json, "id", created->id, sizeof(created->id)) && take(json, "code", created->code, sizeof(created->code));

	json_decref(json);
	return ok;
}

bool
px_console_confirmed(const char *answer, PxConsoleConfirmed *confirmed)
{
	json_t	   *json = json_loads(answer, 0, NULL);
	bool		ok = take(json, "endpoint", confirmed->endpoint, sizeof(confirmed->endpoint)) &&
		take(json, "user", confirmed->user, sizeof(confirmed->user)) &&
		take(json, "password", confirmed->password, sizeof(confirmed->password)) &&
		take(json, "database", confirmed->database, sizeof(confirmed->database));

	json_decref(json);
	return ok;
}

void
px_console_link(char *to, size_t size, const char *console_url, const char *code)
{
	size_t		n = strlen(console_url);

	while (n > 0 && console_url[n - 1] == '/')
		n--;
	snprintf(to, size, "%.*s#login=%s", (int) n, console_url, code);
}
