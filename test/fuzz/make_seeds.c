/*
 * make_seeds.c - inputs for the fuzz targets to start from: valid ones, so that the interesting code is reached at once.
 *
 *		make_seeds DIRECTORY		with a folder for each target in it
 *
 * SPDX-License-Identifier: Apache-2.0
 */
#include "neon_broker.h"
#include "neon_layer.h"
#include "neon_pagestream.h"
#include "neon_wal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *directory;

typedef struct bytes
{
	uint8_t		p[65536];
	size_t		len;
} bytes;

static bool
append(void *arg, const void *p, size_t n)
{
	bytes	   *b = arg;

	if (n > sizeof(b->p) - b->len)
		return false;
	memcpy(b->p + b->len, p, n);
	b->len += n;
	return true;
}

static void
save(const char *target, int number, const bytes *b)
{
	char		path[1024];
	FILE	   *f;

	snprintf(path, sizeof(path), "%s/%s/seed%d", directory, target, number);
	f = fopen(path, "wb");
	if (f == NULL || fwrite(b->p, 1, b->len, f) != b->len || fclose(f) != 0)
	{
		perror(path);
		exit(1);
	}
}

static void *
std_realloc(void *p, size_t n, void *arg)
{
	if (n == 0)
	{
		free(p);
		return NULL;
	}
	return realloc(p, n);
}

/* One layer file of each kind and codec, a few blocks long; in front, which checksums the target is to repair. */
static void
layer_seeds(void)
{
	int			number = 0;

	for (int codec = NEON_LAYER_PLAIN; codec <= NEON_LAYER_ZSTD; codec++)
		for (int kind = NEON_LAYER_DELTA; kind <= NEON_LAYER_IMAGE; kind++)
			for (int repair = 0; repair <= 15; repair += 15)
			{
				static uint8_t value[9000];
				neon_layer_info what = {.kind = kind,.codec = codec,.lsn_lo = kind == NEON_LAYER_IMAGE ? 90 : 1,.lsn_hi = 90};
				bool		image = kind == NEON_LAYER_IMAGE;
				neon_layer_writer w;
				bytes		b = {.p = {(uint8_t) repair},.len = 1};

				neon_layer_writer_begin(&w, &what, append, &b, std_realloc, NULL);
				for (uint32_t i = 0; i < (image ? 3 : 60); i++)
				{
					neon_key	key = {.spc = 1663,.db = 5,.rel = 1 + i / 3};
					uint32_t	len = image ? NEON_BLCKSZ : i == 7 ? 9000 : 10 + i * 5;

					neon_layer_writer_add(&w, &key, 90 - (image ? 0 : i % 3 * 10),
										  image ? NEON_LAYER_VALUE_IMAGE | NEON_LAYER_VALUE_WILL_INIT : NEON_LAYER_VALUE_RECORD,
										  value, len);
					if (image)
						break;
				}
				if (neon_layer_writer_finish(&w, NULL) != NEON_LAYER_OK)
					exit(1);
				neon_layer_writer_free(&w);
				save("fuzz_layer", number++, &b);
			}
}

static void
pagestream_seeds(void)
{
	static const struct
	{
		uint8_t		request,
					response;
		size_t		payload;
	}			kinds[] = {
		{NEON_PS_EXISTS, NEON_PS_EXISTS_RESPONSE, 1},
		{NEON_PS_NBLOCKS, NEON_PS_NBLOCKS_RESPONSE, 4},
		{NEON_PS_GETPAGE, NEON_PS_GETPAGE_RESPONSE, NEON_BLCKSZ},
		{NEON_PS_DBSIZE, NEON_PS_DBSIZE_RESPONSE, 8},
		{NEON_PS_SLRU_SEGMENT, NEON_PS_SLRU_SEGMENT_RESPONSE, NEON_BLCKSZ},
		{NEON_PS_GETPAGE, NEON_PS_ERROR_RESPONSE, 20},
	};

	for (int i = 0; i < 6; i++)
	{
		neon_ps_request req = {.tag = kinds[i].request,.request_id = 7,.request_lsn = 1000,.not_modified_since = 900,.spc = 1663,.db = 5,.rel = 16384};
		bytes		b = {.len = NEON_PS_REQUEST_BYTES};

		neon_ps_encode_request(&req, b.p);
		save("fuzz_pagestream", 2 * i, &b);
		b.len = neon_ps_encode_response_head(kinds[i].response, &req, b.p) + kinds[i].payload;
		memset(b.p + NEON_PS_RESPONSE_HEAD, 0, kinds[i].payload);
		save("fuzz_pagestream", 2 * i + 1, &b);
	}
}

