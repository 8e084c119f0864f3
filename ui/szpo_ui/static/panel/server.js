/* Requests to the server: one at a time (`act`), the poller besides, and the login after a session
   has ended. */

const VISIBLE_MS = 3000, HIDDEN_MS = 15000, LOOK_MS = 15000, REPLY_MS = 15000, POLL_MS = 8000,
  ASK_MS = 1000;

/* ---- requests, one at a time ---- */

let busy = null, queued = null, lastLook = 0;

function act(what, more = {}) {
  const page = root().dataset;
  const request = { do: what, tab, seat: page.seat || null, mode: page.mode || "", ...more };
  if (busy) { if (what !== "look") queued = request; return; }
  send(request);
}
async function send(request) {
  busy = request;
  lastLook = now();
  const asked = server.do(request);
  const html = await within(REPLY_MS, asked);
  if (typeof html === "string") { draw(html, request); return; }
  failed();
  const late = await asked;
  if (typeof late !== "string" || busy) return;
  if (queued === request) queued = null;
  draw(late, request);
}
async function opening() {
  await openTab();
  const at = read(sessionStorage, "szpo.at"); // continue where the panelist was reading
  send({ do: "open", tab, seat: at.seat || null, mode: at.mode || "" });
}
function failed() {
  const request = busy, page = root();
  busy = null;
  saved();
  if (request.do === "vote") { page.dataset.problem = "not-saved"; say(T.not_saved, true); }
  else queued = queued || (request.do === "look" ? null : request);
  update();
  clearTimeout(timer);
  timer = setTimeout(poll, ASK_MS);
}
function next() {
  const request = queued;
  if (!request || busy) return;
  queued = null;
  send(request);
}

/* ---- the poller ---- */

let live = null, etag = "", tries = 0, timer = null, polling = false;
async function glance() { // the status, "ended" if the session ended, or nothing without a response
  const seat = root().dataset.seat || null;
  if (props.polls !== "api") return within(POLL_MS, server.glance({ tab, seat }));
  const at = new URLSearchParams(seat ? { tab, seat } : { tab });
  try {
    const reply = await fetch(`/api/status?${at}`, { cache: "no-store",
      headers: etag ? { "If-None-Match": etag } : {}, signal: AbortSignal.timeout(POLL_MS) });
    if (reply.status === 304) return { ...live, lease_s: null }; // the lease has not changed
    if (reply.status === 403) location.reload(); // no login helps: the page says why
    if (reply.status === 401) return "ended";
    if (!reply.ok) return null;
    const found = await reply.json();
    etag = reply.headers.get("ETag");
    return found;
  } catch { return null; }
}
async function poll() {
  clearTimeout(timer);
  if (polling) return;
  const page = root();
  if (!tab || !page) { timer = setTimeout(poll, 200); return; }
  polling = true;
  const found = await glance();
  if (found === "ended") { back(); expired(); }
  else if (found) {
    live = found;
    if (live.lease_s !== null && leaseEnds !== null) leaseEnds = now() + 1000 * live.lease_s;
    back();
    next();
    flush();
    heard();
  } else gone();
  polling = false;
  const pause = tries ? Math.min(15000, 1000 * 2 ** (tries - 1))
    : document.hidden ? HIDDEN_MS : VISIBLE_MS;
  clearTimeout(timer);
  timer = setTimeout(poll, pause);
}
function gone() {
  tries += 1;
  document.documentElement.dataset.szOffline = "1";
  banner("sz-offline", fill(T.offline, { count: tries }));
}
function back() {
  if (!tries) return;
  tries = 0;
  delete document.documentElement.dataset.szOffline;
  banner("sz-offline", "");
  say(T.online);
}
function heard() {
  const page = root(), { state, version } = page.dataset;
  if (state === "loading" || busy || $("#sz-login")?.open) return;
  if (state === "error") { // keep its number readable; retry only automatic requests
    const passive = lost && (lost.do === "look" || lost.do === "open");
    if (passive && now() - lastLook > LOOK_MS) send(lost);
    return;
  }
  counts(page);
  const reading = READING.has(state) || state === "welcome";
  const changed = reading ? live.key !== page.dataset.key : live.version !== version;
  const fresh = live.state === "open" && live.key !== page.dataset.key
    && state !== "closed" && state !== "vote" && state !== "welcome";
  if (fresh) ready();
  if (document.hidden && !READING.has(state)) return; // reserve a seat only when somebody sees the page
  const stale = !reading && now() - lastLook > LOOK_MS;
  if ((changed && state !== "welcome") || stale) {
    if (!$("dialog[open]")) act("look");
  }
}
function counts(page) {
  if (live.key !== page.dataset.key || !live.votes_needed) return;
  const what = { votes_in: live.votes_in, needed: live.votes_needed };
  for (const node of $$("[data-template]", page)) set(node, fill(node.dataset.template, what));
  for (const bar of $$("[data-fill]", page)) {
    bar.style.setProperty("--share", (live.votes_in / live.votes_needed).toFixed(3));
  }
  $$("[data-dots] i", page).forEach((dot, i) => dot.toggleAttribute("data-on",
    i < live.votes_in));
}
function ready() {
  const name = { round: live.step + 1 };
  if (!document.hidden || document.title === fill(T.title_ready, name)) return;
  document.title = fill(T.title_ready, name);
  icon(true);
  if (prefs.notify && window.Notification?.permission === "granted") {
    new Notification("szpo", { body: fill(T.notify_body, name), tag: "szpo" });
  }
}
let plainIcon = null;
function icon(dot) {
  let link = $("link[rel~=icon]");
  if (!link) {
    link = document.createElement("link");
    link.rel = "icon";
    link.href = "/favicon.ico";
    document.head.append(link);
  }
  plainIcon = plainIcon || link.href;
  link.href = dot ? "data:image/svg+xml,%3Csvg xmlns='http://www.w3.org/2000/svg' "
    + "viewBox='0 0 16 16'%3E%3Crect width='16' height='16' rx='4' fill='%233b4a8c'/%3E"
    + "%3Ccircle cx='11' cy='5' r='4' fill='%23ffb020'/%3E%3C/svg%3E" : plainIcon;
}

/* ---- a session that ended: log in without leaving the page ---- */

function expired() {
  const dialog = $("#sz-login");
  if (!dialog || dialog.open) return;
  $$("dialog[open]").forEach((other) => other.close());
  const field = $("#sz-login-name"); // none for participants of a study, who have no code
  if (field) field.value = root().dataset.name || "";
  dialog.showModal();
  root().dataset.expired = "1";
}
async function login(event) {
  event.preventDefault();
  const line = $("#sz-login-error");
  set(line, "");
  try {
    const reply = await fetch("/login", { method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ name: $("#sz-login-name").value, code: $("#sz-login-code").value }) });
    if (!reply.ok) {
      const { error } = await reply.json();
      set(line, Object.hasOwn(T.refused, error) ? T.refused[error] : T.refused.other);
      return;
    }
  } catch { set(line, fill(T.offline, { count: 1 })); return; }
  $("#sz-login-code").value = "";
  root().dataset.expired = "";
  $("#sz-login").close();
  next();
  poll();
}
