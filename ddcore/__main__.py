"""``python -m ddcore``: the command line."""

from ddcore.cli.app import main

if __name__ == "__main__":
    main()
