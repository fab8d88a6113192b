"""Entry point: `python launch.py` shows the ways in. No heavy import here; worker processes import this file again."""

import sys

if __name__ == "__main__":
    from app.cli import main

    sys.exit(main(sys.argv[1:]))
