"""Commands of the pages; in: Markdown files, out: their bash blocks, single commands, and what came of running them."""

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
import re
import shlex
import signal
import socket
import subprocess
import sys

import quick_compiler

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "configs" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
_MARK = "@@ block "
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


@dataclasses.dataclass(frozen=True)
class Block:
    """One fenced bash block, and the output that the page shows below it; None: it shows none."""

    code: str
    shown: str | None


def name_of(page):
    return str(page.relative_to(ROOT))


def blocks(page):
    text = page.read_text(encoding="utf-8")
    found = list(_FENCE.finditer(text))
    for one, following in itertools.zip_longest(found, found[1:]):
        if one[1] == "bash":
            # An output stands right below its block.
            shows = following and following[1] == "text" and not text[one.end() : following.start()].strip()
            yield Block(one[2], following[2] if shows else None)


def commands(code):
    """Whole commands of a block: continued lines, here-documents and loops are one."""
    gathered = ""
    for line in code.splitlines():
        gathered += line + "\n"
        if line.endswith("\\") or not _whole(gathered):
            continue
        if shlex.split(gathered, comments=True):
            yield gathered.strip()
        gathered = ""
    assert not gathered, gathered


def commands_of(page):
    """The commands of all blocks of a page, in their order."""
    return [command for block in blocks(page) for command in commands(block.code)]


@functools.cache
def _whole(text):
    told = subprocess.run(["bash", "-n"], input=text, capture_output=True, text=True)
    # An open here-document is only a warning.
    return (told.returncode, told.stderr) == (0, "")


def words(command):
    """Words of the first program of a command, without assignments before it."""
    line = command.partition("<<")[0].replace("\\\n", " ")
    reader = shlex.shlex(line, posix=True, punctuation_chars=True)
    reader.whitespace_split = True
    found = []
    for word in reader:
        if set(word) <= set("();<>|&") and word:
            break
        found.append(word)
    while found and _ASSIGNMENT.match(found[0]):
        del found[0]
    return found


def one_device(**more):
    """The environment of a user: one device, and none of the settings of these tests."""
    left_out = ("XLA_FLAGS", "JAX_DISABLE_MOST_OPTIMIZATIONS", "COLUMNS")
    return {name: value for name, value in os.environ.items() if name not in left_out} | more


# What a page promises of these is no speed: compiled in a third of the time, they are run sooner.
QUICK = ("predict", "calibrate", "export", "eval", "serve")


def programs(folder):
    """A folder for PATH with `r2d` and `python` of these tests; some commands of `r2d` compile quickly."""
    folder.mkdir()
    quickly = f"case $1 in {'|'.join(QUICK)}) export XLA_FLAGS='{quick_compiler.flags()}';; esac\n"
    for name, (before, arguments) in {"r2d": (quickly, "-m r2d_jax "), "python": ("", "")}.items():
        file = folder / name
        file.write_text(f'#!/bin/sh\n{before}exec {shlex.quote(sys.executable)} {arguments}"$@"\n')
        file.chmod(0o755)
    return folder


def free_port(wanted=8000):
    """This port, or a free one where something else listens on it."""
    for port in (wanted, 0):
        with socket.socket() as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                one.bind(("127.0.0.1", port))
            except OSError:
                continue
            return one.getsockname()[1]
    raise AssertionError("no port is free")


def run_blocks(codes, folder, environment, timeout=600):
    """Run blocks one after the other in one shell, which ends with the first command that fails.

    Returns:
        What each block printed, on both streams.
    """
    script = "".join(f"printf '\\n{_MARK}{number}\\n'\n{code}" for number, code in enumerate(codes))
    process = subprocess.Popen(
        ["bash", "-e", "-c", script],
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        out, _ = process.communicate(timeout=timeout)
    finally:
        # A server that a failed block left behind.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, f"exit code {process.returncode}:\n{out[-3000:]}"
    parts = re.split(rf"\n{_MARK}\d+\n", out)[1:]
    assert len(parts) == len(codes), out[-3000:]
    return parts


def masked(text, alike):
    """Lines without what may differ between machines: figures, hashes, widths of columns, and words that match."""
    pattern = rf"\b[0-9a-f]{{16}}\b|[\d.]+|{alike}"
    lines = (re.sub(pattern, "#", re.sub(r"─+", "─", line)) for line in text.splitlines())
    return [" ".join(line.split()) for line in lines if line.split()]


def missing_lines(shown, printed, alike):
    """Lines of a shown output that the real one does not have, in this order; `...` stands for lines left out.

    Args:
        shown: in the page.
        printed: by the command.
        alike: regular expression of words that stand for each other.
    """
    left, missing = masked(printed, alike), []
    for line in masked(shown, alike):
        if line == "#":
            continue
        if line in left:
            del left[: left.index(line) + 1]
        else:
            missing.append(line)
    return missing
