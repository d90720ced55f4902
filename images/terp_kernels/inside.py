"""What runs inside of the Python kernels: an IPython extension, loaded when one starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Show figures as data too, without importing what draws them."""
    from IPython.core.formatters import BaseFormatter
    from traitlets import Unicode

    from terp_kernels.output import CHART

    class ChartFormatter(BaseFormatter):
        format_type = Unicode(CHART)

        def __call__(self, shown: Any) -> dict[str, Any] | None:
            # Not by registration: matplotlib's own set-up withdraws figures from all formatters.
            known = any(kind.__module__ == "matplotlib.figure" for kind in type(shown).__mro__)
            return _chart(shown) if known else None

    shell.display_formatter.formatters[CHART] = ChartFormatter(parent=shell.display_formatter)
    if CHART not in shell.display_formatter.active_types:
        shell.display_formatter.active_types = [*shell.display_formatter.active_types, CHART]


def _chart(figure: Any) -> dict[str, Any] | None:
    from terp_kernels.chart import extract

    try:
        return extract(figure) if hasattr(figure, "axes") else None
    except Exception:  # noqa: BLE001 - of a figure whose parts are not what they seem there is the picture
        return None


def warm_up() -> None:
    """Import what most cells import, and draw: the first figure costs seconds under emulation. Nothing is shown."""
    import contextlib
    import io

    import matplotlib.pyplot as plt
    import numpy as np
    import pandas as pd
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    frame = pd.DataFrame({"x": np.arange(3.0), "y": np.arange(3.0)})
    figure, axes = plt.subplots()
    axes.plot(frame["x"], frame["y"], label="y")
    with contextlib.redirect_stdout(io.StringIO()):
        shell.display_formatter.format(figure)
        shell.display_formatter.format(frame)
    plt.close(figure)
    np.random.default_rng().random()
