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
  retry: () => { if (lost) send(lost); else act("look"); },
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
  // After a click, the note loses the focus, so that the shortcuts work again.
  if (event.detail > 0 && event.target.matches?.(".sz-note input")) event.target.blur();
}
function changed(event) {
  const { target } = event;
  if (target.id === "sz-marks") {
    mark(target.checked);
    if (root().dataset.marks !== "off") { prefs.marks = target.checked; keepPrefs(); }
    say(target.checked ? T.marks_on : T.marks_off);
  } else if (target.id === "sz-formatted") {
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
  f: () => press("#sz-formatted"),
  s: () => press("#sz-cannot"),
  u: () => press(".sz-receipts li:last-child [data-do=revise]"),
  i: () => press("[data-do=guideline]"),
  p: () => press("[data-do=break]"),
  "?": () => press("[data-do=help]"),
};
function typed(event) {
  if (event.repeat || event.ctrlKey || event.altKey || event.metaKey || event.isComposing) return;
  const target = event.target;
  // After a dialog closes, the focus is still on one of its fields, but nobody types there.
  const field = target.closest?.("input, textarea, select, [contenteditable]");
  if (field && !field.closest("dialog:not([open])")) return;
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

function seen() { // the tab was shown or hidden
  if (!draft) { if (!document.hidden) poll(); return; }
  if (document.hidden) { draft.dwell += now() - since; keep(); } else { since = now(); watch(); poll(); }
  since = now();
}
const ROUTE = `${(window.gradio_config?.root || location.href).replace(/\/$/, "")}/gradio_api/component_server/`;
function leave() {
  if (draft) { draft.dwell = dwell(); draft.top = scrollY; since = now(); keep(); }
  const called = { component_id: props.component, fn_name: "gone", session_hash: "all",
    data: { tab } };
  if (tab) navigator.sendBeacon?.(ROUTE, new Blob([JSON.stringify(called)], {
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
addEventListener("pagehide", leave);
addEventListener("scroll", inView, { passive: true });
addEventListener("resize", () => { watch(); fold(); });
setInterval(tick, 1000);
opening();
poll();
