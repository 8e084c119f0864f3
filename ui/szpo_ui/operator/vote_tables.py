"""The tables of the index of votes, and the statements that fill them."""

from __future__ import annotations

from typing import Final

from szpo.voting import second_seats
from szpo_ui.operator.word_search import TOKENIZER

TABLES: Final = (
    "PRAGMA temp.cache_size = -16000",
    # number: the comparison's rowid; kind: the ledger's kinds, and "triad".
    "CREATE TEMP TABLE shown (number INTEGER PRIMARY KEY, kind TEXT, step INTEGER, "
    "votes INTEGER DEFAULT 0, split INTEGER DEFAULT -1, voted_us INTEGER DEFAULT 0)",
    "CREATE INDEX temp.shown_kind ON shown (kind, number)",
    "CREATE INDEX temp.shown_step ON shown (step, number)",
    "CREATE INDEX temp.shown_votes ON shown (votes, number)",
    "CREATE INDEX temp.shown_split ON shown (split, number)",
    "CREATE INDEX temp.shown_voted ON shown (voted_us, number)",
    "CREATE TEMP TABLE given (vote INTEGER PRIMARY KEY, number INTEGER, panelist TEXT, "
    "state TEXT, choice TEXT, verdict TEXT, note INTEGER, reported INTEGER, fast INTEGER, "
    "remark TEXT)",
    "CREATE INDEX temp.given_number ON given (number)",
    "CREATE INDEX temp.given_panelist ON given (panelist, number)",
    "CREATE INDEX temp.given_state ON given (state, number)",
    "CREATE INDEX temp.given_choice ON given (choice, number)",
    "CREATE INDEX temp.given_verdict ON given (verdict, number)",
    "CREATE INDEX temp.given_note ON given (number) WHERE note = 1",
    "CREATE INDEX temp.given_reported ON given (number) WHERE reported = 1",
    "CREATE INDEX temp.given_fast ON given (number) WHERE fast = 1",
    "CREATE INDEX temp.given_remark ON given (number, remark) WHERE remark IS NOT NULL",
    # prompt: numbers in order of first appearance, so that a link to one stays right.
    "CREATE TEMP TABLE prompts (prompt INTEGER PRIMARY KEY, turns TEXT UNIQUE)",
    "CREATE TEMP TABLE asked (prompt INTEGER, number INTEGER, PRIMARY KEY (prompt, number)) "
    "WITHOUT ROWID",
    # Beginnings of three and four letters are read as one word: a hundred words begin so.
    "CREATE VIRTUAL TABLE temp.words USING fts5(text, content='', prefix='3 4', "
    f"tokenize='{TOKENIZER}')",
    "CREATE TEMP TABLE matched (number INTEGER PRIMARY KEY)",
    # Segments are not merged: that takes half of the time of making them, in pauses of its own,
    # and a search among hundreds of them takes a millisecond more.
    "INSERT INTO temp.words (words, rank) VALUES ('automerge', 0)",
    "INSERT INTO temp.words (words, rank) VALUES ('crisismerge', 1000)",
)
PART: Final = (
    "WITH part AS (SELECT rowid AS number, * FROM comparisons WHERE rowid > ? AND rowid <= ?) "
)
ADD: Final = (
    f"{PART}INSERT INTO temp.shown (number, kind, step) SELECT number, "
    "iif(kind = 'repeat' AND repeats IS NULL, 'triad', kind), step FROM part",
    f"{PART}INSERT OR IGNORE INTO temp.prompts (turns) SELECT a.prompt FROM part "
    "CROSS JOIN answers a USING (comparison) ORDER BY number, a.i",
    f"{PART}INSERT OR IGNORE INTO temp.asked SELECT p.prompt, number FROM part "
    "CROSS JOIN answers a USING (comparison) CROSS JOIN temp.prompts p ON p.turns = a.prompt",
)
"""Add comparisons of a part, their prompts and who was asked what; (after, until)."""
ADD_WORDS: Final = (
    f"{PART}INSERT INTO temp.words (rowid, text) SELECT number, (SELECT group_concat(with_spaces("
    "(SELECT group_concat(json_extract(value, '$[1]'), ' ') FROM json_each(a.prompt)) || ' ' || "
    "a.plus || ' ' || a.minus), ' ') FROM answers a WHERE a.comparison = part.comparison) "
    "FROM part"
)
"""Add the words of a part to be searched; (after, until)."""
MATCH: Final = "INSERT INTO temp.matched SELECT rowid FROM temp.words WHERE words MATCH ?"
TRAIN: Final = "c.run = ? AND c.step = ? AND c.kind = 'train'"
GROUP: Final = {"step": TRAIN, "one": "c.run = ? AND c.rowid = ?"}
"""Where the comparisons of a group stand; (run, step or number)."""
VOTES: Final = (
    "SELECT c.rowid AS number, c.kind, v.vote, v.assignment, v.choice, v.late, v.skip_reason, "
    "v.details, v.received_us, a.plus_side, p.pseudonym, "
    f"v.late AND v.assignment IN {second_seats.SEATS} AS second FROM comparisons c "
    "CROSS JOIN assignments a USING (comparison) CROSS JOIN votes v USING (assignment) "
    "CROSS JOIN panelists p USING (panelist) WHERE {} ORDER BY v.vote"
)
"""All votes of a group's comparisons."""
TOUCHED: Final = (
    "SELECT DISTINCT c.rowid AS number, c.comparison, c.kind, c.step FROM {} "
    "CROSS JOIN assignments a USING (assignment) "
    "CROSS JOIN comparisons c USING (comparison) WHERE {} > ?"
)
"""Comparisons to which something new belongs."""
NEW: Final = {
    "vote": ("votes", TOUCHED.format("votes v", "v.vote")),
    "amendment": (
        "amendments",
        TOUCHED.format("amendments m CROSS JOIN votes v USING (vote)", "m.amendment"),
    ),
}
"""Of each kind of news: its table, and the comparisons it touches; (the last that was read)."""
GREW: Final = (
    "SELECT v.vote, c.rowid AS number, p.pseudonym AS panelist, v.received_us AS at_us "
    "FROM votes v CROSS JOIN assignments a USING (assignment) "
    "CROSS JOIN comparisons c USING (comparison) CROSS JOIN panelists p USING (panelist) "
    f"WHERE v.vote > ? AND {TRAIN} ORDER BY v.vote"
)
"""A step's votes after the last one that was read; (last vote, run, step)."""
COUNT: Final = (
    "UPDATE temp.shown SET voted_us = n.at_us, votes = (SELECT count(DISTINCT v.assignment) "
    "FROM comparisons c CROSS JOIN assignments a USING (comparison) "
    "CROSS JOIN votes v USING (assignment) WHERE c.rowid = shown.number) FROM (SELECT "
    "json_extract(value, '$[0]') AS number, json_extract(value, '$[1]') AS at_us "
    "FROM json_each(?)) n WHERE n.number = shown.number"
)
"""Count the answers of comparisons anew; a list of (number, time of the last vote)."""
INSERT: Final = (
    "INSERT OR IGNORE INTO temp.given SELECT "
    + ", ".join(f"json_extract(value, '$[{i}]')" for i in range(10))
    + " FROM json_each(?)"
)
"""Add rows of votes that are not there; a list of rows."""
UPDATE: Final = (
    "UPDATE temp.shown SET votes = n.votes, split = n.split, voted_us = n.voted_us FROM (SELECT "
    "json_extract(value, '$[0]') AS number, json_extract(value, '$[1]') AS votes, "
    "json_extract(value, '$[2]') AS split, json_extract(value, '$[3]') AS voted_us "
    "FROM json_each(?)) n WHERE n.number = shown.number"
)
"""Set what is known of comparisons; a list of (number, votes, split, time of the last vote)."""
