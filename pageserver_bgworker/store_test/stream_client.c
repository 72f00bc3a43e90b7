/*
 * stream_client.c - sends page stream requests given as lines, prints the answers as lines.
 *
 *   stream_client CONNINFO TENANT TIMELINE < requests
 *
 * A request: exists|nblocks|getpage|dbsize|slru REQUEST_LSN NOT_MODIFIED_SINCE SPC DB REL FORK BLK; LSN "max" is the newest;
 * "raw HEX" sends bytes as they are.  All requests are sent before the first answer is read.  An answer: the number;
 * "page CRC LSN"; "slru BYTES CRC"; "error SQLSTATE text".  With "getpage ... > FILE" the page goes to a file as well.
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include <libpq-fe.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "neon_pagestream.h"

#define MAX_REQUESTS	100000

static char *files[MAX_REQUESTS];

static void
die(const char *what, PGconn *conn)
{
	fprintf(stderr, "%s: %s", what, conn ? PQerrorMessage(conn) : "\n");
	exit(1);
}

static neon_lsn
parse_lsn(const char *text)
{
	neon_lsn	lsn = NEON_LSN_MAX;

	if (strcmp(text, "max") != 0 && !neon_lsn_parse(text, &lsn))
		die("bad LSN", NULL);
	return lsn;
}

static uint8_t
parse_tag(const char *name)
{
	const char *names[] = {"exists", "nblocks", "getpage", "dbsize", "slru"};

	for (uint8_t i = 0; i < 5; i++)
	{
		if (strcmp(names[i], name) == 0)
			return i;
	}
	die("bad request", NULL);
	return 0;
}

static void
send_line(PGconn *conn, char *line, int number)
{
	char		name[16],
				at[32],
				since[32],
				file[512] = "";
	neon_ps_request req = {0};
	unsigned	fork;
	uint8_t		bytes[NEON_PS_REQUEST_BYTES];
	size_t		len = 0;

	if (strncmp(line, "raw ", 4) == 0)
	{
		unsigned	byte;

		for (char *p = line + 4; len < sizeof(bytes) && sscanf(p, "%2x", &byte) == 1; p += 2)
			bytes[len++] = (uint8_t) byte;
	}
	else
	{
		if (sscanf(line, "%15s %31s %31s %u %u %u %u %u > %511s", name, at, since,
				   &req.spc, &req.db, &req.rel, &fork, &req.blk, file) < 8)
			die("bad line", NULL);
		req.tag = parse_tag(name);
		req.request_id = (uint64_t) number;
		req.request_lsn = parse_lsn(at);
		req.not_modified_since = parse_lsn(since);
		req.fork = (uint8_t) fork;
		neon_ps_encode_request(&req, bytes);
		len = sizeof(bytes);
		files[number] = file[0] ? strdup(file) : NULL;
	}
	if (PQputCopyData(conn, (char *) bytes, (int) len) != 1)
		die("send", conn);
}

static void
print_page(const neon_ps_response *res)
{
	uint32_t	lsn[2];
	char	   *file = files[res->request.request_id];

	memcpy(lsn, res->payload, sizeof(lsn));
	printf("page %08x %X/%08X\n", neon_crc32c(0, res->payload, res->payload_len), lsn[0], lsn[1]);
	if (file)
	{
		FILE	   *f = fopen(file, "wb");

		if (f == NULL || fwrite(res->payload, res->payload_len, 1, f) != 1 || fclose(f) != 0)
			die("write", NULL);
	}
}

static void
print_response(const char *bytes, int len, int number)
{
	neon_ps_response res;
	neon_reader r;

	if (!neon_ps_decode_response(bytes, (size_t) len, &res))
		die("malformed response", NULL);
	if (res.request.request_id != (uint64_t) number)
		die("response out of order", NULL);
	neon_reader_init(&r, res.payload, res.payload_len);
	switch (res.tag)
	{
		case NEON_PS_EXISTS_RESPONSE:
			printf("%u\n", neon_get_u8(&r));
			break;
		case NEON_PS_NBLOCKS_RESPONSE:
			printf("%u\n", neon_get_u32(&r));
			break;
		case NEON_PS_DBSIZE_RESPONSE:
			printf("%llu\n", (unsigned long long) neon_get_u64(&r));
			break;
		case NEON_PS_GETPAGE_RESPONSE:
			print_page(&res);
			break;
		case NEON_PS_SLRU_SEGMENT_RESPONSE:
			printf("slru %zu %08x\n", res.payload_len, neon_crc32c(0, res.payload, res.payload_len));
			break;
		default:
			printf("error %.5s %.*s\n", (const char *) res.payload, (int) res.payload_len - 5,
				   (const char *) res.payload + 5);
	}
}

int
main(int argc, char **argv)
{
	char		line[1024];
	char		sql[256];
	PGconn	   *conn;
	PGresult   *result;
	char	   *answer;
	int			sent = 0;
	int			len;

	if (argc != 4)
		die("usage: stream_client CONNINFO TENANT TIMELINE", NULL);
	conn = PQconnectdb(argv[1]);
	if (PQstatus(conn) != CONNECTION_OK)
		die("connect", conn);
	snprintf(sql, sizeof(sql), "CALL neon_pageserver.pagestream('%s', '%s')", argv[2], argv[3]);
	result = PQexec(conn, sql);
	if (PQresultStatus(result) != PGRES_COPY_BOTH)
		die("CALL", conn);
	PQclear(result);
	while (sent < MAX_REQUESTS && fgets(line, sizeof(line), stdin))
		send_line(conn, line, sent++);
	if (PQflush(conn) != 0)
		die("flush", conn);
	for (int i = 0; i < sent; i++)
	{
		len = PQgetCopyData(conn, &answer, 0);
		if (len < 0)
		{
			result = PQgetResult(conn);
			die("stream ended", conn);
		}
		print_response(answer, len, i);
		PQfreemem(answer);
	}
	if (PQputCopyEnd(conn, NULL) != 1 || PQgetCopyData(conn, &answer, 0) != -1)
		die("end", conn);
	while ((result = PQgetResult(conn)) != NULL)
	{
		if (PQresultStatus(result) != PGRES_COMMAND_OK && PQresultStatus(result) != PGRES_COPY_IN)
			die("result", conn);
		PQclear(result);
	}
	result = PQexec(conn, "SELECT 'still usable'");	/* the connection goes on */
	printf("%s\n", PQresultStatus(result) == PGRES_TUPLES_OK ? PQgetvalue(result, 0, 0) : PQerrorMessage(conn));
	PQclear(result);
	PQfinish(conn);
	return 0;
}
