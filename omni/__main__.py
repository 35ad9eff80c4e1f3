"""`python -m omni`: the command."""

from omni.cli import main

if __name__ == "__main__":
    main()
