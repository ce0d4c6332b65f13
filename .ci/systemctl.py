#!/usr/bin/python3
"""The commands of systemctl that docs/deployment.md has, for a machine on which systemd does not run.

`enable --now SOCKET SERVICE` opens the socket and starts the service as its units say, and waits for READY. `reload`
runs ExecReload, and waits for RELOADING and READY. Sandboxing is left out.
"""

import configparser
import grp
import os
import pwd
import shlex
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

NOTES = Path("/run/notes")
PID = Path("/run/site.pid")
LIMIT = 60.0


def unit(name: str, section: str) -> configparser.SectionProxy:
    """A section of a unit."""
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    if not parser.read(f"/etc/systemd/system/{name}"):
        sys.exit(f"there is no unit {name}")
    return parser[section]


def wait_for(number: int) -> None:
    """Wait until the service has reported READY this number of times."""
    deadline = time.monotonic() + LIMIT
    while NOTES.read_text().count("READY=1") < number:
        if time.monotonic() > deadline:
            sys.exit(f"the service is not ready:\n{Path('/var/log/site.log').read_text()}")
        time.sleep(0.05)


def enable(socket_unit: str, service_unit: str) -> None:
    """Start a service with its socket."""
    place, service = unit(socket_unit, "Socket"), unit(service_unit, "Service")
    listener = socket.socket(socket.AF_UNIX)
    path = place["ListenStream"]
    listener.bind(path)
    listener.listen(int(place["Backlog"]))
    os.chown(path, pwd.getpwnam(place["SocketUser"]).pw_uid, grp.getgrnam(place["SocketGroup"]).gr_gid)
    os.chmod(path, int(place["SocketMode"], 8))
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind("/run/notify")
    os.chmod("/run/notify", 0o666)
    NOTES.touch()
    if os.fork() == 0:
        os.setsid()
        while True:
            with NOTES.open("a") as file:
                file.write(notify.recv(4096).decode().replace("\n", " ") + "\n")
    user = pwd.getpwnam(service["User"])
    for parent, key in (("/run", "RuntimeDirectory"), ("/var/lib", "StateDirectory")):
        os.makedirs(f"{parent}/{service[key]}", exist_ok=True)
        os.chown(f"{parent}/{service[key]}", user.pw_uid, user.pw_gid)
    child = os.fork()
    if child == 0:
        start(service, user, listener)
    PID.write_text(str(child))
    wait_for(1)


def start(service: configparser.SectionProxy, user: pwd.struct_passwd, listener: socket.socket) -> None:
    """Become the service."""
    os.setsid()
    log = os.open("/var/log/site.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.dup2(listener.fileno(), 3)
    os.set_inheritable(3, True)
    os.umask(int(service["UMask"], 8))
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.chdir(service["WorkingDirectory"])
    environment = {"PATH": "/usr/bin:/bin", "HOME": user.pw_dir, "USER": user.pw_name, "LANG": "C.UTF-8"}
    environment |= {"NOTIFY_SOCKET": "/run/notify", "LISTEN_FDS": "1", "LISTEN_PID": str(os.getpid())}
    environment["WATCHDOG_USEC"] = str(int(service["WatchdogSec"]) * 1_000_000)
    command = shlex.split(service["ExecStart"])
    os.execve(command[0], command, environment)


def main() -> None:
    """Do one command."""
    match sys.argv[1:]:
        case ["daemon-reload"]:
            pass
        case ["enable", "--now", socket_unit, service_unit]:
            enable(socket_unit, service_unit)
        case ["reload", name]:
            before = NOTES.read_text().count("READY=1")
            command = unit(f"{name}.service", "Service")["ExecReload"].replace("$MAINPID", PID.read_text())
            subprocess.run(shlex.split(command), check=True)
            wait_for(before + 1)
        case ["stop", _]:
            pid = int(PID.read_text())
            os.kill(pid, signal.SIGTERM)
            while Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes():
                time.sleep(0.05)
        case ["restart", "nginx"]:
            subprocess.run(["nginx"], check=True)
        case arguments:
            sys.exit(f"this systemctl does not know {shlex.join(arguments)}")


if __name__ == "__main__":
    main()
