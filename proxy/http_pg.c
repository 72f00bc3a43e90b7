/*
 * http_pg.c - a bounded pool of database connections, and jobs that run on them, driven by the loop.
 *
 * A job is sent as one pipeline: [BEGIN] statements [COMMIT] Sync; the first error ends it, and the server skips the rest.  Rows are
 * taken one at a time, so that a result never takes more memory than the response may have.
 *
 * A connection goes back to the pool only when the server says that no transaction is open, and after DISCARD ALL; everything
 * else is closed: a job that timed out, whose client went, whose transaction was left open.  A client that sees an
 * error may not know whether its statement ran; it is never run twice.
 *
 * Bounds: neon_proxy.http_pool_size connections for a target, neon_proxy.http_pool_total together, a deadline for each job.  Jobs wait in the
 * order they came; there are never more of them than HTTP connections.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include <openssl/evp.h>
#include <signal.h>

#include "http_pg.h"

#define MAX_CANCELS 64			/* on their way at once; one more is only closed */

typedef enum ConnState
{
	CONN_CONNECTING,
	CONN_BUSY,
	CONN_RESETTING,
	CONN_CANCELLING,			/* without a job and unwatched; closed when the cancel request is through */
	CONN_IDLE
} ConnState;

struct HpConn
{
	HpConn	   *next;
	PGconn	   *pg;
	uv_poll_t  *poll;
	int			fd;				/* that poll watches */
	ConnState	state;
	HpJob	   *job;
	bool		pooled;
	bool		rollback_sent;
	uint8_t		key[32];
	uint64_t	born_ms;
	uint64_t	since_ms;		/* in this state */
};

HpFigures	hp_figures;

static HpConn *connections;
static HpJob *waiting;			/* oldest first */
static int	cancels;
static bool assigning;

static void assign_jobs(void);
static void close_connection(HpConn *c);
static void on_event(uv_poll_t *handle, int status, int events);

/* ---- targets and jobs ---- */

bool
hp_target_add(HpTarget *target, const char *keyword, const char *value)
{
	if (target->n == HP_MAX_KEYWORDS || !(target->value[target->n] = strdup(value)))
		return false;
	target->keyword[target->n++] = keyword;
	return true;
}

void
hp_target_free(HpTarget *target)
{
	for (int i = 0; i < target->n; i++)
		ht_free_secret(target->value[i]);
	target->n = 0;
}

static bool
target_key(const HpTarget *target, uint8_t key[32])
{
	EVP_MD_CTX *ctx = EVP_MD_CTX_new();
	unsigned int len = 32;
	bool		ok = ctx && EVP_DigestInit_ex(ctx, EVP_sha256(), NULL);

	for (int i = 0; i < target->n && ok; i++)
		ok = EVP_DigestUpdate(ctx, target->keyword[i], strlen(target->keyword[i]) + 1) &&
			EVP_DigestUpdate(ctx, target->value[i], strlen(target->value[i]) + 1);
	ok = ok && EVP_DigestFinal_ex(ctx, key, &len);
	EVP_MD_CTX_free(ctx);
	return ok;
}

HpJob *
hp_job(int nstatements)
{
	HpJob	   *job = calloc(1, sizeof(HpJob));

	if (!job)
		return NULL;
	job->statements = calloc(nstatements, sizeof(HpStatement));
	if (!job->statements)
	{
		free(job);
		return NULL;
	}
	job->nstatements = nstatements;
	job->out = ht_buf(HT_MAX_BODY_BYTES);
	job->deadline_ms = ht_now_ms() + ht_request_timeout_ms;
	return job;
}

static void
free_statements(HpJob *job)
{
	for (int i = 0; i < job->nstatements && job->statements; i++)
	{
		for (int p = 0; p < job->statements[i].nparams; p++)
			free(job->statements[i].params[p]);
		free(job->statements[i].params);
		free(job->statements[i].sql);
	}
	free(job->statements);
	job->statements = NULL;
}

