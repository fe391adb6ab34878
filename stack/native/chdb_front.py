#!/usr/bin/env python3
"""ClickHouse's HTTP interface over chDB, for machines without a `clickhouse` binary.

chDB is ClickHouse's engine as a Python module: the same SQL, table engines and files. This front gives it the part
of ClickHouse's HTTP interface that clients use, with the same headers, error codes and statuses:

    chdb_front.py --listen 127.0.0.1:8123 --path DIR --user app --password-env CLICKHOUSE_PASSWORD

What it does
  - `GET /ping`, `GET /` → `Ok.`; queries by the `query` parameter, the body, both (parameter + data to insert), or a
    multipart form with `param_<name>` fields; `database` and `default_format` also as headers; settings as parameters.
  - User and password by basic auth, by `X-ClickHouse-User` / `X-ClickHouse-Key`, or as parameters.
  - LZ4 both ways, in ClickHouse's own framing (`compress=1`, `decompress=1`). Other encodings of a request are refused
    with ClickHouse's codes; a response to `Accept-Encoding` stays as it is, which HTTP allows and a loopback prefers.
  - Each request has an engine session of its own, so queries run side by side and no setting outlives its request.
  - An INSERT's data is received whole before the engine sees a byte of it: a client that vanishes inserts nothing.
    It is then inserted from a file, as `INSERT … FROM INFILE`: of all the ways that chDB has, this one is as fast as its
    streaming insert and reports every error, also those raised while rows are written (a violated constraint, too many
    parts, a materialized view that throws, a full disk). chDB's `insert_done` reports none of those.
    What was acknowledged is in the engine's files and survives `kill -9`.
  - SELECTs are streamed where their format allows it. An error after the first bytes is sent the way ClickHouse sends
    it (`X-ClickHouse-Exception-Tag`), and the response is broken off.

What it leaves out: sessions over several requests, external tables, progress headers, TLS, users other than the one,
expressions in VALUES, and all that reaches outside the server's tables (`chdb_guard.py` says how, and why).
"""

from __future__ import annotations

import argparse
import base64
import email.parser
import email.policy
import errno
import fcntl
import hmac
import http.server
import json
import logging
import os
import re
import secrets
import shutil
import signal
import socketserver
import struct
import sys
import tempfile
import threading
import time
import urllib.parse
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import lz4.block
from chdb import _chdb
from clickhouse_cityhash.cityhash import CityHash128

import chdb_guard
from chdb_guard import SPACE, Guard, Refused

MIB = 1 << 20
BODY_IN_MEMORY = 64 * MIB  # a larger request body goes to a file
SMALL_INSERT = MIB  # data up to this size is inserted by one thread: more cost more than they gain
ONE_THREAD = {"max_threads": "1", "max_parsing_threads": "1", "input_format_parallel_parsing": "0"}
INLINE_HEAD = 64 * 1024  # where data follows its INSERT in one body, the statement ends within this
BUFFERED_RESPONSE = MIB  # a result up to this size is complete, and known to be without error, before its status is sent
DRAIN_SECONDS = 8.0  # how long SIGTERM waits for requests under way
IDLE_SECONDS = 300.0  # a connection on which nothing moves for so long is closed

# Parameters of the HTTP interface itself; all others are settings of the query.
INTERFACE_PARAMETERS = frozenset(
    "query database default_format user password query_id quota_key role compress decompress wait_end_of_query buffer_size "
    "stacktrace session_id session_timeout session_check close_session client_protocol_version "
    "enable_http_compression http_zlib_compression_level".split()
)

