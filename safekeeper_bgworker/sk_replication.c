/*
 * sk_replication.c - replication connections that name a timeline, taken over after authentication.
 *
 * A stock walsender knows one log, its own instance's.  So a connection with replication=true whose startup options
 * name a timeline (-c neon.tenant_id=... -c neon.timeline_id=...) never reaches the server's walsender:
 * ClientAuthentication_hook keeps it, once authentication has succeeded, and speaks the replication grammar here.
 * Replication connections without these options, pg_basebackup of the safekeeper itself for instance, stay stock.
 *
 * Rule 27: the startup transaction is ended (its snapshot would hold back vacuum for as long as the connection
 * lives), role and tenant are checked here, and the authentication timeout is cleared.
 *
 * There is no error handler below us in this phase: each command runs under its own PG_TRY.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "libpq/auth.h"
#include "libpq/libpq.h"
#include "libpq/libpq-be.h"
#include "libpq/pqformat.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/postmaster.h"
#include "replication/walsender.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/ps_status.h"
#include "utils/timeout.h"

#include "sk.h"
#include "neon_copy_stream.h"

#define MAX_COMMAND_BYTES	(64 * 1024)
#define MAX_TOKENS			32
#define MAX_SHOWN_BYTES		64		/* of an unknown word in a message */

/* What the startup packet named. */
typedef struct Target
{
	bool		has_tenant;
	bool		has_timeline;
	neon_id		tenant;
	neon_id		timeline;
	neon_term	term;			/* 0: read what is committed */
} Target;

typedef struct Session
{
	Target		target;
	SkSlot	   *slot;
	uint64		generation;
} Session;

static ClientAuthentication_hook_type prev_client_authentication_hook = NULL;

/* ---- startup options ---- */

static void
set_option(Target *target, const char *name, const char *value)
{
	char	   *end;

	if (strcmp(name, "neon.tenant_id") == 0)
	{
		target->has_tenant = true;
		if (!neon_id_parse(value, &target->tenant))
			ereport(FATAL,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid tenant id: \"%s\"", value)));
	}
	else if (strcmp(name, "neon.timeline_id") == 0)
	{
		target->has_timeline = true;
		if (!neon_id_parse(value, &target->timeline))
			ereport(FATAL,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid timeline id: \"%s\"", value)));
	}
	else if (strcmp(name, "neon.term") == 0)
	{
		errno = 0;
		target->term = strtou64(value, &end, 10);
		if (errno != 0 || !isdigit((unsigned char) value[0]) || *end != '\0')
			ereport(FATAL,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("invalid term: \"%s\"", value)));
	}
}

/* "-c name=value", "-cname=value" and "--name=value", as the server takes them. */
static void
parse_options(const char *options, Target *target)
{
	int			max_args = (int) (strlen(options) + 1) / 2 + 2;
	char	  **args = palloc0(max_args * sizeof(char *));
	int			count = 0;

	pg_split_opts(args, &count, options);
	for (int i = 0; i < count; i++)
	{
		char	   *setting = NULL;
		char	   *equals;

		if (strcmp(args[i], "-c") == 0)
			setting = ++i < count ? args[i] : NULL;
		else if (strncmp(args[i], "-c", 2) == 0 || strncmp(args[i], "--", 2) == 0)
			setting = args[i] + 2;
		if (setting == NULL || (equals = strchr(setting, '=')) == NULL)
			continue;
		*equals = '\0';
		set_option(target, setting, equals + 1);
	}
}

/* ---- messages ---- */

static void
send_row(int columns, const char *const *names, const char *const *values)
{
	StringInfoData b;

	pq_beginmessage(&b, 'T');
	pq_sendint16(&b, columns);
	for (int i = 0; i < columns; i++)
	{
		pq_sendstring(&b, names[i]);
		pq_sendint32(&b, 0);
		pq_sendint16(&b, 0);
		pq_sendint32(&b, TEXTOID);
		pq_sendint16(&b, -1);
		pq_sendint32(&b, -1);
		pq_sendint16(&b, 0);
	}
	pq_endmessage(&b);

	pq_beginmessage(&b, 'D');
	pq_sendint16(&b, columns);
	for (int i = 0; i < columns; i++)
	{
		int			len = values[i] ? (int) strlen(values[i]) : -1;

		pq_sendint32(&b, len);
		if (values[i])
			pq_sendbytes(&b, values[i], len);
	}
	pq_endmessage(&b);
}

