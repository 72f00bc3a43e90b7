// console.js - the console page: tenants, the branch tree against time, endpoints, storage.
//
// Everything from the server reaches the page as text nodes and attributes, never as HTML.  Each call is a controller function behind
// /console/api/, as the session in the cookie (which scripts cannot read) may.
//
// SPDX-License-Identifier: Apache-2.0

const OVERVIEW_MS = 3000;
const STORAGE_MS = 20000;

const state = { config: {}, overview: null, storage: new Map(), away: [], tenant: null, branch: null, busy: new Set(), uris: new Map(), reveal: false };

// ---------------------------------------------------------------- small things

const $ = (id) => document.getElementById(id);

// h('p', { class: 'x', onclick: f }, 'text', child)
function h(tag, attributes = {}, ...children) {
	return fill(document.createElement(tag), attributes, children);
}

function s(tag, attributes = {}, ...children) {
	return fill(document.createElementNS('http://www.w3.org/2000/svg', tag), attributes, children);
}

function fill(element, attributes, children) {
	for (const [name, value] of Object.entries(attributes)) {
		if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
		else if (value === true) element.setAttribute(name, '');
		else if (value !== false && value !== null && value !== undefined) element.setAttribute(name, value);
	}
	element.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
	return element;
}

function bytes(n) {
	if (n === null || n === undefined) return '–';
	const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];
	let i = 0;
	while (n >= 1024 && i < units.length - 1) { n /= 1024; i++; }
	return `${n < 10 && i > 0 ? n.toFixed(1) : Math.round(n)} ${units[i]}`;
}

function ago(then, now) {
	const seconds = Math.max(0, (now - then) / 1000);
	for (const [size, unit] of [[86400, 'day'], [3600, 'hour'], [60, 'minute']])
		if (seconds >= size) {
			const n = Math.floor(seconds / size);
			return `${n} ${unit}${n > 1 ? 's' : ''} ago`;
		}
	return 'just now';
}

const clock = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });

let toastTimer;
function toast(text, bad = false) {
	const t = $('toast');
	t.textContent = text;
	t.className = bad ? 'shown bad' : 'shown';
	clearTimeout(toastTimer);
	toastTimer = setTimeout(() => { t.className = ''; }, bad ? 7000 : 3000);
}

class ApiError extends Error {
	constructor(status, body) {
		super(body.hint ? `${body.message}. ${body.hint}` : body.message);
		this.status = status;
	}
}

async function api(fn, args = {}) {
	const response = await fetch(`/console/api/${fn}`, {
		method: 'POST', credentials: 'same-origin', headers: { 'Content-Type': 'application/json', 'X-Neon-Console': '1' }, body: JSON.stringify(args),
	});
	const body = await response.json().catch(() => ({ message: `the server answered with status ${response.status}` }));
	if (!response.ok) throw new ApiError(response.status, body);
	return body;
}

async function copy(text) {
	try {
		await navigator.clipboard.writeText(text);
	} catch {
		const area = h('textarea', { readonly: true });		// pages without TLS have no clipboard object
		area.value = text;
		document.body.append(area);
		area.select();
		document.execCommand('copy');
		area.remove();
	}
	toast('Copied');
}

// ---------------------------------------------------------------- what is there

const key = (tenant, branch) => `${tenant}/${branch}`;
const branches = () => state.overview.branches.filter((b) => b.tenant === state.tenant);
const endpointOf = (b) => state.overview.endpoints.find((e) => e.tenant === b.tenant && e.branch === b.name);
const storageOf = (b) => state.storage.get(key(b.tenant, b.name));

function stateOf(b) {
	const e = endpointOf(b);
	if (!e) return ['none', 'no endpoint'];
	if (e.state === 'running') return ['running', 'running'];
	if (e.state === 'suspended') return ['suspended', 'suspended'];
	return ['busy', e.state];
}

// Parents before their children, each family together.
function inOrder(list) {
	const children = Map.groupBy ? Map.groupBy(list, (b) => b.parent ?? null) : groupBy(list, (b) => b.parent ?? null);
	const names = new Set(list.map((b) => b.name));
	const out = [];
	const visit = (b) => {
		out.push(b);
		for (const c of children.get(b.name) ?? []) visit(c);
	};
	for (const b of list) if (!b.parent || !names.has(b.parent)) visit(b);
	return out;
}

