// serverless_jwt.mjs - tokens in place of passwords, as the driver sends them (authToken).  TAP on stdout.
//
//   node serverless_jwt.mjs HTTP_BASE CONNECTION_URI CONTROLLER_URI
//
// SPDX-License-Identifier: Apache-2.0
import { spawnSync } from 'node:child_process';
import { createHmac, generateKeyPairSync, sign, webcrypto } from 'node:crypto';
import { createServer } from 'node:http';
import { createRequire } from 'node:module';
import { is, ok, rejects, done } from './tap.mjs';

globalThis.crypto ??= webcrypto;
const require = createRequire(process.cwd() + '/');
const { Client, neon, neonConfig } = require('@neondatabase/serverless');
const [base, uri, controller] = process.argv.slice(2);
neonConfig.fetchEndpoint = () => `${base}/sql`;
neonConfig.webSocketConstructor = require('ws');
neonConfig.useSecureWebSocket = false;
neonConfig.wsProxy = (host, port) => `${new URL(base).host}/v2?address=${host}:${port}`;

function control(sql) {
	const r = spawnSync('psql', ['-XAtq', '-v', 'ON_ERROR_STOP=1', controller, '-c', sql], { encoding: 'utf8' });
	return r.status === 0 ? r.stdout.trim() : `failed: ${r.stderr}`;
}

// ---- an issuer
const rsa = generateKeyPairSync('rsa', { modulusLength: 2048 }), rsaNew = generateKeyPairSync('rsa', { modulusLength: 2048 });
const ec = generateKeyPairSync('ec', { namedCurve: 'P-256' }), stranger = generateKeyPairSync('rsa', { modulusLength: 2048 });
const weak = generateKeyPairSync('rsa', { modulusLength: 1024 });
const jwk = (pair, kid) => ({ ...pair.publicKey.export({ format: 'jwk' }), kid, use: 'sig' });
let document = { keys: [jwk(rsa, 'r1'), jwk(ec, 'e1'), jwk(weak, 'w1')] };
let asked = 0;
const issuer = createServer((request, response) => {
	asked++;
	response.setHeader('content-type', 'application/json');
	response.end(JSON.stringify(document));
});
await new Promise((resolve) => issuer.listen(0, '127.0.0.1', resolve));
const url = `http://127.0.0.1:${issuer.address().port}/keys`;

const now = () => Math.floor(Date.now() / 1000);
const encode = (o) => Buffer.from(JSON.stringify(o)).toString('base64url');
const claims = (more = {}) => ({ iss: 'https://issuer.test', aud: ['app', 'other'], sub: 'u1', exp: now() + 600, ...more });
function token(pair, kid, payload = claims(), alg = pair === ec ? 'ES256' : 'RS256', header = {}) {
	const input = `${encode({ alg, typ: 'JWT', kid, ...header })}.${encode(payload)}`;
	const signature = alg === 'none' ? '' : alg === 'HS256' ? createHmac('sha256', pair.publicKey.export({ type: 'spki', format: 'pem' })).update(input).digest('base64url')
		: sign('sha256', Buffer.from(input), pair === ec ? { key: ec.privateKey, dsaEncoding: 'ieee-p1363' } : pair.privateKey).toString('base64url');
	return `${input}.${signature}`;
}

// ---- who may
const sql = neon(uri);
await sql`CREATE TABLE jwt_t AS SELECT 'secret' AS s`;
const bearer = (role) => uri.replace(/\/\/[^@]*@/, `//${role}@`);
const as = (authToken, role = 'visitor') => neon(bearer(role), { authToken })`SELECT current_user AS u, session_user AS s`;
const refused = { code: '28000', message: 'invalid token for this endpoint and role' };

await rejects(as(token(rsa, 'r1')), refused, 'no issuer is known: no token is good');
is(control(`SELECT neon_controller.add_jwks('default', 'test', '${url}', '{visitor,second}', 'https://issuer.test', 'app')`), '', 'an issuer is made known');
await rejects(as(token(rsa, 'r1')), refused, 'a role that does not take tokens');
is(control(`SELECT neon_controller.allow_jwt_role('default', 'visitor'), neon_controller.allow_jwt_role('default', 'second')`), '|', 'roles for tokens');
is(await as(token(rsa, 'r1')), [{ u: 'visitor', s: 'visitor' }], 'RS256: the session is the role itself');
is(await as(token(ec, 'e1')), [{ u: 'visitor', s: 'visitor' }], 'ES256');
const psql = (t) => spawnSync('psql', ['-XAtq', `${bearer('visitor')}%20auth%3Dpassword&sslmode=require`, '-c', 'SELECT current_user'],
	{ encoding: 'utf8', env: { ...process.env, PGPASSWORD: t } });
