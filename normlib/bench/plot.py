"""A picture in the manner of a roofline: bytes of a pass against the share of the limit that was reached."""

from normlib.bench.report import peer_names
from normlib.bench.runner import Result

__all__ = ["formats", "save"]


def formats() -> list[str]:
    """The endings of the files that can be drawn."""
    from matplotlib.backend_bases import FigureCanvasBase

    return sorted(FigureCanvasBase.get_supported_filetypes())


def save(results: list[Result], path: str, title: str = "") -> None:
    """Draw all cases, ours and the peers', one panel for forward and one for backward passes, if there are such.

    Needs matplotlib; the form of the file follows from the name of ``path``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    passes = sorted({result.case.backward for result in results})
    figure = Figure(figsize=(1 + 5 * len(passes), 5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(passes), sharey=True, squeeze=False)[0]
    marks = {}
    for panel, backward in zip(panels, passes, strict=True):
        chosen = [result for result in results if result.case.backward == backward]
        for index, name in enumerate(peer_names(results)):
            met = [result for result in chosen if name in result.peers]
            shares = [1 / (result.over_limit * result.peers[name]) for result in met]
            marks[name] = panel.scatter(
                [result.case.bytes for result in met], shares, s=14, alpha=0.5, linewidths=0, color=f"C{index}"
            )
        marks["normlib"] = panel.scatter(
            [result.case.bytes for result in chosen],
            [1 / result.over_limit for result in chosen],
            s=24,
            color="black",
            marker="D",
            zorder=3,
        )
        panel.axhline(1, color="gray", linewidth=1)
        panel.set(
            xscale="log", yscale="log", xlabel="least bytes of the pass", title="backward" if backward else "forward"
        )
        panel.grid(True, which="major", alpha=0.3)
    panels[0].set_ylabel("share of the limit (a copy of as many bytes)")
    figure.legend(marks.values(), marks.keys(), loc="outside right upper")
    figure.suptitle(title)
    figure.savefig(path, dpi=130)
