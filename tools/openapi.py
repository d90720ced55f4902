"""Write openapi/terp-v1.json from the routes, or with --check fail if it is not what they say."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from terpd.api.app import describe_app

TARGET = Path(__file__).parent.parent / "openapi" / "terp-v1.json"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the file is out of date")
    text = json.dumps(describe_app().openapi(), indent=2, ensure_ascii=False) + "\n"
    if not parser.parse_args().check:
        TARGET.parent.mkdir(exist_ok=True)
        TARGET.write_text(text, encoding="utf-8")
        return 0
    if TARGET.exists() and TARGET.read_text(encoding="utf-8") == text:
        return 0
    print(f"{TARGET} is not what the routes say; review and commit the change that this makes: python tools/openapi.py")
    return 1


if __name__ == "__main__":
    sys.exit(main())
