"use strict";
// Logs in by name and code, or by the token after "#t=" in an invitation's link.
// The token is first removed from the address, then posted once.
const form = document.getElementById("form");
const said = document.getElementById("said");
const button = document.getElementById("go");
const asked = new URLSearchParams(location.search);
const wanted = asked.get("next");

function say(text) {
  said.textContent = text;
  said.hidden = !text;
}

async function send(path, body) {
  button.disabled = true;
  say("");
  try {
    const answer = await fetch(path, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      credentials: "same-origin",
    });
    const told = await answer.json();
    if (answer.ok) {
      // Return only to the person's own page or below it, so that no link can send them elsewhere.
      const here = wanted && new URL(wanted, location.href).origin === location.origin;
      location.replace(here && `${wanted}/`.startsWith(told.go) ? wanted : told.go);
      return;
    }
    say(refusal(told.error === "unknown" && path === "/redeem" ? "unknown_link" : told.error));
  } catch {
    say(T.no_server);
  }
  button.disabled = false;
  document.getElementById("name").focus();
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const name = form.elements.name.value.trim();
  const code = form.elements.code.value.trim();
  if (!name || !code) {
    say(T.login_give);
    return;
  }
  send("/login", { name, code });
});

document.getElementById("show").addEventListener("change", (event) => {
  form.elements.code.type = event.target.checked ? "text" : "password";
});

// A link opened while this page is open changes only the part after "#", so reload.
addEventListener("hashchange", () => location.reload());
const token = new URLSearchParams(location.hash.slice(1)).get("t");
if (location.hash) history.replaceState(null, "", location.pathname + location.search);
if (token) send("/redeem", { token });
else form.elements.name.focus();
if (asked.get("why") === "revoked") say(refusal("revoked"));
