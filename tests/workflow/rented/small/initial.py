"""Stand-in for initial conditions: a text that depends on the member alone."""

import sys
from pathlib import Path

if __name__ == "__main__":
    member, output = sys.argv[1:]
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    Path(output).write_text(f"initial state of member {member}\n")
