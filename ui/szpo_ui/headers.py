"""Headers of every response, which restrict browsers' use of the site's pages."""

from __future__ import annotations

COMMON = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=(), payment=(), usb=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_LIMITS = (
    "connect-src 'self'; img-src 'self' data:; font-src 'self' data:; manifest-src 'self'; "
    "object-src 'none'; frame-ancestors 'none'; form-action 'self'"
)
OWN_POLICY = f"default-src 'none'; script-src 'self'; style-src 'self'; base-uri 'none'; {_LIMITS}"
"""Content-Security-Policy of pages without Gradio."""
GRADIO_POLICY = (
    "default-src 'none'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
    f"style-src 'self' 'unsafe-inline'; worker-src 'self' blob:; base-uri 'self'; {_LIMITS}"
)
"""The policy of Gradio's pages, which need inline scripts, compile templates and set their base.
So only escaping keeps model text from running as code; the policy keeps data from leaving."""