void
hp_job_free(HpJob *job)
{
	free_statements(job);
	hp_target_free(&job->target);
	ht_buf_free(&job->out);
	free(job);
}

static void
finish_job(HpJob *job)
{
	if (job->out.failed)
		hp_fail(job, 507, "53200", "out of memory");
	job->done(job, job->arg);
	hp_job_free(job);
}

static void
unlink_waiting(HpJob *job)
{
	for (HpJob **p = &waiting; *p; p = &(*p)->next)
		if (*p == job)
		{
			*p = job->next;
			hp_figures.waiting--;
			return;
		}
}

/*
 * Cancelling: PQcancel waits, hence a thread of the loop's pool.  The connection is closed after it, not before: the key is good
 * for as long as the session is there.
 */

typedef struct Cancel
{
	uv_work_t	work;
	PGcancel   *cancel;
	HpConn	   *conn;
} Cancel;

static void
cancel_thread(uv_work_t *work)
{
	char		error[256];

	PQcancel(((Cancel *) work)->cancel, error, sizeof(error));
}

static void
cancel_done(uv_work_t *work, int status)
{
	Cancel	   *c = (Cancel *) work;

	PQfreeCancel(c->cancel);
	close_connection(c->conn);
	free(c);
	cancels--;
	assign_jobs();
}

/* False: it cannot be cancelled, only closed. */
static bool
start_cancel(HpConn *c)
{
	Cancel	   *cancel = cancels < MAX_CANCELS ? calloc(1, sizeof(Cancel)) : NULL;
	sigset_t	all,
				before;
	int			rc;

	if (!cancel || !(cancel->cancel = PQgetCancel(c->pg)))
	{
		free(cancel);
		return false;
	}
	cancel->conn = c;
	/* threads inherit the mask: signals are for the main thread alone */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	rc = uv_queue_work(&ht_worker.loop, &cancel->work, cancel_thread, cancel_done);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (rc != 0)
	{
		PQfreeCancel(cancel->cancel);
		free(cancel);
		return false;
	}
	cancels++;
	hp_figures.cancels++;
	return true;
}

/* ---- connections ---- */

static void
free_handle(uv_handle_t *handle)
{
	free(handle);
}

static void
unwatch(HpConn *c)
{
	if (c->poll)
	{
		c->poll->data = NULL;
		uv_close((uv_handle_t *) c->poll, free_handle);
		c->poll = NULL;
	}
}

/* False: it cannot be watched. */
static bool
watch(HpConn *c, int events)
{
	int			fd = PQsocket(c->pg);

	if (fd < 0)
		return false;
	if (c->poll && c->fd != fd)
		unwatch(c);
	if (!c->poll)
	{
		c->poll = calloc(1, sizeof(uv_poll_t));
		if (!c->poll)
			return false;
		if (uv_poll_init(&ht_worker.loop, c->poll, fd) != 0)
		{
			free(c->poll);
			c->poll = NULL;
			return false;
		}
		c->poll->data = c;
		c->fd = fd;
	}
	return uv_poll_start(c->poll, events, on_event) == 0;
}

static void
set_state(HpConn *c, ConnState state)
{
	hp_figures.idle += (state == CONN_IDLE) - (c->state == CONN_IDLE);
	c->state = state;
	c->since_ms = ht_now_ms();
}

static void
close_connection(HpConn *c)
{
	for (HpConn **p = &connections; *p; p = &(*p)->next)
		if (*p == c)
		{
			*p = c->next;
			break;
		}
	hp_figures.connections--;
	hp_figures.idle -= c->state == CONN_IDLE;
	unwatch(c);
	PQfinish(c->pg);
	free(c);
}

/* What runs on it is of interest to nobody any more. */
static void
abandon_connection(HpConn *c)
{
	if (c->state == CONN_BUSY && start_cancel(c))
	{
		unwatch(c);
		set_state(c, CONN_CANCELLING);
	}
	else
		close_connection(c);
}

