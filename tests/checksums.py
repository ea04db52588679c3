"""Write the checksums of the files that are installed into the user-data of systemd/README.md."""

import hashlib
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "systemd" / "README.md"
FILES = ("ecr_swarm_login.py", "systemd/ecr-swarm-login.service", "systemd/ecr-swarm-login.timer")


def main() -> None:
    """Replace the line of each file."""
    text = PAGE.read_text()
    for path in map(Path, FILES):
        checksum = hashlib.sha256((ROOT / path).read_bytes()).hexdigest()
        text = re.sub(f"(?m)^[0-9a-f]{{64}}  {path.name}$", f"{checksum}  {path.name}", text)
    PAGE.write_text(text)


if __name__ == "__main__":
    main()
