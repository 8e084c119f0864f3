"use strict";
// Puts the pages before the panel into the language that the reader chose earlier on the panel.
// Without such a choice, the server's page already has the language that the browser prefers.
const TEXTS = JSON.parse(document.getElementById("texts").textContent);
const served = Object.keys(TEXTS).find((code) => TEXTS[code].tag === document.documentElement.lang);
let wish = "";
try { wish = localStorage.getItem("szpo.language") || ""; } catch { /* private mode */ }
const T = TEXTS[Object.hasOwn(TEXTS, wish) ? wish : served];

if (T !== TEXTS[served]) {
  document.documentElement.lang = T.tag;
  for (const node of document.querySelectorAll("[data-t]")) node.textContent = T[node.dataset.t];
  for (const node of document.querySelectorAll("[data-label]")) {
    node.setAttribute("aria-label", T[node.dataset.label]);
  }
  document.title = `${document.querySelector("h1").textContent} – szpo`;
}

// The sentence for the code of a server's refusal.
function refusal(code) {
  return Object.hasOwn(T.refused, code) ? T.refused[code] : T.refused.other;
}
