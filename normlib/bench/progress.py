"""A progress bar of one line on the standard error stream."""

import shutil
import sys
import time

__all__ = ["Progress"]


class Progress:
    """Show how far a loop is, and how long it will still take; silent where no one looks on."""

    def __init__(self, total: int, stream=None):
        self.total = total
        self.stream = sys.stderr if stream is None else stream
        self.shown = self.stream.isatty()
        self.start = time.monotonic()

    def show(self, done: int, label: str = "") -> None:
        """Draw the bar with ``done`` of all steps behind it and a label for the one under way."""
        if not self.shown:
            return
        width = 24
        filled = width * done // max(self.total, 1)
        left = (time.monotonic() - self.start) / done * (self.total - done) if done else 0
        line = f"[{'#' * filled}{'.' * (width - filled)}] {done}/{self.total}"
        line += f" {left // 60:.0f}:{left % 60:02.0f} left  {label}" if done else f"  {label}"
        columns = shutil.get_terminal_size().columns - 1
        self.stream.write("\r" + line[:columns].ljust(columns))
        self.stream.flush()

    def close(self) -> None:
        """Wipe the bar."""
        if self.shown:
            self.stream.write("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r")
            self.stream.flush()
