// tap.mjs - the few functions that the tests in JavaScript need.
//
// SPDX-License-Identifier: Apache-2.0
import { isDeepStrictEqual } from 'node:util';

let n = 0;
let failures = 0;

export function ok(passed, name, detail) {
	console.log(`${passed ? 'ok' : 'not ok'} ${++n} - ${name}`);
	if (!passed) {
		failures++;
		if (detail !== undefined) console.log(String(detail).replace(/^/gm, '# '));
	}
	return passed;
}

const show = (x) => (x instanceof Error ? `${x.stack}` : JSON.stringify(x, (_, v) => (Number.isNaN(v) ? 'NaN' : v))?.slice(0, 2000));

export const is = (got, want, name) => ok(isDeepStrictEqual(got, want), name, `got ${show(got)}\nwant ${show(want)}`);
export const like = (got, pattern, name) => ok(pattern.test(got), name, `got ${String(got).slice(0, 2000)}`);

// A promise that must fail, with these properties.
export async function rejects(promise, want, name) {
	let error;
	try {
		const value = await promise;
		return ok(false, name, `it did not fail: ${show(value)}`);
	} catch (e) {
		error = e;
	}
	const wrong = Object.entries(want).filter(([k, v]) => (v instanceof RegExp ? !v.test(error[k]) : error[k] !== v));
	return ok(wrong.length === 0, name, `${error.stack} ${show({ ...error })}\nwant ${show(want)}`);
}

export function done() {
	console.log(`1..${n}`);
	process.exit(failures ? 1 : 0);
}
