/* Small tools of the panelist's page, and its data in the browser. The component provides the
   sentences `T`, `element`, `props` and `server`, which calls Python. */

const READING = new Set(["vote", "closed", "final", "saving", "sheet"]);
const SIZES = [16, 17, 19, 21, 24];

const $ = (selector, from = document) => from.querySelector(selector);
const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
const root = () => document.getElementById("szpo-root");
const fill = (text, what) => text.replace(/\{(\w+)\}/g, (_, name) => what[name]);
const now = () => performance.now();
const within = (ms, answer) => // the answer, or undefined if it does not come in time
  Promise.race([answer, new Promise((settle) => { setTimeout(settle, ms); })]);
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

/* ---- times ---- */

function clockTime(iso) { // in the reader's own format, if they read English
  const own = navigator.languages.find((tag) => tag.split("-")[0] === "en") || "en";
  if (!iso.includes("T")) { // a day, the same for every reader
    return new Date(iso).toLocaleDateString(own, { dateStyle: "long", timeZone: "UTC" });
  }
  return new Date(iso).toLocaleTimeString(own, { hour: "2-digit", minute: "2-digit" });
}

/* ---- stored data: preferences per panelist, a draft per seat ---- */

let prefs = { keys: true, view: "formatted", size: 1, notify: false };
let draft = null; // {seat, choice, notes, seen, dwell, pending}; of a sheet: {seat, dwell}
const shelf = (seat) => `szpo.draft.${seat}`;

function keep() { if (draft) write(sessionStorage, shelf(draft.seat), draft); }
function keepPrefs() { write(localStorage, `szpo.prefs.${root().dataset.name}`, prefs); }

/* ---- one tab ---- */

let tab = "";
// A tab's token survives a reload. A duplicated tab inherits it, so a lock tells whose it is.
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


/* ---- announcements for screen readers, and banners ---- */

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
