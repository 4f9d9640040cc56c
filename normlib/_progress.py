"""Progress on the standard error stream of whoever looks on: a bar of tqdm, if that is installed."""

import sys
from typing import Any

_FORM = "{n_fmt}/{total_fmt} |{bar:24}| {remaining} left  {desc}"


class Progress:
    """Shows how far a loop of `total` steps is; silent without tqdm, and where there is no terminal."""

    def __init__(self, total: int) -> None:
        self.bar: Any = None
        try:
            from tqdm import tqdm
        except ImportError:
            return
        self.bar = tqdm(total=total, file=sys.stderr, disable=None, leave=False, dynamic_ncols=True, bar_format=_FORM)

    def show(self, done: int, label: str = "") -> None:
        """So many steps are behind, and the one of this name is under way."""
        if self.bar is not None:
            self.bar.set_description_str(label, refresh=False)
            self.bar.update(done - self.bar.n)
            self.bar.refresh()

    def close(self) -> None:
        """Wipe the bar."""
        if self.bar is not None:
            self.bar.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
