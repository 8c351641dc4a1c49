-- As in 0009_archive_events.sql, but for the event that opens a log: it accounts for the log before, and without it nothing
-- says what became of that.

-- The entries after `after`, up to `until`, that are about a task, or by or about an actor, and are not erased yet: `most` of
-- them, in order. The events of erasures, archives and openings are never among them: they account for it.
CREATE OR REPLACE FUNCTION audit_entries_concerned(actor text, task uuid, after bigint, until bigint, most integer) RETURNS SETOF bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF (actor IS NULL) = (task IS NULL) THEN
    RAISE EXCEPTION 'name an actor or a task' USING ERRCODE = 'invalid_parameter_value';
  ELSIF task IS NOT NULL THEN
    RETURN QUERY SELECT e.seq FROM task_audit_log e
      WHERE e.task_id = task AND e.seq > after AND e.seq <= until AND e.event_data ? 'specversion'
        AND e.event_type NOT IN ('audit.redacted', 'audit.archived', 'audit.log.opened')
      ORDER BY e.seq LIMIT most;
  ELSE
    RETURN QUERY SELECT e.seq FROM task_audit_log e
      WHERE e.seq > after AND e.seq <= until AND e.event_data ? 'specversion'
        AND e.event_type NOT IN ('audit.redacted', 'audit.archived', 'audit.log.opened')
        AND (e.actor_id = actor OR audit_names_actor(e.event_data, actor))
      ORDER BY e.seq LIMIT most;
  END IF;
END $$;

-- An entry never changes, save that its payload is erased: to a marker alone, with the columns that no leaf commits to empty, all
-- others as they were, and with an event in the outbox that names it. Not even the owner's session passes by another way.
CREATE OR REPLACE FUNCTION audit_keep_entry() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  erased task_audit_log := OLD;
BEGIN
  IF TG_OP = 'UPDATE' AND OLD.event_data ? 'specversion'
     AND OLD.event_type NOT IN ('audit.redacted', 'audit.archived', 'audit.log.opened') THEN
    erased.event_data := jsonb_build_object('redacted', NEW.event_data -> 'redacted');
    erased.actor_name := NULL;
    erased.actor_type := NULL;
    erased.request_id := NULL;
    IF NEW *= erased THEN
      PERFORM FROM (SELECT convert_from(o.payload, 'UTF8')::jsonb AS event FROM tasks_outbox o
                    WHERE o.event_id::text = NEW.event_data ->> 'redacted' AND o.subject_type = 'audit') account,
          jsonb_array_elements(event #> '{data,audit,entries}') span
        WHERE event ->> 'type' = 'audit.redacted' AND OLD.seq BETWEEN (span ->> 0)::bigint AND (span ->> 1)::bigint;
      IF FOUND THEN
        RETURN NEW;
      END IF;
    END IF;
  END IF;
  RAISE EXCEPTION '% of % is refused: the audit log is append-only', TG_OP, TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END $$;
