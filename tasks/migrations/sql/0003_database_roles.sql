-- What a database role that is not the owner's can say in the outbox: only what is true of a change that its transaction made.

-- Inlined where it is used (so no SET, and names that need no search_path): five times as fast.
CREATE OR REPLACE FUNCTION taskpulse_time(moment timestamptz) RETURNS text LANGUAGE sql STABLE STRICT PARALLEL SAFE AS $$
  SELECT pg_catalog.to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;

-- Whether a document tells of this row, the people's names aside, which are another table's. Half of what task_document()
-- costs (it is inlined too), and each new event of a task pays it.
CREATE FUNCTION task_agrees(task tasks_task, document jsonb) RETURNS boolean LANGUAGE sql STABLE AS $$
  SELECT document ->> 'id' = task.id::text
    AND document ->> 'version' = task.version::text
    AND document ->> 'title' = task.title
    AND document ->> 'description' = task.description
    AND document ->> 'priority' = task.priority
    AND document ->> 'status' = task.status
    AND document ->> 'category' IS NOT DISTINCT FROM task.category
    AND document ->> 'summary' IS NOT DISTINCT FROM task.summary
    AND document -> 'labels' = to_jsonb(task.labels)
    AND document ->> 'parent' IS NOT DISTINCT FROM task.parent_id::text
    AND document #>> '{assignee,id}' IS NOT DISTINCT FROM task.assignee_id::text
    AND document #>> '{created_by,id}' IS NOT DISTINCT FROM task.created_by_id::text
    AND (document ->> 'due_at')::timestamptz IS NOT DISTINCT FROM task.due_at
    AND (document ->> 'created_at')::timestamptz IS NOT DISTINCT FROM task.created_at
    AND (document ->> 'completed_at')::timestamptz IS NOT DISTINCT FROM task.completed_at
    AND (document ->> 'updated_at')::timestamptz IS NOT DISTINCT FROM task.updated_at
$$;

-- The transaction that made a version. Set here alone: an UPDATE that changes nothing leaves it as it is.
ALTER TABLE tasks_tombstone ADD COLUMN changed_in xid8;

CREATE OR REPLACE FUNCTION taskpulse_decide() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  stone record;
BEGIN
  IF TG_OP = 'INSERT' THEN
    SELECT version, deleted_at INTO stone FROM tasks_tombstone WHERE subject_type = TG_ARGV[0] AND subject_id = NEW.id::text;
    NEW.version := coalesce(stone.version, 0) + 1;
    NEW.updated_at := greatest(clock_timestamp(), stone.deleted_at + interval '1 microsecond');
    NEW.changed_in := pg_current_xact_id();
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
    NEW.changed_in := OLD.changed_in;
    IF NOT (NEW *= OLD) THEN
      NEW.version := OLD.version + 1;
      NEW.updated_at := greatest(clock_timestamp(), OLD.updated_at + interval '1 microsecond');
      NEW.changed_in := pg_current_xact_id();
    END IF;
    RETURN NEW;
  END IF;
  INSERT INTO tasks_tombstone (subject_type, subject_id, version, deleted_at, changed_in)
    VALUES (TG_ARGV[0], OLD.id::text, OLD.version + 1, greatest(clock_timestamp(), OLD.updated_at + interval '1 microsecond'),
            pg_current_xact_id())
    ON CONFLICT (subject_type, subject_id)
    DO UPDATE SET version = excluded.version, deleted_at = excluded.deleted_at, changed_in = excluded.changed_in;
  RETURN OLD;
END $$;

-- Who acts: what the application told this transaction, if the session's role could as well write it into the outbox itself;
-- else that role. Nobody speaks for another role of the database. Reason and request are anybody's to give.
CREATE OR REPLACE FUNCTION taskpulse_attributes() RETURNS jsonb LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  told jsonb;
BEGIN
  SELECT coalesce(jsonb_object_agg(key, value), '{}') INTO told
    FROM jsonb_each(nullif(current_setting('taskpulse.context', true), '')::jsonb)
    WHERE jsonb_typeof(value) = 'string'
      AND key IN ('actorid', 'actorname', 'actortype', 'authid', 'clientip', 'reason', 'requestid', 'traceparent');
  IF taskpulse_may_say(told) AND has_any_column_privilege(session_user, 'tasks_outbox', 'INSERT') THEN
    RETURN told;
  END IF;
  RETURN (told - '{authid,clientip}'::text[])
    || jsonb_build_object('actorid', 'db:' || session_user, 'actorname', session_user, 'actortype', 'database');
