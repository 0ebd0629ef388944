"""Write the JSON files of tests/fixtures/data that other programs would write: Python's `json`, and `jq`.

    python3 python/make_data.py [OUT]

Nothing but Python and `jq` is needed.
"""

import json
import subprocess
import sys
from pathlib import Path

EXAMPLES = [
    {"question": "What is 2+3?", "steps": ["<<2+3=5>>"], "answer": "5"},
    {"question": "What is 2*3-1?", "steps": ["<<2*3=6>>", "<<6-1=5>>"], "answer": "5"},
]
# Integers beyond 64 bits, and floats as pandas writes them; Python has no negative zero among its integers.
NUMBERS = [2**64, 123456789012345678901234567890, -(2**63) - 1, "MINUS ZERO", 1.0, 0.1, 1e22]


def main(out: Path) -> None:
    compact = json.dumps(EXAMPLES)
    (out / "pretty_list.json").write_text(json.dumps(EXAMPLES, indent=2))
    (out / "pretty_object.json").write_text(json.dumps(EXAMPLES[0], indent=2))
    (out / "pretty_wrapped.json").write_text(json.dumps({"version": "1.0", "data": EXAMPLES}, indent=4))
    (out / "pretty_jq.jsonl").write_text(subprocess.run(["jq", ".[]"], input=compact, capture_output=True,
                                                        check=True, text=True).stdout)
    numbers = [{"question": f"number {n}", "steps": [], "answer": number} for n, number in enumerate(NUMBERS)]
    (out / "numbers.json").write_text(json.dumps(numbers, indent=1).replace('"MINUS ZERO"', "-0"))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else Path(__file__).parent.parent / "tests/fixtures/data"))
