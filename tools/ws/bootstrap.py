"""Bring this checkout's environment up to date, then run a command in it.

    python3 tools/ws/bootstrap.py [--group NAME] [COMMAND ...]
    python3 tools/ws/bootstrap.py --clean

Finds uv, or installs it into the git-ignored folder .uv; lets it make .venv with every
package of the workspace; then becomes COMMAND. Each thing that can be missing (Python,
venv, index, disk space, a wheel for this platform) ends in one line saying what to do;
what uv printed stays in .uv/setup.log.

Standard library only, and without syntax younger than Python 2.7: it has to start on an
old Python to be able to say that it is too old.
"""

from __future__ import print_function

import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TOOLS = os.path.join(ROOT, ".uv")
VENV = os.path.join(ROOT, ".venv")
OLDEST_PYTHON = (3, 11)
OLDEST_UV = (0, 9, 17)
DISK_MB = 1500  # environment, tools and uv's cache, on a first run
CLEANED = (
    ".venv",
    ".uv",
    "uv.lock",
    "dist",
    "site",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    ".ws_cache",
    ".hypothesis",
)

# What uv and pip print, and what the reader should do about it (\1: the pattern's group).
# First match wins.
REMEDIES = (
    (
        r"No space left on device|os error 28|Errno 28",
        "the disk is full: free about %d MB where this checkout and uv's cache live, then run it again"
        % DISK_MB,
    ),
    (
        r"Permission denied|os error 13|Errno 13",
        "a file of this checkout or of uv's cache belongs to another user: "
        "run it as that user, or remove .venv and .uv and set UV_CACHE_DIR to a folder of yours",
    ),
    (
        r"no wheels? with a matching platform|doesn't have a source distribution or wheel for the current platform"
        r"|not a supported wheel on this platform|only has wheels for the following platform",
        "a package has no wheel for this machine (%s, %s): use Linux or macOS on x86_64 or arm64; "
        "for servers, name your own binaries as described in packages/common-testing/README.md"
        % (sys.platform, os.uname()[4] if hasattr(os, "uname") else "unknown processor"),
    ),
    (
        r"Could not connect|dns error|[Ff]ailed to (fetch|lookup)|Network is unreachable|Connection refused|timed out"
        r"|tcp connect error|NewConnectionError|error sending request|Name or service not known",
        "the package index cannot be reached: check the network or proxy, or name a mirror with UV_INDEX_URL "
        "(and PIP_INDEX_URL while uv itself is missing), then run it again",
    ),
    (
        r"No matching distribution",  # pip says the same of an index that refuses it and of one without a wheel
        "pip found no uv for this machine: the package index cannot be reached (check the network or proxy, or name "
        "a mirror with PIP_INDEX_URL), or it has none for this platform (install uv yourself, so that it is on PATH)",
    ),
    (
        r"Workspace member `([^`]+)` is missing a `pyproject.toml`",
        r"\1 has no pyproject.toml: remove the folder if another branch left it behind, or add the file",
    ),
    (
        r"ensurepip is not available|No module named '?(venv|ensurepip)",
        "this Python has no venv module: install it (Debian and Ubuntu: apt install python3-venv), or install uv",
    ),
)


def say(text):
    sys.stderr.write("common: %s\n" % text)
    sys.stderr.flush()


def stop(text):
    say(text)
    sys.exit(1)


def run(command, environment, first):
    """Run a set-up step; show its progress, keep all it printed, explain its failure."""
    seen = []
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        universal_newlines=True,
    )
    for line in process.stdout:
        seen.append(line)
        if re.match(
            r" *(Downloading|Downloaded|Building|Built|Prepared|Installed|Creating)", line
        ) or (first and line.startswith("Resolved")):
            sys.stderr.write("  " + line)
    if process.wait() == 0:
        return
    output = "".join(seen)
    if not os.path.isdir(TOOLS):
        os.makedirs(TOOLS)
    log = os.path.join(TOOLS, "setup.log")
    try:
        with open(log, "w") as file:
            file.write("%s\n%s" % (" ".join(command), output))
        where = " (details: %s)" % os.path.relpath(log, ROOT)
    except OSError:
        where = ""
    unwrapped = " ".join(output.split())  # uv breaks its lines at $COLUMNS
    for pattern, remedy in REMEDIES:
        found = re.search(pattern, unwrapped)
        if found:
            stop(found.expand(remedy) + where)
    sys.stderr.write(output)
    stop("setting up the environment failed, see above" + where)


