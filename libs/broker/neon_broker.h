/*
 * neon_broker.h - messages between the broker, those who publish the state of timelines, and those who want to know it.
 *
 * One CopyData is one message: a tag, a count, that many entries.  Integers are big-endian.  A message is decoded as a whole or refused as
 * a whole, so nothing of a malformed one is ever used.
 *
 *	publisher to broker		PUBLISH	states of timelines on this node
 *	broker to publisher		REFUSED	number of states for which there was no room
 *	broker to subscriber	BEGIN	forget what you know; what follows is everything there is
 *							UPDATE	states
 *							SNAPSHOT	all that there was when the subscription began has been sent
 *							GONE	nobody speaks of these any more (only their names are sent)
 *							ALIVE	nothing has changed
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#ifndef NEON_BROKER_H
#define NEON_BROKER_H

#include "neon_core.h"

#define NEON_BROKER_MAX_ENTRIES			256 /* in a message */
#define NEON_BROKER_ADDRESS_BYTES		64	/* with the terminating zero */
#define NEON_BROKER_NAME_BYTES			(4 + 2 * NEON_ID_BYTES)
#define NEON_BROKER_MAX_ENTRY_BYTES		(NEON_BROKER_NAME_BYTES + 6 * 8 + 1 + NEON_BROKER_ADDRESS_BYTES - 1)
#define NEON_BROKER_HEAD_BYTES			3
#define NEON_BROKER_MAX_MESSAGE_BYTES	(NEON_BROKER_HEAD_BYTES + NEON_BROKER_MAX_ENTRIES * NEON_BROKER_MAX_ENTRY_BYTES)

typedef enum neon_broker_tag
{
	NEON_BROKER_PUBLISH = 'P',
	NEON_BROKER_REFUSED = 'R',
	NEON_BROKER_BEGIN = 'B',
	NEON_BROKER_UPDATE = 'U',
	NEON_BROKER_SNAPSHOT = 'S',
	NEON_BROKER_GONE = 'G',
	NEON_BROKER_ALIVE = 'A'
} neon_broker_tag;

/*
 * What one node says of one timeline.  Receivers treat it as a hint that may be old; who acts on commit_lsn has to look at last_log_term
 * first: the prefix of a log that ends with this term is committed up to there.
 */
typedef struct neon_broker_entry
{
	uint32_t	node_id;		/* not 0 */
	neon_id		tenant;
	neon_id		timeline;
	uint64_t	term;
	uint64_t	last_log_term;
	neon_lsn	flush_lsn;
	neon_lsn	commit_lsn;
	neon_lsn	remote_consistent_lsn;	/* 0: not known */
	neon_lsn	horizon_lsn;	/* no peer needs WAL below it; 0: not known */
	char		address[NEON_BROKER_ADDRESS_BYTES]; /* printable, without spaces; may be empty */
} neon_broker_entry;

typedef struct neon_broker_message
{
	uint8_t		tag;
	uint16_t	count;			/* of entries; of states refused */
	neon_broker_entry entries[NEON_BROKER_MAX_ENTRIES];	/* of PUBLISH, UPDATE, GONE */
} neon_broker_message;

/* Building a message: start, add until it is full, finish. */
typedef struct neon_broker_builder
{
	neon_writer w;
	uint8_t		tag;
	uint16_t	count;
} neon_broker_builder;

/* buf has NEON_BROKER_MAX_MESSAGE_BYTES. */
extern void neon_broker_start(neon_broker_builder *b, neon_broker_tag tag, void *buf);
/* False: the message has as many as it may have; or the entry cannot be sent. */
extern bool neon_broker_add(neon_broker_builder *b, const neon_broker_entry *entry);
extern size_t neon_broker_finish(neon_broker_builder *b);
/* A message without entries. */
extern size_t neon_broker_encode_bare(neon_broker_tag tag, uint16_t count, uint8_t out[NEON_BROKER_HEAD_BYTES]);

extern bool neon_broker_decode(const void *data, size_t len, neon_broker_message *m);

extern bool neon_broker_same_name(const neon_broker_entry *a, const neon_broker_entry *b);
extern bool neon_broker_same_state(const neon_broker_entry *a, const neon_broker_entry *b);
extern bool neon_broker_address_valid(const char *address);
extern uint32_t neon_broker_hash(const neon_broker_entry *e);

/* tenant, timeline: zero matches any */
extern bool neon_broker_matches(const neon_broker_entry *e, const neon_id *tenant, const neon_id *timeline);

#endif							/* NEON_BROKER_H */
