"""The picture of a template: every part is in it, nothing overlaps, and the page stands alone."""

import itertools
import json
import math
import re
import struct
import xml.etree.ElementTree as ET
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from torch import Tensor, nn

from metanet.arch.draw import BOX_HEIGHT, MOST_BOXES, draw, picture
from metanet.arch.draw_fold import folds
from metanet.arch.draw_layout import GAP, PASSING, _closest, place
from metanet.arch.template import Template
from metanet.arch.trace import trace


class Branching(nn.Module):
    """Two convolutions side by side, added, and a shortcut around both."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.norm, self.head = nn.BatchNorm2d(4), cast(nn.Module, nn.Linear(16, 2))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        return self.head((torch.tanh(self.left(x)) + self.right(x) + x).flatten(1))


@pytest.fixture(scope="module")
def template() -> Template:
    return trace(Branching(), torch.randn(1, 1, 4, 4))


def test_every_space_block_and_link_is_drawn(template):
    drawn = picture(template, "net")
    assert [box.facts["space"] for box in drawn.boxes] == [space.name for space in template.spaces]
    assert [(band.source, band.target) for band in drawn.bands] == [
        (join.source, join.target) for join in (*template.blocks, *template.links)
    ]
    assert drawn.boxes[1].subtitle == "batch norm → relu"
    assert drawn.bands[0].label == "conv 3×3 · 36 weights"
    assert drawn.bands[0].facts["edges"] == "4 out × 1 in = 4"


def test_boxes_lie_apart_and_inside_the_picture(template):
    drawn = picture(template, "net")
    for box in drawn.boxes:
        assert box.width / 2 <= box.x <= drawn.width - box.width / 2
        assert 0 <= box.y <= drawn.height - BOX_HEIGHT
    for i, one in enumerate(drawn.boxes):
        for other in drawn.boxes[:i]:
            beside = abs(one.x - other.x) >= (one.width + other.width) / 2
            assert beside or abs(one.y - other.y) >= BOX_HEIGHT
    for band in drawn.bands:
        assert drawn.boxes[band.source].y < drawn.boxes[band.target].y


def test_more_weights_make_a_thicker_band(template):
    thickness = {band.label: band.thickness for band in picture(template, "net").bands}
    assert thickness["conv 3×3 · 36 weights"] > thickness["conv 1×1 · 16 weights"] > thickness["add"]


def test_text_fits_into_its_box(template):
    for box in picture(template, "net").boxes:
        assert box.width > 6.5 * max(len(box.title), len(box.subtitle))


@given(data=st.data())
def test_boxes_and_bands_of_any_network_lie_apart(data):
    """Rows lead downwards, and nothing in a row overlaps: neither boxes nor what passes between them."""
    boxes = data.draw(st.integers(2, 9))
    pairs = [(i, j) for j in range(boxes) for i in range(j)]
    edges = data.draw(st.lists(st.sampled_from(pairs), unique=True))
    left, right = ([data.draw(st.floats(5, 90)) for _ in range(boxes)] for _ in range(2))
    found = place(left, right, edges)
    rows: dict[int, list[tuple[float, float]]] = {}
    for x, row, before, behind in zip(found.x, found.row, left, right, strict=True):
        rows.setdefault(row, []).append((x - before, x + behind))
    for (source, target), passing in zip(edges, found.passing, strict=True):
        assert found.row[source] < found.row[target]
        assert [row for _, row in passing] == list(range(found.row[source] + 1, found.row[target]))
        for x, row in passing:
            rows[row].append((x - PASSING, x + PASSING))
    for spans in rows.values():
        ordered = sorted(spans)
        assert all(end + GAP <= start + 1e-6 for (_, end), (start, _) in itertools.pairwise(ordered))
        assert ordered[0][0] >= -1e-6


@given(wanted=st.lists(st.floats(-50, 50), min_size=1, max_size=12))
def test_places_in_a_row_are_the_closest_in_least_squares(wanted):
    """Without distances it is isotonic regression, which scikit-learn solves."""
    found = _closest(wanted, [0.0] * (len(wanted) - 1))
    np.testing.assert_allclose(found, IsotonicRegression().fit_transform(range(len(wanted)), wanted), atol=1e-9)


def test_a_tree_is_drawn_without_crossings():
    """Children of 1 and 2 come mixed up; ordered by their parents, no two bands cross."""
    edges = [(0, 1), (0, 2), (1, 4), (2, 3), (1, 6), (2, 5)]
    x = place([20.0] * 7, [20.0] * 7, edges).x
    assert (x[1] < x[2]) == (max(x[4], x[6]) < min(x[3], x[5])) == (x[4] < x[3])


class Nested(nn.Module):
    """Two modules of several layers each, with a sum of their own."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = Branching(), Branching(), nn.Linear(4, 2)
        self.second.stem = nn.Conv2d(2, 4, 3)
        for part in (self.first, self.second):
            part.head = nn.Conv2d(4, 2, 1)
            part.forward = partial(same_size, part)  # type: ignore[method-assign]

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)).flatten(1))


