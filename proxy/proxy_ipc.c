/*
 * proxy_ipc.c - messages between workers.
 *
 * Each worker has a socket pair that the postmaster made: everybody may send to one end, the worker reads the other.  Messages keep their
 * bounds (SOCK_SEQPACKET).  What does not fit into a full box is kept and sent again at the next tick, up to a bound; beyond it
 * messages are lost, which every use can bear: a cancel request is a wish, a SHOW has a deadline, an answer can be asked for.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <sys/socket.h>

#include "proxy_listen.h"
#include "px.h"

#define MAX_MESSAGE_BYTES	65536
#define MAX_KEPT_BYTES		(16 * 1024 * 1024)
#define MESSAGES_A_ROUND	64

typedef struct Head
{
	uint32		kind;
	int32		from;
	uint64		tag;
} Head;

typedef struct Kept
{
	dlist_node	node;
	int			to;
	size_t		len;
	uint8		data[FLEXIBLE_ARRAY_MEMBER];
} Kept;

static dlist_head kept = DLIST_STATIC_INIT(kept);
static size_t kept_bytes;

static bool
try_send(int to, const void *data, size_t len)
{
	return send(px_outbox(to), data, len, MSG_NOSIGNAL | MSG_DONTWAIT) >= 0 || (errno != EAGAIN && errno != EWOULDBLOCK && errno != ENOBUFS);
}

void
px_ipc_send(int worker, PxMessageKind kind, uint64 tag, const void *data, size_t len)
{
	Kept	   *k = px_alloc(offsetof(Kept, data) + sizeof(Head) + len);
	Head		h = {kind, px.me, tag};

	k->to = worker;
	k->len = sizeof(Head) + len;
	memcpy(k->data, &h, sizeof(h));
	memcpy(k->data + sizeof(h), data, len);
	if ((dlist_is_empty(&kept) && try_send(worker, k->data, k->len)) || kept_bytes + k->len > MAX_KEPT_BYTES)
	{
		px_free(k);
		return;
	}
	dlist_push_tail(&kept, &k->node);
	kept_bytes += k->len;
}

void
px_ipc_tick(void)
{
	while (!dlist_is_empty(&kept))
	{
		Kept	   *k = dlist_head_element(Kept, node, &kept);

		if (pg_atomic_read_u32(&px_worker_slot(k->to)->pid) != 0 && !try_send(k->to, k->data, k->len))
			return;
		dlist_delete(&k->node);
		kept_bytes -= k->len;
		px_free(k);
	}
}

void
px_ipc_event(void)
{
	static uint8 buf[MAX_MESSAGE_BYTES + 1];

	for (int i = 0; i < MESSAGES_A_ROUND; i++)
	{
		ssize_t		n = recv(px_inbox(px.me), buf, MAX_MESSAGE_BYTES, MSG_DONTWAIT);
		Head		h;
		const uint8 *data = buf + sizeof(Head);
		size_t		len = n - sizeof(Head);
		uint64		key;
		int64		count;

		if (n < (ssize_t) sizeof(Head))
			return;
		memcpy(&h, buf, sizeof(h));
		buf[n] = 0;				/* texts end */
		switch ((PxMessageKind) h.kind)
		{
			case PX_MSG_CANCEL:
				if (len == sizeof(key))
				{
					memcpy(&key, data, sizeof(key));
					px_cancel_local(key);
				}
				break;
			case PX_MSG_SHOW:
				px_admin_show(h.from, h.tag, (const char *) data);
				break;
			case PX_MSG_ROWS:
				px_admin_rows(h.tag, data, len);
				break;
			case PX_MSG_COUNT:
				px_admin_count(h.from, h.tag, (const char *) data);
				break;
			case PX_MSG_COUNTED:
				if (len == sizeof(count))
				{
					memcpy(&count, data, sizeof(count));
					px_admin_counted(h.tag, count);
				}
				break;
			case PX_MSG_COMMAND:
				px_admin_command((const char *) data);
				break;
			case PX_MSG_ENDPOINT:
			case PX_MSG_ROLE:
				px_cache_told(h.kind, (const char *) data, len);
				break;
		}
	}
}
