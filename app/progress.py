"""A bar on the terminal for what takes long."""

import sys

from tqdm import tqdm


def seconds_of_speech(name: str, total_s: float | None = None, *, show: bool = True) -> tqdm:
    """A bar to be updated by seconds, `total_s` in all if that is known; nothing unless standard error is a terminal.

    It goes when it is closed. Standard output may be the same terminal: write to that by `tqdm.write`.
    """
    known = "{desc}: {percentage:3.0f}%|{bar}| {n:.0f} of {total:.0f} s of speech [{elapsed}<{remaining}]"
    return tqdm(
        desc=name,
        total=total_s,
        bar_format=known if total_s else "{desc}: {n:.1f} s of speech [{elapsed}]",
        mininterval=0.0,  # each update is shown: they are few
        miniters=0,
        leave=False,
        disable=not (show and sys.stderr.isatty()),
    )