# The status of an exception is 500 unless its name is here (as in ClickHouse's exceptionCodeToHTTPStatus).
STATUSES = {
    401: "REQUIRED_PASSWORD",
    403: "UNKNOWN_USER WRONG_PASSWORD AUTHENTICATION_FAILED SET_NON_GRANTED_ROLE ACCESS_DENIED",
    400: "BAD_ARGUMENTS CANNOT_COMPILE_REGEXP CANNOT_PARSE_TEXT CANNOT_PARSE_ESCAPE_SEQUENCE CANNOT_PARSE_QUOTED_STRING "
    "CANNOT_PARSE_DATE CANNOT_PARSE_DATETIME CANNOT_PARSE_NUMBER CANNOT_PARSE_DOMAIN_VALUE_FROM_STRING CANNOT_PARSE_IPV4 "
    "CANNOT_PARSE_IPV6 CANNOT_PARSE_INPUT_ASSERTION_FAILED CANNOT_PARSE_UUID DUPLICATE_COLUMN ILLEGAL_COLUMN "
    "UNKNOWN_ELEMENT_IN_AST UNKNOWN_TYPE_OF_AST_NODE THERE_IS_NO_COLUMN TOO_DEEP_AST TOO_BIG_AST "
    "UNEXPECTED_AST_STRUCTURE SYNTAX_ERROR INCORRECT_DATA TYPE_MISMATCH VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE",
    404: "UNKNOWN_TABLE UNKNOWN_FUNCTION UNKNOWN_IDENTIFIER UNKNOWN_TYPE UNKNOWN_STORAGE UNKNOWN_DATABASE UNKNOWN_SETTING "
    "UNKNOWN_DIRECTION_OF_SORTING UNKNOWN_AGGREGATE_FUNCTION UNKNOWN_FORMAT UNKNOWN_DATABASE_ENGINE UNKNOWN_TYPE_OF_QUERY "
    "UNKNOWN_ROLE",
    408: "TIMEOUT_EXCEEDED",
    413: "QUERY_IS_TOO_LARGE",
    501: "NOT_IMPLEMENTED",
    503: "SOCKET_TIMEOUT CANNOT_OPEN_FILE CANNOT_SCHEDULE_TASK",
}
STATUS_OF = {name: status for status, names in STATUSES.items() for name in names.split()}

TEXT = "text/plain; charset=UTF-8"
CONTENT_TYPES = {
    "TabSeparated": "text/tab-separated-values; charset=UTF-8",
    "CSV": "text/csv; charset=UTF-8; header=absent",
    "JSON": "application/json; charset=UTF-8",
    "JSONCompact": "application/json; charset=UTF-8",
    "JSONEachRow": "application/x-ndjson; charset=UTF-8",
    "RowBinary": "application/octet-stream",
    "RowBinaryWithNamesAndTypes": "application/octet-stream",
    "Native": "application/octet-stream",
}

# chDB streams a result as documents of one format. For these a sequence of documents is a document
# (RowBinaryWithNamesAndTypes once the repeated header is cut); a result in any other format is made whole first.
STREAMABLE = frozenset(
    "RowBinary RowBinaryWithNamesAndTypes TabSeparated TSV TabSeparatedRaw TSVRaw CSV JSONEachRow JSONCompactEachRow".split()
)

IS_INSERT = re.compile(rf"^{SPACE}*INSERT\s+INTO\b", re.IGNORECASE | re.DOTALL)
PARENTHESES = re.compile(r"\([^()]*\)")
UNREAD = re.compile(  # comments and quoted texts: no keyword in them is one
    r"--[^\n]*|\#[ !][^\n]*|/\*.*?\*/|'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|`(?:[^`\\]|\\.)*`|\$(\w*)\$.*?\$\1\$", re.DOTALL
)
# These are for statements of which that is blanked out.
ANY_FORMAT = re.compile(r"\bFORMAT\s+\w", re.IGNORECASE)
TAIL_FORMAT = re.compile(r"\bFORMAT\s+([A-Za-z]\w*)(\s+SETTINGS\b[^;]*)?\s*;?\s*$", re.IGNORECASE | re.ASCII)
TAIL_VALUES = re.compile(r"\bVALUES\s*;?\s*$", re.IGNORECASE)
INLINE_FORMAT = re.compile(r"\bFORMAT\s+([A-Za-z]\w*)[ \t]*;?(?:[ \t]*\r?\n|[ \t]+)", re.IGNORECASE | re.ASCII)
EXCEPTION_NAME = re.compile(r"\(([A-Z][A-Z0-9_]+)\)(?: \(version [^)]*\))?\s*$")

log = logging.getLogger("chdb_front")


