-- Erasure: the one sanctioned change of an entry (audit/redaction.py). Its payload becomes a marker that names an event
-- `audit.redacted`, which names the entry; what its leaf commits to stays, and so the log verifies as before.

-- Whether an event is by a person, or about one: a person stands in documents and changes as {"id": …, "name": …}. Inlined where
-- it is used (no SET, and names that need no search_path).
CREATE FUNCTION audit_names_actor(event jsonb, actor text) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT event ->> 'actorid' = actor OR event ->> 'subject' = 'user/' || actor
    OR pg_catalog.jsonb_path_exists(event, '$.data.*.* ? (@.id == $id)', pg_catalog.jsonb_build_object('id', actor))
    OR pg_catalog.jsonb_path_exists(event, '$.data.changes.*.* ? (@.id == $id)', pg_catalog.jsonb_build_object('id', actor))
$$;

-- The entries after `after`, up to `until`, that are about a task, or by or about an actor, and are not erased yet: `most` of
-- them, in order. The events of erasures are never among them: they account for it.
CREATE FUNCTION audit_entries_concerned(actor text, task uuid, after bigint, until bigint, most integer) RETURNS SETOF bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF (actor IS NULL) = (task IS NULL) THEN
    RAISE EXCEPTION 'name an actor or a task' USING ERRCODE = 'invalid_parameter_value';
  ELSIF task IS NOT NULL THEN
    RETURN QUERY SELECT e.seq FROM task_audit_log e
      WHERE e.task_id = task AND e.seq > after AND e.seq <= until AND e.event_data ? 'specversion' AND e.event_type <> 'audit.redacted'
      ORDER BY e.seq LIMIT most;
  ELSE
    RETURN QUERY SELECT e.seq FROM task_audit_log e
      WHERE e.seq > after AND e.seq <= until AND e.event_data ? 'specversion' AND e.event_type <> 'audit.redacted'
        AND (e.actor_id = actor OR audit_names_actor(e.event_data, actor))
      ORDER BY e.seq LIMIT most;
  END IF;
END $$;

-- The rows of the outbox that are about a task, or by or about an actor.
CREATE FUNCTION audit_outbox_concerned(actor text, task uuid) RETURNS SETOF tasks_outbox LANGUAGE sql STABLE
SET search_path = pg_catalog, public, pg_temp AS $$
  SELECT * FROM tasks_outbox o WHERE o.subject_type <> 'audit'
    AND CASE WHEN task IS NOT NULL THEN o.task_id = task ELSE audit_names_actor(convert_from(o.payload, 'UTF8')::jsonb, actor) END
$$;

-- Erases up to 1,000 of the entries after `after`, up to `until`, that are about a task or by or about an actor, and the dead
-- letters that are named. Writes the event that accounts for it, in the same transaction; none where there is nothing to erase.
-- `erased` is how many entries there were: call it again after the last of them (`last_erased`) if there were 1,000.
--
-- Fails while the outbox holds an event concerned (object_in_use): it will come into the log yet. Why it is done is the reason in
-- taskpulse.context, who asked for it is `asked_by`; neither may be missing. SECURITY DEFINER, so that the owner may let a role
-- erase that can change nothing else; nobody else may grant it.
CREATE PROCEDURE audit_redact(actor text, task uuid, letters bigint[], asked_by text, after bigint, until bigint,
                              INOUT erased integer DEFAULT 0, INOUT last_erased bigint DEFAULT NULL)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  most constant integer := 1000;  -- their places fit an event, and each erased row looks into it once (audit_keep_entry)
  seqs bigint[];
  letter_ids bigint[];
  spans jsonb;
  log_name text;
  marker jsonb;
BEGIN
  IF coalesce(btrim(asked_by), '') = '' OR coalesce(btrim(taskpulse_attributes() ->> 'reason'), '') = '' THEN
    RAISE EXCEPTION 'say who asked for it, and why' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  PERFORM pg_advisory_xact_lock(hashtext('audit_redact'));
  PERFORM FROM audit_outbox_concerned(actor, task);
  IF FOUND THEN
    RAISE EXCEPTION 'the outbox holds an event that is concerned' USING ERRCODE = 'object_in_use';
  END IF;
  SELECT array_agg(seq ORDER BY seq), count(*), max(seq) INTO seqs, erased, last_erased
    FROM audit_entries_concerned(actor, task, after, until, most) seq;
  SELECT array_agg(d.id ORDER BY d.id) INTO letter_ids FROM audit_dead_letter d
    WHERE d.id = ANY (letters) AND (d.key IS NULL AND d.headers = '[]' AND octet_length(d.value) = 52
      AND encode(d.value, 'escape') ~ '^{"redacted": "[0-9a-f-]{36}"}$') IS NOT TRUE;
  IF seqs IS NULL AND letter_ids IS NULL THEN
    RETURN;
  END IF;
  SELECT coalesce(jsonb_agg(jsonb_build_array(first, last) ORDER BY first), '[]') INTO spans FROM (
    SELECT min(seq) AS first, max(seq) AS last
    FROM (SELECT seq, seq - row_number() OVER (ORDER BY seq) AS island FROM unnest(seqs) seq) numbered GROUP BY island) islands;
  SELECT origin INTO log_name FROM audit_log ORDER BY first_seq DESC LIMIT 1;
  PERFORM taskpulse_append('audit', log_name, 'redacted', NULL, NULL, clock_timestamp(), jsonb_build_object('changes', '{}'::jsonb,
    'audit', jsonb_strip_nulls(jsonb_build_object('actor', actor, 'asked_by', asked_by, 'dead_letters', coalesce(to_jsonb(letter_ids), '[]'),
      'entries', spans, 'task', task))));
  SELECT jsonb_build_object('redacted', o.event_id) INTO STRICT marker
    FROM tasks_outbox o WHERE o.id = currval(pg_get_serial_sequence('public.tasks_outbox', 'id'));
  UPDATE task_audit_log SET event_data = marker, actor_name = NULL, actor_type = NULL, request_id = NULL WHERE seq = ANY (seqs);
  UPDATE audit_dead_letter SET key = NULL, value = convert_to(marker::text, 'UTF8'), headers = '[]' WHERE id = ANY (letter_ids);
END $$;

-- An entry never changes, save that its payload is erased: to a marker alone, with the columns that no leaf commits to empty, all
-- others as they were, and with an event in the outbox that names it. Not even the owner's session passes by another way.
CREATE FUNCTION audit_keep_entry() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  erased task_audit_log := OLD;
BEGIN
  IF TG_OP = 'UPDATE' AND OLD.event_data ? 'specversion' AND OLD.event_type <> 'audit.redacted' THEN
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
DROP TRIGGER audit_append_only ON task_audit_log;
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON task_audit_log FOR EACH ROW EXECUTE FUNCTION audit_keep_entry();
ALTER TABLE task_audit_log ENABLE ALWAYS TRIGGER audit_append_only;

REVOKE EXECUTE ON FUNCTION audit_names_actor(jsonb, text), audit_keep_entry(),
  audit_entries_concerned(text, uuid, bigint, bigint, integer), audit_outbox_concerned(text, uuid) FROM PUBLIC;
REVOKE EXECUTE ON PROCEDURE audit_redact(text, uuid, bigint[], text, bigint, bigint, integer, bigint) FROM PUBLIC;