static void
send_complete(const char *tag)
{
	StringInfoData b;

	pq_beginmessage(&b, 'C');
	pq_sendstring(&b, tag);
	pq_endmessage(&b);
}

static void
send_parameter(const char *name, const char *value)
{
	StringInfoData b;

	pq_beginmessage(&b, 'S');
	pq_sendstring(&b, name);
	pq_sendstring(&b, value);
	pq_endmessage(&b);
}

static void
send_ready(void)
{
	StringInfoData b;

	pq_beginmessage(&b, 'Z');
	pq_sendbyte(&b, 'I');
	pq_endmessage(&b);
	pq_flush();
}

static void
send_greeting(void)
{
	StringInfoData b;

	pq_beginmessage(&b, 'R');
	pq_sendint32(&b, AUTH_REQ_OK);
	pq_endmessage(&b);
	send_parameter("server_version", PG_VERSION);
	send_parameter("server_encoding", "UTF8");
	send_parameter("client_encoding", "UTF8");
	send_parameter("integer_datetimes", "on");
	send_parameter("standard_conforming_strings", "on");
	send_parameter("is_superuser", "off");
	pq_beginmessage(&b, 'K');
	pq_sendint32(&b, MyProcPid);
	pq_sendint32(&b, MyCancelKey);
	pq_endmessage(&b);
}

/* ---- commands ---- */

/* Words, "quoted" and 'quoted' strings; parentheses, commas and semicolons are words of their own. */
static int
tokenize(char *command, char *tokens[MAX_TOKENS])
{
	StringInfoData word;
	int			n = 0;
	char	   *p = command;

	while (*p && n < MAX_TOKENS)
	{
		initStringInfo(&word);
		if (isspace((unsigned char) *p))
		{
			p++;
			continue;
		}
		if (*p == '"' || *p == '\'')
		{
			char		quote = *p++;

			while (*p && (*p != quote || p[1] == quote))
			{
				if (*p == quote)
					p++;
				appendStringInfoChar(&word, *p++);
			}
			if (*p)
				p++;
		}
		else if (strchr("(),;", *p))
			appendStringInfoChar(&word, *p++);
		else
			while (*p && !isspace((unsigned char) *p) && !strchr("(),;\"'", *p))
				appendStringInfoChar(&word, *p++);
		if (strcmp(word.data, ";") != 0)
			tokens[n++] = word.data;
	}
	return n;
}

static void
identify_system(Session *s)
{
	static const char *const names[] = {"systemid", "timeline", "xlogpos", "dbname"};
	char		system_id[32];
	char		lsn[32];
	const char *values[] = {system_id, "1", lsn, NULL};
	XLogRecPtr	commit_lsn = Max(pg_atomic_read_u64(&s->slot->commit_lsn), s->slot->start_lsn);

	snprintf(system_id, sizeof(system_id), UINT64_FORMAT, s->slot->system_id);
	snprintf(lsn, sizeof(lsn), "%X/%X", LSN_FORMAT_ARGS(commit_lsn));
	send_row(4, names, values);
	send_complete("IDENTIFY_SYSTEM");
}

static void
show(Session *s, const char *name)
{
	char		buf[64];
	const char *value = buf;
	uint32		segment_bytes = s->slot->wal_segment_bytes;

	if (pg_strcasecmp(name, "wal_segment_size") == 0)
	{
		if (segment_bytes % (1024 * 1024 * 1024) == 0)
			snprintf(buf, sizeof(buf), "%uGB", segment_bytes >> 30);
		else
			snprintf(buf, sizeof(buf), "%uMB", segment_bytes >> 20);
	}
	else if (pg_strcasecmp(name, "data_directory_mode") == 0)
		snprintf(buf, sizeof(buf), "%04o", data_directory_mode);
	else if (pg_strcasecmp(name, "server_version") == 0)
		value = PG_VERSION;
	else if (pg_strcasecmp(name, "server_version_num") == 0)
		snprintf(buf, sizeof(buf), "%d", PG_VERSION_NUM);
	else if (pg_strcasecmp(name, "wal_block_size") == 0)
		snprintf(buf, sizeof(buf), "%d", XLOG_BLCKSZ);
	else if (pg_strcasecmp(name, "integer_datetimes") == 0)
		value = "on";
	else
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("unrecognized configuration parameter \"%s\" of a timeline's connection", name)));
	send_row(1, &name, &value);
	send_complete("SHOW");
}

