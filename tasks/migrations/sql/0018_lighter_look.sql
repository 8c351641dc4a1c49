-- What each change of a task pays: the look whether its event is true, and the capture that finds that there is one.

-- Makes the trigger of the outbox that holds each new event against the change that it tells of: the last version of the
-- row, else its tombstone (which holds no document: the capture of the deletion compares that). A branch for each audited
-- table is written out, so that nothing is planned anew for an event; tasks come first, since each condition on the way is
-- set up in each transaction, and their rows are looked for by the event's own column, whose type needs no look. A subject is
-- called as its key is written by PostgreSQL: under another spelling it would be a second subject with the same changes. The
-- payload is read once, for the check of its id too (a constraint would read it again).
CREATE OR REPLACE FUNCTION taskpulse_make_check() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $make$
DECLARE
  branches text;
BEGIN
  SELECT 'IF ' || string_agg(format($branch$NEW.subject_type = %1$L AND %5$s THEN
    SELECT t.version, t.updated_at, t.changed_in, %3$s, %2$s INTO true_version, moment, made_in, task, agrees
      FROM %4$s t WHERE t.id = %6$s;
  $branch$, argument[1],
      CASE WHEN to_regproc(argument[1] || '_agrees') IS NULL THEN format('%s(t) = told', argument[2])
           ELSE format('%I(t, told)', argument[1] || '_agrees') END,
      CASE WHEN argument[3] = '' THEN 'NULL::uuid' ELSE format('t.%I', argument[3]) END,
      target,
      CASE WHEN argument[3] = 'id' THEN 'NEW.subject_id = NEW.task_id::text' ELSE format('pg_input_is_valid(NEW.subject_id, %L)', key_type) END,
      CASE WHEN argument[3] = 'id' THEN 'NEW.task_id' ELSE format('NEW.subject_id::%s AND t.id::text = NEW.subject_id', key_type) END),
    'ELSIF ' ORDER BY argument[3] <> 'id', argument[1]) || 'END IF;' INTO branches
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
  END IF;
  %s
  IF NOT FOUND THEN
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
  -- Asked in a statement of its own, and only then: a condition with a subquery is run as a query.
  IF wrong IS NOT NULL THEN
    IF NOT pg_has_role((SELECT c.relowner FROM pg_class c WHERE c.oid = TG_RELID), 'USAGE') THEN
      PERFORM taskpulse_untrue(NEW.subject_type, NEW.subject_id, NEW.version, wrong);
    END IF;
  END IF;
  RETURN NEW;
END $body$ $function$, branches);
END $make$;
SELECT taskpulse_make_check();

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
  before jsonb;
  changed jsonb;
  task uuid;
BEGIN
  IF TG_OP = 'DELETE' THEN
    subject := OLD.id::text;
    next_version := OLD.version + 1;
    SELECT payload, task_id INTO written, written_task
      FROM tasks_outbox WHERE subject_type = kind AND subject_id = subject AND version = next_version;
    is_written := FOUND;
  ELSE
    -- The usual case, in as few expressions as it can be said in: each is set up anew in each transaction.
    PERFORM FROM tasks_outbox WHERE subject_type = kind AND subject_id = NEW.id::text AND version = NEW.version;
    IF FOUND OR (TG_OP = 'UPDATE' AND OLD.version = NEW.version) THEN
      RETURN NULL;
    END IF;
    subject := NEW.id::text;
    next_version := NEW.version;
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
    changed := '{}';
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
