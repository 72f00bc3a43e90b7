/*
 * neon_configuration.c - who votes: checks, text form, wire form.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_consensus_internal.h"

#include <stdio.h>
#include <string.h>

static bool
set_valid(const uint64_t *ids, uint32_t n)
{
	if (n > NEON_CONSENSUS_MAX_MEMBERS)
		return false;
	for (uint32_t i = 0; i < n; i++)
	{
		if (ids[i] == 0 || ids[i] > NEON_CONSENSUS_MAX_NUMBER)
			return false;
		for (uint32_t j = 0; j < i; j++)
			if (ids[j] == ids[i])
				return false;
	}
	return true;
}

bool
neon_configuration_valid(const neon_configuration *c)
{
	return c->n_members > 0 &&
		set_valid(c->members, c->n_members) &&
		set_valid(c->new_members, c->n_new_members);
}

static bool
set_has(const uint64_t *ids, uint32_t n, uint64_t node_id)
{
	for (uint32_t i = 0; i < n; i++)
		if (ids[i] == node_id)
			return true;
	return false;
}

bool
neon_configuration_has(const neon_configuration *c, uint64_t node_id)
{
	return set_has(c->members, c->n_members, node_id) ||
		set_has(c->new_members, c->n_new_members, node_id);
}

/* Same sets in the same order: generations are made in one place, so that the order is part of them. */
bool
neon_configuration_equal(const neon_configuration *a, const neon_configuration *b)
{
	return a->generation == b->generation &&
		a->n_members == b->n_members &&
		a->n_new_members == b->n_new_members &&
		memcmp(a->members, b->members, a->n_members * sizeof(uint64_t)) == 0 &&
		memcmp(a->new_members, b->new_members, a->n_new_members * sizeof(uint64_t)) == 0;
}

/* Reads "1,2,3"; returns where it stopped, NULL when malformed. */
static const char *
parse_set(const char *p, uint64_t *ids, uint32_t *n)
{
	*n = 0;
	for (;;)
	{
		uint64_t	id = 0;
		int			digits = 0;

		while (*p == ' ')
			p++;
		for (; *p >= '0' && *p <= '9'; p++, digits++)
		{
			if (digits == 19)
				return NULL;
			id = id * 10 + (uint64_t) (*p - '0');
		}
		while (*p == ' ')
			p++;
		if (digits == 0 || *n == NEON_CONSENSUS_MAX_MEMBERS)
			return NULL;
		ids[(*n)++] = id;
		if (*p != ',')
			return p;
		p++;
	}
}

bool
neon_configuration_parse(const char *text, uint32_t generation, neon_configuration *c)
{
	memset(c, 0, sizeof(*c));
	c->generation = generation;
	text = parse_set(text, c->members, &c->n_members);
	if (text != NULL && *text == '/')
		text = parse_set(text + 1, c->new_members, &c->n_new_members);
	return text != NULL && *text == '\0' && neon_configuration_valid(c);
}

void
neon_configuration_print(const neon_configuration *c, char text[NEON_CONFIGURATION_TEXT])
{
	size_t		at = 0;

	text[0] = '\0';
	for (uint32_t i = 0; i < c->n_members; i++)
		at += (size_t) snprintf(text + at, NEON_CONFIGURATION_TEXT - at, "%s%llu", i > 0 ? "," : "",
								(unsigned long long) c->members[i]);
	for (uint32_t i = 0; i < c->n_new_members; i++)
		at += (size_t) snprintf(text + at, NEON_CONFIGURATION_TEXT - at, "%s%llu", i > 0 ? "," : "/",
								(unsigned long long) c->new_members[i]);
}

void
neon_put_configuration(neon_writer *w, const neon_configuration *c)
{
	neon_put_u32(w, c->generation);
	neon_put_u8(w, (uint8_t) c->n_members);
	neon_put_u8(w, (uint8_t) c->n_new_members);
	for (uint32_t i = 0; i < c->n_members; i++)
		neon_put_u64(w, c->members[i]);
	for (uint32_t i = 0; i < c->n_new_members; i++)
		neon_put_u64(w, c->new_members[i]);
}

bool
neon_get_configuration(neon_reader *r, neon_configuration *c)
{
	memset(c, 0, sizeof(*c));
	c->generation = neon_get_u32(r);
	c->n_members = neon_get_u8(r);
	c->n_new_members = neon_get_u8(r);
	if (!r->ok || c->n_members > NEON_CONSENSUS_MAX_MEMBERS || c->n_new_members > NEON_CONSENSUS_MAX_MEMBERS)
		return false;
	for (uint32_t i = 0; i < c->n_members; i++)
		c->members[i] = neon_get_u64(r);
	for (uint32_t i = 0; i < c->n_new_members; i++)
		c->new_members[i] = neon_get_u64(r);

	/* a proposer may come with an empty list of generation 0; a list that is there must be sound */
	return r->ok && (neon_configuration_valid(c) ||
					 (c->generation == 0 && c->n_members == 0 && c->n_new_members == 0));
}
