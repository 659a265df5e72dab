// The real binary as its users start it, with a folder of its own, two tenants, and their real bots.

import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';

const PASSWORD = 'correct horse battery staple';
// Bots need some ten seconds of a processor each to start, and share the machine with other tests.
const PATIENCE_MS = 300_000;

/** Waits until `look` finds something. */
export async function until(what, look, patience = PATIENCE_MS) {
  const end = Date.now() + patience;
  for (;;) {
    const found = await look();
    if (found) return found;
    if (Date.now() > end) throw new Error(`waited too long for ${what}`);
    await sleep(100);
  }
}

/** What the platform stands on, for as long as the process runs: the variables that lead there are its first line. */
async function startBackends(folder) {
  const servers = spawn(join(folder, 'test-backends'), { stdio: ['pipe', 'pipe', 'inherit'] });
  const { value, done } = await createInterface({ input: servers.stdout })[Symbol.asyncIterator]().next();
  if (done) throw new Error('the servers did not start');
  return { servers, variables: JSON.parse(value) };
}

export class Platform {
  static async start() {
    const program = process.env.ASTRFLEET_BIN;
    if (!program || !existsSync(program)) throw new Error('ASTRFLEET_BIN names no file: cargo build --workspace --bins');
    const platform = new Platform();
    const { servers, variables } = await startBackends(dirname(program));
    platform.servers = servers;
    platform.folder = mkdtempSync(join(tmpdir(), 'astrfleet-e2e-'));
    const own = { ASTRFLEET_ADMIN_PASSWORD: PASSWORD, ASTRFLEET__GATEWAY__METRICS_LISTEN: 'none', ASTRFLEET__LOG__FORMAT: 'json' };
    const inherited = Object.fromEntries(['PATH', 'HOME', 'PYENV_ROOT', 'TMPDIR', 'LANG'].filter((name) => name in process.env).map((name) => [name, process.env[name]]));
    platform.process = spawn(
      program,
      ['up', '--json', '--listen', '127.0.0.1:0', '--data-dir', join(platform.folder, 'data'), '--runtime-dir', join(tmpdir(), 'astrfleet-test-runtime')],
      { env: { ...inherited, ...variables, ...own }, stdio: ['ignore', 'pipe', 'pipe'] },
    );
    platform.log = [];
    platform.bots = {};
    const events = [];
    createInterface({ input: platform.process.stderr }).on('line', (line) => platform.log.push(line));
    createInterface({ input: platform.process.stdout }).on('line', (line) => events.push(JSON.parse(line)));
    platform.ended = new Promise((done) => platform.process.on('exit', (code) => done(code)));
    let code;
    platform.ended.then((ended) => (code = ended));
    const ready = await until('the platform', () => {
      if (code !== undefined) throw new Error(`the platform ended with ${code}:\n${platform.log.slice(-30).join('\n')}`);
      return events.find((event) => event.event === 'ready');
    });
    platform.url = ready.url;
    const administrator = events.find((event) => event.event === 'administrator');
    platform.token = (await platform.post('/auth/login', { email: administrator.email, password: PASSWORD })).access_token;
    return platform;
  }

  async call(method, path, body) {
    const headers = { ...(this.token && { authorization: `Bearer ${this.token}` }), ...(body && { 'content-type': 'application/json' }) };
    const response = await fetch(`${this.url}/api/v1${path}`, { method, headers, body: body && JSON.stringify(body) });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
    return text ? JSON.parse(text) : undefined;
  }

  get(path) {
    return this.call('GET', path);
  }

  post(path, body = {}) {
    return this.call('POST', path, body);
  }

  /** A tenant, and its bot when it answers. */
  async tenant(name) {
    await this.post('/tenants', { name, email: `owner@${name}.example` });
    await until(`the bot of ${name}`, async () => {
      const bot = await this.get(`/tenants/${name}/instance`);
      if (bot.observed === 'failed') throw new Error(bot.reason);
      this.bots[name] = bot.id;
      return bot.ready;
    });
  }

  /** A link to a bot's own dashboard: for one use, within a minute. */
  async link(name) {
    return (await this.post(`/tenants/${name}/instance/open`)).url;
  }

  /** The address of a bot's own host. */
  host(name) {
    return `http://${name}.localhost:${new URL(this.url).port}`;
  }

  /** What a bot keeps as its configuration, as it is on the disk. */
  configOf(name) {
    const file = join(this.folder, 'data', 'bots', this.bots[name], 'data', 'cmd_config.json');
    return JSON.parse(readFileSync(file, 'utf8').replace(/^\uFEFF/, ''));
  }

  async stop() {
    this.process.kill('SIGINT');
    const code = await this.ended;
    this.servers.stdin.end();
    rmSync(this.folder, { recursive: true, force: true });
    return code;
  }
}
