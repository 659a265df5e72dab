// The dashboards of two real bots in Chromium, signed in by links.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { request } from 'node:http';
import { after, before, describe, test } from 'node:test';

import { chromium } from 'playwright-core';

import { Platform, until } from './platform.js';

const SLOW_MS = 90_000;
let platform;
let browser;
let context;
let page;
/** What the pages complained about, and what failed to load. */
const complaints = [];

/** What of the bot's API is described, and what of that is refused: a method and a template each. */
const [routes, refused] = ['routes', 'refused'].map((what) =>
  readFileSync(new URL(`../crates/server/tests/dashboard/astrbot-4.29.3-${what}.txt`, import.meta.url), 'utf8').trim().split('\n'),
);

/** A request to a bot's own host that no browser would send. A stream is read for some seconds. */
function ask(host, path, headers = {}, method = 'GET') {
  const { port } = new URL(platform.url);
  return new Promise((done, failed) => {
    const sent = request({ host: '127.0.0.1', port, path, method, headers: { host, ...headers } }, (response) => {
      let text = '';
      const answered = () => done({ status: response.statusCode, headers: response.headers, text });
      response.on('data', (piece) => (text += piece)).on('close', answered).on('error', answered);
      setTimeout(() => sent.destroy(), 5_000).unref();
    });
    sent.on('error', failed).end();
  });
}

/** Asks for every route, a few at a time. */
async function walk(list, cookie, visit, fill = 'some') {
  const waiting = [...list];
  const go = async () => {
    for (let route = waiting.shift(); route; route = waiting.shift()) {
      const [method, template] = route.split(' ');
      const path = template.replaceAll(/\{[^}]+\}/g, fill);
      visit(route, await ask(new URL(platform.host('acme')).host, path, { cookie }, method));
    }
  };
  await Promise.all(Array.from({ length: 6 }, go));
}

/** The cookie with which the browser is signed in at acme's bot. */
async function cookieOfAcme() {
  const [{ name, value }] = await context.cookies(platform.host('acme'));
  return `${name}=${value}`;
}

/** A page of the bot's, new from the ground. */
async function visit(name) {
  // Another hash alone is no new page.
  await page.goto('about:blank');
  await page.goto(`${platform.host('acme')}/#/${name}`);
  await page.locator('.v-navigation-drawer').first().waitFor();
}

/** Calls the bot's own API as its page does. */
function inPage(method, path, body) {
  return page.evaluate(
    async ([method, path, body]) => {
      const headers = { Authorization: `Bearer ${localStorage.getItem('token')}`, 'Content-Type': 'application/json' };
      const response = await fetch(path, { method, headers, body: body && JSON.stringify(body) });
      return { status: response.status, json: await response.json() };
    },
    [method, path, body],
  );
}

