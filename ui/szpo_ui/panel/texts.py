"""Every sentence of the panelist's screen in one place, for translators.

`PAGE` is used by the templates, `LIVE` by the script; ``{name}`` stands for what is filled in.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from szpo.types import Choice

CHOICES: Final[dict[Choice, str]] = {
    "A": "A is better",
    "tie": "About the same",
    "B": "B is better",
    "skip": "Can’t judge",
}
SKIP_REASONS: Final = (
    ("language", "It is in a language I can’t read"),
    ("content", "I don’t want to read this content"),
    ("display", "It is not displayed properly"),
    ("other", "Another reason"),
)
"""(stored code, label) of reasons to skip a comparison."""
SIGNS: Final = {
    "empty": "empty answer",
    "cut": "cut at the length limit",
}
SHORTCUTS: Final = (
    (("←", "1"), "A is better"),
    (("2", "0"), "About the same"),
    (("→", "3"), "B is better"),
    (("Enter",), "Confirm"),
    (("Esc",), "Clear the choice, or close a dialog"),
    (("J", "K"), "Next and previous prompt"),
    (("Q", "W", "E"), "Note on this prompt: A, same, B"),
    (("D",), "Mark differences on or off"),
    (("F",), "Formatted or as written"),
    (("S",), "Can’t judge"),
    (("U",), "Change my last vote (while waiting)"),
    (("I",), "Guideline"),
    (("P",), "Take a break"),
    (("?",), "This list"),
)

PAGE: Final = {
    "answer_to": "Answer {letter} to prompt {number}",
    "same_note": "same",
    "same_short": "Same",
    "skip_link": "Skip to the verdict",
    "round_of": "Round {round} of {rounds}",
    "round": "Round {round}",
    "yours_word": "your",
    "yours": "comparison {number}",
    "votes_in": "{votes_in} of {needed} votes in",
    "help": "Help",
    "break": "Break",
    "guideline": "Guideline",
    "guideline_close": "Back to the answers",
    "differ_all": "{differ} prompts",
    "differ_some": "{differ} of {rows} prompts differ",
    "differ_one": "1 prompt",
    "read_time": "about {minutes} min to read",
    "marks": "Mark differences",
    "formatted": "Formatted text",
    "smaller": "Smaller text",
    "larger": "Larger text",
    "size": "Text size",
    "prompt": "Prompt",
    "earlier": "Earlier in this conversation",
    "roles": {"system": "Instruction", "user": "User", "assistant": "Assistant"},
    "seen": "read",
    "unseen": "not read yet",
    "note": "My note",
    "note_for": "Note on prompt {number} (optional)",
    "show_all": "Show all",
    "show_less": "Show less",
    "same_one": "1 prompt got the same answer twice",
    "same_many": "{same} prompts got the same answer twice",
    "same_hint": "nothing to compare",
    "same_answer": "The same answer in A and B",
    "verdict": "Your verdict on the whole set",
    "confirm": "Confirm",
    "clear": "Clear",
    "cannot": "Can’t judge",
    "cannot_title": "Why can’t you judge this one?",
    "cannot_note": "It is not counted, and somebody else may be asked instead.",
    "cannot_send": "Send and go on",
    "cannot_back": "Back",
    "report": "Report to the operator: harmful or personal content",
    "help_title": "Keyboard",
    "help_keys": "Single-key shortcuts",
    "help_note": "No single key ever sends a vote: choose first, then confirm.",
    "close": "Close",
    "practice_tag": "Practice",
    "practice_head": "A practice comparison",
    "practice_note": "This one trains you, not the model. You get feedback on it.",
    "practice_skip": "Skip practice",
    "calib_tag": "Calibration",
    "calib_head": "Calibration comparison",
    "calib_note": "Optional, for while you wait. It is not used to train the model.",
    "calib_stop": "Stop calibrating",
    "final_tag": "Final comparison",
    "final_head": "Final comparison",
    "final_note": "Two versions of the model on new prompts. Neither side is named.",
    "final_stop": "Not now",
    "revise_note": "You are changing your vote. The earlier one ({choice}) stands until you "
    "confirm.",
    "revise_stop": "Keep it as it was",
    "ready": "Round {round} is ready.",
    "ready_go": "Go to round {round}",
    "closed": "This round closed at {time} with {votes_in} of {needed} votes. You can still send "
    "yours: it is kept, but it no longer changes this round’s update.",
    "closed_go": "Leave it and go on",
    "loading": "Loading",
    "welcome_head": "Welcome to the panel",
    "welcome_lead": "You will compare answers that two versions of a language model gave to the "
    "same prompts, and say which set is better overall.",
    "welcome_steps": (
        (
            "Read both sides.",
            "A and B are always the two versions, prompt by prompt. Which is "
            "which changes from one comparison to the next, and nobody will tell you.",
        ),
        ("Give one verdict.", "It is about the whole set. Longer is not better by itself."),
        (
            "Wait a moment.",
            "When enough votes are in, the model is updated a little and writes "
            "new answers. Then the next round begins.",
        ),
    ),
    "rubric_head": "What to look for",
    "consent_head": "Before you begin",
    "consent": (
        "Your votes change a language model after each round.",
        "Each vote is stored for good under your pseudonym {name}, with its time, how long you "
        "took and any notes. Your name and address are kept apart and can be erased on request.",
        "Texts are written by a model. Some may be wrong or unpleasant; “Can’t judge” skips "
        "them, and you can stop at any time.",
    ),
    "agree_practice": "Agree and try a practice comparison",
    "agree_start": "Agree and start right away",
    "feedback_right": "That’s how most people see it.",
    "feedback_wrong": "Most people see it differently.",
    "feedback_expected": "You said: {choice}. Expected: {expected}.",
    "feedback_skip": "You said: {choice}. That is fine whenever you cannot tell; here the "
    "expected answer was: {expected}.",
    "feedback_note": "This was practice, and the only time that you are told. From now on there "
    "is no right or wrong: the panel’s own view is what counts.",
    "feedback_go": "Start with the first round",
    "idle_head": "No round is open yet",
    "idle_text": "The run has not started. This page updates itself; you can leave it open.",
    "idle_practice": "Try a practice comparison",
    "wait_saved": "Saved",
    "wait_head_open": "Waiting for the others",
    "wait_head_next": "The next round is on its way",
    "wait_first": "Nothing to do just yet",
    "wait_first_text": "The first answers are being written. The comparison appears here by "
    "itself.",
    "wait_full": "All comparisons of this round are with other panelists. The next one appears "
    "here by itself.",
    "wait_can_change": "You can change a vote until the round closes.",
    "wait_closed": "This round has closed; your votes stand.",
    "wait_change": "Change",
    "wait_change_label": "Change my vote on comparison {number}",
    "wait_comparison": "Comparison {number}",
    "wait_votes": "Votes in",
    "wait_of": "{votes_in} of {needed}",
    "wait_usual": "A new round usually follows {wait} after the last vote.",
    "wait_deadline": "This round closes at {time} at the latest.",
    "wait_phases": ("Votes", "Update", "New answers", "Ready"),
    "wait_meanwhile": "While you wait",
    "wait_calibrate": "Do a short calibration comparison",
    "wait_calibrate_note": "optional, never used to train",
    "wait_notify": "Notify me when the next round is ready",
    "paused_head": "The run is paused",
    "paused_text": "Your votes are saved. The run goes on from here; this page updates itself.",
    "paused_reason": "Reason",
    "break_head": "You are on a break",
    "break_text": "The panel goes on without you, and your comparison went to somebody else. "
    "Come back whenever you like.",
    "break_back": "I’m back",
    "other_head": "szpo is open in another tab",
    "other_text": "To keep your votes apart, only one tab is active at a time.",
    "other_use": "Use this tab",
    "finished_head": "The run is complete",
    "finished_text": "{rounds} rounds, your votes: {votes}. Thank you.",
    "finished_final": "One last thing, if you have a minute",
    "finished_final_text": "Compare two versions of the model on prompts that nobody has voted "
    "on. It tells whether the run helped, and it changes nothing any more.",
    "finished_final_go": "Do a blind final comparison",
    "error_head": "Something went wrong",
    "error_text": "It is not your fault, and nothing that was saved is lost. If it happens again, "
    "give the operator this number: {id}",
    "error_retry": "Try again",
    "login_head": "Your session has ended",
    "login_text": "Log in to go on where you are. Your choice is kept.",
    "login_name": "Name",
    "login_code": "Code",
    "login_go": "Log in",
}

NOTICES: Final = {
    "late": "Your vote is stored. The round had closed before, so it does not change that update.",
    "closed": "The round has closed, so the vote that you gave before stands.",
    "final_closed": "This comparison has closed, so the answer that you gave before stands.",
    "once": "This comparison is answered once, so the answer that you gave before stands.",
    "reused": "Another answer came in with this one. The one that was stored first stands.",
    "often": "You have answered this a hundred times. The last answer stands.",
    "thanks": "Saved. Thank you.",
    "none_left": "There is nothing to calibrate with right now.",
    "no_final": "There is no final comparison for you right now.",
    "skipped": "Skipped. It is not counted.",
    "kept": "Your earlier vote stands.",
    "refused": "This could not be saved: {why}",
}
"""Lines above the screen, by code."""

LIVE: Final = {
    "title": "szpo panel",
    "break": "You have been voting for a while. How about a short break?",
    "title_round": "Round {round} · szpo",
    "title_ready": "(1) Round {round} ready · szpo",
    "said_round": "Round {round}, comparison {number}: {differ} prompts differ.",
    "chosen": "{choice} selected. Press Enter or Confirm to send.",
    "cleared": "Choice cleared.",
    "hint": "Which set is better overall?",
    "hint_unseen_one": "1 prompt not read yet",
    "hint_unseen": "{unseen} prompts not read yet",
    "hint_moment": "Take a moment to read",
    "jump": "jump to it",
    "you_chose": "You chose: {choice}",
    "saving": "Saving …",
    "not_saved": "Not saved. Your choice is kept.",
    "retry": "Try again",
    "offline": "Connection lost, trying again ({count}). Your choice is kept.",
    "online": "Connected again.",
    "notes": "My notes",
    "notes_line": "A {a} · same {tie} · B {b}",
    "marks_on": "Differences are marked.",
    "marks_off": "Differences are not marked.",
    "view_formatted": "Text is formatted.",
    "view_plain": "Text is shown as it was written.",
    "note_said": "Prompt {number}, note: {choice}.",
    "keys_off": "Shortcuts are off. Turn them on in Help.",
    "lease": "Are you still reading? Your place is kept for {time}.",
    "lease_keep": "Keep it (any key)",
    "lease_gone": "Your place may have gone to somebody else. You can still send your vote.",
    "longer": "This takes longer than usual.",
    "login_wrong": "Name and code do not match.",
    "login_wait": "Too many tries. Wait a minute.",
    "notify_body": "Round {round} is ready.",
    "notify_denied": "The browser blocks notifications; the tab’s title will tell you.",
}


def clock_time(at_us: int) -> str:
    """A time of day for the page: ISO in UTC; the script shows it in the reader's own zone.

    >>> clock_time(0)
    '1970-01-01T00:00:00Z'
    """
    return datetime.fromtimestamp(at_us // 1_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def roughly(seconds: float) -> str:
    """An estimated time in round words.

    >>> roughly(50), roughly(95), roughly(4000)
    ('about 50 seconds', 'about 2 minutes', 'about 1 hour')
    """
    if seconds < 90:
        return f"about {max(5, round(seconds / 5) * 5)} seconds"
    if seconds < 3600:
        return f"about {round(seconds / 60)} minutes"
    hours = round(seconds / 3600)
    return f"about {hours} hour{'s' if hours != 1 else ''}"
