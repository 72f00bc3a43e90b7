/*
 * nb_table.c - the newest state of every timeline on every node, in shared memory, in the order in which they changed.
 *
 * An entry is found by its name through a hash table and stands in one doubly linked list.  A change gives it the next number of
 * nb->change and moves it to the list's end; so what a subscriber has not seen is the end of the list behind the last number it saw.
 * There are no queues: a subscriber that is slow skips states, not timelines, and costs nothing.
 *
 * An entry that nobody refreshed for neon_broker.expire_after is marked gone, which is a change like any other.  After as long again, or
 * when its place is needed, it is removed; nb->forgotten remembers the newest change so removed, and who has not seen that far
 * begins anew with everything there is.
 *
 * Invariants: the list has exactly the entries in use, their changes ascend; nb->change is that of the last one or higher.
 * A publisher's states are taken only if no later connection has spoken of the same timeline on the same node: what a dying
 * connection still had on its way does not overwrite what its successor said.
 *
 * Locks: nb->lock (an LWLock) for everything, exclusive for changes; held for one message of at most NEON_BROKER_MAX_ENTRIES entries, or
 * once a second for a walk over the refresh times, or shared for at most MAX_LOOKS entries (the walk back to a subscriber's place
 * excepted, which is links only).  No error, no allocation and no wait under it.
 *
 * Crash rule: nothing is kept.  Any process that dies takes the table with it, as the server makes shared memory anew; publishers
 * come back and say everything again.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <time.h>

#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/shmem.h"

#include "nb.h"

#define NONE			(-1)
#define MAX_LOOKS		4096	/* entries a reader looks at before it lets others in */
#define EXPIRE_EVERY_MS	1000

typedef struct NbEntry
{
	neon_broker_entry e;
	uint64		change;
	uint64		publisher;
	int			prev;			/* in the order of changes */
	int			next;			/* the same, or the next free one */
	int			hash_next;
	bool		used;
	bool		gone;
} NbEntry;

typedef struct NbSubscriber
{
	int			pgprocno;		/* NONE: free */
	NbFilter	filter;
} NbSubscriber;

typedef struct NbShared
{
	LWLock	   *lock;
	uint64		change;
	uint64		forgotten;
	uint64		publisher;
	uint64		expire_at_ms;
	int			head;
	int			tail;
	int			free;
	NbStatistics statistics;
	NbSubscriber subscribers[FLEXIBLE_ARRAY_MEMBER];
} NbShared;

static NbShared *nb;
static NbEntry *entries;
static uint64 *refreshed_ms;	/* by entry, apart from it: looked at once a second */
static int *buckets;
static int	nbuckets;
static int	my_subscriber = NONE;

static shmem_request_hook_type prev_shmem_request_hook;
static shmem_startup_hook_type prev_shmem_startup_hook;

/* ---- shared memory ---- */

static int
bucket_count(void)
{
	int			n = 1;

	while (n < nb_max_entries)
		n <<= 1;
	return n;
}

static Size
shared_bytes(void)
{
	return add_size(offsetof(NbShared, subscribers), mul_size(nb_max_subscribers, sizeof(NbSubscriber)));
}

static void
shmem_request(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(shared_bytes());
	RequestAddinShmemSpace(mul_size(nb_max_entries, sizeof(NbEntry)));
	RequestAddinShmemSpace(mul_size(nb_max_entries, sizeof(uint64)));
	RequestAddinShmemSpace(mul_size(bucket_count(), sizeof(int)));
	RequestNamedLWLockTranche("neon_broker", 1);
}

static void
clear_table(void)
{
	memset(nb, 0, shared_bytes());
	nb->lock = &GetNamedLWLockTranche("neon_broker")->lock;
	nb->head = nb->tail = NONE;
	for (int i = 0; i < nb_max_subscribers; i++)
		nb->subscribers[i].pgprocno = NONE;
	for (int i = 0; i < nbuckets; i++)
		buckets[i] = NONE;
	for (int i = 0; i < nb_max_entries; i++)
	{
		entries[i].used = false;
		entries[i].next = i + 1 < nb_max_entries ? i + 1 : NONE;
		refreshed_ms[i] = 0;
	}
	nb->free = 0;
}

static void
shmem_startup(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();
	nbuckets = bucket_count();
	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	entries = ShmemInitStruct("neon_broker entries", mul_size(nb_max_entries, sizeof(NbEntry)), &found);
	refreshed_ms = ShmemInitStruct("neon_broker times", mul_size(nb_max_entries, sizeof(uint64)), &found);
	buckets = ShmemInitStruct("neon_broker buckets", mul_size(nbuckets, sizeof(int)), &found);
	nb = ShmemInitStruct("neon_broker", shared_bytes(), &found);
	if (!found)
		clear_table();
	LWLockRelease(AddinShmemInitLock);
}

void
nb_table_init(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}

/* Not the wall clock: setting that must not make everything expire. */
static uint64
now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64) t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* ---- list and hash; under the lock ---- */

