/* The panelist's page in the browser. Choosing happens here alone; whatever is sent goes through
   one hidden Gradio button (`act`). Texts of models are never touched as HTML: this file reads and
   sets attributes and plain text only. */
(() => {
  "use strict";
  const T = window.szpoTexts;
  const READING = new Set(["vote", "closed", "calib", "final", "practice", "saving"]);
  const SIZES = [16, 17, 19, 21, 24];
  const VISIBLE_MS = 3000, HIDDEN_MS = 15000, LOOK_MS = 15000, REPLY_MS = 15000;
  const ASK_MS = 1000;
  const GATE_MS = 30000, WARN_S = 120, BREAK_MS = 25 * 60e3, BREAK_VOTES = 20;

  const $ = (selector, from = document) => from.querySelector(selector);
  const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
  const root = () => document.getElementById("szpo-root");
  const fill = (text, what) => text.replace(/\{(\w+)\}/g, (_, name) => what[name]);
  const now = () => performance.now();
  const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

  function set(node, text) {
    if (node && node.textContent !== text) node.textContent = text;
  }
  function key(bytes = 16) {
    const made = crypto.getRandomValues(new Uint8Array(bytes));
    return [...made].map((b) => b.toString(16).padStart(2, "0")).join("");
  }
  function read(store, name) {
    try { return JSON.parse(store.getItem(name)) || {}; } catch { return {}; }
  }
  function write(store, name, value) {
    try { store.setItem(name, JSON.stringify(value)); } catch { /* private mode: keep in memory */ }
  }

  /* ---- what is kept: cosmetics per panelist, a draft per seat ---- */

  let prefs = { keys: true, marks: true, size: 1, notify: false };
  let draft = null; // {seat, choice, notes, seen, dwell, pending}
  const shelf = (seat) => `szpo.draft.${seat}`;

  function keep() { if (draft) write(sessionStorage, shelf(draft.seat), draft); }
  function keepPrefs() { write(localStorage, `szpo.prefs.${root().dataset.name}`, prefs); }

  /* ---- one tab ---- */

  let tab = "";
  // A token survives a reload. A duplicated tab inherits it too, so a lock says whose it is.
  async function openTab() {
    const held = sessionStorage.getItem("szpo.tab");
    tab = held && (await lock(held)) ? held : key(8);
    if (tab !== held) await lock(tab);
    sessionStorage.setItem("szpo.tab", tab);
  }
  function lock(token) {
    if (!navigator.locks) return Promise.resolve(true);
    return new Promise((settle) => {
      navigator.locks.request(`szpo.${token}`, { signal: AbortSignal.timeout(400) }, () => {
        settle(true);
        return new Promise(() => {});
      }).catch(() => settle(false));
    });
  }

  /* ---- asking the server: one thing at a time, through the hidden button ---- */

  let busy = null, queued = null, painted = "", lastLook = 0;

  function act(what, more = {}) {
    const page = root().dataset;
    const request = { do: what, ack: key(8), tab, seat: page.seat || null, mode: page.mode || "",
      ...more };
    if (busy) { if (what !== "look") queued = request; return; }
    send(request);
  }
  function send(request) {
    busy = { request, timer: setTimeout(failed, REPLY_MS) };
    lastLook = now();
    $("#szpo-send").click();
    clearTimeout(timer);
    timer = setTimeout(poll, ASK_MS); // Gradio says nothing of a lost connection; the poller does
  }
  async function opening() {
    await openTab();
    // After a lost connection Gradio loads the page anew; whoever was reading goes on there.
    const at = read(sessionStorage, "szpo.at");
    const request = { do: "open", ack: key(8), tab, seat: at.seat || null, mode: at.mode || "" };
    busy = { request, timer: setTimeout(failed, REPLY_MS) };
    return JSON.stringify(request);
  }
  function sending() { return JSON.stringify(busy ? busy.request : {}); }
  function failed() {
    if (!busy) return;
    clearTimeout(busy.timer);
    const { request } = busy;
    busy = null;
    const page = root();
    if (page.dataset.state === "saving") {
      page.dataset.state = page.dataset.was;
      page.removeAttribute("aria-busy");
    }
    if (request.do === "vote") { page.dataset.problem = "not-saved"; say(T.not_saved, true); }
    else queued = queued || (request.do === "look" ? null : { ...request, ack: key(8) });
    update();
    poll();
  }
  function next() {
    const request = queued;
    queued = null;
    if (request) send(request);
  }

  /* ---- after each answer ---- */

  function rendered() {
    const page = root();
    if (!page || !page.dataset.ack || page.dataset.ack === painted) return;
    painted = page.dataset.ack;
    const answered = busy && busy.request.ack === painted ? busy.request : null;
    if (answered) { clearTimeout(busy.timer); busy = null; }
    if (page.dataset.state === "error") {
      if (answered && !queued) page.dataset.retry = answered.do;
      lost = answered;
    } else {
      lost = null;
      if (answered && answered.do === "vote") voted(answered);
    }
    paint();
    next();
  }
  let lost = null; // what an error screen offers to try again

  function voted(request) {
    sessionStorage.removeItem(shelf(request.seat));
    if (draft && draft.seat === request.seat) draft = null;
    const count = read(sessionStorage, "szpo.session");
    write(sessionStorage, "szpo.session", { since: count.since || Date.now(),
      votes: (count.votes || 0) + 1 });
  }

  let before = { state: "", seat: "", step: "" };
  function paint() {
    const page = root(), { state, seat, step } = page.dataset;
    prefs = { ...prefs, ...read(localStorage, `szpo.prefs.${page.dataset.name}`) };
    document.documentElement.style.setProperty("--sz-size", `${SIZES[prefs.size]}px`);
    if (seat) pickUp(page); else draft = null;
    const marks = page.dataset.marks === "off" ? false : prefs.marks;
    if (seat !== before.seat || !seat) mark(marks);
    const box = $("#sz-marks");
    if (box) box.checked = document.documentElement.dataset.szMarks === "on";
    const keys = $("#sz-keys");
    if (keys) keys.checked = prefs.keys;
    const notify = $("#sz-notify");
    if (notify) notify.checked = prefs.notify;
    for (const node of $$("time[datetime]", page)) {
      set(node, new Date(node.dateTime).toLocaleTimeString([], { hour: "2-digit",
        minute: "2-digit" }));
    }
    leaseEnds = page.dataset.lease ? now() + 1000 * Number(page.dataset.lease) : null;
    watch();
    fold();
    update();
    usual(page);
    offerBreak(page);
    const moved = state !== before.state || seat !== before.seat;
    if (moved && before.state) arrive(page);
    else if (moved) { title(page); scrollTo({ top: draft?.top || 0, behavior: "instant" }); }
    before = { state, seat, step };
    if (state !== "error") write(sessionStorage, "szpo.at", { seat, mode: page.dataset.mode });
    document.documentElement.dataset.szReady = painted;
  }

  function pickUp(page) {
    const { seat, chosen } = page.dataset;
    if (draft && draft.seat === seat) return;
    const found = read(sessionStorage, shelf(seat));
    const given = {};
    for (const radio of $$("[data-given='1']", page)) {
      given[radio.closest("[data-row]").dataset.row] = radio.value;
    }
    draft = { seat, choice: chosen && chosen !== "skip" ? chosen : null, notes: given, seen: [],
      dwell: 0, ...found };
    page.dataset.problem = draft.pending ? "not-saved" : "";
    since = now();
  }

  function arrive(page) {
    $$("dialog[open]").forEach((dialog) => dialog.close());
    const head = $("#sz-h1");
    if (head) { head.focus({ preventScroll: true }); scrollTo({ top: 0, behavior: "instant" }); }
    title(page);
    if (page.dataset.state === "vote") {
      say(fill(T.said_round, { round: Number(page.dataset.step) + 1, number: page.dataset.number,
        differ: page.dataset.rows }));
    }
  }
  function title(page) {
    const { state, step } = page.dataset;
    document.title = step !== "" && READING.has(state)
      ? fill(T.title_round, { round: Number(step) + 1 }) : T.title;
    icon(false);
  }
  function offerBreak(page) {
    const count = read(sessionStorage, "szpo.session");
    const long = count.since && Date.now() - count.since > BREAK_MS;
    const slot = $("#sz-notice");
    if (page.dataset.state === "break") sessionStorage.removeItem("szpo.session");
    if (page.dataset.state !== "waiting" || !slot || slot.firstElementChild) return;
    if (!long && !(count.votes >= BREAK_VOTES)) return;
    const line = document.createElement("p");
    line.className = "sz-banner";
    line.textContent = T.break;
    slot.append(line);
  }

  /* ---- choosing: nothing here leaves the browser ---- */

  let since = 0;
  function dwell() {
    if (!draft) return 0;
    return draft.dwell + (document.hidden ? 0 : now() - since);
  }
  function choose(choice) {
    if (!draft || root().dataset.state === "saving") return;
    draft.choice = choice;
    delete draft.pending;
    root().dataset.problem = "";
    keep();
    update();
    say(choice ? fill(T.chosen, { choice: T.choices[choice] }) : T.cleared);
  }
  function open() { // the soft gate
    if (!draft) return false;
    if (root().dataset.revises) return true;
    const ms = dwell();
    return ms >= GATE_MS || (unseen().length === 0 && ms >= 1000 * Number(root().dataset.gate));
  }
  const pairs = () => $$(".sz-pair[data-pair]");
  const unseen = () => pairs().filter((pair) => !draft.seen.includes(pair.dataset.row));

  function update() {
    const page = root();
    if (!page || !draft || !$("#sz-verdict")) return;
    const saving = page.dataset.state === "saving", problem = page.dataset.problem === "not-saved";
    for (const button of $$(".sz-choice")) {
      button.setAttribute("aria-pressed", String(button.dataset.choice === draft.choice));
      button.disabled = saving;
    }
    for (const pair of pairs()) {
      const seen = draft.seen.includes(pair.dataset.row);
      pair.toggleAttribute("data-seen", seen);
      set($("[data-seen-text]", pair), seen ? T.seen : T.unseen);
      for (const radio of $$("input[type=radio]", pair)) {
        radio.checked = draft.notes[pair.dataset.row] === radio.value;
      }
    }
    const left = unseen().length, ready = open();
    const confirm = $("#sz-confirm");
    confirm.disabled = saving || !draft.choice || !ready;
    set($("#sz-confirm-text"), saving ? T.saving : problem ? T.retry : T.confirm);
    set($("#sz-confirm-what"), draft.choice && !saving ? `: ${T.choices[draft.choice]}` : "");
    $("#sz-clear").hidden = !draft.choice || saving;
    $("#sz-cannot").disabled = saving;
    const jump = $("#sz-jump");
    jump.hidden = problem || saving || left === 0;
    set(jump, T.jump);
    set($("#sz-hint"), problem ? T.not_saved
      : saving ? fill(T.you_chose, { choice: T.choices[draft.pending?.choice || draft.choice] })
      : left > 0 ? (left === 1 ? T.hint_unseen_one : fill(T.hint_unseen, { unseen: left }))
      : draft.choice && !ready ? T.hint_moment
      : Object.keys(draft.notes).length ? notes() : draft.choice
      ? fill(T.you_chose, { choice: T.choices[draft.choice] }) : T.hint);
  }
  function notes() {
    const count = { A: 0, tie: 0, B: 0 };
    for (const note of Object.values(draft.notes)) count[note] += 1;
    return `${T.notes}: ${fill(T.notes_line, { a: count.A, tie: count.tie, b: count.B })}`;
  }
  function note(pair, value) {
    draft.notes[pair.dataset.row] = value;
    delete draft.pending;
    keep();
    update();
    say(fill(T.note_said, { number: pair.dataset.pair,
      choice: value === "tie" ? T.choices.tie : value }));
  }

  function ballot(choice, reason = null, report = false) {
    return { choice, idem: key(16), reason, report, dwell_ms: Math.round(dwell()),
      notes: { ...draft.notes }, seen: draft.seen.length,
      marks: document.documentElement.dataset.szMarks === "on",
      device: matchMedia("(min-width: 700px)").matches ? "wide" : "stacked" };
  }
  function cast(made) {
    const page = root();
    draft.pending = draft.pending || made; // a retry sends the very same ballot
    keep();
    page.dataset.problem = "";
    page.dataset.was = page.dataset.state;
    page.dataset.state = "saving";
    page.setAttribute("aria-busy", "true");
    update();
    say(T.saving);
    act("vote", { ballot: draft.pending });
  }

  /* ---- reading: which prompts have been in view ---- */

  let observer = null, timers = new Map();
  function watch() {
    if (observer) observer.disconnect();
    timers.forEach(clearTimeout);
    timers = new Map();
    const bar = $("#sz-verdict");
    const height = bar ? bar.getBoundingClientRect().height : 0;
    document.documentElement.style.setProperty("--sz-bar", `${Math.ceil(height)}px`);
    if (!draft) return;
    observer = new IntersectionObserver(inView, { rootMargin: `0px 0px -${Math.ceil(height)}px 0px`,
      threshold: [0, 0.2, 0.4, 0.6, 0.8, 1] });
    pairs().forEach((pair) => observer.observe(pair));
  }
  function inView(entries) {
    for (const { target, intersectionRatio, intersectionRect, rootBounds } of entries) {
      const fits = intersectionRatio >= 0.6
        || (rootBounds && intersectionRect.height >= 0.6 * rootBounds.height);
      clearTimeout(timers.get(target));
      if (fits && draft && !draft.seen.includes(target.dataset.row)) {
        timers.set(target, setTimeout(saw, 1000, target));
      }
    }
  }
  function saw(pair) {
    if (!draft || !pair.isConnected || document.hidden) return;
    if (!draft.seen.includes(pair.dataset.row)) draft.seen.push(pair.dataset.row);
    keep();
    update();
  }
  function fold() { // answers longer than 60 % of the window, both sides alike
    for (const pair of $$(".sz-pair")) {
      const button = $(".sz-all", pair);
      if (!button || button.getAttribute("aria-expanded") === "true") continue;
      const long = $$(".sz-text", pair).some((text) => text.scrollHeight > 0.6 * innerHeight + 24);
      pair.classList.toggle("sz-long", long);
      button.hidden = !long;
    }
  }
  function go(pair) {
    if (!pair) return;
    $("h2", pair).focus({ preventScroll: true });
    pair.scrollIntoView({ block: "start", behavior: calm() ? "auto" : "smooth" });
  }
  function current() {
    return document.activeElement?.closest?.(".sz-pair[data-pair]") || null;
  }
  function step(by) {
    const all = pairs(), at = all.indexOf(current());
    go(all[at < 0 ? (by > 0 ? 0 : all.length - 1) : Math.min(all.length - 1, Math.max(0, at + by))]);
  }
  function mark(on) { document.documentElement.dataset.szMarks = on ? "on" : "off"; }
  function resize(by) {
    prefs.size = Math.min(SIZES.length - 1, Math.max(0, prefs.size + by));
    document.documentElement.style.setProperty("--sz-size", `${SIZES[prefs.size]}px`);
    keepPrefs();
    fold();
  }

  /* ---- speaking, for those who do not see ---- */

  let voice = null, spoken = 0, waiting = null;
  function say(text, urgent = false) {
    if (!voice) {
      voice = document.createElement("div");
      voice.className = "sz-sr";
      voice.id = "sz-voice";
      voice.setAttribute("role", "status");
      document.body.append(voice);
    }
    clearTimeout(waiting);
    const wait = urgent ? 0 : Math.max(0, 1000 - (now() - spoken));
    waiting = setTimeout(() => { spoken = now(); voice.textContent = text; }, wait);
  }
  function banner(id, text, label = "", press = null) {
    let box = document.getElementById(id);
    if (!text) { box?.remove(); return; }
    if (!box) {
      box = document.createElement("div");
      box.id = id;
      box.className = "sz-float";
      box.setAttribute("role", "status");
      box.append(document.createElement("span"));
      if (press) {
        const button = document.createElement("button");
        button.type = "button";
        button.className = "sz-button";
        button.textContent = label;
        button.addEventListener("click", press);
        box.append(button);
      }
      document.body.append(box);
    }
    set(box.firstChild, text);
  }

  /* ---- the poller: the page's only other word with the server ---- */

  let etag = "", live = null, tries = 0, timer = null, polling = false;
  async function poll() {
    clearTimeout(timer);
    if (polling) return;
    const page = root();
    if (!tab || !page) { timer = setTimeout(poll, 200); return; }
    polling = true;
    try {
      const query = `tab=${tab}&seat=${encodeURIComponent(page.dataset.seat || "")}`;
      const reply = await fetch(`/panel-api/status?${query}`, { cache: "no-store",
        headers: etag ? { "If-None-Match": etag } : {}, signal: AbortSignal.timeout(8000) });
      if (reply.status === 401 || reply.status === 403) { back(); expired(); }
      else if (reply.status === 200 || reply.status === 304) {
        if (reply.status === 200) { etag = reply.headers.get("ETag"); live = await reply.json(); }
        const left = reply.headers.get("X-Szpo-Lease");
        if (left !== null && leaseEnds !== null) leaseEnds = now() + 1000 * Number(left);
        back();
        heard();
      } else throw new Error(String(reply.status));
    } catch { gone(); }
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
    if (busy) failed();
  }
  function back() {
    if (!tries) return;
    tries = 0;
    delete document.documentElement.dataset.szOffline;
    banner("sz-offline", "");
    say(T.online);
    next();
  }
  function heard() {
    const page = root(), { state, version } = page.dataset;
    if (state === "loading" || busy || $("#sz-login")?.open) return;
    if (state === "error") { // its number stays to be read; what nobody asked for is tried again
      const passive = lost && (lost.do === "look" || lost.do === "open");
      if (passive && now() - lastLook > LOOK_MS) send({ ...lost, ack: key(8) });
      return;
    }
    counts(page);
    const reading = READING.has(state) || state === "feedback" || state === "welcome";
    const changed = reading ? live.key !== page.dataset.key : live.version !== version;
    const fresh = live.state === "open" && live.key !== page.dataset.key
      && state !== "closed" && state !== "vote" && state !== "welcome";
    if (fresh) ready();
    if (document.hidden && !READING.has(state)) return; // a seat begins when somebody looks
    const stale = !reading && now() - lastLook > LOOK_MS;
    if ((changed && state !== "feedback" && state !== "welcome") || stale) {
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
    const name = { round: live.round };
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

  /* ---- the seat's lease: held by reading, with a warning before it ends ---- */

  let leaseEnds = null, active = 0, extending = false;
  function alive(event) {
    active = now();
    if (leaseEnds !== null && leaseEnds - now() < 1000 * WARN_S && event?.type !== "mousemove") {
      extend();
    }
  }
  async function extend() {
    const seat = root()?.dataset.seat;
    if (!seat || extending) return;
    extending = true;
    try {
      const query = `tab=${tab}&seat=${encodeURIComponent(seat)}`;
      const reply = await fetch(`/panel-api/extend?${query}`, { method: "POST" });
      const { lease_s: left } = await reply.json();
      if (left !== null && leaseEnds !== null) leaseEnds = now() + 1000 * left;
    } catch { /* the poller says that the connection is lost */ }
    extending = false;
    tick();
  }
  function tick() {
    if (draft) update();
    const page = root();
    if (!page || leaseEnds === null || !READING.has(page.dataset.state)
        || page.dataset.state === "closed" || page.dataset.revises) {
      banner("sz-lease", "");
    } else {
      const left = (leaseEnds - now()) / 1000;
      if (left < WARN_S + 60 && now() - active < 30000) extend();
      const clock = `${Math.floor(left / 60)}:${String(Math.floor(left % 60)).padStart(2, "0")}`;
      banner("sz-lease", left > WARN_S ? "" : left > 0 ? fill(T.lease, { time: clock })
        : T.lease_gone, T.lease_keep, extend);
    }
    usual(page);
  }
  let waitedSince = null;
  function usual(page) {
    const line = $("#wait-usual");
    if (!line || !Number(line.dataset.usual)) { waitedSince = null; return; }
    waitedSince = waitedSince || Date.now();
    if (live?.state !== "open" && Date.now() - waitedSince > 1000 * line.dataset.usual) {
      set(line, T.longer);
    }
    if (live?.state === "open" && page.dataset.state === "waiting") waitedSince = null;
  }

  /* ---- a session that ended: log in where one stands ---- */

  function expired() {
    const dialog = $("#sz-login");
    if (!dialog || dialog.open) return;
    $$("dialog[open]").forEach((other) => other.close());
    $("#sz-login-name").value = root().dataset.name || "";
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
      if (!reply.ok) { set(line, reply.status === 429 ? T.login_wait : T.login_wrong); return; }
    } catch { set(line, fill(T.offline, { count: 1 })); return; }
    $("#sz-login-code").value = "";
    root().dataset.expired = "";
    $("#sz-login").close();
    etag = "";
    next();
    poll();
  }

  /* ---- buttons, dialogs, keys ---- */

  const show = (id) => { const box = document.getElementById(id); if (box) box.showModal(); };
  const DO = {
    help: () => show("sz-help"),
    guideline: () => show("sz-guideline"),
    close: (button) => button.closest("dialog").close(),
    smaller: () => resize(-1),
    larger: () => resize(1),
    jump: () => go(unseen()[0]),
    clear: () => choose(null),
    all: (button) => {
      const opened = button.getAttribute("aria-expanded") !== "true";
      button.setAttribute("aria-expanded", String(opened));
      button.closest(".sz-pair").classList.toggle("sz-opened", opened);
      set(button, opened ? T.show_less : T.show_all);
    },
    confirm: () => { if (draft?.choice && open()) cast(ballot(draft.choice)); },
    cannot: () => {
      $$("input[name=sz-reason]").forEach((radio) => { radio.checked = false; });
      $("#sz-report").checked = false;
      $("#sz-skip-send").disabled = true;
      show("sz-cannot-dialog");
    },
    skip: () => {
      const reason = $("input[name=sz-reason]:checked")?.value;
      if (!reason || !draft) return;
      const made = ballot("skip", reason, $("#sz-report").checked);
      $("#sz-cannot-dialog").close();
      delete draft.pending;
      cast(made);
    },
    revise: (button) => act("revise", { seat: button.dataset.of }),
    retry: () => { if (lost) send({ ...lost, ack: key(8) }); else act("look"); },
  };

  function clicked(event) {
    const button = event.target.closest?.("[data-do], [data-choice]");
    if (button && !button.disabled && root()?.contains(button)) {
      if (button.dataset.choice) choose(button.dataset.choice);
      else if (DO[button.dataset.do]) DO[button.dataset.do](button);
      else act(button.dataset.do);
    }
    const dialog = event.target;
    if (dialog.tagName === "DIALOG" && dialog.id !== "sz-login") dialog.close();
    const skip = event.target.closest?.(".sz-skip");
    if (skip) { event.preventDefault(); $("#sz-verdict").focus(); }
    // A pointer leaves the note behind, so that the keys work again.
    if (event.detail > 0 && event.target.matches?.(".sz-note input")) event.target.blur();
  }
  function changed(event) {
    const { target } = event;
    if (target.id === "sz-marks") {
      mark(target.checked);
      if (root().dataset.marks !== "off") { prefs.marks = target.checked; keepPrefs(); }
      say(target.checked ? T.marks_on : T.marks_off);
    } else if (target.id === "sz-keys") {
      prefs.keys = target.checked;
      keepPrefs();
    } else if (target.id === "sz-notify") {
      prefs.notify = target.checked;
      keepPrefs();
      if (prefs.notify) permit();
    } else if (target.name === "sz-reason") {
      $("#sz-skip-send").disabled = false;
    } else if (target.matches(".sz-note input")) {
      note(target.closest(".sz-pair"), target.value);
    }
  }
  async function permit() {
    const line = $("#sz-notify-note");
    if (!window.Notification) { set(line, T.notify_denied); return; }
    const answer = await Notification.requestPermission();
    set(line, answer === "granted" ? "" : T.notify_denied);
    say(line.textContent);
  }

  const press = (selector) => {
    const button = $(selector);
    if (!button || button.disabled || button.hidden) return false;
    button.click();
    return true;
  };
  const noted = (value) => {
    const pair = current();
    if (!pair || !draft) return false;
    $(`input[value=${value}]`, pair).click();
    return true;
  };
  const KEYS = {
    ArrowLeft: () => press(".sz-choice[data-choice=A]"),
    1: () => press(".sz-choice[data-choice=A]"),
    2: () => press(".sz-choice[data-choice=tie]"),
    0: () => press(".sz-choice[data-choice=tie]"),
    ArrowRight: () => press(".sz-choice[data-choice=B]"),
    3: () => press(".sz-choice[data-choice=B]"),
    Escape: () => draft?.choice && press("#sz-clear"),
    j: () => { step(1); return true; },
    k: () => { step(-1); return true; },
    q: () => noted("A"),
    w: () => noted("tie"),
    e: () => noted("B"),
    d: () => press("#sz-marks"),
    s: () => press("#sz-cannot"),
    u: () => press(".sz-receipts li:last-child [data-do=revise]"),
    i: () => press("[data-do=guideline]"),
    p: () => press("[data-do=break]"),
    "?": () => press("[data-do=help]"),
  };
  function typed(event) {
    if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
    const target = event.target;
    if (target.closest?.("input, textarea, select, [contenteditable]")) return;
    if ($("dialog[open]")) return;
    if (event.key === "Enter") {
      const control = target.closest?.("button, a, summary, label");
      const chosen = control?.matches(".sz-choice[aria-pressed=true]");
      if ((!control || chosen) && press("#sz-confirm")) event.preventDefault();
      return;
    }
    if (event.shiftKey && event.key !== "?") return;
    if (!prefs.keys && event.key !== "Escape") return;
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (Object.hasOwn(KEYS, name) && KEYS[name]()) event.preventDefault();
  }

  function seen() { // the tab came to the front, or went
    if (!draft) { if (!document.hidden) poll(); return; }
    if (document.hidden) { draft.dwell += now() - since; keep(); } else { since = now(); watch(); poll(); }
    since = now();
  }
  function leave() {
    if (draft) { draft.dwell = dwell(); draft.top = scrollY; since = now(); keep(); }
    if (tab) navigator.sendBeacon?.(`/panel-api/gone?tab=${tab}`);
  }

  document.addEventListener("click", clicked);
  document.addEventListener("change", changed);
  document.addEventListener("keydown", typed);
  document.addEventListener("submit", (event) => {
    if (event.target.id === "sz-login-form") login(event);
    else if (root()?.contains(event.target)) event.preventDefault();
  });
  document.addEventListener("cancel", (event) => {
    if (event.target.id === "sz-login") event.preventDefault();
  }, true);
  document.addEventListener("visibilitychange", seen);
  for (const kind of ["pointerdown", "keydown", "wheel", "touchmove", "mousemove"]) {
    document.addEventListener(kind, alive, { passive: true });
  }
  addEventListener("pagehide", leave);
  addEventListener("resize", () => { watch(); fold(); });
  new MutationObserver(rendered).observe(document, { subtree: true, childList: true,
    attributes: true, attributeFilter: ["data-ack"] });
  setInterval(tick, 1000);
  poll();

  window.szpo = { opening, sending, failed };
})();
