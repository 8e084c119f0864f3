"""A judge behind any server with OpenAI's chat completions API.

The key comes from an environment variable and goes into one header of requests to ``base_url``. It
appears in no record, log or error: messages are made from status codes, and the key is removed
from texts that come back, since a server may echo what it was sent.
"""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from szpo import keyed_requests
from szpo.config.tables import Judge
from szpo.data.text_files import CONTROL_WORDS
from szpo.errors import UsageError
from szpo.judges.prompting import JudgeError, Labels, Question, Reply
from szpo.keyed_requests import JUDGE_KEY
from szpo.plugins import how_to_install
from szpo.visible_text import visible

if TYPE_CHECKING:
    from openai import OpenAI

FINAL_STATUS: Final = {
    401: "refuses the key", 402: "wants to be paid", 403: "forbids it",
    404: "does not know the model", 429: "has no quota left for the key",
    **dict.fromkeys((301, 302, 303, 307, 308), "sends questions on to another address"),
}  # fmt: skip
"""HTTP status codes that a retry cannot fix, in words; 429 only where a quota is used up."""
RETRIED: Final = (408, 409, 429)
"""Status codes below 500 after which OpenAI's client tries again."""
_QUOTA: Final = re.compile("quota|billing|credit|balance", re.I)
_PASSES: Final = re.compile(
    r"rate_limit_exceeded|per.?(?:min|sec)|(?:try again|retry) (?:in|after)\s"
    r"(?:(?P<minutes>\d{1,6})\s?m(?!s))?\s?(?:(?P<seconds>\d{1,9}(?:\.\d{1,9})?)\s?(?P<unit>m?s))?",
    re.I,
)
"""What says that a refusal passes, although its text links to a page about quotas."""
_ADAPTED: Final = ("max_completion_tokens", "temperature")
"""Parameters as some models want them: the former in place of max_tokens, the latter left out."""
_BROKEN: Final = ("content_filter", "error")
"""Why a reply ended that is none."""
_THOUGHTS: Final = ("reasoning_content", "reasoning")
"""Where servers put what a model thought, beside its reply."""
ATTEMPTS = 4
"""Tries at an endpoint that is busy (HTTP 429), broken or slow; OpenAI's client waits between."""
TIMEOUT_S = 180.0
"""Longest wait for one reply, seconds: a server without a GPU writes two tokens in one."""
CONNECT_S: Final = 30.0
"""Longest wait for a connection, seconds."""
TOP_LOGPROBS: Final = 20
"""Likeliest first tokens asked for; the two names must be among them."""
REPLY_BYTES: Final = 2**22
"""Longest reply that is read, bytes."""
_NO_KEY = "none"