static void
list_remove(int i)
{
	NbEntry    *e = &entries[i];

	if (e->prev == NONE)
		nb->head = e->next;
	else
		entries[e->prev].next = e->next;
	if (e->next == NONE)
		nb->tail = e->prev;
	else
		entries[e->next].prev = e->prev;
}

static void
list_append(int i)
{
	entries[i].prev = nb->tail;
	entries[i].next = NONE;
	if (nb->tail == NONE)
		nb->head = i;
	else
		entries[nb->tail].next = i;
	nb->tail = i;
}

static void
changed(int i)
{
	if (nb->tail != i)
	{
		list_remove(i);
		list_append(i);
	}
	entries[i].change = ++nb->change;
	nb->statistics.changes++;
}

static int *
bucket_of(const neon_broker_entry *e)
{
	return &buckets[neon_broker_hash(e) & (nbuckets - 1)];
}

static int
find(const neon_broker_entry *e)
{
	int			i = *bucket_of(e);

	while (i != NONE && !neon_broker_same_name(&entries[i].e, e))
		i = entries[i].hash_next;
	return i;
}

static void
forget(int i)
{
	int		   *link = bucket_of(&entries[i].e);

	while (*link != i)
		link = &entries[*link].hash_next;
	*link = entries[i].hash_next;
	nb->forgotten = Max(nb->forgotten, entries[i].change);
	list_remove(i);
	entries[i].used = false;
	entries[i].next = nb->free;
	nb->free = i;
	nb->statistics.entries--;
}

/* The one that has been gone for longest makes room. */
static bool
make_room(void)
{
	for (int i = nb->head; i != NONE; i = entries[i].next)
		if (entries[i].gone)
		{
			forget(i);
			return true;
		}
	return false;
}

/* ---- publishing ---- */

uint64
nb_publisher_number(void)
{
	uint64		n;

	LWLockAcquire(nb->lock, LW_EXCLUSIVE);
	n = ++nb->publisher;
	LWLockRelease(nb->lock);
	return n;
}

static int
add(const neon_broker_entry *e)
{
	int		   *bucket = bucket_of(e);
	int			i = nb->free;

	nb->free = entries[i].next;
	entries[i].e = *e;
	entries[i].used = true;
	entries[i].gone = false;
	entries[i].hash_next = *bucket;
	*bucket = i;
	list_append(i);
	nb->statistics.entries++;
	return i;
}

typedef enum Outcome
{
	OLD_NEWS,
	NEWS,
	NO_ROOM
} Outcome;

static Outcome
put(const neon_broker_entry *e, uint64 publisher, uint64 now, bool *searched)
{
	int			i = find(e);
	bool		news = true;

	if (i == NONE)
	{
		/* once a message: a full table must not be walked for each of its entries */
		if (nb->free == NONE && (*searched || !make_room()))
		{
			*searched = true;
			return NO_ROOM;
		}
		i = add(e);
	}
	else if (publisher < entries[i].publisher)
		return OLD_NEWS;
	else
		news = entries[i].gone || !neon_broker_same_state(&entries[i].e, e);
	entries[i].publisher = publisher;
	refreshed_ms[i] = now;
	if (!news)
		return OLD_NEWS;
	entries[i].e = *e;
	entries[i].gone = false;
	changed(i);
	return NEWS;
}

/* Sets the latches of those whom one of the entries concerns. */
static void
wake(const neon_broker_entry *of, int n)
{
	for (int s = 0; s < nb_max_subscribers; s++)
	{
		NbSubscriber *sub = &nb->subscribers[s];

		for (int i = 0; sub->pgprocno != NONE && i < n; i++)
			if (neon_broker_matches(&of[i], &sub->filter.tenant, &sub->filter.timeline))
			{
				SetLatch(&ProcGlobal->allProcs[sub->pgprocno].procLatch);
				break;
			}
	}
}

/* Number of those that there was no room for. */
int
nb_publish(const neon_broker_entry *list, int n, uint64 publisher)
{
	uint64		now = now_ms();
	bool		searched = false;
	bool		news = false;
	int			refused = 0;

	LWLockAcquire(nb->lock, LW_EXCLUSIVE);
	for (int i = 0; i < n; i++)
		switch (put(&list[i], publisher, now, &searched))
		{
			case NEWS:
				news = true;
				break;
			case NO_ROOM:
				refused++;
				break;
			case OLD_NEWS:
				break;
		}
	nb->statistics.published += n;
	nb->statistics.refused += refused;
	if (news)
		wake(list, n);
	LWLockRelease(nb->lock);
	return refused;
}