END $$;

-- Whether an actor is one that an application may name.
CREATE FUNCTION taskpulse_may_say(attributes jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT coalesce(attributes ->> 'actortype' IN ('user', 'system', 'model')
                  AND NOT pg_catalog.starts_with(attributes ->> 'actorid', 'db:'), false)
$$;

-- Writes an event in canonical bytes; `data` is what stands beside its nonce. Called by SECURITY DEFINER functions alone.
CREATE FUNCTION taskpulse_append(kind text, subject text, action text, version bigint, task uuid, moment timestamptz, data jsonb)
RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  new_id uuid := uuidv7();
  event jsonb;
BEGIN
  event := taskpulse_attributes() || jsonb_strip_nulls(jsonb_build_object(
    'dataschema', format('urn:taskpulse:schema:%s-event.v1.json', kind), 'datacontenttype', 'application/json',
    'id', new_id, 'sequence', lpad(version::text, 20, '0'), 'source', '/taskpulse/tasks', 'specversion', '1.0',
    'subject', kind || '/' || subject, 'taskid', task, 'time', taskpulse_time(moment), 'type', kind || '.' || action));
  event := event || jsonb_build_object('data', data || jsonb_build_object(
    'nonce', left(encode(sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())), 'hex'), 32)));
  INSERT INTO tasks_outbox (event_id, subject_type, subject_id, version, task_id, payload)
    VALUES (new_id, kind, subject, version, task, convert_to(taskpulse_jcs(event), 'UTF8'));
END $$;

CREATE FUNCTION taskpulse_document(document regproc, target anyelement) RETURNS jsonb LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  found jsonb;
BEGIN
  EXECUTE format('SELECT %s($1)', document) INTO found USING target;
  RETURN found;
END $$;

-- The rule of taskpulse_check_event() for a row that is at hand: {kind}_agrees(row, document) if there is one, else equality.
CREATE FUNCTION taskpulse_agrees(kind text, document regproc, target anyelement, told jsonb) RETURNS boolean LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  agrees boolean;
BEGIN
  EXECUTE CASE WHEN to_regproc(kind || '_agrees') IS NULL THEN format('SELECT %s($1) = $2', document) ELSE format('SELECT %I($1, $2)', kind || '_agrees') END
    INTO agrees USING target, told;
  RETURN coalesce(agrees, false);
END $$;

-- Deferred, AFTER each row change: writes the event of a row version that reached the commit without one.
-- TG_ARGV: subject type, function that gives a row's document, column that holds the task's id ('' for none).
CREATE OR REPLACE FUNCTION taskpulse_capture() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  kind text := TG_ARGV[0];
  subject text;
  next_version bigint;
  moment timestamptz;
  written bytea;
  written_task uuid;
  is_written boolean;
  document jsonb;
  before jsonb := '{}';
  changed jsonb := '{}';
  task uuid;
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
  SELECT payload, task_id INTO written, written_task
    FROM tasks_outbox WHERE subject_type = kind AND subject_id = subject AND version = next_version;
  is_written := FOUND;
  IF is_written AND TG_OP <> 'DELETE' THEN
    RETURN NULL;
  END IF;
  IF TG_ARGV[2] <> '' THEN
    EXECUTE format('SELECT ($1).%I', TG_ARGV[2]) INTO task USING coalesce(NEW, OLD);
  END IF;
  IF is_written THEN
    -- Only here is the row that went still known.
    IF written_task IS DISTINCT FROM task
        OR NOT taskpulse_agrees(kind, TG_ARGV[1]::regproc, OLD, convert_from(written, 'UTF8')::jsonb -> 'data' -> kind) THEN
      PERFORM taskpulse_untrue(kind, subject, next_version, 'the row was another when it was deleted');
    END IF;
    RETURN NULL;
  END IF;

  IF TG_OP = 'DELETE' THEN
    SELECT deleted_at INTO moment FROM tasks_tombstone WHERE subject_type = kind AND subject_id = subject AND version = next_version;
    moment := coalesce(moment, OLD.updated_at + interval '1 microsecond');
    document := taskpulse_document(TG_ARGV[1]::regproc, OLD);
  ELSE
    moment := NEW.updated_at;
    document := taskpulse_document(TG_ARGV[1]::regproc, NEW);
    IF TG_OP = 'UPDATE' THEN
      before := taskpulse_document(TG_ARGV[1]::regproc, OLD);
    END IF;
    SELECT coalesce(jsonb_object_agg(key, jsonb_build_object('from', before -> key, 'to', value)), '{}') INTO changed
      FROM jsonb_each(document)
      WHERE key NOT IN ('id', 'version', 'updated_at') AND coalesce(before -> key, 'null') <> value;
  END IF;
  PERFORM taskpulse_append(kind, subject, CASE TG_OP WHEN 'INSERT' THEN 'created' WHEN 'UPDATE' THEN 'updated' ELSE 'deleted' END,
                           next_version, task, moment, jsonb_build_object('changes', changed, kind, document));
  RETURN NULL;
