// The dashboard in a real browser: every page, light and dark, phone and wide; by keyboard; without JavaScript; with a host
// that attacks; and on TLS. Every wait has its bound.
// Usage: node dashboard.mjs EXAMPLE_PROGRAM CONTROLD DIR [SCREENSHOT_DIR]
import { get } from "node:https";
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import assert from "node:assert/strict";
import { chromium } from "playwright-core";
import { controld, example, within } from "./server.mjs";

const [program, controldProgram, dir, shots] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const PASSWORD = "correct horse battery staple";
const WIDE = { width: 1280, height: 860 };
const PHONE = { width: 390, height: 844 };
/// For one act in a page, and for the whole, ms: the walk takes a minute and a half alone on two cores.
const ACT_MS = 30_000;
const WALK_MS = 15 * 60_000;
setTimeout(() => { process.stdout.write(`failed: the walk took longer than ${WALK_MS} ms\n`); process.exit(1); }, WALK_MS).unref();

const passed = [];
let looks = 0;
const site = await example(program, `${dir}/home`);
const order = site.order;
const url = (path) => site.url + path;
const id = (name) => `[data-testid="${name}"]`;

const launch = (args) => chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  timeout: ACT_MS * 2,
  // Its own sandbox needs a user namespace, which root in a container does not get.
  args: [...(process.getuid() === 0 ? ["--no-sandbox"] : []), ...args],
});
const browser = await launch([]);

async function step(name, run) {
  const started = Date.now();
  try {
    await run();
  } catch (error) {
    process.stdout.write(`FAILED ${name} (${Date.now() - started} ms)\n`);
    throw error;
  }
  passed.push(name);
  process.stdout.write(`ok ${name} (${Date.now() - started} ms)\n`);
}

// A context whose pages fail the run on any violation of the policy, any error of a script, any dialog, and any request
// that goes elsewhere or to what no page of ours asks for.
const faults = [];
async function context(options = {}, from = browser, origin = site.url) {
  const made = await from.newContext({ viewport: WIDE, ...options });
  made.setDefaultTimeout(ACT_MS);
  made.setDefaultNavigationTimeout(ACT_MS);
  made.on("page", (page) => {
    looks += 1;
    page.on("console", (message) => {
      if (message.type() === "error") faults.push(`${page.url()}: ${message.text()}`);
    });
    page.on("pageerror", (error) => faults.push(`${page.url()}: ${error}`));
    page.on("dialog", (dialog) => { faults.push(`${page.url()}: dialog ${dialog.message()}`); dialog.dismiss().catch(() => {}); });
    page.on("request", (request) => {
      const to = new URL(request.url());
      const own = to.origin === origin && !/zq|evil|%3C/i.test(to.pathname);
      if (!own && to.protocol !== "data:") faults.push(`${page.url()}: a request to ${to}`);
    });
    page.on("popup", (popup) => faults.push(`${page.url()}: a window ${popup.url()}`));
  });
  return made;
}
async function login(page) {
  await page.goto(url("/login"));
  await page.fill(id("login-name"), "owner");
  await page.fill(id("login-password"), PASSWORD);
  await page.click(id("login"));
  await page.waitForSelector(id("headline"));
}

let state, hosts;
const screens = () => [
  ["stacks", "/"],
  ["stack", `/stacks/${site.stack}`],
  ["service", `/stacks/${site.stack}/services/api`],
  ["hosts", "/hosts"],
  ["host", `/hosts/${hosts["web-2"]}`],
  ["host-silent", `/hosts/${hosts["web-3"]}`],
  ["host-pending", `/hosts/${hosts["web-4"]}`],
  ["events", "/events"],
  ["events-filtered", `/events?stack=${site.stack}&severity=error`],
  ["draft", `/stacks/${site.stack}/draft`],
  ["draft-follows", `/stacks/${site.site}/draft`],
  ["versions", `/stacks/${site.stack}/versions`],
  ["version", `/stacks/${site.stack}/versions/2`],
  ["rollback", `/stacks/${site.stack}/versions/1/rollback`],
  ["join", `/stacks/${site.stack}/join`],
  ["audit", "/audit"],
  ["account", "/account"],
];

