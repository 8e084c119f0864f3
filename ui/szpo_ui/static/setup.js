"use strict";
// Shows the progress of the set-up, and reloads once the run's own pages answer here.
const stage = document.getElementById("stage"); // screen readers read this when it changes
const share = document.getElementById("share");
const bar = document.getElementById("bar");
const list = document.getElementById("stages"); // only operators see the stages
const said = document.getElementById("said");
let missed = 0;

function time(seconds) {
  return seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
}

function show(found) {
  if (found.run) document.getElementById("run").textContent = found.run;
  const [name, done, of] = found.stages[found.stages.length - 1] || ["starting", 0, 0];
  const words = name[0].toUpperCase() + name.slice(1);
  if (stage.textContent !== words) stage.textContent = words;
  const part = of ? `, ${Math.floor((100 * done) / of)}\u00a0%` : "";
  share.textContent = `${part}, ${time(found.seconds)} so far`;
  if (of) {
    bar.max = of;
    bar.value = done;
  } else {
    bar.removeAttribute("value");
  }
  list.replaceChildren(...found.stages.map(([name], i) => {
    const line = document.createElement("li");
    line.textContent = name;
    if (i === found.stages.length - 1) line.setAttribute("aria-current", "step");
    return line;
  }));
}

async function look() {
  try {
    const answer = await fetch("/setup-status", { cache: "no-store" });
    if ([401, 403, 404].includes(answer.status)) {
      location.reload(); // the run's own pages answer; the part after # in the address stays
      return;
    }
    const found = await answer.json();
    if (list) show(found);
    missed = 0;
  } catch {
    missed += 1;
  }
  said.hidden = missed < 8;
  setTimeout(look, 700);
}

look();
