// The dashboard in a real browser: every page, light and dark, phone and wide; by keyboard; and without JavaScript.
// Usage: node dashboard.mjs EXAMPLE_PROGRAM DIR [SCREENSHOT_DIR]
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { createRequire } from "node:module";
import assert from "node:assert/strict";
import { chromium } from "playwright-core";

const [program, dir, shots] = process.argv.slice(2);
const axe = readFileSync(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const PASSWORD = "correct horse battery staple";
const WIDE = { width: 1280, height: 860 };
const PHONE = { width: 390, height: 844 };
const passed = [];

const server = spawn(program, [dir], { stdio: ["pipe", "pipe", "inherit"] });
const lines = createInterface({ input: server.stdout })[Symbol.asyncIterator]();
const said = async () => (await lines.next()).value;
const site = JSON.parse(await said());
const order = async (word) => {
  server.stdin.write(`${word}\n`);
  assert.equal(await said(), "done", word);
};
const url = (path) => site.url + path;
const id = (name) => `[data-testid="${name}"]`;

const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  // Its own sandbox needs a user namespace, which root in a container does not get.
  args: process.getuid() === 0 ? ["--no-sandbox"] : [],
});

async function step(name, run) {
  const started = Date.now();
  await run();
  passed.push(name);
  process.stdout.write(`ok ${name} (${Date.now() - started} ms)\n`);
}

// A context whose pages fail the run on any violation of the policy, any error of a script, any failed request.
const faults = [];
async function context(options = {}) {
  const made = await browser.newContext({ viewport: WIDE, ...options });
  made.on("page", (page) => {
    page.on("console", (message) => {
      if (message.type() === "error") faults.push(`${page.url()}: ${message.text()}`);
    });
    page.on("pageerror", (error) => faults.push(`${page.url()}: ${error}`));
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

let stack, state, hosts;
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
  ["versions", `/stacks/${site.stack}/versions`],
  ["version", `/stacks/${site.stack}/versions/2`],
  ["rollback", `/stacks/${site.stack}/versions/1/rollback`],
  ["join", `/stacks/${site.stack}/join`],
  ["audit", "/audit"],
  ["account", "/account"],
];

async function check(page, name) {
  // The policy allows no script of others, so axe comes in by way of the debugger.
  await page.evaluate(axe);
  const found = await page.evaluate(() => axe.run(document, { resultTypes: ["violations"] }));
  const told = found.violations.map((one) => `${one.id}: ${one.help}\n    ${one.nodes.map((node) => node.html).slice(0, 3).join("\n    ")}`);
  assert.deepEqual(told, [], `${name}: axe`);
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
    await page.click(`[data-stack="${site.stack}"] a.strong`);
    const text = await page.textContent("main");
    for (const words of ["HTTP 500 from /healthz", "5 min ago", "ECONNREFUSED 10.0.0.9:5432", "b81e77a use the new payment provider", "PAYMENT_KEY added", "martha", "checkout: new payment provider"]) {
      assert.ok(text.includes(words), words);
    }
    for (const secret of ["s3cr3t-in-the-draft", "pk-live-never-shown"]) {
      for (const [, path] of screens()) {
        await page.goto(url(path));
        assert.ok(!(await page.content()).includes(secret), `${path} shows a value`);
      }
    }
    await page.goto(url(`/hosts/${hosts["web-3"]}`));
    assert.match(await page.textContent(id("host-connection")), /silent since 4[67] min ago/);
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
      mkdirSync(shots, { recursive: true });
      for (const colorScheme of ["light", "dark"]) {
        const made = await context({ colorScheme, storageState: state });
        const page = await made.newPage();
        for (const [name, path] of screens().filter(([name]) => ["stacks", "stack", "service", "hosts", "host", "events", "draft", "join"].includes(name))) {
          for (const [size, viewport] of [["wide", WIDE], ["phone", PHONE]]) {
            if (size === "phone" && !["stacks", "stack", "hosts"].includes(name)) continue;
            await page.setViewportSize(viewport);
            await page.goto(url(path));
            await page.waitForSelector(id("headline"));
            await page.screenshot({ path: `${shots}/${name}-${size}-${colorScheme}.png` });
          }
        }
        await made.close();
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
    await page.click(id("token-create"));
    assert.match(await page.textContent(id("install-command")), /agj1_/);
    await page.click(id("join-back"));
    assert.ok(!(await page.content()).includes("agj1_"), "shown once");
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
  // The three refusals that were provoked are said by the browser; nothing else may be.
  const unasked = faults.filter((fault) => !/status of (400|409|422)/.test(fault));
  await step("no violation of the policy, no error of a script", async () => assert.deepEqual(unasked, []));
  process.stdout.write(`${passed.length} passed\n`);
} finally {
  await browser.close();
  server.stdin.end();
  server.kill();
  rmSync(dir, { recursive: true, force: true });
}
