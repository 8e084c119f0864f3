/* Shows a screen that has arrived, restores drafts and settings, and announces new comparisons. */

const BREAK_MS = 25 * 60e3, BREAK_VOTES = 20;

/* ---- after each response ---- */

async function draw(html, answered) {
  busy = null;
  saved();
  props.value = html;
  await null; // wait until the component has filled in its template
  lost = null; // the request that an error screen offers to retry
  if (root().dataset.state === "error") lost = answered;
  else if (answered.do === "vote") voted(answered);
  paint();
  // A vote queued behind this response is still being saved.
  if (queued?.do === "vote" && draft?.pending && draft.seat === queued.seat) saving();
  next();
}
let lost = null;

function voted(request) {
  sessionStorage.removeItem(shelf(request.seat));
  if (draft && draft.seat === request.seat) draft = null;
  const count = read(sessionStorage, "szpo.session");
  write(sessionStorage, "szpo.session", { since: count.since || Date.now(),
    votes: (count.votes || 0) + 1 });
  trigger("voted");
}

let before = { state: "", seat: "", step: "" };
function paint() {
  const page = root(), { state, step } = page.dataset, seat = page.dataset.sheet || page.dataset.seat;
  prefs = { ...prefs, ...read(localStorage, `szpo.prefs.${page.dataset.name}`) };
  document.documentElement.style.setProperty("--sz-size", `${SIZES[prefs.size]}px`);
  if (seat) pickUp(page, seat); else draft = null;
  view(prefs.view);
  const keys = $("#sz-keys");
  if (keys) keys.checked = prefs.keys;
  const notify = $("#sz-notify");
  if (notify) notify.checked = prefs.notify;
  for (const node of $$("time[datetime]", page)) {
    set(node, clockTime(node.getAttribute("datetime")));
  }
  leaseEnds = page.dataset.lease ? now() + 1000 * Number(page.dataset.lease) : null;
  began.clear();
  watch();
  fold();
  update();
  here = null;
  if (state === "sheet") lay(page);
  usual(page);
  offerBreak(page);
  const moved = state !== before.state || seat !== before.seat;
  if (moved && before.state) arrive(page);
  else if (moved) { title(page); scrollTo({ top: draft?.top || 0, behavior: "instant" }); }
  before = { state, seat, step };
  if (state !== "error") {
    write(sessionStorage, "szpo.at", { seat: page.dataset.seat, mode: page.dataset.mode });
  }
}

function pickUp(page, seat) {
  const { chosen } = page.dataset;
  if (draft && draft.seat === seat) {
    page.dataset.problem = draft.pending ? "not-saved" : "";
    return;
  }
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
  const head = here || $("#sz-h1");
  if (head) { head.focus({ preventScroll: true }); scrollTo({ top: 0, behavior: "instant" }); }
  if (here) turn(here);
  title(page);
  if (page.dataset.state === "vote" && page.dataset.step !== "") {
    say(fill(T.said_round, { round: Number(page.dataset.step) + 1, number: page.dataset.number,
      differ: page.dataset.rows }));
  } else if (here) say(fill(T.said_sheet, { rows: rows().length }));
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
