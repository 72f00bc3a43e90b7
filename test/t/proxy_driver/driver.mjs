// driver.mjs - the npm driver pg through the proxy: pool, parameters, named statements over changing server connections, an error, a cursor of sorts.
// SPDX-License-Identifier: Apache-2.0
import pg from 'pg';
import assert from 'node:assert';

const pool = new pg.Pool({
	host: '127.0.0.1', port: Number(process.argv[2]), user: 'ann', password: 'secret', database: 'app',
	options: 'endpoint=tx-1a2b3c4d', ssl: { rejectUnauthorized: false }, max: 10
});

for (let round = 0; round < 20; round++) {
	const answers = await Promise.all(Array.from({ length: 10 }, (_, i) =>
		pool.query({ name: 'sum', text: 'SELECT $1::int + $2::int AS sum', values: [round, i] })));
	answers.forEach((a, i) => assert.strictEqual(a.rows[0].sum, round + i));
}
await assert.rejects(pool.query('SELECT 1 / $1::int', [0]), /division by zero/);
await assert.rejects(pool.query({ name: 'bad', text: 'SELECT * FROM not_there' }), /does not exist/);
await assert.rejects(pool.query({ name: 'bad', text: 'SELECT * FROM not_there' }), /does not exist/);
assert.strictEqual((await pool.query('SELECT $1::text AS t', ['é'])).rows[0].t, 'é');
const client = await pool.connect();
await client.query('BEGIN');
await client.query('CREATE TEMP TABLE t (a int) ON COMMIT DROP');
await client.query('INSERT INTO t VALUES ($1)', [7]);
assert.strictEqual((await client.query('SELECT a FROM t')).rows[0].a, 7);
await client.query('COMMIT');
client.release();
await pool.end();
console.log('ok');
