/*
 * sk_client.c - a scripted proposer for the tests: one CALL wal_push, commands on stdin, one line of answer each.
 *
 *	 sk_client CONNINFO TENANT TIMELINE WAL_SEGMENT_BYTES SYSTEM_ID WAL_DIRECTORY
 *
 *	 greet								greeting
 *	 vote TERM							vote request
 *	 elected TERM START HISTORY			no answer
 *	 append TERM BEGIN END COMMIT		WAL from the directory's segments, in pieces; waits for the answer to all of it
 *	 garbage TERM BEGIN BYTES			not WAL
 *	 heartbeat TERM COMMIT
 *	 quit
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "neon_consensus_wire.h"

#define PIECE_BYTES (100 * 1000)	/* not a multiple of anything */

static PGconn *conn;
static uint32_t segment_bytes;
static const char *wal_directory;
static uint32_t generation = 1;
static uint8_t out[NEON_CONSENSUS_APPEND_HEADER_BYTES + NEON_CONSENSUS_MAX_APPEND_BYTES + NEON_CONSENSUS_MAX_CONTROL_BYTES];
static neon_term_history history;

static void
die(const char *what)
{
	fprintf(stderr, "sk_client: %s: %s\n", what, PQerrorMessage(conn));
	exit(2);
}

/* The stream is over: print why and leave. */
static void
stream_over(void)
{
	PGresult   *res;

	while ((res = PQgetResult(conn)) != NULL)
	{
		const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);

		if (PQresultStatus(res) == PGRES_FATAL_ERROR)
			printf("error %s %s\n", state ? state : "none",
				   state ? PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY) : "connection lost");
		else if (PQresultStatus(res) == PGRES_COMMAND_OK)
			printf("%s\n", PQcmdStatus(res));
		PQclear(res);
	}
	fflush(stdout);
	exit(0);
}

static void
send_message(const neon_writer *w)
{
	if (!w->ok)
		die("message too long");
	if (PQputCopyData(conn, (const char *) w->buf, (int) w->len) != 1 || PQflush(conn) < 0)
		stream_over();
}

/* One message; prints it unless it is an answer to an append that is not complete yet. */
static void
receive(neon_lsn until)
{
	for (;;)
	{
		char	   *p;
		int			len = PQgetCopyData(conn, &p, 0);
		neon_msg_acceptor_greeting g;
		neon_msg_vote v;
		neon_msg_append_response a;
		neon_msg_refusal r;

		if (len < 0)
			stream_over();
		v.history = &history;
		if (neon_decode_acceptor_greeting((uint8_t *) p, len, &g))
		{
			generation = g.conf.generation;
			printf("greeting node=%" PRIu64 " term=%" PRIu64 " start=%X/%X generation=%u\n",
				   g.node_id, g.term, NEON_LSN_ARGS(g.timeline_start_lsn), g.conf.generation);
		}
		else if (neon_decode_vote((uint8_t *) p, len, &v))
		{
			static char text[64 * 1024];

			text[0] = '\0';
			neon_history_print(&history, history.n, text, sizeof(text));
			printf("vote term=%" PRIu64 " given=%d flush=%X/%X last=%X/%X commit=%X/%X history=%s\n", v.term, v.given,
				   NEON_LSN_ARGS(v.flush_lsn), NEON_LSN_ARGS(v.last_record_start), NEON_LSN_ARGS(v.commit_lsn), text);
		}
		else if (neon_decode_append_response((uint8_t *) p, len, &a))
		{
			if (a.flush_lsn != 0 && a.write_lsn < until)
			{
				PQfreemem(p);
				continue;
			}
			printf("ack term=%" PRIu64 " write=%X/%X flush=%X/%X commit=%X/%X\n", a.term,
				   NEON_LSN_ARGS(a.write_lsn), NEON_LSN_ARGS(a.flush_lsn), NEON_LSN_ARGS(a.commit_lsn));
		}
		else if (neon_decode_refusal((uint8_t *) p, len, &r))
			printf("refused %d term=%" PRIu64 " %s\n", r.reason, r.term, r.text);
		else
			die("message that does not decode");
		PQfreemem(p);
		return;
	}
}

static void
read_wal(neon_lsn lsn, uint8_t *to, size_t len)
{
	uint64_t	segment = lsn / segment_bytes;
	uint64_t	per_id = UINT64_C(0x100000000) / segment_bytes;
	char		path[4096];
	int			fd;

	snprintf(path, sizeof(path), "%s/00000001%08X%08X", wal_directory,
			 (uint32_t) (segment / per_id), (uint32_t) (segment % per_id));
	fd = open(path, O_RDONLY);
	if (fd < 0 || pread(fd, to, len, lsn % segment_bytes) != (ssize_t) len)
	{
		fprintf(stderr, "sk_client: cannot read %s: %s\n", path, strerror(errno));
		exit(2);
	}
	close(fd);
}

