"""The picture of a template: every part is in it, nothing overlaps, and the page stands alone."""

import json
import re
import struct
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from metanet.arch.draw import BOX_HEIGHT, draw, picture
from metanet.arch.template import Template
from metanet.arch.trace import trace


class Branching(nn.Module):
    """Two convolutions side by side, added, and a shortcut around both."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1)
        self.norm, self.head = nn.BatchNorm2d(4), nn.Linear(16, 2)

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


def test_the_page_stands_alone_and_is_well_formed(template, tmp_path: Path):
    path = tmp_path / "deeper" / "graph.html"
    draw(template, path, 'a <net> & "its" </script> title')
    page = path.read_text(encoding="utf-8")
    assert not re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?(?!data:)[\w/.:]""", page)
    assert page.count("</script>") == 2
    svg = ET.fromstring(page[page.index("<svg") : page.index("</svg>") + 6])
    groups = svg.findall("{http://www.w3.org/2000/svg}g")
    parts = len(template.spaces) + len(template.blocks) + len(template.links)
    assert sorted(int(group.attrib["data-part"]) for group in groups) == list(range(parts))
    facts = json.loads(page.split('type="application/json">')[1].split("</script>")[0])
    assert len(facts) == parts
    assert facts[1]["facts"]["step 2"] == "batch_norm (eps 1e-05)"


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
