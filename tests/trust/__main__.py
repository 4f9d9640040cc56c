"""The long campaign: what the promises rest on, tried at length, and a table of what was tried and what fell.

python tests/trust             all of it, within an hour on two cores
python tests/trust fork fuzz   these entries
python tests/trust --list      what there is
"""

import argparse
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor

from campaign import ENTRIES, SINGLE
from tools import Unavailable


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="entry", help="the entries to run, by default all")
    parser.add_argument("--list", action="store_true", help="list the entries and what they try")
    options = parser.parse_args()
    if options.list:
        for name, (words, _) in ENTRIES.items():
            print(f"{name:14} {words}")
        return 0
    unknown = [name for name in options.names if name not in ENTRIES]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}, only {', '.join(ENTRIES)}")
    names = options.names or ENTRIES
    with ThreadPoolExecutor(2) as pool:
        rows = list(pool.map(run, [name for name in names if name in SINGLE]))
    rows += [run(name) for name in names if name not in SINGLE]
    print(f"\n{'entry':14} {'tried':>9} {'fell':>5} {'seconds':>8}  what")
    for name, tried, fell, seconds, note in rows:
        print(f"{name:14} {tried:>9} {len(fell):>5} {seconds:>8.0f}  {note or ENTRIES[name][0]}")
    return any(fell for _, _, fell, *_ in rows)


def run(name):
    """(name, how often, what fell, seconds, a note where it could not be tried)"""
    print(f"== {name}: {ENTRIES[name][0]}", flush=True)
    start = time.monotonic()
    try:
        tried, fell = ENTRIES[name][1]()
        note = ""
    except Unavailable as error:
        tried, fell, note = "-", [], f"not tried: {error}"
    except Exception:
        tried, fell, note = "-", [traceback.format_exc()], ""
    for what in fell:
        print(f"{name} fell: {what}\n")
    print(f"{name}: {note or f'{tried} tried, {len(fell)} fell'}", flush=True)
    return name, tried, fell, time.monotonic() - start, note


if __name__ == "__main__":
    sys.exit(main())
