"""imap-sync as a script for List.txt: the same as `imap-sync run`."""

import os
import sys

# Python put this file's folder first on the path; the package `workers` is found from the folder above it,
# so that the script runs from a plain checkout too.
sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

from workers.imap.cli import main  # noqa: E402

if __name__ == "__main__":
    sys.exit(main(["imap-sync", "run", *sys.argv[1:]]))
