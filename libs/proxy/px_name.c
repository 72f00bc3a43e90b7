/*
 * px_name.c - which endpoint a client means.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "px_name.h"

#include <string.h>
#include <strings.h>

static bool
lower_alnum(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
}

static bool
valid_n(const char *name, size_t n)
{
	if (n == 0 || n >= PX_NAME_BYTES || !lower_alnum(name[0]))
		return false;
	for (size_t i = 1; i < n; i++)
		if (!lower_alnum(name[i]) && name[i] != '-' && name[i] != '_')
			return false;
	return true;
}

bool
px_name_valid(const char *name)
{
	return valid_n(name, strlen(name));
}

bool
px_name_strip_pooler(char *name)
{
	size_t		n = strlen(name);

	if (n < 17 || strcmp(name + n - 7, "-pooler") != 0 || name[n - 16] != '-')
		return false;
	for (size_t i = n - 15; i < n - 7; i++)
		if (!((name[i] >= '0' && name[i] <= '9') || (name[i] >= 'a' && name[i] <= 'f')))
			return false;
	name[n - 7] = '\0';
	return true;
}

bool
px_host_matches(const char *host, const char *pattern)
{
	if (pattern[0] == '*' && pattern[1] == '.')
	{
		const char *dot = strchr(host, '.');

		return dot != NULL && dot != host && strcasecmp(dot, pattern + 1) == 0;
	}
	return strcasecmp(host, pattern) == 0;
}

bool
px_host_endpoint(const char *host, const char *pattern, char name[PX_NAME_BYTES])
{
	size_t		n = strcspn(host, ".");

	if (pattern[0] != '*' || !px_host_matches(host, pattern) || n >= PX_NAME_BYTES)
		return false;
	for (size_t i = 0; i < n; i++)
		name[i] = host[i] >= 'A' && host[i] <= 'Z' ? (char) (host[i] + 32) : host[i];
	name[n] = '\0';
	return px_name_valid(name);
}

size_t
px_password_prefix(const char *password, char name[PX_NAME_BYTES])
{
	const char *p = password;
	size_t		n;
	bool		worded = strncmp(p, "endpoint=", 9) == 0;

	if (worded)
		p += 9;
	n = strcspn(p, worded ? ";$" : "$");
	if (p[n] == '\0' || !valid_n(p, n))
		return 0;
	memcpy(name, p, n);
	name[n] = '\0';
	return (size_t) (p + n + 1 - password);
}

bool
px_looks_like_jwt(const char *password)
{
	int			dots = 0;

	if (strncmp(password, "ey", 2) != 0)
		return false;
	for (const char *p = password; *p; p++)
	{
		if (*p == '.')
			dots++;
		else if (!((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') || *p == '-' || *p == '_'))
			return false;
	}
	return dots == 2 && password[strlen(password) - 1] != '.';
}

bool
px_in_list(const char *list, const char *word)
{
	size_t		n = strlen(word);

	while (*list)
	{
		size_t		len;

		list += strspn(list, ", ");
		len = strcspn(list, ", ");
		if (len > 0 && len == n && memcmp(list, word, n) == 0)
			return true;
		list += len;
	}
	return false;
}
