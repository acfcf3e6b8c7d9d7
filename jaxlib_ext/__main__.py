"""`python -m jaxlib_ext` prints the map of every method; `--write` writes it to MAP.md in the checkout."""

import argparse
import sys

from . import catalog


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m jaxlib_ext", description="The map of every method.")
    parser.add_argument("--write", action="store_true", help="write MAP.md instead of printing")
    options = parser.parse_args()
    try:
        text = catalog.text()
        if not options.write:
            print(text, end="")
        elif not (catalog.ROOT / "pyproject.toml").is_file():
            raise ValueError(f"{catalog.ROOT} is no checkout: MAP.md is written where pyproject.toml is")
        else:
            (catalog.ROOT / "MAP.md").write_text(text, encoding="utf-8")
    except (ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