/* The job is over, and so is the connection. */
static void
end_both(HpConn *c)
{
	HpJob	   *job = c->job;

	c->job = NULL;
	if (job && job->give_up)
		abandon_connection(c);
	else
		close_connection(c);
	if (job)
	{
		job->conn = NULL;
		finish_job(job);
	}
	assign_jobs();
}

static bool
send_job(HpConn *c)
{
	HpJob	   *job = c->job;
	bool		ok = PQenterPipelineMode(c->pg);

	if (ok && job->begin[0])
		ok = PQsendQueryParams(c->pg, job->begin, 0, NULL, NULL, NULL, NULL, 0);
	for (int i = 0; i < job->nstatements && ok; i++)
		ok = PQsendQueryParams(c->pg, job->statements[i].sql, job->statements[i].nparams, NULL,
							   (const char *const *) job->statements[i].params, NULL, NULL, 0);
	if (ok && job->begin[0])
		ok = PQsendQueryParams(c->pg, "COMMIT", 0, NULL, NULL, NULL, NULL, 0);
	ok = ok && PQpipelineSync(c->pg);
	PQsetSingleRowMode(c->pg);
	hp_begin_output(job);
	free_statements(job);		/* libpq has copied them */
	return ok;
}

static void
start_job(HpConn *c, HpJob *job)
{
	int			rc;

	c->job = job;
	job->conn = c;
	if (c->state == CONN_CONNECTING)
		return;
	set_state(c, CONN_BUSY);
	if (!send_job(c) || (rc = PQflush(c->pg)) < 0 || !watch(c, rc > 0 ? UV_READABLE | UV_WRITABLE : UV_READABLE))
	{
		hp_fail_connection(job, c->pg);
		end_both(c);
	}
}

/* The pipeline's end: the answer first, then the connection is made ready for others. */
static void
job_sent_back(HpConn *c)
{
	HpJob	   *job = c->job;
	PGTransactionStatusType status = PQtransactionStatus(c->pg);
	bool		keep = c->pooled && !job->give_up && PQexitPipelineMode(c->pg) && ht_now_ms() - c->born_ms < ht_pool_lifetime_ms &&
		(status == PQTRANS_IDLE || (status == PQTRANS_INERROR && job->begin[0]));

	hp_end_output(job);
	if (!keep)
	{
		end_both(c);
		return;
	}
	c->job = NULL;
	job->conn = NULL;
	c->rollback_sent = status == PQTRANS_INERROR;
	set_state(c, CONN_RESETTING);
	finish_job(job);
	if (!PQsendQuery(c->pg, c->rollback_sent ? "ROLLBACK" : "DISCARD ALL") || PQflush(c->pg) != 0)
		close_connection(c);
	assign_jobs();
}

static void
connection_broke(HpConn *c)
{
	if (c->job && !c->job->failed)
		hp_fail_connection(c->job, c->pg);
	end_both(c);
}

static void
read_results(HpConn *c)
{
	bool		was_null = false;

	while (!PQisBusy(c->pg))
	{
		PGresult   *res = PQgetResult(c->pg);
		ExecStatusType status;

		if (!res)
		{
			/* one ends each statement; two in a row mean that nothing will come any more */
			if (was_null || PQstatus(c->pg) == CONNECTION_BAD)
			{
				connection_broke(c);
				return;
			}
			was_null = true;
			c->job->at++;
			PQsetSingleRowMode(c->pg);
			continue;
		}
		was_null = false;
		status = PQresultStatus(res);
		if (status != PGRES_PIPELINE_SYNC)
			hp_result(c->job, res);
		PQclear(res);
		if (status == PGRES_PIPELINE_SYNC)
		{
			job_sent_back(c);
			return;
		}
		if (c->job->give_up)
		{
			end_both(c);
			return;
		}
	}
	if (PQstatus(c->pg) == CONNECTION_BAD)
		connection_broke(c);
}

