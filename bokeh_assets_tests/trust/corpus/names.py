"""What lies in an inbox besides good files with good names."""

from __future__ import annotations

import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path

from bokeh_assets_tests.trust.corpus.case import clip

# Regular files with names that a careless program stumbles over; all hold a good video.
NAMES: dict[str, bytes] = {
    "newline": b"two\nlines.mp4",
    "carriage return": b"back\rto start.mp4",
    "tab and bell": b"tab\tand\x07bell.mp4",
    "terminal commands": b"\x1b[2J\x1b]0;owned\x07.mp4",
    "single quote": b"it's.mp4",
    "double quote": b'say "cheese".mp4',
    "back quotes": b"`reboot`.mp4",
    "dollar": b"$(reboot) ${HOME} %PATH%.mp4",
    "semicolon": b"a; rm -rf ~; .mp4",
    "pipe and star": b"a|b>c<d*e?f[g].mp4",
    "backslash": b"x..\\..\\etc\\passwd.mp4",
    "two dots": b"a..b....mp4",
    "looks like a parent": b"x%2f..%2f..%2fetc%2fpasswd.mp4",
    "leading dash": b"-rf.mp4",
    "option": b"--output=x.mp4",
    "leading space": b"   .mp4",
    "trailing space in stem": b"clip .mp4",
    "address": b"http:%2f%2f127.0.0.1%2fx.mp4",
    "protocol": b"concat:a.mp4|b.mp4",
    "pattern": b"frame_%05d.mp4",
    "percent": b"%s%n%x.mp4",
    "braces": b"{0.__class__}{x}.mp4",
    "markup": b"<img src=x onerror=alert(1)>.mp4",
    "sql": b"'); DROP TABLE runs; --.mp4",
    "yaml": b"key: [a, b].mp4",
    "json": b'{"a": 1}.mp4',
    "csv formula": b"=cmd|' !A1.mp4",
    "upper suffix": b"LOUD.MP4",
    "two suffixes": b"movie.exe.mp4",
    "reserved elsewhere": b"CON.mp4",
    "umlaut": "Größe.mp4".encode(),
    "decomposed": "Gro\u0308sse.mp4".encode(),
    "emoji family": "\U0001f468\u200d\U0001f469\u200d\U0001f467.mp4".encode(),
    "right to left": "\u202egpj.exe\u202c.mp4".encode(),
    "hebrew": "שלום.mp4".encode(),
    "han": "映画.mp4".encode(),
    "zero width": "a\u200bb\u200cc\ufeff.mp4".encode(),
    "line separator": "a\u2028b\u2029c.mp4".encode(),
    "full width": "．．／ｅｔｃ.mp4".encode(),
    "combining": ("o" + "\u0301" * 60 + ".mp4").encode(),
    "not UTF-8": b"\xff\xfe\x80 latin \xe9.mp4",
    "half a character": b"cut \xf0\x9f\x98.mp4",
    "255 bytes": b"x" * 251 + b".mp4",
    "255 bytes of umlauts": "ö".encode() * 125 + b"x.mp4",
    "control in suffix stem": b"a\x01\x02\x7f.mp4",
}

# Names an inbox must pass over, though each holds a good video.
PASSED_OVER = {
    "hidden": b".hidden.mp4",
    "our own temporary": b".tmp-1234-x.mp4",
    "no suffix": b"film",
    "other": b"film.exe",
    "dots": b"...mp4.mp4",
    "looks like a parent": b"..%2f..%2fetc%2fpasswd.mp4",
}


@dataclass(frozen=True)
class Oddity:
    """Something in the inbox that is no file."""

    name: str
    why: str


def fill(inbox: Path, outside: Path) -> tuple[list[bytes], list[Oddity]]:
    """Put all of it into `inbox`; links lead to a good video in `outside`.

    Returns:
        The names that must be taken, and the things that must not be.
    """
    for number, name in enumerate([*NAMES.values(), *PASSED_OVER.values()]):
        # Every one of its own, so that none is another's copy.
        with open(os.path.join(os.fsencode(inbox), name), "wb") as file:
            file.write(clip("mkv", title=f"number {number:03d}"))
    secret = outside / "secret.mp4"
    secret.write_bytes(clip("mkv", title="secret"))
    (inbox / "link.mp4").symlink_to(secret)
    (inbox / "link_to_passwd.mp4").symlink_to("/etc/passwd")
    (inbox / "loop.mp4").symlink_to("loop.mp4")
    (inbox / "dangling.mp4").symlink_to("nowhere.mp4")
    (inbox / "link_to_folder.mp4").symlink_to(outside)
    (inbox / "link_to_device.mp4").symlink_to("/dev/zero")
    (inbox / "folder.mp4").mkdir()
    (inbox / "folder.mp4" / "inner.mp4").write_bytes(clip("mkv", title="inner"))
    os.mkfifo(inbox / "pipe.mp4")
    oddities = [Oddity(f"link{what}.mp4", "a link") for what in ("", "_to_passwd", "_to_folder", "_to_device")]
    oddities += [Oddity("loop.mp4", "a link"), Oddity("dangling.mp4", "a link")]
    oddities += [Oddity("folder.mp4", "a folder"), Oddity("pipe.mp4", "a pipe")]
    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(inbox)  # the address of a socket is short
        try:
            server.bind("socket.mp4")
        finally:
            os.chdir(here)
    oddities.append(Oddity("socket.mp4", "a socket"))
    if os.geteuid() == 0:
        try:
            os.mknod(inbox / "zero.mp4", stat.S_IFCHR | 0o666, os.makedev(1, 5))
            oddities.append(Oddity("zero.mp4", "a device"))
        except PermissionError:
            pass  # a container without the right to make devices; link_to_device stands for them
    return list(NAMES.values()), oddities
