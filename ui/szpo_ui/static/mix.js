/* The page of two mixes: reads the sliders, asks the server, shows what came back. */
(() => {
  "use strict";
  const $ = (selector) => document.querySelector(selector);
  const root = () => document.getElementById("mx-root");
  const sliders = () => [...document.querySelectorAll("#mx-root input[type=range]")];
  const number = (x, digits) => (x < 0 ? "−" : "") + Math.abs(x).toFixed(digits);
  let settings = {}, seed = 0, asked = 0;

  function mix(side) {
    const moved = sliders().filter((each) => each.dataset.side === String(side) && Number(each.value));
    return Object.fromEntries(moved.map((each) => [each.dataset.name, Number(each.value)]));
  }
  function say(text) { $("#mx-said").textContent = text; }
  function show(slider) { slider.nextElementSibling.textContent = number(Number(slider.value), 1); }

  async function post(what, body) {
    const answer = await fetch(settings.api + what, {
      method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
    });
    const told = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(told.message || "the server refused (" + answer.status + ")");
    return told;
  }
  async function answer() {
    const mine = asked += 1;
    say("The model answers …");
    root().dataset.busy = "true";
    try {
      const found = await post("answer", { prompt: $("#mx-prompt").value, mixes: [mix(0), mix(1)], seed });
      if (mine !== asked) return; // a later press has another answer
      found.mixes.forEach((each, side) => {
        $("#mx-text-" + side).textContent = each.text || "(no text)";
        const error = each.stderr === null ? "" : " ± " + number(each.stderr, 2);
        $("#mx-kl-" + side).textContent = number(each.kl, 2) + error + " nats from the start, measured";
      });
      say("");
    } catch (error) {
      if (mine === asked) say("Not answered: " + error.message + ".");
    } finally {
      if (mine === asked) root().dataset.busy = "false";
    }
  }
  async function begin(side) {
    say("");
    try {
      const found = await post("begin", { mix: mix(side) });
      $("#mx-wrote-" + side).textContent = "Written to " + found.folder + ". This begins a run from it:";
      $("#mx-command-" + side).textContent = found.command;
      $("#mx-command-" + side).hidden = false;
    } catch (error) {
      say("Not written: " + error.message + ".");
    }
  }
  function click(event) {
    const button = event.target.closest("#mx-root button[data-act]");
    if (!button) return;
    const { act, side } = button.dataset;
    if (act === "again") { seed += 1; answer(); }
    if (act === "zero") sliders().forEach((each) => { each.value = 0; show(each); });
    if (act === "begin") begin(side);
  }
  function start() {
    if (!root()) { setTimeout(start, 50); return; }
    settings = JSON.parse(root().dataset.settings);
    sliders().forEach(show);
    document.addEventListener("click", click);
    document.addEventListener("input", (event) => { if (event.target.type === "range") show(event.target); });
    document.addEventListener("submit", (event) => {
      if (event.target.id !== "mx-form") return;
      event.preventDefault();
      answer();
    });
    root().dataset.ready = "true";
  }
  start();
})();