function groupBy(list, f) {
	const map = new Map();
	for (const x of list) map.set(f(x), [...(map.get(f(x)) ?? []), x]);
	return map;
}

// ---------------------------------------------------------------- the tree

const LANE = 46, TOP = 34, LEFT = 22, RIGHT = 196, MIN_GAP = 54;

// Time to x: what happened keeps its order and its distances where there is room; crowded moments are drawn apart.
function timeScale(times, now, width) {
	const stops = [...new Set([...times, now])].sort((a, b) => a - b);
	if (stops.length === 1) return { stops, x: () => LEFT };
	const total = stops.at(-1) - stops[0];
	const free = Math.max(0, width - MIN_GAP * (stops.length - 1));
	const at = [LEFT];
	for (let i = 1; i < stops.length; i++) at.push(at[i - 1] + Math.min(MIN_GAP, width / (stops.length - 1)) + (free * (stops[i] - stops[i - 1])) / total);
	return {
		stops,
		x(t) {
			let i = stops.findIndex((stop) => stop >= t);
			if (i < 0) i = stops.length - 1;
			if (i === 0) return at[0];
			return at[i - 1] + ((at[i] - at[i - 1]) * (t - stops[i - 1])) / (stops[i] - stops[i - 1]);
		},
	};
}

function axisLabel(t, now) {
	const d = new Date(t);
	if (now - t < 20 * 3600e3) return d.toLocaleTimeString(undefined, { hour: '2-digit', minute: '2-digit' });
	if (now - t < 300 * 86400e3) return d.toLocaleDateString(undefined, { day: 'numeric', month: 'short' });
	return d.toLocaleDateString(undefined, { month: 'short', year: 'numeric' });
}

function axis(scale, now, height) {
	const group = s('g', { class: 'axis' });
	let last = -1e9, lastLabel = '';
	for (const t of scale.stops.slice(0, -1)) {
		const x = scale.x(t), label = axisLabel(t, now);
		if (x - last < 64 || scale.x(now) - x < 50) continue;
		group.append(s('line', { x1: x, x2: x, y1: 20, y2: height }));
		if (label !== lastLabel) group.append(s('text', { x, y: 13, 'text-anchor': x < 40 ? 'start' : 'middle' }, label));
		last = x;
		lastLabel = label;
	}
	const x = scale.x(now);
	group.append(s('g', { class: 'now' }, s('line', { x1: x, x2: x, y1: 20, y2: height }), s('text', { x, y: 13, 'text-anchor': 'middle' }, 'now')));
	return group;
}

function lane(b, i, lanes, scale, now, width) {
	const [kind, text] = stateOf(b);
	const y = TOP + i * LANE + LANE / 2;
	const x0 = scale.x(Date.parse(b.created_at)), x1 = scale.x(now);
	const parent = b.parent === null || b.parent === undefined ? undefined : lanes.get(b.parent);
	const line = parent === undefined ? `M${x0},${y}H${x1}` : `M${x0},${TOP + parent * LANE + LANE / 2}V${y - 10}Q${x0},${y} ${x0 + 10},${y}H${Math.max(x1, x0 + 10)}`;
	const selected = state.branch === b.name;
	const choose = () => { state.branch = b.name; state.reveal = false; render(); };
	return s('g', {
		class: `lane ${kind}${selected ? ' selected' : ''}`, tabindex: 0, role: 'button', 'data-branch': b.name,
		'aria-label': `branch ${b.name}, ${text}`, 'aria-pressed': String(selected), onclick: choose,
		onkeydown: (e) => { if (e.key === 'Enter' || e.key === ' ') { e.preventDefault(); choose(); } },
	},
	s('rect', { class: 'hit', x: 0, y: y - LANE / 2, width, height: LANE, rx: 8 }),
	s('path', { d: line }),
	parent === undefined ? null : s('circle', { class: 'fork', cx: x0, cy: TOP + parent * LANE + LANE / 2, r: 3.5 }),
	s('circle', { class: 'head', cx: x1, cy: y, r: 5 }),
	s('text', { class: 'name', x: x0 + (parent === undefined ? 0 : 14), y: y - 9 }, b.name.length > 28 ? `${b.name.slice(0, 27)}…` : b.name),
	s('text', { class: 'detail', x: x1 + 14, y: y + 4 }, text),
	s('text', { class: 'size', x: width - 8, y: y + 4 }, bytes(storageOf(b)?.logical_bytes)));
}

