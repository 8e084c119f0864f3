"use strict";
// The sentences of the pages before the panel.
const T = JSON.parse(document.getElementById("texts").textContent);

// The sentence for the code of a server's refusal.
function refusal(code) {
  return Object.hasOwn(T.refused, code) ? T.refused[code] : T.refused.other;
}