@dataclass(frozen=True)
class Endpoint:
    """Asks a server; retries with growing waits, and gives a reason when it gives up."""

    settings: Judge
    client: OpenAI = field(repr=False)
    key: str = field(repr=False)
    wishes: set[str] = field(default_factory=set, repr=False)
    """Those of `_ADAPTED` that the server has asked for."""
    reserved: Sequence[str] = CONTROL_WORDS

    @property
    def name(self) -> str:
        """The model's name."""
        return self.settings.model

    def write(self, questions: Sequence[Question]) -> list[Reply]:
        """See `Backend.write`."""
        return self._each(questions, self._text, max_tokens=self.settings.max_tokens)

    def weigh(self, questions: Sequence[Question], labels: Labels) -> list[Reply]:
        """See `Backend.weigh`: from the likeliest first tokens that the server reports."""

        def read(choice: Any) -> Reply:
            return _odds(choice, labels)

        more = {"max_tokens": 1, "logprobs": True, "top_logprobs": TOP_LOGPROBS}
        return self._each(questions, read, **more)

    def _each(
        self, questions: Sequence[Question], read: Callable[[Any], Reply], **more: Any
    ) -> list[Reply]:
        """Ask one question after the other; after a final failure the rest is not tried."""
        replies: list[Reply] = []
        for question in questions:
            if replies and replies[-1].final:
                replies.append(Reply(failure=replies[-1].failure, final=True))
            else:
                replies.append(self._ask(question, read, **more))
        return replies

    def _ask(self, question: Question, read: Callable[[Any], Reply], **more: Any) -> Reply:
        import openai

        messages: Any = [{"role": r, "content": t} for r, t in question.prompt.turns]
        given = {"temperature": 0.0, **more} if "temperature" not in self.wishes else dict(more)
        if "max_completion_tokens" in self.wishes:
            given["max_completion_tokens"] = given.pop("max_tokens")
        try:
            answer = self.client.chat.completions.create(
                model=self.name, messages=messages, stream=False, **given
            )
        except openai.APITimeoutError as error:
            slow = f"no answer within {TIMEOUT_S:g} s"
            return self._gave_up(error, slow, "a lower judge.max_tokens is answered sooner")
        except openai.APIStatusError as error:
            code, words = error.status_code, self._words(error)
            why = FINAL_STATUS.get(code)
            new = {each for each in _ADAPTED if each in words} - self.wishes
            if code in (400, 422) and new:
                self.wishes.update(new)
                return self._ask(question, read, **more)
            if why is not None and (code != 429 or _is_used_up(error.response)):
                path = urlsplit(self.settings.base_url or "").path.strip("/")
                raise JudgeError(
                    f"judge {self.name}: {self.settings.base_url} {why} (HTTP {code}"
                    f"{': ' * bool(words)}{words}); check judge.model, judge.base_url"
                    f"{', which often ends in /v1,' * (code == 404 and path != 'v1')} and "
                    f"${JUDGE_KEY}"
                ) from None
            if code < 500 and code not in RETRIED:
                return Reply(failure=f"HTTP {code} ({words})", final=True)
            return self._gave_up(error, f"HTTP {code}", words)
        except openai.APIConnectionError as error:
            return self._gave_up(error, "no connection")
        except (
            openai.OpenAIError,
            ValueError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as error:
            words = keyed_requests.error_text(getattr(error, "doc", ""), self.key)
            return Reply(failure=f"the reply is not a chat completion{_quoted(words)}")
        try:
            reply = read(answer.choices[0])
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError):
            body = answer if isinstance(answer, str) else getattr(answer, "model_extra", None)
            words = keyed_requests.error_text(body, self.key)
            reply = Reply(failure=f"the reply has no readable choice{_quoted(words)}")
        spent = getattr(answer, "usage", None)
        return replace(
            reply,
            text=keyed_requests.hide_keys(reply.text, self.key),
            tokens_in=_count(getattr(spent, "prompt_tokens", 0)),
            tokens_out=_count(getattr(spent, "completion_tokens", 0)),
        )

    def _gave_up(self, error: Any, why: str, words: str = "") -> Reply:
        """A final failure; the client has retried by itself, and counts that in a header."""
        times = 1 + int(error.request.headers.get("x-stainless-retry-count", 0))
        tried = f"tried {times} times" if times > 1 else "tried once"
        return Reply(failure=f"{why}, {tried}{_quoted(words)}", final=True)

    def _words(self, error: Any) -> str:
        """The server's own words, in one line and without keys."""
        return keyed_requests.error_text(error.body, self.key)

    def _text(self, choice: Any) -> Reply:
        said, end = choice.message, choice.finish_reason
        text = said.content
        if isinstance(text, list):  # thoughts, and parts that are text
            text = "".join(part["text"] for part in text if part.get("type") == "text")
        if end in _BROKEN:
            words = keyed_requests.error_text({"error": getattr(choice, "error", None)}, self.key)
            return Reply(failure=f"the server broke the reply off{_quoted(words or end)}")
        if end == "length" or (isinstance(text, str) and text.strip()):
            return Reply(text or "", ended=end != "length")
        refusal = " ".join(str(getattr(said, "refusal", None) or "").split())[:200]
        if refusal:
            return Reply(failure=f"the judge refuses ({visible(refusal)})")
        thought = any(getattr(said, name, None) for name in _THOUGHTS)
        what = "thoughts and no text" if thought else "no text"
        return Reply(failure=f"the reply has {what}{_quoted(end if end != 'stop' else '')}")