static void
read_reset(HpConn *c)
{
	while (!PQisBusy(c->pg))
	{
		PGresult   *res = PQgetResult(c->pg);
		bool		ok;

		if (!res)
		{
			if (!c->rollback_sent)
			{
				set_state(c, CONN_IDLE);
				assign_jobs();
				return;
			}
			c->rollback_sent = false;
			if (PQsendQuery(c->pg, "DISCARD ALL") && PQflush(c->pg) == 0)
				continue;
			close_connection(c);
			assign_jobs();
			return;
		}
		ok = PQresultStatus(res) == PGRES_COMMAND_OK;
		PQclear(res);
		if (!ok)
		{
			close_connection(c);
			assign_jobs();
			return;
		}
	}
}

static void
on_connected(HpConn *c)
{
	HpJob	   *job = c->job;

	PQsetnonblocking(c->pg, 1);
	PQsetErrorVerbosity(c->pg, PQERRORS_DEFAULT);
	set_state(c, CONN_IDLE);
	if (job)
		start_job(c, job);
	else if (!watch(c, UV_READABLE))
		close_connection(c);
	else
		assign_jobs();
}

static void
go_on_connecting(HpConn *c)
{
	switch (PQconnectPoll(c->pg))
	{
		case PGRES_POLLING_OK:
			on_connected(c);
			return;
		case PGRES_POLLING_READING:
			if (watch(c, UV_READABLE))
				return;
			break;
		case PGRES_POLLING_WRITING:
			if (watch(c, UV_WRITABLE))
				return;
			break;
		default:
			break;
	}
	hp_figures.connect_failures++;
	if (c->job)
		hp_fail_connection(c->job, c->pg);
	end_both(c);
}

static void
on_event(uv_poll_t *handle, int status, int events)
{
	HpConn	   *c = handle->data;
	int			rc = 0;

	if (!c)
		return;
	if (c->state == CONN_CONNECTING)
	{
		go_on_connecting(c);
		return;
	}
	if (((events & UV_READABLE) || status < 0) && !PQconsumeInput(c->pg))
	{
		/* what the server said before it went may be there as a result */
		if (c->state == CONN_BUSY && c->job)
		{
			read_results(c);
			return;
		}
		end_both(c);
		return;
	}
	if ((events & UV_WRITABLE) && ((rc = PQflush(c->pg)) < 0 || (rc == 0 && !watch(c, UV_READABLE))))
	{
		connection_broke(c);
		return;
	}
	if (c->state == CONN_BUSY)
		read_results(c);
	else if (c->state == CONN_RESETTING)
		read_reset(c);
	else if (PQstatus(c->pg) == CONNECTION_BAD)
		end_both(c);
}

/* ---- who gets which connection ---- */

static HpConn *
find_connection(const HpJob *job, int *count)
{
	HpConn	   *found = NULL;

	*count = 0;
	for (HpConn *c = connections; c; c = c->next)
	{
		if (memcmp(c->key, job->key, sizeof(c->key)) != 0)
			continue;
		(*count)++;
		if (c->state == CONN_IDLE && !c->job && job->pooled && !found)
			found = c;
	}
	return found;
}

/* Makes room by closing the connection that has been idle for the longest. */
static bool
evict_idle(void)
{
	HpConn	   *oldest = NULL;

	for (HpConn *c = connections; c; c = c->next)
		if (c->state == CONN_IDLE && (!oldest || c->since_ms < oldest->since_ms))
			oldest = c;
	if (oldest)
		close_connection(oldest);
	return oldest != NULL;
}

/* HTTP has no place for notices */
static void
ignore_notice(void *arg, const char *message)
{
}

