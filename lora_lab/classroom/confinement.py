"""Confines a process before it runs a stranger's code: by limits, Landlock and seccomp.

No root is needed. `setrlimit` limits memory, processor time, open files and the size of a file.
Linux's Landlock leaves a list of readable paths and a single writable folder. A seccomp filter,
made by libseccomp, refuses new processes, sockets and signals. The process can undo neither.

It does not protect from the processor's side channels, from bugs of the kernel, or from reading
the listed paths: Python, its packages and the system's libraries. Windows and macOS have neither
Landlock nor seccomp.
"""

import ctypes
import errno
import os
import platform
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MB = 1_000_000
SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", "/etc/localtime", "/nix/store")
KERNEL = ("/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/sys", "/proc/stat", "/sys")
DEVICES = ("/dev/null", "/dev/zero", "/dev/urandom", "/dev/random")

# --- Landlock: which files ------------------------------------------------------------------

LANDLOCK = {"create_ruleset": 444, "add_rule": 445, "restrict_self": 446}  # on every processor
EXECUTE, WRITE_FILE, READ_FILE, READ_DIR = 1, 2, 4, 8
RIGHTS_BY_VERSION = {1: 13, 2: 14, 3: 15, 5: 16}  # from a version on: the number of file rights
OF_FILES = EXECUTE | WRITE_FILE | READ_FILE | 1 << 14 | 1 << 15  # truncate, ioctl of a device
NETWORK = 3  # bind and connect by TCP, from version 4 on
SCOPES = 3  # abstract sockets and signals, from version 6 on
PATH_BENEATH = 1
NO_NEW_PRIVILEGES, DROP_BOUNDING = 38, 24  # of prctl

# --- seccomp: which calls of the system -----------------------------------------------------

ALLOW, REFUSE = 0x7FFF0000, 0x00050000
NOT_EQUAL, MASKED_EQUAL = 1, 7
CLONE_THREAD = 0x10000
REFUSED = """fork vfork socket kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo pidfd_open
    pidfd_send_signal ptrace process_vm_readv process_vm_writev io_uring_setup unshare setns mount
    umount2 pivot_root chroot bpf keyctl add_key request_key perf_event_open userfaultfd setrlimit
    reboot kexec_load init_module finit_module shmget msgget semget memfd_create setpriority
    sched_setaffinity mknod mknodat truncate chmod fchmod fchmodat fchmodat2 chown fchown lchown
    fchownat setxattr lsetxattr fsetxattr removexattr lremovexattr fremovexattr""".split()


class Unprotected(OSError):
    """This machine can't confine a process as asked."""


class Comparison(ctypes.Structure):
    """libseccomp's `scmp_arg_cmp`: a condition on an argument of a call."""

    _fields_ = [
        ("argument", ctypes.c_uint),
        ("operation", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    ]


class Ruleset(ctypes.Structure):
    """The kernel's `landlock_ruleset_attr`: what is refused where no rule allows it."""

    _fields_ = [(name, ctypes.c_uint64) for name in ("files", "network", "scoped")]


class PathRule(ctypes.Structure):
    """The kernel's `landlock_path_beneath_attr`: what is allowed at a path and below it."""

    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("folder", ctypes.c_int32)]


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a process may use."""

    seconds: int = 120  # of a processor; the runner also ends a process that waits this long
    memory: int = 4000 * MB  # bytes of addresses; torch and PEFT take 1,100 MB of them
    file: int = 64 * MB  # bytes of the largest file
    folder: int = 256 * MB  # bytes of all its files, watched by the runner
    open_files: int = 128


def missing_protection() -> str:
    """What this machine lacks to confine a process; "" where it has everything."""
    if not sys.platform.startswith("linux"):
        return f"{platform.system()} has neither Landlock nor seccomp; Linux has both"
    if _landlock_version() < 1:
        return "this Linux has no Landlock, which keeps a process from other files"
    try:
        _libseccomp()
    except OSError:
        return "libseccomp.so.2 is missing (Debian and Ubuntu: apt install libseccomp2)"
    return ""


def confine(
    limits: Limits, readable: Iterable[Path], writable: Path, *, protect: bool = True
) -> None:
    """Confine this process for the rest of its life.

    Args:
        limits: how much it may use.
        readable: paths with everything below them, as `readable_paths` gives them.
        writable: the only folder that it may write in.
        protect: whether files, processes and network are refused too; if not, there are only the
            limits.

    Raises:
        Unprotected: if the system refuses to confine it.
    """
    _set_limits(limits)
    if not protect:
        return
    lacking = missing_protection()
    if lacking:
        raise Unprotected(lacking)
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(64):  # root's; other users have none, and get an error
        libc.prctl(DROP_BOUNDING, capability, 0, 0, 0)
    _check(libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0), "no new privileges")
    _restrict_files(libc, readable, writable)
    _drop_capabilities(libc)
    _restrict_calls()


def readable_paths(python_paths: Sequence[Path], hidden: Sequence[Path]) -> Iterator[Path]:
    """The paths that Python needs to read: the system's libraries, its own, and its packages.

    If a folder holds a hidden path, its other parts are listed one by one.
    """
    yield from (Path(name) for name in (*SYSTEM, *KERNEL, *DEVICES))
    roots = {Path(path).resolve() for path in (sys.prefix, sys.base_prefix, *python_paths)}
    for root in sorted(roots):
        yield from _without(root, [Path(path).resolve() for path in hidden])


def _without(root: Path, hidden: Sequence[Path]) -> Iterator[Path]:
    """The largest paths below `root` that hold nothing hidden."""
    inside = [path for path in hidden if path.is_relative_to(root)]
    if not inside:
        if not any(root.is_relative_to(path) for path in hidden):
            yield root
        return
    if root in inside:
        return
    for child in sorted(root.iterdir()):
        yield from _without(child, inside)


def _set_limits(limits: Limits) -> None:
    """The kernel's own limits. Windows has none, and only the clock holds there."""
    try:
        import resource
    except ImportError:
        return
    for kind, most in (
        ("CPU", limits.seconds),
        ("AS", limits.memory),
        ("FSIZE", limits.file),
        ("NOFILE", limits.open_files),
        ("CORE", 0),
    ):
        number = getattr(resource, f"RLIMIT_{kind}")
        try:
            resource.setrlimit(number, (most, most + (kind == "CPU")))  # a word, then the end
        except (ValueError, OSError):  # macOS does not limit addresses
            if sys.platform.startswith("linux"):
                raise