def version_of(uv):
    try:
        text = subprocess.check_output(
            [uv, "--version"], universal_newlines=True, stderr=subprocess.DEVNULL
        )
    except (OSError, subprocess.CalledProcessError):
        return ()
    found = re.search(r"(\d+)\.(\d+)\.(\d+)", text)
    return tuple(int(part) for part in found.groups()) if found else ()


def find_uv(environment):
    own = os.path.join(TOOLS, "bin", "uv")
    for candidate in (os.environ.get("UV"), shutil.which("uv"), own):
        if candidate and version_of(candidate) >= OLDEST_UV:
            return candidate
    say("uv is missing: installing it into .uv (this happens once)")
    run([sys.executable, "-m", "venv", "--clear", os.path.join(TOOLS)], environment, True)
    run(
        [
            os.path.join(TOOLS, "bin", "python"),
            "-m",
            "pip",
            "install",
            "--disable-pip-version-check",
            "--quiet",
            "uv>=%d.%d.%d" % OLDEST_UV,
        ],
        environment,
        True,
    )
    return own


def clean():
    for name in CLEANED:
        path = os.path.join(ROOT, name)
        if os.path.isdir(path):
            shutil.rmtree(path)
        elif os.path.exists(path):
            os.remove(path)


def main(arguments):
    if sys.version_info[:2] < OLDEST_PYTHON:
        stop(
            "Python %d.%d or later is needed, and %s is %d.%d: install a newer one, or name it: make PYTHON=python3.12 ..."
            % (OLDEST_PYTHON + (sys.executable,) + tuple(sys.version_info[:2]))
        )
    if arguments == ["--clean"]:
        clean()
        return
    groups = []
    while arguments[:1] == ["--group"]:
        groups += arguments[:2]
        arguments = arguments[2:]

    if not os.access(ROOT, os.W_OK):
        stop(
            "%s cannot be written by this user: clone the repository into a folder of yours" % ROOT
        )
    first = not os.path.isdir(VENV)
    free = shutil.disk_usage(ROOT).free // 1000000
    if first and free < DISK_MB:
        stop(
            "only %d MB are free here, a first run needs about %d: free some space, then run it again"
            % (free, DISK_MB)
        )

    environment = dict(os.environ)
    environment.pop("VIRTUAL_ENV", None)
    environment["UV_PROJECT_ENVIRONMENT"] = VENV
    # This very Python, never one that uv would choose or download.
    environment.setdefault("UV_PYTHON", getattr(sys, "_base_executable", None) or sys.executable)
    environment.setdefault("UV_PYTHON_DOWNLOADS", "never")
    if not os.access(os.path.expanduser("~"), os.W_OK):
        environment.setdefault("UV_CACHE_DIR", os.path.join(TOOLS, "cache"))

    uv = find_uv(environment)
    if first:
        say(
            "making .venv with every package of the workspace (the first time this downloads about 200 MB)"
        )
    run([uv, "sync", "--all-packages", "--all-extras"] + groups, environment, first)
    if not arguments:
        say("the environment is ready: .venv")
        return
    environment["UV"] = uv
    environment["VIRTUAL_ENV"] = VENV
    environment["PATH"] = os.pathsep.join(
        (os.path.join(VENV, "bin"), os.path.dirname(uv), environment.get("PATH", ""))
    )
    command = os.path.join(VENV, "bin", arguments[0])
    if not os.path.exists(command):
        stop("%s is not a command of this workspace's environment" % arguments[0])
    os.execve(command, [command] + arguments[1:], environment)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        sys.exit(130)
