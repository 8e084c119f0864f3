/* Buttons, dialogs and keys; as the last part, this starts the page. */

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
  undo: (button) => afterSaving(() => act("revise", { seat: button.dataset.of })),
  next: finish,
  unhide: (button) => button.closest(".sz-row").toggleAttribute("data-shown"),
  retry: () => { if (lost) send(lost); else act("look"); },
};

function clicked(event) {
  const button = event.target.closest?.("[data-do], [data-choice], [data-judge]");
  if (button && !button.disabled && root()?.contains(button)) {
    if (button.dataset.judge) judge(button.closest(".sz-row"), button.dataset.judge);
    else if (button.dataset.choice) choose(button.dataset.choice);
    else if (DO[button.dataset.do]) DO[button.dataset.do](button);
    else act(button.dataset.do);
  }
  const dialog = event.target;
  if (dialog.tagName === "DIALOG" && dialog.id !== "sz-login") dialog.close();
  const skip = event.target.closest?.(".sz-skip");
  if (skip) { event.preventDefault(); $("#sz-verdict").focus(); }
  // Whoever has just selected a part of an answer, to copy it, has not chosen this answer.
  const option = event.target.closest?.(".sz-option"), selection = getSelection();
  if (option && !selection.isCollapsed && selection.containsNode(option, true)) {
    event.preventDefault();
  }
  // After a click, the note loses the focus, so that the shortcuts work again.
  if (event.detail > 0 && event.target.matches?.(".sz-note input")) event.target.blur();
}
function changed(event) {
  const { target } = event;
  if (target.id === "sz-formatted") {
    prefs.view = target.checked ? "formatted" : "plain";
    keepPrefs();
    view(prefs.view);
    fold();
    watch();
    say(target.checked ? T.view_formatted : T.view_plain);
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
  } else if (target.matches(".sz-option input")) {
    touched(target.closest(".sz-row"), target.value);
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
  if (!draft) return false;
  if (!current()) step(1); // the first row is meant, and J then goes to the second
  const pair = current();
  if (!pair) return false;
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
  f: () => press("#sz-formatted"),
  s: () => press("#sz-cannot"),
  u: () => press(".sz-receipts li:last-child [data-do=revise]"),
  i: () => press("[data-do=guideline]"),
  p: () => press("[data-do=break]"),
  "?": () => press("[data-do=help]"),
};
// A key's name; by its place where it writes no Latin letter or digit: Cyrillic, AZERTY's digits.
function named({ key, code }) {
  const [, kind, place] = /^(Key|Digit)(.)$/.exec(code) ?? [];
  const other = kind === "Key" ? /^\p{L}/u.test(key) && !/^\p{Script=Latin}/u.test(key)
    : kind === "Digit" && !/^(\d|\?|..+)$/.test(key);
  return (other ? place : key.length === 1 ? key : "").toLowerCase() || key;
}
function typed(event) {
  const target = event.target, sheet = root()?.dataset.state === "sheet";
  const arrow = sheet && event.key.startsWith("Arrow");
  if (event.repeat && arrow) event.preventDefault(); // a radio button would move the choice
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
  // After a dialog closes, the focus is still on one of its fields, but nobody types there.
  const field = target.closest?.("input, textarea, select, [contenteditable]");
  if (field && !field.closest("dialog:not([open])")
    && !(sheet && field.matches("[type=radio], [type=checkbox]"))) return;
  if ($("dialog[open]")) return;
  if (event.key === "Enter" && sheet) {
    if (!target.closest?.("button, a, summary") && press("#sz-next")) event.preventDefault();
    return;
  }
  if (event.key === "Enter") {
    const control = target.closest?.("button, a, summary, label");
    const chosen = control?.matches(".sz-choice[aria-pressed=true]");
    if ((!control || chosen) && press("#sz-confirm")) event.preventDefault();
    return;
  }
  if (event.shiftKey && !/^[?\d]$/.test(event.key)) return;
  if (!prefs.keys && event.key !== "Escape" && !arrow) return;
  const name = named(event);
  const keys = sheet ? { ...KEYS, ...ROW_KEYS } : KEYS;
  if (Object.hasOwn(keys, name) && keys[name]()) event.preventDefault();
}

function seen() { // the tab was shown or hidden
  if (!draft) { if (!document.hidden) poll(); return; }
  if (document.hidden) { draft.dwell += now() - since; keep(); } else { since = now(); watch(); poll(); }
  since = now();
}
const ROUTE = `${(window.gradio_config?.root || location.href).replace(/\/$/, "")}/gradio_api/component_server/`;
function leave() {
  if (draft) { draft.dwell = dwell(); draft.top = scrollY; since = now(); keep(); }
  if (!tab) return;
  const data = { tab, ballots: outbox.map((ballot) => ({ ...ballot, tab })) };
  navigator.sendBeacon?.(ROUTE, new Blob([JSON.stringify(
    { component_id: props.component, fn_name: "gone", session_hash: "all", data })], {
    type: "application/json" })); // a request by `server` would end with the page
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
document.addEventListener("focusin", ({ target }) => { here = target.closest(".sz-row") || here; });
addEventListener("pagehide", leave);
addEventListener("scroll", inView, { passive: true });
addEventListener("resize", () => { watch(); fold(); });
setInterval(tick, 1000);
opening();
poll();
