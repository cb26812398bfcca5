"""The page's style sheet."""

from __future__ import annotations

STYLE = """:root {
  --ink: #1c2330; --soft: #5a6475; --paper: #ffffff; --raised: #f5f7fa; --line: #dde2ea; --accent: #1f6fb2;
}
@media (prefers-color-scheme: dark) {
  :root { --ink: #e4e8ef; --soft: #9aa5b6; --paper: #14181f; --raised: #1d232c; --line: #323b48; --accent: #6cb2ee; }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body {
  margin: 0; color: var(--ink); background: var(--paper);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "DejaVu Sans", sans-serif;
}
header, main { max-width: 68rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 2.5rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 0.8rem; letter-spacing: -0.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 0 0 0.8rem; letter-spacing: -0.005em; }
nav { display: flex; flex-wrap: wrap; gap: 0.4rem 1.2rem; font-size: 0.92rem; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
section { border-top: 1px solid var(--line); margin-top: 2rem; padding-top: 1.6rem; }
p { max-width: 46rem; margin: 0 0 0.9rem; }
.table { overflow-x: auto; margin: 1.2rem 0; }
table { border-collapse: collapse; font-size: 0.88rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding-bottom: 0.4rem; white-space: nowrap; }
th, td { padding: 0.3rem 0.9rem 0.3rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--soft); font-weight: 600; }
.number { text-align: right; white-space: nowrap; }
figure {
  margin: 1.4rem 0; padding: 0.8rem; background: var(--raised); border-radius: 8px; width: fit-content; max-width: 100%;
}
img { display: block; max-width: 100%; height: auto; background: #ffffff; border-radius: 4px; }
figcaption { color: var(--soft); font-size: 0.88rem; max-width: 46rem; padding-top: 0.6rem; }
footer { color: var(--soft); font-size: 0.85rem; margin-top: 1.2rem; }
footer p { margin: 0 0 0.3rem; }
pre {
  margin: 0; padding: 0.6rem 0.8rem; background: var(--raised); border-radius: 6px; color: var(--ink);
  white-space: pre-wrap; overflow-wrap: anywhere; font: 0.84rem/1.45 ui-monospace, "DejaVu Sans Mono", monospace;
}
main { padding-bottom: 4rem; }
@media print {
  :root { --ink: #000000; --soft: #444444; --paper: #ffffff; --raised: #ffffff; --line: #bbbbbb; --accent: #000000; }
  body { font-size: 10pt; }
  header, main { max-width: none; padding-left: 0; padding-right: 0; }
  nav { display: none; }
  figure, tr, pre { break-inside: avoid; }
  h2, caption { break-after: avoid; }
  figure { padding: 0; }
  .table { overflow-x: visible; }
  img { max-height: 22cm; width: auto; }
}
"""
