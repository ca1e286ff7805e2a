"""What a process that decodes an upload may do, and no more.

`confine` binds the calling process for good. On Linux the kernel then enforces: a bounded address space and processor
time, no core dump; of the file system, only the files and folders named (Landlock, from kernel 5.13 on); no network,
no other program, no signal to another process (seccomp filter, on x86-64 and ARM64). Other systems have resource
limits at best: there, what keeps a playlist from naming other files is the short list of demuxers in `container`, and
what ends a hang is the watchdog in `confined`.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import sys
import sysconfig
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

# From linux/prctl.h, linux/landlock.h, linux/seccomp.h; the Landlock system calls have one number everywhere.
_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_REG, _TRUNCATE = 1 << 8, 1 << 14
_RIGHTS_BY_ABI = {1: (1 << 13) - 1, 2: (1 << 14) - 1, 3: (1 << 15) - 1}
_CONNECT_OR_BIND_TCP = 3
_DEVICES = ("/dev/null", "/dev/urandom", "/proc/cpuinfo", "/proc/meminfo", "/sys/devices/system")
_SHARED = ("/usr/lib", "/usr/lib64", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime", "/usr/share/zoneinfo")

_EPERM = 1
# Number of each refused system call on (x86-64, ARM64).
_REFUSED = {
    "socket": (41, 198),
    "socketpair": (53, 199),
    "connect": (42, 203),
    "bind": (49, 200),
    "sendto": (44, 206),
    "sendmsg": (46, 211),
    "execve": (59, 221),
    "execveat": (322, 281),
    "kill": (62, 129),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "io_uring_setup": (425, 425),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "userfaultfd": (323, 282),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
}
_AUDIT_ARCH = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}


def confine(*, read: Sequence[Path] = (), write: Sequence[Path] = (), memory: int, seconds: float) -> tuple[str, ...]:
    """Bind this process: what is imported and open already stays usable.

    Args:
        read: files that may be opened to read.
        write: files that may be overwritten, and folders in which files may be made; both must exist.
        memory: bytes of address space on top of what is mapped now.
        seconds: processor time in all (see `allow_seconds`); then the process is killed.

    Returns:
        What holds it, of `"memory"`, `"time"`, `"files"`, `"network"`.
    """
    held = ["time"]
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    allow_seconds(seconds)
    with suppress(OSError):
        # Where memory runs short, this process shall go and not the one that started it.
        Path("/proc/self/oom_score_adj").write_text("1000")
    if sys.platform == "linux":
        most = _mapped() + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        held.append("memory")
        _prctl(_PR_SET_NO_NEW_PRIVS, 1)
        held += ["files"] * _restrict_files(read, write)
        held += ["network"] * _refuse_calls()
    return tuple(held)


def allow_seconds(seconds: float) -> None:
    """Let this process use so many seconds of processor time in all, and no more."""
    ceiling = resource.getrlimit(resource.RLIMIT_CPU)[1]
    most = int(seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (most if ceiling < 0 else min(most, ceiling), ceiling))


def end_with_parent(parent: int) -> None:
    """Have Linux kill this process when its parent ends; ends at once if that is gone already."""
    if sys.platform == "linux":
        _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL))
    if os.getppid() != parent:
        os._exit(1)


def _mapped() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    return pages * resource.getpagesize()


def _prctl(option: int, value: int) -> bool:
    return ctypes.CDLL(None).prctl(option, ctypes.c_ulong(value), ctypes.c_ulong(0), 0, 0) == 0


class _Ruleset(ctypes.Structure):
    _fields_ = (("files", ctypes.c_uint64), ("network", ctypes.c_uint64))


class _Beneath(ctypes.Structure):
    _pack_ = 1
    _layout_ = "ms"
    _fields_ = (("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32))


def _restrict_files(read: Sequence[Path], write: Sequence[Path]) -> bool:
    """Landlock: everything about files is refused but what is listed. False where the kernel has none."""
    call = ctypes.CDLL(None, use_errno=True).syscall
    abi = call(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(1))
    if abi < 1:
        return False
    handled = _RIGHTS_BY_ABI[min(abi, 3)]
    rules = _Ruleset(handled, _CONNECT_OR_BIND_TCP if abi >= 4 else 0)
    size = ctypes.sizeof(rules) if abi >= 4 else 8
    ruleset = call(_CREATE_RULESET, ctypes.byref(rules), ctypes.c_size_t(size), ctypes.c_uint32(0))
    if ruleset < 0:
        return False
    own = _READ_FILE | _READ_DIR
    grants = [(Path(place), own) for place in (*_DEVICES, *_SHARED, *_libraries())] + [
        (Path(path), _READ_FILE) for path in read
    ]
    grants += [(Path(path), own | _WRITE_FILE | _MAKE_REG | _TRUNCATE) for path in write]
    for path, rights in grants:
        if not path.exists():
            continue
        if not path.is_dir():
            rights &= _READ_FILE | _WRITE_FILE | _TRUNCATE
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        rule = _Beneath(rights & handled, place)
        added = call(_ADD_RULE, ruleset, 1, ctypes.byref(rule), ctypes.c_uint32(0))
        os.close(place)
        if added != 0:
            raise OSError(ctypes.get_errno(), "the file rules cannot be set", str(path))
    bound = call(_RESTRICT_SELF, ruleset, ctypes.c_uint32(0)) == 0
    os.close(ruleset)
    return bound


def _libraries() -> set[str]:
    """Folders of the standard library and of the packages imported so far, parts of which load late."""
    packages = {name.partition(".")[0] for name in sys.modules}
    files = [getattr(sys.modules.get(name), "__file__", None) for name in packages]
    # A module that is no package lies among files that are none of ours, so its folder is not taken.
    folders = {os.path.dirname(file) for file in files if file and os.path.basename(file).startswith("__init__.")}
    return {*folders, sysconfig.get_paths()["stdlib"], sysconfig.get_paths()["platstdlib"]}


class _Instruction(ctypes.Structure):
    _fields_ = (("code", ctypes.c_uint16), ("true", ctypes.c_uint8), ("false", ctypes.c_uint8), ("k", ctypes.c_uint32))


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_uint16), ("filter", ctypes.POINTER(_Instruction)))


def _refuse_calls() -> bool:
    """Seccomp: the system calls of `_REFUSED` fail with EPERM. False on machines whose numbers are not known here."""
    known = _AUDIT_ARCH.get(platform.machine())
    if known is None:
        return False
    architecture, column = known
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06
    allow, refuse, kill = 0x7FFF0000, 0x00050000 | _EPERM, 0x80000000
    numbers = [numbers[column] for numbers in _REFUSED.values()]
    code = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, kill), (load, 0, 0, 0)]
    # Numbers from 2^30 on are x86-64's second table (x32).
    code += [(at_least, 0, 1, 0x40000000), (give, 0, 0, refuse)]
    code += [step for n in numbers for step in ((equal, 0, 1, n), (give, 0, 0, refuse))]
    code.append((give, 0, 0, allow))
    filled = (_Instruction * len(code))(*(_Instruction(*line) for line in code))
    program = _Program(len(code), ctypes.cast(filled, ctypes.POINTER(_Instruction)))
    call = ctypes.CDLL(None, use_errno=True).prctl
    return call(_PR_SET_SECCOMP, ctypes.c_ulong(2), ctypes.byref(program), 0, 0) == 0
