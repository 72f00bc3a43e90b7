/*
 * proxy_command.c - the console's commands, as PgBouncer's users know them; a database of theirs is an endpoint here.
 *
 * What is paused and what is disabled stands in shared memory; each worker is told, and looks there.  PAUSE and WAIT_CLOSE return when no worker has a
 * server connection that they wait for: the worker that was asked asks the others, again and again, until the sum of their answers is 0, RESUME ends
 * the PAUSE, or the client cancels or goes.  An answer that does not come within a second is asked for again.
 *
 * Bounds: PX_MAX_PAUSED endpoints of each kind; one wait a client.  Crash rule: a worker that dies takes the whole instance with it, and all this.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"

#include "proxy_admin.h"

#define ASK_AGAIN_MS	100
#define ANSWER_MS		1000

typedef struct Waiting
{
	dlist_node	node;
	PxClient   *client;
	bool		pause;			/* PAUSE; otherwise WAIT_CLOSE */
	char		endpoint[PX_NAME_BYTES];	/* empty: all */
	uint64		tag;			/* of the question that is under way */
	int			missing;		/* answers */
	int64		count;			/* that were given */
	int64		asked_ms;
} Waiting;

static dlist_head waiting = DLIST_STATIC_INIT(waiting);
static uint64 last_tag;

/* ---------------------------------------------------------------- paused, disabled */

static bool
is_marked(char list[][80], const char *endpoint)
{
	bool		found = false;

	SpinLockAcquire(&px_shared->quota_lock);
	for (int i = 0; i < PX_MAX_PAUSED; i++)
		found |= strcmp(list[i], "*") == 0 || strcmp(list[i], endpoint) == 0;
	SpinLockRelease(&px_shared->quota_lock);
	return found;
}

/* false: the list is full */
static bool
mark(char list[][80], const char *endpoint, bool on)
{
	int			free_at = -1;
	bool		found = false;

	SpinLockAcquire(&px_shared->quota_lock);
	for (int i = 0; i < PX_MAX_PAUSED; i++)
	{
		char	   *name = list[i];

		if (strcmp(name, endpoint) == 0)
			found = true;
		if (!on && (strcmp(name, endpoint) == 0 || strcmp(endpoint, "*") == 0))
			name[0] = '\0';
		if (name[0] == '\0' && free_at < 0)
			free_at = i;
	}
	if (on && !found && free_at >= 0)
		strlcpy(list[free_at], endpoint, sizeof(list[0]));
	SpinLockRelease(&px_shared->quota_lock);
	return !on || found || free_at >= 0;
}

bool
px_admin_is_paused(const char *endpoint)
{
	return is_marked(px_shared->paused, endpoint);
}

bool
px_admin_is_disabled(const char *endpoint)
{
	return is_marked(px_shared->disabled, endpoint);
}

/* ---------------------------------------------------------------- in each worker */

static bool
concerns(const char *endpoint, const PxPool *p)
{
	return endpoint[0] == '\0' || strcmp(endpoint, p->endpoint->id) == 0;
}

static void
close_all(dlist_head *list)
{
	dlist_mutable_iter i;

	dlist_foreach_modify(i, list)
		px_server_close(dlist_container(PxServer, node, i.cur));
}

static void
kill_pool(PxPool *p)
{
	px_error	e = {"FATAL", "57P01", "terminating connection due to administrator command", NULL, NULL};
	dlist_mutable_iter i;

	px_pool_fail(p, &e);
	dlist_foreach_modify(i, &p->busy)
	{
		PxServer   *s = dlist_container(PxServer, node, i.cur);

		s->close_after = true;
		if (s->client)
			px_client_fail(s->client, e.sqlstate, e.message, NULL, NULL);
	}
	dlist_foreach_modify(i, &px.idle)
	{
		PxClient   *c = dlist_container(PxClient, node, i.cur);

		if (c->pool == p)
			px_client_fail(c, e.sqlstate, e.message, NULL, NULL);
	}
	close_all(&p->idle);
	close_all(&p->starting);
}

/* Those that are in use are closed when they are free. */
static void
reconnect_pool(PxPool *p)
{
	dlist_iter	i;

	dlist_foreach(i, &p->busy)
		dlist_container(PxServer, node, i.cur)->close_after = true;
	dlist_foreach(i, &p->starting)
		dlist_container(PxServer, node, i.cur)->close_after = true;
	close_all(&p->idle);
}