function tree(list, now, width) {
	const ordered = inOrder(list);
	const lanes = new Map(ordered.map((b, i) => [b.name, i]));
	const height = TOP + ordered.length * LANE + 6;
	const scale = timeScale(list.map((b) => Date.parse(b.created_at)), now, width - LEFT - RIGHT);
	return s('svg', { class: 'tree', viewBox: `0 0 ${width} ${height}`, width, height, role: 'group', 'aria-label': 'branches against time' },
		axis(scale, now, height - 4),
		// children first, so that a parent's line lies over their beginnings
		[...ordered].reverse().map((b) => lane(b, lanes.get(b.name), lanes, scale, now, width)));
}

// ---------------------------------------------------------------- panels

function treePanel(list, now) {
	const width = Math.max(560, ($('main').clientWidth || 1000) - (matchMedia('(max-width: 60rem)').matches ? 70 : 430));
	const running = state.overview.endpoints.filter((e) => e.tenant === state.tenant && e.state === 'running').length;
	return h('section', { class: 'panel', id: 'tree' },
		h('div', { class: 'head' }, h('h2', {}, 'Branches'),
			h('span', { class: 'note' }, `${list.length} branch${list.length === 1 ? '' : 'es'}, ${running} endpoint${running === 1 ? '' : 's'} running`)),
		list.length ? h('div', { class: 'scroll' }, tree(list, now, width)) : h('p', { class: 'empty' }, 'This tenant has no branches.'));
}

function storagePanel(list) {
	const rows = inOrder(list).map((b) => [b, storageOf(b) ?? {}]);
	const most = Math.max(1, ...rows.map(([, x]) => Math.max(x.logical_bytes ?? 0, (x.delta_bytes ?? 0) + (x.image_bytes ?? 0))));
	const bar = (...parts) => h('div', { class: 'bar' }, parts.map(([kind, n]) => {
		const i = h('i', { class: kind });
		i.style.width = `${(100 * (n ?? 0)) / most}%`;
		return i;
	}));
	return h('section', { class: 'panel', id: 'storage' },
		h('div', { class: 'head' }, h('h2', {}, 'Storage by branch'),
			h('span', { class: 'note' }, state.away.length ? `not answering: ${state.away.join(', ')}` :
				[h('span', { class: 'key logical' }, 'databases now'), h('span', { class: 'key delta' }, 'history'), h('span', { class: 'key image' }, 'images')])),
		h('div', { class: 'scroll' }, h('table', {},
			h('thead', {}, h('tr', {}, h('th', {}, 'Branch'), h('th', {}, ''), h('th', { class: 'number' }, 'Databases'), h('th', { class: 'number' }, 'History'),
				h('th', { class: 'number' }, 'Layers'), h('th', { class: 'number' }, 'In memory'))),
			h('tbody', {}, rows.map(([b, x]) => h('tr', { 'data-branch': b.name },
				h('td', {}, b.name),
				h('td', {}, bar(['logical', x.logical_bytes]), bar(['delta', x.delta_bytes], ['image', x.image_bytes])),
				h('td', { class: 'number' }, bytes(x.logical_bytes)),
				h('td', { class: 'number' }, x.delta_bytes === undefined || x.delta_bytes === null ? '–' : bytes(x.delta_bytes + x.image_bytes)),
				h('td', { class: 'number' }, x.layers ?? '–'),
				h('td', { class: 'number' }, bytes(x.open_bytes))))))));
}

// Does something that takes a while: its buttons are off meanwhile, and what it says is shown.
async function act(name, what, done) {
	if (state.busy.has(name)) return;
	state.busy.add(name);
	render();
	try {
		const result = await what();
		if (done) toast(done);
		state.busy.delete(name);
		shown = '';
		await refresh();
		return result;
	} catch (e) {
		state.busy.delete(name);
		failed(e);
		render();
	}
	return undefined;
}

function uriRow(label, uri) {
	const hidden = uri.replace(/:[^:@/]*@/, ':••••••@');
	return h('div', {},
		h('label', {}, label),
		h('div', { class: 'uri' }, h('code', { title: state.reveal ? uri : hidden }, state.reveal ? uri : hidden),
			h('button', { type: 'button', 'data-copy': label, onclick: () => copy(uri) }, 'Copy')));
}

