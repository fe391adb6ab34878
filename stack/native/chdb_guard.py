"""What the ClickHouse front lets in: which requests, which statements, which settings.

The front's password may be known to everyone (the demo's is documented), so whoever logs in may read and write tables and
nothing else: no file, no URL, no other server, no program. Three layers hold that, each closed unless something is opened:

1. *ClickHouse's own privileges.* The engine starts with a configuration whose one user has the grants in `GRANTS`. The
   engine itself then refuses sources (`file`, `url`, `s3`, `remote`, `mysql`, …), their table and database engines,
   dictionaries, named collections, BACKUP and RESTORE, users and grants, and most of SYSTEM. Its database `default` is an
   ordinary one: chDB's own shows files as tables.
2. *Constraints on settings.* Settings hold paths, URLs, SQL and other dialects (`format_schema`, `output_format_schema`,
   `additional_table_filters`, a table's `disk`, …). Every setting of a textual type is constant, except those in
   `FREE_SETTINGS`; so is what else changes how a statement is read (`PINNED_SETTINGS`).
3. *A look at the statement*, for what the engine has no privilege for: the scalar function `file`, INTO OUTFILE and FROM
   INFILE (the embedded client does those itself), chDB's `python`, `executable`, engines that take a path, ATTACH, and
   table functions that open something before their privilege is checked. What is looked at is the text in which ClickHouse
   itself formats the parsed statement, without comments, with one spelling for every name. Engines and table functions
   are taken from lists of what is allowed, so those of later versions are refused until someone looks at them.

A browser's request from another page is refused before its credentials are looked at: `refusal`.
"""

from __future__ import annotations

import ipaddress
import os
import re
import uuid
from collections.abc import Mapping
from typing import Any
from xml.sax.saxutils import escape

GRANTS = (
    "GRANT SHOW, SELECT, INSERT, ALTER TABLE, ALTER VIEW, CREATE DATABASE, CREATE TABLE, CREATE VIEW, CREATE TEMPORARY TABLE, "
    "DROP, TRUNCATE, UNDROP TABLE, OPTIMIZE, CHECK, KILL QUERY, dictGet, SYSTEM MERGES, SYSTEM TTL MERGES ON *.*",
    # every session of the engine begins in it
    "REVOKE DROP DATABASE ON default.*",
)

# Settings of a textual type that name no file, no server and no statement.
FREE_SETTINGS = frozenset(
    "bool_false_representation bool_true_representation column_names_for_schema_inference count_distinct_implementation database "
    "default_format exclude_materialize_skip_indexes_on_insert force_data_skipping_indices force_optimize_projection_name "
    "format_csv_null_representation format_custom_field_delimiter format_custom_result_after_delimiter "
    "format_custom_result_before_delimiter format_custom_row_after_delimiter format_custom_row_before_delimiter "
    "format_custom_row_between_delimiter format_json_object_each_row_column_for_object_name format_regexp "
    "format_tsv_null_representation ignore_data_skipping_indices insert_deduplication_token log_comment "
    "output_format_pretty_grid_charset output_format_sql_insert_table_name preferred_optimize_projection_name query_cache_tag "
    "schema_inference_hints session_timezone "
    "merge_tree_auto_statistics_types merge_tree_columns_to_prewarm_mark_cache merge_tree_default_compression_codec "
    "merge_tree_marks_compression_codec merge_tree_primary_key_compression_codec merge_tree_string_serialization_version".split()
)

# Settings of other types that stay as they are, with their values.
PINNED_SETTINGS = {
    "implicit_select": "0",
    # VALUES would evaluate expressions, the function `file` among them, that no look at the statement sees
    "input_format_values_interpret_expressions": "0",
    "input_format_values_deduce_templates_of_expressions": "0",
    # an insert is stored when it is acknowledged
    "wait_for_async_insert": "1",
    # the engine's messages are for its log, not for whoever asks
    "send_logs_level": "none",
    "allow_experimental_eval_table_function": "0",
}

TABLE_FUNCTIONS = frozenset(
    "dictionary format generateRandom generateSeries generate_series loop merge mergeTreeAnalyzeIndexes mergeTreeIndex "
    "mergeTreeProjection null numbers numbers_mt primes values view viewExplain viewIfPermitted zeros zeros_mt".split()
)

# Functions that are no table functions and reach outside; `disk` is how a table's settings define one.
OUTSIDE_FUNCTIONS = frozenset("file disk hasColumnInTable reverseDNSQuery catboostEvaluate showCertificate".split())
AI_FUNCTION = re.compile(r"(?:ai|AI)[A-Z]")

