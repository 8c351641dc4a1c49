-- Rows are inserted once and deleted after a day, never updated: full pages (the default fillfactor) suit them. A twentieth
-- dead, some hours' worth, is vacuumed: at the default fifth the table would be a fifth larger than what it holds.
ALTER TABLE tasks_kept_answer SET (autovacuum_vacuum_scale_factor = 0.05);

-- Deletes the kept answers to a person, and those that name him or a task; how many. Their retries are then done anew. For
-- erasure (`redact_audit`), so the owner's, as audit_redact: SECURITY DEFINER, so that he may let a role do it that can do
-- nothing else. A body that is no JSON is taken to name anybody.
CREATE FUNCTION tasks_forget_answers(actor text, task uuid) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, public, pg_temp AS $$
DECLARE
  forgotten bigint;
BEGIN
  IF (actor IS NULL) = (task IS NULL) THEN
    RAISE EXCEPTION 'name an actor or a task' USING ERRCODE = 'invalid_parameter_value';
  END IF;
  DELETE FROM tasks_kept_answer k WHERE k.user_id::text = actor OR CASE
    WHEN octet_length(k.body) = 0 THEN false
    WHEN NOT pg_input_is_valid(convert_from(k.body, 'UTF8'), 'jsonb') THEN true
    WHEN task IS NOT NULL THEN jsonb_path_exists(convert_from(k.body, 'UTF8')::jsonb, 'strict $.** ? (@ == $id)', jsonb_build_object('id', task))
    ELSE jsonb_path_exists(convert_from(k.body, 'UTF8')::jsonb, 'strict $.** ? (@.id == $id && exists (@.name))', jsonb_build_object('id', actor))
  END;
  GET DIAGNOSTICS forgotten = ROW_COUNT;
  RETURN forgotten;
END $$;
REVOKE EXECUTE ON FUNCTION tasks_forget_answers(text, uuid) FROM PUBLIC;