// The same password through the proxy, which is where this page comes from.
function proxyUri(direct, e) {
	const u = new URL(direct.replace(/^postgresql:/, 'http:'));
	return `postgresql://${u.username}:${u.password}@${location.hostname}:${state.config.port}${u.pathname}?options=endpoint%3D${encodeURIComponent(e.id)}`;
}

function connectPart(b, e) {
	const uri = state.uris.get(key(b.tenant, b.name));
	const fetchUri = () => act('uri', async () => { state.uris.set(key(b.tenant, b.name), await api('connection_uri', { tenant: b.tenant, branch: b.name })); });
	return [
		h('h3', {}, 'Connect'),
		uri ? [
			uriRow('Through this proxy, which wakes it', proxyUri(uri, e)),
			uriRow('Straight to the endpoint', uri),
			h('div', { class: 'row' }, h('button', { type: 'button', class: 'quiet', onclick: () => { state.reveal = !state.reveal; render(); } },
				state.reveal ? 'Hide the password' : 'Show the password')),
		] : h('div', { class: 'row' }, h('button', { type: 'button', id: 'show-uri', disabled: state.busy.has('uri'), onclick: fetchUri }, 'Connection strings')),
	];
}

function endpointPart(b) {
	const e = endpointOf(b);
	const args = { tenant: b.tenant, name: e?.name ?? b.name };
	if (!e)
		return [h('h3', {}, 'Endpoint'), h('p', { class: 'mono' }, 'A branch without an endpoint costs storage only.'),
			h('div', { class: 'row' }, h('button', { type: 'button', id: 'create-endpoint', disabled: state.busy.has('endpoint'),
				onclick: () => act('endpoint', () => api('create_endpoint', { ...args, branch: b.name }), 'Endpoint created') }, 'Create an endpoint'))];
	const running = e.state === 'running';
	return [
		h('h3', {}, 'Endpoint'),
		h('dl', {}, h('dt', {}, 'Id'), h('dd', { class: 'mono' }, e.id), h('dt', {}, 'Address'), h('dd', { class: 'mono' }, `${e.host}:${e.port}`),
			e.started_at && running ? [h('dt', {}, 'Started'), h('dd', {}, ago(Date.parse(e.started_at), Date.parse(state.overview.now)))] : []),
		h('div', { class: 'row' }, h('button', {
			type: 'button', id: 'toggle-endpoint', disabled: state.busy.has('endpoint'),
			onclick: () => act('endpoint', () => api(running ? 'suspend_endpoint' : 'start_endpoint', args), running ? 'Suspended' : 'Started'),
		}, state.busy.has('endpoint') ? 'Working…' : running ? 'Suspend' : 'Start')),
		connectPart(b, e),
	];
}

function newBranchPart(b) {
	const name = h('input', { name: 'name', required: true, pattern: '[a-z0-9][a-z0-9_\\-]{0,62}', autocomplete: 'off', placeholder: 'feature-x' });
	const when = h('input', { name: 'when', type: 'datetime-local', step: 1 });
	const withEndpoint = h('input', { type: 'checkbox', name: 'endpoint', checked: true });
	const submit = async (event) => {
		event.preventDefault();
		const args = { tenant: b.tenant, name: name.value, parent: b.name };
		if (when.value) args.at_time = new Date(when.value).toISOString();
		const endpoint = withEndpoint.checked;
		await act('branch', async () => {
			await api('create_branch', args);
			state.branch = args.name;
			if (endpoint) await api('create_endpoint', { tenant: b.tenant, name: args.name, branch: args.name });
		}, `Branch ${args.name} created`);
	};
	return h('form', { id: 'new-branch', onsubmit: submit },
		h('h3', {}, `New branch of ${b.name}`),
		h('label', {}, 'Name', name), h('label', {}, 'As it was at (empty: now)', when),
		h('div', { class: 'row' }, h('button', { type: 'submit', class: 'main', disabled: state.busy.has('branch') }, state.busy.has('branch') ? 'Working…' : 'Create branch'),
			h('span', { class: 'check' }, withEndpoint, ' with an endpoint')));
}

