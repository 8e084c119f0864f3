"use strict";
// Lets a participant of a Prolific study in by the identifiers that Prolific adds to the address.
// They are taken out of the address before anything else happens, and posted once.
const given = new URLSearchParams(location.search);
const declined = location.hash === "#declined";
const said = document.getElementById("said");
const why = {
  other_study: "This link belongs to another study. Open yours from Prolific again.",
  time_over: "The time for this study is over. Please return your submission on Prolific.",
  full: "All places of this study are taken. Please return your submission on Prolific.",
  ended: "Your part in this study has ended. Please go back to Prolific.",
  too_many: "Too many people come at once. Load the link again in a minute.",
  setup: "The study is being made ready. Load the link again in a minute.",
};

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
    else end("You cannot take part", why[told.error] || `The link is not complete: ${told.message}.`);
  } catch {
    end("No connection", "The server cannot be reached. Load the link from Prolific again.");
  }
}

history.replaceState(null, "", location.pathname);
if (declined) {
  end("You do not take part", "Please return your submission on Prolific. Nothing you saw is counted.");
} else if (!given.get("PROLIFIC_PID")) {
  end("Open the study from Prolific", "This link lacks what Prolific adds to it.");
} else {
  join({
    participant: given.get("PROLIFIC_PID"),
    study: given.get("STUDY_ID") || "",
    submission: given.get("SESSION_ID") || "",
  });
}
