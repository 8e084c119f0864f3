/* Dark colours if the system uses them, times in the reader's zone, and the choice between formatted
   and raw text, which the browser remembers. */
"use strict";
const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => document.documentElement.classList.toggle("dark", dark.matches);
dark.addEventListener("change", paint);
paint();
function remember(box) {
  try {
    const chosen = localStorage.getItem("szpo.view");
    if (chosen) box.checked = chosen === "formatted";
    box.addEventListener("change", () => {
      localStorage.setItem("szpo.view", box.checked ? "formatted" : "plain");
    });
  } catch { /* private mode: the choice is not remembered */ }
}
document.addEventListener("DOMContentLoaded", () => {
  const box = document.getElementById("vb-formatted");
  if (box) remember(box);
  const form = new Intl.DateTimeFormat(undefined, { day: "2-digit", month: "short", hour: "2-digit", minute: "2-digit" });
  for (const node of document.querySelectorAll("time[data-form=moment]")) {
    node.textContent = form.format(new Date(node.dateTime));
  }
});