function branchPanel(b, now) {
	const [kind, text] = stateOf(b);
	return h('aside', { class: 'panel', id: 'branch', 'data-branch': b.name },
		h('div', { class: 'title' }, h('h2', {}, b.name), h('span', { class: `state ${kind}` }, text)),
		h('dl', {},
			h('dt', {}, 'Parent'), h('dd', {}, b.parent ?? '–'),
			h('dt', {}, 'Created'), h('dd', { title: clock.format(Date.parse(b.created_at)) }, ago(Date.parse(b.created_at), now)),
			b.protected ? [h('dt', {}, 'Protected'), h('dd', {}, 'yes')] : [],
			h('dt', {}, 'Begins at'), h('dd', { class: 'mono' }, b.start_lsn ?? '–'),
			storageOf(b)?.last_record_lsn ? [h('dt', {}, 'Stored up to'), h('dd', { class: 'mono' }, storageOf(b).last_record_lsn)] : [],
			h('dt', {}, 'Timeline'), h('dd', { class: 'mono', title: b.timeline_id }, `${b.timeline_id.slice(0, 12)}…`)),
		endpointPart(b), newBranchPart(b));
}

// ---------------------------------------------------------------- a login that waits at a terminal

const waitingCode = () => new URLSearchParams(location.hash.slice(1)).get('login');

function confirmPanel() {
	const w = state.waiting;
	const list = state.overview.endpoints;
	const select = h('select', { id: 'confirm-endpoint' }, list.map((e) => h('option', { value: e.id }, `${e.id} (${e.state})`)));
	const close = () => { history.replaceState(null, '', location.pathname); state.waiting = null; render(); };
	return h('section', { class: 'panel confirm', id: 'confirm' },
		h('div', { class: 'title' }, h('h2', {}, 'A terminal waits for you'), h('span', { class: 'mono' }, w.code)),
		h('p', {}, `Someone at ${w.address} asked to connect ${ago(Date.parse(w.created_at), Date.parse(state.overview.now))}. `,
			'Confirm only if that was you, and the code is the one in your terminal.'),
		h('label', {}, 'Endpoint', select),
		h('div', { class: 'row' },
			h('button', { type: 'button', class: 'main', id: 'confirm-login', disabled: state.busy.has('confirm') || !list.length, onclick: async () => {
				const endpoint = select.value;
				if (await act('confirm', () => api('confirm_login', { code: w.code, endpoint }), 'Confirmed: look at your terminal')) close();
			} }, 'Confirm'),
			h('button', { type: 'button', class: 'quiet', onclick: close }, 'It was not me')));
}

async function lookAtWaiting() {
	const code = waitingCode();
	if (!code) return;
	try {
		state.waiting = await api('waiting_login', { code });
	} catch (e) {
		state.waiting = null;
		history.replaceState(null, '', location.pathname);
		failed(e);
	}
	render();
}

// ---------------------------------------------------------------- the whole

function loginPanel() {
	const error = h('p', { class: 'error', role: 'alert' });
	const token = h('input', { name: 'token', type: 'password', autocomplete: 'off', autofocus: true, id: 'token' });
	const user = h('input', { name: 'user', autocomplete: 'username' });
	const password = h('input', { name: 'password', type: 'password', autocomplete: 'current-password' });
	const submit = async (event) => {
		event.preventDefault();
		error.textContent = '';
		try {
			await api('login', token.value.trim() ? { token: token.value.trim() } : { user: user.value, password: password.value });
			await begin();
		} catch (e) {
			error.textContent = e.message;
		}
	};
	return h('form', { class: 'panel login', id: 'login', onsubmit: submit },
		h('h2', {}, 'Log in'),
		h('p', {}, 'A token comes from the controller:'),
		h('p', { class: 'mono' }, 'SELECT neon_controller.console_token();'),
		h('label', {}, 'Token', token),
		h('details', {}, h('summary', {}, 'or with a role of the controller'), h('label', {}, 'Role', user), h('label', {}, 'Password', password)),
		error,
		h('div', { class: 'row' }, h('button', { type: 'submit', class: 'main' }, 'Log in')));
}

function tenantTabs() {
	return state.overview.tenants.map((t) => h('button', {
		type: 'button', 'aria-current': String(t.id === state.tenant), title: t.id, 'data-tenant': t.name,
		onclick: () => { state.tenant = t.id; state.branch = null; render(); },
	}, t.name));
}

