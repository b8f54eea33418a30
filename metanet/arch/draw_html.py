"""The pictures of a template as one HTML page: SVG, a little script, and no request to anywhere."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from typing import Any

from metanet.arch.draw import BOX_HEIGHT, LINE, MARGIN, Picture

CSS = """
:root { color-scheme: light dark; --ink: #1f2933; --muted: #5d6975; --page: #ffffff; --box: #ffffff; --end: #e7ecf3;
  --folded: #f3f5f8; --line: #d5dbe2; --conv: #3b82c4; --linear: #d98324; --flatten: #4a9d5b; --link: #8a8f98;
  --other: #8a63b8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --muted: #a4adb8; --page: #15181d; --box: #20252c;
  --end: #2d3640; --folded: #262c34; --line: #39424d; } }
html, body { height: 100%; } body { margin: 0; background: var(--page); color: var(--ink); display: flex;
  font: 13px/1.5 system-ui, sans-serif; }
svg { flex: 1; min-width: 0; height: 100%; cursor: grab; touch-action: none; user-select: none; }
svg.moving { cursor: grabbing; }
text { fill: var(--ink); font-size: 12px; dominant-baseline: central; }
.heading { font-size: 16px; font-weight: 600; } .muted, .label { fill: var(--muted); font-size: 11px; }
.part { cursor: pointer; } .box rect { fill: var(--box); stroke: var(--ink); stroke-width: 1.2; }
.box.input rect, .box.output rect { fill: var(--end); } .box text { text-anchor: middle; } .title { font-weight: 600; }
.box.folded rect { fill: var(--folded); stroke-dasharray: 6 3; }
.band text { paint-order: stroke; stroke: var(--page); stroke-width: 4px; stroke-linejoin: round; }
.band path { fill: none; opacity: .55; stroke: var(--other); }
.conv path { stroke: var(--conv); } .linear path { stroke: var(--linear); } .flatten path { stroke: var(--flatten); }
.link path { stroke: var(--link); stroke-dasharray: 2 4; }
.chosen .part:not(.on) { opacity: .2; } .part:hover path, .on path { opacity: .9; }
.part:hover rect, .on rect { stroke-width: 2.4; } .part:focus-visible { outline: 2px solid var(--conv); }
[hidden] { display: none; }
aside { width: 270px; flex: none; overflow-y: auto; box-sizing: border-box; padding: 20px; height: 100%;
  border-left: 1px solid var(--line); }
aside h2 { font-size: 15px; margin: 0 0 8px; overflow-wrap: anywhere; }
nav { display: flex; flex-wrap: wrap; gap: 6px; margin: 0 0 12px; } nav + nav { margin-bottom: 20px; }
button { font: inherit; color: inherit; background: var(--box); border: 1px solid var(--line); border-radius: 6px;
  padding: 3px 9px; cursor: pointer; } button[aria-pressed=true] { background: var(--end); border-color: var(--ink); }
dl { margin: 0; } dt { color: var(--muted); font-size: 11px; } dd { margin: 0 0 6px; overflow-wrap: anywhere; }
ul { list-style: none; padding: 0; } li::before { content: ""; display: inline-block; width: 22px; height: 8px;
  margin-right: 8px; border-radius: 2px; background: var(--colour); opacity: .6; }
@media (max-width: 760px) { body { flex-direction: column; } svg { width: 100%; height: 60%; }
  aside { width: 100%; height: 40%; border-left: 0; border-top: 1px solid var(--line); } }
"""

# Pointing shows the facts of a part; a click keeps it and dims what it does not touch; a click beside it lets go. Drag
# to move, wheel to zoom. The double click on a folded box opens it: the next picture, at the place of that module.
SCRIPT = """
const views = JSON.parse(document.getElementById("facts").textContent);
const svg = document.querySelector("svg"), panel = document.getElementById("facts-of-part"), hint = panel.innerHTML;
const groups = [...document.querySelectorAll("g[data-view]")], buttons = [...document.querySelectorAll("[data-shows]")];
let view = +svg.dataset.first, kept = null, x = 0, y = 0, scale = 1;
const apply = () => svg.setAttribute("viewBox",
  [x, y, svg.clientWidth / scale, svg.clientHeight / scale].map(n => n.toFixed(2)).join(" "));
function readable() {
  scale = Math.min(1.2, Math.max(0.35, svg.clientWidth / views[view].width));
  x = (views[view].width - svg.clientWidth / scale) / 2;
  y = 0;
  apply();
}
function whole() {
  const { width, height } = views[view];
  scale = Math.min(svg.clientWidth / width, svg.clientHeight / height);
  x = (width - svg.clientWidth / scale) / 2;
  y = (height - svg.clientHeight / scale) / 2;
  apply();
}
function zoom(factor, cx = svg.clientWidth / 2, cy = svg.clientHeight / 2) {
  const next = Math.min(6, Math.max(0.01, scale * factor));
  x += cx / scale - cx / next;
  y += cy / scale - cy / next;
  scale = next;
  apply();
}
function choose(number) {
  view = number;
  keep(null);
  groups.forEach(g => { g.toggleAttribute("hidden", +g.dataset.view !== view); });
  buttons.forEach(b => b.setAttribute("aria-pressed", +b.dataset.shows === view));
  readable();
}
function tell(part) {
  if (part === null) { panel.innerHTML = hint; return; }
  const title = document.createElement("h2"), list = document.createElement("dl");
  title.textContent = views[view].parts[part].title;
  for (const [name, value] of Object.entries(views[view].parts[part].facts)) {
    for (const [tag, text] of [["dt", name], ["dd", value]]) {
      list.append(Object.assign(document.createElement(tag), { textContent: text }));
    }
  }
  panel.replaceChildren(title, list);
}
function keep(part) {
  kept = part;
  tell(part);
  const near = part === null ? [] : views[view].parts[part].near.concat(part);
  groups[view].classList.toggle("chosen", part !== null);
  groups[view].querySelectorAll(".part").forEach(g => g.classList.toggle("on", near.includes(+g.dataset.part)));
}
function open(part) {
  const module = views[view].parts[part].facts.module;
  if (!module || view + 1 >= views.length) return;
  choose(view + 1);
  const inner = views[view].parts.findIndex(p => p.at && [p.facts.module, p.facts.space].some(
    name => name === module || (name || "").startsWith(module + ".")));
  if (inner < 0) return;
  [x, y] = [views[view].parts[inner].at[0] - svg.clientWidth / scale / 2, views[view].parts[inner].at[1] - 80];
  apply();
}
let moved = 0, from = null;
svg.addEventListener("pointerdown", event => { from = [event.clientX, event.clientY]; moved = 0; });
addEventListener("pointermove", event => {
  if (from === null) return;
  const [dx, dy] = [event.clientX - from[0], event.clientY - from[1]];
  moved += Math.abs(dx) + Math.abs(dy);
  svg.classList.toggle("moving", moved > 4);
  x -= dx / scale;
  y -= dy / scale;
  from = [event.clientX, event.clientY];
  apply();
});
addEventListener("pointerup", () => { from = null; svg.classList.remove("moving"); });
svg.addEventListener("wheel", event => {
  event.preventDefault();
  const corner = svg.getBoundingClientRect();
  zoom(Math.exp(-event.deltaY / 500), event.clientX - corner.left, event.clientY - corner.top);
}, { passive: false });
document.querySelectorAll(".part").forEach(g => {
  const part = +g.dataset.part;
  g.addEventListener("pointerenter", () => { if (kept === null) tell(part); });
  g.addEventListener("pointerleave", () => { if (kept === null) tell(null); });
  g.addEventListener("focus", () => { if (kept === null) tell(part); });
  g.addEventListener("keydown", event => { if (event.key === "Enter") keep(part); });
  g.addEventListener("dblclick", () => open(part));
});
svg.addEventListener("click", event => {
  if (moved > 4) return;
  const g = event.target.closest(".part");
  keep(g && +g.dataset.part !== kept ? +g.dataset.part : null);
});
buttons.forEach(b => b.addEventListener("click", () => choose(+b.dataset.shows)));
for (const [id, action] of [["in", () => zoom(1.3)], ["out", () => zoom(1 / 1.3)], ["top", readable], ["all", whole]]) {
  document.getElementById(id).addEventListener("click", action);
}
addEventListener("resize", apply);
choose(view);
"""

KINDS = {"conv": "convolution", "linear": "linear", "flatten": "linear, of a flattened image", "other": "other weights"}


def page(pictures: Sequence[Picture], first: int) -> str:
    """The whole page, with every fold; `pictures[first]` is seen at the start.

    Parts of a picture are numbered: boxes first, then bands.
    """
    shown = pictures[first]
    title = escape(shown.title)
    folds = [
        f'<button data-shows="{k}" aria-pressed="{str(k == first).lower()}">{_name(one)}</button>'
        for k, one in enumerate(pictures)
    ]
    legend = [
        f'<li style="--colour: var(--{kind})">{text}</li>' for kind, text in {**KINDS, "link": "no weights"}.items()
    ]
    data = json.dumps([_facts(one) for one in pictures], ensure_ascii=False).replace("</", "<\\/")
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">',
            f"<title>{title}</title><style>{CSS}</style></head><body>",
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {round(shown.width)} {round(shown.height)}" '
            f'role="img" aria-label="{title}" data-first="{first}">',
            *(_group(one, k, hidden=k != first) for k, one in enumerate(pictures)),
            f"</svg><aside><nav{' hidden' * (len(pictures) == 1)}>{''.join(folds)}</nav>",
            '<nav><button id="in" title="zoom in">+</button><button id="out" title="zoom out">−</button>',
            '<button id="top">top</button><button id="all">all</button></nav>',
            '<div id="facts-of-part"><h2>What this is</h2><p>Boxes are spaces: the channels of one layer\'s output, '
            "one node each. Bands are weight tensors, thicker with more weights; dotted ones are connections without "
            "weights. Dashed boxes are modules, folded.</p><p>Point at a part to see its shape; click to keep it; "
            "double-click a folded box to open it. Drag to move, turn the wheel to zoom.</p>",
            f"<ul>{''.join(legend)}</ul></div></aside>",
            f'<script id="facts" type="application/json">{data}</script><script>{SCRIPT}</script></body></html>\n',
        ]
    )


def _name(picture: Picture) -> str:
    return f"{len(picture.boxes)} {'modules' if picture.depth else 'spaces'}"


def _group(picture: Picture, number: int, hidden: bool) -> str:
    hidden_attribute = ' hidden="hidden"' if hidden else ""
    shapes = [
        f'<g data-view="{number}"{hidden_attribute}>',
        f'<text class="heading" x="{MARGIN}" y="{MARGIN}">{escape(picture.title)}</text>',
        *(
            f'<text class="muted" x="{MARGIN}" y="{MARGIN + 4 + LINE * line}">{escape(note)}</text>'
            for line, note in enumerate(picture.notes, start=1)
        ),
    ]
    for part, band in enumerate(picture.bands, start=len(picture.boxes)):
        start, *rest = (f"{x:.1f} {y:.1f}" for x, y in band.curve)
        x, y = band.label_at
        shapes.append(
            f'<g class="part band {band.kind}" data-part="{part}" tabindex="0">'
            f'<path d="M{start} C{", ".join(rest)}" stroke-width="{band.thickness:.1f}"/>'
            f'<text class="label" x="{x:.1f}" y="{y:.1f}">{escape(band.label)}</text></g>'
        )
    for part, box in enumerate(picture.boxes):
        title_at = box.y + (17 if box.subtitle else BOX_HEIGHT / 2)
        shapes.append(
            f'<g class="part box {box.kind}" data-part="{part}" tabindex="0"><rect rx="7" '
            f'x="{box.x - box.width / 2:.1f}" y="{box.y:.1f}" width="{box.width:.1f}" height="{BOX_HEIGHT}"/>'
            f'<text class="title" x="{box.x:.1f}" y="{title_at:.1f}">{escape(box.title)}</text>'
            f'<text class="label" x="{box.x:.1f}" y="{box.y + 33:.1f}">{escape(box.subtitle)}</text></g>'
        )
    return "\n".join([*shapes, "</g>"])


def _facts(picture: Picture) -> dict[str, Any]:
    """Size of a picture, and for each part its facts and the parts that it touches."""
    first = len(picture.boxes)
    parts: list[dict[str, Any]] = [
        {
            "title": box.title,
            "facts": box.facts,
            "at": [round(box.x), round(box.y)],
            "near": [first + k for k, band in enumerate(picture.bands) if i in (band.source, band.target)],
        }
        for i, box in enumerate(picture.boxes)
    ]
    parts += [{"title": b.label, "facts": b.facts, "near": [b.source, b.target]} for b in picture.bands]
    return {"width": round(picture.width), "height": round(picture.height), "parts": parts}
