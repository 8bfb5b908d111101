// Looks again when the server says that something has changed, keeps times up to date, and says aloud what turned bad.
(() => {
  "use strict";
  const body = document.body;
  const clock = document.getElementById("clock");
  const say = document.getElementById("say");
  const pause = document.getElementById("pause");
  // The server's clock less this machine's: times are the server's.
  const skew = clock ? Number(clock.dataset.now) - Date.now() : 0;

  const span = (ms) => {
    const s = Math.floor(ms / 1000), m = Math.floor(s / 60), h = Math.floor(m / 60);
    if (m < 1) return `${s} s`;
    if (h < 1) return `${m} min`;
    if (h < 10) return `${h} h ${m % 60} min`;
    return h < 48 ? `${h} h` : `${Math.floor(h / 24)} days`;
  };
  const tick = () => {
    const now = Date.now() + skew;
    for (const time of document.querySelectorAll("time[data-ago]")) {
      const ms = now - Date.parse(time.dateTime);
      const text = ms < -1000 ? `in ${span(-ms)}` : ms < 1000 ? "just now" : `${span(ms)} ago`;
      if (time.textContent !== text) time.textContent = text;
    }
    if (clock) clock.textContent = new Date(now).toISOString().slice(11, 19);
  };
  tick();
  setInterval(tick, 1000);

  if (!document.getElementById("live")) return;
  const headline = () => document.querySelector("#live .headline")?.innerText.trim() ?? "";
  let said = headline();
  let open = new Set();
  let stopped = false, stale = false, source = null, timer = null;

  // A swap must not take away what somebody is typing or selecting in.
  const busy = () => {
    const at = document.activeElement;
    const typing = at && at.closest("#live") && at.matches("input, textarea, select");
    const selection = getSelection();
    const kept = [...document.querySelectorAll("#live input")].some((one) => one.value !== one.defaultValue);
    return typing || kept || (selection && !selection.isCollapsed && document.getElementById("live").contains(selection.anchorNode));
  };
  const look = () => {
    if (stopped || document.hidden || busy()) {
      stale = true;
      return;
    }
    stale = false;
    body.dispatchEvent(new Event("changed"));
  };
  const listen = () => {
    if (source || stopped || document.hidden) return;
    source = new EventSource("/live");
    source.addEventListener("changed", look);
    // Without a stream, as behind some proxies, look now and then.
    source.onerror = () => {
      if (!timer) timer = setInterval(look, 10000);
      // Refused, as when too many are open: the browser does not try again by itself.
      if (source.readyState === EventSource.CLOSED) {
        source = null;
        setTimeout(listen, 30000);
      }
    };
    source.onopen = () => { clearInterval(timer); timer = null; };
  };
  const hush = () => {
    source?.close();
    source = null;
    clearInterval(timer);
    timer = null;
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) hush();
    else { listen(); look(); }
  });
  setInterval(() => { if (stale) look(); }, 2000);

  body.addEventListener("htmx:beforeSwap", (event) => {
    // The session is over: the login's page instead of a piece of it.
    if (event.detail.xhr.responseURL.includes("/login")) {
      event.detail.shouldSwap = false;
      location.reload();
      return;
    }
    open = new Set([...document.querySelectorAll("#live details[open]")].map((one) => one.id));
  });
  body.addEventListener("htmx:afterSettle", () => {
    for (const one of document.querySelectorAll("#live details")) one.open = open.has(one.id);
    tick();
    const now = headline();
    if (now && now !== said) {
      said = now;
      say.textContent = now;
    }
  });
  if (pause) {
    pause.hidden = false;
    pause.addEventListener("click", () => {
      stopped = !stopped;
      pause.setAttribute("aria-pressed", String(stopped));
      pause.textContent = stopped ? "Resume live updates" : "Pause live updates";
      if (stopped) hush();
      else { listen(); look(); }
    });
  }
  listen();
})();