class QueryError(Exception):
    """An exception as ClickHouse reports it: a code, a name and a text."""

    def __init__(self, code: int, name: str, text: str) -> None:
        super().__init__(f"Code: {code}. DB::Exception: {text} ({name})")
        self.code, self.status = code, STATUS_OF.get(name, 500)

    @classmethod
    def of(cls, error: Exception) -> QueryError:
        """Any exception as one of ClickHouse's."""
        if isinstance(error, QueryError):
            return error
        if isinstance(error, Refused):
            return cls(497, "ACCESS_DENIED", f"Not enough privileges: {error}.")
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return cls(243, "NOT_ENOUGH_SPACE", f"Cannot keep the request's data: {error.strerror}.")
        return cls.of_engine(error)

    @classmethod
    def of_engine(cls, error: Exception) -> QueryError:
        """Takes code and name from the text of an exception the engine threw."""
        text = str(error).strip()
        code, name = re.search(r"Code: (\d+)", text), EXCEPTION_NAME.search(text)
        made = cls(int(code[1]) if code else 1001, name[1] if name else "STD_EXCEPTION", text)
        if code:
            made.args = (text[code.start() :],)
        return made

    def body(self, version: str) -> bytes:
        text = str(self)
        return (text if "(version " in text else f"{text} (version {version})").encode() + b"\n"


class ClientGone(Exception):
    """The request's body broke off or made no sense: there is nobody to answer and nothing to do."""


# --- the engine ------------------------------------------------------------------------------------------------------


class Engine:
    """The one embedded engine of this process. The keeper connection holds it open between requests."""

    def __init__(self, path: str, configuration: str) -> None:
        probe = _chdb.connect(":memory:")
        try:
            config = chdb_guard.write_configuration(probe, configuration)
            self.guard = Guard(probe)
        finally:
            probe.close()
        chdb_guard.write_default_database(path)
        self.path = f"{path}?config-file={config}"
        self.lock = threading.Lock()
        self.keeper = _chdb.connect(self.path)
        row = self.keeper.query("SELECT version(), timezone()", "TabSeparated").bytes().decode().split()
        self.version, self.timezone = row[0], row[1]

    @contextmanager
    def session(self, database: str, settings: dict[str, str], read_only: bool) -> Iterator[Any]:
        """A connection with a session of its own: opened in half a millisecond, gone with the request."""
        with self.lock:
            connection = _chdb.connect(self.path)
        try:
            wanted = dict(settings)
            if read_only and wanted.setdefault("readonly", "2") not in ("1", "2"):
                raise QueryError(164, "READONLY", "Cannot modify 'readonly' setting in readonly mode.")
            for name in wanted:
                if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name):
                    raise QueryError(115, "UNKNOWN_SETTING", f"Unknown setting '{name}'.")
            if database:
                connection.query(f"USE {quoted(database, '`')}")
            if wanted:
                connection.query("SET " + ", ".join(f"{name} = {quoted(value)}" for name, value in wanted.items()))
            yield connection
        finally:
            with self.lock:
                connection.close()

    def close(self) -> None:
        self.keeper.close()


def quoted(text: str, mark: str = "'") -> str:
    return mark + text.replace("\\", "\\\\").replace(mark, "\\" + mark) + mark


# --- statements ------------------------------------------------------------------------------------------------------


def blanked(statement: str) -> str:
    """The statement with blanks for its comments and quoted texts; every other letter stays where it is."""
    return UNREAD.sub(lambda found: " " * len(found[0]), statement)


def split_insert(statement: str) -> tuple[str, str] | None:
    """`INSERT INTO t (a) FORMAT X` → (`INSERT INTO t (a)`, `X`): an insert whose data follows apart; None otherwise."""
    bare = blanked(statement)
    if not IS_INSERT.match(statement) or has_source(bare):
        return None
    if found := TAIL_FORMAT.search(bare):
        settings = statement[found.start(2) : found.end(2)] if found[2] else ""
        return statement[: found.start()] + settings, found[1]
    if found := TAIL_VALUES.search(bare):
        return statement[: found.start()], "Values"
    return None


def split_inline_insert(text: bytes) -> tuple[str, str, int] | None:
    """The same for one text of statement and data: the statement, the format, and where the data begins."""
    if not IS_INSERT.match(text[:4096].decode(errors="replace")):
        return None
    bare = blanked(text.decode("latin-1"))  # a letter for each byte
    found = INLINE_FORMAT.search(bare)
    if not found or has_source(bare[: found.start()]):
        return None
    return text[: found.start()].decode(errors="replace"), found[1], found.end()


