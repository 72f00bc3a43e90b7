/*
 * neon_http_conninfo.c - from a client's connection string to libpq keywords for a socket of our own.
 *
 * Of what the client says only user, password, database, options and application_name are used, and of the host its first label, the
 * endpoint.  The address is always our own socket: a connection string cannot make the proxy connect to anything else, or
 * read a file of this machine.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_http_conninfo.h"

#include <arpa/inet.h>
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "px_name.h"

#define MAX_OPTIONS 1024
#define MAX_LABEL 128

void
nh_free_secret(char *s)
{
	if (s)
	{
		explicit_bzero(s, strlen(s));
		free(s);
	}
}

bool
nh_target_add(NhTarget *target, const char *keyword, const char *value)
{
	if (target->n == NH_MAX_KEYWORDS || !(target->value[target->n] = strdup(value)))
		return false;
	target->keyword[target->n++] = keyword;
	return true;
}

void
nh_target_free(NhTarget *target)
{
	for (int i = 0; i < target->n; i++)
		nh_free_secret(target->value[i]);
	target->n = 0;
}

bool
nh_endpoint_label(const char *host, char *label, size_t size)
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
add_fixed(NhTarget *target)
{
	return nh_target_add(target, "client_encoding", "UTF8") && nh_target_add(target, "passfile", "/dev/null") &&
		nh_target_add(target, "service", "") && nh_target_add(target, "gssencmode", "disable") &&
		nh_target_add(target, "target_session_attrs", "any");
}

static const char *
add_options(NhTarget *target, PQconninfoOption *list)
{
	const char *asked = option_value(list, "options");
	const char *host = option_value(list, "host");
	char		label[MAX_LABEL];
	char		options[MAX_OPTIONS];
	bool		endpoint_named = asked && (strstr(asked, "endpoint=") || strstr(asked, "project="));

	if (asked && strstr(asked, "neon_proxy."))
		return "the options of the connection string must not have settings of neon_proxy";
	if (endpoint_named || !host || !nh_endpoint_label(host, label, sizeof(label)))
		label[0] = '\0';
	if ((size_t) snprintf(options, sizeof(options), "%s%s%s%s", asked ? asked : "", asked && label[0] ? " " : "", label[0] ? "endpoint=" : "",
				 label) >= sizeof(options))
		return "the options of the connection string are too long";
	return nh_target_add(target, "options", options) ? NULL : "out of memory";
}

static const char *
fill_target(NhTarget *target, PQconninfoOption *list, const char *password, const char *socket_directory, int port_number)
{
	const char *user = option_value(list, "user");
	const char *database = option_value(list, "dbname");
	const char *application = option_value(list, "application_name");
	char		port[16];

	if (!user)
		return "the connection string names no user";
	if (!password)
		password = option_value(list, "password");
	snprintf(port, sizeof(port), "%d", port_number);
	if (!nh_target_add(target, "host", socket_directory) || !nh_target_add(target, "port", port) ||
		!nh_target_add(target, "user", user) || !nh_target_add(target, "dbname", database ? database : user) ||
		!nh_target_add(target, "password", password ? password : "") || !nh_target_add(target, "sslmode", "disable") ||
		!nh_target_add(target, "application_name", application ? application : "") || !add_fixed(target))
		return "out of memory";
	return add_options(target, list);
}

/* The endpoint and the role that a target means, as the controller knows them; false: it names no endpoint. */
bool
nh_target_names(const NhTarget *target, char *endpoint, size_t size, const char **role)
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
nh_target_set_password(NhTarget *target, const char *password)
{
	for (int i = 0; i < target->n; i++)
		if (strcmp(target->keyword[i], "password") == 0)
		{
			nh_free_secret(target->value[i]);
			target->value[i] = strdup(password);
			return target->value[i] != NULL;
		}
	return false;
}

const char *
nh_target_from_uri(NhTarget *target, const char *uri, const char *password, const char *socket_directory, int port)
{
	PQconninfoOption *list;
	const char *wrong;

	if (strncmp(uri, "postgres://", 11) != 0 && strncmp(uri, "postgresql://", 13) != 0)
		return "the connection string must begin with postgresql://";
	list = PQconninfoParse(uri, NULL);
	if (!list)
		return "the connection string is not a valid URI";
	wrong = fill_target(target, list, password, socket_directory, port);
	PQconninfoFree(list);
	return wrong;
}
