"""A Slurm for tests: munged, one slurmctld and two slurmd as root on this machine, all that is theirs in one folder.

``python -m tests.slurm.cluster`` starts one, prints what to export, and stops it on Ctrl-C.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scancel", "scontrol")
_DAEMONS = 4
_PATIENCE = 30  # seconds until every node is idle
_CONF = """ClusterName=tests
SlurmctldHost={host}
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
# Nothing that a container has not: no control groups, no accounting, no affinity.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SlurmdParameters=config_overrides
ReturnToService=2
# What waits, waits short.
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
KillWait={kill_wait}
MinJobAge={min_job_age}
InactiveLimit=0
OverTimeLimit=0
JobRequeue=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
PartitionName=low Nodes=n[1-2] MaxTime=INFINITE State=UP
"""


def why_not() -> str | None:
    """Why no Slurm can be started here; None where one can."""
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    missing = [name for name in PROGRAMS if shutil.which(name, path=path) is None]
    if missing:
        return f"no {', '.join(missing)} (Debian: apt-get install slurm-wlm munge)"
    return None if os.geteuid() == 0 else "slurmd has to be root"


class Cluster:
    """Two nodes, ``n1`` and ``n2``, of two CPUs each. A context manager.

    :ivar environment: with which the commands of Slurm find it.
    """

    def __init__(self, kill_wait: int = 20, min_job_age: int = 300):
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-"))
        self.folder.chmod(0o755)  # munged wants it
        self._processes: list[subprocess.Popen[bytes]] = []
        path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
        self.environment = {**os.environ, "PATH": path, "SLURM_CONF": str(self.folder / "slurm.conf")}
        text = _CONF.format(
            host=socket.gethostname(), folder=self.folder, ports=_free_ports(3), kill_wait=kill_wait,
            min_job_age=min_job_age,
        )  # fmt: skip
        (self.folder / "slurm.conf").write_text(text, encoding="utf-8")

    def __enter__(self) -> Cluster:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """:raises RuntimeError: not every node was idle in time; the end of the logs is told."""
        for name in ("munge", "state", "spool-n1", "spool-n2"):
            (self.folder / name).mkdir(mode=0o755)
        munge = self.folder / "munge"
        (munge / "key").write_bytes(secrets.token_bytes(128))
        (munge / "key").chmod(0o600)
        files = ("socket", "key-file", "log-file", "pid-file", "seed-file")
        places = {"socket": "socket", "key-file": "key"}
        self._run("munged", "--foreground", *(f"--{name}={munge / places.get(name, name)}" for name in files))
        self._wait("munged has no socket", (munge / "socket").exists)
        self._run("slurmctld", "-D")
        for node in ("n1", "n2"):
            self._run("slurmd", "-D", "-N", node)
        self._wait(
            "not every node is idle", lambda: self.call("sinfo", "-h", "-o", "%T", "-p", "main").split() == ["idle"]
        )

    def stop(self) -> None:
        """End every job at once, and then the daemons."""
        if all(process.poll() is None for process in self._processes) and len(self._processes) == _DAEMONS:
            self.cancel_all()
        for process in reversed(self._processes):
            process.terminate()
        for process in reversed(self._processes):
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def cancel_all(self) -> None:
        """End every job, without letting it save."""
        self.call("scancel", "--user=root", "--state=PENDING")
        self.call("scancel", "--user=root", "--full", "--signal=KILL")
        until = time.monotonic() + _PATIENCE
        while self.call("squeue", "-h") and time.monotonic() < until:
            time.sleep(0.1)

    def call(self, *command: str) -> str:
        """What a command of Slurm prints; nothing where it fails."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=30)
        return done.stdout

    def _run(self, *command: str) -> None:
        with (self.folder / f"{len(self._processes)}-{command[0]}.out").open("wb") as log:
            self._processes.append(
                subprocess.Popen(command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )

    def _wait(self, problem: str, is_so) -> None:
        until = time.monotonic() + _PATIENCE
        while not is_so():
            ended = [process.args[0] for process in self._processes if process.poll() is not None]
            if ended or time.monotonic() > until:
                logs = [f"{path.name}: {path.read_text()[-1500:]}" for path in sorted(self.folder.glob("*.out"))]
                raise RuntimeError("\n".join([f"{problem}; ended: {ended}", *logs]))
            time.sleep(0.1)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with Cluster() as cluster:
        print(f"export SLURM_CONF={cluster.folder / 'slurm.conf'}", flush=True)
        try:
            while True:
                time.sleep(60)
        except KeyboardInterrupt:
            pass