def has_source(bare: str) -> bool:
    """Whether an INSERT brings its rows itself, by SELECT or VALUES, once parentheses are out of the way."""
    while (less := PARENTHESES.sub(" ", bare)) != bare:
        bare = less
    bare = TAIL_VALUES.sub("", bare)
    return re.search(r"\b(SELECT|WITH|VALUES|FROM\s+INFILE)\b", bare, re.IGNORECASE) is not None


def output_format(statement: str, default: str) -> tuple[str, bool]:
    """The format of a result, and whether that is for certain."""
    if not re.search("FORMAT", statement, re.IGNORECASE):
        return default, True
    bare = blanked(statement)
    if found := TAIL_FORMAT.search(bare):
        return found[1], True
    return default, not ANY_FORMAT.search(bare)


def rows_header_length(document: bytes) -> int:
    """The length of the header of a RowBinaryWithNamesAndTypes document: a count, then names, then types."""

    def varint(at: int) -> tuple[int, int]:
        value = shift = 0
        while True:
            byte = document[at]
            at, value, shift = at + 1, value | (byte & 0x7F) << shift, shift + 7
            if byte < 0x80:
                return value, at

    columns, at = varint(0)
    for _ in range(2 * columns):
        size, at = varint(at)
        at += size
    return at


# --- compression -----------------------------------------------------------------------------------------------------


def checksum(block: bytes) -> bytes:
    """ClickHouse's checksum of a compressed block: CityHash 1.0.2, low half first."""
    value = CityHash128(block)
    return struct.pack("<QQ", value >> 64, value & 0xFFFFFFFFFFFFFFFF)


def decompress_blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Reads ClickHouse's framing: checksum (16), method (1), compressed size with this header (4), size (4), data."""
    buffer = bytearray()
    for chunk in chunks:
        buffer += chunk
        while len(buffer) >= 25:
            method, packed, size = struct.unpack_from("<BII", buffer, 16)
            if not 9 <= packed <= 1 << 30 or size > 1 << 30:
                raise QueryError(271, "CANNOT_DECOMPRESS", f"Wrong sizes of a compressed block: {packed}, {size}.")
            if len(buffer) < 16 + packed:
                break
            block = bytes(buffer[16 : 16 + packed])
            if checksum(block) != buffer[:16]:
                raise QueryError(40, "CHECKSUM_DOESNT_MATCH", "Checksum doesn't match: corrupted data.")
            del buffer[: 16 + packed]
            if method == 0x82:
                try:
                    yield lz4.block.decompress(block[9:], uncompressed_size=size)
                except lz4.block.LZ4BlockError as error:
                    raise QueryError(271, "CANNOT_DECOMPRESS", f"Cannot decompress an LZ4 block: {error}.") from error
            elif method == 0x02:
                yield block[9:]
            else:
                raise QueryError(89, "UNKNOWN_COMPRESSION_METHOD", f"Unknown compression method: {method}, use LZ4.")
    if buffer:
        raise QueryError(32, "ATTEMPT_TO_READ_AFTER_EOF", "Attempt to read after eof: a compressed block is cut off.")


