/* The page of a posterior over two weights: handles to drag, a map, moving particles.
   The server computes; this script draws, and sends one request at a time. */
window.szpoVisualize = (() => {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg", SIZE = 560, FRAME_MS = 60, NUDGE = 0.1;
  const $ = (selector, from = document) => from.querySelector(selector);
  const root = () => document.getElementById("vz-root");
  const number = (x, digits = 2) => (x < 0 ? "−" : "") + Math.abs(x).toFixed(digits);

  let scene = null, deltas = [], first = [], names = [], settings = {}, busy = false, wanted = false;
  let held = -1, animation = 0;

  /* ---- coordinates: the weights' plane, y upwards ---- */

  const reach = () => settings.extent;
  const px = (x) => (x / reach() + 1) * SIZE / 2;
  const py = (y) => (1 - y / reach()) * SIZE / 2;
  function at(event) {
    const box = $("#vz-plane").getBoundingClientRect();
    const clip = (x) => Math.max(-reach(), Math.min(reach(), x));
    return [clip(((event.clientX - box.left) / box.width * 2 - 1) * reach()),
      clip((1 - (event.clientY - box.top) / box.height * 2) * reach())];
  }
  function shape(name, marks, parent) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(marks)) made.setAttribute(key, value);
    parent.append(made);
    return made;
  }

  /* ---- requests ---- */

  async function post(what, more = {}) {
    const answer = await fetch(settings.api + what, {
      method: "POST", headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ deltas, ...more }),
    });
    if (!answer.ok) {
      const told = await answer.json().catch(() => ({}));
      throw new Error(told.message || "the server refused (" + answer.status + ")");
    }
    return answer;
  }
  async function look() {
    if (busy) { wanted = true; return; }
    busy = true;
    try {
      do {
        wanted = false;
        scene = await (await post("scene")).json();
        say("");
        paint();
      } while (wanted);
    } catch (error) {
      say("Not computed: " + error.message + ".");
    } finally {
      busy = false;
      root().dataset.ready = String(!wanted);
    }
  }
  function changed(next) {
    deltas = next;
    root().dataset.ready = "false";
    arrows();
    look();
  }
  function say(text) { $("#vz-said").textContent = text; }

  /* ---- drawing ---- */

  function paint() {
    map();
    arrows();
    play();
    figures();
    chart();
  }
  /* Draw the log density as shades, from its maximum down to negligible values. */
  function map() {
    const canvas = $("#vz-map"), n = scene.cells, pen = canvas.getContext("2d");
    canvas.width = canvas.height = n;
    const image = pen.createImageData(n, n), dark = document.body.classList.contains("dark");
    const [low, high] = dark ? [[20, 22, 27], [126, 150, 240]] : [[255, 255, 255], [70, 98, 190]];
    scene.log_density.forEach((value, i) => {
      const share = Math.exp(Math.max(value, -12) / 2);
      for (let c = 0; c < 3; c += 1) image.data[4 * i + c] = low[c] + share * (high[c] - low[c]);
      image.data[4 * i + 3] = 255;
    });
    pen.putImageData(image, 0, 0);
  }
  function arrows() {
    const place = $("#vz-arrows"), focused = document.activeElement?.dataset?.handle;
    place.replaceChildren();
    place.classList.toggle("vz-many", deltas.length > 12); // many arrows would hide the map
    if (scene?.suggested) arrow(place, scene.suggested.delta, "vz-suggested");
    deltas.forEach((delta, i) => {
      arrow(place, delta, "vz-delta");
      const handle = shape("circle", {
        cx: px(delta[0]), cy: py(delta[1]), r: 9, class: "vz-handle", tabindex: 0, role: "slider",
        "data-handle": i, "aria-label": "difference " + (i + 1) + ", winner minus loser",
        "aria-valuetext": number(delta[0]) + ", " + number(delta[1]), "aria-valuenow": delta[0],
        "aria-valuemin": -reach(), "aria-valuemax": reach(),
      }, place);
      if (String(i) === focused) handle.focus();
    });
    rows();
  }
  function arrow(place, delta, kind) {
    shape("line", { x1: px(0), y1: py(0), x2: px(delta[0]), y2: py(delta[1]), class: kind,
      "marker-end": "url(#vz-head)" }, place);
  }
  function rows() {
    const body = $("#vz-rows");
    body.replaceChildren(...deltas.map((delta, i) => {
      const row = document.createElement("tr");
      row.append(cell(String(i + 1), "th"), cell(number(delta[0])), cell(number(delta[1])));
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = "Remove";
      button.dataset.remove = i;
      button.setAttribute("aria-label", "Remove difference " + (i + 1));
      const last = document.createElement("td");
      last.append(button);
      row.append(last);
      return row;
    }));
  }
  function cell(text, kind = "td") {
    const made = document.createElement(kind);
    made.textContent = text;
    return made;
  }
  function play() {
    cancelAnimationFrame(animation);
    const place = $("#vz-particles");
    place.replaceChildren(...scene.frames[0].map(() => shape("circle",
      { r: 2.6, class: "vz-particle" }, place)));
    const dots = [...place.children], still = matchMedia("(prefers-reduced-motion: reduce)").matches;
    let frame = still ? scene.frames.length - 1 : 0, next = 0;
    const draw = (now) => {
      if (now >= next) {
        scene.frames[frame].forEach(([x, y], i) => {
          dots[i].setAttribute("cx", px(x).toFixed(1));
          dots[i].setAttribute("cy", py(y).toFixed(1));
        });
        next = now + FRAME_MS;
        frame += 1;
      }
      if (frame < scene.frames.length) animation = requestAnimationFrame(draw);
    };
    animation = requestAnimationFrame(draw);
  }
  function figures() {
    const last = scene.rounds[scene.rounds.length - 1];
    const told = {
      likelihood: number(scene.log_likelihood), even: number(scene.log_likelihood_at_zero),
      gaussian: number(last.gaussian), neighbours: number(last.neighbours), svgd: number(last.svgd),
      mean: number(scene.mean[0]) + ", " + number(scene.mean[1]), answers: String(deltas.length),
    };
    for (const [key, text] of Object.entries(told)) $("#vz-" + key).textContent = text;
    $("#vz-more").textContent = "By these answers: " + names.map((name, i) => {
      const more = scene.more[i], said = more < 0.5 ? "less " : "more ";
      return said + name + " is preferred with " + Math.round(100 * Math.max(more, 1 - more)) + " %";
    }).join(", ") + ".";
    const asked = scene.suggested;
    $("#vz-next").hidden = !asked;
    if (asked) {
      $("#vz-pair").textContent = number(asked.delta[0]) + ", " + number(asked.delta[1]);
      $("#vz-bald").textContent = number(asked.information, 3);
      $("#vz-texts").hidden = !asked.texts;
      ["prompt", "text-first", "text-second"].forEach((place, i) => {
        $("#vz-" + place).textContent = asked.texts ? asked.texts[i] : "";
      });
    }
  }
  function chart() {
    const place = $("#vz-chart"), wide = 300, high = 120, left = 34, foot = 18;
    place.replaceChildren();
    const kinds = ["gaussian", "neighbours"], rounds = scene.rounds;
    const values = rounds.flatMap((r) => kinds.map((k) => r[k])).filter(Number.isFinite);
    const low = Math.min(...values), high_ = Math.max(...values), span = high_ - low || 1;
    const x = (i) => left + (rounds.length > 1 ? i / (rounds.length - 1) : 0) * (wide - left - 8);
    const y = (v) => 8 + (high_ - v) / span * (high - foot - 16);
    for (const edge of [low, high_]) {
      shape("line", { x1: left, x2: wide - 8, y1: y(edge), y2: y(edge), class: "vz-grid" }, place);
      shape("text", { x: left - 5, y: y(edge) + 4, "text-anchor": "end" }, place)
        .textContent = number(edge, 1);
    }
    for (const kind of kinds) {
      shape("polyline", { class: "vz-line vz-" + kind, points:
        rounds.map((r, i) => x(i).toFixed(1) + "," + y(r[kind]).toFixed(1)).join(" ") }, place);
    }
    shape("text", { x: left, y: high - 2 }, place).textContent = "0 answers";
    shape("text", { x: wide - 8, y: high - 2, "text-anchor": "end" }, place)
      .textContent = String(rounds.length - 1);
  }

  /* ---- actions ---- */

  function moved(i, to) {
    changed(deltas.map((delta, j) => (i === j ? to : delta)));
  }
  function answer(sign) {
    const [x, y] = scene.suggested.delta;
    changed([...deltas, [sign * x, sign * y]]);
  }
  async function save(kind) {
    say("Drawing …");
    try {
      const blob = await (await post(kind)).blob(), link = document.createElement("a");
      link.href = URL.createObjectURL(blob);
      link.download = "posterior." + kind;
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10000);
      say("Saved as posterior." + kind + ".");
    } catch (error) {
      say("Not drawn: " + error.message + ".");
    }
  }
  function click(event) {
    const button = event.target.closest("#vz-root button");
    if (!button) return;
    const { act, remove } = button.dataset;
    if (remove !== undefined) changed(deltas.filter((_, i) => i !== Number(remove)));
    if (act === "first") answer(1);
    if (act === "second") answer(-1);
    if (act === "reset") changed(first);
    if (act === "clear") changed([]);
    if (act === "replay" && scene) play();
    if (act === "svg" || act === "gif") save(act);
  }
  const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
  function key(event) {
    const i = event.target.dataset?.handle, step = STEPS[event.key];
    if (i === undefined || !step) return;
    event.preventDefault();
    const size = NUDGE * (event.shiftKey ? 5 : 1), clip = (x) => Math.max(-reach(), Math.min(reach(), x));
    moved(Number(i), deltas[i].map((x, axis) => clip(x + size * step[axis])));
  }
  function grab(event) {
    const i = event.target.dataset?.handle;
    if (i === undefined) return;
    event.preventDefault();
    held = Number(i);
    event.target.focus();
  }
  function drag(event) { if (held >= 0) moved(held, at(event)); }
  function drop(event) { if (held >= 0) { moved(held, at(event)); held = -1; } }

  async function begin() {
    if (!root()) { setTimeout(begin, 50); return; }
    settings = JSON.parse(root().dataset.settings);
    const answer = await fetch(settings.api + "start");
    if (!answer.ok) { say("The server refused (" + answer.status + "); load the page again."); return; }
    const start = await answer.json();
    deltas = first = start.deltas;
    names = start.names;
    $("#vz-about").textContent = start.about;
    ["first", "second"].forEach((which, i) => {
      for (const place of document.querySelectorAll(".vz-name-" + which)) {
        place.textContent = start.names[i];
      }
    });
    document.addEventListener("click", click);
    document.addEventListener("keydown", key);
    document.addEventListener("pointerdown", grab);
    document.addEventListener("pointermove", drag);
    document.addEventListener("pointerup", drop);
    look();
  }
  begin();
  return { scene: () => scene };
})();
