// serverless_sql.mjs - SQL over HTTP with the npm package itself.  TAP on stdout.
//
//   node serverless_sql.mjs HTTP_BASE CONNECTION_URI
//
// SPDX-License-Identifier: Apache-2.0
import { webcrypto } from 'node:crypto';
import { createRequire } from 'node:module';
import { is, like, ok, rejects, done } from './tap.mjs';

globalThis.crypto ??= webcrypto;
const { neon, neonConfig, types } = createRequire(process.cwd() + '/')('@neondatabase/serverless');

const [base, uri] = process.argv.slice(2);
neonConfig.fetchEndpoint = () => `${base}/sql`;
const sql = neon(uri);

// ---- values
is(await sql`SELECT 1 AS one`, [{ one: 1 }], 'a row');
is(await sql`SELECT ${"it's"}::text AS t, ${42}::int AS n, ${null}::text AS nothing, ${true}::bool AS yes`,
	[{ t: "it's", n: 42, nothing: null, yes: true }], 'parameters of several types');
is(await sql`SELECT ${[1, 2, 3]}::int[] AS a, ${['a', 'b,c', 'd"e', null, '']}::text[] AS t`,
	[{ a: [1, 2, 3], t: ['a', 'b,c', 'd"e', null, ''] }], 'arrays there and back');
is(await sql`SELECT ${{ a: [1, { b: null }], c: 'ü' }}::jsonb AS j`, [{ j: { a: [1, { b: null }], c: 'ü' } }], 'json there and back');
const [{ b }] = await sql`SELECT ${Buffer.from([0, 1, 254, 255])}::bytea AS b`;
is([...b], [0, 1, 254, 255], 'bytea there and back');
is(await sql`SELECT 9007199254740993::int8 AS big, 1.10::numeric AS exact, 'NaN'::float8 AS nan`,
	[{ big: '9007199254740993', exact: '1.10', nan: NaN }], 'numbers that JavaScript has not are strings');
const [{ d }] = await sql`SELECT '2026-01-02 03:04:05+00'::timestamptz AS d`;
is(d.toISOString(), '2026-01-02T03:04:05.000Z', 'timestamps are dates');
is(await sql`SELECT ${'grün 🍎 \n\t"'}::text AS t`, [{ t: 'grün 🍎 \n\t"' }], 'text of any kind');
is(await sql`SELECT NULL::int AS n, ''::text AS e WHERE true`, [{ n: null, e: '' }], 'null is not the empty string');
is(await sql`SELECT 1 AS x WHERE false`, [], 'no rows');

// ---- shapes
is(await neon(uri, { arrayMode: true })`SELECT 1, 'a'`, [[1, 'a']], 'array mode');
const full = await neon(uri, { fullResults: true })`SELECT 1::int AS n, 'a'::text AS t`;
is([full.command, full.rowCount, full.rowAsArray], ['SELECT', 1, false], 'full results: command and count');
is(full.fields.map((f) => [f.name, f.dataTypeID, f.tableID, f.columnID, f.dataTypeSize, f.dataTypeModifier, f.format]),
	[['n', 23, 0, 0, 4, -1, 'text'], ['t', 25, 0, 0, -1, -1, 'text']], 'full results: fields');

// ---- statements that change something
await sql`DROP TABLE IF EXISTS http_t`;
const created = await neon(uri, { fullResults: true })`CREATE TABLE http_t (id int PRIMARY KEY, v text NOT NULL)`;
is([created.command, created.rowCount, created.rows], ['CREATE', null, []], 'DDL');
const inserted = await neon(uri, { fullResults: true })`INSERT INTO http_t SELECT g, 'v' || g FROM generate_series(1, 5) g`;
is([inserted.command, inserted.rowCount], ['INSERT', 5], 'rows of an INSERT');
is(await sql`UPDATE http_t SET v = 'x' WHERE id = ${2} RETURNING id, v`, [{ id: 2, v: 'x' }], 'RETURNING');
is(await sql.query('SELECT v FROM http_t WHERE id = $1', [3]), [{ v: 'v3' }], 'sql.query');

