"use strict";
// The home page of a folder: polls its rows, sends the buttons' requests, picks runs to compare.
(() => {
  const POLL_MS = 4000, TOAST_MS = 8000;
  const $ = (selector, from = document) => from.querySelector(selector);
  const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
  const rows = $("#rows"), link = $("#compare"), dialog = $("#new-run"), labels = $("#label");
  const picked = new Set();
  let etag = "";

  function toast(text) {
    const place = $("#toast");
    place.textContent = text;
    place.classList.toggle("shown", Boolean(text));
    clearTimeout(toast.timer);
    toast.timer = setTimeout(() => place.classList.remove("shown"), TOAST_MS);
  }
  function toLogin() { location.href = "/login"; }

  async function post(path, body) {
    try {
      const reply = await fetch(path, { method: "POST", body: JSON.stringify(body),
        headers: { "Content-Type": "application/json" } });
      if (reply.status === 401 || reply.status === 403) { toLogin(); return null; }
      const found = await reply.json();
      return { ok: reply.ok, text: found.text || found.message || "" };
    } catch {
      return { ok: false, text: "Not done: the server cannot be reached. Try again." };
    }
  }

  /* ---- rows ---- */

  function localTimes() {
    for (const time of $$("time[data-form]:not([data-local])")) {
      const when = new Date(time.getAttribute("datetime"));
      time.textContent = when.toLocaleString([], { day: "numeric", month: "short",
        hour: "2-digit", minute: "2-digit" });
      time.title = when.toISOString();
      time.dataset.local = "1";
    }
  }
  /* The focused element, which gets the focus back after the rows are redrawn. */
  function focused() {
    const at = document.activeElement, row = at && at.closest("#rows tr");
    if (!row) return null;
    return { run: row.dataset.run, at: $$("a, button, input", row).indexOf(at) };
  }
  function paint(html) {
    const before = focused();
    rows.innerHTML = html; // escaped by the server's templates
    sort();
    for (const box of $$("input[name=run]", rows)) box.checked = picked.has(box.value);
    const row = before && $$("tr", rows).find((each) => each.dataset.run === before.run);
    if (row) {
      const inside = $$("a, button, input", row);
      (inside[Math.min(before.at, inside.length - 1)] || document.body).focus();
    }
    localTimes();
    choose();
  }
  /* Sort numbers from the largest, words by alphabet, and missing values last. */
  function sort() {
    const key = $("#sort").value;
    if (!key) return;
    const text = key === "run" || key === "tag";
    const order = (a, b) => (text ? !a - !b || a.localeCompare(b) : b - a);
    rows.append(...$$("tr", rows).sort((a, b) => order(a.dataset[key] || "", b.dataset[key] || "")));
  }
  async function look() {
    try {
      const reply = await fetch("/home-api/rows",
        { headers: etag ? { "If-None-Match": etag } : {}, cache: "no-store" });
      if (reply.status === 401 || reply.status === 403) { toLogin(); return; }
      if (reply.status === 200) {
        etag = reply.headers.get("etag") || "";
        paint((await reply.json()).html);
      }
      if (reply.ok || reply.status === 304) document.body.classList.remove("offline");
    } catch { document.body.classList.add("offline"); }
  }
  async function poll() {
    await look();
    setTimeout(poll, POLL_MS);
  }

  /* ---- comparing ---- */

  function choose() {
    const there = new Set($$("input[name=run]", rows).map((box) => box.value));
    for (const name of [...picked]) if (!there.has(name)) picked.delete(name);
    const ready = picked.size >= 2 && picked.size <= 6;
    $("#picked").textContent = picked.size ? `${picked.size} run${picked.size > 1 ? "s" : ""}` : "";
    link.setAttribute("aria-disabled", String(!ready));
    const query = new URLSearchParams([...picked].map((name) => ["run", name]));
    if (ready) link.href = `/compare?${query}`; else link.removeAttribute("href");
    $("#hint").textContent = picked.size > 6 ? "At most six runs can be compared at once."
      : "Tick two to six runs to compare them. A run's name leads to its own page.";
  }

  /* ---- buttons ---- */

  async function act(button) {
    button.disabled = true;
    const reply = await post("/home-api/act", { do: button.dataset.do, run: button.dataset.run });
    button.disabled = false;
    if (!reply) return;
    toast(reply.text);
    await look();
  }
  async function note(event) {
    event.preventDefault();
    const { tag, note } = event.target.elements;
    const reply = await post("/home-api/label",
      { run: event.target.dataset.run, tag: tag.value, note: note.value });
    if (!reply) return;
    if (reply.ok) labels.close();
    toast(reply.text);
    await look();
  }
  async function begin(event) {
    event.preventDefault();
    const form = event.target, error = $("#new-error"), go = $("button[type=submit]", form);
    const [kind, ...rest] = form.elements.source.value.split(":");
    go.disabled = true;
    const reply = await post("/home-api/begin",
      { name: form.elements.name.value, [kind]: rest.join(":") });
    go.disabled = false;
    if (!reply) return;
    error.hidden = reply.ok;
    error.textContent = reply.ok ? "" : reply.text;
    if (!reply.ok) return;
    dialog.close();
    form.reset();
    toast(reply.text);
    await look();
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.do) act(button);
    else if (button.id === "new") { $("#new-error").hidden = true; dialog.showModal(); }
    else if (button.dataset.noted) {
      const form = $("form", labels);
      form.dataset.run = button.dataset.noted;
      form.elements.tag.value = button.dataset.tag;
      form.elements.note.value = button.dataset.note;
      labels.showModal();
    }
    else if (button.hasAttribute("data-close")) button.closest("dialog").close();
    else if (button.id === "logout") post("/logout", {}).then(toLogin);
  });
  localTimes();
  if (!rows) return;
  rows.addEventListener("change", (event) => {
    if (event.target.name !== "run") return;
    if (event.target.checked) picked.add(event.target.value); else picked.delete(event.target.value);
    choose();
  });
  for (const box of $$("input[name=run]:checked", rows)) picked.add(box.value);
  choose();
  $("#begin")?.addEventListener("submit", begin);
  $("#noting").addEventListener("submit", note);
  $("#sort").addEventListener("change", () => { etag = ""; look(); });
  setTimeout(poll, POLL_MS);
})();
