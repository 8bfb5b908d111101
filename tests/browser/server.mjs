// The programs that the walk talks to, each started in a folder of its own, asked within a bound of time, and ended.
import { spawn, execFileSync } from "node:child_process";
import { createInterface } from "node:readline";
import { mkdirSync, rmSync } from "node:fs";
import { createHash, X509Certificate } from "node:crypto";
import { readFileSync } from "node:fs";
import assert from "node:assert/strict";

/// Longer than a start or an order takes on a loaded machine, ms.
const LIMIT_MS = 60_000;

export function within(promise, what, ms = LIMIT_MS) {
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(`${what}: nothing within ${ms} ms`)), ms); });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

async function ended(child) {
  if (child.exitCode !== null || child.signalCode !== null) return;
  await new Promise((resolve) => child.once("exit", resolve));
}
async function end(child) {
  child.kill();
  await within(ended(child), "the end of a server", 15_000).catch(() => child.kill("SIGKILL"));
}

// A server with a fleet that is made up; `order` moves it on.
export async function example(program, dir) {
  rmSync(dir, { recursive: true, force: true });
  const child = spawn(program, [dir], { stdio: ["pipe", "pipe", "inherit"] });
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  const said = async (what) => {
    const { value, done } = await within(lines.next(), what);
    assert.ok(!done, `${what}: the server has ended`);
    return value;
  };
  const site = JSON.parse(await said("the start of the server"));
  const order = async (word) => {
    child.stdin.write(`${word}\n`);
    assert.equal(await said(word), "done", word);
  };
  return { ...site, order, end: async () => { child.stdin.end(); await end(child); } };
}

const openssl = (dir, ...words) => execFileSync("openssl", words, { cwd: dir, stdio: ["ignore", "ignore", "pipe"], timeout: LIMIT_MS });

// A certificate for loopback from an authority that nobody knows, and how Chromium is told to believe that key alone.
function certificate(dir) {
  mkdirSync(dir, { recursive: true });
  const ec = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
  openssl(dir, "req", "-x509", ...ec, "-days", "2", "-subj", "/CN=walk's authority", "-keyout", "ca.key", "-out", "ca.pem");
  openssl(dir, "req", ...ec, "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1", "-keyout", "tls.key", "-out", "tls.csr");
  openssl(dir, "x509", "-req", "-in", "tls.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-copy_extensions", "copy", "-out", "tls.pem");
  const spki = new X509Certificate(readFileSync(`${dir}/tls.pem`)).publicKey.export({ type: "spki", format: "der" });
  return { ca: readFileSync(`${dir}/ca.pem`), spki: createHash("sha256").update(spki).digest("base64") };
}

// The real program on TLS, on the home that the example has left.
export async function controld(program, home, dir) {
  const made = certificate(dir);
  const child = spawn(program, ["serve", "--home", home, "--listen", "127.0.0.1:0", "--tls-cert", `${dir}/tls.pem`, "--tls-key", `${dir}/tls.key`], { stdio: ["ignore", "ignore", "pipe"] });
  const lines = createInterface({ input: child.stderr });
  const port = await within(new Promise((resolve, reject) => {
    lines.on("line", (line) => { const found = /serves url="https:\/\/[^"]*:(\d+)"/.exec(line); if (found) resolve(found[1]); });
    child.once("exit", (code) => reject(new Error(`controld ended with ${code}`)));
  }), "the start of controld");
  const link = execFileSync(program, ["--home", home, "user", "create-link"], { encoding: "utf8", timeout: LIMIT_MS }).trim();
  return { url: `https://localhost:${port}`, link: new URL(link).pathname + new URL(link).search, ...made, end: () => end(child) };
}