// ---- errors
await rejects(sql`SELEC 1`, { name: 'NeonDbError', code: '42601', position: '1', severity: 'ERROR' }, 'a syntax error');
await rejects(sql`INSERT INTO http_t VALUES (1, 'again')`,
	{ code: '23505', table: 'http_t', constraint: 'http_t_pkey', detail: 'Key (id)=(1) already exists.' }, 'a constraint');
await rejects(sql`SELECT ${'x'}::int`, { code: '22P02' }, 'a bad parameter');
await rejects(sql`SELECT 1; SELECT 2`, { code: '42601' }, 'two statements in one');
await rejects(sql`COPY http_t TO STDOUT`, { code: '0A000' }, 'COPY');
is(await sql`SELECT 7 AS still`, [{ still: 7 }], 'and it goes on after errors');
await rejects(neon(uri.replace(/:[^:@]*@/, ':wrong@'))`SELECT 1`, { code: '28P01' }, 'a wrong password');

// ---- transactions
is(await sql.transaction([sql`INSERT INTO http_t VALUES (10, 'ten')`, sql`SELECT count(*)::int AS n FROM http_t`]),
	[[], [{ n: 6 }]], 'a transaction');
await rejects(sql.transaction([sql`INSERT INTO http_t VALUES (11, 'eleven')`, sql`SELECT 1/0`, sql`INSERT INTO http_t VALUES (12, 'twelve')`]),
	{ code: '22012' }, 'a transaction that fails');
is(await sql`SELECT count(*)::int AS n FROM http_t WHERE id > 10`, [{ n: 0 }], 'left nothing');
is((await sql.transaction([sql`SHOW transaction_isolation`, sql`SHOW transaction_read_only`, sql`SHOW transaction_deferrable`],
	{ isolationLevel: 'Serializable', readOnly: true, deferrable: true })).map((r) => Object.values(r[0])[0]),
	['serializable', 'on', 'on'], 'isolation, read only, deferrable');
await rejects(sql.transaction([sql`INSERT INTO http_t VALUES (13, 'x')`], { readOnly: true }), { code: '25006' }, 'read only is');
is(await sql.transaction([]), [], 'an empty transaction');
await sql`CREATE TABLE IF NOT EXISTS http_d (id int REFERENCES http_t DEFERRABLE INITIALLY DEFERRED)`;
await rejects(sql.transaction([sql`INSERT INTO http_d VALUES (99)`]), { code: '23503' }, 'an error of COMMIT itself');

// ---- the pool gives nobody what another left
await sql`SELECT set_config('work_mem', '77MB', false)`;
await sql`BEGIN`;
await sql`CREATE TEMP TABLE mine (a int)`;
const seen = await Promise.all(Array.from({ length: 8 }, () =>
	sql`SELECT current_setting('work_mem') AS w, to_regclass('mine') AS t, (SELECT count(*)::int FROM pg_stat_activity WHERE state LIKE 'idle in tr%') AS n`));
ok(seen.every(([r]) => r.w !== '77MB' && r.t === null && r.n === 0), 'no setting, temporary table or transaction is handed on');

// ---- many at once
const many = await Promise.all(Array.from({ length: 60 }, (_, i) => sql`SELECT ${i}::int AS i, pg_sleep(0.02)::text`));
is(many.map(([r]) => r.i), Array.from({ length: 60 }, (_, i) => i), '60 at once, each its own answer');
const mixed = await Promise.allSettled(Array.from({ length: 30 }, (_, i) => (i % 3 ? sql`SELECT ${i}::int AS i` : sql`SELECT 1/0`)));
ok(mixed.every((r, i) => (i % 3 ? r.status === 'fulfilled' && r.value[0].i === i : r.reason.code === '22012')), 'errors among them hit only themselves');