def _landlock_version() -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    return libc.syscall(LANDLOCK["create_ruleset"], None, 0, 1)


def _restrict_files(libc: ctypes.CDLL, readable: Iterable[Path], writable: Path) -> None:
    """Landlock: everything is refused but what a rule allows."""
    version = _landlock_version()
    count = max(rights for since, rights in RIGHTS_BY_VERSION.items() if since <= version)
    everything = (1 << count) - 1
    asked = Ruleset(everything, NETWORK if version >= 4 else 0, SCOPES if version >= 6 else 0)
    size = 24 if version >= 6 else 16 if version >= 4 else 8  # older kernels know fewer fields
    ruleset = _check(
        libc.syscall(LANDLOCK["create_ruleset"], ctypes.byref(asked), size, 0), "a ruleset"
    )
    readable = [*readable]
    parents = {parent for path in readable for parent in path.parents}
    rights = dict.fromkeys(parents - {Path("/")}, READ_DIR)  # so that import can list them
    rights |= dict.fromkeys(readable, READ_FILE | READ_DIR | EXECUTE)
    rights[Path("/dev/null")] = READ_FILE | WRITE_FILE
    rights[writable] = everything
    for path, allowed in rights.items():
        _allow(libc, ruleset, path, allowed & everything)
    _check(libc.syscall(LANDLOCK["restrict_self"], ruleset, 0), "Landlock")
    os.close(ruleset)


def _allow(libc: ctypes.CDLL, ruleset: int, path: Path, allowed: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:  # not on this machine
        return
    if not path.is_dir():
        allowed &= OF_FILES
    rule = PathRule(allowed, place)
    _check(
        libc.syscall(LANDLOCK["add_rule"], ruleset, PATH_BENEATH, ctypes.byref(rule), 0), str(path)
    )
    os.close(place)


def _drop_capabilities(libc: ctypes.CDLL) -> None:
    """Give up root's special rights; for any other user this changes nothing."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of the interface, this process
    _check(libc.capset(header, (ctypes.c_uint32 * 6)()), "no capabilities")


def _libseccomp() -> ctypes.CDLL:
    library = ctypes.CDLL("libseccomp.so.2", use_errno=True)
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_load.argtypes = [ctypes.c_void_p]
    library.seccomp_rule_add_array.argtypes = [
        *(ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint),
        ctypes.POINTER(Comparison),
    ]
    return library


def _restrict_calls() -> None:
    """seccomp: the calls that a learner's function never needs are refused, for all threads."""
    library = _libseccomp()
    rules = library.seccomp_init(ALLOW)
    conditions = dict.fromkeys(REFUSED)
    conditions["prlimit64"] = Comparison(2, NOT_EQUAL, 0, 0)  # reading a limit is harmless
    conditions["clone"] = Comparison(0, MASKED_EQUAL, CLONE_THREAD, 0)  # a thread is harmless
    for name, condition in conditions.items():
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:  # not on this processor
            continue
        _add(library, rules, errno.EPERM, number, condition)
    clone3 = library.seccomp_syscall_resolve_name(b"clone3")
    if clone3 >= 0:  # its flags can't be seen; the C library then takes `clone`
        _add(library, rules, errno.ENOSYS, clone3, None)
    if library.seccomp_load(rules) != 0:
        raise Unprotected("seccomp refused its rules")


def _add(
    library: ctypes.CDLL, rules: int, error: int, number: int, condition: Comparison | None
) -> None:
    given = ctypes.byref(condition) if condition is not None else None
    count = int(condition is not None)
    if library.seccomp_rule_add_array(rules, REFUSE | error, number, count, given) != 0:
        raise Unprotected(f"seccomp refused a rule for the call {number}")


def _check(result: int, what: str) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise Unprotected(f"the system refused {what} ({os.strerror(number)})")
    return result
