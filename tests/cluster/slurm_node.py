"""A SLURM of one node on this machine, with accounting, for as long as it is needed.

    python tests/cluster/slurm_node.py           # until Ctrl-C; prints what to export

It needs Debian's or Ubuntu's packages, which root can install, and no systemd. All daemons stay in the foreground,
as children of this process, listen on free ports of 127.0.0.1 and keep their files in one folder, so that two such
nodes do not meet.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

PACKAGES = ["munge", "slurmctld", "slurmd", "slurm-client", "slurmdbd", "mariadb-server"]
PROGRAMS = ["munged", "slurmctld", "slurmd", "slurmdbd", "mariadbd", "sbatch"]
GPUS = 2  # make-believe: files that SLURM hands out


class NoSlurm(Exception):
    """Why there can be no SLURM here."""


def install() -> None:
    """Get the programs; :class:`NoSlurm` where that cannot be."""
    if os.geteuid() != 0:
        raise NoSlurm("SLURM's daemons are started by root, and this is another user")
    if all(map(shutil.which, PROGRAMS)):
        return
    if shutil.which("apt-get") is None:
        raise NoSlurm(
            f"{', '.join(p for p in PROGRAMS if not shutil.which(p))} missing, and no apt-get to install them"
        )
    apt = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=300"]
    install = [*apt, "install", "--yes", "--no-install-recommends", *PACKAGES]
    for command in ([*apt, "update"], install):
        done = subprocess.run(
            command,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise NoSlurm(f"{' '.join(command)}: {(done.stderr or done.stdout).strip().splitlines()[-1]}")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class SlurmNode:
    """``with SlurmNode(folder) as node:`` SLURM runs, and ``node.environment`` is for what talks to it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.daemons: list[tuple[str, subprocess.Popen[bytes]]] = []
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf")}

    def __enter__(self) -> SlurmNode:
        install()
        try:
            self._authenticate()
            database_port = self._database()
            self._configure(database_port)
            self._start("slurmdbd", "slurmdbd", "-D")
            self._wait("slurmdbd", lambda: self._ask("sacctmgr", "--noheader", "show", "cluster") is not None)
            self._ask("sacctmgr", "--immediate", "add", "cluster", "onenode")
            self._start("slurmctld", "slurmctld", "-D")
            self._start("slurmd", "slurmd", "-D")
            self._wait("the node", lambda: self._ask("sinfo", "--noheader", "--format", "%T") == "idle")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._ask("scancel", "--partition", "main")
        for _, daemon in reversed(self.daemons):
            daemon.terminate()
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self.daemons.clear()

    def _authenticate(self) -> None:
        """Munge, the system's own where it runs."""
        if subprocess.run(["munge", "-n"], capture_output=True, check=False).returncode == 0:
            return
        user = pwd.getpwnam("munge")
        key = Path("/etc/munge/munge.key")
        if not key.is_file():
            key.write_bytes(secrets.token_bytes(128))
            key.chmod(0o400)
            os.chown(key, user.pw_uid, user.pw_gid)
        run = Path("/run/munge")
        run.mkdir(mode=0o755, exist_ok=True)
        os.chown(run, user.pw_uid, user.pw_gid)
        self._start("munged", "munged", "--foreground", user="munge")
        self._wait("munge", lambda: self._ask("munge", "-n") is not None)

    def _database(self) -> int:
        data, port = self.folder / "database", free_port()
        data.mkdir()
        self.folder.chmod(0o755)
        shutil.chown(data, "mysql", "mysql")
        for parent in self.folder.parents:  # pytest's folders are closed to others
            if not parent.stat().st_mode & 0o001:
                raise NoSlurm(f"{parent} is closed to the database's user; choose another folder")
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={data}", "--skip-test-db"],
            check=True,
            capture_output=True,
        )
        options = [f"--datadir={data}", f"--socket={data}/socket", f"--port={port}", "--bind-address=127.0.0.1"]
        self._start("mariadbd", "mariadbd", "--no-defaults", "--user=mysql", f"--pid-file={data}/pid", *options)
        client = ["mariadb", "--no-defaults", f"--socket={data}/socket", "--execute"]
        self._wait("the database", lambda: self._ask(*client, "select 1") is not None)
        subprocess.run(
            [
                *client,
                "create database accounting; create user slurm@'127.0.0.1' identified by 'slurm'; "
                "grant all on accounting.* to slurm@'127.0.0.1'",
            ],
            check=True,
        )
        return port

    def _configure(self, database_port: int) -> None:
        host = socket.gethostname().split(".")[0]
        # "NodeName=… CPUs=… Boards=… … RealMemory=…"
        hardware = subprocess.run(["slurmd", "-C"], check=True, capture_output=True, text=True).stdout.splitlines()[0]
        accounting_port = free_port()
        gpus = [self.folder / f"gpu{i}" for i in range(GPUS)]
        for path in gpus:
            path.touch()
        for name in ("state", "spool"):
            (self.folder / name).mkdir()
        (self.folder / "slurm.conf").write_text(f"""\
ClusterName=onenode
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
SlurmUser=root
AuthType=auth/munge
# A job that is queued again waits until its old credential has expired.
AuthInfo=cred_expire=10
StateSaveLocation={self.folder}/state
SlurmdSpoolDir={self.folder}/spool
SlurmctldPidFile={self.folder}/slurmctld.pid
SlurmdPidFile={self.folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
MailProg=/bin/true
ReturnToService=2
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting_port}
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 {hardware.split(" ", 1)[1]} Gres=gpu:{GPUS} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
""")
        (self.folder / "gres.conf").write_text(f"Name=gpu File={self.folder}/gpu[0-{GPUS - 1}]\n")
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # is loaded, never used
        accounting = self.folder / "slurmdbd.conf"
        accounting.write_text(f"""\
AuthType=auth/munge
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={accounting_port}
SlurmUser=root
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database_port}
StorageUser=slurm
StoragePass=slurm
StorageLoc=accounting
PidFile={self.folder}/slurmdbd.pid
""")
        accounting.chmod(0o600)

    def _start(self, name: str, *command: str, user: str | None = None) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            daemon = subprocess.Popen(
                command,
                stdout=log,
                stderr=log,
                user=user,
                group=user,
                extra_groups=[] if user else None,
                env={**os.environ, **self.environment},
                start_new_session=True,  # Ctrl-C is for this process, which then ends them in order
            )
        self.daemons.append((name, daemon))

    def _ask(self, *command: str) -> str | None:
        """What a command prints; None where it failed."""
        done = subprocess.run(
            command, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout.strip() if done.returncode == 0 else None

    def _wait(self, what: str, ready: Callable[[], bool], seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not ready():
            ended = next((name for name, daemon in self.daemons if daemon.poll() is not None), None)
            if ended is not None or time.monotonic() > end:
                logs = "\n".join(
                    f"{name}: {(self.folder / f'{name}.log').read_text()[-500:]}" for name, _ in self.daemons
                )
                raise RuntimeError(f"{what} did not start{f', because {ended} ended' if ended else ''}:\n{logs}")
            time.sleep(0.2)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="slurm-") as name:
        Path(name).chmod(0o755)
        with SlurmNode(Path(name)) as node:
            print(*(f"export {key}={value}" for key, value in node.environment.items()), sep="\n", flush=True)
            try:
                while True:
                    time.sleep(3600)
            except KeyboardInterrupt:
                sys.exit()
