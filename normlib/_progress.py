"""Progress on the standard error stream of whoever looks on: a bar of tqdm, if that is installed."""

import sys
from typing import Any

try:
    from tqdm import tqdm
except ImportError:
    tqdm = None

_FORM = "{n_fmt}/{total_fmt} |{bar:24}| {remaining} left  {desc}"


class Progress:
    """Shows how far a loop of `total` steps is; silent without tqdm, and where there is no terminal."""

    def __init__(self, total: int = 0) -> None:
        self.total = total
        self.bar: Any = None

    def show(self, done: int, label: str = "", total: int = 0) -> None:
        """So many steps are behind, and the one of this name is under way; `total` where it was not known before."""
        if tqdm is None:
            return
        if self.bar is None:
            options = {"file": sys.stderr, "disable": None, "leave": False, "dynamic_ncols": True}
            self.bar = tqdm(total=total or self.total, bar_format=_FORM, **options)
        self.bar.set_description_str(label, refresh=False)
        self.bar.update(done - self.bar.n)
        self.bar.refresh()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