/* START_REPLICATION [SLOT name] [PHYSICAL] lsn [TIMELINE n] */
static void
start_replication(Session *s, char **tokens, int n)
{
	int			i = 1;
	neon_lsn	start;

	if (i + 1 < n && pg_strcasecmp(tokens[i], "SLOT") == 0)
		i += 2;
	if (i < n && pg_strcasecmp(tokens[i], "PHYSICAL") == 0)
		i++;
	if (i >= n || !neon_lsn_parse(tokens[i], &start))
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("syntax error in START_REPLICATION"),
				 errhint("Write START_REPLICATION [SLOT name] [PHYSICAL] lsn [TIMELINE 1].")));
	i++;
	if (i + 1 < n && pg_strcasecmp(tokens[i], "TIMELINE") == 0)
	{
		if (strcmp(tokens[i + 1], "1") != 0)
			ereport(ERROR,
					(errcode(ERRCODE_UNDEFINED_OBJECT),
					 errmsg("requested timeline %s does not exist", tokens[i + 1]),
					 errdetail("The timeline id is always 1.")));
		i += 2;
	}
	if (i < n)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("syntax error in START_REPLICATION at \"%s\"", tokens[i])));
	sk_send_wal(s->slot, s->generation, start, s->target.term);
	/* libpqwalreceiver wants both */
	send_complete("START_STREAMING");
	send_complete("START_REPLICATION");
}

static void
execute_command(Session *s, char *command)
{
	char	   *tokens[MAX_TOKENS];
	int			n = tokenize(command, tokens);
	const char *verb = n > 0 ? tokens[0] : "";

	if (pg_atomic_read_u64(&s->slot->generation) != s->generation)
		ereport(FATAL,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the timeline was dropped")));
	/* It is shown in pg_stat_activity and repeated in messages. */
	(void) pg_verify_mbstr(PG_UTF8, command, (int) strlen(command), false);
	pgstat_report_activity(STATE_RUNNING, command);
	if (pg_strcasecmp(verb, "IDENTIFY_SYSTEM") == 0 && n == 1)
		identify_system(s);
	else if (pg_strcasecmp(verb, "SHOW") == 0 && n == 2)
		show(s, tokens[1]);
	else if (pg_strcasecmp(verb, "IDENTIFY_SYSTEM") == 0 || pg_strcasecmp(verb, "SHOW") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("syntax error in %s", verb)));
	else if (pg_strcasecmp(verb, "START_REPLICATION") == 0)
		start_replication(s, tokens, n);
	else if (pg_strcasecmp(verb, "TIMELINE_HISTORY") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no timeline history"),
				 errdetail("The timeline id is always 1.")));
	else if (n == 0)
		pq_putemptymessage('I');
	else
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("a safekeeper's replication connection does not know the command \"%s\"",
						pnstrdup(verb, pg_encoding_mbcliplen(PG_UTF8, verb, (int) strlen(verb), MAX_SHOWN_BYTES))),
				 errhint("It knows IDENTIFY_SYSTEM, SHOW and START_REPLICATION.")));
}

/* An error ends the command, not the connection. */
static void
run_command(Session *s, char *command, MemoryContext context)
{
	PG_TRY();
	{
		execute_command(s, command);
	}
	PG_CATCH();
	{
		MyProcPort->noblock = false;
		LWLockReleaseAll();
		sk_sender_unregister();
		pgstat_report_wait_end();
		EmitErrorReport();
		MemoryContextSwitchTo(context);
		FlushErrorState();
	}
	PG_END_TRY();
}