/* NULL: no memory */
static HpConn *
open_connection(HpJob *job)
{
	HpConn	   *c = calloc(1, sizeof(HpConn));

	if (!c)
		return NULL;
	c->pg = PQconnectStartParams(job->target.keyword, (const char *const *) job->target.value, 0);
	if (!c->pg)
	{
		free(c);
		return NULL;
	}
	PQsetNoticeProcessor(c->pg, ignore_notice, NULL);
	/* so that a refused login comes with its SQLSTATE */
	PQsetErrorVerbosity(c->pg, PQERRORS_VERBOSE);
	memcpy(c->key, job->key, sizeof(c->key));
	c->pooled = job->pooled;
	c->born_ms = c->since_ms = ht_now_ms();
	c->state = CONN_CONNECTING;
	c->next = connections;
	connections = c;
	hp_figures.connections++;
	hp_figures.connects++;
	return c;
}

/* False: it has to wait. */
static bool
try_assign(HpJob *job)
{
	int			count;
	HpConn	   *c = find_connection(job, &count);

	if (c)
	{
		hp_figures.reuses++;
		start_job(c, job);
		return true;
	}
	if (count >= ht_pool_size || (hp_figures.connections >= ht_pool_total && !evict_idle()))
		return false;
	c = open_connection(job);
	if (!c)
	{
		hp_fail(job, 503, "53200", "out of memory");
		finish_job(job);
		return true;
	}
	start_job(c, job);
	if (PQstatus(c->pg) == CONNECTION_BAD || !watch(c, UV_WRITABLE))
	{
		hp_figures.connect_failures++;
		hp_fail_connection(job, c->pg);
		end_both(c);
	}
	return true;
}

/* Callbacks of jobs may come back here: the outer call goes on from the front. */
static void
assign_jobs(void)
{
	HpJob	   *job;

	if (assigning)
		return;
	assigning = true;
	for (job = waiting; job;)
	{
		HpJob	   *next = job->next;

		unlink_waiting(job);
		if (try_assign(job))
			job = waiting;
		else
		{
			HpJob	  **p = &waiting;

			/* back to its place: before the one that follows it */
			while (*p && *p != next)
				p = &(*p)->next;
			job->next = *p;
			*p = job;
			hp_figures.waiting++;
			job = next;
		}
	}
	assigning = false;
}

void
hp_submit(HpJob *job)
{
	HpJob	  **p = &waiting;

	if (!target_key(&job->target, job->key))
	{
		hp_fail(job, 503, "53200", "out of memory");
		finish_job(job);
		return;
	}
	while (*p)
		p = &(*p)->next;
	*p = job;
	hp_figures.waiting++;
	assign_jobs();
}

void
hp_cancel(HpJob *job)
{
	HpConn	   *c = job->conn;

	unlink_waiting(job);
	if (c)
	{
		c->job = NULL;
		abandon_connection(c);
	}
	hp_job_free(job);
	assign_jobs();
}

static void
time_out(HpJob *job)
{
	HpConn	   *c = job->conn;

	hp_figures.timeouts++;
	hp_fail(job, 504, "57014", c ? "the statement took too long" : "no database connection became free in time");
	if (c)
	{
		job->give_up = true;
		end_both(c);
		return;
	}
	unlink_waiting(job);
	finish_job(job);
}

/* One at a time, from the front: each may change the lists. */
static bool
tick_once(uint64_t now)
{
	for (HpJob *job = waiting; job; job = job->next)
		if (now > job->deadline_ms)
		{
			time_out(job);
			return true;
		}
	for (HpConn *c = connections; c; c = c->next)
	{
		if (c->job && now > c->job->deadline_ms)
		{
			time_out(c->job);
			return true;
		}
		if ((c->state == CONN_IDLE && now - c->since_ms > ht_pool_idle_timeout_ms) ||
			(c->state == CONN_RESETTING && now - c->since_ms > ht_request_timeout_ms))
		{
			close_connection(c);
			return true;
		}
	}
	return false;
}

void
ht_pg_tick(void)
{
	uint64_t	now = ht_now_ms();

	while (tick_once(now))
		;
	assign_jobs();
}