before(async () => {
  platform = await Platform.start();
  await Promise.all([platform.tenant('acme'), platform.tenant('globex')]);
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || '/usr/bin/chromium',
    args: ['--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
  context = await browser.newContext({ locale: 'en-US' });
  context.setDefaultTimeout(SLOW_MS);
  page = await context.newPage();
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('response', (response) => {
    if (response.status() >= 400) complaints.push(`${response.status()} ${response.request().method()} ${new URL(response.url()).pathname}`);
  });
});

after(async () => {
  await browser?.close();
  if (platform) assert.equal(await platform.stop(), 0, platform.log.slice(-20).join('\n'));
});

describe('the reference of the API', () => {
  test('draws every operation, and tries one', async () => {
    await page.goto(platform.url);
    const document = await (await fetch(`${platform.url}/openapi.json`)).json();
    const operations = Object.values(document.paths).flatMap((item) => Object.keys(item).filter((key) => /^(get|post|put|patch|delete)$/.test(key)));
    await page.locator('details.operation').first().waitFor();
    assert.equal(await page.locator('details.operation').count(), operations.length);
    await page.locator('#health summary').first().click();
    await page.locator('#health button[type=submit]').click();
    await page.locator('#health pre', { hasText: '"status": "ok"' }).waitFor();
    assert.deepEqual(complaints, []);
  });
});

describe("a bot's own dashboard", () => {
  let link;

  test('opens by a link, signed in, in the language of the browser', async () => {
    link = await platform.link('acme');
    await page.goto(link);
    await page.getByText(/welcome to AstrBot/i).first().waitFor();
    assert.equal(new URL(page.url()).origin, platform.host('acme'));
    assert.equal(await page.locator('input[type=password]').count(), 0, 'nobody is asked for a password');
    await page.waitForLoadState('networkidle');
    const refusals = new Set(complaints);
    refusals.delete('403 GET /api/v1/updates/check');
    assert.deepEqual([...refusals], [], 'nothing else that the page asks for by itself is refused');
  });

  test('the cookie is of this host alone and out of reach of scripts', async () => {
    const cookies = await context.cookies();
    assert.deepEqual(cookies.map(({ name, domain, httpOnly, sameSite, path }) => ({ name, domain, httpOnly, sameSite, path })), [
      { name: 'astrfleet', domain: 'acme.localhost', httpOnly: true, sameSite: 'Strict', path: '/' },
    ]);
    assert.equal(await page.evaluate(() => document.cookie), '');
    assert.equal(await page.evaluate(() => localStorage.getItem('token')), 'signed-in-by-the-platform');
  });

  test('answers in its chat, streamed', async () => {
    await page.goto(`${platform.host('acme')}/#/chat`);
    const box = page.locator('textarea:visible').first();
    await box.fill('Hello from the dashboard');
    const streamed = page.waitForResponse((response) => response.url().endsWith('/api/v1/chat') && response.request().method() === 'POST');
    await box.press('Enter');
    assert.match((await streamed).headers()['content-type'], /text\/event-stream/);
    await page.getByText('Hello from the dashboard').first().waitFor();
    // The built-in model says what it is.
    await page.getByText(/demo/i).first().waitFor();
  });

  test('keeps a persona', async () => {
    await visit('persona');
    await page.getByRole('button', { name: 'Create Persona' }).first().click();
    await page.getByLabel('Persona ID').fill('captain');
    await page.getByLabel('System Prompt').fill('You are a captain.');
    await page.getByRole('button', { name: 'Save' }).click();
    await page.getByText('You are a captain.').first().waitFor();
    const { json } = await inPage('GET', '/api/v1/personas');
    assert.ok(JSON.stringify(json.data).includes('captain'), JSON.stringify(json));
  });

  test('adds a channel', async () => {
    await visit('platforms');
    await page.getByRole('button', { name: 'Add Adapter' }).first().click();
    const form = page.locator('.v-overlay--active');
    await form.locator('.v-field').first().click();
    await page.locator('.v-overlay--active .v-list-item', { hasText: /^Line$/ }).click();
    await form.locator('input[type=password]').nth(0).fill('an access token');
    await form.locator('input[type=password]').nth(1).fill('a channel secret');
    await form.getByRole('button', { name: 'Save', exact: true }).click();
    const channels = await until('the channel', async () => {
      const bot = await platform.get('/tenants/acme/instance');
      return bot.channels.length > 0 && bot.channels;
    });
    assert.deepEqual(channels.map(({ type }) => type), ['line']);
  });

  test('refuses to install a plugin, and its page says why', async () => {
    await visit('extension');
    await page.locator('button:has(.mdi-plus)').last().click();
    await page.getByText('Install From URL').click();
    const form = page.locator('.v-overlay--active');
    await form.locator('input[type=text]:visible').first().fill('https://github.com/a/b');
    await form.getByRole('button', { name: 'Install', exact: true }).click();
    await form.getByText(/Plugins run their own code beside other tenants' bots/).first().waitFor();
    const answer = await inPage('POST', '/api/v1/plugins/install/github', { url: 'https://github.com/a/b' });
    assert.equal(answer.status, 403);
    assert.match(answer.json.message, /Plugins run their own code/);
  });

  test('shows and takes no value of the platform', async () => {
    const { json } = await inPage('GET', '/api/v1/system-config');
    const config = json.data.config ?? json.data;
    assert.equal(config.dashboard.jwt_secret, '***');
    config.dashboard.jwt_secret = 'taken over';
    config.timezone = 'Asia/Shanghai';
    const written = await inPage('PUT', '/api/v1/system-config', config);
    assert.equal(written.json.status, 'ok', JSON.stringify(written));
    const again = await inPage('GET', '/api/v1/system-config');
    assert.equal((again.json.data.config ?? again.json.data).timezone, 'Asia/Shanghai');
    // Our tokens are signed with the secret that was to be replaced: they still count.
    assert.equal((await inPage('GET', '/api/v1/personas')).json.status, 'ok');
  });

  test("leaves the platform's model provider alone, however it is named", async () => {
    const before = platform.configOf('acme').provider_sources;
    const elsewhere = { id: 'own', provider_source_id: 'platform', api_base: 'http://elsewhere.example' };
    for (const [method, path, body] of [
      ['DELETE', '/api/v1/provider-sources/platform'],
      ['DELETE', '/api/v1/provider-sources/by-id?source%5Fid=platform'],
      ['DELETE', '/api/v1/providers/platform%2Fdemo'],
      ['PUT', '/api/v1/provider-sources/by-id?source%5Fid=platform', { source_id: 'platform', config: elsewhere }],
      ['PUT', '/api/v1/provider-sources/platform', { config: { id: 'platform', api_base: 'http://elsewhere.example' } }],
      ['POST', '/api/v1/providers', { config: elsewhere }],
      ['POST', '/api/v1/providers/platform%2Fdemo/embedding-dimension', { provider_config: elsewhere }],
    ]) {
      const answer = await inPage(method, path, body);
      assert.equal(answer.status, 403, `${method} ${path}: ${JSON.stringify(answer)}`);
      assert.match(answer.json.message, /belongs to the platform/);
    }
    assert.deepEqual(platform.configOf('acme').provider_sources, before);
  });

  test('nothing that may be read has a secret of the platform in it', async () => {
    const { dashboard, provider_sources: sources } = platform.configOf('acme');
    const [key] = sources.find(({ id }) => id === 'platform').key;
    const secrets = [dashboard.jwt_secret, dashboard.password, dashboard.pbkdf2_password, key];
    for (const secret of secrets) assert.ok(secret.length > 16, 'a secret is there to be found');
    const readable = routes.filter((route) => route.startsWith('GET ') && !refused.includes(route));
    const cookie = await cookieOfAcme();
    let answered = 0;
    for (const fill of ['default', 'platform', 'platform%2Fdemo']) {
      const these = fill === 'default' ? readable : readable.filter((route) => route.includes('{'));
      await walk(these, cookie, (route, { status, text }) => {
        if (status === 200) answered += 1;
        for (const secret of secrets) assert.ok(!text.includes(secret), route);
      }, fill);
    }
    for (const query of ['provider-sources/by-id?source_id=platform', 'providers/by-id?provider_id=platform%2Fdemo&merged=true', 'providers?source_id=platform']) {
      const { text } = await ask(new URL(platform.host('acme')).host, `/api/v1/${query}`, { cookie });
      for (const secret of secrets) assert.ok(!text.includes(secret), query);
    }
    assert.ok(answered > 50, `${answered} of them answered`);
  });

  test('has exactly the routes that the table was written for', async () => {
    const { json } = await inPage('GET', '/api/v1/openapi.json');
    const methods = ['get', 'post', 'put', 'patch', 'delete', 'head', 'options'];
    const described = Object.entries(json.paths).flatMap(([path, item]) => methods.filter((method) => method in item).map((method) => `${method.toUpperCase()} ${path}`));
    assert.deepEqual(described.sort(), [...routes].sort());
    const asked = new Set();
    await walk(refused, await cookieOfAcme(), (route, { status, text }) => {
      asked.add(route);
      assert.equal(status, 403, `${route}: ${text}`);
      assert.match(JSON.parse(text).message, /^[A-Z].+\. \/ .+。$/, route);
    });
    assert.equal(asked.size, refused.length);
  });

  test("another tenant's cookie, a used link, a forged host and another site get nowhere", async () => {
    const cookie = await cookieOfAcme();
    const [acme, globex] = ['acme', 'globex'].map((tenant) => new URL(platform.host(tenant)).host);
    assert.equal((await ask(acme, '/api/v1/personas', { cookie })).status, 200);
    assert.equal((await ask(globex, '/api/v1/personas', { cookie })).status, 401);
    assert.equal((await ask('nobody.localhost', '/', { cookie })).status, 404);
    const used = await ask(acme, new URL(link).pathname + new URL(link).search);
    assert.deepEqual([used.status, used.headers['set-cookie']], [410, undefined]);

    const other = await browser.newContext();
    const theirs = await other.newPage();
    await theirs.goto(await platform.link('globex'));
    await theirs.locator('.v-navigation-drawer').first().waitFor({ timeout: SLOW_MS });
    const outcome = await theirs.evaluate(
      (target) => fetch(`${target}/api/v1/personas`, { credentials: 'include' }).then((response) => response.status, () => 'refused'),
      platform.host('acme'),
    );
    assert.equal(outcome, 'refused');
    await theirs.goto(platform.host('acme'));
    await theirs.getByText('You are signed out').waitFor();
    await other.close();
  });

  test('what is refused never reaches the bot: it is refused while there is none', async () => {
    await platform.post('/tenants/acme/instance/stop');
    const cookie = await cookieOfAcme();
    const { host } = new URL(platform.host('acme'));
    await until('the stop', async () => (await ask(host, '/api/v1/personas', { cookie })).status === 503);
    await walk(routes, cookie, (route, { status, text }) => {
      assert.equal(status, refused.includes(route) ? 403 : 503, `${route}: ${text}`);
    });
    await page.goto(platform.host('acme'));
    await page.getByText('The bot is stopped').waitFor();
  });

  test('says that it gets ready while the bot is away, and comes back by itself', async () => {
    await platform.post('/tenants/acme/instance/start');
    await until('the page of a bot that gets ready', async () => {
      await page.goto(platform.host('acme'));
      return (await page.locator('meta[http-equiv=refresh]').count()) > 0;
    });
    assert.ok(await page.getByText('The bot is getting ready').isVisible());
    await page.locator('.v-navigation-drawer').first().waitFor({ timeout: 300_000 });
  });

  test('is left by the way out', async () => {
    await page.evaluate(() => { location.hash = '#/auth/login'; });
    await page.getByText('You are signed out').waitFor();
    assert.deepEqual(await context.cookies(platform.host('acme')), []);
  });
});
