// console_page.mjs - the console page in headless Chromium.  TAP on stdout.
//
//   node console_page.mjs HTTP_BASE TOKEN [LOGIN_CODE]      NEON_SCREENSHOTS=DIR keeps pictures, CHROMIUM names the browser
//
// SPDX-License-Identifier: Apache-2.0
import { createRequire } from 'node:module';
import { is, like, ok, done } from './tap.mjs';

const { chromium } = createRequire(process.cwd() + '/')('playwright-core');
const [base, token, code] = process.argv.slice(2);
const LONG = 120000;

const browser = await chromium.launch({
	executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', timeout: LONG,
	args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--disable-background-networking', '--disable-component-update', '--disable-sync',
		'--no-first-run', '--no-default-browser-check', '--disable-extensions'],
});
const context = await browser.newContext({ viewport: { width: 1440, height: 900 }, colorScheme: 'light' });
context.setDefaultTimeout(LONG);
context.setDefaultNavigationTimeout(LONG);
const page = await context.newPage();
const problems = [], foreign = [];
page.on('pageerror', (e) => problems.push(String(e)));
page.on('console', (m) => { if (m.type() === 'error' && !/status of 40[013]/.test(m.text())) problems.push(m.text()); });
page.on('request', (r) => { if (!r.url().startsWith(base) && !r.url().startsWith('data:')) foreign.push(r.url()); });
const picture = async (name) => { if (process.env.NEON_SCREENSHOTS) await page.screenshot({ path: `${process.env.NEON_SCREENSHOTS}/${name}.png`, fullPage: true }); };