def compress_blocks(chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        for start in range(0, len(chunk), MIB):
            piece = chunk[start : start + MIB]
            packed = lz4.block.compress(piece, store_size=False)
            block = struct.pack("<BII", 0x82, len(packed) + 9, len(piece)) + packed
            yield checksum(block) + block


# --- HTTP ------------------------------------------------------------------------------------------------------------


class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: tuple[str, int], engine: Engine, user: str, password: str, spool: str) -> None:
        self.engine, self.user, self.password, self.spool = engine, user, password, spool
        self.listens_on = address[0]
        self.stopping = False
        self.under_way = 0
        self.changed = threading.Condition()
        super().__init__(address, Handler)

    @contextmanager
    def request_under_way(self) -> Iterator[None]:
        with self.changed:
            self.under_way += 1
        try:
            yield
        finally:
            with self.changed:
                self.under_way -= 1
                self.changed.notify_all()

    def drain(self, seconds: float) -> bool:
        with self.changed:
            return self.changed.wait_for(lambda: self.under_way == 0, seconds)

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exception() if hasattr(sys, "exception") else sys.exc_info()[1]
        if not isinstance(error, (ConnectionError, TimeoutError)):
            log.exception("a request from %s failed", client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "ClickHouse", "(chDB)"
    disable_nagle_algorithm = True
    timeout = IDLE_SECONDS
    rbufsize = 256 * 1024
    server: Server

    def do_GET(self) -> None:
        self.answer()

    do_POST = do_HEAD = do_GET

    def log_message(self, *_: Any) -> None:
        """Says nothing about requests that went well."""

    def answer(self) -> None:
        url = urllib.parse.urlsplit(self.path)
        self.parameters = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        self.query_id = re.sub(r"[^\x20-\x7e]", "", self.parameters.get("query_id", "")) or str(uuid.uuid4())
        self.format, self.summary, self.started = "", {}, False
        self.incoming = self.body_chunks()
        with self.server.request_under_way():
            try:
                self.route(url)
                self.read_to_end()
            except (ClientGone, ConnectionError, TimeoutError):
                self.close_connection = True
        self.close_connection |= self.server.stopping

    def route(self, url: urllib.parse.SplitResult) -> None:
        try:
            if refusal := chdb_guard.refusal(self.headers, self.server.listens_on):
                self.send(403, f"Forbidden: {refusal}.\n".encode(), TEXT)
            elif url.path in ("/ping", "/replicas_status") or url.path == "/" and self.command != "POST" and not url.query:
                self.send(200, b"Ok.\n", "text/html; charset=UTF-8")
            elif url.path == "/":
                self.authenticate()
                self.execute()
            else:
                self.send(404, f"There is no handle {url.path}\n\nUse / or /ping for health checks.\n".encode(), TEXT)
        except (ClientGone, ConnectionError, TimeoutError):
            raise
        except Exception as error:  # the engine's exceptions are plain RuntimeErrors with ClickHouse's text
            self.send_error_of(QueryError.of(error))

    def authenticate(self) -> None:
        user, password = self.header("X-ClickHouse-User"), self.header("X-ClickHouse-Key")
        if user is None and password is None:
            scheme, _, credentials = self.headers.get("Authorization", "").partition(" ")
            if scheme.lower() == "basic":
                try:
                    user, _, password = base64.b64decode(credentials, validate=True).decode().partition(":")
                except ValueError:
                    raise QueryError(516, "AUTHENTICATION_FAILED", "Invalid HTTP credentials: not in base64.") from None
            else:
                user, password = self.parameters.get("user"), self.parameters.get("password")
        user = user or "default"
        right = hmac.compare_digest(user.encode(), self.server.user.encode())
        right &= hmac.compare_digest((password or "").encode(), self.server.password.encode())
        if not right:
            reason = "Authentication failed: password is incorrect, or there is no user with such name."
            raise QueryError(516, "AUTHENTICATION_FAILED", f"{user}: {reason}")

    def header(self, name: str) -> str | None:
        """A header as its client wrote it: bytes of UTF-8, which http.server takes for Latin-1."""
        value = self.headers.get(name)
        return None if value is None else value.encode("latin-1", "replace").decode(errors="replace")

    def flag(self, name: str) -> bool:
        return self.parameters.get(name, "").lower() in ("1", "true")

    def execute(self) -> None:
        """Runs the request's statement in a session of its own and sends its result."""
        parameters = self.parameters
        if parameters.get("session_id"):
            raise QueryError(48, "NOT_IMPLEMENTED", "Sessions over several requests are not supported by this server.")
        statement = parameters.get("query", "")
        insert = split_insert(statement)
        # The engine reads an insert's data from a file.
        with self.receive(in_file=bool(insert)) as body:
            if (content_type := self.headers.get("Content-Type", "")).lower().startswith("multipart/form-data"):
                parameters |= form_fields(content_type, body.read())
                statement = parameters.get("query", "")
                insert = split_insert(statement)
            inline = b""  # the beginning of an insert's data, where it was read with its statement
            if not insert:
                prefix = statement.encode() + b"\n" if statement else b""
                head = prefix + body.read(INLINE_HEAD)
                if found := split_inline_insert(head):
                    insert, inline = found[:2], head[found[2] :]
                else:
                    statement = (head + body.read()).decode(errors="surrogateescape").strip()
            if not insert and not statement:
                raise QueryError(62, "SYNTAX_ERROR", "Syntax error: failed at position 1 (end of query): Empty query.")
            read_only = self.command != "POST"  # as in ClickHouse, GET must not change anything
            if insert and read_only:
                raise QueryError(164, "READONLY", "Cannot execute query in readonly mode. For queries over HTTP, method GET "
                                 "implies readonly. You should use method POST for modifying queries.")
            settings = {name: value for name, value in parameters.items()
                        if name not in INTERFACE_PARAMETERS and not name.startswith("param_")}
            if insert and os.fstat(body.fileno()).st_size <= SMALL_INSERT:
                settings = {**ONE_THREAD, **settings}
            database = self.header("X-ClickHouse-Database") or parameters.get("database", "")
            with self.server.engine.session(database, settings, read_only) as connection:
                if insert:
                    self.insert(connection, *insert, inline, body)
                else:
                    self.run(connection, statement)

    def insert(self, connection: Any, statement: str, data_format: str, inline: bytes, body: BinaryIO) -> None:
        """Stores all the rows of the request, or raises what the engine raised: acknowledged is what is stored."""
        with self.rest_in_file(inline, body) as file:
            path = f"/proc/self/fd/{file.fileno()}"
            statement = self.server.engine.guard.insert_from_file(connection, statement, data_format, path)
            self.summarize(connection.query(statement, "TabSeparated", params=self.query_parameters()))
        self.send(200, b"", TEXT)

    @contextmanager
    def rest_in_file(self, inline: bytes, body: BinaryIO) -> Iterator[BinaryIO]:
        """A file of what is left of the body, after what was read of it: the body itself where it is such a file."""
        if isinstance(body, tempfile.SpooledTemporaryFile) or inline or body.tell():
            with tempfile.TemporaryFile(dir=self.server.spool) as file:
                file.write(inline)
                shutil.copyfileobj(body, file, MIB)
                file.flush()
                yield file
        else:
            yield body

    def query_parameters(self) -> dict[str, str]:
        return {name[6:]: value for name, value in self.parameters.items() if name.startswith("param_")}

    def run(self, connection: Any, statement: str) -> None:
        kind = connection.classify_query(statement)
        if kind["statement_count"] > 1:
            raise QueryError(62, "SYNTAX_ERROR", "Syntax error (Multi-statements are not allowed).")
        if kind["statement_count"] == 0:
            connection.query("SET readonly = 1")  # not understood, so an error follows; meanwhile nothing may change
        self.server.engine.guard.check(connection, statement)
        values = self.query_parameters()
        default = self.header("X-ClickHouse-Format") or self.parameters.get("default_format") or "TabSeparated"
        default = re.sub(r"[^\x21-\x7e]", "", default)  # it becomes a header
        self.format, certain = output_format(statement, default)
        streams = certain and self.format in STREAMABLE
        self.send_result(self.results(connection, statement, default, values, streams))

    def results(
        self, connection: Any, statement: str, default: str, values: dict[str, str], streams: bool
    ) -> Iterator[bytes]:
        """The result's bytes: piece by piece where the format allows it, else whole."""
        stream = None
        if streams:
            try:
                stream = connection.send_query(statement, default, params=values)
            except RuntimeError as error:
                if "Streaming query is not supported" not in str(error):
                    raise
        if stream is None:
            result = connection.query(statement, default, params=values)
            self.summarize(result)
            yield result.bytes()
            return
        first, skip = True, 0
        while True:
            piece = connection.streaming_fetch_result(stream)
            rows, document = piece.rows_read(), piece.bytes()
            if self.format == "RowBinaryWithNamesAndTypes" and document:
                document, skip = document[skip:], skip or rows_header_length(document)
            if document and (rows or first):
                yield document
            if rows == 0:
                return
            first = False

    # --- receiving

    def receive(self, in_file: bool) -> BinaryIO:
        """The request's body, whole and decompressed: in a file, or in memory as long as it is not large."""
        if (encoding := self.headers.get("Content-Encoding", "identity").strip().lower()) != "identity":
            raise QueryError(48, "NOT_IMPLEMENTED", f"Unknown compression method '{encoding}', use decompress=1 with LZ4.")
        chunks = decompress_blocks(self.incoming) if self.flag("decompress") else self.incoming
        spool = self.server.spool
        body = tempfile.TemporaryFile(dir=spool) if in_file else tempfile.SpooledTemporaryFile(BODY_IN_MEMORY, dir=spool)
        try:
            for chunk in chunks:
                body.write(chunk)
            body.seek(0)
        except BaseException:
            close_quietly(body)
            raise
        return body

    def read_to_end(self) -> None:
        """Drops what is left of a body nobody wanted, or it would be taken for the next request."""
        for _ in self.incoming:
            pass

    def body_chunks(self) -> Iterator[bytes]:
        try:
            if "chunked" in self.headers.get("Transfer-Encoding", "").lower():
                while size := int(self.line().split(b";")[0], 16):
                    yield from self.exactly(size)
                    self.line()
                while self.line():
                    pass  # trailers
            else:
                yield from self.exactly(int(self.headers.get("Content-Length") or 0))
        except ValueError:
            raise ClientGone from None

    def line(self) -> bytes:
        line = self.rfile.readline(4096)
        if not line.endswith(b"\n"):
            raise ClientGone
        return line.rstrip(b"\r\n")

    def exactly(self, size: int) -> Iterator[bytes]:
        while size > 0:
            piece = self.rfile.read(min(size, MIB))
            if not piece:
                raise ClientGone
            size -= len(piece)
            yield piece

    # --- sending

    def summarize(self, result: Any) -> None:
        self.summary = {
            "read_rows": str(result.storage_rows_read()),
            "read_bytes": str(result.storage_bytes_read()),
            "written_rows": str(result.rows_written()),
            "written_bytes": str(result.bytes_written()),
            "result_rows": str(result.rows_read()),
            "result_bytes": str(result.size()),
            "elapsed_ns": str(int(result.elapsed() * 1e9)),
        }

    def send_result(self, pieces: Iterator[bytes]) -> None:
        """Sends a small result whole, with its length; a larger one in chunks, as it comes."""
        if self.flag("compress"):
            pieces = compress_blocks(pieces)
        content_type = CONTENT_TYPES.get(self.format, TEXT)
        held: list[bytes] = []
        size = 0
        for piece in pieces:
            held.append(piece)
            size += len(piece)
            if size > BUFFERED_RESPONSE:
                break
        else:
            self.send(200, b"".join(held), content_type)
            return
        self.tag = secrets.token_hex(8)
        self.begin(200, content_type, {"Transfer-Encoding": "chunked", "X-ClickHouse-Exception-Tag": self.tag})
        if self.command == "HEAD":
            return  # whatever followed would be taken for the next answer
        for piece in held:
            self.send_chunk(piece)
        held.clear()
        for piece in pieces:
            self.send_chunk(piece)
        self.wfile.write(b"0\r\n\r\n")

    def send_chunk(self, piece: bytes) -> None:
        for start in range(0, len(piece), MIB):
            part = piece[start : start + MIB]
            self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))

    def send_error_of(self, error: QueryError) -> None:
        body = error.body(self.server.engine.version)
        self.summary = {}
        if not self.started:
            self.read_to_end()  # a client that still writes would see its connection reset instead of this answer
        if error.status >= 500:
            log.warning("%s", body.decode(errors="replace").rstrip()[:500])
        if self.started:  # the status is out: tell it in the body, and break off
            tag = self.tag.encode()
            mark = b"\r\n__exception__\r\n"
            self.send_chunk(mark + tag + b"\r\n" + body + b"%d " % len(body) + tag + mark)
            self.close_connection = True
            return
        self.send(error.status, body, TEXT, {"X-ClickHouse-Exception-Code": str(error.code)})

    def send(self, status: int, body: bytes, content_type: str, headers: dict[str, str] | None = None) -> None:
        self.begin(status, content_type, {"Content-Length": str(len(body)), **(headers or {})}, body)

    def begin(self, status: int, content_type: str, headers: dict[str, str], body: bytes = b"") -> None:
        """Head and body in one write, so that a small answer is one packet."""
        self.started = True
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Connection", "close" if self.close_connection or self.server.stopping else "Keep-Alive")
        self.send_header("X-ClickHouse-Server-Display-Name", "fanout")
        self.send_header("X-ClickHouse-Query-Id", self.query_id)
        self.send_header("X-ClickHouse-Timezone", self.server.engine.timezone)
        if self.format:
            self.send_header("X-ClickHouse-Format", self.format)
        if self.summary:
            self.send_header("X-ClickHouse-Summary", json.dumps(self.summary, separators=(",", ":")))
        for name, value in headers.items():
            self.send_header(name, value)
        if self.command != "HEAD":
            self._headers_buffer.append(b"\r\n" + body)
            self.flush_headers()
        else:
            self.end_headers()