is(psql(token(rsa, 'r1')).stdout, 'visitor\n', 'psql takes a token as its password');
ok(psql(token(stranger, 'r1')).status !== 0, 'and not any token');
const overSocket = new Client(bearer(`visitor:${token(ec, 'e1')}`));
await overSocket.connect();
is((await overSocket.query('SELECT current_user AS u')).rows, [{ u: 'visitor' }], 'so does a WebSocket');
await overSocket.end();
is(await as(token(rsa, undefined)), [{ u: 'visitor', s: 'visitor' }], 'without a key id');
is(await as(async () => token(rsa, 'r1'), 'second'), [{ u: 'second', s: 'second' }], 'a token without the claim is for each of its roles');
is(await as(token(rsa, 'r1', claims({ role: 'visitor' }))), [{ u: 'visitor', s: 'visitor' }], 'a token with it for that one');
const asVisitor = (q) => neon(bearer('visitor'), { authToken: token(rsa, 'r1') }).query(q);
await rejects(asVisitor('SELECT * FROM jwt_t'), { code: '42501' }, 'it has the rights of the role, no more');
await rejects(asVisitor('SET ROLE postgres'), { code: '42501' }, 'and cannot become another');
await rejects(asVisitor('SET SESSION AUTHORIZATION postgres'), { code: '42501' }, 'in no way');
is((await neon(bearer('visitor'), { authToken: token(rsa, 'r1') }).transaction((t) => [t`SELECT 1 AS a`, t`SELECT 2 AS a`])).flat(), [{ a: 1 }, { a: 2 }], 'transactions too');

// ---- who may not
const bad = {
	'an expired one': token(rsa, 'r1', claims({ exp: now() - 60 })),
	'one that never ends': token(rsa, 'r1', { ...claims(), exp: undefined }),
	'one from the future': token(rsa, 'r1', claims({ nbf: now() + 600 })),
	'one of another issuer': token(rsa, 'r1', claims({ iss: 'https://other.test' })),
	'one without issuer': token(rsa, 'r1', { ...claims(), iss: undefined }),
	'one for another audience': token(rsa, 'r1', claims({ aud: 'another' })),
	'one for another role': token(rsa, 'r1', claims({ role: 'second' })),
	'one that a stranger signed': token(stranger, 'r1'),
	'one without signature': token(rsa, 'r1', claims(), 'none'),
	'one signed with the public key as a secret': token(rsa, 'r1', claims(), 'HS256'),
	'one of a key of another kind': token(rsa, 'e1'),
	'one of a weak key': token(weak, 'w1'),
	'one with an extension that must be understood': token(rsa, 'r1', claims(), 'RS256', { crit: ['x'], x: 1 }),
	'one that was changed': token(rsa, 'r1').replace(/\.[^.]+\./, `.${encode(claims({ sub: 'admin' }))}.`),
	'no token at all': 'x.y.z',
	'an empty one': '.'.repeat(2),
};
for (const [name, t] of Object.entries(bad)) await rejects(as(t), refused, name);
await rejects(as(token(rsa, 'r1'), 'postgres'), refused, 'a good one for a role that it is not for');
await rejects(as(token(rsa, 'r1'), 'nobody'), refused, 'or for one that does not exist');
await rejects(neon(bearer('visitor').replace(/endpoint%3D[^&]*/, 'endpoint%3Dnone'), { authToken: token(rsa, 'r1') })`SELECT 1`, refused, 'or for another endpoint');
await rejects(neon(bearer('visitor'))`SELECT 1`, { code: '28P01' }, 'no token and no password');

// ---- keys come and go
const before = asked;
await Promise.all(Array.from({ length: 50 }, (_, i) => as(token(stranger, `unknown${i}`)).catch(() => {})));
ok(asked - before <= 3, `unknown keys do not make the issuer's server work (${asked - before} requests)`);
document = { keys: [jwk(rsaNew, 'r2')] };
let renewed = false;
for (let i = 0; i < 120 && !renewed; i++) {
	renewed = await as(token(rsaNew, 'r2')).then(() => true, () => false);
	if (!renewed) await new Promise((r) => setTimeout(r, 500));
}
ok(renewed, 'a new key is found');
await rejects(as(token(rsa, 'r1')), refused, 'a withdrawn one is not good any more');
issuer.close();
issuer.closeAllConnections?.();
is(await as(token(rsaNew, 'r2')), [{ u: 'visitor', s: 'visitor' }], 'an issuer that is away locks nobody out');

// ---- roles that would be too much
await sql`CREATE ROLE strong LOGIN CREATEROLE`;
await sql`CREATE ROLE has_one LOGIN PASSWORD 'x'`;
ok(/too powerful/.test(control("SELECT neon_controller.allow_jwt_role('default', 'strong')")), 'a role that can make others is refused');
ok(/too powerful/.test(control("SELECT neon_controller.allow_jwt_role('default', 'postgres')")), 'and the superuser');
ok(/has a password/.test(control("SELECT neon_controller.allow_jwt_role('default', 'has_one')")), 'and one with a password of its own');
is(control("SELECT neon_controller.drop_jwks('default', 'test')"), '', 'the issuer is dropped');
await rejects(as(token(rsaNew, 'r2')), refused, 'and its tokens with it');
done();
