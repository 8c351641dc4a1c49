-- Hashes and gzipped records do not compress: without the attempt they are written and read faster.
ALTER TABLE audit_tile ALTER COLUMN hashes SET STORAGE EXTERNAL;
ALTER TABLE audit_bundle ALTER COLUMN records SET STORAGE EXTERNAL;

-- What was signed is never taken back: no second checkpoint of a size, none smaller than one before, none beyond the log.
-- The lock makes two signers wait for one another; the look comes after it, with a snapshot of its own.
CREATE FUNCTION audit_checkpoint_grows() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(hashtext('audit_checkpoint'));
  PERFORM FROM audit_checkpoint WHERE log = NEW.log AND size >= NEW.size;
  IF FOUND THEN
    RAISE EXCEPTION 'a checkpoint of % entries is refused: one of as many or more is signed', NEW.size USING ERRCODE = 'check_violation';
  END IF;
  PERFORM FROM audit_log WHERE first_seq = NEW.log AND size >= NEW.size;
  IF NOT FOUND THEN
    RAISE EXCEPTION 'a checkpoint of % entries is refused: the log has fewer', NEW.size USING ERRCODE = 'check_violation';
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER audit_checkpoint_grows BEFORE INSERT ON audit_checkpoint FOR EACH ROW EXECUTE FUNCTION audit_checkpoint_grows();
ALTER TABLE audit_checkpoint ENABLE ALWAYS TRIGGER audit_checkpoint_grows;

DO $$
DECLARE
  name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['audit_checkpoint', 'audit_cosignature', 'audit_tile', 'audit_bundle'] LOOP
    EXECUTE format('CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON %I FOR EACH ROW EXECUTE FUNCTION audit_refuse()', name);
    EXECUTE format('CREATE TRIGGER audit_no_truncate BEFORE TRUNCATE ON %I FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse()', name);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER audit_append_only', name);
    EXECUTE format('ALTER TABLE %I ENABLE ALWAYS TRIGGER audit_no_truncate', name);
  END LOOP;
END $$;
