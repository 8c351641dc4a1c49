-- Capture by the database: versions, tombstones, and the backstop that writes the event of a change which no signal saw.
-- Every function is SECURITY DEFINER with a fixed search_path, every trigger ENABLE ALWAYS: no setting switches them off.

-- RFC 8785 (JCS) for documents of text, whole numbers, booleans, null, lists and objects with ASCII keys.
CREATE FUNCTION taskpulse_jcs(value jsonb) RETURNS text LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  CASE jsonb_typeof(value)
    WHEN 'object' THEN
      RETURN '{' || coalesce((SELECT string_agg(to_json(e.key)::text || ':' || taskpulse_jcs(e.value), ',' ORDER BY e.key COLLATE "C")
                              FROM jsonb_each(value) e), '') || '}';
    WHEN 'array' THEN
      RETURN '[' || coalesce((SELECT string_agg(taskpulse_jcs(e.value), ',' ORDER BY e.ordinality)
                              FROM jsonb_array_elements(value) WITH ORDINALITY e), '') || ']';
    WHEN 'string' THEN
      RETURN to_json(value #>> '{}')::text;
    ELSE
      RETURN value::text;
  END CASE;
END $$;

-- RFC 3339 in UTC with six digits and Z.
CREATE FUNCTION taskpulse_time(moment timestamptz) RETURNS text LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;

-- BEFORE INSERT, UPDATE, DELETE of an audited table (key column `id`). TG_ARGV: subject type.
CREATE FUNCTION taskpulse_decide() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  stone record;
BEGIN
  IF TG_OP = 'INSERT' THEN
    SELECT version, deleted_at INTO stone FROM tasks_tombstone WHERE subject_type = TG_ARGV[0] AND subject_id = NEW.id::text;
    NEW.version := coalesce(stone.version, 0) + 1;
    NEW.updated_at := greatest(clock_timestamp(), stone.deleted_at + interval '1 microsecond');
    RETURN NEW;
  ELSIF TG_OP = 'UPDATE' THEN
    IF NEW.id IS DISTINCT FROM OLD.id THEN
      RAISE EXCEPTION 'the id of a % never changes', TG_ARGV[0] USING ERRCODE = 'integrity_constraint_violation';
    ELSIF NEW.version IS NULL OR NEW.version NOT IN (OLD.version, OLD.version + 1) THEN
      RAISE EXCEPTION 'version % of % %: the database raises it by one from %', NEW.version, TG_ARGV[0], OLD.id, OLD.version
        USING ERRCODE = 'integrity_constraint_violation';
    END IF;
    NEW.version := OLD.version;
    NEW.updated_at := OLD.updated_at;
    IF NOT (NEW *= OLD) THEN
      NEW.version := OLD.version + 1;
      NEW.updated_at := greatest(clock_timestamp(), OLD.updated_at + interval '1 microsecond');
    END IF;
    RETURN NEW;
  END IF;
  INSERT INTO tasks_tombstone (subject_type, subject_id, version, deleted_at)
    VALUES (TG_ARGV[0], OLD.id::text, OLD.version + 1, greatest(clock_timestamp(), OLD.updated_at + interval '1 microsecond'))
    ON CONFLICT (subject_type, subject_id) DO UPDATE SET version = excluded.version, deleted_at = excluded.deleted_at;
  RETURN OLD;
END $$;

-- AFTER INSERT: an insert that waited for a concurrent delete of the same id could not see its tombstone.
CREATE FUNCTION taskpulse_check_version() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  PERFORM FROM tasks_tombstone WHERE subject_type = TG_ARGV[0] AND subject_id = NEW.id::text AND version >= NEW.version;
  IF FOUND THEN
    RAISE EXCEPTION '% % was deleted at the same time', TG_ARGV[0], NEW.id USING ERRCODE = 'serialization_failure';
  END IF;
  RETURN NULL;
END $$;

-- The attributes that say who acts: what the application told this transaction, else the session's role.
CREATE FUNCTION taskpulse_attributes() RETURNS jsonb LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(
    (SELECT jsonb_object_agg(key, value) FROM jsonb_each(nullif(current_setting('taskpulse.context', true), '')::jsonb)
     WHERE jsonb_typeof(value) = 'string'
       AND key IN ('actorid', 'actorname', 'actortype', 'authid', 'clientip', 'reason', 'requestid', 'traceparent')),
    jsonb_build_object('actorid', 'db:' || session_user, 'actorname', session_user, 'actortype', 'database'))
$$;

-- Deferred, AFTER each row change: writes the event of a row version that reached the commit without one.
-- TG_ARGV: subject type, function that gives a row's document, column that holds the task's id ('' for none).
CREATE FUNCTION taskpulse_capture() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  kind text := TG_ARGV[0];
  subject text;
  next_version bigint;
  moment timestamptz;
  document jsonb;
  before jsonb := '{}';
  changed jsonb := '{}';
  task uuid;
  event jsonb;
  new_id uuid;
BEGIN
  IF TG_OP = 'DELETE' THEN
    subject := OLD.id::text;
    next_version := OLD.version + 1;
  ELSE
    subject := NEW.id::text;
    next_version := NEW.version;
    IF TG_OP = 'UPDATE' AND OLD.version = NEW.version THEN
      RETURN NULL;
    END IF;
  END IF;
  PERFORM FROM tasks_outbox WHERE subject_type = kind AND subject_id = subject AND version = next_version;
  IF FOUND THEN
    RETURN NULL;
  END IF;

  IF TG_OP = 'DELETE' THEN
    SELECT deleted_at INTO moment FROM tasks_tombstone WHERE subject_type = kind AND subject_id = subject AND version = next_version;
    moment := coalesce(moment, OLD.updated_at + interval '1 microsecond');
    EXECUTE format('SELECT %s($1)', TG_ARGV[1]::regproc) INTO document USING OLD;
  ELSE
    moment := NEW.updated_at;
    EXECUTE format('SELECT %s($1)', TG_ARGV[1]::regproc) INTO document USING NEW;
    IF TG_OP = 'UPDATE' THEN
      EXECUTE format('SELECT %s($1)', TG_ARGV[1]::regproc) INTO before USING OLD;
    END IF;
    SELECT coalesce(jsonb_object_agg(key, jsonb_build_object('from', before -> key, 'to', value)), '{}') INTO changed
      FROM jsonb_each(document)
      WHERE key NOT IN ('id', 'version', 'updated_at') AND coalesce(before -> key, 'null') <> value;
  END IF;
  IF TG_ARGV[2] <> '' THEN
    EXECUTE format('SELECT ($1).%I', TG_ARGV[2]) INTO task USING coalesce(NEW, OLD);
  END IF;

  new_id := uuidv7();
  event := taskpulse_attributes() || jsonb_build_object(
    'data', jsonb_build_object('changes', changed, kind, document,
      'nonce', left(encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'hex'), 32)),
    'datacontenttype', 'application/json',
    'dataschema', format('urn:taskpulse:schema:%s-event.v1.json', kind),
    'id', new_id, 'sequence', lpad(next_version::text, 20, '0'), 'source', '/taskpulse/tasks', 'specversion', '1.0',
    'subject', kind || '/' || subject, 'time', taskpulse_time(moment),
    'type', kind || CASE TG_OP WHEN 'INSERT' THEN '.created' WHEN 'UPDATE' THEN '.updated' ELSE '.deleted' END);
  IF task IS NOT NULL THEN
    event := event || jsonb_build_object('taskid', task);
  END IF;
  INSERT INTO tasks_outbox (event_id, subject_type, subject_id, version, task_id, payload)
    VALUES (new_id, kind, subject, next_version, task, convert_to(taskpulse_jcs(event), 'UTF8'));
  RETURN NULL;
