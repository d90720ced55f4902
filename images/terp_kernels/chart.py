"""
What a matplotlib figure shows, as data. It is made when the figure is displayed, beside its picture.

    {"type": "line", "title": "…" | null,
     "x": {"label": "…" | null, "scale": "linear", "limits": [0, 10], "ticks": [0, 5, 10], "tick_labels": ["0", …]},
     "y": {…},
     "series": [{"label": "…" | null, "points": [[x, y], …]}]}

| `type` | a series is |
|---|---|
| `line`, `scatter` | `label`, `points`: `[x, y]` each |
| `bar` | `label`, `horizontal`, `bars`: `{"label", "at", "width", "value", "base"}` each; a histogram is bars too |
| `pie` | `slices`: `{"label", "value"}` each, the value a share of 1; neither `x` nor `y` |
| `box` | `boxes`: `{"label", "min", "q1", "median", "q3", "max", "outliers"}` each |
| `mixed` | one of the above with its own `type` |

A figure with several axes is `{"type": "figure", "title", "charts": […]}`. Numbers are numbers; dates are ISO 8601;
categories are their names; what has no value is null. At most 5,000 points are in a series, evenly taken from all,
then it has `"points_total"`. Axes without anything of the above (images, surfaces) are left out.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

MAX_POINTS = 5000  # of one series
MAX_SERIES = 50
MAX_CHARTS = 16
MAX_TICKS = 100
MAX_TEXT = 500

Data = dict[str, Any]


def extract(figure: Figure) -> Data | None:
    """Return the chart; None if the figure shows nothing of the known kinds."""
    charts = [chart for axes in figure.axes[:MAX_CHARTS] if (chart := _of_axes(axes)) is not None]
    if not charts:
        return None
    title = _text(figure.get_suptitle())
    if len(charts) == 1:
        return {**charts[0], "title": charts[0]["title"] or title}
    return {"type": "figure", "title": title, "charts": charts}


def _of_axes(axes: Axes) -> Data | None:
    from matplotlib.patches import Wedge

    title = _text(axes.get_title())
    wedges = [patch for patch in axes.patches if isinstance(patch, Wedge)]
    if wedges:
        labels = [text.get_text() for text in axes.texts]
        per_slice = max(1, len(labels) // len(wedges))  # shares, where written, follow each label
        slices = [
            {
                "label": _text(wedge.get_label()) if _named(wedge) else _text("".join(labels[i * per_slice :][:1])),
                "value": _number((wedge.theta2 - wedge.theta1) / 360),
            }
            for i, wedge in enumerate(wedges[:MAX_POINTS])
        ]
        return {"type": "pie", "title": title, "series": [{"slices": slices}]}
    series = (_boxes(axes) or [*_bars(axes), *_lines(axes)]) + _scatters(axes)
    if not series:
        return None
    kinds = {one["type"] for one in series}
    kind = kinds.pop() if len(kinds) == 1 else "mixed"
    if kind != "mixed":
        series = [{name: value for name, value in one.items() if name != "type"} for one in series]
    return {
        "type": kind,
        "title": title,
        "x": _axis(axes.xaxis, axes.get_xlim()),
        "y": _axis(axes.yaxis, axes.get_ylim()),
        "series": series[:MAX_SERIES],
    }


def _lines(axes: Axes) -> list[Data]:
    series = []
    for line in axes.lines:
        points = list(zip(line.get_xdata(orig=True), line.get_ydata(orig=True), strict=False))
        drawn = line.get_linestyle() not in ("None", "none", "", " ")
        if points and line.get_transform() == axes.transData:  # not axhline and its like, which span the axes
            series.append({"type": "line" if drawn else "scatter", "label": _label(line), **_points(points)})
    return series


def _scatters(axes: Axes) -> list[Data]:
    from matplotlib.collections import PathCollection

    found = []
    for one in axes.collections:
        if isinstance(one, PathCollection):
            points = [(_unit(axes.xaxis, x), _unit(axes.yaxis, y)) for x, y in one.get_offsets().tolist()]
            found.append({"type": "scatter", "label": _label(one), **_points(points)})
    return found


def _bars(axes: Axes) -> list[Data]:
    from matplotlib.container import BarContainer

    found = []
    for container in axes.containers:
        if not isinstance(container, BarContainer) or not container.patches:
            continue
        horizontal = container.orientation == "horizontal"
        axis = axes.yaxis if horizontal else axes.xaxis
        names = _names(axis)
        bars = []
        for patch in container.patches[:MAX_POINTS]:
            at, width, value, base = (
                (patch.get_y(), patch.get_height(), patch.get_width(), patch.get_x())
                if horizontal
                else (patch.get_x(), patch.get_width(), patch.get_height(), patch.get_y())
            )
            middle = at + width / 2
            name = next((text for place, text in names.items() if math.isclose(place, middle, abs_tol=1e-9)), "")
            numbers = {"at": middle, "width": width, "value": value, "base": base}
            bars.append({"label": _text(name), **{key: _number(number) for key, number in numbers.items()}})
        found.append({"type": "bar", "label": _label(container), "horizontal": horizontal, "bars": bars})
    return found


def _boxes(axes: Axes) -> list[Data]:
    """
    Box plots, told by how `boxplot` draws one: box, two whiskers, two caps, median and outliers, as lines or with the
    box as a patch. Newer versions of matplotlib keep them together, older ones do not.
    """
    from matplotlib.patches import PathPatch

    lines = [line for line in axes.lines if len(line.get_xdata()) or not line.get_label().startswith("_child")]
    patches = [patch for patch in axes.patches if isinstance(patch, PathPatch)]
    groups: list[tuple[list[float], list[Any]]] = []
    if patches and len(lines) == 6 * len(patches):
        groups = [
            ([float(y) for _, y in patch.get_path().vertices], lines[6 * i : 6 * i + 6])
            for i, patch in enumerate(patches)
        ]
    elif lines and len(lines) % 7 == 0 and all(len(line.get_xdata()) == 5 for line in lines[::7]):
        groups = [([float(y) for y in lines[i].get_ydata()], lines[i + 1 : i + 7]) for i in range(0, len(lines), 7)]
    if not groups or any(len(line.get_xdata()) != 2 for _, rest in groups for line in rest[:5]):
        return []
    names = list(_names(axes.xaxis).values())
    boxes = []
    for i, (box, (low, high, _, _, median, outliers)) in enumerate(groups[:MAX_POINTS]):
        boxes.append(
            {
                "label": _text(names[i]) if len(names) == len(groups) else None,
                "min": _number(min(low.get_ydata())),
                "q1": _number(min(box)),
                "median": _number(median.get_ydata()[0]),
                "q3": _number(max(box)),
                "max": _number(max(high.get_ydata())),
                "outliers": [_number(y) for y in outliers.get_ydata()[:MAX_POINTS]],
            }
        )
    return [{"type": "box", "label": None, "boxes": boxes}]


def _names(axis: Axis) -> dict[float, str]:
    """Of the places on an axis that has names and no numbers."""
    from matplotlib.category import StrCategoryFormatter
    from matplotlib.ticker import FixedFormatter

    if not isinstance(axis.get_major_formatter(), StrCategoryFormatter | FixedFormatter):
        return {}
    labels = (tick.get_text() for tick in axis.get_ticklabels())
    return dict(zip(map(float, axis.get_ticklocs()), labels, strict=False))


def _axis(axis: Axis, limits: tuple[float, float]) -> Data:
    low, high = sorted(limits)
    shown = [
        (_number(place), _text(label.get_text()) or "")
        for place, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=False)
        if low <= place <= high
    ][:MAX_TICKS]
    return {
        "label": _text(axis.get_label_text()),
        "scale": axis.get_scale(),
        "limits": [_number(limit) for limit in limits],
        "ticks": [place for place, _ in shown],
        "tick_labels": [label for _, label in shown],
    }


def _points(points: list[tuple[Any, Any]]) -> Data:
    step = math.ceil(len(points) / MAX_POINTS)
    taken = [[_value(x), _value(y)] for x, y in points[::step]]
    return {"points": taken, **({"points_total": len(points)} if step > 1 else {})}


def _unit(axis: Axis, value: float) -> Any:
    """A place on an axis of dates, as a date."""
    from matplotlib.dates import num2date

    converter = axis.get_converter() if hasattr(axis, "get_converter") else axis.converter
    return num2date(value) if type(converter).__module__ == "matplotlib.dates" else value


def _value(value: Any) -> float | str | None:
    if isinstance(value, str):
        return _text(value)
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    if type(value).__module__ == "numpy" and value.dtype.kind == "M":
        return str(value)
    return _number(value)


def _number(value: Any) -> float | None:
    """Rounded to what a double and a reader can tell apart; null for what is no finite number."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return float(f"{number:.12g}") if math.isfinite(number) else None


def _named(artist: Any) -> bool:
    return bool(artist.get_label()) and not str(artist.get_label()).startswith("_")


def _label(artist: Any) -> str | None:
    return _text(str(artist.get_label())) if _named(artist) else None


def _text(text: str) -> str | None:
    return text[:MAX_TEXT] or None