static void
append(neon_term term, neon_lsn begin, neon_lsn end, neon_lsn commit, int garbage)
{
	neon_msg_append m = {.generation = generation,.term = term,.commit_lsn = commit};
	neon_lsn	pos = begin;

	do
	{
		size_t		n = end - pos < PIECE_BYTES ? end - pos : PIECE_BYTES;
		neon_writer w;

		if (n > segment_bytes - pos % segment_bytes)
			n = segment_bytes - pos % segment_bytes;
		m.begin_lsn = pos;
		m.end_lsn = pos + n;
		neon_writer_init(&w, out, sizeof(out));
		neon_encode_append(&w, &m);
		if (garbage)
			memset(out + w.len, 0x5a, n);
		else if (n > 0)
			read_wal(pos, out + w.len, n);
		w.len += n;
		send_message(&w);
		pos += n;
	} while (pos < end);
	receive(end);
}

static neon_lsn
lsn_arg(const char *text)
{
	neon_lsn	lsn;

	if (text == NULL || !neon_lsn_parse(text, &lsn))
	{
		fprintf(stderr, "sk_client: bad LSN\n");
		exit(2);
	}
	return lsn;
}

static void
greet(char **argv)
{
	neon_msg_proposer_greeting g;
	neon_writer w;

	memset(&g, 0, sizeof(g));
	g.version = NEON_CONSENSUS_VERSION;
	neon_id_parse(argv[2], &g.tenant);
	neon_id_parse(argv[3], &g.timeline);
	g.system_id = strtoull(argv[5], NULL, 10);
	g.wal_segment_bytes = segment_bytes;
	g.pg_version_num = 150000;
	neon_writer_init(&w, out, sizeof(out));
	neon_encode_proposer_greeting(&w, &g);
	send_message(&w);
	receive(0);
}

static void
command(char *line, char **argv)
{
	char	   *verb = strtok(line, " \n");
	char	   *arg1 = strtok(NULL, " \n");
	char	   *arg2 = strtok(NULL, " \n");
	char	   *arg3 = strtok(NULL, " \n");
	char	   *arg4 = strtok(NULL, " \n");
	neon_term	term = arg1 ? strtoull(arg1, NULL, 10) : 0;
	neon_writer w;

	neon_writer_init(&w, out, sizeof(out));
	if (verb == NULL)
		return;
	if (strcmp(verb, "greet") == 0)
		greet(argv);
	else if (strcmp(verb, "vote") == 0)
	{
		neon_msg_vote_request v = {.generation = generation,.term = term};

		neon_encode_vote_request(&w, &v);
		send_message(&w);
		receive(0);
	}
	else if (strcmp(verb, "elected") == 0)
	{
		neon_msg_elected e = {.generation = generation,.term = term,.start_streaming_at = lsn_arg(arg2),.history = &history};

		if (arg3 == NULL || !neon_history_parse(arg3, &history))
			die("bad history");
		neon_encode_elected(&w, &e);
		send_message(&w);
	}
	else if (strcmp(verb, "append") == 0)
		append(term, lsn_arg(arg2), lsn_arg(arg3), lsn_arg(arg4), 0);
	else if (strcmp(verb, "garbage") == 0)
		append(term, lsn_arg(arg2), lsn_arg(arg2) + strtoul(arg3 ? arg3 : "0", NULL, 10), 0, 1);
	else if (strcmp(verb, "heartbeat") == 0)
		append(term, lsn_arg(arg2), lsn_arg(arg2), lsn_arg(arg2), 0);
	else if (strcmp(verb, "quit") == 0)
	{
		PQputCopyEnd(conn, NULL);
		PQflush(conn);
		receive(0);
	}
	else
		die("unknown command");
}

int
main(int argc, char **argv)
{
	char		sql[256];
	char		line[64 * 1024];
	PGresult   *res;

	if (argc != 7)
		return 2;
	segment_bytes = strtoul(argv[4], NULL, 10);
	wal_directory = argv[6];
	conn = PQconnectdb(argv[1]);
	if (PQstatus(conn) != CONNECTION_OK)
		die("connect");
	snprintf(sql, sizeof(sql), "CALL neon_safekeeper.wal_push('%s', '%s')", argv[2], argv[3]);
	res = PQexec(conn, sql);
	if (PQresultStatus(res) != PGRES_COPY_BOTH)
	{
		printf("error %s %s\n", PQresultErrorField(res, PG_DIAG_SQLSTATE), PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY));
		return 0;
	}
	PQclear(res);
	printf("streaming\n");
	fflush(stdout);
	while (fgets(line, sizeof(line), stdin))
	{
		command(line, argv);
		fflush(stdout);
	}
	PQfinish(conn);
	return 0;
}