/* "PAUSE main-1a2b3c4d": what is to stay is in shared memory already */
void
px_admin_command(const char *text)
{
	dlist_mutable_iter i;
	const char *name = strchr(text, ' ');

	if (strncmp(text, "FORGET ", 7) == 0)
	{
		px_cache_invalidate(text + 7);
		return;
	}
	name = name ? name + 1 : "";
	if (strncmp(text, "RECONNECT", 9) == 0 && name[0] == '\0')
		px_reconnect_generation++;
	dlist_foreach_modify(i, &px.pools)
	{
		PxPool	   *p = dlist_container(PxPool, node, i.cur);

		if (name[0] && strncmp(text, "KILL", 4) == 0 && concerns(name, p))
			kill_pool(p);
		if (name[0] && strncmp(text, "RECONNECT", 9) == 0 && concerns(name, p))
			reconnect_pool(p);
		p->paused = px_admin_is_paused(p->endpoint->id);
		px_pool_want_run(p);
	}
}

void
px_admin_tell_all(const char *command, const char *endpoint)
{
	char		text[32 + PX_NAME_BYTES];

	snprintf(text, sizeof(text), "%s %s", command, endpoint);
	for (int w = 0; w < px_workers; w++)
		if (w != px.me)
			px_ipc_send(w, PX_MSG_COMMAND, 0, text, strlen(text));
	px_admin_command(text);
}

static int
to_be_closed(dlist_head *list)
{
	dlist_iter	i;
	int			n = 0;

	dlist_foreach(i, list)
	{
		PxServer   *s = dlist_container(PxServer, node, i.cur);

		n += s->close_after || s->generation != px_reconnect_generation;
	}
	return n;
}

/* Server connections of ours that such a command waits for. */
static int64
count_servers(bool pause, const char *endpoint)
{
	dlist_iter	i;
	int64		n = 0;

	dlist_foreach(i, &px.pools)
	{
		PxPool	   *p = dlist_container(PxPool, node, i.cur);

		if (!concerns(endpoint, p))
			continue;
		n += pause ? p->nservers : to_be_closed(&p->busy) + to_be_closed(&p->idle) + to_be_closed(&p->starting);
	}
	return n;
}

/* Another worker asks: "P" or "W", and the endpoint. */
void
px_admin_count(int from, uint64 tag, const char *text)
{
	int64		n = count_servers(text[0] == 'P', text[0] ? text + 1 : "");

	if (from >= 0 && from < px_workers)
		px_ipc_send(from, PX_MSG_COUNTED, tag, &n, sizeof(n));
}

/* ---------------------------------------------------------------- waiting */

static Waiting *
waiting_of(const PxClient *c)
{
	dlist_iter	i;

	dlist_foreach(i, &waiting)
	{
		Waiting    *w = dlist_container(Waiting, node, i.cur);

		if (w->client == c)
			return w;
	}
	return NULL;
}

bool
px_command_waits(const PxClient *c)
{
	return waiting_of(c) != NULL;
}

static void
forget(Waiting *w)
{
	dlist_delete(&w->node);
	px_free(w);
}

void
px_command_closed(PxClient *c)
{
	Waiting    *w = waiting_of(c);

	if (w)
		forget(w);
}

static void
wait_is_over(Waiting *w)
{
	PxClient   *c = w->client;
	const char *tag = w->pause ? "PAUSE" : "WAIT_CLOSE";
	bool		undone = w->pause && !px_admin_is_paused(w->endpoint[0] ? w->endpoint : "*");

	forget(w);
	if (undone ? px_admin_complain(c, "55000", "PAUSE was ended by RESUME", NULL, true) : px_admin_complete(c, tag))
		px_admin_resume(c);
}

/* A cancel request of the console's client. */
void
px_admin_cancel(PxClient *c)
{
	Waiting    *w = waiting_of(c);
	bool		pause = w && w->pause;

	if (w == NULL)
		return;
	forget(w);
	if (px_admin_complain(c, "57014", "canceling statement due to user request", pause ? "What is paused stays so, until RESUME." : NULL, true))
		px_admin_resume(c);
}

static void
ask(Waiting *w)
{
	char		text[PX_NAME_BYTES + 2];

	w->tag = ++last_tag;
	w->asked_ms = px.now_ms;
	w->missing = 0;
	w->count = count_servers(w->pause, w->endpoint);
	snprintf(text, sizeof(text), "%c%s", w->pause ? 'P' : 'W', w->endpoint);
	for (int i = 0; i < px_workers; i++)
		if (i != px.me && pg_atomic_read_u32(&px_worker_slot(i)->pid) != 0)
		{
			w->missing++;
			px_ipc_send(i, PX_MSG_COUNT, w->tag, text, strlen(text));
		}
}

/* The answer of a worker. */
void
px_admin_counted(uint64 tag, int64 count)
{
	dlist_iter	i;

	dlist_foreach(i, &waiting)
	{
		Waiting    *w = dlist_container(Waiting, node, i.cur);

		if (w->tag != tag || w->missing == 0)
			continue;
		w->count += count;
		w->missing--;
		return;
	}
}

