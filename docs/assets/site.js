// The theme wraps tables after loading; a table that scrolls must be reachable by keyboard.
new MutationObserver(() => {
  for (const each of document.querySelectorAll(".md-typeset__scrollwrap:not([tabindex])")) each.tabIndex = 0;
}).observe(document.documentElement, { childList: true, subtree: true });
