/* Dark colours where the system has them, and times in the reader's own zone. Nothing else. */
"use strict";
const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => document.documentElement.classList.toggle("dark", dark.matches);
dark.addEventListener("change", paint);
paint();
document.addEventListener("DOMContentLoaded", () => {
  const form = new Intl.DateTimeFormat(undefined, { day: "2-digit", month: "short", hour: "2-digit", minute: "2-digit" });
  for (const node of document.querySelectorAll("time[data-form=moment]")) {
    node.textContent = form.format(new Date(node.dateTime));
  }
});