// ---- sizes
const long = 'x'.repeat(1000000);
is((await sql`SELECT ${long}::text AS t`)[0].t.length, 1000000, 'a megabyte there and back');
is((await sql`SELECT g FROM generate_series(1, 100000) g`).length, 100000, 'many rows');
await rejects(sql`SELECT repeat('x', 20000000) AS t`, { message: /507.*larger than 10 MiB/ }, 'a response that is too large');
await rejects(sql`SELECT ${'x'.repeat(11 * 1024 * 1024)}::text AS t`, { message: /413|Error connecting/ }, 'a request that is too large');

// ---- a client that goes cancels
const gone = new AbortController();
const sleeper = sql.query("SELECT pg_sleep(300), 'sleeper'", [], { fetchOptions: { signal: gone.signal } });
const asleep = async () => (await sql`SELECT count(*)::int AS n FROM pg_stat_activity WHERE query LIKE '%''sleeper''%' AND pid <> pg_backend_pid() AND state = 'active'`)[0].n;
const until = async (n) => { for (let i = 0; i < 600; i++) { if ((await asleep()) === n) return true; await new Promise((r) => setTimeout(r, 100)); } return false; };
const failed = rejects(sleeper, {}, 'a query that its client gives up');
ok(await until(1), 'it runs');
gone.abort();
await failed;
ok(await until(0), 'and is cancelled in the database');

// ---- what a program that is not the driver may send
const post = (body, headers) => fetch(`${base}/sql`, { method: 'POST', body, headers: { 'Neon-Connection-String': uri, ...headers } });
const plain = await (await post(JSON.stringify({ query: 'SELECT 1::int4 AS i, 2::int8 AS b, true AS t, 1.5::float8 AS f, \'{"a":1}\'::jsonb AS j, ARRAY[[1,NULL]]::int[] AS a' }))).json();
is(plain.rows, [{ i: 1, b: '2', t: true, f: 1.5, j: { a: 1 }, a: [[1, null]] }], 'JSON values without the raw text mode');
const objects = await (await post(JSON.stringify({ query: 'SELECT $1::jsonb::text AS j, $2::jsonb[]::text AS a',
	params: [{ a: 0.1, b: [1.5, { c: -2.5e-7 }], n: null, s: 'q"\\ü', t: true }, [{ a: 0.1 }]] }))).json();
is(objects.rows, [{ j: '{"a": 0.1, "b": [1.5, {"c": -0.00000025}], "n": null, "s": "q\\"\\\\ü", "t": true}', a: '{"{\\"a\\": 0.1}"}' }], 'objects as parameters, with the numbers they had');
for (const [name, body] of [['not JSON', '{'], ['an array', '[]'], ['no query', '{}'], ['a number as query', '{"query": 1}'],
	['params that are no array', '{"query": "SELECT 1", "params": 1}'], ['nesting without end', '['.repeat(100000)], ['nothing', ' ']]) {
	const r = await post(body);
	ok(r.status === 400 && typeof (await r.json()).message === 'string', `a body that is ${name}`);
}
is((await post('{"query":"SELECT 1"}', { 'Neon-Connection-String': 'host=/tmp dbname=x' })).status, 400, 'a connection string that is no URI');
is((await post('{"query":"SELECT 1"}', { 'Neon-Batch-Isolation-Level': 'x', 'Neon-Array-Mode': 'perhaps' })).status, 400, 'a header that says nothing');
is((await fetch(`${base}/sql`)).status, 405, 'GET /sql');
is((await fetch(`${base}/nothing`)).status, 404, 'another page');
const preflight = await fetch(`${base}/sql`, { method: 'OPTIONS' });
is([preflight.status, preflight.headers.get('access-control-allow-origin')], [204, '*'], 'preflight');
like(preflight.headers.get('access-control-allow-headers'), /neon-connection-string/, 'allows the headers');
is((await post('{"query":"SELECT 1"}')).headers.get('access-control-allow-origin'), '*', 'and so does the answer');
like(await (await fetch(`${base}/metrics`)).text(), /neon_proxy_http_reuses_total [1-9]/, 'metrics count');
done();