static void
broker_seeds(void)
{
	static const char tags[] = "PUGBSRA";

	for (int i = 0; i < 7; i++)
	{
		neon_broker_builder b;
		bytes		out;

		if (i >= 3)
			out.len = neon_broker_encode_bare((neon_broker_tag) tags[i], 2, out.p);
		else
		{
			neon_broker_start(&b, (neon_broker_tag) tags[i], out.p);
			for (uint32_t n = 1; n <= 3; n++)
			{
				neon_broker_entry e = {.node_id = n,.tenant = {{1}},.timeline = {{2}},.term = n,.commit_lsn = 1000,.address = "127.0.0.1:5432"};

				(void) neon_broker_add(&b, &e);
			}
			out.len = neon_broker_finish(&b);
		}
		save("fuzz_broker", i, &out);
	}
}

/* Scripts for the acceptor: greetings, elections and appends that succeed, in an order that a fixed generator chooses. */
static void
consensus_seeds(void)
{
	static const uint8_t steps[][5] = {
		{4, 5, 1, 1, 0},		/* vote for the next term */
		{4, 5, 2, 2, 255},		/* elected, history as here, from the end of the log */
		{4, 5, 2, 0, 3},		/* elected, from the beginning */
		{4, 5, 3, 16, 9},		/* append of two records */
		{4, 5, 3, 13, 11},		/* and of one and a half */
		{2, 5, 3, 104, 0},		/* with a gap */
		{1, 1}, {1, 2},			/* flush; crash */
	};
	uint32_t	x = 1;

	for (int i = 0; i < 24; i++)
	{
		bytes		b = {.len = 0};

		append(&b, "\5\0\1\0" "\205\0\1\0" "\5\1\1" "\5\2\2" "\5\3\20\1\0" "\1", 20);
		for (int n = 0; n < 40; n++)
		{
			const uint8_t *step = steps[(x = x * 1103515245 + 12345) >> 16 & 7];

			append(&b, step + 1, step[0]);
			if (step[0] == 4 && step[2] == 3)
				append(&b, "\4", 1);
			if (step[1] == 2)
				append(&b, "\5\0\1\0", 4);	/* greet again */
		}
		save("fuzz_consensus", i, &b);
	}
}

/* A record with an image that has a hole, block data of the same relation, and main data. */
static void
parse_seeds(void)
{
	static const uint8_t head[] = {
		0, 0x10, 0, 0, 100, 0, 50, 0, 3, 0x7F, 6, 0, 0, 5, 0, 0, 0, 0, 0x40, 0, 0, 1, 0, 0, 0,
		1, 0xA0, 4, 0, 2, 0, 0, 0,
		255, 3
	};
	bytes		b = {.len = NEON_WAL_RECORD_HEADER};

	append(&b, head, sizeof(head));
	b.len += 100 + 4 + 3;
	save("fuzz_wal_parse", 0, &b);
	b.len = NEON_WAL_RECORD_HEADER;
	save("fuzz_wal_parse", 1, &b);
}

/* Scripts: records of some sizes, a switch, an aborted one; damage; pieces. */
static void
reader_seeds(void)
{
	static const uint8_t plain[] = {5, 100, 0, 200, 0, 40, 9, 7, 0, 255, 0, 0, 0, 0, 3, 250, 30};
	static const uint8_t rich[] = {5, 100, 0, 200, 0, 40, 254, 0, 0, 9, 7, 0, 253, 0, 100, 9, 9, 9, 200, 255, 127, 255, 0, 0, 1, 9, 20, 0, 4, 1, 17, 90, 255};
	bytes		b = {.len = 0};

	append(&b, plain, sizeof(plain));
	save("fuzz_wal_reader", 0, &b);
	b.len = 0;
	append(&b, rich, sizeof(rich));
	save("fuzz_wal_reader", 1, &b);
}