/* Whoever comes by does it, once a second. */
void
nb_expire(void)
{
	uint64		now = now_ms();
	uint64		limit_ms = (uint64) nb_expire_s * 1000;

	LWLockAcquire(nb->lock, LW_EXCLUSIVE);
	if (now >= nb->expire_at_ms)
	{
		nb->expire_at_ms = now + EXPIRE_EVERY_MS;
		for (int i = 0; i < nb_max_entries; i++)
		{
			if (!entries[i].used || now < refreshed_ms[i] + limit_ms)
				continue;
			if (entries[i].gone)
			{
				if (now >= refreshed_ms[i] + 2 * limit_ms)
					forget(i);
				continue;
			}
			entries[i].gone = true;
			nb->statistics.expired++;
			changed(i);
			wake(&entries[i].e, 1);
		}
	}
	LWLockRelease(nb->lock);
}

/* ---- subscribing ---- */

static void
leave_at_exit(int code, Datum arg)
{
	nb_unsubscribe();
}

void
nb_restart(NbCursor *cursor)
{
	LWLockAcquire(nb->lock, LW_SHARED);
	cursor->seen = 0;
	cursor->at = NONE;
	cursor->snapshot_end = nb->change;
	LWLockRelease(nb->lock);
}

void
nb_subscribe(const NbFilter *filter, NbCursor *cursor)
{
	static bool registered = false;

	if (!registered)
	{
		before_shmem_exit(leave_at_exit, 0);
		registered = true;
	}
	LWLockAcquire(nb->lock, LW_EXCLUSIVE);
	for (int i = 0; i < nb_max_subscribers && my_subscriber == NONE; i++)
		if (nb->subscribers[i].pgprocno == NONE)
			my_subscriber = i;
	if (my_subscriber != NONE)
	{
		nb->subscribers[my_subscriber].filter = *filter;
		nb->subscribers[my_subscriber].pgprocno = MyProc->pgprocno;
		nb->statistics.subscribers++;
	}
	LWLockRelease(nb->lock);
	if (my_subscriber == NONE)
		ereport(ERROR,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("the broker has %d subscribers and takes no more", nb_max_subscribers),
				 errhint("Raise neon_broker.max_subscribers.")));
	nb_restart(cursor);
}

void
nb_unsubscribe(void)
{
	if (my_subscriber == NONE)
		return;
	LWLockAcquire(nb->lock, LW_EXCLUSIVE);
	nb->subscribers[my_subscriber].pgprocno = NONE;
	nb->statistics.subscribers--;
	LWLockRelease(nb->lock);
	my_subscriber = NONE;
}

/* The oldest change that the cursor has not seen; NONE when it has seen all. */
static int
next_change(const NbCursor *cursor)
{
	int			i = NONE;

	if (cursor->seen == 0)
		return nb->head;
	if (cursor->at != NONE && entries[cursor->at].used && entries[cursor->at].change == cursor->seen)
		return entries[cursor->at].next;
	for (int back = nb->tail; back != NONE && entries[back].change > cursor->seen; back = entries[back].prev)
		i = back;
	return i;
}

static void
take(const NbFilter *filter, const NbCursor *cursor, const NbEntry *e, NbChanges *changes)
{
	if (!neon_broker_matches(&e->e, &filter->tenant, &filter->timeline))
		return;
	if (!e->gone)
		changes->live[changes->nlive++] = e->e;
	else if (cursor->seen > 0)
		changes->gone[changes->ngone++] = e->e;
}

/* What the subscriber has not seen, up to a message's worth. */
void
nb_read(const NbFilter *filter, NbCursor *cursor, NbChanges *changes)
{
	int			looks = 0;
	int			i;

	changes->restart = changes->exhausted = false;
	changes->nlive = changes->ngone = 0;
	LWLockAcquire(nb->lock, LW_SHARED);
	if (cursor->seen > 0 && cursor->seen < nb->forgotten)
		changes->restart = true;
	else
	{
		i = next_change(cursor);
		while (i != NONE && looks++ < MAX_LOOKS && changes->nlive < NEON_BROKER_MAX_ENTRIES && changes->ngone < NEON_BROKER_MAX_ENTRIES)
		{
			take(filter, cursor, &entries[i], changes);
			cursor->seen = entries[i].change;
			cursor->at = i;
			i = entries[i].next;
		}
		changes->exhausted = i == NONE;
		/* the end of the list may have been forgotten */
		if (changes->exhausted)
			cursor->seen = Max(cursor->seen, nb->change);
	}
	LWLockRelease(nb->lock);
}

/* ---- for people ---- */

/* NULL: there is none with this number. */
neon_broker_entry *
nb_copy_entry(int i, neon_broker_entry *to, uint64 *age_ms)
{
	bool		there;

	LWLockAcquire(nb->lock, LW_SHARED);
	there = entries[i].used && !entries[i].gone;
	if (there)
	{
		*to = entries[i].e;
		*age_ms = now_ms() - refreshed_ms[i];
	}
	LWLockRelease(nb->lock);
	return there ? to : NULL;
}

void
nb_statistics(NbStatistics *s)
{
	LWLockAcquire(nb->lock, LW_SHARED);
	*s = nb->statistics;
	s->publishers = nb->publisher;
	LWLockRelease(nb->lock);
}
