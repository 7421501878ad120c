"""The guard: a small process that owns a directory, some ports and one command.

`common.testing` starts this file as ``python -I -S _guard.py``, with one end of a socket
pair as standard input, and sends it one JSON object a line; each gets one JSON line back.

How long it lives is decided by a lock file in its directory: every process that uses the
command holds a shared record lock on it, which the kernel releases however that process
dies. When the guard gets the exclusive lock, nobody is left: it ends the command with all
its descendants, removes the directory and exits. It has a session of its own, so Ctrl-C in
a terminal does not reach it, and one thread, because the death signal that it gives to the
command is tied to the thread that forked.

Only the standard library, and nothing of this package: it must start fast and alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

LINUX = sys.platform == "linux"
PREFIX = "common-testing-"
LOCK = "lock"
POLL = 0.2  # seconds between two looks at the lock
SETTLE = 10.0  # seconds a SIGKILL or SIGSTOP may take to reach every process
STALE = 60.0  # seconds after which a directory without any lock holder is litter
PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
IPC_RMID = 0


def bind_port(port: int = 0, host: str = "127.0.0.1") -> socket.socket:
    """A bound, not listening socket: its port is ours until it is closed.

    On Linux a server that sets SO_REUSEADDR, as nearly all do, can listen on the port beside
    it, while other programs and the kernel's own choice of ports pass it by. Elsewhere such
    a server would be refused, so callers close the socket there and take the small risk.
    """
    holder = socket.socket()
    try:
        if port:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((host, port))
        # Set only after the kernel chose a port, or it may choose one that is held like this.
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    except BaseException:
        holder.close()
        raise
    return holder


def processes() -> Iterator[tuple[int, int, str]]:
    """Every process of the machine: pid, parent's pid, state letter."""
    if not LINUX:
        with subprocess.Popen(
            ["/bin/ps", "-axo", "pid=,ppid=,stat="], stdout=subprocess.PIPE
        ) as ps:
            output = ps.communicate()[0]
        for line in output.splitlines():
            pid, parent, state = line.split()[:3]
            if int(pid) != ps.pid:
                yield int(pid), int(parent), chr(state[0])
        return
    for name in os.listdir("/proc"):  # noqa: PTH208 - the fastest way, and it counts here
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:  # noqa: PTH123
                fields = file.read().rpartition(b")")[2].split()
                yield int(name), int(fields[1]), chr(fields[0][0])


def descendants(root: int, *, but: str = "ZX") -> dict[int, str]:
    """All descendants of a process with their states, but some; parents before children."""
    children: dict[int, list[tuple[int, str]]] = {}
    for pid, parent, state in processes():
        children.setdefault(parent, []).append((pid, state))
    found: dict[int, str] = {}
    queue = [root]
    for parent in queue:
        for pid, state in children.get(parent, ()):
            queue.append(pid)
            if state not in but:
                found[pid] = state
    return found