async function check(page, name) {
  // The policy allows no script of others, so axe comes in by way of the debugger.
  looks += 1;
  await page.evaluate(axe);
  const found = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  const told = found.violations.map((one) => `${one.id}: ${one.help}\n    ${one.nodes.map((node) => node.html).slice(0, 3).join("\n    ")}`);
  assert.deepEqual(told, [], `${name}: axe`);
}
// Of the first screen, as somebody sees it who has just come.
async function shoot(name, path) {
  mkdirSync(shots, { recursive: true });
  for (const colorScheme of ["light", "dark"]) {
    const made = await context({ colorScheme, storageState: state });
    const page = await made.newPage();
    for (const [size, viewport] of [["wide", { width: 1200, height: 720 }], ["phone", PHONE]]) {
      if (size === "phone" && !["stacks", "stack", "hosts"].includes(name)) continue;
      await page.setViewportSize(viewport);
      await page.goto(url(path));
      await page.waitForSelector(id("headline"));
      await page.screenshot({ path: `${shots}/${name}-${size}-${colorScheme}.png` });
    }
    await made.close();
  }
}
async function fits(page, name) {
  const [wide, room] = await page.evaluate(() => [document.documentElement.scrollWidth, document.documentElement.clientWidth]);
  assert.ok(wide <= room, `${name}: ${wide} px wide in a window of ${room} px`);
}

