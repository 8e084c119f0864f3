/* A sheet of rows: one key or one touch is a verdict. It is sent at once, and kept until it is
   stored, whatever is shown meanwhile. */

const TOUCH_MS = 350; // a touch so soon after the last verdict was meant for the row before

let outbox = Object.values(read(sessionStorage, "szpo.outbox")); // not stored yet, oldest first
let here = null; // the row that the keys mean
let sending = false, stuck = false, afterwards = null, judged = 0;

const rows = () => $$(".sz-row");
const waits = (row) => !row.dataset.verdict;
const unsent = (row) => outbox.some((ballot) => ballot.assignment === row.dataset.seat);

function lay(page) { // a sheet has been drawn
  for (const row of rows()) {
    const kept = outbox.findLast((ballot) => ballot.assignment === row.dataset.seat);
    showVerdict(row, kept ? kept.skip_reason || kept.choice : row.dataset.verdict);
  }
  here = page.dataset.revises ? rows().find((row) => row.dataset.seat === page.dataset.seat)
    : rows().find(waits) || null;
  if (!before.state) here?.focus({ preventScroll: true });
  tell();
}
function showVerdict(row, verdict) {
  row.dataset.verdict = verdict || "";
  row.removeAttribute("data-shown");
  for (const radio of $$("input[type=radio]", row)) radio.checked = radio.value === verdict;
  for (const button of $$("[data-judge]", row)) {
    button.setAttribute("aria-pressed", String(button.dataset.judge === verdict));
  }
}
function tell() { // what is saved, what is left
  const page = root();
  if (page.dataset.state !== "sheet") return;
  const all = rows(), open = all.filter(waits);
  for (const row of all) {
    const saved = !waits(row) && !unsent(row);
    row.toggleAttribute("data-saved", saved);
    set($("[data-saved-text]", row), saved ? T.saved : "");
  }
  if (open.length) page.dataset.seat = open[0].dataset.seat; // the seat that is kept, with others
  page.dataset.problem = stuck ? "not-saved" : "";
  set($("#sz-hint"), stuck ? fill(T.rows_unsaved, { count: outbox.length })
    : !open.length && outbox.length ? T.saving
    : fill(open.length ? T.rows_left : T.rows_done, { left: open.length, rows: all.length }));
  $("#sz-next").classList.toggle("sz-primary", !open.length);
}

function judge(row, verdict) {
  if (row.dataset.verdict !== verdict) {
    const harmful = verdict === "harmful";
    outbox.push({ assignment: row.dataset.seat, choice: harmful ? "skip" : verdict,
      skip_reason: harmful ? verdict : null, idem: key(16), dwell_ms: Math.round(dwell()),
      details: manner() });
    write(sessionStorage, "szpo.outbox", outbox);
    showVerdict(row, verdict);
    say(fill(T.row_said, { number: row.dataset.number,
      choice: harmful ? T.harmful : T.choices[verdict] }));
    flush();
  }
  draft.dwell = 0;
  judged = since = now();
  keep();
  const all = rows();
  turn(all.slice(all.indexOf(row) + 1).find(waits) || all.find(waits));
  tell();
}
function touched(row, verdict) {
  if (now() - judged < TOUCH_MS) showVerdict(row, row.dataset.verdict);
  else judge(row, verdict);
}
function turn(row) { // to this row, or past the last one
  here = row || null;
  (row || $("#sz-next")).focus({ preventScroll: true });
  if (!row) return;
  const { top, bottom } = row.getBoundingClientRect();
  if (top < 56 || bottom > innerHeight - barHeight) {
    row.scrollIntoView({ block: "start", behavior: calm() ? "auto" : "smooth" });
  }
}
function move(by) {
  const all = rows(), at = here ? all.indexOf(here) : all.length;
  if (at + by < 0) return press("[data-do=undo]");
  turn(all[at + by]);
  return true;
}
function finish() {
  const open = rows().find(waits);
  if (open) { turn(open); say($("#sz-hint").textContent); } else afterSaving(() => act("go"));
}
function afterSaving(what) {
  afterwards = what;
  flush();
}

async function flush() {
  if (sending || !tab) return;
  sending = true;
  while (outbox.length) {
    let found = null;
    try { found = await within(REPLY_MS, server.give({ ...outbox[0], tab })); } catch { /* none */ }
    stuck = typeof found !== "object" || !(found?.refused || Object.hasOwn(found || {}, "choice"));
    if (stuck) break;
    const ballot = outbox.shift();
    write(sessionStorage, "szpo.outbox", outbox);
    stored(ballot, found);
  }
  sending = false;
  tell();
  if (stuck) {
    say(T.not_saved, true);
    clearTimeout(timer);
    timer = setTimeout(poll, ASK_MS);
  } else if (afterwards) {
    const what = afterwards;
    afterwards = null;
    what();
  }
}
function stored(ballot, found) {
  const row = rows().find((each) => each.dataset.seat === ballot.assignment);
  if (row && !unsent(row) && found.choice !== ballot.choice) showVerdict(row, found.choice);
  const text = found.refused ? fill(T.row_refused, { id: found.error }) : found.notice;
  if (text) {
    const line = document.createElement("p");
    line.className = "sz-banner";
    line.setAttribute("role", "status");
    line.textContent = text;
    $("#sz-notice")?.replaceChildren(line);
  }
  if (found.elsewhere) act("look");
  else trigger("voted");
  tell();
}

const give = (verdict) => () => { if (here) judge(here, verdict); return Boolean(here); };
const ROW_KEYS = {
  ArrowLeft: give("A"), 1: give("A"),
  ArrowDown: give("tie"), 2: give("tie"), 0: give("tie"),
  ArrowRight: give("B"), 3: give("B"),
  ArrowUp: () => move(-1), k: () => move(-1), j: () => move(1),
  s: give("skip"), h: give("harmful"),
  u: () => press("[data-do=undo]"),
};
