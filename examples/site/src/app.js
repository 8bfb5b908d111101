// The page of the demo. Texts of others are only ever set as text, never as markup.
"use strict";

const LOOK_MS = 3000;
const RETRY_MS = 1000;
const FEED_SHOWN = 30;

const $ = (id) => document.getElementById(id);

function make(tag, text, className) {
  const element = document.createElement(tag);
  if (text !== undefined) element.textContent = text;
  if (className) element.className = className;
  return element;
}

async function ask(path, options) {
  const answer = await fetch(path, { cache: "no-cache", ...options });
  const body = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(body.error ?? `${path} answered ${answer.status}`);
  return body;
}

// --- who serves ----------------------------------------------------------------------------------------------------

const parts = [
  { name: "site", what: "this page", path: "/version.json" },
  { name: "notes", what: "the guest book", path: "/api/about" },
  { name: "board", what: "the live feed", path: "/live/about" },
];

for (const part of parts) {
  part.card = make("article", undefined, "card");
  $("cards").append(part.card);
}

async function look(part) {
  const head = make("h3", part.name);
  try {
    const found = await ask(part.path);
    const changed = part.commit !== undefined && part.commit !== found.commit;
    if (part.name === "site" && changed) $("newer").hidden = false;
    if (part.name === "notes") $("greeting").textContent = found.greeting ?? "";
    head.append(make("span", `release ${found.release ?? "?"}`, "release"));
    const list = make("dl");
    const lines = [
      ["serves", part.what],
      ["with", found.runtime ?? "?"],
      ["commit", (found.commit ?? "").slice(0, 7) || "?"],
      ["instance", found.instance ?? "any of its replicas"],
    ];
    for (const [term, text] of lines) {
      const value = make("dd");
      value.append(make(term === "commit" || term === "instance" ? "code" : "span", text));
      list.append(make("dt", term), value);
    }
    part.card.replaceChildren(head, list);
    part.card.classList.toggle("changed", changed);
    // The page keeps what it was loaded with, so that it can tell what is newer.
    if (part.name !== "site" || part.commit === undefined) part.commit = found.commit;
  } catch (error) {
    part.card.replaceChildren(head, make("p", `No answer: ${error.message}`, "error"));
  }
}

// --- the guest book ------------------------------------------------------------------------------------------------

async function showNotes() {
  try {
    const { notes } = await ask("/api/notes");
    const items = notes.map((note) => {
      const meta = make("div", undefined, "meta");
      meta.append(make("b", note.author), make("time", new Date(note.at * 1000).toLocaleString()));
      const item = make("li");
      item.append(meta, make("div", note.text));
      return item;
    });
    $("notes").replaceChildren(...(items.length ? items : [make("li", "No notes yet. Be the first.", "quiet")]));
  } catch (error) {
    $("notes").replaceChildren(make("li", `The notes cannot be shown: ${error.message}`, "error"));
  }
}

$("form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const form = event.target;
  const note = { author: form.author.value, text: form.text.value };
  try {
    await ask("/api/notes", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(note),
    });
    form.text.value = "";
    $("form-error").hidden = true;
    await showNotes();
  } catch (error) {
    $("form-error").textContent = error.message;
    $("form-error").hidden = false;
  }
});

// --- the feed: WebSocket -------------------------------------------------------------------------------------------

const sentences = {
  joined: (event) => `somebody came by (${event.visitors} here)`,
  left: (event) => `somebody left (${event.visitors} here)`,
  wave: (event) => `${event.who} waves 👋`,
  note: (event) => `${event.author} left a note: ${event.text}`,
  system: (event) => event.text,
};

function addToFeed(event) {
  const sentence = sentences[event.kind];
  if (!sentence) return;
  const item = make("li");
  item.append(make("time", new Date(event.at).toLocaleTimeString()), document.createTextNode(sentence(event)));
  $("feed").prepend(item);
  while ($("feed").children.length > FEED_SHOWN) $("feed").lastChild.remove();
  if (event.kind === "note") showNotes();
}

let socket;

function connect() {
  const scheme = location.protocol === "https:" ? "wss" : "ws";
  socket = new WebSocket(`${scheme}://${location.host}/live/socket`);
  socket.addEventListener("message", ({ data }) => {
    const event = JSON.parse(data);
    if (event.kind !== "hello") return addToFeed(event);
    $("feed").replaceChildren();
    event.feed.forEach(addToFeed);
    $("feed-state").textContent = `WebSocket, release ${event.by.release ?? "?"}`;
  });
  socket.addEventListener("close", ({ code, reason }) => {
    $("feed-state").textContent = "connecting again";
    if (code === 1012) addToFeed({ kind: "system", at: Date.now(), text: reason || "a new release takes over" });
    setTimeout(connect, RETRY_MS);
  });
}

$("wave").addEventListener("click", () => {
  if (socket?.readyState !== WebSocket.OPEN) return;
  socket.send(JSON.stringify({ kind: "wave", who: $("form").author.value.trim() || "somebody" }));
});

// --- the clock: server-sent events ---------------------------------------------------------------------------------

function listen() {
  const events = new EventSource("/live/events");
  events.addEventListener("open", () => $("clock-dot").classList.add("on"));
  events.addEventListener("clock", ({ data }) => {
    const { time, visitors } = JSON.parse(data);
    $("clock").textContent = new Date(time).toLocaleTimeString();
    $("visitors").textContent = visitors;
  });
  events.addEventListener("error", () => {
    $("clock-dot").classList.remove("on");
    // After an answer that is no stream the browser does not try again by itself.
    if (events.readyState === EventSource.CLOSED) setTimeout(listen, RETRY_MS);
  });
}

// --- one service calls another by its name -------------------------------------------------------------------------

async function showByName() {
  const lines = [];
  try {
    const told = await ask("/live/by-name");
    const where = make("p");
    where.append("Node asks ", make("code", told.url ?? "nobody"));
    lines.push(where);
    if (told.ok) {
      const by = told.served_by;
      lines.push(make("p", `${by.runtime} answered in ${told.ms} ms with ${told.notes} notes`));
      const who = make("p", undefined, "quiet");
      who.append(`release ${by.release}, instance `, make("code", by.instance ?? "?"));
      lines.push(who);
    } else {
      lines.push(make("p", told.error, "error"));
    }
  } catch (error) {
    lines.push(make("p", `Node does not answer: ${error.message}`, "error"));
  }
  $("by-name").replaceChildren(...lines);
}

function lookAtAll() {
  if (document.hidden) return;
  parts.forEach(look);
  showByName();
}

lookAtAll();
showNotes();
connect();
listen();
setInterval(lookAtAll, LOOK_MS);
