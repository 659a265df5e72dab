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

/** A request to a bot's own host that no browser would send. */
function ask(host, path, headers = {}) {
  const { port } = new URL(platform.url);
  return new Promise((done, failed) => {
    const sent = request({ host: '127.0.0.1', port, path, headers: { host, ...headers } }, (response) => {
      let text = '';
      response.on('data', (piece) => (text += piece));
      response.on('end', () => done({ status: response.statusCode, headers: response.headers, text }));
    });
    sent.on('error', failed).end();
  });
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

  test('opens by a link, signed in', async () => {
    link = await platform.link('acme');
    await page.goto(link);
    await page.waitForURL(`${platform.host('acme')}/#/welcome`);
    await page.locator('.v-navigation-drawer').first().waitFor();
    assert.equal(await page.locator('input[type=password]').count(), 0, 'nobody is asked for a password');
    await page.waitForLoadState('networkidle');
    assert.deepEqual(complaints, [], 'nothing that the page asks for by itself is refused');
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
    const persona = { persona_id: 'captain', system_prompt: 'You are a captain.', begin_dialogs: [], tools: [], skills: [], custom_error_message: '' };
    const made = await inPage('POST', '/api/v1/personas', persona);
    assert.equal(made.json.status, 'ok', JSON.stringify(made));
    await page.goto(`${platform.host('acme')}/#/persona`);
    await page.getByText('captain').first().waitFor();
  });

  test('adds a channel', async () => {
    const config = { id: 'shop', type: 'line', enable: true, unified_webhook_mode: true, webhook_uuid: '0123456789abcdef', channel_access_token: 'token', channel_secret: 'secret' };
    const made = await inPage('POST', '/api/v1/bots', { config });
    assert.equal(made.json.status, 'ok', JSON.stringify(made));
    await page.goto(`${platform.host('acme')}/#/platforms`);
    await page.getByText('shop').first().waitFor();
    const { channels } = await platform.get('/tenants/acme/instance');
    assert.deepEqual(channels.map(({ id, type }) => ({ id, type })), [{ id: 'shop', type: 'line' }]);
  });

  test('refuses to install a plugin, and its page says why', async () => {
    const refused = await inPage('POST', '/api/v1/plugins/install/github', { url: 'https://github.com/a/b' });
    assert.equal(refused.status, 403);
    assert.match(refused.json.message, /plugins run their own code/);
  });

  test('shows and takes no value of the platform', async () => {
    const { json } = await inPage('GET', '/api/v1/system-config');
    const config = json.data.config ?? json.data;
    assert.equal(config.dashboard.jwt_secret, '***');
    const text = JSON.stringify(json);
    assert.doesNotMatch(text, /afk-/, 'the virtual key of the model gateway');
    config.dashboard.jwt_secret = 'taken over';
    config.timezone = 'Asia/Shanghai';
    const written = await inPage('PUT', '/api/v1/system-config', config);
    assert.equal(written.json.status, 'ok', JSON.stringify(written));
    const again = await inPage('GET', '/api/v1/system-config');
    assert.equal((again.json.data.config ?? again.json.data).timezone, 'Asia/Shanghai');
    // Our tokens are signed with the secret that was to be replaced: they still count.
    assert.equal((await inPage('GET', '/api/v1/personas')).json.status, 'ok');
  });

  test('has exactly the routes that the table was written for', async () => {
    const { json } = await inPage('GET', '/api/v1/openapi.json');
    const methods = ['get', 'post', 'put', 'patch', 'delete', 'head', 'options'];
    const routes = Object.entries(json.paths).flatMap(([path, item]) => methods.filter((method) => method in item).map((method) => `${method.toUpperCase()} ${path}`));
    const known = readFileSync(new URL('../crates/server/tests/dashboard/astrbot-4.29.3-routes.txt', import.meta.url), 'utf8').trim().split('\n');
    assert.deepEqual(routes.sort(), known.sort());
  });

  test("another tenant's cookie, a used link, a forged host and another site get nowhere", async () => {
    const [{ name, value }] = await context.cookies(platform.host('acme'));
    const cookie = `${name}=${value}`;
    const [acme, globex] = ['acme', 'globex'].map((tenant) => new URL(platform.host(tenant)).host);
    assert.equal((await ask(acme, '/api/v1/personas', { cookie })).status, 200);
    assert.equal((await ask(globex, '/api/v1/personas', { cookie })).status, 401);
    assert.equal((await ask('nobody.localhost', '/', { cookie })).status, 404);
    const used = await ask(acme, new URL(link).pathname + new URL(link).search);
    assert.deepEqual([used.status, used.headers['set-cookie']], [410, undefined]);

    const other = await browser.newContext();
    const theirs = await other.newPage();
    await theirs.goto(await platform.link('globex'));
    await theirs.waitForURL(`${platform.host('globex')}/#/welcome`);
    const outcome = await theirs.evaluate(
      (target) => fetch(`${target}/api/v1/personas`, { credentials: 'include' }).then((response) => response.status, () => 'refused'),
      platform.host('acme'),
    );
    assert.equal(outcome, 'refused');
    await theirs.goto(platform.host('acme'));
    await theirs.getByText('You are signed out').waitFor();
    await other.close();
  });

  test('says that it gets ready while the bot is away, and comes back by itself', async () => {
    await platform.post('/tenants/acme/instance/restart');
    await until('the page of a bot that gets ready', async () => {
      await page.goto(platform.host('acme'));
      return (await page.getByText('机器人').count()) > 0 && (await page.locator('meta[http-equiv=refresh]').count()) > 0;
    });
    await page.locator('.v-navigation-drawer').first().waitFor({ timeout: 300_000 });
  });

  test('is left by the way out', async () => {
    await page.evaluate(() => { location.hash = '#/auth/login'; });
    await page.getByText('You are signed out').waitFor();
    assert.deepEqual(await context.cookies(platform.host('acme')), []);
  });
});
