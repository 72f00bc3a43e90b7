// serverless_ws.mjs - the driver's Pool and Client, which speak the PostgreSQL protocol over a WebSocket.  TAP on stdout.
//
//   node serverless_ws.mjs HOST:PORT CONNECTION_URI [tls]
//
// SPDX-License-Identifier: Apache-2.0
import { webcrypto } from 'node:crypto';
import { createRequire } from 'node:module';
import { is, like, ok, rejects, done } from './tap.mjs';

globalThis.crypto ??= webcrypto;
const require = createRequire(process.cwd() + '/');
const { Client, Pool, neonConfig } = require('@neondatabase/serverless');
const WebSocket = require('ws');

const [base, uri, tls] = process.argv.slice(2);
neonConfig.webSocketConstructor = WebSocket;
neonConfig.useSecureWebSocket = tls === 'tls';
neonConfig.wsProxy = (host, port) => `${base}/v2?address=${host}:${port}`;

for (const pipelineConnect of ['password', false]) {
	neonConfig.pipelineConnect = pipelineConnect;
	const pool = new Pool({ connectionString: uri, max: 4 });
	is((await pool.query('SELECT $1::int AS n, $2::text AS t', [7, 'ü'])).rows, [{ n: 7, t: 'ü' }], `a query (pipelineConnect ${pipelineConnect})`);
	const all = await Promise.all(Array.from({ length: 40 }, (_, i) => pool.query('SELECT $1::int AS i', [i])));
	is(all.map((r) => r.rows[0].i), Array.from({ length: 40 }, (_, i) => i), 'many over four connections');
	await rejects(pool.query('SELECT 1/0'), { code: '22012' }, 'an error');
	await pool.end();
}

const client = new Client(uri);
await client.connect();
await client.query('BEGIN');
await client.query('CREATE TEMP TABLE ws_t (a int)');
await client.query('INSERT INTO ws_t SELECT generate_series(1, 1000)');
is((await client.query('SELECT count(*)::int AS n FROM ws_t')).rows, [{ n: 1000 }], 'a session with a transaction');
await client.query('ROLLBACK');
await rejects(client.query('SELECT * FROM ws_t'), { code: '42P01' }, 'and its end');
const notified = new Promise((resolve) => client.on('notification', (n) => resolve(n.payload)));
await client.query('LISTEN ws_c');
const other = new Pool({ connectionString: uri });
await other.query("NOTIFY ws_c, 'hello'");
is(await notified, 'hello', 'a notification comes');
is((await client.query("SELECT repeat('x', 1000000) AS t FROM generate_series(1, 8)")).rows.reduce((n, r) => n + r.t.length, 0), 8000000, 'eight megabytes back');
is((await client.query('SELECT length($1::text) AS n', ['y'.repeat(3000000)])).rows, [{ n: 3000000 }], 'three megabytes there');
const { rows: [{ pid }] } = await client.query('SELECT pg_backend_pid() AS pid');
await client.end();
let there = true;
for (let i = 0; there && i < 600; i++) {
	there = (await other.query("SELECT count(*)::int AS n FROM pg_stat_activity WHERE pid = $1 AND state <> 'idle'", [pid])).rows[0].n > 0;
	if (there) await new Promise((r) => setTimeout(r, 100));
}
ok(!there, 'a closed client leaves nothing running');
await other.end();

const wrong = new Client(uri.replace(/:[^:@]*@/, ':wrong@'));
wrong.on('error', () => {});
await rejects(wrong.connect().then(() => wrong.query('SELECT 1')), { code: '28P01' }, 'a wrong password');

// ---- what is not the driver
const raw = (path, options) => new Promise((resolve) => {
	const s = new WebSocket(`${tls ? 'wss' : 'ws'}://${base}${path}`, options);
	s.on('open', () => resolve(s));
	s.on('error', (e) => resolve(e));
});
ok((await raw('/other')) instanceof Error, 'a WebSocket is opened at its address only');
const garbage = await raw('/v2');
const closed = new Promise((resolve) => garbage.on('close', resolve));
garbage.send(Buffer.from('this is not the protocol of a database, and long enough to see'));
ok(await closed, 'bytes that are not the protocol close it');
like(await (await fetch(`${tls ? 'https' : 'http'}://${base}/health`)).text(), /ok/, 'and the proxy goes on');
done();
