"""The report as one HTML file: plotly.js and every figure are inside it, and nothing is fetched from anywhere."""

import json
import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

CONFIG = {"displayModeBar": False, "responsive": True}

CSS = """
:root { --ink: #1f2933; --muted: #5d6975; --line: #e4e8ed; --soft: #f6f8fa; --accent: #0072b2; --warn: #fff6e5; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: #fff; color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 36px 28px 72px; }
h1 { font-size: 30px; line-height: 1.2; letter-spacing: -.02em; margin: 0 0 8px; }
h2 { font-size: 24px; letter-spacing: -.015em; margin: 56px 0 6px; padding-top: 24px;
  border-top: 1px solid var(--line); }
h1 ~ h2:first-of-type { margin-top: 20px; }
h3 { font-size: 18px; letter-spacing: -.01em; margin: 44px 0 4px; }
p { margin: 6px 0 12px; max-width: 76ch; }
p.note, figcaption span, td small, th small, .muted { color: var(--muted); }
p.note { font-size: 13.5px; }
a { color: var(--accent); }
code { font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; background: var(--soft);
  padding: 1px 4px; border-radius: 3px; overflow-wrap: anywhere; }
pre { background: var(--soft); padding: 12px 14px; border-radius: 6px; overflow-x: auto; margin: 8px 0 14px; }
pre code { background: none; padding: 0; overflow-wrap: normal; }
.warning { background: var(--warn); border-left: 4px solid #e69f00; padding: 10px 14px; border-radius: 4px;
  margin: 16px 0; }
.warning ul { margin: 4px 0 0; padding-left: 20px; }
.scroll { overflow-x: auto; margin: 12px 0 6px; }
table { border-collapse: collapse; font-size: 13.5px; font-variant-numeric: tabular-nums; min-width: 100%; }
th, td { padding: 6px 10px; text-align: right; border-bottom: 1px solid var(--line); vertical-align: top;
  white-space: nowrap; }
th { font-weight: 600; }
thead th { border-bottom: 1.5px solid #9aa5b1; vertical-align: bottom; }
thead tr.groups th { border-bottom: 0; color: var(--muted); font-size: 11.5px; letter-spacing: .05em;
  text-transform: uppercase; text-align: left; padding-bottom: 0; }
tr > :first-child { text-align: left; position: sticky; left: 0; background: #fff; z-index: 1; }
td small, th small { display: block; font-size: 11.5px; line-height: 1.4; font-weight: 400; }
tbody tr.mean > * { border-bottom: 1.5px solid #9aa5b1; }
td.first, th.first { border-left: 1px solid #c5cdd5; }
td.text, th.text { text-align: left; white-space: normal; min-width: 150px; }
td.best { font-weight: 700; }
.better { color: #00664b; font-weight: 600; } .worse { color: #a83c00; font-weight: 600; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(320px, 100%), 1fr));
  gap: 22px 26px; margin: 14px 0; }
.panels.one { grid-template-columns: minmax(0, 680px); }
.panels[hidden] { display: none; }
figure { margin: 0; min-width: 0; }
figcaption { font-size: 13.5px; font-weight: 600; margin-bottom: 2px; }
figcaption span { font-weight: 400; }
select { font: inherit; padding: 5px 8px; border: 1px solid #9aa5b1; border-radius: 6px; background: #fff;
  color: inherit; max-width: 100%; }
details { margin: 10px 0; } summary { cursor: pointer; color: var(--accent); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: 6px 18px; max-width: 90ch; margin: 10px 0; }
dt { font-weight: 600; } dd { margin: 0; }
footer { margin-top: 56px; padding-top: 14px; border-top: 1px solid var(--line); font-size: 13px; color: var(--muted); }
@media (max-width: 640px) {
  main { padding: 22px 16px 48px; } h1 { font-size: 25px; }
  dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: 10px; }
  th, td { padding: 6px 8px; }
}
@media print { .panels { break-inside: auto; } figure, tr { break-inside: avoid; } }
"""

# Figures are drawn when they come near the screen, so that a report with a hundred of them opens at once.
SCRIPT = """
const figures = JSON.parse(document.getElementById("figures").textContent);
const config = CONFIG;
const nearby = new IntersectionObserver(entries => entries.forEach(entry => {
  if (!entry.isIntersecting) return;
  nearby.unobserve(entry.target);
  const figure = figures[entry.target.dataset.figure];
  Plotly.newPlot(entry.target, figure.data, figure.layout, config);
}), { rootMargin: "600px" });
document.querySelectorAll("[data-figure]").forEach(element => nearby.observe(element));
document.querySelectorAll("select[data-chooses]").forEach(select => {
  const show = () => document.querySelectorAll(`[data-group="${select.dataset.chooses}"]`)
    .forEach(panels => { panels.hidden = panels.dataset.choice !== select.value; });
  select.addEventListener("change", show);
  show();
});
"""


class Figures:
    """The figures of one page: `panel` returns the place where a figure is drawn and keeps the figure for `page`."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []

    def panel(self, title: str, note: str, figure: dict[str, Any]) -> str:
        self.kept.append(figure)
        height = figure["layout"]["height"]  # kept free, so that nothing jumps when the figure is drawn
        caption = f"<figcaption>{escape(title)} <span>{escape(note)}</span></figcaption>"
        place = f'<div data-figure="{len(self.kept) - 1}" style="height:{height}px"></div>'
        return f"<figure>{caption}{place}</figure>"


def page(title: str, body: Iterable[str], figures: Figures) -> str:
    """The whole file. plotly is imported here, so that reading runs and printing tables do without it."""
    from plotly.offline import get_plotlyjs  # about 4.5 MB, inlined once

    data = json.dumps(_finite(figures.kept), separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<link rel="icon" href="data:,">',  # an empty one, or the browser asks for /favicon.ico
            f"<title>{escape(title)}</title><style>{CSS}</style></head><body><main>",
            *body,
            f'</main><script id="figures" type="application/json">{data}</script>',
            f"<script>{get_plotlyjs()}</script>",
            f"<script>{SCRIPT.replace('CONFIG', json.dumps(CONFIG))}</script></body></html>\n",
        ]
    )


def _finite(value: Any) -> Any:
    """JSON has no nan: plotly draws nothing at null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def chooser(name: str, label: str, choices: Sequence[tuple[str, str, Iterable[str]]]) -> str:
    """A selector above groups of panels, of which one is seen; `choices` are (value, title, panels)."""
    options = "".join(f'<option value="{escape(value)}">{escape(title)}</option>' for value, title, _ in choices)
    groups = "".join(
        f'<div class="panels" data-group="{escape(name)}" data-choice="{escape(value)}"'
        f"{' hidden' if place else ''}>{''.join(panels)}</div>"
        for place, (value, _, panels) in enumerate(choices)
    )
    return f'<p><label>{escape(label)} <select data-chooses="{escape(name)}">{options}</select></label></p>{groups}'


def definitions(pairs: Iterable[tuple[str, str]]) -> str:
    """A list of (subject, text); a text of several lines is a list of commands."""
    items = []
    for subject, text in pairs:
        shown = f"<pre><code>{escape(text)}</code></pre>" if "\n" in text else escape(text)
        items.append(f"<dt>{escape(subject)}</dt><dd>{shown}</dd>")
    return f"<dl>{''.join(items)}</dl>"
