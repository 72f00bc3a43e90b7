/*
 * http_result.c - results and errors of libpq as the JSON that the serverless driver reads.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "http_pg.h"

/* errors as node-postgres names their fields */
static const struct
{
	const char *name;
	int			field;
}			error_fields[] = {
	{"code", PG_DIAG_SQLSTATE},
	{"detail", PG_DIAG_MESSAGE_DETAIL},
	{"hint", PG_DIAG_MESSAGE_HINT},
	{"position", PG_DIAG_STATEMENT_POSITION},
	{"internalPosition", PG_DIAG_INTERNAL_POSITION},
	{"internalQuery", PG_DIAG_INTERNAL_QUERY},
	{"severity", PG_DIAG_SEVERITY_NONLOCALIZED},
	{"where", PG_DIAG_CONTEXT},
	{"schema", PG_DIAG_SCHEMA_NAME},
	{"table", PG_DIAG_TABLE_NAME},
	{"column", PG_DIAG_COLUMN_NAME},
	{"dataType", PG_DIAG_DATATYPE_NAME},
	{"constraint", PG_DIAG_CONSTRAINT_NAME},
	{"file", PG_DIAG_SOURCE_FILE},
	{"line", PG_DIAG_SOURCE_LINE},
	{"routine", PG_DIAG_SOURCE_FUNCTION}
};

static void
fail_begin(HpJob *job, int status)
{
	ht_buf_free(&job->out);
	job->out = ht_buf(HT_MAX_BODY_BYTES);
	job->failed = true;
	job->ok = false;
	job->status = status;
}

void
hp_fail(HpJob *job, int status, const char *sqlstate, const char *message)
{
	fail_begin(job, status);
	strlcpy(job->sqlstate, sqlstate, sizeof(job->sqlstate));
	nh_puts(&job->out, "{\"message\":");
	nh_json_cstring(&job->out, message);
	nh_puts(&job->out, ",\"code\":");
	nh_json_cstring(&job->out, sqlstate);
	nh_puts(&job->out, ",\"severity\":\"ERROR\"}");
}

static void
fail_result(HpJob *job, const PGresult *res)
{
	const char *code = PQresultErrorField(res, PG_DIAG_SQLSTATE);
	const char *message = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);

	fail_begin(job, 400);
	strlcpy(job->sqlstate, code ? code : "08006", sizeof(job->sqlstate));
	nh_puts(&job->out, "{\"message\":");
	nh_json_cstring(&job->out, message ? message : PQresultErrorMessage(res));
	for (int i = 0; i < lengthof(error_fields); i++)
	{
		nh_puts(&job->out, ",\"");
		nh_puts(&job->out, error_fields[i].name);
		nh_puts(&job->out, "\":");
		nh_json_cstring(&job->out, error_fields[i].field == PG_DIAG_SQLSTATE ? job->sqlstate : PQresultErrorField(res, error_fields[i].field));
	}
	nh_puts(&job->out, "}");
}

/*
 * A failed login has no PGresult, only text, made with PQERRORS_VERBOSE:
 *	   connection to server on socket "..." failed: FATAL:  28P01: password authentication failed for user "x"
 *	   DETAIL:  ...
 *	   HINT:  ...
 *	   LOCATION:  ...
 * The first of libpq's own lines names our socket, which is nobody's business.
 */
static void
put_line_after(NhBuf *out, const char *text, const char *label)
{
	const char *line = strstr(text, label);

	if (!line)
	{
		nh_puts(out, "null");
		return;
	}
	line += strlen(label);
	while (*line == ' ')
		line++;
	nh_json_string(out, line, strcspn(line, "\n"));
}

void
hp_fail_connection(HpJob *job, PGconn *pg)
{
	const char *text = pg ? PQerrorMessage(pg) : "out of memory\n";
	const char *said = strstr(text, "FATAL:  ");

	if (!said)
		said = strstr(text, "ERROR:  ");
	if (!said || strlen(said) < 15 || said[13] != ':')
	{
		if (strstr(text, "no password supplied"))
			hp_fail(job, 400, "28P01", "the connection string has no password");
		else
			hp_fail(job, 400, "08006", strstr(text, "server closed the connection") ?
					"the database closed the connection" : "could not connect to the database");
		return;
	}
	fail_begin(job, 400);
	strlcpy(job->sqlstate, said + 8, sizeof(job->sqlstate));
	nh_puts(&job->out, "{\"message\":");
	nh_json_string(&job->out, said + 15, strcspn(said + 15, "\n"));
	nh_puts(&job->out, ",\"code\":");
	nh_json_cstring(&job->out, job->sqlstate);
	nh_puts(&job->out, ",\"severity\":\"FATAL\",\"detail\":");
	put_line_after(&job->out, said, "\nDETAIL:");
	nh_puts(&job->out, ",\"hint\":");
	put_line_after(&job->out, said, "\nHINT:");
	nh_puts(&job->out, "}");
}

/* ---- rows ---- */

void
hp_begin_output(HpJob *job)
{
	if (job->batch)
		nh_puts(&job->out, "{\"results\":[");
}