class Guard:
    """State and commands of the guard; every public method is a command."""

    def __init__(self, control: socket.socket) -> None:
        self._control: socket.socket | None = control
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._directories: list[str] = []
        self._locks: list[int] = []
        self._ports: dict[int, socket.socket] = {}
        self._held = False
        self._ended = False
        self._process: subprocess.Popen[bytes] | None = None
        self._returncode: int | None = None
        self._stop_signal = int(signal.SIGTERM)
        self._grace = 5.0
        self._pidfile = ""

    # Commands

    def init(self, bases: list[str], name: str = "", mode: int = 0o700) -> dict[str, Any]:
        """Make a directory below each base; with a name, whoever makes the first one wins."""
        for number, base in enumerate(bases):
            if name and number == 0:
                directory = os.path.join(base, PREFIX + name)  # noqa: PTH118
                try:
                    os.mkdir(directory, mode)  # noqa: PTH102
                except FileExistsError:
                    self._ended = True
                    return {"exists": directory}
            else:
                directory = tempfile.mkdtemp(prefix=PREFIX, dir=base)
            self._directories.append(directory)
            os.chmod(directory, mode)  # noqa: PTH101
            lock = os.open(os.path.join(directory, LOCK), os.O_RDWR | os.O_CREAT, 0o600)  # noqa: PTH118
            if number > 0:  # only the first is for users; these tell sweepers that somebody is here
                fcntl.lockf(lock, fcntl.LOCK_EX)
            self._locks.append(lock)
        return {"directories": self._directories}

    def hold(self) -> dict[str, Any]:
        """The caller has its shared lock: from now on the lock decides."""
        self._held = True
        return {}

    def reserve(self, port: int = 0) -> dict[str, Any]:
        """Choose or check a port, and keep it for as long as the guard lives."""
        if port in self._ports:
            return {"port": port}
        holder = bind_port(port)
        port = holder.getsockname()[1]
        if LINUX:
            self._ports[port] = holder
        else:
            holder.close()
        return {"port": port}

    def start(
        self,
        *,
        argv: list[str],
        env: dict[str, str],
        cwd: str,
        log: str,
        uid: int | None = None,
        gid: int | None = None,
        stop_signal: int = signal.SIGTERM,
        grace: float = 5.0,
        pidfile: str = "",
    ) -> dict[str, Any]:
        """Run a command; `stop_signal` and `grace` are for the day when nobody uses it any more."""
        self._reap()
        if self._process is not None and self._returncode is None:
            return {"error": "it is already running"}
        self._kill_tree()  # what a killed predecessor left running
        self._stop_signal, self._grace, self._pidfile = stop_signal, grace, pidfile
        self._remove_shared_memory()
        parent = os.getpid()

        def die_with_guard() -> None:
            if LINUX:
                self._libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
                if os.getppid() != parent:
                    os._exit(1)

        with open(log, "ab") as output:  # noqa: PTH123
            self._process = subprocess.Popen(  # noqa: S603
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=env,
                user=uid,
                group=gid,
                extra_groups=None if uid is None else [],
                preexec_fn=die_with_guard,  # noqa: PLW1509 - this process has one thread
            )
        self._returncode = None
        return {"pid": self._process.pid}

    def signal(self, number: int) -> dict[str, Any]:
        """Send a signal to the command's main process."""
        self._reap()
        if self._process is None or self._returncode is not None:
            return {"error": "it is not running"}
        os.kill(self._process.pid, number)
        return {}

    def kill(self) -> dict[str, Any]:
        """SIGKILL to the whole process tree; replies when all are dead."""
        self._kill_tree()
        return self.status()

    def pause(self) -> dict[str, Any]:
        """SIGSTOP to the whole process tree, parents first; replies when all stand still."""
        deadline = time.monotonic() + SETTLE
        while time.monotonic() < deadline:
            moving = [pid for pid, state in descendants(os.getpid()).items() if state not in "Tt"]
            if not moving:
                break
            for pid in moving:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGSTOP)
        return self.status()

    def resume(self) -> dict[str, Any]:
        """SIGCONT to the whole process tree, children first: nobody misses a parent's message."""
        for pid in reversed(descendants(os.getpid())):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        return self.status()

    def status(self) -> dict[str, Any]:
        """Whether the command runs, and how it ended."""
        self._reap()
        return {
            "running": self._process is not None and self._returncode is None,
            "returncode": self._returncode,
        }

    def end(self) -> dict[str, Any]:
        """Stop and remove everything, whoever uses it; the closed socket says that it is done."""
        self._ended = True
        return {}

    # The loop

    def run(self) -> None:
        """Serve until nobody uses the command any more."""
        if LINUX:  # orphaned grandchildren become our children, so that no tree is lost
            self._libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        wakeup, sender = socket.socketpair()
        sender.settimeout(0)
        wakeup.settimeout(0)
        signal.set_wakeup_fd(sender.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: self.end())
        poll = select.poll()
        poll.register(wakeup, select.POLLIN)
        if self._control is not None:
            poll.register(self._control, select.POLLIN)
        pending = b""
        try:
            while not self._ended and not self._unused():
                ready = {fd for fd, _ in poll.poll(POLL * 1000)}
                if wakeup.fileno() in ready:
                    wakeup.recv(4096)
                self._reap()
                if self._control is None or self._control.fileno() not in ready:
                    continue
                data = b""
                with contextlib.suppress(OSError):
                    data = self._control.recv(65536)
                if not data:
                    poll.unregister(self._control)
                    self._control = None
                    continue
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    self._answer(line)
        finally:
            self._finish()

    def _answer(self, line: bytes) -> None:
        request = json.loads(line)
        number, command = request.pop("id"), request.pop("command")
        reply: dict[str, Any]
        try:
            reply = getattr(self, command)(**request)
        except OSError as error:
            reply = {
                "error": error.strerror or str(error),
                "errno": error.errno,
                "file": error.filename,
            }
        except Exception as error:  # noqa: BLE001 - whatever is asked, the server lives on
            reply = {"error": f"{type(error).__name__}: {error}"}
        if self._control is not None:
            with contextlib.suppress(OSError):
                self._control.sendall(json.dumps({"id": number, **reply}).encode() + b"\n")

    def _unused(self) -> bool:
        if not self._held and self._control is not None:
            return False
        if not self._locks:
            return True
        try:
            fcntl.lockf(self._locks[0], fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno not in (errno.EACCES, errno.EAGAIN)
        return True

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return
                if self._process is not None and pid == self._process.pid:
                    self._returncode = self._process.returncode = os.waitstatus_to_exitcode(status)

    def _kill_tree(self) -> None:
        deadline = time.monotonic() + SETTLE
        while time.monotonic() < deadline:
            self._reap()
            # A process with threads is a zombie while the others of them still end.
            pids = descendants(os.getpid(), but="X")
            if not pids:
                return
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.001)

    def _remove_shared_memory(self) -> None:
        """Drop what a killed PostgreSQL left: its System V segment and its pid file.

        The pid may belong to somebody else by now, and PostgreSQL would refuse to start.
        """
        if not self._pidfile:
            return
        try:
            with open(self._pidfile, "rb") as file:  # noqa: PTH123
                lines = file.read().splitlines()
            os.unlink(self._pidfile)  # noqa: PTH108
        except OSError:
            return
        if len(lines) > 6 and len(lines[6].split()) == 2:
            self._libc.shmctl(int(lines[6].split()[1]), IPC_RMID, None)

    def _finish(self) -> None:
        if self._process is not None and self._returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._process.pid, self._stop_signal)
            self.resume()
            deadline = time.monotonic() + self._grace
            while time.monotonic() < deadline and self.status()["running"]:
                time.sleep(0.003)
        self._kill_tree()
        self._remove_shared_memory()
        for directory in self._directories:
            shutil.rmtree(directory, ignore_errors=True)
        for base in {os.path.dirname(directory) for directory in self._directories}:  # noqa: PTH120
            sweep(base)


