//! Reads the catalogue of Postgres for the checks in [`super::checks`]. One statement reads
//! everything as of one moment. It needs no privileges, because every role can read the
//! catalogue.

use serde_json::Value as Json;

use super::checks::{Catalogue, Expected, SCHEMA};
use crate::connections::postgres::{Client, PostgresError, Statement, ToSql};

/// The first version in which a publication can include whole schemas.
const SCHEMAS_SINCE: i32 = 150_000;

/// The publication's entry of a table's schema, if the version has such entries.
const SCHEMA_MEMBER: &str = "
    (SELECT s.oid::bigint FROM pg_publication_namespace s JOIN pg_publication p ON p.oid = s.pnpubid
     WHERE p.pubname = $2 AND s.pnnspid = c.relnamespace)";

/// Parameters: $1 tables, $2 publication, $3 slot, $4 schema. Columns that older versions lack
/// are read from the row as a JSON document.
const CATALOGUE: &str = "
SELECT jsonb_build_object(
    'version', current_setting('server_version_num')::int,
    'wal_level', current_setting('wal_level'),
    'role', current_user,
    'domain_over_enum', (
        SELECT min(d.oid::regtype::text) FROM pg_type d JOIN pg_type b ON b.oid = d.typbasetype
        WHERE d.typtype = 'd' AND b.typtype = 'e'),
    'slot', (
        SELECT jsonb_build_object('active', active, 'wal_status', wal_status)
        FROM pg_replication_slots WHERE slot_name = $3),
    'publication', (
        SELECT jsonb_build_object(
            'oid', p.oid::bigint, 'xmin', p.xmin::text::bigint, 'all_tables', p.puballtables,
            'insert', p.pubinsert, 'update', p.pubupdate, 'delete', p.pubdelete, 'truncate', p.pubtruncate,
            'others', (
                SELECT coalesce(jsonb_agg(jsonb_build_object(
                    'oid', o.oid::bigint, 'name', format('%I.%I', n.nspname, o.relname))), '[]')
                FROM pg_publication_rel r JOIN pg_class o ON o.oid = r.prrelid
                JOIN pg_namespace n ON n.oid = o.relnamespace
                WHERE r.prpubid = p.oid
                    AND NOT (o.relnamespace = to_regnamespace($4) AND o.relname = ANY ($1::text[]))))
        FROM pg_publication p WHERE p.pubname = $2),
    'relations', (
        SELECT coalesce(jsonb_agg(jsonb_build_object(
            'oid', c.oid::bigint, 'name', c.relname, 'kind', c.relkind, 'persistence', c.relpersistence,
            'identity', c.relreplident, 'file', c.relfilenode::bigint, 'is_partition', c.relispartition,
            'identity_index', (
                SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = c.oid AND indisreplident),
            'parents', (
                SELECT coalesce(jsonb_agg(inhparent::regclass::text), '[]') FROM pg_inherits WHERE inhrelid = c.oid),
            'children', (
                SELECT coalesce(jsonb_agg(inhrelid::regclass::text), '[]') FROM pg_inherits WHERE inhparent = c.oid),
            'row_security', CASE WHEN c.relkind IN ('r', 'p') THEN row_security_active(c.oid) ELSE false END,
            'columns', (
                SELECT coalesce(jsonb_agg(jsonb_build_object(
                    'name', a.attname, 'number', a.attnum, 'xmin', a.xmin::text::bigint,
                    'shown', format_type(a.atttypid, a.atttypmod),
                    'not_null', a.attnotnull, 'generated', a.attgenerated <> '',
                    'base', (
                        WITH RECURSIVE chain AS (
                            SELECT t.* FROM pg_type t WHERE t.oid = a.atttypid
                            UNION ALL
                            SELECT t.* FROM pg_type t JOIN chain ON t.oid = chain.typbasetype
                            WHERE chain.typtype = 'd')
                        SELECT CASE typnamespace WHEN 'pg_catalog'::regnamespace THEN typname::text
                            ELSE typnamespace::regnamespace || '.' || typname END
                        FROM chain WHERE typtype <> 'd')) ORDER BY a.attnum), '[]')
                FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
            'primary_key', (
                SELECT jsonb_build_object(
                    'oid', k.oid::bigint, 'name', k.conname, 'index', k.conindid::regclass::text,
                    'deferrable', k.condeferrable,
                    'columns', (
                        SELECT jsonb_agg(a.attname ORDER BY part.place)
                        FROM unnest(k.conkey) WITH ORDINALITY AS part (number, place)
                        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = part.number))
                FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'p'),
            'indexed', (
                SELECT coalesce(jsonb_agg(DISTINCT a.attname), '[]')
                FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = i.indkey[0]
                WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL),
            'published', EXISTS (
                SELECT FROM pg_publication_tables t
                WHERE t.pubname = $2 AND t.schemaname = $4 AND t.tablename = c.relname),
            'member', (
                SELECT jsonb_build_object(
                    'oid', r.oid::bigint, 'filter', to_jsonb(r) ->> 'prqual' IS NOT NULL,
                    'columns', (
                        SELECT jsonb_agg(a.attname ORDER BY a.attnum) FROM pg_attribute a
                        WHERE a.attrelid = c.oid AND to_jsonb(r) -> 'prattrs' @> to_jsonb(a.attnum)))
                FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
                WHERE p.pubname = $2 AND r.prrelid = c.oid),
            'schema_member', /* schema_member */)), '[]')
        FROM pg_class c
        WHERE c.relnamespace = to_regnamespace($4) AND c.relname = ANY ($1::text[])))";

/// A connection that reads the catalogue repeatedly.
#[derive(Debug)]
pub struct Reader {
    client: Client,
    statement: Statement,
}

impl Reader {
    /// Prepares the statement on this connection.
    ///
    /// # Errors
    /// If Postgres does not respond, or its version is too old for this statement.
    pub async fn new(client: Client) -> Result<Self, PostgresError> {
        let version = "SELECT current_setting('server_version_num')::int";
        let version: i32 = client.query_one(version, &[]).await?.try_get(0)?;
        let schema_member = if version < SCHEMAS_SINCE {
            "NULL"
        } else {
            SCHEMA_MEMBER
        };
        let sql = CATALOGUE.replace("/* schema_member */", schema_member);
        let statement = client.prepare(&sql).await?;
        Ok(Self { client, statement })
    }

    /// Returns the current catalogue.
    ///
    /// # Errors
    /// If Postgres does not respond, or its document is malformed.
    pub async fn read(&self, expected: &Expected) -> Result<Catalogue, CatalogueError> {
        let relations = expected.relations();
        let parameters: [&(dyn ToSql + Sync); 4] =
            [&relations, &expected.publication, &expected.slot, &SCHEMA];
        let row = self.client.query_one(&self.statement, &parameters).await?;
        let document: Json = row.try_get(0)?;
        Ok(serde_json::from_value(document)?)
    }

    /// Returns the connection, for the caller's own statements.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }
}

/// Error while reading the catalogue.
#[derive(Debug, thiserror::Error)]
pub enum CatalogueError {
    #[error("cannot read the catalogue from postgres")]
    Postgres(#[from] PostgresError),
    #[error("cannot parse the catalogue from postgres")]
    Document(#[from] serde_json::Error),
}
