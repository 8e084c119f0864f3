"""A program that votes over the JSON API: it logs in, gets a pair, votes, changes the vote.

python examples/vote_by_api.py http://127.0.0.1:7860 NAME CODE, as szpo invite RUN printed them.
"""

import sys
import uuid

import httpx

base, name, code = sys.argv[1:4]

client = httpx.Client(base_url=base)
answer = client.post("/api/session", json={"name": name, "code": code})
assert answer.status_code == 200
client.headers["Authorization"] = "Bearer " + answer.json()["token"]
tab = uuid.uuid4().hex

answer = client.get("/api/status")
status = answer.json()
assert status["state"] == "open"  # or none, generating, closed, paused, finished
assert status["votes_in"] < status["votes_needed"]

same = client.get("/api/status", headers={"If-None-Match": answer.headers["ETag"]})
assert same.status_code == 304  # nothing has changed: poll as often as every 3 seconds

answer = client.post("/api/assignment", json={"tab": tab})
assert answer.status_code == 200  # 204: nothing for this panelist now (or a pause)
shown = answer.json()
for row in shown["rows"]:
    if not row["identical"]:  # both answers are the same text: nothing to compare
        print(row["prompt"], row["a"], row["b"], sep="\n")

vote = {
    "assignment": shown["assignment"],
    "choice": "B",  # A, B, tie (about the same) or skip (cannot judge)
    "idem": uuid.uuid4().hex,  # your key, 16 to 64 of A-Z a-z 0-9 _ . : -
    "tab": tab,
    "dwell_ms": 84_000,  # optional: how long it was before their eyes
}
answer = client.post("/api/votes", json=vote)
assert answer.status_code == 200
assert answer.json()["counted"] is True

again = client.post("/api/votes", json=vote)  # a retry of the same request is harmless
assert again.headers["Idempotent-Replayed"] == "true"

changed = client.post("/api/votes", json={**vote, "choice": "tie", "idem": uuid.uuid4().hex})
assert changed.json()["revision"] == 1  # until the round closes

answer = client.post("/api/assignment", json={"tab": tab})
if answer.status_code == 200:
    given = client.post("/api/release", json={"assignment": answer.json()["assignment"]})
    assert given.status_code == 204  # another panelist can have it at once

answer = client.post("/api/votes", json={**vote, "choice": "A"})
assert answer.status_code == 409
assert answer.json()["error"] == "key_reused"
assert answer.json()["choice"] == "B"  # what was stored under that key
