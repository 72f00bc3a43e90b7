/*
 * http_pg.c - a job on its connection: connecting, the pipeline, its results, and making the connection ready for others.
 *
 * A job is sent as one pipeline: [BEGIN] statements [COMMIT] Sync; the first error ends it, and the server skips the rest.  Rows are
 * taken one at a time, so that a result never takes more memory than the response may have.
 *
 * Invariant: a connection goes back to the pool only when the server says that no transaction is open, and after DISCARD ALL; everything
 * else is closed: a job that timed out, whose client went, whose transaction was left open.
 *
 * Crash rule: a client that sees an error, or none because the process was killed, may not know whether its statement ran; it is never run
 * twice.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "http_pool.h"

/* The job is over, and so is the connection. */
void
hp_end_both(HpConn *c)
{
	HpJob	   *job = c->job;

	c->job = NULL;
	if (job && job->give_up)
		hp_abandon(c);
	else
		hp_close(c);
	if (job)
	{
		job->conn = NULL;
		hp_finish(job);
	}
	hp_assign();
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
	hp_free_statements(job);		/* libpq has copied them */
	return ok;
}

void
hp_start(HpConn *c, HpJob *job)
{
	int			rc;

	c->job = job;
	job->conn = c;
	if (c->state == CONN_CONNECTING)
		return;
	hp_set_state(c, CONN_BUSY);
	if (!send_job(c) || (rc = PQflush(c->pg)) < 0 || !hp_watch(c, rc > 0 ? UV_READABLE | UV_WRITABLE : UV_READABLE))
	{
		hp_fail_connection(job, c->pg);
		hp_end_both(c);
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
		hp_end_both(c);
		return;
	}
	c->job = NULL;
	job->conn = NULL;
	c->rollback_sent = status == PQTRANS_INERROR;
	hp_set_state(c, CONN_RESETTING);
	hp_finish(job);
	if (!PQsendQuery(c->pg, c->rollback_sent ? "ROLLBACK" : "DISCARD ALL") || PQflush(c->pg) != 0)
		hp_close(c);
	hp_assign();
}

static void
connection_broke(HpConn *c)
{
	if (c->job && !c->job->failed)
		hp_fail_connection(c->job, c->pg);
	hp_end_both(c);
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
			hp_end_both(c);
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
				hp_set_state(c, CONN_IDLE);
				hp_assign();
				return;
			}
			c->rollback_sent = false;
			if (PQsendQuery(c->pg, "DISCARD ALL") && PQflush(c->pg) == 0)
				continue;
			hp_close(c);
			hp_assign();
			return;
		}
		ok = PQresultStatus(res) == PGRES_COMMAND_OK;
		PQclear(res);
		if (!ok)
		{
			hp_close(c);
			hp_assign();
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
	hp_set_state(c, CONN_IDLE);
	if (job)
		hp_start(c, job);
	else if (!hp_watch(c, UV_READABLE))
		hp_close(c);
	else
		hp_assign();
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
			if (hp_watch(c, UV_READABLE))
				return;
			break;
		case PGRES_POLLING_WRITING:
			if (hp_watch(c, UV_WRITABLE))
				return;
			break;
		default:
			break;
	}
	hp_figures.connect_failures++;
	if (c->job)
		hp_fail_connection(c->job, c->pg);
	hp_end_both(c);
}

void
hp_on_event(uv_poll_t *handle, int status, int events)
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
		hp_end_both(c);
		return;
	}
	if ((events & UV_WRITABLE) && ((rc = PQflush(c->pg)) < 0 || (rc == 0 && !hp_watch(c, UV_READABLE))))
	{
		connection_broke(c);
		return;
	}
	if (c->state == CONN_BUSY)
		read_results(c);
	else if (c->state == CONN_RESETTING)
		read_reset(c);
	else if (PQstatus(c->pg) == CONNECTION_BAD)
		hp_end_both(c);
}
