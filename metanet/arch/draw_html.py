"""The picture of a template as one HTML page: SVG, a little script, and no request to anywhere."""

from __future__ import annotations

import json
from html import escape

from metanet.arch.draw import BOX_HEIGHT, LINE, MARGIN, Picture

CSS = """
:root { color-scheme: light dark; --ink: #1f2933; --muted: #5d6975; --page: #ffffff; --box: #ffffff; --end: #e7ecf3;
  --conv: #3b82c4; --linear: #d98324; --flatten: #4a9d5b; --link: #8a8f98; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --muted: #a4adb8; --page: #15181d; --box: #20252c;
  --end: #2d3640; } }
body { margin: 0; background: var(--page); color: var(--ink); font: 13px/1.5 system-ui, sans-serif; display: flex;
  align-items: flex-start; }
svg { flex: none; max-width: calc(100vw - 340px); height: auto; }
text { fill: var(--ink); font-size: 12px; dominant-baseline: central; }
.heading { font-size: 16px; font-weight: 600; } .muted, .label { fill: var(--muted); font-size: 11px; }
.box { cursor: pointer; } .box rect { fill: var(--box); stroke: var(--ink); stroke-width: 1.2; }
.box.input rect, .box.output rect { fill: var(--end); } .box text { text-anchor: middle; }
.box .title { font-weight: 600; }
.band text { paint-order: stroke; stroke: var(--page); stroke-width: 4px; stroke-linejoin: round; }
.band { cursor: pointer; } .band path { fill: none; opacity: .55; }
.conv path { stroke: var(--conv); } .linear path { stroke: var(--linear); } .flatten path { stroke: var(--flatten); }
.link path { stroke: var(--link); stroke-dasharray: 2 4; }
svg.chosen g:not(.on) { opacity: .25; } .on path { opacity: .9; } .on rect { stroke-width: 2.4; }
g { transition: opacity .12s; } g:focus-visible { outline: 2px solid var(--conv); }
aside { position: sticky; top: 0; width: 290px; padding: 36px 20px; } aside h2 { font-size: 15px; margin: 0 0 8px; }
dl { margin: 0; } dt { color: var(--muted); font-size: 11px; } dd { margin: 0 0 6px; overflow-wrap: anywhere; }
@media (max-width: 760px) { body { display: block; } svg { max-width: 100vw; }
  aside { position: static; width: auto; } }
"""

# Pointing shows the facts of a part and what it joins; a click keeps it; a click beside it lets go.
SCRIPT = """
const facts = JSON.parse(document.getElementById("facts").textContent);
const svg = document.querySelector("svg"), panel = document.querySelector("aside"), hint = panel.innerHTML;
const parts = [...document.querySelectorAll("g[data-part]")];
let kept = null;
function show(part) {
  svg.classList.toggle("chosen", part !== null);
  const near = part === null ? [] : facts[part].near.concat(part);
  parts.forEach(g => g.classList.toggle("on", near.includes(+g.dataset.part)));
  if (part === null) { panel.innerHTML = hint; return; }
  const title = document.createElement("h2"), list = document.createElement("dl");
  title.textContent = facts[part].title;
  for (const [name, value] of Object.entries(facts[part].facts)) {
    for (const [tag, text] of [["dt", name], ["dd", value]]) {
      list.append(Object.assign(document.createElement(tag), { textContent: text }));
    }
  }
  panel.replaceChildren(title, list);
}
parts.forEach(g => {
  const part = +g.dataset.part;
  g.addEventListener("pointerenter", () => show(part));
  g.addEventListener("pointerleave", () => show(kept));
  g.addEventListener("focus", () => show(part));
  g.addEventListener("click", event => { kept = kept === part ? null : part; show(kept); event.stopPropagation(); });
});
document.addEventListener("click", () => { kept = null; show(null); });
"""


def page(picture: Picture) -> str:
    """The whole page. Parts are numbered: boxes first, then bands."""
    width, height = round(picture.width), round(picture.height)
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    shapes = [
        f'<text class="heading" x="{MARGIN}" y="{MARGIN}">{escape(picture.title)}</text>',
        *(
            f'<text class="muted" x="{MARGIN}" y="{MARGIN + 4 + LINE * number}">{escape(note)}</text>'
            for number, note in enumerate(picture.notes, start=1)
        ),
    ]
    first = len(picture.boxes)
    for number, band in enumerate(picture.bands, start=first):
        start, *rest = (f"{x:.1f} {y:.1f}" for x, y in band.curve)
        x, y = band.label_at
        shapes.append(
            f'<g class="band {band.kind}" data-part="{number}" tabindex="0">'
            f'<path d="M{start} C{", ".join(rest)}" stroke-width="{band.thickness:.1f}"/>'
            f'<text class="label" x="{x:.1f}" y="{y:.1f}">{escape(band.label)}</text></g>'
        )
    for number, box in enumerate(picture.boxes):
        title_at = box.y + (17 if box.subtitle else BOX_HEIGHT / 2)
        shapes.append(
            f'<g class="box {box.kind}" data-part="{number}" tabindex="0"><rect rx="7" x="{box.x - box.width / 2:.1f}" '
            f'y="{box.y:.1f}" width="{box.width:.1f}" height="{BOX_HEIGHT}"/>'
            f'<text class="title" x="{box.x:.1f}" y="{title_at:.1f}">{escape(box.title)}</text>'
            f'<text class="label" x="{box.x:.1f}" y="{box.y + 33:.1f}">{escape(box.subtitle)}</text></g>'
        )
    facts = [
        {
            "title": box.title,
            "facts": box.facts,
            "near": [first + k for k, b in enumerate(picture.bands) if i in (b.source, b.target)],
        }
        for i, box in enumerate(picture.boxes)
    ] + [{"title": band.label, "facts": band.facts, "near": [band.source, band.target]} for band in picture.bands]
    data = json.dumps(facts, ensure_ascii=False).replace("</", "<\\/")
    return "\n".join(
        [
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">',
            f"<title>{escape(picture.title)}</title><style>{CSS}</style></head><body>",
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{escape(picture.title)}">',
            *shapes,
            "</svg><aside><h2>What this is</h2><p>Boxes are spaces: the channels of one layer's output, one node each. "
            "Bands are weight tensors, thicker with more weights; dotted ones are connections without weights. "
            "Point at a part to see its shape; click to keep it.</p></aside>",
            f'<script id="facts" type="application/json">{data}</script><script>{SCRIPT}</script></body></html>\n',
        ]
    )