END $$;

CREATE FUNCTION taskpulse_refuse() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RAISE EXCEPTION '% of % is refused', TG_OP, TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege', HINT = TG_ARGV[0];
END $$;

-- Makes `target` an audited table; a migration calls it once for each model.
CREATE FUNCTION taskpulse_audit(target regclass, kind text, document regproc, task_column text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  trigger_name text;
BEGIN
  EXECUTE format('CREATE TRIGGER taskpulse_1_decide BEFORE INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION taskpulse_decide(%L)', target, kind);
  EXECUTE format('CREATE TRIGGER taskpulse_3_check AFTER INSERT ON %s FOR EACH ROW EXECUTE FUNCTION taskpulse_check_version(%L)', target, kind);
  EXECUTE format('CREATE CONSTRAINT TRIGGER taskpulse_4_capture AFTER INSERT OR UPDATE OR DELETE ON %s DEFERRABLE INITIALLY DEFERRED '
                 'FOR EACH ROW EXECUTE FUNCTION taskpulse_capture(%L, %L, %L)', target, kind, document, task_column);
  EXECUTE format('CREATE TRIGGER taskpulse_5_truncate BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION taskpulse_refuse(%L)',
                 target, 'a TRUNCATE leaves no event: use DELETE');
  FOREACH trigger_name IN ARRAY ARRAY['taskpulse_1_decide', 'taskpulse_3_check', 'taskpulse_4_capture', 'taskpulse_5_truncate'] LOOP
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', target, trigger_name);
  END LOOP;
END $$;

-- The outbox: what an event says is never altered, and the whole of it never thrown away.
CREATE TRIGGER taskpulse_frozen BEFORE UPDATE OF id, event_id, subject_type, subject_id, version, task_id, payload, created_at
  ON tasks_outbox FOR EACH ROW EXECUTE FUNCTION taskpulse_refuse('an event is never altered');
CREATE TRIGGER taskpulse_truncate BEFORE TRUNCATE ON tasks_outbox
  FOR EACH STATEMENT EXECUTE FUNCTION taskpulse_refuse('these changes are not in the audit log yet');
CREATE TRIGGER taskpulse_truncate BEFORE TRUNCATE ON tasks_tombstone
  FOR EACH STATEMENT EXECUTE FUNCTION taskpulse_refuse('versions of deleted rows continue from here');
ALTER TABLE tasks_outbox ENABLE ALWAYS TRIGGER taskpulse_frozen;
ALTER TABLE tasks_outbox ENABLE ALWAYS TRIGGER taskpulse_truncate;
ALTER TABLE tasks_tombstone ENABLE ALWAYS TRIGGER taskpulse_truncate;
ALTER TABLE tasks_outbox ADD CONSTRAINT tasks_outbox_payload_is_the_event
  CHECK (convert_from(payload, 'UTF8')::jsonb ->> 'id' = event_id::text);
