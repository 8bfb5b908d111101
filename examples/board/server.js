// The live part of the demo: a WebSocket feed, a clock as server-sent events, and calls to the notes service by name.
//
// Where to listen and where the other service is stand in the environment; no address is written down here.
"use strict";

const http = require("node:http");
const express = require("express");
const { WebSocketServer, WebSocket } = require("ws");

const HOST = process.env.HOST ?? "127.0.0.1";
const PORT = Number(process.env.PORT);
const NOTES_URL = process.env.SERVICE_NOTES_URL;

const TICK_MS = 1000;
const NOTES_POLL_MS = 2000;
const NOTES_TIMEOUT_MS = 1500;
const FEED_KEPT = 20;
const MESSAGE_BYTES_MAX = 1024;
const CLIENTS_MAX = 500;
// A browser that says nothing for two of these is gone.
const PING_MS = 20000;
const FAREWELL_MS = 2000;

const identity = {
  service: process.env.SERVICE_NAME,
  release: process.env.AGENTD_RELEASE,
  commit: process.env.AGENTD_COMMIT,
  instance: process.env.AGENTD_INSTANCE,
  runtime: `Node ${process.versions.node}`,
};

const app = express();
app.disable("x-powered-by");
const server = http.createServer(app);
const sockets = new WebSocketServer({ server, path: "/socket", maxPayload: MESSAGE_BYTES_MAX });
const clocks = new Set();
const feed = [];
let ending = false;
let byName = { url: NOTES_URL ?? null, ok: false, error: "not tried yet" };
let newestNote = null;

// --- the feed ------------------------------------------------------------------------------------------------------

function tell(event) {
  const line = { at: Date.now(), ...event };
  feed.push(line);
  feed.splice(0, feed.length - FEED_KEPT);
  const text = JSON.stringify(line);
  for (const socket of sockets.clients) {
    if (socket.readyState === WebSocket.OPEN) socket.send(text);
  }
}

sockets.on("connection", (socket) => {
  if (ending || sockets.clients.size > CLIENTS_MAX) {
    socket.close(1013, "try again");
    return;
  }
  socket.alive = true;
  socket.on("pong", () => { socket.alive = true; });
  socket.on("error", () => socket.terminate());
  socket.on("close", () => { if (!ending) tell({ kind: "left", visitors: visitors() }); });
  socket.on("message", (data, isBinary) => {
    if (isBinary) return;
    let said;
    try { said = JSON.parse(data.toString()); } catch { return; }
    if (said?.kind === "wave") tell({ kind: "wave", who: String(said.who ?? "somebody").slice(0, 40) });
  });
  socket.send(JSON.stringify({ kind: "hello", by: identity, feed }));
  tell({ kind: "joined", visitors: visitors() });
});

setInterval(() => {
  for (const socket of sockets.clients) {
    if (!socket.alive) { socket.terminate(); continue; }
    socket.alive = false;
    socket.ping();
  }
}, PING_MS).unref();

function visitors() {
  return [...sockets.clients].filter((socket) => socket.readyState === WebSocket.OPEN).length;
}

// --- the clock -----------------------------------------------------------------------------------------------------

app.get("/events", (request, response) => {
  response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
  response.write("retry: 1000\n\n");
  clocks.add(response);
  request.on("close", () => clocks.delete(response));
  tick(response);
});

function tick(response) {
  const now = { time: Date.now(), visitors: visitors(), uptime_s: Math.round(process.uptime()), by: identity };
  response.write(`event: clock\ndata: ${JSON.stringify(now)}\n\n`);
}

setInterval(() => clocks.forEach(tick), TICK_MS).unref();

// --- the other service, by its name --------------------------------------------------------------------------------

async function askNotes() {
  if (!NOTES_URL) {
    byName = { url: null, ok: false, error: "SERVICE_NOTES_URL is not set: there is no service named notes in this stack" };
    return;
  }
  const started = performance.now();
  try {
    const answer = await fetch(`${NOTES_URL}/notes`, { signal: AbortSignal.timeout(NOTES_TIMEOUT_MS) });
    if (!answer.ok) throw new Error(`${NOTES_URL} answered ${answer.status}`);
    const { served_by, notes } = await answer.json();
    byName = { url: NOTES_URL, ok: true, ms: Math.round(performance.now() - started), served_by, notes: notes.length };
    announce(notes);
  } catch (error) {
    byName = { url: NOTES_URL, ok: false, error: inWords(error) };
  }
}

function announce(notes) {
  const newest = notes.length > 0 ? notes[0].id : 0;
  if (newestNote !== null) {
    for (const note of notes.filter((note) => note.id > newestNote).reverse()) {
      tell({ kind: "note", author: note.author, text: note.text });
    }
  }
  newestNote = newest;
}

function inWords(error) {
  const name = NOTES_URL ? new URL(NOTES_URL).hostname : "";
  switch (error.cause?.code ?? error.name) {
    case "ENOTFOUND":
    case "EAI_AGAIN":
      return `the name ${name} does not resolve on this host; \`agentctl status\` says why`;
    case "ECONNREFUSED":
      return `${name} resolves, but nothing listens at ${NOTES_URL}`;
    case "TimeoutError":
      return `no answer within ${NOTES_TIMEOUT_MS} ms`;
    default:
      return error.cause?.message ?? error.message;
  }
}

setInterval(askNotes, NOTES_POLL_MS).unref();
askNotes();

app.get("/by-name", async (_request, response) => {
  await askNotes();
  response.json({ asked_by: identity, ...byName });
});

// --- the rest ------------------------------------------------------------------------------------------------------

app.get("/about", (_request, response) => response.json({ ...identity, visitors: visitors() }));
app.get("/healthz", (_request, response) => response.type("text").send("ok\n"));

server.listen(PORT, HOST, () => console.log(`board: listening on port ${PORT}; notes are at ${NOTES_URL ?? "no known place"}`));

process.on("SIGTERM", () => {
  ending = true;
  server.close(() => process.exit(0));
  // 1012: the service restarts; the page connects again at once, and reaches the new release.
  for (const socket of sockets.clients) socket.close(1012, "a new release takes over");
  for (const response of clocks) response.end();
  setTimeout(() => process.exit(0), FAREWELL_MS).unref();
});