def connect(settings: Judge) -> Endpoint:
    """The endpoint of the settings; nothing is sent yet."""
    try:
        import openai
    except ModuleNotFoundError:
        raise UsageError(f"an endpoint judge needs openai: {how_to_install('judge')}") from None
    url = keyed_requests.api_base(settings.base_url or "")
    where, key = urlsplit(url), keyed_requests.read_key(JUDGE_KEY, url, "judge")
    if not key and where.scheme == "https" and not keyed_requests.is_here(where.hostname or ""):
        raise UsageError(
            f"judge: ${JUDGE_KEY} is not set; put the key of {url} there (any text if "
            "it needs none)"
        )
    client = openai.OpenAI(
        http_client=_bounded_client(**keyed_requests.client_options(url, key)),
        default_headers={"Accept-Encoding": "identity"},
        base_url=url,
        api_key=key or _NO_KEY,
        timeout=openai.Timeout(TIMEOUT_S, connect=CONNECT_S),
        max_retries=ATTEMPTS - 1,
        # Else the client takes these from the environment and sends them to this server.
        organization="",
        project="",
    )
    return Endpoint(settings, client, key or _NO_KEY)


def _bounded_client(**options: Any) -> Any:
    """A client that reads at most `REPLY_BYTES`, for at most `TIMEOUT_S`, uncompressed."""
    import openai

    client: Any = openai.DefaultHttpxClient(
        timeout=openai.Timeout(TIMEOUT_S, connect=CONNECT_S), follow_redirects=False, **options
    )
    http = import_module(type(client).__mro__[1].__module__.partition(".")[0])  # httpx or httpx2
    plain = client.send

    def send(request: Any, **given: Any) -> Any:
        end, content = time.monotonic() + TIMEOUT_S, bytearray()
        reply = plain(request, **{**given, "stream": True})
        with contextlib.closing(reply):
            for part in reply.iter_raw():
                content += part
                if len(content) > REPLY_BYTES:  # a cut reply is not valid JSON
                    break
                if time.monotonic() > end:
                    raise http.ReadTimeout("the reply takes too long", request=request)
        kept = {k: v for k, v in reply.headers.items() if k != "content-encoding"}
        read = http.Response(
            reply.status_code, headers=kept, content=bytes(content), request=request
        )
        if reply.status_code == 429:  # OpenAI's client heeds these headers
            if _is_used_up(read):
                read.headers["x-should-retry"] = "false"
            elif "retry-after" not in read.headers and (wait := _wait_s(read.text)):
                read.headers["retry-after"] = f"{wait:g}"
        return read

    client.send = send
    return client


def _quoted(words: str) -> str:
    return f" ({words})" if words else ""


def _is_used_up(reply: Any) -> bool:
    """Whether a refusal (429) is of a used-up quota, not of a rate that passes."""
    text = reply.text
    passes = "retry-after" in reply.headers or _PASSES.search(text)
    return "insufficient_quota" in text or bool(_QUOTA.search(text) and not passes)


def _wait_s(text: str) -> float | None:
    """The seconds after which a server's words say to try again; None if they say none."""
    for match in _PASSES.finditer(text):
        minutes, seconds = match["minutes"], match["seconds"]
        if minutes or seconds:
            part = float(seconds or 0) / (1000 if match["unit"] == "ms" else 1)
            return 60.0 * int(minutes or 0) + part
    return None


def _odds(choice: Any, labels: Labels) -> Reply:
    """Log-probabilities of the labels as first tokens; several spellings of one are added up."""
    listed = choice.logprobs.content[0].top_logprobs
    sums = []
    for label in labels:
        wanted = label.split()[-1].casefold()
        values = [float(t.logprob) for t in listed if str(t.token).strip().casefold() == wanted]
        if not values:
            return Reply(failure=f"{label} is not among the {len(listed)} likeliest first tokens")
        sums.append(_logsumexp(values))
    return Reply(odds=(sums[0], sums[1]))


def _logsumexp(values: Sequence[float]) -> float:
    top = max(values)
    if not top > -math.inf:
        raise ValueError("no finite log-probability")
    return top + math.log(sum(math.exp(value - top) for value in values))


def _count(value: object) -> int:
    return value if isinstance(value, int) and 0 <= value < 2**53 else 0
