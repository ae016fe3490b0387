"""A study on a system without what Linux alone has."""

import os
import signal
import sys
import types
from pathlib import Path

import pytest
import tiny

from optlab import cli
from optlab.lab import report, results
from optlab.lab.tasks import TASKS

# The functions of os that macOS or Windows lack, as the documentation of Python has them, but for what pytest needs.
HIDDEN = (
    "O_DIRECTORY", "chown", "fchmod", "fchown", "fork", "forkpty", "getegid", "geteuid", "getgid", "getgroups",
    "getloadavg", "getpgid", "getpriority", "getresuid", "getsid", "getuid", "getxattr", "killpg", "lchown", "sync",
    "memfd_create", "mkfifo", "nice", "openpty", "pipe2", "posix_fadvise", "posix_fallocate", "pread", "pwrite",
    "sched_getaffinity", "sched_setaffinity", "sched_yield", "sendfile", "setxattr", "statvfs", "sysconf", "uname",
)  # fmt: skip


def test_a_study_runs_where_only_what_every_system_has_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in HIDDEN:
        monkeypatch.delattr(os, name)
    for name in ("SIGHUP", "SIGUSR1", "SIGALRM", "pthread_kill", "sigwait"):
        monkeypatch.delattr(signal, name)
    for module in ("fcntl", "grp", "pwd", "resource", "syslog", "termios"):
        monkeypatch.setitem(sys.modules, module, None)
    locked = []
    windows = types.SimpleNamespace(locking=lambda *how: locked.append(how), LK_NBLCK=2)
    monkeypatch.setitem(sys.modules, "msvcrt", windows)
    monkeypatch.setitem(TASKS, "tiny", tiny.tiny)
    monkeypatch.setattr(report, "FIGURES", {"maps": report.FIGURES["maps"]})
    (tmp_path / "small.toml").write_text(
        'task = "tiny"\nsites = ["update"]\nlearning_rates = [0.1]\nweight_decays = [0.1]\nseeds = 2\n'
    )
    status = cli.main(["study", str(tmp_path / "small.toml"), "--output", str(tmp_path / "out"), "--json"])
    printed = capsys.readouterr()
    assert (status, printed.err) == (0, "")
    assert len(locked) == 1
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "maps.png",
        "maps.svg",
        "report.html",
        "results.nc",
    ]
    assert results.load(tmp_path / "out" / "results.nc").trained.all()