/* The type of the next message; waits with interrupts served, so that nothing in the instance waits for us. */
static int
read_type(void)
{
	unsigned char type;
	int			r;

	pq_startmsgread();
	while ((r = pq_getbyte_if_available(&type)) == 0)
		neon_stream_wait(-1);
	return r < 0 ? EOF : type;
}

/* The next simple query; does not return when the client has gone. */
static char *
read_command(StringInfo buf)
{
	for (;;)
	{
		int			type = read_type();

		if (type == EOF || pq_getmessage(buf, MAX_COMMAND_BYTES))
			proc_exit(0);
		switch (type)
		{
			case 'Q':
				return buf->data;
			case 'X':
				proc_exit(0);
			case 'd':			/* the rest of a stream that ended with an error */
			case 'c':
			case 'f':
			case 'H':
			case 'S':
				break;
			default:
				ereport(FATAL,
						(errcode(ERRCODE_PROTOCOL_VIOLATION),
						 errmsg("unexpected message type 0x%02X on a replication connection", type),
						 errhint("Only the simple query protocol is spoken here.")));
		}
	}
}

static void
serve_connection(Session *s)
{
	MemoryContext context = AllocSetContextCreate(TopMemoryContext, "safekeeper replication", ALLOCSET_DEFAULT_SIZES);
	StringInfoData buf;

	MemoryContextSwitchTo(TopMemoryContext);
	initStringInfo(&buf);
	MemoryContextSwitchTo(context);
	for (;;)
	{
		char	   *command;

		pgstat_report_activity(STATE_IDLE, NULL);
		send_ready();
		/* A cancel that comes between commands is for nobody; each comes twice, as signal to the process and to its group. */
		HOLD_CANCEL_INTERRUPTS();
		command = read_command(&buf);
		QueryCancelPending = false;
		RESUME_CANCEL_INTERRUPTS();
		CHECK_FOR_INTERRUPTS();
		run_command(s, command, context);
		MemoryContextReset(context);
	}
}

/* ---- takeover ---- */

static void
take_over(Port *port, Session *s)
{
	bool		is_superuser;

	/* Authentication is done: no timeout, messages as in any session. */
	disable_timeout(STATEMENT_TIMEOUT, false);
	ClientAuthInProgress = false;
	if (!s->target.has_tenant || !s->target.has_timeline)
		ereport(FATAL,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a replication connection to a timeline names both neon.tenant_id and neon.timeline_id")));
	if (!sk_ready())
		ereport(FATAL,
				(errcode(ERRCODE_CANNOT_CONNECT_NOW),
				 errmsg("the safekeeper is starting up")));

	InitializeSessionUserId(port->user_name, InvalidOid);
	is_superuser = superuser();
	pgstat_bestart();
	CommitTransactionCommand();

	/* An error here is fatal: there is no handler below us. */
	sk_check_tenant_access(&s->target.tenant, GetUserId(), is_superuser, port->user_name);
	s->slot = sk_slot_find(&s->target.tenant, &s->target.timeline, &s->generation);
	if (s->slot == NULL)
		ereport(FATAL,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("there is no such timeline on this safekeeper"),
				 errhint("Create it with neon_safekeeper.create_timeline().")));
	if (pg_atomic_read_u32(&s->slot->state) == SK_SLOT_BROKEN)
		ereport(FATAL,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the timeline neither votes nor serves: %s", s->slot->problem)));

	SetProcessingMode(NormalProcessing);
	if (port->application_name)
		pgstat_report_appname(port->application_name);
	set_ps_display("timeline sender");
	send_greeting();
	serve_connection(s);
}

static void
client_authentication(Port *port, int status)
{
	Session		session;

	if (prev_client_authentication_hook)
		prev_client_authentication_hook(port, status);
	if (!am_walsender || status != STATUS_OK || port->cmdline_options == NULL)
		return;
	memset(&session, 0, sizeof(session));
	parse_options(port->cmdline_options, &session.target);
	if (!session.target.has_tenant && !session.target.has_timeline)
		return;
	take_over(port, &session);
}

void
sk_replication_init(void)
{
	prev_client_authentication_hook = ClientAuthentication_hook;
	ClientAuthentication_hook = client_authentication;
}
