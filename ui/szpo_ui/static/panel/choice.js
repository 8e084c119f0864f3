/* Choosing: a choice leaves the browser only when it is confirmed; drafts survive a reload. */

const GATE_MS = 30000;

/* ---- choosing ---- */

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
  const what = { choice: T.choices[choice] };
  say(!choice ? T.cleared : open() ? fill(T.chosen, what)
    : `${fill(T.you_chose, what)}. ${$("#sz-hint").textContent}`);
}
function open() { // whether a vote may be confirmed: after all prompts and the gate, or 30 s
  if (!draft) return false;
  if (root().dataset.revises) return true;
  const ms = dwell();
  return ms >= GATE_MS || (unseen().length === 0 && ms >= 1000 * Number(root().dataset.gate));
}
const pairs = () => $$(".sz-pair[data-pair]");
const unseen = () => pairs().filter((pair) => !draft.seen.includes(pair.dataset.row));

function update() {
  const page = root();
  if (!page || !draft || !$("#sz-confirm")) return;
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
  return { assignment: draft.seat, choice, idem: key(16), skip_reason: reason,
    dwell_ms: Math.round(dwell()),
    details: { notes: { ...draft.notes }, seen: draft.seen.length, ...manner(),
      report: report || null } };
}
function manner() { // how the texts were shown
  return { device: matchMedia("(min-width: 700px)").matches ? "wide" : "stacked",
    view: $("#sz-formatted") ? document.documentElement.dataset.szView : null };
}
function cast(made) {
  draft.pending = draft.pending || made; // a retry sends the same ballot
  keep();
  saving();
  say(T.saving);
  act("vote", { ballot: { ...draft.pending, tab } });
}
function saving() {
  const page = root();
  page.dataset.problem = "";
  page.dataset.was = page.dataset.state;
  page.dataset.state = "saving";
  page.setAttribute("aria-busy", "true");
  update();
}
function saved() { // saved or given up: return to the state before saving
  const page = root();
  if (page.dataset.state !== "saving") return;
  page.dataset.state = page.dataset.was;
  page.removeAttribute("aria-busy");
}