void
px_command_tick(void)
{
	dlist_mutable_iter i;

	dlist_foreach_modify(i, &waiting)
	{
		Waiting    *w = dlist_container(Waiting, node, i.cur);
		int64		age_ms = px.now_ms - w->asked_ms;

		if ((w->missing == 0 && w->count == 0) || (w->pause && !px_admin_is_paused(w->endpoint[0] ? w->endpoint : "*")))
			wait_is_over(w);
		else if (w->missing == 0 ? age_ms >= ASK_AGAIN_MS : age_ms >= ANSWER_MS)
			ask(w);
	}
}

static bool
wait_for(PxClient *c, bool pause, const char *endpoint)
{
	Waiting    *w = px_alloc(sizeof(Waiting));

	w->client = c;
	w->pause = pause;
	strlcpy(w->endpoint, endpoint, sizeof(w->endpoint));
	dlist_push_tail(&waiting, &w->node);
	ask(w);
	return true;
}

/* ---------------------------------------------------------------- commands */

static bool
tell_all(PxClient *c, const char *verb, const char *endpoint)
{
	px_admin_tell_all(verb, endpoint);
	return c->state == PX_CL_CLOSED ? false : px_admin_complete(c, verb);
}

static bool
too_many(PxClient *c)
{
	return px_admin_complain(c, "54000", "too many endpoints are paused or disabled", "RESUME or ENABLE some, or PAUSE all.", true);
}

static bool
cmd_reload(PxClient *c, const char *name)
{
	kill(PostmasterPid, SIGHUP);
	return px_admin_complete(c, "RELOAD");
}

static bool
cmd_shutdown(PxClient *c, const char *name)
{
	kill(PostmasterPid, SIGINT);	/* transactions may end within neon_proxy.drain_timeout */
	return px_admin_complete(c, "SHUTDOWN");
}

static bool
cmd_reconnect(PxClient *c, const char *name)
{
	return tell_all(c, "RECONNECT", name);
}

static bool
cmd_pause(PxClient *c, const char *name)
{
	if (!mark(px_shared->paused, name[0] ? name : "*", true))
		return too_many(c);
	px_admin_tell_all("PAUSE", name);
	return wait_for(c, true, name);
}

static bool
cmd_resume(PxClient *c, const char *name)
{
	mark(px_shared->paused, name[0] ? name : "*", false);
	return tell_all(c, "RESUME", name);
}

static bool
cmd_wait_close(PxClient *c, const char *name)
{
	return wait_for(c, false, name);
}

/* Who comes afterwards waits for RESUME. */
static bool
cmd_kill(PxClient *c, const char *name)
{
	if (!mark(px_shared->paused, name, true))
		return too_many(c);
	return tell_all(c, "KILL", name);
}

/* Only for who logs in: nobody needs to be told. */
static bool
cmd_disable(PxClient *c, const char *name)
{
	return mark(px_shared->disabled, name, true) ? px_admin_complete(c, "DISABLE") : too_many(c);
}

static bool
cmd_enable(PxClient *c, const char *name)
{
	mark(px_shared->disabled, name, false);
	return px_admin_complete(c, "ENABLE");
}

static bool
cmd_suspend(PxClient *c, const char *name)
{
	return px_admin_complain(c, "0A000", "the proxy is not suspended for a restart",
							 "Start another with neon_proxy.share_port on the same port, then stop this one; or use PAUSE.", true);
}

static bool
cmd_set(PxClient *c, const char *name)
{
	return px_admin_complain(c, "0A000", "settings are not changed here", "Edit postgresql.conf of the proxy, or use ALTER SYSTEM there, and RELOAD.", true);
}

static const struct
{
	const char *verb;
	bool		(*run) (PxClient *c, const char *name);
	char		endpoint;		/* n: none, o: optional, r: required */
}			commands[] = {
	{"RELOAD", cmd_reload, 'n'}, {"SHUTDOWN", cmd_shutdown, 'n'}, {"RECONNECT", cmd_reconnect, 'o'}, {"PAUSE", cmd_pause, 'o'},
	{"RESUME", cmd_resume, 'o'}, {"WAIT_CLOSE", cmd_wait_close, 'o'}, {"KILL", cmd_kill, 'r'}, {"DISABLE", cmd_disable, 'r'},
	{"ENABLE", cmd_enable, 'r'}, {"SUSPEND", cmd_suspend, 'n'}, {"SET", cmd_set, 'o'}
};

bool
px_command(PxClient *c, const char *verb, const char *name)
{
	for (int i = 0; i < lengthof(commands); i++)
	{
		if (pg_strcasecmp(verb, commands[i].verb) != 0)
			continue;
		if (commands[i].endpoint == 'r' && name[0] == '\0')
			return px_admin_complain(c, "42601", "an endpoint is required", "SHOW DATABASES lists those that are in use.", true);
		if (commands[i].endpoint != 'n' || name[0] == '\0')
			return commands[i].run(c, name);
		break;
	}
	return px_admin_complain(c, "42601", "unknown command", "SHOW HELP lists the commands.", true);
}