/* What clients send before authentication. */
static void
proxy_seeds(void)
{
#define LITERAL(s) {s, sizeof(s) - 1}
	static const struct
	{
		const char *p;
		size_t		len;
	}			seeds[] = {
		LITERAL("\0\0\0\x2f\0\3\0\0user\0ann\0options\0endpoint=a -c b=c\0_pq_.x\0y\0\0"),
		LITERAL("\0\0\0\x08\x04\xd2\x16\x2f"),
		LITERAL("\0\0\0\x10\x04\xd2\x16\x2e\1\2\3\4\5\6\7\x08"),
		LITERAL("\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x1d\xc0\0\2\1\x7f\0\0\1\x1f\x90\x15\x36\2\0\3" "a.b\xe0\0\x08password"),
		LITERAL("n,,n=,r=abcdefc=biws,r=abcdef,p=AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
		LITERAL("p=tls-server-end-point,,n=,r=abc"),
		LITERAL("SCRAM-SHA-256$4096:AAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="),
		LITERAL("endpoint=main-1a2b3c4d;secret"),
		LITERAL("Main.db.example.org"),
		LITERAL("eyJh.e30.c2ln"),
		LITERAL("SCRAM-SHA-256\0\0\0\0\x0bn,,n=,r=abc"),
		LITERAL("secret\0"),
		LITERAL("B\0\0\0\x0dp\0st\0rest"),
	};
	bytes		b;

	for (size_t i = 0; i < sizeof(seeds) / sizeof(seeds[0]); i++)
	{
		b.len = 0;
		append(&b, seeds[i].p, seeds[i].len);
		save("fuzz_proxy", (int) i, &b);
	}
}

/* Of fuzz_token.c, whose head says what the first bytes mean. */
static void
token_seeds(void)
{
	static const struct
	{
		const char *p;
		size_t		len;
	}			seeds[] = {
		LITERAL("\0eyJhbGciOiJub25lIn0.e30."),
		LITERAL("\0eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjE4MDAwMDAxMDB9.c2ln"),
		LITERAL("\1\0{\"alg\":\"RS256\",\"kid\":\"r\"}\0{\"exp\":1800000100,\"iss\":\"i\",\"aud\":\"a\"}"),
		LITERAL("\1\1{\"alg\":\"ES256\"}\0{\"exp\":1800000100,\"nbf\":1,\"iss\":\"i\",\"aud\":[\"a\"],\"role\":[\"ann\"]}"),
		LITERAL("\1\2{\"alg\":\"RS256\"}\0{}"),
		LITERAL("\1\3{\"alg\":\"HS256\",\"kid\":\"r\"}\0{\"exp\":1}"),
		LITERAL("\1\4{\"alg\":\"none\"}\0{}"),
		LITERAL("\1\0{\"alg\":\"RS256\",\"crit\":[\"b64\"],\"b64\":false}\0{}"),
		LITERAL("\1\0{\"alg\":\"RS256\",\"jwk\":{\"kty\":\"RSA\"},\"x5c\":[],\"kid\":7}\0{}"),
		LITERAL("\2\0\0\x05X"),
		LITERAL("\2\1\0\x60X\0\x70."),
		LITERAL("\3{\"keys\":[{\"kty\":\"RSA\",\"n\":\"AQAB\",\"e\":\"AQAB\"},{\"kty\":\"EC\",\"crv\":\"P-256\",\"x\":\"AA\",\"y\":\"AA\"},{\"kty\":\"oct\",\"k\":\"AA\"}]}"),
	};
	bytes		b;

	for (size_t i = 0; i < sizeof(seeds) / sizeof(seeds[0]); i++)
	{
		b.len = 0;
		append(&b, seeds[i].p, seeds[i].len);
		save("fuzz_token", (int) i, &b);
	}
}

static void
http_request_seeds(void)
{
	static const char *const seeds[] = {
		"neon-connection-string: postgresql://ann:secret@main-1a2b3c4d.db.example.org/app?options=-c%20work_mem%3D1MB&application_name=x\n\n"
		"{\"query\":\"SELECT $1\",\"params\":[1,\"a\",null,true,1.5,[1,[2,null]],{\"a\":[0.1,1e20,\"\\u00e9\"]}]}",
		"neon-connection-string: postgres://ann@h/app\nauthorization: Bearer eyJh.e30.c2ln\nneon-batch-isolation-level: Serializable\n"
		"neon-batch-read-only: true\nneon-batch-deferrable: false\nneon-array-mode: true\nneon-raw-text-output: true\nneon-pool-opt-in: false\n\n"
		"{\"queries\":[{\"query\":\"SELECT 1\",\"params\":[]},{\"query\":\"SELECT 2\"}]}",
		"neon-connection-string: postgresql://ann:p@/app?host=/etc&port=1&service=x&passfile=/etc/passwd&sslmode=require&options=neon_proxy.x\n\n{}",
		"neon-connection-string: postgresql://ann@[::1]:5432,h2:1/app?options=endpoint%3Dmain\n\n{\"query\":1}",
		"cookie: a=b; neon_console=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef; c\nx-neon-console: 1\norigin: https://h:1\nhost: h:1\n"
		"sec-fetch-site: same-origin\ncontent-type: application/json\nx-call: create_branch\ncontent-length: 12\n\n{\"user\":\"u\",\"password\":\"p\"}",
		"content-length: 99999999999999999999\n\n{\"token\":\"t\"}",
		"host: main-1a2b3c4d.db.example.org:443\nx-address: 2001:db8::1\nx-argument: address=try-1a2b3c4d.db:5432\nx-path: /v1\n\n",
		"host: [::1]:443\nx-address: ::ffff:1.2.3.4\n\n{\"params\":[[]],\"query\":\"\"}",
	};
	bytes		b;

	for (size_t i = 0; i < sizeof(seeds) / sizeof(seeds[0]); i++)
	{
		b.len = 0;
		append(&b, seeds[i], strlen(seeds[i]));
		save("fuzz_http_request", (int) i, &b);
	}
}

int
main(int argc, char **argv)
{
	if (argc != 2)
	{
		fprintf(stderr, "usage: make_seeds DIRECTORY\n");
		return 1;
	}
	directory = argv[1];
	layer_seeds();
	pagestream_seeds();
	broker_seeds();
	consensus_seeds();
	parse_seeds();
	reader_seeds();
	proxy_seeds();
	token_seeds();
	http_request_seeds();
	return 0;
}