END $$;

CREATE FUNCTION taskpulse_untrue(kind text, subject text, version bigint, reason text) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RAISE EXCEPTION 'the event of % % version % is not true: %', kind, subject, version, reason
    USING ERRCODE = 'integrity_constraint_violation', TABLE = 'tasks_outbox', CONSTRAINT = 'tasks_outbox_is_true';
END $$;

-- Makes the trigger of the outbox that holds each new event against the change that it tells of: the last version of the
-- row, else its tombstone (which holds no document: the capture of the deletion compares that). A branch for each audited
-- table is written out, so that nothing is planned anew for an event. The payload is read once, for the check of its id
-- too (a constraint would read it again).
CREATE FUNCTION taskpulse_make_check() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $make$
DECLARE
  branches text;
BEGIN
  SELECT string_agg(format($branch$
  IF NEW.subject_type = %1$L AND pg_input_is_valid(NEW.subject_id, %5$L) THEN
    SELECT t.version, t.updated_at, t.changed_in, %3$s, %2$s INTO true_version, moment, made_in, task, agrees
      FROM %4$s t WHERE t.id = NEW.subject_id::%5$s;
    is_there := FOUND;
  END IF;$branch$, argument[1],
      CASE WHEN to_regproc(argument[1] || '_agrees') IS NULL THEN format('%s(t) = told', argument[2])
           ELSE format('%I(t, told)', argument[1] || '_agrees') END,
      CASE WHEN argument[3] = '' THEN 'NULL::uuid' ELSE format('t.%I', argument[3]) END,
      target, key_type), '' ORDER BY argument[1]) INTO branches
  FROM (
    SELECT string_to_array(encode(g.tgargs, 'escape'), '\000') AS argument, g.tgrelid::regclass AS target,
           (SELECT format_type(a.atttypid, NULL) FROM pg_attribute a WHERE a.attrelid = g.tgrelid AND a.attname = 'id') AS key_type
    FROM pg_trigger g WHERE g.tgfoid = 'taskpulse_capture'::regproc
  ) audited;
  EXECUTE format($function$
CREATE OR REPLACE FUNCTION public.taskpulse_check_event() RETURNS trigger LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $body$
DECLARE
  event jsonb := convert_from(NEW.payload, 'UTF8')::jsonb;
  told jsonb := event -> 'data' -> NEW.subject_type;
  is_there boolean := false;
  true_version bigint;
  moment timestamptz;
  made_in xid8;
  task uuid;
  agrees boolean;
  action text := '.updated';
  wrong text;
BEGIN
  IF event ->> 'id' IS DISTINCT FROM NEW.event_id::text THEN
    RAISE EXCEPTION 'the payload is not the event %%', NEW.event_id
      USING ERRCODE = 'check_violation', TABLE = 'tasks_outbox', CONSTRAINT = 'tasks_outbox_payload_is_the_event';
  END IF;%s
  IF NOT is_there THEN
    SELECT s.version, s.deleted_at, s.changed_in INTO true_version, moment, made_in
      FROM tasks_tombstone s WHERE s.subject_type = NEW.subject_type AND s.subject_id = NEW.subject_id;
    action := '.deleted';
    task := NEW.task_id;  -- this and the document are compared with the row by its capture
    agrees := true;
  ELSIF true_version = 1 THEN
    action := '.created';
  ELSIF event ->> 'type' = NEW.subject_type || '.created' THEN  -- of an id that was deleted before
    PERFORM FROM tasks_tombstone s WHERE s.subject_type = NEW.subject_type AND s.subject_id = NEW.subject_id AND s.version = true_version - 1;
    action := CASE WHEN FOUND THEN '.created' ELSE '.updated' END;
  END IF;
  wrong := CASE
    WHEN made_in IS DISTINCT FROM pg_current_xact_id() THEN 'this transaction made no such change'
    WHEN NEW.version IS DISTINCT FROM true_version OR NEW.task_id IS DISTINCT FROM task THEN 'the change has another version or task'
    WHEN event ->> 'subject' IS DISTINCT FROM NEW.subject_type || '/' || NEW.subject_id
      OR event ->> 'sequence' IS DISTINCT FROM lpad(NEW.version::text, 20, '0')
      OR event ->> 'taskid' IS DISTINCT FROM NEW.task_id::text
      OR event ->> 'type' IS DISTINCT FROM NEW.subject_type || action
      OR (event ->> 'time')::timestamptz IS DISTINCT FROM moment
      OR event ->> 'source' IS DISTINCT FROM '/taskpulse/tasks'
      OR event ->> 'specversion' IS DISTINCT FROM '1.0' THEN 'its attributes say something else'
    WHEN agrees IS NOT TRUE THEN 'its data are not the row'
    WHEN NOT taskpulse_may_say(event) THEN 'an application names no such actor'
  END;
  -- The owner writes what he likes: he could drop this trigger as well. The capture and acts without a row come as the owner.
  IF wrong IS NOT NULL AND NOT pg_has_role((SELECT c.relowner FROM pg_class c WHERE c.oid = TG_RELID), 'USAGE') THEN
    PERFORM taskpulse_untrue(NEW.subject_type, NEW.subject_id, NEW.version, wrong);
  END IF;
  RETURN NEW;
END $body$ $function$, branches);
END $make$;