void
hp_end_output(HpJob *job)
{
	if (job->failed)
		return;
	if (job->batch)
		nh_puts(&job->out, "]}");
	if (job->format == HP_VALUE && job->out.len == 0)
		nh_puts(&job->out, "null");
	job->ok = true;
	job->status = 200;
}

static void
write_head(HpJob *job, const PGresult *res)
{
	NhBuf	   *out = &job->out;
	int			n = PQnfields(res);

	job->head_written = true;
	if (job->out.data && job->out.data[job->out.len - 1] == '}')
		nh_putc(out, ',');
	nh_puts(out, "{\"fields\":[");
	for (int i = 0; i < n; i++)
	{
		nh_puts(out, i > 0 ? ",{\"name\":" : "{\"name\":");
		nh_json_cstring(out, PQfname(res, i));
		nh_puts(out, ",\"dataTypeID\":");
		nh_put_int(out, PQftype(res, i));
		nh_puts(out, ",\"tableID\":");
		nh_put_int(out, PQftable(res, i));
		nh_puts(out, ",\"columnID\":");
		nh_put_int(out, PQftablecol(res, i));
		nh_puts(out, ",\"dataTypeSize\":");
		nh_put_int(out, PQfsize(res, i));
		nh_puts(out, ",\"dataTypeModifier\":");
		nh_put_int(out, PQfmod(res, i));
		nh_puts(out, ",\"format\":\"text\"}");
	}
	nh_puts(out, "],\"rows\":[");
}

static void
write_value(HpJob *job, const PGresult *res, int row, int column)
{
	const char *s = PQgetvalue(res, row, column);
	int			len = PQgetlength(res, row, column);

	if (PQgetisnull(res, row, column))
		nh_puts(&job->out, "null");
	else if (job->raw_text)
		nh_json_string(&job->out, s, len);
	else
		nh_json_value(&job->out, PQftype(res, column), s, len);
}

static void
write_rows(HpJob *job, const PGresult *res)
{
	NhBuf	   *out = &job->out;

	for (int row = 0; row < PQntuples(res) && !out->failed; row++)
	{
		if (job->row_seen)
			nh_putc(out, ',');
		job->row_seen = true;
		nh_putc(out, job->format == HP_ARRAYS ? '[' : '{');
		for (int i = 0; i < PQnfields(res); i++)
		{
			if (i > 0)
				nh_putc(out, ',');
			if (job->format == HP_OBJECTS)
			{
				nh_json_cstring(out, PQfname(res, i));
				nh_putc(out, ':');
			}
			write_value(job, res, row, i);
		}
		nh_putc(out, job->format == HP_ARRAYS ? ']' : '}');
	}
}

static void
write_tail(HpJob *job, PGresult *res)
{
	const char *tag = PQcmdStatus(res);
	const char *tuples = PQcmdTuples(res);

	nh_puts(&job->out, "],\"command\":");
	nh_json_string(&job->out, tag, strcspn(tag, " "));
	nh_puts(&job->out, ",\"rowCount\":");
	nh_puts(&job->out, tuples[0] ? tuples : "null");
	nh_puts(&job->out, job->format == HP_ARRAYS ? ",\"rowAsArray\":true}" : ",\"rowAsArray\":false}");
	job->head_written = job->row_seen = false;
	hp_figures.statements++;
}

static void
write_result(HpJob *job, const PGresult *res, bool last)
{
	if (job->format == HP_VALUE)
	{
		if (PQntuples(res) > 0 && job->out.len == 0 && !PQgetisnull(res, 0, 0))
			nh_put(&job->out, PQgetvalue(res, 0, 0), PQgetlength(res, 0, 0));
	}
	else
	{
		if (!job->head_written)
			write_head(job, res);
		write_rows(job, res);
		if (last)
			write_tail(job, unconstify(PGresult *, res));
	}
	if (job->out.failed)
	{
		hp_fail(job, 507, "54000", "the response is larger than 10 MiB");
		job->give_up = true;	/* what else comes is not read */
	}
}

void
hp_result(HpJob *job, const PGresult *res)
{
	int			statement = job->at - (job->begin[0] ? 1 : 0);
	bool		ours = statement < 0 || statement >= job->nstatements;	/* BEGIN or COMMIT */

	switch (PQresultStatus(res))
	{
		case PGRES_SINGLE_TUPLE:
			if (!job->failed && !ours)
				write_result(job, res, false);
			break;
		case PGRES_TUPLES_OK:
		case PGRES_COMMAND_OK:
		case PGRES_EMPTY_QUERY:
			if (!job->failed && !ours)
				write_result(job, res, true);
			break;
		case PGRES_PIPELINE_ABORTED:
			break;
		case PGRES_COPY_IN:
		case PGRES_COPY_OUT:
		case PGRES_COPY_BOTH:
			hp_fail(job, 400, "0A000", "COPY from or to the client is not possible over HTTP");
			job->give_up = true;
			break;
		default:
			if (!job->failed)
			{
				fail_result(job, res);
				hp_figures.errors++;
			}
			break;
	}
}