def same_size(part: Branching, x: Tensor) -> Tensor:
    x = torch.relu(part.norm(part.stem(x)))
    return part.head(torch.tanh(part.left(x)) + part.right(x) + x)


def test_folding_keeps_every_space_and_connection_and_makes_no_cycles():
    nested = trace(Nested(), torch.randn(1, 1, 5, 6))
    found = folds(nested)
    assert [len(one.names) for one in found] == sorted({len(one.names) for one in found})
    for one in found:
        assert [space for members in one.spaces for space in members] == list(range(len(nested.spaces)))
        joins = [join for some in (*one.joins.values(), *one.inside.values()) for join in some]
        assert len(joins) == len(nested.blocks) + len(nested.links)
        assert all(source < target for source, target in one.joins)
    folded = picture(nested, "nested", found[0])
    assert found[0].names == ("input", "first", "second", "head")
    inside = sum(math.prod(b.shape) for b in nested.blocks if b.name.startswith("first.") and "stem" not in b.name)
    assert folded.boxes[1].facts["weights inside"] == str(inside)
    assert found[-1].depth == 0
    assert len(picture(nested, "nested").boxes) == len(nested.spaces)


def test_a_large_network_is_folded_at_first(tmp_path: Path):
    stages = [nn.Sequential(*(nn.Sequential(nn.Linear(3, 3), nn.ReLU()) for _ in range(20))) for _ in range(5)]
    deep = trace(nn.Sequential(*stages), torch.randn(1, 3))
    draw(deep, tmp_path / "deep.html", "deep")
    page = (tmp_path / "deep.html").read_text(encoding="utf-8")
    first = int(re.findall(r'data-first="(\d+)"', page)[0])
    shown = page.split(f'data-view="{first}"')[1].split("data-view=")[0]
    assert 4 <= shown.count("<rect") <= MOST_BOXES
    assert f'data-view="{first}">' in page
    assert page.count('hidden="hidden"') == len(folds(deep)) - 1


def test_the_page_stands_alone_and_is_well_formed(template, tmp_path: Path):
    path = tmp_path / "deeper" / "graph.html"
    draw(template, path, 'a <net> & "its" </script> title')
    page = path.read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:)[\w/.:]""", page)
    assert page.count("</script>") == 2
    svg = ET.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    groups = svg.findall(".//{http://www.w3.org/2000/svg}g[@data-part]")
    parts = len(template.spaces) + len(template.blocks) + len(template.links)
    assert sorted(int(group.attrib["data-part"]) for group in groups) == list(range(parts))
    views = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
    assert [len(view["parts"]) for view in views] == [parts]
    assert views[0]["parts"][1]["facts"]["step 2"] == "batch_norm (eps 1e-05)"


def test_a_png_has_the_size_of_the_picture(template, tmp_path: Path):
    draw(template, tmp_path / "graph.png", "net")
    data = (tmp_path / "graph.png").read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", data[16:24])
    drawn = picture(template, "net")
    assert (width, height) == pytest.approx((drawn.width * 1.44, drawn.height * 1.44), abs=2)


def test_another_ending_is_refused_and_nothing_written(template, tmp_path: Path):
    with pytest.raises(ValueError, match=r"graph\.pdf: a picture is written as \.html or \.png, not as \.pdf"):
        draw(template, tmp_path / "graph.pdf", "net")
    assert list(tmp_path.iterdir()) == []


def test_a_fold_that_is_not_there_is_refused_with_those_that_are(template, tmp_path: Path):
    with pytest.raises(ValueError, match="fold=3: this network can be folded to 0 components"):
        draw(template, tmp_path / "graph.html", "net", fold=3)


def test_labels_of_weights_stand_clear_of_all_bands_that_meet_at_their_box(template):
    drawn = [picture(one, "net") for one in (template, trace(nn.GRU(8, 8), torch.randn(2, 5, 8)))]
    for band, other in ((a, b) for one in drawn for a in one.bands for b in one.bands if a.target == b.target):
        if band.kind == "link":
            continue
        x, y = band.label_at
        t = np.linspace(0, 1, 500)[:, None]
        powers = [(1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3]
        way = np.hstack(powers) @ np.array(other.curve[-4:])
        here = way[np.abs(way[:, 1] - y) < 7, 0]
        assert not ((here > x) & (here < x + 6 * len(band.label))).any(), (band.label, other.label)