ENGINES = frozenset(
    "AggregatingMergeTree Alias Atomic Buffer CoalescingMergeTree CollapsingMergeTree GenerateRandom GraphiteMergeTree Join Log "
    "MaterializedView Memory Merge MergeTree Null Ordinary ReplacingMergeTree Set StripeLog SummingMergeTree TinyLog "
    "VersionedCollapsingMergeTree View".lower().split()
)

STATEMENTS = frozenset(
    "ALTER CHECK CREATE DELETE DESC DESCRIBE DROP EXCHANGE EXISTS EXPLAIN INSERT KILL OPTIMIZE RENAME SELECT SET SHOW SYSTEM "
    "TRUNCATE UNDROP UPDATE USE WITH".split()
)

SPACE = r"(?:\s|--[^\n]*(?:\n|$)|/\*.*?\*/)"
FIRST_WORD = re.compile(rf"(?:{SPACE}|\()*([A-Za-z]+)", re.DOTALL)

# In the text that ClickHouse formats: texts, and names in quotes.
QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|`(?:[^`\\]|\\.)*`|\"(?:[^\"\\]|\\.)*\"", re.DOTALL)
SIMPLE_NAME = re.compile(r"\w+", re.ASCII)
OTHER_FILE = re.compile(r"\bINTO OUTFILE\b|\bFROM INFILE\b")
ENGINE = re.compile(r"\bENGINE = (\w+)", re.ASCII)
CALL = re.compile(r"(\w+)\(", re.ASCII)  # a column list has a space before it

# INSERT INTO t, INSERT INTO d.t (a, b): with nothing in it to look at.
NAME = r"(?:[A-Za-z_]\w*|`\w+`)"
PLAIN_INSERT = re.compile(
    rf"\s*INSERT\s+INTO\s+(?:TABLE\s+)?{NAME}(?:\.{NAME})?\s*(?:\(\s*{NAME}(?:\s*,\s*{NAME})*\s*\))?\s*",
    re.IGNORECASE | re.ASCII,
)
FORMATTED_INSERT = re.compile(r"(INSERT INTO .*?)((?: SETTINGS \w+ = .*)? FORMAT \w+)", re.DOTALL)


class Refused(Exception):
    """The statement would reach outside the tables of this server."""


def write_configuration(probe: Any, folder: str) -> str:
    """Writes the engine's configuration and returns its path; `probe` is a connection to an engine without data."""
    texts = rows(probe, "SELECT name FROM system.settings WHERE type IN ('String', 'Map', 'URI', 'Dialect', 'Timezone')")
    texts |= rows(probe, "SELECT concat('merge_tree_', name) FROM system.merge_tree_settings WHERE type ILIKE '%String%'")
    constants = sorted(texts - FREE_SETTINGS | PINNED_SETTINGS.keys())
    values = "".join(f"<{name}>{value}</{name}>" for name, value in PINNED_SETTINGS.items())
    constraints = "".join(f"<{name}><const/></{name}>" for name in constants)
    grants = "".join(f"<query>{grant}</query>" for grant in GRANTS)
    users = (
        f"<clickhouse><profiles><default>{values}<constraints>{constraints}</constraints></default></profiles>"
        "<quotas><default/></quotas><users><default><no_password/><networks><ip>::/0</ip></networks>"
        f"<profile>default</profile><quota>default</quota><grants>{grants}</grants></default></users></clickhouse>"
    )
    os.makedirs(folder, mode=0o700, exist_ok=True)
    users_path, path = os.path.join(folder, "users.xml"), os.path.join(folder, "config.xml")
    config = (
        f"<clickhouse><users_config>{escape(users_path)}</users_config>"
        # none that shows files as tables, which is what chDB makes of its default database; see write_default_database
        "<default_database></default_database><database>default</database></clickhouse>"
    )
    for name, text in ((users_path, users), (path, config)):
        with open(name, "w", encoding="utf-8") as file:
            file.write(text)
    return path


def write_default_database(engine: str) -> None:
    """Has the engine in this folder begin with an ordinary database `default`, which keeps what an earlier one held."""
    metadata = os.path.join(engine, "metadata")
    definition, link = os.path.join(metadata, "default.sql"), os.path.join(metadata, "default")
    if os.path.exists(definition):
        return
    os.makedirs(metadata, exist_ok=True)
    database = os.path.basename(os.readlink(link)) if os.path.islink(link) else str(uuid.uuid4())
    with open(definition + ".tmp", "w", encoding="utf-8") as file:
        file.write(f"ATTACH DATABASE _ UUID '{database}'\nENGINE = Atomic\n")
    os.replace(definition + ".tmp", definition)


def rows(connection: Any, question: str) -> set[str]:
    return set(connection.query(question, "TabSeparated").bytes().decode().split())


class Guard:
    """Looks at statements. The names of what reaches outside are the engine's own."""

    def __init__(self, connection: Any) -> None:
        functions = rows(connection, "SELECT name FROM system.functions")
        tables = rows(connection, "SELECT name FROM system.table_functions")
        outside = tables - TABLE_FUNCTIONS | OUTSIDE_FUNCTIONS | {name for name in functions if AI_FUNCTION.match(name)}
        self.outside = frozenset(name.lower() for name in outside)
        names = "|".join(sorted(map(re.escape, self.outside)))
        # Every refused word is in the statement as it was written, or is hidden by an escape in a quoted name.
        self.suspect = re.compile(rf"\\|\b(?:infile|outfile|engine|{names})\b", re.IGNORECASE | re.ASCII)

    def check(self, connection: Any, statement: str) -> None:
        """Raises `Refused` for a statement that reaches outside."""
        first = FIRST_WORD.match(statement)
        if first and first[1].upper() in STATEMENTS and not self.suspect.search(statement):
            return
        self.check_formatted(formatted(connection, statement))

    def check_formatted(self, text: str) -> None:
        bare = QUOTED.sub(without_quotes, text)
        first = FIRST_WORD.match(bare)
        if not first or first[1].upper() not in STATEMENTS:
            raise Refused(f"a statement that begins with {bare[:20]!r} is not supported by this server")
        if OTHER_FILE.search(bare):
            raise Refused("INTO OUTFILE and FROM INFILE are not allowed: files are out of bounds")
        for call in CALL.finditer(bare):
            if call[1].lower() in self.outside:
                raise Refused(f"{call[1]}() is not allowed: it reaches outside the tables of this server")
        for engine in ENGINE.finditer(bare):
            if engine[1].lower() not in ENGINES:
                raise Refused(f"the engine {engine[1]} is not allowed: it reaches outside the tables of this server")

    def insert_from_file(self, connection: Any, statement: str, data_format: str, path: str) -> str:
        """The statement that inserts a file's rows as `statement` and `FORMAT data_format` would insert them."""
        head, tail = statement, f" FORMAT {data_format}"
        if not PLAIN_INSERT.fullmatch(statement):
            text = formatted(connection, statement + tail)
            self.check_formatted(text)
            parts = FORMATTED_INSERT.fullmatch(text)
            if not parts:
                raise Refused("an INSERT of this form is not supported by this server")
            head, tail = parts[1], parts[2]
        return f"{head} FROM INFILE '{path}' COMPRESSION 'none'{tail}"


def formatted(connection: Any, statement: str) -> str:
    """The statement as ClickHouse's parser understands it, on one line."""
    escaped = statement
    for character, escape_sequence in (("\\", "\\\\"), ("\t", "\\t"), ("\n", "\\n"), ("\r", "\\r"), ("\0", "\\0")):
        escaped = escaped.replace(character, escape_sequence)
    question = "SELECT formatQuerySingleLine({statement:String})"
    return connection.query(question, "RawBLOB", params={"statement": escaped}).bytes().decode(errors="surrogateescape")


def without_quotes(quoted: re.Match[str]) -> str:
    """Blanks a text; a name that needs no quotes goes without them."""
    inner = quoted[0][1:-1]
    return inner if quoted[0][0] != "'" and SIMPLE_NAME.fullmatch(inner) else "''"


# --- requests --------------------------------------------------------------------------------------------------------


def refusal(headers: Mapping[str, str], listens_on: str) -> str | None:
    """Why a request is not answered: it comes from a page of another site, or asks for a name that is not this machine's.

    On an address of the loopback only names of the loopback are served, whatever a foreign DNS says that points there. On
    another address clients come by any name; there, as everywhere, browsers say whose page sends the request.
    """
    host = headers.get("Host")
    if host is not None and is_loopback(listens_on) and not is_loopback(host_name(host)):
        return f"the host {host!r} is not served here"
    site = headers.get("Sec-Fetch-Site")
    if site is not None and site.strip().lower() not in ("same-origin", "none"):
        return f"requests from other sites are not served (Sec-Fetch-Site: {site})"
    origin = headers.get("Origin")
    if origin is not None and (host is None or origin.strip().lower() != f"http://{host.strip().lower()}"):
        return f"requests from the origin {origin!r} are not served"
    return None


def host_name(host: str) -> str:
    """`localhost:8123` → `localhost`, `[::1]:8123` → `::1`."""
    host = host.strip()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def is_loopback(name: str) -> bool:
    name = name.lower().rstrip(".")
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
