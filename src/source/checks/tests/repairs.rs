//! The statements that repair or create a source.

use super::*;

#[test]
fn an_empty_database_gets_all_statements_in_order() {
    let empty = Catalogue {
        wal_level: "logical".to_owned(),
        ..Catalogue::default()
    };
    let repairs = statements(&empty, &expected(), false);
    let beginnings: Vec<&str> = repairs
        .iter()
        .map(|statement| statement.sql.split(" (").next().unwrap_or_default())
        .collect();
    assert_eq!(
        beginnings,
        [
            "CREATE TABLE IF NOT EXISTS public.content",
            "CREATE TABLE IF NOT EXISTS public.engagement_events",
            "CREATE INDEX IF NOT EXISTS engagement_events_event_ts_idx ON public.engagement_events",
            "CREATE INDEX IF NOT EXISTS engagement_events_content_id_idx ON public.engagement_events",
            "CREATE TABLE IF NOT EXISTS public.debezium_signal",
            "CREATE TABLE IF NOT EXISTS public.debezium_heartbeat",
            "ALTER TABLE public.content REPLICA IDENTITY FULL",
            "ALTER TABLE public.engagement_events REPLICA IDENTITY FULL",
            "CREATE PUBLICATION \"dbz_pub\" FOR TABLE public.content, public.engagement_events, \
             public.debezium_signal, public.debezium_heartbeat WITH",
        ]
    );
    assert!(
        repairs
            .iter()
            .all(|statement| statement.repairs.is_none() && !statement.recovers)
    );
}

#[test]
fn each_repair_is_one_statement_that_tells_whether_changes_were_lost() {
    type Change = fn(&mut Catalogue);
    let cases: [(Change, &str, bool); 6] = [
        (
            |c| c.publication.as_mut().expect("a publication").update = false,
            "ALTER PUBLICATION \"dbz_pub\" SET (publish = 'insert, update, delete, truncate')",
            true,
        ),
        (
            |c| {
                table(c, "content").published = false;
                table(c, "content").member = None;
            },
            "ALTER PUBLICATION \"dbz_pub\" ADD TABLE public.content",
            true,
        ),
        (
            |c| {
                table(c, "content")
                    .member
                    .as_mut()
                    .expect("a member")
                    .filter = true;
            },
            "ALTER PUBLICATION \"dbz_pub\" DROP TABLE public.content; \
             ALTER PUBLICATION \"dbz_pub\" ADD TABLE public.content",
            true,
        ),
        (
            |c| table(c, "debezium_signal").published = false,
            "ALTER PUBLICATION \"dbz_pub\" ADD TABLE public.debezium_signal",
            false,
        ),
        (
            |c| table(c, "content").identity = "d".to_owned(),
            "ALTER TABLE public.content REPLICA IDENTITY FULL",
            false,
        ),
        (
            |c| {
                table(c, "engagement_events")
                    .indexed
                    .retain(|column| column != "event_ts");
            },
            "CREATE INDEX IF NOT EXISTS engagement_events_event_ts_idx \
             ON public.engagement_events (event_ts)",
            false,
        ),
    ];
    for (change, sql, recovers) in cases {
        let mut catalogue = good();
        change(&mut catalogue);
        let repairs = statements(&catalogue, &expected(), true);
        let repairs: Vec<(&str, bool)> = repairs
            .iter()
            .map(|statement| (statement.sql.as_str(), statement.recovers))
            .collect();
        assert_eq!(repairs, [(sql, recovers)]);
    }
}