def sweep(base: str) -> None:
    """Remove the directories of guards that were killed themselves."""
    with contextlib.suppress(OSError):
        for entry in os.scandir(base):
            if not entry.name.startswith(PREFIX):
                continue
            with contextlib.suppress(OSError):
                remove_litter(entry.path, STALE)


def remove_litter(directory: str, age: float) -> None:
    """Remove the directory of a killed guard, if nobody holds its lock and it is that old.

    Raises:
        OSError: Somebody holds the lock, or the directory is gone.
    """
    made = os.stat(directory, follow_symlinks=False)  # noqa: PTH116
    if made.st_uid != os.geteuid() or time.time() - made.st_mtime < age:
        return
    path = os.path.join(directory, LOCK)  # noqa: PTH118
    lock = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Not if another process removed the directory meanwhile, and one of that name was made.
        if os.fstat(lock).st_ino == os.stat(path).st_ino:  # noqa: PTH116
            shutil.rmtree(directory, ignore_errors=True)
    finally:
        os.close(lock)


def main() -> None:
    """Detach from the caller, which then needs not reap us, and serve."""
    if os.fork():
        os._exit(0)
    control = socket.socket(fileno=os.dup(0))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    Guard(control).run()
    os._exit(0)  # the kernel closes the socket last: whoever waits for that finds us gone


if __name__ == "__main__":
    main()
