"use strict";
// Lets a participant of a Prolific study in, by the identifiers that Prolific adds to the address.
// They are first removed from the address, then posted once.
const given = new URLSearchParams(location.search);
const declined = location.hash === "#declined";
const said = document.getElementById("said");
function end(head, text) {
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
    else end(T.join_refused, refusal(told.error));
  } catch {
    end(T.join_offline, T.no_server);
  }
}

history.replaceState(null, "", location.pathname);
if (declined) {
  end(T.join_declined, T.join_declined_text);
} else if (!given.get("PROLIFIC_PID")) {
  end(T.join_bare, T.join_bare_text);
} else {
  join({
    participant: given.get("PROLIFIC_PID"),
    study: given.get("STUDY_ID") || "",
    submission: given.get("SESSION_ID") || "",
  });
}
