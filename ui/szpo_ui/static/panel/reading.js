/* Reading: which prompts were in view, folding of long answers, and the seat's lease. */

const WARN_S = 120;

/* ---- reading: which prompts have been in view ---- */

const LOOK_S = 1;
let barHeight = 0, began = new Map(); // when each prompt came into view, by row
function watch() {
  const bar = $("#sz-verdict");
  barHeight = bar ? Math.ceil(bar.getBoundingClientRect().height) : 0;
  document.documentElement.style.setProperty("--sz-bar", `${barHeight}px`);
  inView();
}
/* Measures pairs itself: an IntersectionObserver reports only at fixed shares of a pair, and a pair
   three windows high may fill the window without reaching one. */
function inView() {
  if (!draft || document.hidden) { began.clear(); return; }
  const room = innerHeight - barHeight;
  for (const pair of unseen()) {
    const { top, bottom, height } = pair.getBoundingClientRect(), { row } = pair.dataset;
    const shown = Math.min(bottom, room) - Math.max(top, 0);
    if (shown < 0.6 * Math.min(height, room)) { began.delete(row); continue; }
    if (!began.has(row)) {
      began.set(row, now());
      setTimeout(inView, 1000 * LOOK_S + 20);
    } else if (now() - began.get(row) >= 1000 * LOOK_S) saw(pair);
  }
}
function saw(pair) {
  if (!draft.seen.includes(pair.dataset.row)) draft.seen.push(pair.dataset.row);
  keep();
  update();
}
function fold() { // fold both answers of a pair if one is higher than 60 % of the window
  const most = 0.6 * innerHeight + 24;
  const found = $$(".sz-pair").map((pair) => [pair, $(".sz-all", pair),
    $$(".sz-text", pair).some((text) => text.scrollHeight > most)]); // measure all pairs before changing any
  for (const [pair, button, long] of found) {
    if (!button || button.getAttribute("aria-expanded") === "true") continue;
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
function view(as) { // show "formatted" or "plain" texts; the page has both
  document.documentElement.dataset.szView = as;
  const box = $("#sz-formatted");
  if (box) box.checked = as === "formatted";
}
function resize(by) {
  prefs.size = Math.min(SIZES.length - 1, Math.max(0, prefs.size + by));
  document.documentElement.style.setProperty("--sz-size", `${SIZES[prefs.size]}px`);
  keepPrefs();
  fold();
}

/* ---- the seat's lease: extended while somebody reads, with a warning before it ends ---- */

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
  const left = await within(POLL_MS, server.hold({ tab, seat }));
  if (left && leaseEnds !== null) leaseEnds = now() + 1000 * left;
  extending = false;
  tick();
}
function tick() {
  if (draft) { inView(); update(); }
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
