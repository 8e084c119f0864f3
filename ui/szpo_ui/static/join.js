"use strict";
// Lets a person in who came by an open link, by its token and the id that Prolific adds to it.
// They are first removed from the address, then posted once.
const given = new URLSearchParams(location.search);
function end(head, text) {
  const said = document.getElementById("said");
  document.getElementById("head").textContent = head;
  document.getElementById("text").hidden = true;
  said.textContent = text;
  said.hidden = false;
}

async function join(body) {
  try {
    const answer = await fetch(location.pathname, {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(body),
      credentials: "same-origin",
    });
    const told = await answer.json();
    if (answer.ok) location.replace(told.go);
    else end(T.join_refused, refusal(told.error === "unknown" ? "unknown_link" : told.error));
  } catch {
    end(T.join_offline, T.no_server);
  }
}

history.replaceState(null, "", location.pathname);
join({ token: given.get("t") || "", participant: given.get("PROLIFIC_PID") || "" });