CREATE OR REPLACE FUNCTION taskpulse_audit(target regclass, kind text, document regproc, task_column text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  trigger_name text;
BEGIN
  EXECUTE format('ALTER TABLE %s ADD COLUMN IF NOT EXISTS changed_in xid8', target);
  EXECUTE format('CREATE TRIGGER taskpulse_1_decide BEFORE INSERT OR UPDATE OR DELETE ON %s FOR EACH ROW EXECUTE FUNCTION taskpulse_decide(%L)', target, kind);
  EXECUTE format('CREATE TRIGGER taskpulse_3_check AFTER INSERT ON %s FOR EACH ROW EXECUTE FUNCTION taskpulse_check_version(%L)', target, kind);
  EXECUTE format('CREATE CONSTRAINT TRIGGER taskpulse_4_capture AFTER INSERT OR UPDATE OR DELETE ON %s DEFERRABLE INITIALLY DEFERRED '
                 'FOR EACH ROW EXECUTE FUNCTION taskpulse_capture(%L, %L, %L)', target, kind, document, task_column);
  EXECUTE format('CREATE TRIGGER taskpulse_5_truncate BEFORE TRUNCATE ON %s FOR EACH STATEMENT EXECUTE FUNCTION taskpulse_refuse(%L)',
                 target, 'a TRUNCATE leaves no event: use DELETE');
  FOREACH trigger_name IN ARRAY ARRAY['taskpulse_1_decide', 'taskpulse_3_check', 'taskpulse_4_capture', 'taskpulse_5_truncate'] LOOP
    EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', target, trigger_name);
  END LOOP;
  PERFORM taskpulse_make_check();
END $$;
ALTER TABLE tasks_task ADD COLUMN changed_in xid8;
SELECT taskpulse_make_check();
ALTER TABLE tasks_outbox DROP CONSTRAINT tasks_outbox_payload_is_the_event;
CREATE TRIGGER taskpulse_true BEFORE INSERT ON tasks_outbox FOR EACH ROW EXECUTE FUNCTION taskpulse_check_event();
ALTER TABLE tasks_outbox ENABLE ALWAYS TRIGGER taskpulse_true;

-- The one way of a role without UPDATE on the outbox to let held rows go out again. Idempotent.
CREATE PROCEDURE tasks_outbox_release(ids bigint[], INOUT released bigint DEFAULT NULL) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  UPDATE tasks_outbox SET held_at = NULL, held_reason = NULL, published_at = NULL WHERE id = ANY (ids) AND held_at IS NOT NULL;
  GET DIAGNOSTICS released = ROW_COUNT;
END $$;

-- A function that anybody may execute anybody may hang on a table of his own, and a SECURITY DEFINER one then works for him:
-- a temporary table under taskpulse_capture would write events of changes that never were.
DO $$
DECLARE
  routine regprocedure;
BEGIN
  FOR routine IN SELECT p.oid FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
      AND (p.proname ~ '^(taskpulse|task)_' OR p.proname = 'tasks_outbox_release') LOOP
    EXECUTE format('REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC', routine);
  END LOOP;
END $$;
