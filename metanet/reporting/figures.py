"""The report's figures as plain plotly specifications, {"data": [...], "layout": {...}}, which plotly.js draws."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

Figure = dict[str, Any]

INK, MUTED, GRID = "#1f2933", "#6b7785", "#e4e8ed"
# Okabe and Ito's colours (https://jfly.uni-koeln.de/color/), told apart under every common colour blindness; yellow,
# too pale on white, is left out. Controls are greys, so that the eye goes to the models.
MODEL_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
CONTROL_COLOURS = ("#4d5762", "#86919c", "#b3bcc5")
SCALE = ((0.0, "#ffffff"), (0.25, "#d3e4f1"), (0.5, "#89bbdb"), (0.75, "#3a87bd"), (1.0, "#08467e"))
MOST_NUMBERS = 8  # a confusion matrix with more classes shows its numbers on hover only
MOST_POINTS = 600  # of a scatter plot: the file stays small and drawing stays quick
LINE = 26  # pixels that a row of the interval plot takes


def colours(models: Sequence[str], controls: Sequence[str]) -> dict[str, str]:
    """The colour of every model and control, by their order; colours repeat after six models or three controls."""
    return {
        name: palette[place % len(palette)]
        for names, palette in ((models, MODEL_COLOURS), (controls, CONTROL_COLOURS))
        for place, name in enumerate(names)
    }


def _layout(height: int, x: Mapping[str, Any], y: Mapping[str, Any]) -> dict[str, Any]:
    axis = {"gridcolor": GRID, "linecolor": GRID, "zeroline": False, "automargin": True, "fixedrange": True}
    return {
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 6, "b": 8},
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 12, "color": INK},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "showlegend": False,
        "hoverlabel": {"bgcolor": "#ffffff", "bordercolor": GRID, "font": {"color": INK}},
        "xaxis": {**axis, **x},
        "yaxis": {**axis, **y},
    }


def _title(text: str) -> dict[str, Any]:
    return {"text": text, "font": {"size": 11, "color": MUTED}, "standoff": 6}


Row = tuple[str, float, float, float, Sequence[float]]  # name, value, low, high, value of every seed


def intervals(rows: Sequence[Row], palette: Mapping[str, str]) -> Figure:
    """Scores: a dot on its interval, and a small tick for every seed."""
    least = min((low for _, _, low, _, _ in rows if math.isfinite(low)), default=0.0)
    return _dots(rows, palette, {"range": [max(min(0.0, least) - 0.02, -1.0), 1.02], "nticks": 6})


def differences(rows: Sequence[Row], palette: Mapping[str, str]) -> Figure:
    """Differences of scores, with a line at 0."""
    return _dots(
        rows, palette, {"zeroline": True, "zerolinecolor": MUTED, "zerolinewidth": 1, "nticks": 5, "tickangle": 0}
    )


def _dots(rows: Sequence[Row], palette: Mapping[str, str], x: Mapping[str, Any]) -> Figure:
    data: list[dict[str, Any]] = []
    for name, value, low, high, seeds in rows:
        data.append(
            {
                "type": "scatter",
                "mode": "markers",
                "x": [value],
                "y": [name],
                "marker": {"color": palette[name], "size": 9},
                "error_x": {
                    "type": "data",
                    "symmetric": False,
                    "array": [high - value],
                    "arrayminus": [value - low],
                    "color": palette[name],
                    "thickness": 2,
                    "width": 0,
                },
                "hovertemplate": f"{name}: %{{x:.3f}} [{low:.3f}, {high:.3f}]<extra></extra>",
            }
        )
        if len(seeds) > 1:
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "x": list(seeds),
                    "y": [name] * len(seeds),
                    "marker": {"color": palette[name], "symbol": "line-ns-open", "size": 9, "opacity": 0.55},
                    "hovertemplate": "one seed: %{x:.3f}<extra></extra>",
                }
            )
    names = [row[0] for row in reversed(rows)]
    y = {
        "type": "category",
        "categoryorder": "array",
        "categoryarray": names,
        "showgrid": False,
        "ticklabelstandoff": 4,
    }
    return {"data": data, "layout": _layout(34 + LINE * len(rows), x, y)}


def confusion(counts: Int[np.ndarray, "classes classes"], classes: Sequence[str]) -> Figure:
    """Rows are true classes and sum to 1; the counts and shares stand in the hover text."""
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    cells: dict[str, Any] = {
        "type": "heatmap",
        "x": list(classes),
        "y": list(classes),
        "z": shares.round(4).tolist(),
        "customdata": counts.tolist(),
        "zmin": 0,
        "zmax": 1,
        "colorscale": SCALE,
        "showscale": False,
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "true %{y}, predicted %{x}<br>%{z:.0%} of the class, %{customdata} nets<extra></extra>",
    }
    if len(classes) <= MOST_NUMBERS:
        cells |= {"text": [[f"{100 * s:.0f}" for s in row] for row in shares], "texttemplate": "%{text}"}
    x = {"type": "category", "title": _title("predicted, % of each true class"), "showgrid": False}
    y = {"type": "category", "autorange": "reversed", "title": _title("true"), "showgrid": False}
    return {"data": [cells], "layout": _layout(300, x, y)}


def scatter(true: Float[np.ndarray, " nets"], predicted: Float[np.ndarray, " nets"], log: bool, colour: str) -> Figure:
    """Predicted against true values, at most MOST_POINTS evenly spaced ones, with the line of perfect prediction."""
    seen = np.isfinite(true) & np.isfinite(predicted)
    if log:
        seen &= (true > 0) & (predicted > 0)
    true, predicted = true[seen], predicted[seen]
    ends = [float(true.min()), float(true.max())] if len(true) else [0.0, 1.0]
    kept = np.unique(np.linspace(0, max(len(true) - 1, 0), min(len(true), MOST_POINTS)).astype(int))
    points = {
        "type": "scatter",
        "mode": "markers",
        "x": [float(f"{value:.4g}") for value in true[kept]],
        "y": [float(f"{value:.4g}") for value in predicted[kept]],
        "marker": {"color": colour, "size": 5, "opacity": 0.45},
        "hovertemplate": "true %{x:.3g}<br>predicted %{y:.3g}<extra></extra>",
    }
    line = {
        "type": "scatter",
        "mode": "lines",
        "x": ends,
        "y": ends,
        "line": {"color": MUTED, "width": 1, "dash": "dot"},
        "hoverinfo": "skip",
    }
    kind = {"type": "log", "dtick": 1, "exponentformat": "power"} if log else {"type": "linear", "nticks": 6}
    return {
        "data": [line, points],
        "layout": _layout(300, {**kind, "title": _title("true")}, {**kind, "title": _title("predicted")}),
    }


def curves(
    logs: Mapping[int, Sequence[tuple[int, float | None, float | None]]], colour: str, ends: tuple[float, float]
) -> Figure:
    """Train (grey, dotted) and validation (coloured) loss; `logs` maps a seed to (epoch, train, valid) rows.

    `ends` is the range of the loss over all models, so that panels beside each other can be compared.
    """
    data: list[dict[str, Any]] = []
    for seed, rows in sorted(logs.items()):
        for place, name, style in ((1, "train", {"color": MUTED, "dash": "dot"}), (2, "valid", {"color": colour})):
            points = [(row[0], row[place]) for row in rows if row[place] is not None]
            if not points:
                continue
            data.append(
                {
                    "type": "scatter",
                    "mode": "lines" if len(points) > 1 else "markers",
                    "x": [epoch for epoch, _ in points],
                    "y": [float(f"{value:.5g}") for _, value in points if value is not None],
                    "line": {"width": 1.6, **style},
                    "marker": {"color": style["color"], "size": 5},
                    "hovertemplate": f"{name}, seed {seed}, epoch %{{x}}: %{{y:.4g}}<extra></extra>",
                }
            )
    last = max((row[0] for rows in logs.values() for row in rows), default=1)
    margin = 0.04 * (ends[1] - ends[0] or 1.0)
    y = {"range": [ends[0] - margin, ends[1] + margin], "title": _title("loss"), "nticks": 6}
    return {"data": data, "layout": _layout(230, {"title": _title("epoch"), "dtick": max(1, round(last / 6))}, y)}


def along(
    places: Sequence[float], values: Mapping[str, Sequence[float]], label: str, palette: Mapping[str, str]
) -> Figure:
    """A curve per name over `places`, with a legend below; `label` says what the places are."""
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": list(places),
            "y": [float(f"{value:.5g}") for value in its_values],
            "line": {"color": palette[name], "width": 1.8},
            "hovertemplate": f"{name}, %{{x:.2f}}: %{{y:.4f}}<extra></extra>",
        }
        for name, its_values in values.items()
    ]
    layout = _layout(300, {"title": _title(label)}, {"nticks": 6})
    return {"data": data, "layout": layout | {"showlegend": True, "legend": {"orientation": "h", "y": -0.25}}}
