"""`python -m app` is `makemore`."""

from app.cli import main

if __name__ == "__main__":
    main()
