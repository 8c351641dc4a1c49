-- The event of an act on a held row. Called by SECURITY DEFINER functions alone.
CREATE FUNCTION taskpulse_append_held(held tasks_outbox, action text) RETURNS void LANGUAGE plpgsql
SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  PERFORM taskpulse_append('audit.held', held.event_id::text, action, NULL, NULL, clock_timestamp(), jsonb_build_object(
    'changes', '{}'::jsonb, 'audit.held', jsonb_build_object('held_at', taskpulse_time(held.held_at), 'reason', held.held_reason,
      'subject', held.subject_type || '/' || held.subject_id, 'version', held.version)));
END $$;

-- The one way in which a held row goes out again: each leaves an event that says who let it, and rows and events go together.
-- Idempotent, also when two do it at once: who comes second finds none held. The order is the relay's (tasks/relay_queue.py).
CREATE OR REPLACE PROCEDURE tasks_outbox_release(ids bigint[], INOUT released bigint DEFAULT NULL) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  held tasks_outbox;
BEGIN
  released := 0;
  FOR held IN
    SELECT * FROM tasks_outbox o WHERE o.id = ANY (ids) AND o.held_at IS NOT NULL ORDER BY o.id FOR UPDATE
  LOOP
    UPDATE tasks_outbox SET held_at = NULL, held_reason = NULL, published_at = NULL WHERE id = held.id;
    PERFORM taskpulse_append_held(held, 'released');
    released := released + 1;
  END LOOP;
END $$;

-- That somebody was shown a held row's event is an act with an event too.
CREATE PROCEDURE tasks_outbox_look(row_id bigint) LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  held tasks_outbox;
BEGIN
  SELECT * INTO held FROM tasks_outbox o WHERE o.id = row_id AND o.held_at IS NOT NULL;
  IF FOUND THEN
    PERFORM taskpulse_append_held(held, 'viewed');
  END IF;
END $$;

-- The worker holds rows, and so has UPDATE of held_at: that it takes back no hold is kept here. The procedure comes as the owner.
CREATE FUNCTION taskpulse_keep_held() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog, public, pg_temp AS $$
BEGIN
  IF NOT pg_has_role((SELECT c.relowner FROM pg_class c WHERE c.oid = TG_RELID), 'USAGE') THEN
    RAISE EXCEPTION 'a held row is released by tasks_outbox_release() alone' USING ERRCODE = 'insufficient_privilege';
  END IF;
  RETURN NEW;
END $$;
REVOKE EXECUTE ON FUNCTION taskpulse_keep_held(), taskpulse_append_held(tasks_outbox, text) FROM PUBLIC;
REVOKE EXECUTE ON PROCEDURE tasks_outbox_look(bigint) FROM PUBLIC;
CREATE TRIGGER taskpulse_held BEFORE UPDATE OF held_at ON tasks_outbox
  FOR EACH ROW WHEN (OLD.held_at IS NOT NULL AND NEW.held_at IS NULL) EXECUTE FUNCTION taskpulse_keep_held();
ALTER TABLE tasks_outbox ENABLE ALWAYS TRIGGER taskpulse_held;