try {
	// ---- the way in
	await page.goto(base + (code ? `/#login=${code}` : '/'));
	await page.waitForSelector('#login');
	await picture('login');
	await page.fill('#token', 'f'.repeat(64));
	await page.click('#login button[type=submit]');
	await page.waitForFunction(() => document.querySelector('.error')?.textContent !== '');
	like(await page.textContent('.error'), /token is not valid/, 'a wrong token is refused, and why');
	await page.fill('#token', token);
	await page.click('#login button[type=submit]');
	await page.waitForSelector('#tree');
	ok(true, 'a token logs in');
	ok(!(await page.evaluate(() => document.cookie)), 'scripts do not see the session');

	// ---- a terminal that waits
	if (code) {
		await page.waitForSelector('#confirm');
		like(await page.textContent('#confirm'), new RegExp(`${code}[^]*192\\.0\\.2\\.7`), 'a waiting terminal is shown, with its code and address');
		await picture('confirm');
		await page.selectOption('#confirm-endpoint', { index: 0 });
		await page.click('#confirm-login');
		await page.waitForSelector('#confirm', { state: 'detached' });
		ok(true, 'and confirmed');
	}

	// ---- the picture
	const lanes = () => page.$$eval('#tree .lane', (l) => l.map((x) => x.dataset.branch).reverse());
	const before = await lanes();
	ok(before.includes('main'), 'the tree has main');
	await page.click('#tree .lane[data-branch=main]');
	await page.waitForSelector('#branch[data-branch=main]');
	like(await page.textContent('#branch'), /running[^]*Endpoint[^]*main-[0-9a-f]{8}/, 'the endpoint, its id and state');
	await page.waitForFunction(() => /\d (kB|MB|GB)/.test(document.querySelector('#storage tr[data-branch=main]')?.textContent ?? ''));
	ok(true, 'storage of main in bytes');
	await picture('light');

	// ---- a branch, by hand
	await page.fill('#new-branch input[name=name]', 'by-hand');
	await page.uncheck('#new-branch input[name=endpoint]');
	await page.click('#new-branch button[type=submit]');
	await page.waitForSelector('#tree .lane[data-branch=by-hand]');
	is((await lanes()).length, before.length + 1, 'a branch is created from the page');
	await page.waitForSelector('#branch[data-branch=by-hand]');
	like(await page.textContent('#branch'), /no endpoint[^]*Parent\s*main/, 'it is chosen, and says where it comes from');
	const [mainX, childX] = await page.evaluate(() => ['main', 'by-hand'].map((b) =>
		Number(document.querySelector(`#tree .lane[data-branch=${b}] path`).getAttribute('d').match(/^M([\d.]+)/)[1])));
	ok(childX > mainX, 'and is drawn to the right of its parent, later in time');
	await page.fill('#new-branch input[name=name]', 'by-hand');
	await page.click('#new-branch button[type=submit]');
	await page.waitForSelector('#toast.bad');
	like(await page.textContent('#toast'), /already exists/, 'the same name again is refused with the words of the controller');
	await page.fill('#new-branch input[name=name]', 'Bad Name');
	ok(await page.$eval('#new-branch input[name=name]', (e) => !e.validity.valid), 'a name that no branch can have is not sent');

	// ---- what somebody types survives an update of the page
	await page.fill('#new-branch input[name=name]', 'typed');
	await page.waitForResponse((r) => r.url().endsWith('/overview') && r.ok());
	await page.evaluate(() => dispatchEvent(new Event('resize')));
	is(await page.inputValue('#new-branch input[name=name]'), 'typed', 'what somebody types survives an update');

	// ---- an endpoint for it, and its connection string
	await page.click('#create-endpoint');
	await page.waitForSelector('#toggle-endpoint:not([disabled])');
	await page.waitForSelector('#tree .lane.running[data-branch=by-hand]');
	ok(true, 'an endpoint is created and runs');
	await page.click('#show-uri');
	await page.waitForSelector('button[data-copy^=Straight]');
	ok(!/[0-9a-f]{32}/.test(await page.textContent('#branch .uri code')), 'the password is hidden');
	await context.grantPermissions(['clipboard-read', 'clipboard-write']);
	await page.click('button[data-copy^=Straight]');
	await page.waitForSelector('#toast.shown');
	const direct = await page.evaluate(() => navigator.clipboard.readText());
	like(direct, /^postgresql:\/\/postgres:[0-9a-f]{32}@[^/]+:\d+\/postgres$/, 'its connection string is copied');
	console.log(`# direct ${direct}`);
	await page.click('button[data-copy^=Through]');
	await page.waitForFunction((d) => navigator.clipboard.readText().then((t) => t !== d), direct);
	like(await page.evaluate(() => navigator.clipboard.readText()), /@127\.0\.0\.1:\d+\/postgres\?options=endpoint%3Dby-hand-[0-9a-f]{8}$/,
		'and the one through the proxy');
	await picture('branch');

	// ---- asleep and awake
	await page.click('#toggle-endpoint');
	await page.waitForSelector('#tree .lane.suspended[data-branch=by-hand]');
	ok(true, 'suspended from the page');

	// ---- nothing from outside is HTML
	const evil = '<img src=x onerror="document.title=1"><script>document.title=2</script>';
	await page.route('**/console/api/overview', async (route) => {
		const response = await route.fetch();
		const body = await response.json();
		body.tenants[0].name = evil;
		body.branches.push({ ...body.branches[0], name: evil, parent: 'main', timeline_id: evil, created_at: body.now });
		await route.fulfill({ response, json: body });
	});
	await page.waitForFunction((e) => [...document.querySelectorAll('#tree .lane')].some((l) => l.dataset.branch === e), evil);
	is(await page.$$eval('main img, nav img, main script', (l) => l.length), 0, 'names are text, whatever is in them');
	is(await page.title(), 'neon console', 'and nothing of them ran');
	await page.unroute('**/console/api/overview');

	// ---- the dark side, a small screen
	await page.click('#tree .lane[data-branch=main]');
	await page.click('#theme');
	await page.waitForFunction(() => document.documentElement.dataset.theme === 'dark');
	await picture('dark');
	await page.setViewportSize({ width: 420, height: 900 });
	ok(await page.evaluate(() => document.documentElement.scrollWidth <= innerWidth), 'a small screen does not scroll sideways');
	await picture('small');
	await page.setViewportSize({ width: 1440, height: 900 });

	// ---- other sites
	const forged = await page.evaluate(async () => (await fetch('/console/api/overview', { method: 'POST', body: '{}' })).status);
	is(forged, 403, 'a call without the mark of the page is refused');
	const other = await context.newPage();
	await other.route('http://other.test/**', (route) => route.fulfill({ contentType: 'text/html', body: '<p>other</p>' }));
	await other.goto('http://other.test/');
	const cross = await other.evaluate((b) => fetch(`${b}/console/api/overview`, { method: 'POST', credentials: 'include', body: '{}',
		headers: { 'Content-Type': 'application/json', 'X-Neon-Console': '1' } }).then((r) => r.status, () => 'refused'), base);
	is(cross, 'refused', 'another site cannot call at all');
	await other.close();

	// ---- the way out
	await page.click('#logout');
	await page.waitForSelector('#login');
	is(await page.evaluate(async () => (await fetch('/console/api/overview', { method: 'POST', body: '{}',
		headers: { 'Content-Type': 'application/json', 'X-Neon-Console': '1' } })).status), 401, 'after the log out the session is over');
	is(problems, [], 'no error of a script, nothing that the policy forbids');
	is(foreign, [], 'nothing was asked of anybody else');
} catch (e) {
	await picture('failed');
	ok(false, 'the page does what it should', `${e.stack}\n${problems.join('\n')}\n${await page.textContent('body').catch(() => '')}`);
}
await browser.close();
done();
