"use strict";
// Charts that compare runs: SVG from the server's figures, read by pointer or keys and zoomed by
// dragging. A table under each chart has the same numbers.
(() => {
  const WIDEST = 640, NARROWEST = 200, HEIGHT = 280, LEFT = 58, RIGHT = 14, TOP = 12, BOTTOM = 38;
  const NS = "http://www.w3.org/2000/svg";
  const VOTES = 0, VALUE = 2, LOW = 3, HIGH = 4;
  const AXES = ["votes", "answers read"];
  const $ = (selector, from = document) => from.querySelector(selector);
  const $$ = (selector, from = document) => [...from.querySelectorAll(selector)];

  function node(kind, attributes, text) {
    const made = document.createElementNS(NS, kind);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }
  function ticks(low, high, wanted) {
    const raw = (high - low || Math.abs(high) || 1) / wanted, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 2.5, 5, 10].map((m) => m * power)
      .reduce((a, b) => (Math.abs(Math.log(a / raw)) <= Math.abs(Math.log(b / raw)) ? a : b));
    const found = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) found.push(+(i * step).toPrecision(12));
    return found;
  }
  /* The ticks' labels, all with as many decimals as any tick needs. */
  function tickLabels(found) {
    let digits = 0;
    while (digits < 12 && found.some((value) => Number(value.toFixed(digits)) !== value)) digits += 1;
    return found.map((value) => value.toLocaleString("en", { minimumFractionDigits: digits,
      maximumFractionDigits: digits }).replace("-", "−"));
  }
  function shown(value) {
    if (value === null) return "–";
    const digits = Math.abs(value) >= 100 ? 0 : Math.abs(value) >= 10 ? 1 : Math.abs(value) >= 1 ? 2 : 3;
    return value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits })
      .replace("-", "−");
  }

  class Chart {
    constructor(figure, data, names) {
      this.figure = figure;
      this.data = data;
      this.names = names;
      this.plot = $(".plot", figure);
      this.axis = VOTES;
      this.window = null; // [first, last] of x while zoomed in
      this.at = null; // the x whose values are shown
      this.plot.addEventListener("pointermove", (event) => this.move(event));
      this.plot.addEventListener("pointerdown", (event) => this.press(event));
      this.plot.addEventListener("pointerup", (event) => this.release(event));
      this.plot.addEventListener("pointercancel", () => { this.from = null; this.draw(); });
      this.plot.addEventListener("pointerleave", () => { if (this.from == null) this.read(null); });
      this.plot.addEventListener("dblclick", () => this.zoom(null));
      this.plot.addEventListener("keydown", (event) => this.key(event));
      $("[data-zoom=out]", figure).addEventListener("click", () => this.zoom(null));
      this.draw();
    }
    xs() { return [...new Set(this.data.series.flat().map((p) => p[this.axis]))].sort((a, b) => a - b); }
    whole() {
      const xs = this.xs();
      return [Math.min(0, xs[0] ?? 0), xs[xs.length - 1] || 1];
    }
    range() { return this.window || this.whole(); }
    inside(p) { const [a, b] = this.range(); return p[this.axis] >= a && p[this.axis] <= b; }
    levels() {
      const seen = this.data.series.flat().filter((p) => this.inside(p));
      const values = seen.flatMap((p) => [p[VALUE], p[LOW], p[HIGH]]).filter((v) => v !== null);
      if (this.data.reference !== null) values.push(this.data.reference);
      if (!values.length) return [0, 1];
      const low = Math.min(...values), high = Math.max(...values);
      const pad = (high - low || Math.abs(high) || 1) * 0.08;
      return [low >= 0 ? Math.max(0, low - pad) : low - pad, high + pad];
    }
    x(value) { const [a, b] = this.range(); return LEFT + (this.width - LEFT - RIGHT) * (value - a) / (b - a || 1); }
    y(value) { const [a, b] = this.bounds; return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (value - a) / (b - a || 1); }
    under(event) {
      const box = this.plot.getBoundingClientRect(), [a, b] = this.range();
      const at = ((event.clientX - box.left) / box.width * this.width - LEFT) / (this.width - LEFT - RIGHT);
      return a + Math.min(1, Math.max(0, at)) * (b - a);
    }

    draw() {
      // One unit is one pixel, so labels have the same size on a phone.
      this.width = Math.max(NARROWEST, Math.min(WIDEST, this.plot.clientWidth));
      this.bounds = this.levels();
      const svg = node("svg", { viewBox: `0 0 ${this.width} ${HEIGHT}`, "aria-hidden": "true" });
      const right = this.width - RIGHT, bottom = HEIGHT - BOTTOM;
      const levels = ticks(...this.bounds, 5), labels = tickLabels(levels);
      for (const [i, tick] of levels.entries()) {
        const y = this.y(tick);
        svg.append(node("line", { class: "grid", x1: LEFT, x2: right, y1: y, y2: y }),
          node("text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" }, labels[i]));
      }
      for (const tick of ticks(...this.range(), this.width < 400 ? 3 : 5).filter(Number.isInteger)) {
        svg.append(node("text", { x: this.x(tick), y: bottom + 17, "text-anchor": "middle" },
          tick.toLocaleString("en")));
      }
      svg.append(node("text", { x: right, y: HEIGHT - 4, "text-anchor": "end" }, AXES[this.axis]));
      if (this.data.reference !== null) {
        const y = this.y(this.data.reference);
        svg.append(node("line", { class: "reference", x1: LEFT, x2: right, y1: y, y2: y }));
      }
      const clip = `clip-${this.data.key}`, frame = node("clipPath", { id: clip });
      frame.append(node("rect", { x: LEFT - 6, y: 0, width: right - LEFT + 12, height: HEIGHT }));
      const body = node("g", { "clip-path": `url(#${clip})` });
      this.data.series.forEach((points, i) => this.curve(body, points, i));
      this.cross = node("line", { class: "cross", y1: TOP, y2: bottom, visibility: "hidden" });
      this.drag = node("rect", { class: "drag", y: TOP, height: bottom - TOP, visibility: "hidden" });
      svg.append(frame, body, this.cross, this.drag);
      this.plot.replaceChildren(svg);
      $("[data-zoom=out]", this.figure).hidden = this.window === null;
      this.figure.dataset.zoomed = this.window === null ? "" : "1";
      this.read(this.at);
    }
    curve(body, points, i) {
      const path = points.map((p, j) => `${j ? "L" : "M"}${this.x(p[this.axis]).toFixed(1)} ${this.y(p[VALUE]).toFixed(1)}`);
      body.append(node("path", { class: `line s${i}`, d: path.join("") }));
      for (const p of points) {
        const x = this.x(p[this.axis]).toFixed(1);
        if (p[LOW] !== null) body.append(node("line", { class: `whisker s${i}`, x1: x, x2: x, y1: this.y(p[LOW]), y2: this.y(p[HIGH]) }));
        if (points.length <= 30) body.append(node("circle", { class: `dot f${i}`, cx: x, cy: this.y(p[VALUE]), r: 4 }));
      }
    }

    /* Write the values of all runs at the nearest x under the chart. */
    read(at) {
      const place = $(".reading", this.figure), xs = this.xs().filter((x) => this.inside({ [this.axis]: x }));
      if (at === null || !xs.length) {
        this.at = null;
        this.cross.setAttribute("visibility", "hidden");
        place.replaceChildren();
        return;
      }
      this.at = xs.reduce((a, b) => (Math.abs(a - at) <= Math.abs(b - at) ? a : b));
      this.cross.setAttribute("visibility", "visible");
      for (const end of ["x1", "x2"]) this.cross.setAttribute(end, this.x(this.at));
      const list = document.createElement("ul");
      this.data.series.forEach((points, i) => {
        const p = points.filter((each) => each[this.axis] <= this.at).pop();
        if (!p) return;
        const item = document.createElement("li"), key = node("svg", { class: "swatch", viewBox: "0 0 28 10", "aria-hidden": "true" });
        key.append(node("path", { class: `line s${i}`, d: "M0 5H28" }));
        const band = p[LOW] === null ? "" : ` [${shown(p[LOW])}, ${shown(p[HIGH])}]`;
        const when = p[this.axis] === this.at ? "" : ` (at ${p[this.axis].toLocaleString("en")})`;
        item.append(key, `${this.names[i]}: ${shown(p[VALUE])}${band}${when}`);
        list.append(item);
      });
      const head = document.createElement("strong");
      head.textContent = `${this.at.toLocaleString("en")} ${AXES[this.axis]}`;
      place.replaceChildren(head, list);
    }
    zoom(range) {
      if (range) {
        const [a, b] = this.whole(), least = (b - a) / 200;
        range = [Math.max(a, Math.min(...range)), Math.min(b, Math.max(...range))];
        if (range[1] - range[0] < least || range[1] - range[0] >= b - a) range = range[1] - range[0] < least ? this.window : null;
      }
      this.window = range;
      this.draw();
    }

    move(event) {
      const x = this.under(event);
      if (this.from != null) {
        const [a, b] = [this.x(this.from), this.x(x)].sort((p, q) => p - q);
        this.drag.setAttribute("x", a);
        this.drag.setAttribute("width", b - a);
        this.drag.setAttribute("visibility", "visible");
      }
      this.read(x);
    }
    press(event) {
      if (event.button !== 0) return;
      this.from = this.under(event);
      this.plot.setPointerCapture(event.pointerId);
      this.read(this.from);
    }
    release(event) {
      const from = this.from, to = this.under(event);
      this.from = null;
      this.drag.setAttribute("visibility", "hidden");
      if (from != null && Math.abs(this.x(from) - this.x(to)) > 12) this.zoom([from, to]);
    }
    key(event) {
      const xs = this.xs().filter((x) => this.inside({ [this.axis]: x })), [a, b] = this.range();
      const here = this.at ?? xs[0], i = xs.indexOf(here), middle = this.at ?? (a + b) / 2;
      const steps = {
        ArrowRight: () => this.read(this.at === null ? xs[0] : xs[Math.min(i + 1, xs.length - 1)]),
        ArrowLeft: () => this.read(this.at === null ? xs[xs.length - 1] : xs[Math.max(i - 1, 0)]),
        "+": () => this.zoom([middle - (b - a) / 4, middle + (b - a) / 4]),
        "-": () => this.zoom([middle - (b - a), middle + (b - a)]),
        "0": () => this.zoom(null),
        Escape: () => this.read(null),
      };
      if (!steps[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
      event.preventDefault();
      steps[event.key]();
    }
    by(axis) {
      this.axis = axis;
      this.window = this.at = null;
      this.draw();
    }
  }

  async function begin() {
    const reply = await fetch(`/home-api/curves${location.search}`, { cache: "no-store" });
    if (!reply.ok) return;
    const found = await reply.json(), charts = [];
    for (const data of found.charts) {
      const figure = $$(".chart").find((each) => each.dataset.key === data.key);
      if (figure) charts.push(new Chart(figure, data, found.runs));
    }
    document.addEventListener("change", (event) => {
      if (event.target.name === "axis") charts.forEach((chart) => chart.by(Number(event.target.value)));
    });
    let resized = 0;
    window.addEventListener("resize", () => {
      cancelAnimationFrame(resized);
      resized = requestAnimationFrame(() => charts.forEach((chart) => chart.draw()));
    });
    document.body.dataset.drawn = "1";
  }
  if ($("#charts")) begin();
})();
