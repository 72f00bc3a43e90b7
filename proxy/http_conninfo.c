/*
 * http_conninfo.c - from a client's connection string to libpq keywords for the proxy's own socket.
 *
 * Of what the client says only user, password, database, options and application_name are used, and of the host its first label, the
 * endpoint.  The address is always our own socket: a connection string cannot make the proxy connect to anything else, or
 * read a file of this machine.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <arpa/inet.h>

#include "http_conninfo.h"
#include "proxy_settings.h"
#include "px_name.h"

#define MAX_OPTIONS 1024
#define MAX_LABEL 128

bool
hp_endpoint_label(const char *host, char *label, size_t size)
{
	struct in6_addr addr;
	size_t		n = strcspn(host, ".:,/");
	bool		digits_only = strspn(host, "0123456789") == n;

	if (n == 0 || n >= size || digits_only || host[n] == '/' || (n == 9 && strncmp(host, "localhost", 9) == 0) ||
		inet_pton(AF_INET6, host, &addr) == 1 || host[0] == '[')
		return false;
	for (size_t i = 0; i < n; i++)
		if (!((host[i] >= 'a' && host[i] <= 'z') || (host[i] >= '0' && host[i] <= '9') || host[i] == '-' || host[i] == '_'))
			return false;
	memcpy(label, host, n);
	label[n] = '\0';
	return true;
}

static const char *
option_value(PQconninfoOption *list, const char *keyword)
{
	for (PQconninfoOption *o = list; o->keyword; o++)
		if (strcmp(o->keyword, keyword) == 0)
			return o->val && o->val[0] ? o->val : NULL;
	return NULL;
}

/* What libpq would otherwise take from this process's environment or files. */
static bool
add_fixed(HpTarget *target)
{
	return hp_target_add(target, "client_encoding", "UTF8") && hp_target_add(target, "passfile", "/dev/null") &&
		hp_target_add(target, "service", "") && hp_target_add(target, "gssencmode", "disable") &&
		hp_target_add(target, "target_session_attrs", "any");
}

static const char *
add_options(HpTarget *target, PQconninfoOption *list)
{
	const char *asked = option_value(list, "options");
	const char *host = option_value(list, "host");
	char		label[MAX_LABEL];
	char		options[MAX_OPTIONS];
	bool		endpoint_named = asked && (strstr(asked, "endpoint=") || strstr(asked, "project="));

	if (asked && strstr(asked, "neon_proxy."))
		return "the options of the connection string must not have settings of neon_proxy";
	if (endpoint_named || !host || !hp_endpoint_label(host, label, sizeof(label)))
		label[0] = '\0';
	if (snprintf(options, sizeof(options), "%s%s%s%s", asked ? asked : "", asked && label[0] ? " " : "", label[0] ? "endpoint=" : "",
				 label) >= sizeof(options))
		return "the options of the connection string are too long";
	return hp_target_add(target, "options", options) ? NULL : "out of memory";
}

static const char *
fill_target(HpTarget *target, PQconninfoOption *list, const char *password)
{
	const char *user = option_value(list, "user");
	const char *database = option_value(list, "dbname");
	const char *application = option_value(list, "application_name");
	char		port[16];

	if (!user)
		return "the connection string names no user";
	if (!password)
		password = option_value(list, "password");
	snprintf(port, sizeof(port), "%d", px_port);
	if (!hp_target_add(target, "host", px_socket_directory) || !hp_target_add(target, "port", port) ||
		!hp_target_add(target, "user", user) || !hp_target_add(target, "dbname", database ? database : user) ||
		!hp_target_add(target, "password", password ? password : "") || !hp_target_add(target, "sslmode", "disable") ||
		!hp_target_add(target, "application_name", application ? application : "") || !add_fixed(target))
		return "out of memory";
	return add_options(target, list);
}

/* The endpoint and the role that a target means, as the controller knows them; false: it names no endpoint. */
bool
hp_target_names(const HpTarget *target, char *endpoint, size_t size, const char **role)
{
	const char *options = NULL;
	const char *name = NULL;

	*role = NULL;
	for (int i = 0; i < target->n; i++)
	{
		if (strcmp(target->keyword[i], "options") == 0)
			options = target->value[i];
		if (strcmp(target->keyword[i], "user") == 0)
			*role = target->value[i];
	}
	if (options && (name = strstr(options, "endpoint=")))
		name += strlen("endpoint=");
	else if (options && (name = strstr(options, "project=")))
		name += strlen("project=");
	if (!name || !*role || strcspn(name, " ") >= size)
		return false;
	memcpy(endpoint, name, strcspn(name, " "));
	endpoint[strcspn(name, " ")] = '\0';
	px_name_strip_pooler(endpoint);
	return px_name_valid(endpoint);
}

bool
hp_target_set_password(HpTarget *target, const char *password)
{
	for (int i = 0; i < target->n; i++)
		if (strcmp(target->keyword[i], "password") == 0)
		{
			ht_free_secret(target->value[i]);
			target->value[i] = strdup(password);
			return target->value[i] != NULL;
		}
	return false;
}

const char *
hp_target_from_uri(HpTarget *target, const char *uri, const char *password)
{
	PQconninfoOption *list;
	const char *wrong;

	if (strncmp(uri, "postgres://", 11) != 0 && strncmp(uri, "postgresql://", 13) != 0)
		return "the connection string must begin with postgresql://";
	list = PQconninfoParse(uri, NULL);
	if (!list)
		return "the connection string is not a valid URI";
	wrong = fill_target(target, list, password);
	PQconninfoFree(list);
	return wrong;
}

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
			ok = hp_target_add(target, o->keyword, value);
	}
	PQconninfoFree(list);
	/* a login with credentials of its own must not fall back on files of this server */
	ok = ok && hp_target_add(target, "client_encoding", "UTF8") && (!user || hp_target_add(target, "passfile", "/dev/null"));
	return ok ? NULL : "out of memory";
}
