"""Follows docs/deployment.md word for word on a clean Debian 13, in a chroot, once for each application of the page.

    python .ci/follow_deployment.py dist/rmeinheld-*-cp313-*.whl
    python .ci/follow_deployment.py                                 only make the clean machine

Needs root, and debootstrap the first time (a minute, and 300 MB in .build/trixie). The wheel is for Python 3.13, as
`make wheel PYTHON=python3.13` builds it. `.ci/systemctl.py` stands for a running systemd. Each application starts from
the same machine with the packages installed; overlays keep the changes apart.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHROOT = ROOT / ".build" / "trixie"
MIRROR = os.environ.get("DEBIAN_MIRROR", "http://deb.debian.org/debian")

STEP = re.compile(
    r"Save this as `(?P<path>[^`]+)`:\n\n```python\n(?P<code>.*?)^```|^```console\n(?P<console>.*?)^```", re.M | re.S
)

CHECKS = {
    "Flask": "curl --fail http://127.0.0.1/ | grep 'Hello from Flask!'",
    "Django": "curl --fail http://127.0.0.1/admin/login/ | grep csrfmiddlewaretoken\n"
    "curl --fail http://127.0.0.1/static/admin/css/base.css | grep -m 1 DJANGO",
    "The chat example": "curl --fail http://127.0.0.1/ | grep 'new WebSocket'",
}
"""Commands that fail unless the application is served, by the words with which the page begins its steps."""

NO_ERRORS = "if grep ERROR /var/log/site.log; then exit 1; fi"

ENTER = """
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$PLACE/upper,workdir=$PLACE/work" "$PLACE/root"
mkdir -p "$PLACE/root/root/rmeinheld"
mount --bind "$CHECKOUT" "$PLACE/root/root/rmeinheld"
mount -t proc proc "$PLACE/root/proc"
mount --bind /dev "$PLACE/root/dev"
mount -t tmpfs tmpfs "$PLACE/root/run"
exec chroot "$PLACE/root" env -i HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
    PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin sh -exc "$1"
"""


def steps(text: str) -> str:
    """The commands of a part of the page as a script, with the files that it has saved."""
    lines = ["cd /root/rmeinheld"]
    for found in STEP.finditer(text):
        if found["path"]:
            lines.append(f"cat > {found['path']} <<'EOF'\n{found['code']}EOF")
        else:
            lines += [line[2:] for line in found["console"].splitlines() if line.startswith("$ ")]
    return "\n".join(lines)


def bootstrap() -> None:
    """Make the clean machine, with this machine's way to the network. A second process waits for the first one."""
    CHROOT.parent.mkdir(exist_ok=True)
    lock = os.open(CHROOT.parent, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    if not (CHROOT / "bootstrapped").exists():
        shutil.rmtree(CHROOT, ignore_errors=True)
        packages = "--include=ca-certificates,procps"
        subprocess.run(["debootstrap", "--variant=minbase", packages, "trixie", str(CHROOT), MIRROR], check=True)
        (CHROOT / "bootstrapped").touch()
    for name in ("/etc/resolv.conf", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt"):
        if Path(name).is_file():
            shutil.copy(name, f"{CHROOT}{name}")
    # Packages do not start their services.
    (CHROOT / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (CHROOT / "usr/sbin/policy-rc.d").chmod(0o755)
    shutil.copy(ROOT / ".ci" / "systemctl.py", CHROOT / "usr/local/bin/systemctl")
    (CHROOT / "usr/local/bin/systemctl").chmod(0o755)
    (CHROOT / "etc/systemd/system").mkdir(parents=True, exist_ok=True)
    os.close(lock)


def run(script: str, place: Path, lower: list[Path], checkout: Path) -> None:
    """Run `script` in the chroot. `place/upper` holds its changes. Its processes end with it."""
    for name in ("upper", "work", "root"):
        (place / name).mkdir(parents=True)
    variables = {"LOWER": ":".join(map(str, lower)), "PLACE": str(place), "CHECKOUT": str(checkout)}
    command = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private"]
    subprocess.run([*command, "sh", "-euc", ENTER, "sh", script], env={**os.environ, **variables}, check=True)


def main() -> None:
    """Follow the page. Ends with an error at the first command that fails."""
    if len(sys.argv) > 2 or os.geteuid() != 0:
        sys.exit(str(__doc__))
    bootstrap()
    if len(sys.argv) < 2:
        return
    page = (ROOT / "docs" / "deployment.md").read_text(encoding="utf-8")
    section = page[page.index("\n## A machine with systemd\n") : page.index("\n## Without systemd\n")]
    first, rest = section.split("\n### The application\n")
    applications, last = rest.split("\n### The units\n")
    with tempfile.TemporaryDirectory(dir=ROOT / ".build") as directory:
        checkout = Path(directory) / "checkout"
        shutil.copytree(ROOT / "examples", checkout / "examples")
        (checkout / "dist").mkdir()
        shutil.copy(sys.argv[1], checkout / "dist")
        machine = Path(directory) / "machine"
        run(steps(first), machine, [CHROOT], checkout)
        for name, check in CHECKS.items():
            part = applications[applications.index(f"\n**{name}.**") :]
            part = re.split(r"\n\*\*", part[1:].removeprefix("**"))[0]
            script = f"{steps(part)}\n{steps(last)}\n{check}\nsystemctl stop site\ncat /var/log/site.log\n{NO_ERRORS}"
            run(script, Path(directory) / name.replace(" ", "-"), [machine / "upper", CHROOT], checkout)
            print(f"== {name} is deployed", flush=True)


if __name__ == "__main__":
    main()