try {
  await step("set up by the link, without JavaScript", async () => {
    const plain = await context({ javaScriptEnabled: false });
    const page = await plain.newPage();
    await page.goto(url(site.link));
    await page.fill(id("setup-name"), "owner");
    await page.fill(id("setup-password"), "short");
    await page.click(id("setup"));
    await page.waitForSelector(id("error"));
    await page.fill(id("setup-password"), PASSWORD);
    await page.click(id("setup"));
    await page.waitForSelector(id("stacks"));
    await page.click(id("logout"));
    await page.waitForSelector(id("login"));
    await login(page);
    await page.goto(url("/hosts"));
    hosts = Object.fromEntries(await page.$$eval(id("host"), (rows) => rows.map((row) => [row.querySelector("a.strong").textContent, row.dataset.host])));
    assert.deepEqual(Object.keys(hosts).sort(), ["edge-1", "web-1", "web-2", "web-3", "web-4"]);
    state = await plain.storageState();
    await plain.close();
  });
  // 422 of the short password is what was asked for.
  faults.length = 0;

  for (const colorScheme of ["light", "dark"]) {
    await step(`every page is clean of axe's findings and fits, ${colorScheme}`, async () => {
      const wide = await context({ colorScheme, storageState: state });
      const page = await wide.newPage();
      for (const [name, path] of screens()) {
        for (const [size, viewport] of [["wide", WIDE], ["phone", PHONE]]) {
          await page.setViewportSize(viewport);
          await page.goto(url(path));
          await page.waitForSelector(id("headline"));
          await check(page, `${name} ${colorScheme} ${size}`);
          await fits(page, `${name} ${colorScheme} ${size}`);
        }
      }
      await wide.close();
      const outside = await context({ colorScheme });
      const entry = await outside.newPage();
      await entry.goto(url("/login"));
      await check(entry, `login ${colorScheme}`);
      await outside.close();
    });
  }

  await step("what is broken, since when, why and what changed stand on the first pages", async () => {
    const wide = await context({ storageState: state });
    const page = await wide.newPage();
    await page.goto(url("/"));
    assert.match(await page.textContent(id("headline")), /shop is broken/);
    assert.match(await page.textContent(id("stack-problem")), /api.*web-2|web-2.*api/);
    assert.match(await page.textContent(id("stack-since")), /since [\d: -]+ \(\d+ min ago\)/);
    await page.click(`[data-stack="${site.stack}"] a.strong`);
    const text = await page.textContent("main");
    for (const words of ["HTTP 500 from /healthz", "ECONNREFUSED 10.0.0.9:5432", "b81e77a use the new payment provider", "PAYMENT_KEY added", "martha", "checkout: new payment provider"]) {
      assert.ok(text.includes(words), words);
    }
    assert.match(text, /since [\d: -]+ \(\d+ min ago\)/);
    for (const secret of ["s3cr3t-in-the-draft", "pk-live-never-shown"]) {
      for (const [, path] of screens()) {
        await page.goto(url(path));
        assert.ok(!(await page.content()).includes(secret), `${path} shows a value`);
      }
    }
    await page.goto(url(`/hosts/${hosts["web-3"]}`));
    assert.match(await page.textContent(id("host-connection")), /silent since [\d: -]+ \(\d+ min ago\)/);
    assert.ok(!(await page.textContent("main")).includes("stopped"));
    await wide.close();
  });

  await step("a deploy that heals is seen live, and said once", async () => {
    const wide = await context({ storageState: state });
    const page = await wide.newPage();
    await page.goto(url(`/stacks/${site.stack}`));
    await page.waitForSelector(`${id("problem")}`);
    const answered = page.waitForResponse((answer) => answer.url().endsWith("/live"));
    await page.reload();
    await answered;
    await order("heal");
    await page.waitForSelector(id("problem"), { state: "detached", timeout: 15000 });
    await page.waitForFunction(() => document.querySelector("#say").textContent.length > 0, null, { timeout: 15000 });
    await page.click(id("pause"));
    await order("break");
    await page.goto(url(`/stacks/${site.stack}`));
    await page.waitForSelector(id("problem"));
    await wide.close();
  });

  await step("a deploy in progress says what each host does, and then how it ended", async () => {
    const wide = await context({ storageState: state });
    const page = await wide.newPage();
    const answered = page.waitForResponse((answer) => answer.url().endsWith("/live"));
    await page.goto(url(`/stacks/${site.stack}`));
    await answered;
    await order("deploy");
    const line = (name) => `${id("deploy-host")}[data-host="${hosts[name]}"]`;
    await page.waitForSelector(`${line("web-1")} [data-status="building"]`);
    assert.match(await page.textContent(line("web-1")), /at work.*since [\d:]+ .*api.*building.*since/s);
    assert.match(await page.textContent(line("edge-1")), /fetching/);
    assert.match(await page.textContent(`${id("deploy")} h2`), /Version 2: done on 0 of 4 hosts, failed on 1, at work on 2/);
    await check(page, "deploying");
    if (shots) await shoot("stack-deploying", `/stacks/${site.stack}`);
    await order("deployed");
    await page.waitForSelector(`${line("web-1")} [data-status="done"]`);
    assert.match(await page.textContent(`${id("deploy")} h2`), /Version 2: done on 2 of 4 hosts, failed on 1, unknown of 1/);
    const grid = await page.$$eval(`${id("grid-row")}[data-service="api"] [data-status]`, (all) => all.map((one) => one.dataset.status));
    assert.deepEqual(grid.sort(), ["partial", "ready", "ready", "silent"]);
    await wide.close();
  });

  await step("a branch that moved is said before publishing", async () => {
    const wide = await context({ storageState: state });
    const page = await wide.newPage();
    await page.goto(url(`/stacks/${site.site}/draft`));
    assert.match(await page.textContent(id("headline")), /would change nothing/);
    assert.equal(await page.$(id("publish")), null);
    await order("commit");
    await page.reload();
    assert.match(await page.textContent(id("follow")), /moved/);
    assert.match(await page.textContent(id("diff")), /commit/);
    await check(page, "moved");
    await page.fill(id("publish-reason"), "it moved");
    await page.click(id("publish"));
    await page.waitForURL(/versions\/2/);
    await wide.close();
  });

  await step("a conflict is seen and cleared", async () => {
    await order("clone");
    const wide = await context({ storageState: state });
    const page = await wide.newPage();
    await page.goto(url(`/hosts/${hosts["edge-1"]}`));
    assert.match(await page.textContent(id("headline")), /two machines report/);
    await check(page, "conflict");
    await page.click(id("clear-conflict"));
    await page.waitForSelector(id("notice"));
    assert.ok(!(await page.textContent("main")).includes("two machines report"));
    await wide.close();
  });

  await step("every control is reached by keyboard, and the focus is seen", async () => {
    const wide = await context({ storageState: state });
    const page = await wide.newPage();
    await page.goto(url(`/stacks/${site.stack}`));
    await page.keyboard.press("Tab");
    assert.equal(await page.evaluate(() => document.activeElement.className), "skip");
    await page.keyboard.press("Enter");
    assert.equal(await page.evaluate(() => document.activeElement.id), "main");
    await page.goto(url(`/stacks/${site.stack}/draft`));
    const wanted = await page.$$eval("a[href], button:not([hidden]), input:not([type=hidden]), select, textarea, summary", (all) => all.length);
    const seen = new Set();
    for (let presses = 0; presses < wanted + 10; presses++) {
      await page.keyboard.press("Tab");
      const at = await page.evaluate(() => {
        const element = document.activeElement;
        const style = getComputedStyle(element);
        const all = [...document.querySelectorAll("a[href], button:not([hidden]), input:not([type=hidden]), select, textarea, summary")];
        return [all.indexOf(element), style.outlineStyle];
      });
      if (at[0] >= 0) {
        assert.notEqual(at[1], "none", "the focus is not seen");
        seen.add(at[0]);
      }
    }
    assert.equal(seen.size, wanted, "controls reached by Tab");
    await wide.close();
  });

  await step("a filter is an address, and events are found by it", async () => {
    const wide = await context({ storageState: state });
    const page = await wide.newPage();
    await page.goto(url("/events"));
    await page.selectOption(id("filter-severity"), "error");
    await page.fill(id("filter-service"), "api");
    await page.click(id("filter-apply"));
    await page.waitForURL(/severity=error/);
    const kinds = await page.$$eval(id("event"), (all) => all.map((one) => one.dataset.kind));
    assert.ok(kinds.length > 0 && kinds.every((kind) => kind === "deploy.failed"), kinds.join());
    await wide.close();
  });

  if (shots) {
    await step("screenshots", async () => {
      for (const [name, path] of screens()) {
        if (["stacks", "stack", "service", "hosts", "host", "events", "draft", "join", "version"].includes(name)) await shoot(name, path);
      }
    });
  }

  await step("by forms alone: edit, publish, roll back, hold, let in, token, revoke", async () => {
    const plain = await context({ javaScriptEnabled: false, storageState: state });
    const page = await plain.newPage();
    const at = `/stacks/${site.stack}`;
    await page.goto(url(`${at}/draft`));
    const text = await page.inputValue(id("draft-text"));
    assert.ok(text.includes("<kept>") && text.includes("# What the shop runs."), "values are kept back, comments are not");
    await page.fill(id("draft-text"), text.replace('run = "node worker.js"', 'rn = "node worker.js"'));
    await page.click(id("draft-save"));
    await page.waitForSelector(id("draft-problem"));
    assert.match(await page.textContent(id("draft-problems")), /line \d+/);
    assert.equal(await page.$(id("publish")), null, "what has problems is not published");
    await page.fill(id("draft-text"), text.replace('run = "node worker.js"', 'run = "node worker.js --fast"'));
    await page.click(id("draft-save"));
    await page.waitForSelector(id("diff"));
    assert.match(await page.textContent(id("diff")), /node worker.js --fast/);
    await page.fill(id("publish-reason"), "a faster worker");
    await page.click(id("publish"));
    await page.waitForURL(/versions\/3/);
    assert.match(await page.textContent("main"), /a faster worker/);
    await page.click(id("tab-versions"));
    await page.click(`[data-version="2"] ${id("rollback-to")}`);
    assert.match(await page.textContent(id("diff")), /node worker.js --fast/);
    await page.fill(id("rollback-reason"), "too fast");
    await page.click(id("rollback"));
    await page.waitForURL(/versions\/4/);
    await page.click(id("tab-overview"));
    await page.fill(id("hold-reason"), "for the night");
    await page.click(id("hold"));
    await page.waitForSelector(id("held"));
    await page.click(id("resume"));
    await page.waitForSelector(id("hold"));
    await page.click(id("tab-join"));
    const code = await page.textContent(id("pending-code"));
    await page.fill(id("approve-code"), "AAAA-0000");
    await page.click(id("approve"));
    await page.waitForSelector(id("error"));
    await page.goto(url(`${at}/join`));
    await page.fill(id("approve-code"), code);
    await page.click(id("approve"));
    await page.waitForSelector(id("notice"));
    assert.equal(await page.$(id("pending-host")), null);
    await page.fill(id("token-note"), "rack 7");
    await page.fill(id("token-labels"), "role=web, rack=7");
    await page.click(id("token-create"));
    assert.match(await page.textContent(id("install-command")), /agj1_/);
    await page.click(id("join-back"));
    assert.ok(!(await page.content()).includes("agj1_"), "shown once");
    assert.match(await page.textContent(id("tokens")), /rack=7/);
    await page.click(id("token-revoke"));
    await page.waitForSelector(id("notice"));
    await page.goto(url(`/hosts/${hosts["web-3"]}`));
    await page.fill(id("revoke-reason"), "gone");
    await page.fill(id("revoke-name"), "web-1");
    await page.click(id("revoke"));
    assert.match(await page.textContent(id("error")), /not this host's/);
    await page.fill(id("revoke-reason"), "gone");
    await page.fill(id("revoke-name"), "web-3");
    await page.click(id("revoke"));
    await page.waitForSelector('[data-status="revoked"]');
    await page.goto(url("/audit"));
    const acts = await page.$$eval(`${id("audit-row")} th code`, (all) => all.map((one) => one.textContent));
    for (const act of ["version.publish", "host.approve", "host.revoke", "token.create", "token.revoke"]) assert.ok(acts.includes(act), `${act} in ${acts}`);
    await plain.close();
  });
  await step("a host that attacks is text, at once and on every page", async () => {
    const wide = await context({ storageState: state });
    const page = await wide.newPage();
    // Of a page: what a browser has made of it, whatever the text was.
    const foreign = () => page.evaluate(() => {
      const found = [];
      for (const one of document.querySelectorAll("*")) {
        if (["IMG", "IFRAME", "OBJECT", "EMBED", "BASE", "STYLE", "SVG"].includes(one.tagName.toUpperCase())) found.push(one.outerHTML);
        if (one.tagName === "SCRIPT" && !new URL(one.src).pathname.startsWith("/assets/")) found.push(one.outerHTML);
        for (const { name, value } of one.attributes) {
          if (name.startsWith("on") || name === "style" || name.startsWith("zq")) found.push(`${name} of ${one.outerHTML}`);
          if (["href", "src", "action", "formaction", "hx-get"].includes(name) && new URL(value, location).origin !== location.origin) found.push(`${name}=${value}`);
        }
      }
      return found;
    });
    const answered = page.waitForResponse((answer) => answer.url().endsWith("/live"));
    await page.goto(url(`/stacks/${site.stack}`));
    await answered;
    await order("attack");
    // It comes by the stream and is swapped in, as any news.
    await page.waitForFunction(() => document.querySelector("#live").textContent.includes("<script>alert(1)</script>"));
    assert.deepEqual(await foreign(), []);
    for (const [name, path] of [...screens(), ["attacker", `/hosts/${hosts["web-1"]}`]]) {
      await page.goto(url(path));
      await page.waitForSelector(id("headline"));
      assert.deepEqual(await foreign(), [], name);
      const unseen = await page.evaluate(() => /[\u202e\u001b]/.test(document.body.innerText));
      assert.ok(!unseen, `${name}: what turns characters around, or a terminal's escape`);
      await fits(page, `${name}, attacked`);
    }
    const text = await page.textContent("main");
    assert.ok(text.includes("zq") && text.includes("\\u{202e}"), "the attacks are shown, written out");
    await order("deployed");
    await wide.close();
  });

  await step("on TLS by an authority of one's own", async () => {
    const other = await example(program, `${dir}/tls-home`);
    await other.end();
    const server = await controld(controldProgram, `${dir}/tls-home`, `${dir}/tls`);
    const trusting = await launch([`--ignore-certificate-errors-spki-list=${server.spki}`]);
    try {
      const answer = (options) => within(new Promise((resolve, reject) => get(`${server.url}/login`, options, resolve).on("error", reject)), "an answer", ACT_MS);
      const { statusCode, headers } = await answer({ ca: server.ca });
      assert.equal(statusCode, 200);
      assert.match(headers["strict-transport-security"], /^max-age=\d{8}/);
      await assert.rejects(answer({}), /certificate/, "nobody else believes it");
      const made = await context({}, trusting, server.url);
      const page = await made.newPage();
      await page.goto(server.url + server.link);
      await page.fill(id("setup-name"), "owner");
      await page.fill(id("setup-password"), PASSWORD);
      await page.click(id("setup"));
      await page.waitForSelector(id("stacks"));
      const [cookie, ...more] = await made.cookies();
      assert.equal(more.length, 0);
      assert.deepEqual([cookie.name, cookie.secure, cookie.httpOnly, cookie.sameSite, cookie.path, cookie.domain], ["__Host-agentd", true, true, "Lax", "/", "localhost"]);
      assert.equal(await page.evaluate(() => document.cookie), "", "no script reads it");
      const lives = page.waitForResponse((one) => one.url().endsWith("/live") && one.status() === 200);
      await page.goto(`${server.url}/stacks/${other.stack}`);
      await lives;
      await check(page, "stack on TLS");
      await page.fill(id("hold-reason"), "for the night");
      await page.click(id("hold"));
      await page.waitForSelector(id("held"));
      await page.click(id("logout"));
      await page.waitForSelector(id("login"));
      assert.deepEqual(await made.cookies(), []);
      await made.close();
    } finally {
      await trusting.close();
      await server.end();
    }
  });
  // The refusals that were provoked are said by the browser; nothing else may be.
  const unasked = faults.filter((fault) => !/status of (400|409|422)/.test(fault));
  await step("no violation of the policy, no error of a script, no dialog, no request elsewhere", async () => assert.deepEqual(unasked, []));
  process.stdout.write(`browser: ${passed.length} of ${passed.length} steps passed, ${looks} looks at pages\n`);
} finally {
  await within(browser.close(), "the end of the browser", ACT_MS).catch(() => {});
  await site.end();
  rmSync(dir, { recursive: true, force: true });
}
process.exit(0);
