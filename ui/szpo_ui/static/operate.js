/* The operator's page in the browser: dialogs, one request at a time, and a poller that fetches the
   page again when its version has changed. The component provides `props` and `server`, which calls
   Python. */
(() => {
  "use strict";
  const POLL_MS = 5000, REPLY_MS = 20000, TOAST_MS = 8000;
  const $ = (selector, from = document) => from.querySelector(selector);
  const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];
  const root = () => document.getElementById("op-root");

  let busy = null, queue = [], etag = "", asked = "";

  /* ---- requests ---- */

  function act(what, more = {}, from = null) {
    queue.push({ request: { do: what, ...more }, from });
    next();
  }
  async function next() {
    if (busy || !queue.length) return;
    busy = queue.shift();
    const { from, request } = busy;
    const answer = server.do(request).catch(() => null);
    const late = new Promise((settle) => { setTimeout(settle, REPLY_MS); });
    const found = await Promise.race([answer, late]);
    if (found?.page) {
      props.value = found.page;
      await null; // wait until the component has filled in its template
      painted();
    }
    busy = null;
    if (!found?.page) failed(from);
    else if (found.reply) {
      const reply = document.createElement("template");
      reply.innerHTML = found.reply;
      answered(reply.content.firstElementChild, from, request);
    }
    next();
  }
  function failed(from) {
    const text = "Not done: the server did not answer. Try again.";
    if (from) error(from, text); else toast(text);
  }
  function answered(reply, from, request) {
    const text = $(".op-reply-text", reply).textContent;
    const more = $(".op-reply-more", reply);
    if (!reply.dataset.ok) { if (from) error(from, text); else toast(text); return; }
    const slot = from && $("[data-slot]", from);
    if (slot && more.children.length) {
      slot.replaceChildren(...[...more.cloneNode(true).childNodes]);
      if (request.do === "invite") {
        $("[data-close]", from).textContent = "Done";
        $("input[readonly]", slot)?.focus();
      }
      return;
    }
    if (from) { from.close(); back(from); }
    if (text) toast(text);
  }
  /* Focus the button that opened a dialog, or the one that replaced it in a redrawn page. */
  function back(dialog) {
    const same = $$(`#op-screen [data-open="${dialog.id}"]`)
      .find((button) => (button.dataset.name || "") === dialog.dataset.name);
    const next = same || $("#op-root h1");
    if (next) next.focus();
  }
  function error(from, text) {
    const place = $(".op-error", from);
    place.textContent = text;
    place.hidden = false;
    $$("[data-need]", from)  // show the field that the text asks for, "minutes" or "samples"
      .forEach((need) => { if (text.includes(need.dataset.need.slice(0, -1))) need.hidden = false; });
  }
  function toast(text) {
    const place = $("#op-toast");
    place.textContent = text;
    place.classList.add("op-shown");
    clearTimeout(toast.timer);
    toast.timer = setTimeout(() => place.classList.remove("op-shown"), TOAST_MS);
  }

  /* ---- dialogs ---- */

  function open(id, button) {
    const dialog = document.getElementById(id), form = $("form", dialog);
    form.reset();
    $$(".op-error", dialog).forEach((place) => { place.hidden = true; });
    const slot = $("[data-slot]", dialog);
    if (slot) {
      slot.dataset.first ??= slot.innerHTML;
      slot.innerHTML = slot.dataset.first;
    }
    const close = $("[data-close]", dialog);
    if (close) close.textContent = "Cancel";
    const name = button.dataset.name || "";
    if (form.elements.name) form.elements.name.value = name;
    $$("[data-show=name]", dialog).forEach((place) => { place.textContent = name; });
    dialog.dataset.name = name;
    const needs = (button.dataset.needs || "").split(" ");
    $$("[data-need]", dialog).forEach((place) => { place.hidden = !needs.includes(place.dataset.need); });
    dialog.showModal();
  }
  function read(form) {
    const found = {};
    for (const field of form.elements) {
      if (!field.name || (field.value === "" && field.dataset.type)) continue;
      if (field.type === "checkbox" && !field.checked) continue;
      found[field.name] = value(field);
    }
    return found;
  }
  function value(field) {
    switch (field.dataset.type) {
      case "int": return Math.round(Number(field.value));
      case "round": return Math.round(Number(field.value)) - 1;
      case "float": return Number(field.value);
      case "bool": return field.value === "1";
      case "time": return new Date(field.value).toISOString().slice(0, 16);
      default: return field.value;
    }
  }
  function submit(event) {
    const form = event.target.closest("form[data-do]");
    if (!form) return;
    event.preventDefault();
    const wrong = [...form.elements].find((field) => field.willValidate && !field.validity.valid);
    if (wrong) { wrong.reportValidity(); return; }
    send(form, form.dataset.do);
  }
  function send(form, what) {
    const dialog = form.closest("dialog"), found = read(form);
    if (dialog.id === "op-access") {
      found.name = dialog.dataset.name;
      if (what !== "erase") delete found.typed;
    }
    $$(".op-error", dialog).forEach((place) => { place.hidden = true; });
    act(what, found, dialog);
  }
  function click(event) {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.open) open(button.dataset.open, button);
    else if (button.hasAttribute("data-close")) button.closest("dialog").close();
    else if (button.dataset.send) send(button.closest("form"), button.dataset.send);
    else if (button.dataset.do) {
      const more = {};
      if ("on" in button.dataset) more.on = button.dataset.on === "1";
      if (button.dataset.name) more.name = button.dataset.name;
      if (button.dataset.order) more.order = Number(button.dataset.order);
      act(button.dataset.do, more);
    }
  }

  /* ---- polling ---- */

  async function poll() {
    try {
      const reply = await fetch("/operate-api/status",
        { headers: etag ? { "If-None-Match": etag } : {}, cache: "no-store" });
      if (reply.status === 401 || reply.status === 403) { location.href = "/login?next=/operate/"; return; }
      offline(reply.status >= 500);
      if (reply.status === 200) {
        etag = reply.headers.get("etag") || "";
        const found = (await reply.json()).version;
        const shown = root() && root().dataset.version;
        if (shown && found !== shown && found !== asked) { asked = found; act("look"); }
      }
    } catch { offline(true); }
    setTimeout(poll, POLL_MS);
  }
  function offline(is) { document.body.classList.toggle("op-offline", is); }

  const kept = { open: new Set() };
  function painted() {
    for (const time of $$("#op-screen time[data-form]:not([data-local])")) {
      const when = new Date(time.getAttribute("datetime"));
      const form = time.dataset.form === "clock" ? { hour: "2-digit", minute: "2-digit" }
        : { day: "numeric", month: "short", hour: "2-digit", minute: "2-digit" };
      time.textContent = when.toLocaleString([], form);
      time.title = when.toISOString();
      time.dataset.local = "1";
    }
    for (const id of kept.open) {
      const details = document.getElementById(id);
      if (details) details.open = true;
    }
    const name = root() && root().dataset.run;
    if (name) document.title = `${name}: operate szpo`;
  }
  function toggled(event) {
    if (event.target.tagName !== "DETAILS" || !event.target.id) return;
    if (event.target.open) kept.open.add(event.target.id);
    else if (event.target.isConnected) kept.open.delete(event.target.id);
  }

  document.addEventListener("click", click);
  document.addEventListener("submit", submit);
  document.addEventListener("toggle", toggled, true);
  act("look");
  setTimeout(poll, POLL_MS);
})();