// What someone types or has opened survives a redraw.
function keepForm(draw) {
	const before = $('new-branch');
	const values = before ? Object.fromEntries([...before.elements].filter((e) => e.name).map((e) => [e.name, e.type === 'checkbox' ? e.checked : e.value])) : {};
	const of = $('branch')?.dataset.branch;
	const focus = document.activeElement?.name && before?.contains(document.activeElement) ? document.activeElement.name : null;
	const chosen = $('confirm-endpoint')?.value;
	draw();
	const after = $('new-branch');
	if (after && $('branch').dataset.branch === of)
		for (const e of after.elements) {
			if (!(e.name in values)) continue;
			if (e.type === 'checkbox') e.checked = values[e.name];
			else e.value = values[e.name];
			if (e.name === focus) e.focus();
		}
	if (chosen && $('confirm-endpoint')) $('confirm-endpoint').value = chosen;
}

function render() {
	if (!state.overview) {
		$('tenants').replaceChildren();
		$('logout').hidden = true;
		$('main').replaceChildren(loginPanel());
		return;
	}
	const { tenants } = state.overview;
	if (!tenants.some((t) => t.id === state.tenant)) state.tenant = tenants[0]?.id ?? null;
	const list = branches();
	if (!list.some((b) => b.name === state.branch) && !state.busy.has('branch')) state.branch = inOrder(list)[0]?.name ?? null;
	const now = Date.parse(state.overview.now);
	const chosen = list.find((b) => b.name === state.branch);
	keepForm(() => {
		$('logout').hidden = false;
		$('tenants').replaceChildren(...tenantTabs());
		$('main').replaceChildren(...[
			state.waiting ? confirmPanel() : null,
			tenants.length ? h('div', { class: 'grid' }, h('div', {}, treePanel(list, now), storagePanel(list)), chosen ? branchPanel(chosen, now) : null)
				: h('p', { class: 'empty' }, "There are no tenants yet: SELECT neon_create_tenant('name');"),
		].filter(Boolean));
	});
}

function failed(e) {
	if (e.status === 401) {
		state.overview = null;
		state.uris.clear();
		render();
	} else {
		toast(e.message, true);
	}
}

let drawn = '', shown = '', shownAt = 0;
async function refresh() {
	try {
		const { now, ...rest } = state.overview = await api('overview');
		const text = JSON.stringify(rest);
		$('pulse').className = 'good';
		// the tree moves with time, but nobody sees it move within a quarter of a minute
		if (text !== shown || Date.parse(now) - shownAt > 15000) {
			shown = text;
			shownAt = Date.parse(now);
			render();
		}
	} catch (e) {
		$('pulse').className = 'lost';
		if (e.status === 401) failed(e);
	}
}

async function refreshStorage() {
	if (!state.overview) return;
	try {
		const answer = await api('storage');
		const text = JSON.stringify(answer);
		state.away = answer.away;
		state.storage = new Map(answer.branches.map((b) => [key(b.tenant, b.name), b]));
		if (text !== drawn) render();
		drawn = text;
	} catch (e) {
		if (e.status === 401) failed(e);
	}
}

async function begin() {
	state.overview = await api('overview');
	$('pulse').className = 'good';
	render();
	await Promise.all([refreshStorage(), lookAtWaiting()]);
}

function theme(choice) {
	document.documentElement.dataset.theme = choice;
	try { localStorage.setItem('theme', choice); } catch { /* a private window */ }
}

async function main() {
	let kept = null;
	try { kept = localStorage.getItem('theme'); } catch { /* a private window */ }
	document.documentElement.dataset.theme = kept ?? (matchMedia('(prefers-color-scheme: dark)').matches ? 'dark' : 'light');
	$('theme').addEventListener('click', () => theme(document.documentElement.dataset.theme === 'dark' ? 'light' : 'dark'));
	$('logout').addEventListener('click', async () => {
		await api('logout').catch(() => {});
		failed({ status: 401 });
	});
	addEventListener('resize', () => state.overview && render());
	addEventListener('hashchange', () => state.overview && lookAtWaiting());
	state.config = await (await fetch('/console/api/config')).json();
	try {
		await begin();
	} catch {
		render();
	}
	setInterval(() => { if (state.overview && !document.hidden && !state.busy.size) refresh(); }, OVERVIEW_MS);
	setInterval(() => { if (!document.hidden) refreshStorage(); }, STORAGE_MS);
}

main();
