"""``python -m ddcore``: the command line."""

from ddcore.cli import main

if __name__ == "__main__":
    main()