def close_quietly(file: BinaryIO) -> None:
    """Closes a file whose last bytes may have no place on the disk."""
    try:
        file.close()
    except OSError:
        pass


def form_fields(content_type: str, body: bytes) -> dict[str, str]:
    """The fields of a multipart form: how the statement comes with `param_<name>` values too long for a URL."""
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
        b"Content-Type: " + content_type.encode() + b"\r\n\r\n" + body
    )
    fields = {}
    for part in message.iter_parts():
        if part.get_filename() is not None:
            raise QueryError(48, "NOT_IMPLEMENTED", "External tables are not supported by this server.")
        name = part.get_param("name", header="content-disposition")
        fields[str(name)] = (part.get_payload(decode=True) or b"").decode()
    return fields


# --- the process -----------------------------------------------------------------------------------------------------


def hold_lock(path: str) -> BinaryIO:
    """Two engines over one folder would ruin it: the folder's lock is held until the process ends, however it ends."""
    file = open(os.path.join(path, "front.lock"), "a+b")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        sys.exit(f"chdb_front: {path} is in use by pid {file.read().decode().strip() or 'unknown'}")
    file.truncate(0)
    file.write(f"{os.getpid()}\n".encode())
    file.flush()
    return file


def main() -> int:
    parser = argparse.ArgumentParser(description="ClickHouse's HTTP interface over chDB")
    parser.add_argument("--listen", default="127.0.0.1:8123", metavar="HOST:PORT")
    parser.add_argument("--path", required=True, help="folder of the data; made when it is not there")
    parser.add_argument("--user", default="default")
    parser.add_argument("--password-env", metavar="NAME", help="environment variable that holds the password")
    options = parser.parse_args()
    logging.basicConfig(format="%(asctime)s.%(msecs)03dZ %(levelname)-5s %(message)s", datefmt="%Y-%m-%dT%H:%M:%S", level=logging.INFO)
    logging.Formatter.converter = time.gmtime

    host, _, port = options.listen.rpartition(":")
    password = os.environ.get(options.password_env, "") if options.password_env else ""
    path = os.path.abspath(options.path)
    os.makedirs(path, exist_ok=True)
    _lock = hold_lock(path)
    spool = os.path.join(path, "front.spool")
    shutil.rmtree(spool, ignore_errors=True)
    os.makedirs(spool)
    os.environ["TMPDIR"] = spool  # the usual folder may be another user's

    # Waited for below, in this thread alone; threads made from here on inherit that they leave them alone.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    engine = Engine(os.path.join(path, "engine"), os.path.join(path, "front.conf"))
    server = Server((host, int(port)), engine, options.user, password, spool)
    threading.Thread(target=server.serve_forever, name="accept", daemon=True).start()
    log.info("ClickHouse %s (chDB) listens on http://%s, data in %s", engine.version, options.listen, path)

    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    server.stopping = True
    server.shutdown()
    server.server_close()
    drained = server.drain(DRAIN_SECONDS)
    if drained:
        engine.close()
    log.info("stopped" if drained else "stopped with requests under way")
    sys.stderr.flush()
    os._exit(0)  # connections at rest hold threads; nothing of theirs is worth waiting for


if __name__ == "__main__":
    sys.exit(main())
