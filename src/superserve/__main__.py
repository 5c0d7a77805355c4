"""``python -m superserve``."""

from superserve.cli import main

if __name__ == "__main__":
    main()
